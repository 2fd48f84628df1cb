"""The files a fit leaves in its workdir, beside metrics and checkpoints."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
import numpy as np

from jdiffclust import files
from jdiffclust.errors import WRITES_IT, UserError
from jdiffclust.evaluation import diagnostics, gallery, scores
from jdiffclust.evaluation.latent_space import LatentResults, first_of_each_kind
from jdiffclust.evaluation.sample_quality import Quality
from jdiffclust.report import explorer, figures, page, thumbnails

VERSIONED = ('jdiffclust', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'scikit-learn')
# So many misclustered images are shown beside the map of the latents.
NUM_MISTAKES = 16


class Results(NamedTuple):
  """What is known when a fit has ended.

  Attributes:
    responsibilities: tau, [N, Q].
    start: of the starting partition, [N, Q].
    baselines: {name: clusters [N]} on the same images.
    bound: per image, nats, [N]; NaN after the start alone.
    means: the mean of each cluster's members, [Q, H, W, C].
    samples: generated images, [Q, n, H, W, C]; n = 0 after the start alone.
    history: a dict per EM iteration; none after the start alone.
    noise_bands: [first, last] step of each band of `bound_level_1`, 2, ... in the
      history; None: an empty band.
    facts: the other entries of the summary.
    choice: how Q was chosen, as in num_clusters.json; None: it was given.
    quality: of generated images; None: not measured.
    latents: what they show; None: the method has none.
    names: of the clusters, '' where there is none; None: there are none.
  """

  responsibilities: np.ndarray
  start: np.ndarray
  baselines: dict[str, np.ndarray]
  bound: np.ndarray
  means: np.ndarray
  samples: np.ndarray
  history: list[dict]
  noise_bands: list[list[int] | None]
  facts: dict[str, Any]
  choice: dict | None = None
  quality: Quality | None = None
  latents: LatentResults | None = None
  names: Sequence[str] | None = None


def versions(packages: Sequence[str] = VERSIONED) -> dict[str, str]:
  """Versions of Python and of packages; by default of those that decide a result."""
  found = {'python': platform.python_version()}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed as a package'
  return found


def score(labels, clusters) -> dict:
  """ACC, NMI and ARI over the labelled images; None where there are no labels."""
  if labels is None or (labels < 0).all():
    return scores.clustering_scores(None, clusters)
  known = labels >= 0
  return scores.clustering_scores(labels[known], clusters[known])


def summarise(results: Results, labels) -> dict:
  """The content of summary.json.

  Args:
    results: of the fit.
    labels: int [N], or None.

  Returns:
    A JSON-able dict.
  """
  clusters = results.responsibilities.argmax(axis=1)
  last = results.history[-1] if results.history else {}  # of the start alone: none
  return {
      **results.facts,
      **score(labels, clusters),
      'num_labelled': None if labels is None else int((labels >= 0).sum()),
      'init': {**score(labels, results.start.argmax(axis=1)),
               'method': results.facts['init_method']},
      'baselines': {name: score(labels, found)
                    for name, found in results.baselines.items()},
      'bound_bits_per_dim': last.get('bound_bits_per_dim'),
      'bound_terms_nats': {name: last.get(f'bound_{name}')
                           for name in ('prior', 'diffusion', 'decoder')},
      'cluster_sizes': scores.members(results.responsibilities).tolist(),
      'reliability': (None if labels is None or (labels < 0).all() else
                      scores.reliability(labels, results.responsibilities)),
      'mean_probability': float(np.mean(results.responsibilities.max(axis=1))),
      'mean_entropy': float(np.mean(scores.entropy(results.responsibilities))),
      'uncertain_fraction': last.get('uncertain_fraction'),
      'num_em_iterations': len(results.history),
      'noise_bands': results.noise_bands,
      'history': results.history,
      'num_clusters_choice': results.choice,
      'sample_quality': results.quality and results.quality.summary,
      'latents': results.latents and results.latents.summary,
      'versions': versions(),
  }


def write_assignments(path, ids, responsibilities, labels=None, label_names=None,
                      further: dict | None = None) -> None:
  """Writes index,id,cluster,probability and, where known, label: a line per image.

  Args:
    path: the CSV file.
    ids: N texts.
    responsibilities: [N, Q]; the cluster is the most probable one.
    labels: int [N] or None; -1 where unknown.
    label_names: names of the labels; None: numbers.
    further: columns by name, N values each, before the label.
  """
  clusters = responsibilities.argmax(axis=1)
  further = further or {}
  names = [] if labels is None else label_texts(labels, label_names)
  with files.replacing(path) as temporary:
    with open(temporary, 'w', newline='', encoding='utf-8') as file:
      writer = csv.writer(file)
      writer.writerow(['index', 'id', 'cluster', 'probability', *further]
                      + ['label'] * (labels is not None))
      for i, q in enumerate(clusters):
        row = [i, ids[i], q, f'{responsibilities[i, q]:.6f}']
        row += [values[i] for values in further.values()]
        row += names[i:i + 1]
        writer.writerow(row)


def label_texts(labels: np.ndarray, label_names: Sequence[str] | None) -> list[str]:
  """Labels [N] as a person reads them, '' where unknown."""
  return ['' if label < 0 else label_names[label] if label_names else str(label)
          for label in labels]


def write_choice(workdir, choice: dict) -> None:
  """Writes how Q was chosen: num_clusters.png, and last num_clusters.json."""
  workdir = pathlib.Path(workdir)
  figures.save_figure(figures.num_clusters(choice), workdir / 'num_clusters.png')
  files.write_text(workdir / 'num_clusters.json', json.dumps(choice, indent=2) + '\n')


def read_choice(workdir) -> dict | None:
  """What `write_choice` wrote; None if Q was given."""
  return files.read_json(pathlib.Path(workdir) / 'num_clusters.json')


def effort_of(workdir) -> str | None:
  """How far the fit went whose results are in a workdir; None: there are none."""
  try:
    return json.loads((pathlib.Path(workdir) / 'summary.json').read_bytes()).get('effort')
  except (OSError, ValueError, AttributeError):
    return None


def write_array(path, array: np.ndarray) -> None:
  """Writes a .npy file atomically."""
  with files.replacing(path) as temporary:
    with open(temporary, 'wb') as file:
      np.save(file, array)


def write_results(workdir, results: Results, source, images_at, labels,
                  warn: Callable[[str], None], count: int = 6,
                  draw: Callable | None = None) -> tuple[dict, dict[str, pathlib.Path]]:
  """Writes what a fit gave: CSV, NPY and JSON first, then figures.

  Args:
    workdir: the folder.
    results: of the fit.
    source: with ids and label_names.
    images_at: from indices [n] to images [n, H, W, C] in [-1, 1].
    labels: int [N], or None.
    warn: called with a line on each figure that cannot be drawn.
    count: members shown per cluster and kind.
    draw: makes the figures, as `draw_figures`, which None stands for.

  Returns:
    The summary, as written, and the paths of the figures by name.
  """
  workdir = pathlib.Path(workdir)
  summary = summarise(results, labels)
  write_assignments(workdir / 'assignments.csv', source.ids, results.responsibilities,
                    labels, source.label_names)
  write_array(workdir / 'responsibilities.npy',
              results.responsibilities.astype(np.float32))
  files.write_text(workdir / 'summary.json', json.dumps(summary, indent=2) + '\n')
  drawn = (draw or draw_figures)(workdir / 'figures', results, images_at, labels,
                                 source.label_names, count, warn)
  return summary, drawn


def rewrite_page(workdir: pathlib.Path, explored: Callable) -> None:
  """Writes report.html anew from what is in the folder.

  Args:
    workdir: the folder.
    explored: from the run's gallery and sheets to what is known of its images.

  Raises:
    UserError: something is missing there.
  """
  try:
    summary, config = (json.loads((workdir / name).read_bytes())
                       for name in ('summary.json', 'config.json'))
    tau = np.load(workdir / 'responsibilities.npy')
  # On a damaged file NumPy and zipfile raise nearly anything.
  except Exception as error:  # pylint: disable=broad-except
    raise UserError(f'The results in {str(workdir)!r} are incomplete '
                    f"({' '.join(str(error).split())}): {WRITES_IT}.") from None
  known = gallery.read(workdir / gallery.FILE)
  sheets = thumbnails.read(workdir / explorer.FILE, tuple(explorer.SHEETS))
  if known is None or sheets is None:
    name = gallery.FILE if known is None else explorer.FILE
    raise UserError(f'{workdir / name} is missing or damaged: {WRITES_IT}.')
  drawn = {path.stem: path for path in sorted((workdir / 'figures').glob('*.png'))
           if path.stem != 'restored' and not path.stem.startswith('.')}  # cut off
  write_page(workdir, summary, drawn, config, tau, explored(known, sheets))


def write_page(workdir: pathlib.Path, summary: dict, drawn, config: dict,
               responsibilities: np.ndarray, explored: explorer.Explored) -> None:
  """Writes report.html.

  Args:
    workdir: the folder.
    summary: as in summary.json.
    drawn: paths of figures by name.
    config: as plain types.
    responsibilities: of the fit's images, [N, Q].
    explored: what is known of the run's images, those that were added included.
  """
  decided = explored.decided
  table = [dict(row) for row in scores.cluster_table(responsibilities)]
  groups = ()
  if decided.any:
    for row, name in zip(table, decided.of_the_model):
      row['name'] = name
    final = np.array(explored.columns['cluster'])
    groups = [{'name': decided.name(q),
               'clusters': ', '.join(map(str, np.flatnonzero(decided.owners == q))),
               'size': int(np.sum(final == q)), 'pinned': int(np.sum(decided.pins == q))}
              for q in np.unique(decided.owners)]
  page.write_report(workdir / 'report.html', summary, drawn, config, table, groups,
                    explorer.view(explored))


def draw_figures(folder, results: Results, images_at, labels, label_names,
                 count: int, warn: Callable[[str], None]) -> dict[str, pathlib.Path]:
  """Draws the figures of the report; one that fails costs no other.

  Args:
    folder: where to, made if missing.
    results, images_at, labels, label_names, count, warn: as in `write_results`.

  Returns:
    {name: path of a PNG}, of those that could be drawn.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  responsibilities = results.responsibilities
  table = scores.cluster_table(responsibilities)
  sizes = [row['size'] for row in table]
  chosen = figures.typical_and_uncertain(responsibilities, results.bound, count)
  members = {q: (images_at(typical), images_at(uncertain))
             for q, (typical, uncertain) in chosen.items()}
  drawings = {
      'hero': lambda: figures.hero(results.means, members, results.samples, sizes,
                                   columns=count, names=results.names),
      'cluster_gallery': lambda: figures.cluster_gallery(
          results.means, members, sizes, [row['mean_certainty'] for row in table],
          names=results.names),
      'sample_grid': lambda: figures.sample_grid(
          results.samples, figures.named(range(len(sizes)), results.names)),
      'history_curves': lambda: figures.history_curves(results.history),
      'bound_terms': lambda: figures.bound_terms(
          results.history, results.noise_bands, results.means[0].size),
      'cluster_sizes': lambda: figures.cluster_sizes(
          sizes, [row['effective_size'] for row in table],
          scores.members(results.start)),
      'cluster_flows': lambda: figures.cluster_flows(
          diagnostics.flows(results.start, responsibilities),
          diagnostics.overlaps(responsibilities)),
  }
  quality, choice = results.quality, results.choice
  if not results.history:
    for name in ('sample_grid', 'history_curves', 'bound_terms'):
      del drawings[name]
  if quality is not None:
    drawings['nearest_training'] = lambda: figures.nearest_training(
        *closest(quality, images_at, count))
  if results.latents is not None:
    drawings |= latent_drawings(results, images_at, labels, label_names)
  if choice is not None:
    drawings['num_clusters'] = lambda: figures.num_clusters(choice)
  if labels is not None and (labels >= 0).any():
    known = labels >= 0
    drawings['confusion_matrix'] = lambda: figures.confusion_matrix(
        labels[known], responsibilities.argmax(axis=1)[known], label_names,
        len(sizes))
  paths = {}
  for name, drawing in drawings.items():
    path = folder / f'{name}.png'
    try:
      figures.save_figure(drawing(), path)
    # Nothing that goes wrong in a picture is worth the outcome of a fit.
    except Exception as error:  # pylint: disable=broad-except
      path.unlink(missing_ok=True)  # that of an earlier run would be shown for this one
      warn(f'the figure {name} could not be drawn ({type(error).__name__}: '
           f"{' '.join(str(error).split())[:150]})")
    else:
      paths[name] = path
  for name in page.FIGURES - drawings.keys():  # so would one of which there is none now
    (folder / f'{name}.png').unlink(missing_ok=True)
  return paths


def closest(quality: Quality, images_at, count: int) -> tuple[list, list, list]:
  """Each cluster's generated images that are nearest to a training image.

  Args:
    quality: what `sample_quality.measure` found.
    images_at: as in `write_results`.
    count: of each cluster at most.

  Returns:
    Q generated images [n, H, W, C], nearest first; the training images; the distances.
  """
  orders = np.argsort(quality.distances, axis=1, kind='stable')[:, :count]
  return ([of[order] for of, order in zip(quality.images, orders)],
          [images_at(of[order]) for of, order in zip(quality.nearest, orders)],
          [of[order] for of, order in zip(quality.distances, orders)])


def latent_drawings(results: Results, images_at, labels,
                    label_names) -> dict[str, Callable[[], Figure]]:
  """What draws what the latents show.

  Args:
    results: with latents.
    images_at, labels, label_names: as in `write_results`.

  Returns:
    {name: a function to a Figure}: the map, and the others there is something for.
  """
  found: Any = results.latents  # there are some
  clusters = results.responsibilities.argmax(axis=1)

  def latent_map():
    mistakes = ()
    if found.mistakes is not None:
      mapped = first_of_each_kind(found.mistakes[np.isin(found.mistakes, found.indices)],
                                  labels, clusters)
      shown = mapped[:NUM_MISTAKES]
      mistakes = (np.searchsorted(found.indices, mapped), images_at(shown),
                  mistake_texts(shown, labels, clusters, label_names))
    return figures.latent_map(found.points, clusters[found.indices], *mistakes)

  drawings = {'latent_map': latent_map}
  if found.reconstructions is not None:
    drawings['reconstructions'] = lambda: figures.reconstructions(*found.reconstructions)
  if found.walk is not None:
    drawings['latent_walk'] = lambda: figures.latent_walk(*found.walk)
  if found.terms and len(results.history) > 1:
    drawings['latent_terms'] = lambda: figures.latent_terms(
        [record['iteration'] for record in results.history], found.terms)
  return drawings


def mistake_texts(mistakes, labels, clusters, label_names) -> list[str]:
  """Says of misclustered images what they are, and what their clusters stand for.

  Args:
    mistakes: their indices into N, [m].
    labels: int [N]; -1 where unknown.
    clusters: int [N].
    label_names: as in `write_results`.

  Returns:
    m texts of three lines.
  """
  known = labels >= 0
  paired = scores.match_clusters(labels[known], clusters[known])

  def name(label):
    if label < 0:
      return 'none'
    return figures.shorten(str(label_names[label] if label_names else label), 13)

  return [f'label {name(labels[i])}\ncluster {clusters[i]}\n'
          f'paired with {name(paired[clusters[i]])}' for i in mistakes]
