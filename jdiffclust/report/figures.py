"""Figures of a run, as matplotlib Figures on the Agg canvas.

Sheets of pictures are laid out in whole pixels and placed without resampling,
so 8 x 8 digits stay crisp. Images are floats in [-1, 1] throughout.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from scipy.spatial import distance

from jdiffclust import files
from jdiffclust.evaluation import scores
from jdiffclust.evaluation.diagnostics import bits_per_dimension

DPI = 200
LONGEST_NAME = 20  # characters of the name of a cluster
MAX_ROWS, MAX_COLUMNS = 50, 32  # of a sheet; of a row of generated images

# {cluster: (typical images, uncertain images)}.
Members = Mapping[int, tuple[np.ndarray, np.ndarray]]

_TILE = 128  # The longest side of a picture on a sheet, in pixels.
_INK, _GREY, _ACCENT = '#1f2933', '#8792a0', '#1f6f9f'
_ALARM = '#c2260f'
# Ten colours that the colour-blind can tell apart (Petroff, 2021). With more than ten
# clusters the colours repeat with another marker.
COLOURS = ('#3f90da', '#ffa90e', '#bd1f01', '#94a4a2', '#832db6', '#a96b59', '#e76300',
            '#b9ac70', '#717581', '#92dadd')
_MARKERS = 'o^s'


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure as a PNG, all at once or not at all.

  Args:
    figure: the figure.
    path: the file, ending in '.png'; its folder is made if it does not exist.

  Raises:
    OSError: the file cannot be written.
  """
  with files.replacing(path) as temporary, warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='Glyph')  # a box stands for it
    figure.savefig(temporary, format='png', dpi=figure.dpi)


def typical_and_uncertain(responsibilities: ArrayLike, bound: ArrayLike,
                          k: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
  """Chooses the images that show what a cluster is and where it ends.

  Args:
    responsibilities: [N, Q] in [0, 1].
    bound: log-likelihood bounds, nats, [N]; larger is likelier. They order images of
      equal responsibility, of which there are many with exactly 1.
    k: the number of images of each kind, > 0.

  Returns:
    {cluster: (typical, uncertain)}. Both are indices 0..N - 1 of at most k images that
    are assigned to the cluster: typical by falling responsibility, then by falling
    bound; uncertain by rising responsibility, then by rising bound.

  Raises:
    ValueError: the shapes do not fit.
  """
  responsibilities, bound = np.asarray(responsibilities), np.asarray(bound)
  if responsibilities.ndim != 2 or bound.shape != responsibilities.shape[:1]:
    raise ValueError(
        f'responsibilities of shape {responsibilities.shape} and bounds of shape '
        f'{bound.shape}: [N, Q] and [N] are needed')
  clusters, certainty = responsibilities.argmax(1), responsibilities.max(1)
  falling = np.lexsort((-bound, -certainty))
  rising = np.lexsort((bound, certainty))
  return {
      cluster: tuple(
          order[clusters[order] == cluster][:k] for order in (falling, rising))
      for cluster in range(responsibilities.shape[1])}


def cluster_gallery(means: np.ndarray, members: Members, sizes: Sequence[int],
                    certainties: Sequence[float | None], max_rows: int = MAX_ROWS,
                    names: Sequence[str] | None = None) -> Figure:
  """Draws each cluster in a row: its mean, most typical and least certain members.

  Args:
    means: [Q, H, W, C] in [-1, 1], C 1 or 3.
    members: {cluster: (typical, uncertain)}, the images [<= k, H, W, C] that
      `typical_and_uncertain` chose.
    sizes: images per cluster, [Q].
    certainties: mean largest responsibility in [0, 1] per cluster, [Q]; None if empty.
    max_rows: the number of clusters to draw at most; the largest ones are drawn.
    names: of the Q clusters, '' where there is none; None: there are none.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  shown = _largest(sizes, max_rows)
  numbers = named(range(len(means)), names)
  return sheet(
      [[means[cluster][None], *members[cluster]] for cluster in shown],
      headings=('mean', 'most typical', 'least certain'),
      row_titles=[
          _row_title(numbers[cluster], sizes[cluster], certainties[cluster])
          for cluster in shown],
      title=_cap_title('largest', len(shown), len(means)))


def sample_grid(samples: np.ndarray, clusters: Sequence[Any] | None = None,
                max_rows: int = MAX_ROWS, heading: str = 'generated images') -> Figure:
  """Draws a row of generated images for each cluster.

  Args:
    samples: [Q, n, H, W, C] in [-1, 1], C 1 or 3; of each row `MAX_COLUMNS` at most are
      drawn, the first ones.
    clusters: names of the Q rows; None: the numbers 0 to Q - 1.
    max_rows: the number of rows to draw at most; the first ones are drawn.
    heading: what the images are.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  clusters = range(len(samples)) if clusters is None else clusters
  count = samples.shape[1]
  if count > MAX_COLUMNS:
    heading += f', the first {MAX_COLUMNS} of {count:,}'
  return sheet(
      [[row[:MAX_COLUMNS]] for row in samples[:max_rows]],
      headings=(heading,),
      row_labels=[str(cluster) for cluster in clusters][:max_rows],
      title=_cap_title('first', min(len(samples), max_rows), len(samples)))


def nearest_training(generated: Sequence[np.ndarray], training: Sequence[np.ndarray],
                     distances: Sequence[np.ndarray],
                     max_rows: int = MAX_ROWS) -> Figure:
  """Draws generated images and the training images nearest to them, by cluster.

  Args:
    generated: Q arrays [n, H, W, C] in [-1, 1], C 1 or 3, n > 0.
    training: the nearest training image of each, in the same order: Q arrays of the same
      shapes.
    distances: between the two, root mean square over pixels: Q arrays [n].
    max_rows: the number of rows to draw at most; the first ones are drawn.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  rows = list(zip(generated, training))[:max_rows]
  return sheet(
      rows, headings=('generated', 'nearest training images'),
      row_titles=[f'cluster {q} · distances {min(d):.2f} to {max(d):.2f}'
                  for q, d in enumerate(distances)][:max_rows],
      title=_cap_title('first', len(rows), len(generated)))


def save_animation(states: np.ndarray, path: str | os.PathLike,
                   milliseconds: int = 120) -> None:
  """Writes the way from noise to images as a GIF, a row of images per cluster.

  Args:
    states: k states of n images for each of Q clusters, [Q, n, k, H, W, C], C 1 or 3;
      values beyond [-1, 1] are clipped. The first `MAX_ROWS` clusters and `MAX_COLUMNS`
      images are shown.
    path: the file, which is written all at once or not at all.
    milliseconds: how long a state is shown; the last one is shown ten times as long.

  Raises:
    ValueError: C is neither 1 nor 3.
    OSError: the file cannot be written.
  """
  states = states[:MAX_ROWS, :MAX_COLUMNS]
  num_rows, num_images, num_states = states.shape[:3]
  frames = []
  for k in range(num_states):
    tiles = _pictures(states[:, :, k].reshape(-1, *states.shape[3:]))
    height, width = tiles.shape[1:3]
    tiles = tiles.reshape(num_rows, num_images, height, width, 3)
    sheet = np.moveaxis(tiles, 1, 2).reshape(num_rows * height, num_images * width, 3)
    frames.append(Image.fromarray(sheet))
  durations = [milliseconds] * (num_states - 1) + [10 * milliseconds]
  with files.replacing(path) as temporary:
    frames[0].save(temporary, format='GIF', save_all=True, append_images=frames[1:],
                   duration=durations, loop=0)


def hero(means: np.ndarray, members: Members, samples: np.ndarray,
         sizes: Sequence[int] | None = None, columns: int = 6, max_rows: int = 10,
         names: Sequence[str] | None = None) -> Figure:
  """Draws one wide picture: for each cluster its mean, members and generated images.

  Args:
    means: [Q, H, W, C] in [-1, 1], C 1 or 3.
    members: as in `cluster_gallery`; the typical ones are drawn.
    samples: [Q, n, H, W, C] in [-1, 1]; n = 0: none are drawn.
    sizes: images per cluster, [Q], to draw the largest clusters; None: the first
      clusters are drawn.
    columns: the number of members and of generated images to draw at most.
    max_rows: the number of clusters to draw at most.
    names: as in `cluster_gallery`.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  numbers = named(range(len(means)), names)
  shown = _largest(np.zeros(len(means)) if sizes is None else sizes, max_rows)
  groups = 3 if samples.shape[1] else 2
  return sheet(
      [
          [means[q][None], members[q][0][:columns], samples[q][:columns]][:groups]
          for q in shown],
      headings=('mean', 'members', 'generated')[:groups],
      row_labels=[numbers[q] for q in shown],
      title=_cap_title(
          'first' if sizes is None else 'largest', len(shown), len(means)))


def history_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws the bound, the uncertainty and the churn by EM iteration.

  Args:
    history: a dict for each EM iteration, with iteration, bound_bits_per_dim,
      mean_entropy (nats), changed_fraction (in [0, 1]) and, if there are labels, acc.
      Any of them except iteration may be missing or None.

  Returns:
    A Figure with three axes.
  """
  figure = _figure(9, 2.9)
  iterations = [record['iteration'] for record in history]

  def draw(axes: Axes, key: str, **style: Any) -> None:
    values = [record.get(key) for record in history]
    if any(value is not None for value in values):
      axes.plot(iterations, [math.nan if value is None else value for value in values],
                **style)

  panels = (
      ('bound_bits_per_dim', 'Bound', 'bits per dimension'),
      ('mean_entropy', 'Uncertainty', 'mean entropy (nats)'),
      ('changed_fraction', 'Churn', 'share of images'))
  marker = 'o' if len(history) <= 30 else None
  for axes, (key, title, label) in zip(figure.subplots(1, 3), panels):
    draw(axes, key, color=_ACCENT, linewidth=1.6, marker=marker, markersize=3,
         label='changed cluster')
    axes.set_title(title, fontsize=10, loc='left', color=_INK)
    axes.set_ylabel(label, fontsize=9, color=_INK)
    axes.set_xlabel('EM iteration', fontsize=9, color=_INK)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True, min_n_ticks=1))
    if iterations:
      axes.set_xlim(min(iterations) - .5, max(iterations) + .5)
    # Absolute ticks: '+3.21' in a corner is easily missed.
    axes.ticklabel_format(axis='y', useOffset=False)
    axes.grid(True, color='#e4e7eb', linewidth=.6)
    _tidy(axes)
  axes.set_ylim(-.03, 1.03)
  draw(axes, 'acc', color=_GREY, linewidth=.8,
       label='accuracy (not used by the fit)')
  if axes.get_lines():
    axes.legend(fontsize=8, frameon=False)
  return figure


def confusion_matrix(labels: ArrayLike, clusters: ArrayLike,
                     label_names: Sequence[Any] | None = None,
                     num_clusters: int | None = None) -> Figure:
  """Draws how the labels spread over the clusters.

  The rows are the labels. The columns are the clusters, ordered by the label that each is
  paired with (see `evaluation.scores.match_clusters`); a cluster without a pair stands
  beside the label that most of its images have. Empty clusters come last. The shade is
  the share of the cluster's images. Up to 20 x 20 the counts are printed.

  Args:
    labels: integers from 0, [N].
    clusters: integers from 0, [N].
    label_names: L names; None: the numbers of the labels.
    num_clusters: Q, which shows empty last clusters too; None: the largest cluster plus
      1.

  Returns:
    A Figure.

  Raises:
    ValueError: as in `evaluation.scores.contingency`.
  """
  table = scores.contingency(labels, clusters, num_clusters)
  matched = scores.match_clusters(labels, clusters, num_clusters)
  num_labels, num_clusters = table.shape
  sizes = table.sum(0)
  belongs = np.where(matched >= 0, matched, table.argmax(0))
  order = np.lexsort((-sizes, matched < 0, belongs, sizes == 0))
  table = table[:, order]
  names = range(num_labels) if label_names is None else label_names
  names = [shorten(str(name)) for name in names]

  width = min(9, max(3, .36 * num_clusters))
  height = min(9, max(2, .36 * num_labels))
  figure = _figure(
      width + 1.6 + .07 * max(map(len, names), default=0), height + .9)
  axes = figure.subplots()
  share = table / np.maximum(sizes[order], 1)
  image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1, aspect='auto',
                      interpolation='nearest')
  bar = figure.colorbar(image, ax=axes, fraction=.04, pad=.02)
  bar.set_label('share of the cluster', fontsize=9, color=_INK)
  bar.ax.tick_params(labelsize=8, colors=_INK)
  bar.outline.set_visible(False)
  _name_ticks(axes.xaxis, [str(cluster) for cluster in order])
  _name_ticks(axes.yaxis, names)
  axes.set_xlabel('cluster, in the order of the labels they match', fontsize=9,
                  color=_INK)
  axes.set_ylabel('label', fontsize=9, color=_INK)
  _tidy(axes)
  if max(table.shape) <= 20:
    for (row, column), count in np.ndenumerate(table):
      if count:
        axes.text(column, row, str(count), ha='center', va='center', fontsize=8,
                  color='white' if share[row, column] > .55 else _INK)
  return figure


def cluster_sizes(sizes: Sequence[int], effective_sizes: ArrayLike | None = None,
                  start_sizes: ArrayLike | None = None) -> Figure:
  """Draws bars of images per cluster, with the size that equal clusters would have.

  Args:
    sizes: images per cluster, [Q].
    effective_sizes: summed responsibilities, [Q], drawn as ticks across the bars; or
      None.
    start_sizes: images per cluster at the start, [Q], drawn as bars behind; or None.

  Returns:
    A Figure with one axes.
  """
  figure = _figure(min(9.5, max(6, 1.5 + .25 * len(sizes))), 2.6)
  axes, positions = figure.subplots(), np.arange(len(sizes))
  if start_sizes is not None:
    axes.bar(positions - .15, start_sizes, color='#c9d1d9', width=.6,
             label='at the start')
  axes.bar(positions + (start_sizes is not None) * .1, sizes, color=_ACCENT,
           width=.75 if start_sizes is None else .5, label='images assigned')
  axes.axhline(float(np.mean(sizes)), color=_GREY, linewidth=.8, linestyle='--',
               label='if all were equal')
  if effective_sizes is not None:
    axes.hlines(effective_sizes, positions - .375, positions + .375,
                color='#e07a1f', linewidth=1.6, label='effective size')
  _name_ticks(axes.xaxis, [str(position) for position in positions])
  axes.set_xlim(-.7, len(sizes) - .3)
  axes.set_xlabel('cluster', fontsize=9, color=_INK)
  axes.set_ylabel('images', fontsize=9, color=_INK)
  axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  axes.legend(fontsize=8, frameon=False, loc='lower left', ncols=4,
              bbox_to_anchor=(0, 1), borderaxespad=0)
  _tidy(axes)
  return figure


def bound_terms(history: Sequence[Mapping[str, Any]],
                bands: Sequence[Sequence[int] | None], num_dimensions: int) -> Figure:
  """Draws the terms of the bound by noise level, and how EM has changed them.

  Args:
    history: a dict for each EM iteration, at least one, with iteration, bound_prior,
      bound_decoder and bound_level_1 to bound_level_K (nats) and, if known, their
      standard errors over images, such as bound_level_1_standard_error.
    bands: (first step, last step) of each of the K bands; None: an empty band.
    num_dimensions: D, numbers an image, to convert nats to bits per dimension.

  Returns:
    A Figure. On the left are the terms of the last iteration with their standard errors,
    from the least noise to the most. If there are two iterations or more, their changes
    since the first are on the right.
  """
  name = lambda first, last: f'{first}–{last}' if first < last else f'{first}'
  terms = [('bound_decoder', 'decoder')] + [
      (f'bound_level_{k}', name(*band)) for k, band in enumerate(bands, 1) if band
  ] + [('bound_prior', 'prior')]

  def in_bits(suffix: str, missing: float) -> np.ndarray:
    nats = [[record.get(key + suffix, missing) for key, _ in terms] for record in history]
    return bits_per_dimension(np.array(nats), num_dimensions)

  bits, errors = in_bits('', math.nan), -in_bits('_standard_error', 0.)
  figure = _figure(9, 2.9)
  panels = figure.subplots(1, 1 + (len(history) > 1), squeeze=False)[0]
  positions = np.arange(len(terms))
  panels[0].bar(positions, bits[-1], yerr=errors[-1], color=_ACCENT, ecolor=_INK,
                width=.75)
  panels[0].set_title(f"EM {history[-1]['iteration']}", fontsize=10, loc='left',
                      color=_INK)
  panels[0].set_ylabel('bits per dimension', fontsize=9, color=_INK)
  for axes in panels[1:]:
    for row in range(1, len(history)):
      age = row / (len(history) - 1)
      # Without bars: their own errors are of the same images, and far larger than that of
      # a change, which is not kept.
      axes.plot(positions, bits[row] - bits[0], color=_ACCENT, alpha=.25 + .75 * age,
                linewidth=.8 + .8 * age, marker='o', markersize=3,
                label=f"EM {history[row]['iteration']}")
    axes.axhline(0, color=_GREY, linewidth=.8, linestyle='--')
    axes.set_title(f"Change since EM {history[0]['iteration']} (lower is better)",
                   fontsize=10, loc='left', color=_INK)
    handles, labels = axes.get_legend_handles_labels()
    shown = sorted({0, len(handles) // 2, len(handles) - 1})
    axes.legend([handles[i] for i in shown], [labels[i] for i in shown], fontsize=8,
                frameon=False)
  for axes in panels:
    axes.set_xticks(positions, [name for _, name in terms], rotation=40, ha='right',
                    rotation_mode='anchor')
    axes.set_xlabel('noise levels t, from little noise to much', fontsize=9, color=_INK)
    axes.ticklabel_format(axis='y', useOffset=False)
    axes.grid(True, axis='y', color='#e4e7eb', linewidth=.6)
    axes.set_axisbelow(True)
    _tidy(axes)
  return figure


def cluster_flows(flows: np.ndarray, overlaps: np.ndarray) -> Figure:
  """Draws where the images of each starting cluster went, and which clusters overlap.

  Args:
    flows: images by cluster at the start (down) and at the end (across), int [Q, Q]; see
      `evaluation.diagnostics.flows`.
    overlaps: [Q, Q] in [0, 1], see `evaluation.diagnostics.overlaps`.

  Returns:
    A Figure of two matrices. Their entries are printed for up to 20 clusters.
  """
  num_clusters = len(flows)
  side = min(4.4, max(2.2, .36 * num_clusters))
  figure = _figure(2 * side + 1.2, side + .8)
  shares = flows / np.maximum(flows.sum(1, keepdims=True), 1)
  panels = (
      ('From the start to the end', 'cluster at the end', 'cluster at the start',
       shares, [[f'{count}' if count else '' for count in row] for row in flows]),
      ('Overlap at the end', 'cluster', 'cluster', 2 * overlaps,  # 1/2: they are one
       [[f'{share:.0%}' if share >= .005 else '' for share in row]
        for row in overlaps]))
  for axes, (title, across, down, shade, entries) in zip(figure.subplots(1, 2), panels):
    axes.imshow(shade, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    for axis in (axes.xaxis, axes.yaxis):
      _name_ticks(axis, [str(cluster) for cluster in range(num_clusters)], most=20)
    axes.set_title(title, fontsize=10, loc='left', color=_INK)
    axes.set_xlabel(across, fontsize=9, color=_INK)
    axes.set_ylabel(down, fontsize=9, color=_INK)
    _tidy(axes)
    if num_clusters <= 20:
      for (row, column), share in np.ndenumerate(shade):
        axes.text(column, row, entries[row][column], ha='center', va='center',
                  fontsize=7, color='white' if share > .55 else _INK)
  return figure


def num_clusters(choice: Mapping[str, Any]) -> Figure:
  """Draws the evidence for each number of clusters, and the number that was chosen.

  Args:
    choice: numbers (the numbers of clusters that were tried), rising; modularity, icl,
      stability and votes, a value for each of them; and chosen, one of them.

  Returns:
    A Figure with four axes.
  """
  figure = _figure(9, 4.6)
  numbers = choice['numbers']
  panels = (
      ('modularity', 'Neighbours kept together', 'modularity'),
      ('votes', 'Votes', 'random parts and graphs'),
      ('stability', 'Stability', 'adjusted Rand index'),
      ('icl', 'Penalised likelihood', 'ICL (nats per image)'))
  for axes, (key, title, label) in zip(figure.subplots(2, 2).flat, panels):
    if key == 'votes':
      axes.bar(numbers, choice[key], color=_ACCENT, width=.75)
    else:
      axes.plot(numbers, choice[key], color=_ACCENT, linewidth=1.6, marker='o',
                markersize=3)
    axes.axvline(choice['chosen'], color=_GREY, linewidth=.8, linestyle='--', zorder=0)
    axes.set_xlim(numbers[0] - .6, numbers[-1] + .6)
    axes.set_title(title, fontsize=10, loc='left', color=_INK)
    axes.set_ylabel(label, fontsize=9, color=_INK)
    axes.set_xlabel('clusters', fontsize=9, color=_INK)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(10, integer=True))
    axes.ticklabel_format(axis='y', useOffset=False)
    _tidy(axes)
  return figure


def latent_map(points: np.ndarray, clusters: np.ndarray,
               mistakes: np.ndarray | None = None,
               examples: Sequence[np.ndarray] | np.ndarray = (),
               texts: Sequence[str] = ()) -> Figure:
  """Draws images as points of a map, by cluster, and the misclustered ones beside it.

  Each cluster has a colour, and its number stands where its points are densest. Examples
  of misclustered images are shown below the map, with numbers that are on the map, too.

  Args:
    points: [n, 2].
    clusters: of the points, integers from 0, [n].
    mistakes: indices 0..n - 1 of the misclustered points, [m]; None: labels are unknown,
      and there is one map only.
    examples: the images of the first k of them, [k, H, W, C] in [-1, 1], C 1 or 3.
    texts: a few short lines about each example, k texts.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  columns = 8
  rows = -(-len(examples) // columns)
  heights = [4.6] + [1.6 * rows] * (rows > 0)
  figure = _figure(4.6 if mistakes is None else 9, sum(heights))
  parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
  top, *below = np.ravel(parts)
  panels = top.subplots(1, 1 + (mistakes is not None), squeeze=False)[0]
  area = min(14., max(2.5, 9000 / len(points)))
  for turn, marker in enumerate(_MARKERS):
    chosen = clusters // len(COLOURS) % len(_MARKERS) == turn
    panels[0].scatter(*points[chosen].T, s=area, marker=marker, linewidths=0,
                      c=np.take(COLOURS, clusters[chosen] % len(COLOURS)))
  for cluster in np.unique(clusters):
    _number(panels[0], cluster, _densest(points, clusters == cluster), 11)
  panels[0].set_title('Clusters', fontsize=10, loc='left', color=_INK)
  for axes in panels[1:]:
    assert mistakes is not None
    axes.scatter(*points.T, s=area, linewidths=0, c='#d3d9df')
    axes.scatter(*points[mistakes].T, s=1.5 * area, linewidths=0, c=_ALARM)
    axes.set_title(f'Misclustered ({len(mistakes):,})', fontsize=10, loc='left',
                   color=_INK)
    for number, place in enumerate(points[mistakes[:len(examples)]], 1):
      _number(axes, number, place, 8)
  for axes in panels:
    axes.set_aspect('equal', 'datalim')
  for part in below:
    pictures = part.subplots(rows, columns, squeeze=False).ravel()
    for axes in pictures[len(examples):]:
      axes.set_axis_off()
    for number, (axes, image) in enumerate(zip(pictures, _pictures(examples)), 1):
      axes.imshow(image, interpolation='nearest')
      axes.set_title(f'{number}. {texts[number - 1]}', fontsize=7, loc='left', color=_INK,
                     parse_math=False)  # names of labels may hold dollars
    panels = [*panels, *pictures]
  for axes in panels:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color('#d5dae0')
  return figure


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray,
                    columns: int = 12) -> Figure:
  """Draws real images, and below each what the model makes of its latent.

  Args:
    originals: [n, H, W, C] in [-1, 1], C 1 or 3.
    reconstructed: their reconstructions in the same order, [n, H, W, C].
    columns: the number of images side by side.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  rows = [[images[first:first + columns]]
          for first in range(0, len(originals), columns)
          for images in (originals, reconstructed)]
  return sheet(rows, headings=('real above, reconstruction below',), paired=True)


def latent_walk(images: np.ndarray, pairs: Sequence[tuple[int, int]]) -> Figure:
  """Draws a row of images for each walk from one cluster to another.

  Args:
    images: [rows, steps, H, W, C] in [-1, 1], C 1 or 3.
    pairs: the clusters (from, to) of each row.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  return sample_grid(images, [f'{q} → {r}' for q, r in pairs],
                     heading='from one cluster to another')


def latent_terms(iterations: Sequence[int],
                 terms: Mapping[str, Sequence[float | None]]) -> Figure:
  """Draws curves of quantities of the latents by EM iteration.

  Args:
    iterations: the numbers of the n EM iterations.
    terms: {name: n values, None where unknown}, at least one name.

  Returns:
    A Figure with axes for each name.
  """
  columns = min(3, len(terms))
  rows = -(-len(terms) // columns)
  figure = _figure(3 * columns, 2.4 * rows)
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes, (name, values) in zip(panels, terms.items()):
    values = [math.nan if value is None else value for value in values]
    axes.plot(iterations, values, color=_ACCENT, linewidth=1.6, markersize=3,
              marker='o' if len(values) <= 30 else None)
    axes.set_title(name, fontsize=10, loc='left', color=_INK)
    axes.set_xlabel('EM iteration', fontsize=9, color=_INK)
    axes.set_xlim(min(iterations) - .5, max(iterations) + .5)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    axes.ticklabel_format(axis='y', useOffset=False)
    axes.grid(True, color='#e4e7eb', linewidth=.6)
    _tidy(axes)
  for axes in panels[len(terms):]:
    axes.set_axis_off()
  return figure


def shorten(name: str, most: int = 24) -> str:
  """Cuts a name that is too long.

  Args:
    name: the name.
    most: the number of characters to keep at most.

  Returns:
    The name; if it was cut, its last character is an ellipsis.
  """
  return name if len(name) <= most else name[:most - 1] + '…'


def sheet(rows: Sequence[Sequence[np.ndarray]], headings: Sequence[str],
           row_titles: Sequence[str] | None = None,
           row_labels: Sequence[str] | None = None, title: str = '',
           paired: bool = False) -> Figure:
  """Lays out rows of picture groups on white.

  Args:
    rows: [rows][groups] image arrays [n, H, W, C]; n may differ by row.
    headings: one per group, above the first row.
    row_titles: one line above each row; or None.
    row_labels: a short name left of each row; or None.
    title: a line on top; '': none.
    paired: rows belong together two by two, with a gap after each pair.

  Returns:
    A Figure that shows the sheet pixel for pixel.
  """
  rows = [[_pictures(group) for group in groups] for groups in rows]
  height, width = rows[0][0].shape[1:3]
  gap, group_gap, margin = 4, 28, 24
  columns = [
      max(1, *(len(groups[i]) for groups in rows)) for i in range(len(headings))]
  # A sheet is shown as wide as the page, so text grows with its width.
  line = round(44 * max(1, sum(columns) * (width + gap) / 1800))
  group_widths = [
      max(count * (width + gap) - gap, round(.42 * line * len(heading)))
      for count, heading in zip(columns, headings)]
  content = sum(group_widths) + group_gap * (len(headings) - 1)
  left = margin + (round(line * .6 * max(map(len, row_labels)) + line / 2)
                   if row_labels else 0)
  total_width = max(left + content, 17 * line if title or row_titles else 0) + margin
  lefts = [
      left + sum(group_widths[:i]) + group_gap * i for i in range(len(headings))]
  top = margin + (round(1.4 * line) if title else 0) + line
  row_head = round(1.3 * line) if row_titles else 0
  step = row_head + height + (round(line / 3) if row_titles else gap * 2)
  tops = [top + row * step + row_head + paired * (row // 2) * group_gap
          for row in range(len(rows))]
  total_height = tops[-1] - row_head + step + margin

  sheet = np.full((total_height, total_width, 3), 255, np.uint8)
  for row, groups in enumerate(rows):
    y = tops[row]
    for x, group in zip(lefts, groups):
      for column, picture in enumerate(group):
        start = x + column * (width + gap)
        # The outline keeps the edge of a white picture in sight.
        sheet[y - 1:y + height + 1, start - 1:start + width + 1] = 213
        sheet[y:y + height, start:start + width] = picture

  # A hair more than whole pixels, as the canvas rounds its size down.
  figure = Figure(
      ((total_width + .01) / DPI, (total_height + .01) / DPI), dpi=DPI)
  FigureCanvasAgg(figure)
  figure.figimage(sheet)

  def write(x: float, y: float, text: str, size: float = .6, **style: Any) -> None:
    figure.text(x / total_width, 1 - y / total_height, text,
                fontsize=size * line * 72 / DPI, color=_INK,
                parse_math=False, **{'va': 'bottom', **style})

  if title:
    write(margin, margin + line, title, size=.66, weight='bold')
  for x, heading in zip(lefts, headings):
    write(x, top - line / 6, heading, weight='bold')
  for row in range(len(rows)):
    y = tops[row]
    if row_titles:
      write(left, y - line / 6, row_titles[row])
    if row_labels:
      write(left - line / 3, y + height / 2, row_labels[row], ha='right',
            va='center')
  return figure


def _pictures(images: ArrayLike) -> np.ndarray:
  """Turns [n, H, W, C] in [-1, 1] into uint8 [n, h, w, 3], h and w about _TILE."""
  images = np.asarray(images, np.float32)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f'images of shape {images.shape}: [n, H, W, 1 or 3] is needed')
  # The mean of an empty cluster may be NaN: show grey.
  images = np.clip(np.nan_to_num(images) * 127.5 + 127.5, 0, 255)
  images = np.broadcast_to(
      images.round().astype(np.uint8), (*images.shape[:3], 3))
  longest = max(images.shape[1:3])
  if longest <= _TILE:
    scale = _TILE // longest
    return images.repeat(scale, 1).repeat(scale, 2)
  height, width = (max(1, round(s * _TILE / longest)) for s in images.shape[1:3])
  small = [
      np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
      for image in images]
  return np.reshape(small, (-1, height, width, 3)).astype(np.uint8)


def _densest(points: np.ndarray, own: np.ndarray) -> np.ndarray:
  """The point [2] of a cluster that has most of its points and fewest others near.

  Args:
    points: [n, 2].
    own: whether a point is in the cluster, bool [n].
  """
  reach = .05 * np.ptp(points, axis=0).max() + 1e-9
  weights = np.exp(-(distance.cdist(points[own], points) / reach)**2)
  return points[own][np.argmax(weights @ np.where(own, 1., -1.))]


def _number(axes: Axes, number: int, place: np.ndarray, size: float) -> None:
  """Writes a number at a place of a map, readable on points of any colour."""
  axes.text(place[0], place[1], str(number), fontsize=size, color=_INK, weight='bold',
            ha='center', va='center', path_effects=[
                patheffects.withStroke(linewidth=size / 4, foreground='white')])


def named(clusters: Sequence[int], names: Sequence[str] | None) -> list[str]:
  """The numbers of clusters as texts, each with its name, if it has one.

  Args:
    clusters: numbers.
    names: of all clusters, '' where there is none; None: there are none.
  """
  return [f'{q} {shorten(names[q], LONGEST_NAME)}' if names and names[q] else str(q)
          for q in clusters]


def _largest(sizes: ArrayLike, count: int) -> list[int]:
  """The indices of the `count` largest sizes, in rising order of index."""
  return sorted(np.argsort(-np.asarray(sizes), kind='stable')[:count].tolist())


def _cap_title(which: str, shown: int, total: int) -> str:
  return f'The {which} {shown} of {total} clusters' if shown < total else ''


def _row_title(cluster: str, size: int, certainty: float | None) -> str:
  if not size or certainty is None:
    return f'cluster {cluster} · empty'
  share = f'{certainty:.2f}'.removeprefix('0')
  images = 'image' if size == 1 else 'images'
  return f'cluster {cluster} · {size:,} {images} · mean certainty {share}'


def _figure(width: float, height: float) -> Figure:
  figure = Figure((width, height), dpi=DPI, layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def _name_ticks(axis: Axis, names: Sequence[str], most: int = 25) -> None:
  """Names every tick, or every second, third, ... one: at most `most` in all."""
  step = math.ceil(len(names) / most)
  axis.set_ticks(range(0, len(names), step), names[::step], parse_math=False)


def _tidy(axes: Axes) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_GREY)
  axes.tick_params(labelsize=8, colors=_INK)
