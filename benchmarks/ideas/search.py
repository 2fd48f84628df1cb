"""Ideas that search for partitions, each in its own way, on the digits."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib

import numpy as np
import scipy.stats
from sklearn.cluster import KMeans

from benchmarks.common import SCORES, STEPS, config_of, prepared, trained
from benchmarks.ideas.fits import NO_VIEWS
from benchmarks.starts.partitions import config_for, one_hot, scorer
from jdiffclust.clustering.starts import denoiser_features as features_lib
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.sample import flat_images, start_of_all
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.evaluation.diagnostics import overlaps, paired_change
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.fitted import pipeline_of
from jdiffclust.progress import Reporter
from jdiffclust.training.assignment import assign_all
from jdiffclust.training.loop import e_step_key


def digits(changes: dict, seed: int):
  """Config and images of the digits, some options changed."""
  config = config_of('digits', {**changes, 'seed': seed, 'num_devices': 1})
  return config, load_source(config.data)


def start_of(source, config) -> np.ndarray:
  """Responsibilities [N, Q] by the start of a config."""
  return start_of_all(source, config, config.start.kind, ())


def e_step(method, state, pipeline):
  """The `Assignment` of all images, as in the first EM iteration."""
  return assign_all(method, state.ema, pipeline, e_step_key(method.config, 1),
                    Reporter(quiet=True))


def halves(images, seed: int) -> np.ndarray:
  """0 or 1 for each image [n, D], by 2-means."""
  return KMeans(2, n_init=10, random_state=seed).fit_predict(images)


def merge(tau, num_clusters: int) -> np.ndarray:
  """Joins, one by one, the two clusters that overlap most, down to Q: numbers [N]."""
  tau = np.array(tau, np.float64)
  while tau.shape[1] > num_clusters:
    shared = np.array(overlaps(tau), np.float64)
    np.fill_diagonal(shared, -np.inf)
    p, q = sorted(np.unravel_index(np.argmax(shared), shared.shape))
    tau[:, p] += tau[:, q]
    tau = np.delete(tau, q, axis=1)
  return tau.argmax(axis=1)


def over_clustered(seed: int, workdir: pathlib.Path) -> dict:
  """20 clusters from the start to the end of the fit, then merged to 10."""
  del workdir
  config, source = digits({'num_clusters': 20, STEPS: 900}, seed)
  method, pipeline = prepared(config, source)
  tau = start_of(source, config)
  found = e_step(method, trained(method, pipeline, tau), pipeline)
  return {'start': clustering_scores(source.labels, merge(tau, 10)),
          **clustering_scores(source.labels, merge(found.responsibilities, 10))}


def held_out(seed: int, workdir: pathlib.Path) -> dict:
  """Monte Carlo tau of images that the network has not been trained on.

  Two networks, each on one half's start; then one E-step of 32 draws, at temperature 1,
  of its own half and of the other one.
  """
  del workdir
  config, source = digits(
      {'em.posterior': 'monte_carlo', 'e_step.num_draws': 32, STEPS: 600}, seed)
  tau, count = start_of(source, config), source.num_images
  half = np.random.default_rng(seed).permutation(count) < count // 2
  own, other = np.zeros(count, int), np.zeros(count, int)
  bounds = {'own': [], 'other': []}
  for mask in (half, ~half):
    part = dataclasses.replace(source, images=source.images[mask],
                               labels=source.labels[mask],
                               ids=np.asarray(source.ids)[mask])
    method, pipeline = prepared(config, part)
    state = trained(method, pipeline, tau[mask])
    found = e_step(method, state, pipeline_of(method, source))
    clusters = found.responsibilities.argmax(axis=1)
    own[mask], other[~mask] = clusters[mask], clusters[~mask]
    bounds['own'].append(found.info.bound[mask])
    bounds['other'].append(found.info.bound[~mask])
  begun = tau.argmax(axis=1)
  return {'start': clustering_scores(source.labels, begun),
          **clustering_scores(source.labels, other),
          'own half': clustering_scores(source.labels, own),
          'kept of start, other half': float(np.mean(other == begun)),
          'kept of start, own half': float(np.mean(own == begun)),
          'bound, other half': float(np.concatenate(bounds['other']).mean()),
          'bound, own half': float(np.concatenate(bounds['own']).mean())}


def curriculum(seed: int, workdir: pathlib.Path) -> dict:
  """From 2 clusters to 4, 8 and 10: the largest are halved each time."""
  del workdir
  _, source = digits({}, seed)
  images = flat_images(source, np.arange(source.num_images))
  clusters = halves(images, seed)
  for number in (2, 4, 8, 10):
    while clusters.max() + 1 < number:
      largest = np.bincount(clusters).argmax()
      members = np.flatnonzero(clusters == largest)
      clusters[members[halves(images[members], seed) == 1]] = clusters.max() + 1
    before = clusters.copy()
    config, _ = digits({'num_clusters': number, 'posterior.anchor': .5,
                        'posterior.balance': .5, STEPS: 600}, seed)
    method, pipeline = prepared(config, source)
    state = trained(method, pipeline, one_hot(clusters, config))
    clusters = e_step(method, state, pipeline).responsibilities.argmax(axis=1)
  return {'start': clustering_scores(source.labels, before),
          **clustering_scores(source.labels, clusters)}


def moves(seed: int, workdir: pathlib.Path) -> dict:
  """Splits and merges of a Gaussian mixture's partition, accepted if the bound rises.

  Each candidate joins one of the three pairs that overlap most and halves one of the
  three clusters of most variance; the denoiser is trained anew on it as `partitions`
  does.
  """
  del workdir
  config = config_for('digits', seed, 450, {})
  source = load_source(config.data)
  images = flat_images(source, np.arange(source.num_images))
  tau = start_of_all(source, config, 'gaussian_mixture', ())
  found = tau.argmax(axis=1)
  shared = np.triu(np.array(overlaps(tau), np.float64), 1)
  pairs = [np.unravel_index(i, shared.shape) for i in np.argsort(-shared, axis=None)[:3]]
  variance = [float(np.sum((images[found == q] - images[found == q].mean(axis=0))**2))
              for q in range(config.num_clusters)]
  candidates = {'none': found}
  for (p, q), split in itertools.product(pairs, np.argsort(variance)[::-1][:3]):
    if split in (p, q):
      continue
    moved = np.where(found == q, p, found)
    members = np.flatnonzero(found == split)
    moved[members[halves(images[members], seed) == 1]] = q
    candidates[f'join {p} {q}, split {split}'] = moved
  method, pipeline = prepared(config, source)
  score, rows, before = scorer(method, seed), {}, None
  for name, clusters in candidates.items():
    partition = one_hot(clusters, config)
    bound, _ = score(trained(method, pipeline, partition), pipeline, partition)
    before = bound if before is None else before
    change, error = paired_change(before, bound)
    rows[name] = {'bound_change': change, 'error': error,
                  **clustering_scores(source.labels, clusters)}
    print(name, rows[name], flush=True)
  best = max(rows.values(), key=lambda row: row['bound_change'])
  tried = list(rows.values())[1:]
  rank = scipy.stats.spearmanr([row['bound_change'] for row in tried],
                               [row['acc'] for row in tried]).statistic
  return {'start': {name: rows['none'][name] for name in SCORES},
          **{name: best[name] for name in SCORES}, 'moves': rows,
          'rank correlation of bound and ACC': float(rank)}


def denoiser_features(seed: int, workdir: pathlib.Path) -> dict:
  """Starts on features of a denoiser without clusters, beside the same on pixels."""
  del workdir
  config, source = digits({**NO_VIEWS, 'views.num': 1, 'views.sets': 1,
                           'start.spaces': ('pixels',)}, seed)
  images = images_at(source, np.arange(source.num_images))
  network = features_lib.unconditional(config)
  variables = features_lib.train(network, images, config)
  spaces = {'pixels': images}
  for share in (.05, .2, .5):
    spaces[f'features at {share:g} T'] = features_lib.describe(
        network, variables, share, source.image_shape, config)(images)
  rows = {}
  for space, values in spaces.items():
    flat = values.reshape(len(values), -1)
    flat = flat / np.std(flat)
    for name in ('kmeans', 'gaussian_mixture', 'neighbours'):
      tau = fit_start(name, flat, values.shape[1:], config)(flat, np.arange(len(flat)))
      rows[f'{space}, {name}'] = clustering_scores(source.labels, tau.argmax(axis=1))
      print(space, name, rows[f'{space}, {name}'], flush=True)
  return {**rows['features at 0.05 T, neighbours'],
          'start': rows['pixels, neighbours'], 'spaces': rows}
