"""All that the commands leave: results of a fit, predictions, samples."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from jdiffclust import added, deciding, decisions, exploring, inspection
from jdiffclust.added import Added
from jdiffclust.clustering.generation import (
    NUM_STEPS, reconstruct, sample_clusters, walk)
from jdiffclust.clustering.method import latents_of
from jdiffclust.clustering.restoring import groups_of
from jdiffclust.clustering.starts.edges import orientations
from jdiffclust.clustering.starts.embedded import comparison_of
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.partitions import kmeans
from jdiffclust.clustering.starts.sample import (
    fit_sample, partition, sample_embeddings, sample_indices)
from jdiffclust.config import FULL, NEIGHBOURS, QUICK, copied, from_json, to_json
from jdiffclust.data.by_name import images_of
from jdiffclust.data.dataset import (
    ImageSource, embeddings_at, files_source, images_at, load_source)
from jdiffclust.data.fingerprint import reordered
from jdiffclust.data.passes import weighted_means
from jdiffclust.data.sources.folder import folder_of
from jdiffclust.decisions import Decisions
from jdiffclust.diffusion.likelihood import log_probability
from jdiffclust.evaluation import (
    features, foreign, gallery, latent_space, sample_quality)
from jdiffclust.evaluation.diagnostics import bits_per_dimension, small_groups
from jdiffclust.evaluation.latent_space import LatentResults
from jdiffclust.errors import WRITES_IT, UserError, on_one_line
from jdiffclust.fitted import (
    DAMAGE, Fitted, check_like_the_fit, data_like_the_fit, load, pipeline_of, tell_of,
    units_of, unread_by_sampler)
from jdiffclust.inverse import operators
from jdiffclust.inverse.operators import Operator
from jdiffclust.progress import Reporter
from jdiffclust.registry import EMBEDDINGS
from jdiffclust.report import (
    check, explorer, figures, restored, results, spreadsheet, thumbnails)
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import integer_seed
from jdiffclust.workdir import command_of, is_main_process

# Partitions that a result is set beside.
BASELINES = ('kmeans', 'gaussian_mixture')
BASELINE_IMAGES = 20000  # that they are fitted to, at most
OF_EMBEDDINGS = 'kmeans_of_embeddings'  # where images have some
# Real images that generated ones are compared with, at most.
QUALITY_IMAGES = 5000
# What new images are compared with, in the folder of the fit.
REFERENCE = 'foreign.npz'
# All that is known of each new image, .csv and .parquet.
NEW_RESULTS = 'results_new'
MOST_TOLD = 20  # new images, of which the command itself tells the clusters
# Images that are reconstructed from their latents, and walks between clusters.
NUM_RECONSTRUCTED, NUM_WALKS = 12, 5
# Of the history: what the report shows of the latents, by their names there.
LATENT_TERMS = {
    'KL(q(c | x) || pi), nats': 'latent_categorical_kl',
    'KL(q(z | x) || p(z | c)), nats': 'latent_gaussian_kl',
    'Log-likelihood of the mixture, nats': 'latent_log_likelihood',
    'Dimensions of z in use': 'latent_active_dimensions',
    'Standard deviation of q(z | x)': 'latent_deviation'}


# ------------------------------------------------------------------- a fit's results


def generate(fitted: Fitted, count: int, reporter: Reporter, name: str) -> np.ndarray:
  """`count` images of each cluster, by the sampler of the config: [Q, n, H, W, C].

  Args:
    fitted: the fit.
    count: n.
    reporter: shows progress.
    name: what the progress calls it.
  """
  options = copied(fitted.config).sample
  # Of the sampler's options those that say how, not of which clusters.
  options.interpolate = options.trajectory = 0
  options.num_images = count
  number = fitted.config.num_clusters
  with reporter.task(name, number * count, 'images') as task:
    return sample_clusters(fitted.method, fitted.params, range(number), options,
                           task).images


def draw_check(found: inspection.Inspection, source: ImageSource, path) -> None:
  """Draws some of the images, and those of each kind, as they are seen: a PNG."""
  figures.save_figure(check.check(inspection.tiles(found, source)), path)


class Parts(NamedTuple):
  """What results are made by; others may be handed in.

  Attributes:
    draw_check: as `draw_check`.
    draw_figures: as `results.draw_figures`.
    generate: as `generate`.
    spread: as `gallery.spread`.
  """

  draw_check: Callable = draw_check
  draw_figures: Callable = results.draw_figures
  generate: Callable = generate
  spread: Callable = gallery.spread


def write_outputs(fitted: Fitted, source: ImageSource, workdir: pathlib.Path,
                  reporter: Reporter, with_quality: bool = False,
                  parts: Parts = Parts()) -> dict | None:
  """Baselines, samples and perhaps their quality, summary, figures and page of a fit.

  Args:
    fitted: the fit.
    source: its images.
    workdir: the folder to write in.
    reporter: shows progress.
    with_quality: whether generated images are compared with real ones.
    parts: what the results are made by.

  Returns:
    The summary, as written; None in processes that do not write.
  """
  began = time.perf_counter()
  config, method, progress = fitted.config, fitted.method, fitted.progress
  decided = decisions.read(workdir, config.num_clusters, source.ids,
                           added.ids_in(workdir)).of(slice(source.num_images))
  pipeline = pipeline_of(method, source)
  baselines = baselines_of(fitted, source, reporter)
  notes = small_group_notes(fitted, source, baselines)
  samples = (np.zeros((config.num_clusters, 0, *method.image_shape), np.float32)
             if fitted.start_alone else
             parts.generate(fitted, config.sample.num_images, reporter, 'samples'))
  members = np.eye(config.num_clusters, dtype=np.float32)[fitted.clusters]
  means = to_host(weighted_means(pipeline, np.arange(source.num_images),
                                 replicate(members, method.mesh),
                                 config.e_step.batch_size))
  latents = (latent_results(fitted, source, pipeline, reporter)
             if method.has_latents and not fitted.start_alone else None)
  wall_seconds = progress['wall_seconds'] + time.perf_counter() - began
  judged = (parts.generate(fitted, config.quality.num_images, reporter,
                           'samples to judge') if with_quality else None)
  before, weights = added.read(workdir), weights_of(fitted)
  if before is not None and before.weights != weights:
    before = before._replace(told=np.zeros(len(before.ids), bool), weights=weights)
  again = [] if before is None else told_again(fitted, before, reporter)
  if not is_main_process():
    return None
  verdict = keep_reference(fitted, source, workdir, reporter)
  quality = None if judged is None else measure_quality(fitted, source, judged, reporter)
  outputs = results.Results(
      responsibilities=fitted.responsibilities, start=fitted.start,
      baselines=baselines, bound=fitted.bound, means=means, samples=samples,
      history=fitted.history, noise_bands=method.noise_bands(),
      facts=facts_of(fitted, source, workdir, wall_seconds, notes), choice=fitted.choice,
      quality=quality, latents=latents, names=decided.of_the_model)
  summary, drawn = results.write_results(
      workdir, outputs, source, lambda indices: images_at(source, indices),
      source.labels, reporter.warning, draw=parts.draw_figures)
  known = exploring.gallery_of(fitted.recogniser, source, config.seed, reporter,
                               parts.spread)
  gallery.write(workdir / gallery.FILE, known)
  check_split_images(decided, known, workdir, reporter)
  beside = exploring.of_the_run(known)
  if before is not None:
    for part in again:
      before = with_told(before, part, fitted, known, workdir, reporter)
  added.write(workdir, before)
  own = columns_of(fitted, source, fitted.responsibilities, fitted.bound, verdict,
                   config.predict.foreign_share, beside, None, decided, added=False)
  table = deciding.with_added(own, known, before)
  of_all = deciding.decided_of(workdir, config.num_clusters, table)
  columns = deciding.write_table(workdir, table, of_all)
  sheets = thumbnails_of(source, own, means, samples, workdir, reporter)
  results.write_page(
      workdir, summary, drawn, config.to_dict(), fitted.responsibilities,
      deciding.explored(workdir, table, columns, of_all, known, sheets))
  repeated, exact = beside.copies.of >= 0, beside.copies.exact
  if repeated.any():
    which = ('1 image repeats another' if repeated.sum() == 1 else
             f'{repeated.sum():,} images repeat others')
    reporter.line(f'{which}, {exact.sum():,} of them to the pixel: duplicate_of in '
                  f'{deciding.RESULTS}.csv')
  sizes = np.bincount(columns['cluster'], minlength=len(decided.names)).tolist()
  decisions.write_templates(workdir, sizes if len(decided.splits.clusters) else
                            summary['cluster_sizes'])
  return summary


def thumbnails_of(source: ImageSource, columns, means: np.ndarray, samples: np.ndarray,
                  workdir: pathlib.Path, reporter: Reporter) -> dict:
  """Makes and keeps the pictures of the page: thumbnails.npz.

  Args:
    source: the images of the fit.
    columns, means, samples: see `explorer.make_sheets`.
    workdir: the folder to write in.
    reporter: shows progress.
  """
  before = thumbnails.read(workdir / explorer.FILE, explorer.OF_IMAGES) or {}
  sides, known = {}, {}
  for name, (rows, side) in explorer.asked_of(columns).items():
    sides[name] = side
    if name in before and len(before[name].rows) == len(rows):  # of the same side, then
      known[side] = before[name]
  unfinished = any(one.missing.any() for one in known.values())
  with reporter.task('thumbnails', 1, 'pages') as task:
    originals = exploring.Originals(source, known if unfinished else None)
    sheets = explorer.make_sheets(columns, originals, means, samples)
    for name in explorer.OF_IMAGES:
      sheets[name] = exploring.as_known(sheets[name], sides[name], originals)
    thumbnails.write(workdir / explorer.FILE, sheets)
    task.advance(1)
  missing = sheets['images'].missing
  if missing.any():
    reporter.warning(
        f'{missing.sum():,} of {len(missing):,} thumbnails of the report are not of the '
        'original files, which are gone, or took more than '
        f'{exploring.SECONDS} s to read once more: they are as the run sees the images, '
        'or grey. The same command, given again, goes on with them.')
  return sheets


def check_split_images(decided: Decisions, known: gallery.Gallery, workdir,
                       reporter: Reporter) -> None:
  """Tells of images that have changed since a person has split their clusters."""
  if not len(decided.splits.clusters):
    return
  changed = np.flatnonzero(decided.splits.digests != known.digests)
  if len(changed):
    reporter.warning(
        f'{len(changed)} images, such as {known.ids[changed[0]]!r}, look otherwise than '
        'when a cluster was split by hand: they stay in the parts that they had. '
        f'--mode=decide --unsplit --workdir={workdir} takes the split back.')


def columns_of(fitted: Fitted, source: ImageSource, responsibilities: np.ndarray,
               bound: np.ndarray, verdict: foreign.Verdict | None, share: float,
               beside: exploring.Beside, known_ids: Sequence[str] | None,
               decided: Decisions, added: bool | None) -> spreadsheet.Columns:
  """All that is known of images, by column.

  Args:
    fitted: the fit.
    source: n images, of the fit or new ones.
    responsibilities, bound: of these, [n, Q] and [n].
    verdict: how unusual they are; None: unknown.
    share: the false alarm rate of `foreign`.
    beside: what is near them among the run's images.
    known_ids: of the run's images; None: they are these.
    decided: by hand.
    added: see `spreadsheet.columns_of`.
  """
  labels = (None if source.labels is None else
            results.label_texts(source.labels, source.label_names))
  return spreadsheet.columns_of(
      source.ids, responsibilities, bound, decided,
      deciding.share_below(bound, fitted.bound),
      verdict and (verdict.p_values <= share, verdict.reasons), beside, known_ids,
      labels, source.metadata, exploring.pictures_of(source), added)


def baselines_of(fitted: Fitted, source: ImageSource,
                 reporter: Reporter) -> dict[str, np.ndarray]:
  """The clusters [N] that simpler methods find, by name."""
  config, found = fitted.config, {}
  pixels = dataclasses.replace(source, embeddings=None)
  with reporter.task('baselines', len(BASELINES), 'baselines') as task:
    most = min(config.start.max_images, BASELINE_IMAGES)
    sample = fit_sample(source, most, config.seed)
    for name in BASELINES:
      if name == fitted.progress['start']:  # the same fit, from the same seed
        tau = fitted.start
      else:
        tau = partition(fit_start(name, sample, source.image_shape, config), pixels)
      found[name] = tau.argmax(axis=1)
      task.advance(1)
  if source.embeddings is not None:
    found[OF_EMBEDDINGS] = kmeans_of_embeddings(source, config)
  return found


def kmeans_of_embeddings(source: ImageSource, config) -> np.ndarray:
  """The clusters [N] that K-means finds in the embeddings, as the start compares them."""
  options, seed = config.start, config.seed
  most = min(options.max_images, BASELINE_IMAGES)
  sample = np.asarray(sample_embeddings(source, most, seed))
  compare = comparison_of(sample, options)
  with threadpool_limits(1):  # as for every start
    assign = kmeans(compare(sample), config.num_clusters, options.restarts,
                    integer_seed(seed, 'init'))
    blocks = np.array_split(np.arange(source.num_images), -(-source.num_images // 4096))
    return np.concatenate([
        assign(compare(np.asarray(embeddings_at(source, rows))), rows)
        for rows in blocks]).argmax(axis=1)


def small_group_notes(fitted: Fitted, source: ImageSource,
                      baselines: dict[str, np.ndarray]) -> list[str]:
  """Tells of groups that are too small to be seen by their neighbourhoods.

  Not where embeddings decide, which the start that is advised does not look at.
  """
  if OF_EMBEDDINGS in baselines:
    return []
  return [f'K-means has a group of {len(group)} images '
          f"({', '.join(source.ids[i] for i in group)}) that is part of a larger cluster "
          'here: so few are not seen by their neighbourhoods. If they belong together, '
          'try --config.start.kind=kmeans.'
          for group in small_groups(fitted.clusters, baselines['kmeans'])]


def facts_of(fitted: Fitted, source: ImageSource, workdir: pathlib.Path,
             wall_seconds: float, notes: Sequence[str] = ()) -> dict:
  """The entries of the summary that no result decides.

  Args:
    fitted: the fit.
    source: its images.
    workdir: the folder of the run.
    wall_seconds: of the run.
    notes: what else a person should know.
  """
  config, progress = fitted.config, fitted.progress
  # Where the run began by an earlier version: advice of any iteration, not of the end.
  passing = {f"EM {record['iteration']}: {text}" for record in fitted.history
             for text in record.get('advice', {}).values()}
  devices, seconds = fitted.method.mesh.devices.flat, progress['train_seconds']
  skipped = len(source.skipped)
  return {
      'dataset': source.name, 'num_images': source.num_images,
      'image_shape': list(source.image_shape), 'method': config.method,
      'num_clusters': config.num_clusters, 'seed': config.seed,
      'symmetries': fitted.symmetries,
      'embeddings': None if source.embeddings is None else {
          'size': source.embeddings.shape[1], 'beside': [
              name for name in config.start.spaces if name != EMBEDDINGS],
          'distance': config.start.embeddings_distance},
      'input': inspection.of_run(workdir, source, config.data),
      'command': command_of(workdir),
      'effort': QUICK if fitted.start_alone else FULL,
      'agreement': fitted.agreement,
      'bought': None if fitted.start_alone else bought(fitted),
      'init_method': progress['start'], 'init_trials': progress['starts'],
      'stop_reason': progress['stop_reason'],
      'advice': dict(fitted.advice),
      'warnings': [text for text in progress['warnings'] if text not in passing] + (
          [f'{skipped} unreadable files were skipped'] if skipped else [])
                  + [*source.notes, *notes],
      'train_images_per_second': progress['train_images'] / seconds if seconds else None,
      'e_step_evaluations_per_second': progress['e_step_evaluations_per_second'],
      'waiting_share': progress.get('waiting_share'),
      'wall_seconds': wall_seconds,
      'peak_memory_mib': peak_memory_mib(),
      'devices': [f'{device.platform}:{device.device_kind}' for device in devices],
  }


def bought(fitted: Fitted) -> dict:
  """What the diffusion model has added to the clusters of the start."""
  clusters, last = fitted.clusters, fitted.history[-1]
  moved = int(np.sum(fitted.start.argmax(axis=1) != clusters))
  bounds = [fitted.history[0]['bound_bits_per_dim'], last['bound_bits_per_dim']]
  text = (f'What the diffusion model has added: {moved:,} of {len(clusters):,} images '
          f'({moved / len(clusters):.1%}) belong to another cluster than at the start; '
          f'an image takes {bounds[1]:.3f} bits per dimension, {bounds[0]:.3f} in the '
          'first round. It tells how likely images are, draws new ones and restores '
          'damaged ones.')
  return {'moved_images': moved, 'moved_share': moved / len(clusters),
          'bound_bits_per_dim': bounds, 'iterations': len(fitted.history), 'text': text}


def peak_memory_mib() -> float:
  """The largest resident memory this process has had, in MiB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (2**20 if sys.platform == 'darwin' else 2**10)  # macOS counts bytes


def small_images(source: ImageSource, indices) -> np.ndarray:
  """Images of some indices, [n], as `foreign` compares them."""
  blocks = np.array_split(np.asarray(indices), -(-len(indices) // foreign.BLOCK))
  return np.concatenate([foreign.smaller(images_at(source, block)) for block in blocks])


@functools.lru_cache
def maps_of(image_shape) -> dict[str, features.FeatureMap]:
  """The features by which `foreign` compares images of a shape (h, w, C)."""
  edges = jax.jit(jax.vmap(lambda image: orientations(image).reshape(-1)))
  return {'edges': features.in_batches(edges),
          'texture': features.random_encoder(image_shape)}


def keep_reference(fitted: Fitted, source: ImageSource, workdir: pathlib.Path,
                   reporter: Reporter) -> foreign.Verdict | None:
  """Writes what new images are compared with: foreign.npz; not of fewer than 4 images.

  Args:
    fitted: the fit.
    source: its images.
    workdir: the folder to write in.
    reporter: shows progress.

  Returns:
    How unusual the fit's own images are; None: there are fewer than 4.
  """
  path, seed = pathlib.Path(workdir) / REFERENCE, fitted.config.seed
  if source.num_images < foreign.FEWEST_IMAGES:
    path.unlink(missing_ok=True)
    return None
  rows = sample_indices(source.num_images, foreign.MOST_IMAGES, seed)
  with reporter.task('reference for new images', 1, 'references') as task:
    images, halves = small_images(source, rows), integer_seed(seed, 'foreign')
    reference = foreign.make_reference(images, maps_of(images.shape[1:]), halves)
    foreign.write_reference(path, reference)
    task.advance(1)
  members = np.concatenate([rows[half] for half in foreign.halves(len(rows), halves)])
  others = np.setdiff1d(np.arange(source.num_images), members)
  parts = [foreign.judge_members(reference)]
  if len(others):
    parts.append(judge_by(reference, source, others, reporter))
  order = np.argsort(np.concatenate([members, others]))
  reasons = [why for part in parts for why in part.reasons]
  return foreign.Verdict(np.concatenate([part.p_values for part in parts])[order],
                         [reasons[place] for place in order])


def measure_quality(fitted: Fitted, source: ImageSource, generated: np.ndarray,
                    reporter: Reporter) -> sample_quality.Quality:
  """Compares generated images with real ones, as config.quality says.

  Args:
    fitted: the fit.
    source: its images.
    generated: [Q, n, H, W, C].
    reporter: for progress.
  """
  config, options = fitted.config, fitted.config.quality
  params = to_host(fitted.params)
  indices = sample_indices(source.num_images, QUALITY_IMAGES, config.seed)
  if len(indices) // 2 <= NEIGHBOURS:
    reporter.warning(f'{source.num_images} images are too few to compare samples with, '
                     f'by {NEIGHBOURS} neighbours.')
  real = sample_quality.RealImages(
      images_at(source, indices), fitted.clusters[indices],
      None if source.labels is None else source.labels[indices], indices)
  maps = {'random encoder': features.random_encoder(fitted.method.image_shape),
          'pca': features.pca(real.images), **fitted.method.feature_maps(params)}
  blocks = (images_at(source, block) for block in np.array_split(
      np.arange(source.num_images), -(-source.num_images // 1024)))
  with reporter.task('sample quality', 1 + options.splits, 'parts') as task:
    return sample_quality.measure(
        real, generated, np.exp(params.log_proportions), blocks, maps, source.levels,
        NEIGHBOURS, options.splits, integer_seed(config.seed, 'quality'),
        lambda: task.advance(1))


def latent_results(fitted: Fitted, source: ImageSource, pipeline,
                   reporter: Reporter) -> LatentResults:
  """All that the report shows of latents.

  Args:
    fitted: a fit of a method with latents.
    source: its images; labels are scored only.
    pipeline: of the same.
    reporter: shows progress.
  """
  config, method, params = fitted.config, fitted.method, fitted.params
  options = copied(config).sample
  options.interpolate = options.trajectory = 0
  means, _ = latents_of(method, params, pipeline, reporter)
  chosen = np.unique(np.linspace(0, len(means) - 1, NUM_RECONSTRUCTED, dtype=int))
  ways = [(q, q + 1) for q in range(min(NUM_WALKS, config.num_clusters - 1))]
  with reporter.task('images from latents', len(chosen) + NUM_STEPS * len(ways),
                     'images') as task:
    images = reconstruct(method, params, means[chosen], options, task)
    found: dict[str, Any] = {'reconstructions': (images_at(source, chosen), images)}
    if ways:
      tau = fitted.responsibilities
      sizes = np.maximum(tau.sum(axis=0), 1e-6)[:, None]
      centres = (tau.T @ means / sizes).astype(np.float32)
      first, last = (centres[[way[end] for way in ways]] for end in (0, 1))
      found['walk'] = walk(method, params, first, last, options, task), ways
  found['terms'] = {name: [line.get(key) for line in fitted.history]
                    for name, key in LATENT_TERMS.items()}
  with reporter.task('map of the latents', 1, 'maps') as task:
    measured = latent_space.measure(
        means, fitted.responsibilities, source.labels,
        lambda indices: images_at(source, indices),
        integer_seed(config.seed, 'latent_map'))
    task.advance(1)
  return measured._replace(**found)


# ------------------------------------------------------ what is asked of a fit later


def write_predictions(fitted: Fitted, source: ImageSource, workdir: pathlib.Path, options,
                      reporter: Reporter) -> str | None:
  """Assigns new images to the clusters: predictions.csv.

  Args:
    fitted: the fit.
    source: new images.
    workdir: the folder to write in.
    options: the section `predict` of a config.
    reporter: shows progress.

  Returns:
    What to tell of it; None in processes that do not write.
  """
  workdir = pathlib.Path(workdir)
  known = gallery.read(workdir / gallery.FILE)
  decided = decisions.read(workdir, fitted.config.num_clusters)
  tau, bound = told_and_bound(fitted, source, reporter)
  densities = (fitted.log_density(source, options, reporter) if options.likelihood
               else None)
  if not is_main_process():
    return None
  path = workdir / 'predictions.csv'
  typicality = deciding.share_below(bound, fitted.bound)
  verdict = judge_all(source, workdir, unusual_by_bound(fitted, bound),
                      options.foreign_share, reporter)
  alien = verdict.p_values <= options.foreign_share
  known_bound = np.isfinite(bound)
  further = {'bound': [f'{value:.2f}' * bool(has)
                       for value, has in zip(bound, known_bound)],
             'typicality': [f'{value:.4f}' * bool(has)
                            for value, has in zip(typicality, known_bound)],
             'foreign': [('no', 'yes')[value] for value in alien.astype(int)],
             'why': [why * bool(yes) for why, yes in zip(verdict.reasons, alien)]}
  count = source.num_images
  message = (f"{count:,} image{'s' * (count != 1)} of {source.name} assigned, "
             f'{alien.sum():,} of them foreign to all clusters: {path}'
             + in_place_of(path))
  ending = told_by(fitted, source)
  if densities is not None:
    size = np.prod(fitted.method.image_shape)
    likelihood = log_probability(densities.mixture, size, fitted.method.levels)
    further |= {'log_likelihood': [f'{value:.2f}' for value in likelihood],
                'log_likelihood_error': [f'{v:.2f}' for v in densities.standard_error]}
    bits = [bits_per_dimension(np.mean(values, dtype=np.float64), size)
            for values in (bound, likelihood)]
    ending += ('\nBits per dimension, mean: {:.3f} by the bound, {:.3f} by the '
               'probability-flow ODE'.format(*bits))
  results.write_assignments(path, source.ids, tau, source.labels, source.label_names,
                            further)
  tables = [workdir / f'{NEW_RESULTS}{ending}' for ending in ('.csv', '.parquet')]
  if known is None:
    without(tables)
    reporter.warning(f'{workdir} has no {gallery.FILE}, or a damaged one, by which '
                     f'{NEW_RESULTS}.csv would tell neighbours: that is not written. Of '
                     f'{gallery.FILE}: {WRITES_IT}.')
    return message + ending
  beside = exploring.look_at(fitted.recogniser, known, source, reporter)
  columns = columns_of(fitted, source, tau, bound, verdict, options.foreign_share, beside,
                       known.ids.tolist(), decided.for_others(beside.near, beside.away),
                       added=None)
  spreadsheet.write_csv(tables[0], columns)
  spreadsheet.write_parquet(tables[1], columns)
  few = range(source.num_images) if source.num_images <= MOST_TOLD else ()
  told = [f"{columns['probability'][row]:7.1%}  {columns['name'][row]:<20}  "
          f"{columns['file'][row]}" + '  (foreign)' * bool(alien[row]) for row in few]
  told = list(map(on_one_line, told))
  return '\n'.join([*told, f'{message}; all that is known of each: '
                    f'{workdir / NEW_RESULTS}.csv, .parquet{ending}'])


def weights_of(fitted: Fitted) -> str:
  """A text that tells the weights of a fit from others."""
  leaves = jax.tree.leaves(to_host(fitted.params))
  known = [] if fitted.recogniser is None else [fitted.recogniser.features]
  digest = hashlib.blake2b(digest_size=16)
  for leaf in (*leaves, *known):
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def told_and_bound(fitted: Fitted, source: ImageSource,
                   reporter: Reporter) -> tuple[np.ndarray, np.ndarray]:
  """Responsibilities [n, Q] and bounds [n] of new images; after the start alone NaN."""
  if fitted.start_alone:
    tau = fitted.tell(source, reporter)
    return tau, np.full(len(tau), np.nan, np.float32)
  found = fitted.assign(source, reporter)
  return found.responsibilities, np.asarray(found.info.bound)


def unusual_by_bound(fitted: Fitted, bound: np.ndarray) -> np.ndarray:
  """The share of the fit's images whose bound is as low as each, [n]; 1 if unknown."""
  if fitted.start_alone:
    return np.ones(len(bound))
  return foreign.p_values(-fitted.bound, -bound)


class Told(NamedTuple):
  """New images, and what the model says of them.

  Attributes:
    source: the images.
    rows: of an `Added`, whose images they are, int [n].
    responsibilities, bound: of `told_and_bound`.
    share: the false alarm rate of `foreign`.
  """

  source: ImageSource
  rows: np.ndarray
  responsibilities: np.ndarray
  bound: np.ndarray
  share: float


def told_again(fitted: Fitted, before: Added, reporter: Reporter) -> list[Told]:
  """The images that were added to a run and are yet to be told; a part each batch.

  Those whose files cannot be read any more are left out, and a line tells of them.
  """
  found, gone = [], []
  for batch, how in enumerate(before.sources):
    rows = np.flatnonzero((before.batches == batch) & ~before.told)
    if not len(rows):
      continue
    try:
      data = data_like_the_fit(fitted, from_json(how['config']).data)
      source = load_source(data, for_fit=False, rendering=fitted.rendering,
                           finest=fitted.finest)
      check_like_the_fit(fitted, source, reporter)
      place = {name: row for row, name in enumerate(source.ids)}
      there = np.isin([before.names[row] for row in rows.tolist()], source.ids)
      if there.any():
        part = reordered(source, np.array([place[before.names[row]]
                                           for row in rows[there].tolist()]))
        found.append(Told(part, rows[there], *told_and_bound(fitted, part, reporter),
                          how['share']))
    except UserError as error:
      reporter.warning(f'Images that were added cannot be read: {error}')
      there = np.zeros(len(rows), bool)
    gone += [before.ids[row] for row in rows[~there]]
  if gone:
    reporter.warning(
        f'{len(gone)} of {len(before.ids)} images that were added are not there any '
        f'more, such as {gone[0]!r}: the results are without them. Bring them back and '
        'give this command again; --mode=add --undo takes the last ones back.')
  return found


def with_told(before: Added, part: Told, fitted: Fitted, known: gallery.Gallery,
              workdir: pathlib.Path, reporter: Reporter) -> Added:
  """Images that were added, some more of them told by the weights of now."""
  looks = exploring.looks_of(fitted.recogniser, known.mean, known.components, part.source,
                             reporter)
  now = describe_added(part, looks, fitted, workdir, reporter)
  changed: dict[str, Any] = {'told': before.told.copy()}
  changed['told'][part.rows] = True
  for name in ('responsibilities', 'bound', 'foreign', 'features', 'signatures',
               'digests'):
    changed[name] = getattr(before, name).copy()
    changed[name][part.rows] = getattr(now, name)
  for name in ('reasons', 'pictures', 'originals'):
    changed[name] = list(getattr(before, name))
    for row, cell in zip(part.rows, getattr(now, name)):
      changed[name][row] = cell
  return before._replace(**changed)


def describe_added(part: Told, looks: exploring.Looks, fitted: Fitted,
                   workdir: pathlib.Path, reporter: Reporter) -> Added:
  """All that is kept of images that are added; ids and sources are yet to come."""
  source, bound = part.source, part.bound
  count = source.num_images
  verdict = judge_all(source, workdir, unusual_by_bound(fitted, bound), part.share,
                      reporter)
  labels = ([''] * count if source.labels is None else
            results.label_texts(source.labels, source.label_names))
  with reporter.task('thumbnails', 1, 'batches') as task:
    originals = exploring.originals_of(source)
    task.advance(1)
  gone = min(count, exploring.MOST_SHOWN) - sum(map(bool, originals))
  if gone:
    reporter.warning(f'{gone:,} thumbnails of images that are added are not of the '
                     'original files, which are gone, or took more than '
                     f'{exploring.SECONDS} s to read once more: they are as the run sees '
                     'the images.')
  return Added(
      ids=source.ids, names=source.ids, batches=np.zeros(count, int),
      told=np.ones(count, bool), responsibilities=part.responsibilities,
      bound=bound, foreign=verdict.p_values <= part.share, reasons=verdict.reasons,
      features=looks.features, signatures=looks.signatures, digests=looks.digests,
      labels=[label or None for label in labels],
      metadata=[dict(zip(source.metadata, cells)) for cells in zip(
          *source.metadata.values())] if source.metadata else [{}] * count,
      pictures=exploring.pictures_of(source) or [None] * count, originals=originals,
      sources=[], weights=weights_of(fitted))


def add_images(fitted: Fitted, source: ImageSource, workdir: pathlib.Path, config,
               reporter: Reporter) -> str | None:
  """Adds images to a finished run: they stand in its results from then on.

  Args:
    fitted: the fit.
    source: the images.
    workdir: the folder of the fit.
    config: by which they are read again when the weights have changed.
    reporter: shows progress.

  Returns:
    What to tell of it; None in processes that do not write.

  Raises:
    UserError: the fit has left nothing to set them beside.
  """
  workdir, share = pathlib.Path(workdir), config.predict.foreign_share
  before, table = added.read(workdir), deciding.read_table(workdir)
  known = deciding.read_gallery(workdir, table.ids)
  if before is not None and before.weights != weights_of(fitted):
    raise UserError(f'The results in {workdir} are by other weights than the newest '
                    'checkpoint: run --mode=evaluate first.')
  looks = exploring.looks_of(fitted.recogniser, known.mean, known.components, source,
                             reporter)
  there = set(zip(known.ids.tolist(), known.digests.tolist()))
  if before is not None:
    there |= set(zip(before.names, before.digests.tolist()))
  again = np.array([pair in there for pair in
                    zip(source.ids, looks.digests.tolist())])
  told = f'{again.sum():,} images of {source.name} are in the run already, by name and '
  height, width = source.seen.image_shape[:2]
  told += f'to the pixel (of {height}x{width}), and are not added again'
  if again.all():
    if not is_main_process():
      return None
    shown = set(table.others)
    if before is None or shown.issuperset(before.of(before.told).ids):
      return f'{told}: nothing is changed.'
    table = deciding.with_added(table.own, known, before)  # a command was cut off
    columns = deciding.rewrite(workdir, table, deciding.decided_of(
        workdir, fitted.config.num_clusters, table))
    return (f'{told}; {workdir / deciding.RESULTS}.csv and .parquet, which were without '
            f'some of them, have {len(columns["file"]):,} images now')
  if again.any():
    reporter.line(told)
    source = reordered(source, np.flatnonzero(~again))
    # To the bits that `predict` has of these alone: sums depend on the batch.
    looks = exploring.looks_of(fitted.recogniser, known.mean, known.components, source,
                               reporter)
  tau, bound = told_and_bound(fitted, source, reporter)
  if not is_main_process():
    return None
  new = describe_added(Told(source, np.arange(source.num_images), tau, bound, share),
                       looks, fitted, workdir, reporter)
  sources = [] if before is None else before.sources
  folder = folder_of(config.data.source, config.data.path)
  called = (folder.name if folder else
            pathlib.Path(config.data.path).stem or config.data.source)
  new = new._replace(
      ids=added.distinct(source.ids, [*table.ids, *(before.ids if before else ())],
                         called),
      batches=np.full(source.num_images, len(sources)), sources=[
          {'config': to_json(config), 'share': share,
           'folder': folder and str(folder)}])
  renamed = [one for one, name in zip(new.ids, new.names) if one != name]
  every = new if before is None else before.and_(new)
  table = deciding.with_added(table.own, known, every)
  decided = decisions.read(workdir, fitted.config.num_clusters, table.ids, every.ids)
  del decided  # a wrong table is told of before anything is written
  added.write(workdir, every)
  columns = deciding.rewrite(workdir, table, deciding.decided_of(
      workdir, fitted.config.num_clusters, table))
  last = range(len(columns['file']) - source.num_images, len(columns['file']))
  repeat = [columns['duplicate'][row] for row in last if columns['duplicate'][row]]
  if renamed:
    reporter.line(f'{len(renamed):,} images have names that are taken, and are called '
                  f'by their folder, too, such as {renamed[0]!r}')
  return (f'{source.num_images:,} images of {source.name} added, {new.foreign.sum():,} '
          f'of them foreign to all clusters; {len(repeat):,} repeat others, '
          f"{repeat.count('exact'):,} to the pixel: {workdir / deciding.RESULTS}.csv "
          f'and .parquet have {len(columns["file"]):,} images now; '
          f'--mode=add --undo --workdir={shlex.quote(str(workdir))} takes these back'
          + told_by(fitted, source))


def similar(workdir: pathlib.Path, config, image: str, reporter: Reporter,
            build: Callable) -> str:
  """The images of a fit that are nearest to an image, a line each.

  Args:
    workdir: the folder of the fit.
    config: its config.
    image: an id of the fit, or a file.
    reporter: shows progress.
    build: as of `fitted.load`.

  Raises:
    UserError: it is neither, or the fit has left nothing to compare with.
  """
  every = added.read(workdir)  # once: another command may take some back meanwhile
  table, names = deciding.clusters_decided(workdir, config.num_clusters,
                                           every.ids if every else ())
  known, ids = deciding.read_gallery(workdir, table.ids), table.columns['file']
  more = deciding.in_order(every, table)
  features = known.features
  if more is not None:
    features = np.concatenate([features, more.features])
  rows = images_of([image], ids)[0]
  path = os.path.expanduser(image)
  if image not in ids and os.path.isfile(path):
    fitted = load(workdir, config, reporter, build)
    data = data_like_the_fit(fitted, config.data)
    data.embeddings = ''  # those of the fit, if any
    source = files_source([path], data, False, fitted.rendering, fitted.finest)
    tell_of(source, reporter)
    check_like_the_fit(fitted, source, reporter)
    looks = exploring.looks_of(fitted.recogniser, known.mean, known.components, source,
                               reporter)
    near, away = gallery.nearest(looks.features, features, gallery.NEAREST)
    head = f'The images of the run that are nearest to the file {path}:'
  elif len(rows) == 1:
    near, away = gallery.nearest(features[rows], features, gallery.NEAREST,
                                 np.array(rows))
    if os.path.isfile(path):
      reporter.warning(f'{image} is an image of the run, which is what is looked for, '
                       f'and the name of a file: write ./{path} for that.')
    head = f'The images of the run that are nearest to {ids[rows[0]]} ({names[rows[0]]}):'
  else:
    what = (f"of several images of the run ({', '.join(ids[row] for row in rows[:3])})"
            if rows else 'no file, and no image of the run')
    raise UserError(f'--image={image} is {what}: give a file, or an id such as '
                    f'{ids[0]!r}.')
  lines = [f'{away[0, k]:10.3f}  {names[row]:<20}  {ids[row]}'
           for k, row in enumerate(near[0])]
  return '\n'.join(map(on_one_line, [
      head, f"{'distance':>10}  {'cluster':<20}  image", *lines]))


def told_by(fitted: Fitted, source: ImageSource) -> str:
  """A line on what told the clusters of new images, if the fit had embeddings; or ''."""
  if EMBEDDINGS not in fitted.config.start.spaces:
    return ''
  if source.embeddings is None:
    return ('\nThe clusters are told by a network, from the pixels: it has learnt what '
            'the embeddings of the fit gave. Embeddings of these images, by '
            'config.data.embeddings, would tell them as in the fit.')
  return '\nThe clusters are told by embeddings, as in the fit.'


def judge_all(source: ImageSource, workdir: pathlib.Path, by_bound: np.ndarray,
              share: float, reporter: Reporter) -> foreign.Verdict:
  """How unusual new images are beside those of the fit.

  Args:
    source: new images.
    workdir: of the fit.
    by_bound: p-values of the bound, [n], for a workdir that has no reference.
    share: the false alarm rate that is asked for.
    reporter: shows progress.
  """
  reference = foreign.read_reference(pathlib.Path(workdir) / REFERENCE)
  shape = small_images(source, [0]).shape[1:]
  if reference is None or not foreign.is_of(reference, maps_of(shape), shape):
    reporter.warning(f'{workdir} has no {REFERENCE}, or one that cannot be read or is of '
                     'another version: foreign goes by the bound alone, which plain '
                     f'images pass. Of {REFERENCE}: {WRITES_IT}.')
    return foreign.Verdict(by_bound, ['unlikely'] * len(by_bound))
  known = sum(len(half.others) for half in reference)
  if share < 1 / (known + 1):
    reporter.warning(f'By {known} images of the fit no other can be called foreign at a '
                     f'false alarm rate of config.predict.foreign_share = {share}: it '
                     f'takes {1 / (known + 1):.2g} or more.')
  return judge_by(reference, source, np.arange(source.num_images), reporter)


def judge_by(reference, source: ImageSource, rows: np.ndarray,
             reporter: Reporter) -> foreign.Verdict:
  """How unusual images [n] of a source are beside a reference."""
  found = []
  with reporter.task('foreign', len(rows), 'images') as task:
    for block in np.array_split(rows, -(-len(rows) // foreign.BLOCK)):
      images = small_images(source, block)
      found.append(foreign.judge(reference, images, maps_of(images.shape[1:])))
      task.advance(len(block))
  return foreign.Verdict(np.concatenate([part.p_values for part in found]),
                         [why for part in found for why in part.reasons])


def without(paths: Iterable[pathlib.Path]) -> None:
  """Removes what an earlier command left, and would be taken for that of this one."""
  for path in paths:
    path.unlink(missing_ok=True)


def in_place_of(path: pathlib.Path) -> str:
  """What to add to a message on a file that is written, if there is one already."""
  return ' (in the place of an earlier one)' if path.exists() else ''


def write_samples(fitted: Fitted, workdir: pathlib.Path, options,
                  reporter: Reporter) -> str | None:
  """Draws images from clusters: samples.npy, and pictures.

  Args:
    fitted: the fit.
    workdir: the folder to write in.
    options: the section `sample` of a config.
    reporter: shows progress.

  Returns:
    What to tell of it; None in processes that do not write.
  """
  workdir = pathlib.Path(workdir)
  number = fitted.config.num_clusters
  decided = decisions.read(workdir, number)
  given = [decided.drawn_for(cluster) for cluster in options.clusters]
  clusters = tuple(dict.fromkeys(sum(given, []))) or tuple(range(number))
  chosen = {name: value for name, value in options.items() if name != 'clusters'}
  for line in unread_by_sampler(options):
    reporter.warning(line)
  drawn = fitted.sample(clusters, reporter, **chosen)
  if not is_main_process():
    return None
  rows = figures.named(clusters, decided.of_the_model)
  if options.interpolate:
    ends = rows
    rows = [f'{share:.0%}' for share in np.linspace(0, 1, options.interpolate)]
    rows[0], rows[-1] = ends
  written = [workdir / 'samples.npy', workdir / 'samples.png']
  earlier = in_place_of(written[0])
  results.write_array(written[0], drawn.images)
  figures.save_figure(figures.sample_grid(drawn.images, rows), written[1])
  film = [workdir / 'trajectory.png', workdir / 'trajectory.gif']
  if drawn.states is None:
    without(film)  # of an earlier command, of other samples
  else:
    written += film
    states = drawn.states[:, 0]
    few = np.linspace(0, states.shape[1] - 1, min(states.shape[1], figures.MAX_COLUMNS))
    states = figures.sample_grid(states[:, np.rint(few).astype(int)], rows,
                                 heading='from noise to image')
    figures.save_figure(states, film[0])
    figures.save_animation(drawn.states, film[1])
  count = drawn.images.shape[0] * drawn.images.shape[1]
  return (f'{count:,} images of shape {drawn.images.shape[2:]}, in [-1, 1] up to what '
          f'the network overshoots, by {options.sampler} in {drawn.evaluations:.0f} '
          f"network evaluations each: {', '.join(map(str, written))}{earlier}")


def write_restored(fitted: Fitted, operator: Operator, source: ImageSource,
                   workdir: pathlib.Path, options, reporter: Reporter,
                   pixel_range=None, of_the_fit: bool = False) -> str | None:
  """Restores images: restored.npy, restored.csv, restored/, restored.html.

  The fit's own images are damaged here, by the operator and noise of sigma, and so are
  all by a matrix. Others have been, but for what a mask hides, which may be anything.
  Where the whole images are known, results say how far from them they come.

  Args:
    fitted: the fit.
    operator: what the images have gone through.
    source: the damaged images, or whole ones, see above.
    workdir: the folder to write in.
    options: the section `restore` of a config.
    reporter: shows progress.
    pixel_range: as of `Fitted.restore`.
    of_the_fit: whether the images are those of the fit.

  Returns:
    What to tell of it; None in processes that do not write.
  """
  shape, border = fitted.method.image_shape, fitted.config.data.padding
  units = units_of(pixel_range) if pixel_range else fitted.units
  y = given = units.stored(images_at(source, np.arange(source.num_images)))
  whole = of_the_fit or isinstance(operator, operators.Matrix)
  if whole or isinstance(operator, operators.Inpainting):
    y = np.concatenate([np.asarray(operator.apply(jnp.asarray(block)))
                        for block in np.array_split(given, -(-len(given) // 256))])
  if whole and options.sigma:
    rng = np.random.default_rng(integer_seed(options.seed, 'restore_noise'))
    y = y + np.float32(options.sigma) * rng.normal(size=y.shape).astype(np.float32)
  chosen = {name: value for name, value in options.items() if name not in DAMAGE}
  found = fitted.restore(operator, y, options.sigma, reporter, units, **chosen)
  if not is_main_process():
    return None
  # Without the border that the fit has added, as the images were given.
  inner = np.s_[..., border:shape[0] - border, border:shape[1] - border, :]
  found, given = found._replace(images=found.images[inner]), (
      given[inner] if border else given)
  mask = (np.asarray(operator.mask)[inner]
          if isinstance(operator, operators.Inpainting) else None)
  seen = y if of_the_fit and y.ndim == 4 else given
  if border and seen.shape[1:3] == shape[:2]:
    seen = seen[inner]
  errors = restored.errors(found.mean, given, mask) if whole else None
  workdir, names = pathlib.Path(workdir), restored.file_names(source.ids)
  written = [workdir / name for name in ('restored.npy', 'restored.csv', 'restored.html')]
  earlier = in_place_of(written[0])
  stale = restored.files_of(written[1])
  results.write_array(written[0], found.images)
  known = np.isfinite(found.log_evidence)
  results.write_assignments(
      written[1], source.ids, found.responsibilities, source.labels, source.label_names, {
          'log_evidence': [f'{value:.3f}' * bool(has)
                           for value, has in zip(found.log_evidence, known)],
          'effective_sample_size': [f'{value:.1f}' * bool(has)
                                    for value, has in zip(found.ess, known)],
          'residual': [f'{v:.4g}' for v in found.residual],
          'sigma': [f'{options.sigma:g}'] * source.num_images,
          **({} if errors is None else {'error': [f'{v:.4g}' for v in errors]}),
          'file': [f'{restored.FOLDER}/{name}' for name in names]})
  scaled = lambda images: (images - units.low) * units.scale - 1
  restored.write_images(workdir / restored.FOLDER, names, scaled(found.mean))
  shown = np.arange(min(source.num_images, restored.MOST_ROWS))
  damaged = restored.visible(scaled(seen[shown]), mask, found.images.shape[2:])
  figure = restored.sheet(
      damaged, scaled(found.images[shown]), found.std[shown] * units.scale,
      [source.ids[i] for i in shown.tolist()], scaled(given[shown]) if whole else None)
  figures.save_figure(figure, workdir / 'figures' / 'restored.png')
  restored.write_page(
      written[2], workdir / 'figures' / 'restored.png', source, found, options,
      (units.low, units.high), errors, of_the_fit, groups_of(options))
  kept = {workdir / restored.FOLDER / name for name in names}
  without(path for path in stale if path not in kept)
  return (f'{source.num_images:,} images of {source.name} restored by {options.method}, '
          f'{found.images.shape[1]} draws of each in {found.evaluations:,.0f} network '
          f'evaluations, pixels {units.low:g} to {units.high:g}, sigma '
          f"{options.sigma:g}: {', '.join(map(str, written))}{earlier}")
