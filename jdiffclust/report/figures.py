"""Figures of a run, as matplotlib Figures on the Agg canvas.

Sheets of pictures are laid out in whole pixels and placed without resampling,
so 8 x 8 digits stay crisp. Images are floats in [-1, 1] throughout.
"""

import math

from matplotlib import figure as mpl_figure
from matplotlib import patheffects
from matplotlib import ticker
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image
from scipy.spatial import distance

from jdiffclust.evaluation import clustering
from jdiffclust import files

DPI = 200
MAX_ROWS = 50

_TILE = 128  # The longest side of a picture on a sheet, in pixels.
_INK, _GREY, _ACCENT = '#1f2933', '#8792a0', '#1f6f9f'
_ALARM = '#c2260f'
# Ten colours that the colour-blind can tell apart (Petroff, 2021); where there are more
# clusters they come again, on other markers.
_COLOURS = ('#3f90da', '#ffa90e', '#bd1f01', '#94a4a2', '#832db6', '#a96b59', '#e76300',
            '#b9ac70', '#717581', '#92dadd')
_MARKERS = 'o^s'


def save_figure(figure, path):
  """Writes a figure as a PNG, all at once or not at all.

  Args:
    figure: a Figure.
    path: where to, ending in '.png'; the folder must exist.

  Raises:
    OSError: the folder is missing or cannot be written.
  """
  with files.replacing(path) as temporary:
    figure.savefig(temporary, format='png', dpi=figure.dpi)


def typical_and_uncertain(responsibilities, bound, k):
  """Chooses the images that show what a cluster is and where it ends.

  Args:
    responsibilities: [N, Q] in [0, 1].
    bound: [N] log-likelihood bounds, larger is likelier; breaks the ties that
      responsibilities of exactly 1 leave.
    k: how many of each, > 0.

  Returns:
    {cluster: (typical, uncertain)}: index arrays of length <= k into N, among
    the images assigned to that cluster: typical by falling responsibility then
    falling bound, uncertain by rising responsibility then rising bound.

  Raises:
    ValueError: the shapes do not fit.
  """
  responsibilities, bound = np.asarray(responsibilities), np.asarray(bound)
  if responsibilities.ndim != 2 or bound.shape != responsibilities.shape[:1]:
    raise ValueError(
        f'expected [N, Q] and [N], got {responsibilities.shape} and {bound.shape}')
  clusters, certainty = responsibilities.argmax(1), responsibilities.max(1)
  falling = np.lexsort((-bound, -certainty))
  rising = np.lexsort((bound, certainty))
  return {
      cluster: tuple(
          order[clusters[order] == cluster][:k] for order in (falling, rising))
      for cluster in range(responsibilities.shape[1])}


def cluster_gallery(means, members, sizes, certainties, max_rows=MAX_ROWS):
  """A row per cluster: its mean, its most typical and least certain members.

  Args:
    means: [Q, H, W, C] in [-1, 1], C 1 or 3.
    members: {cluster: (typical [<=k, H, W, C], uncertain [<=k, H, W, C])}, the
      images that `typical_and_uncertain` chose.
    sizes: [Q] images per cluster.
    certainties: [Q] mean largest responsibility in [0, 1], None if empty.
    max_rows: only this many of the largest clusters are drawn.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  shown = _largest(sizes, max_rows)
  return _sheet(
      [[means[cluster][None], *members[cluster]] for cluster in shown],
      headings=('mean', 'most typical', 'least certain'),
      row_titles=[
          _row_title(cluster, sizes[cluster], certainties[cluster])
          for cluster in shown],
      title=_cap_title('largest', len(shown), len(means)))


def sample_grid(samples, clusters=None, max_rows=MAX_ROWS,
                heading='generated images'):
  """A row of generated images per cluster.

  Args:
    samples: [Q, n, H, W, C] in [-1, 1], C 1 or 3.
    clusters: [Q] names of the rows, 0 to Q - 1 if None.
    max_rows: only the first rows are drawn.
    heading: what the images are.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  clusters = range(len(samples)) if clusters is None else clusters
  return _sheet(
      [[row] for row in samples[:max_rows]],
      headings=(heading,),
      row_labels=[str(cluster) for cluster in clusters][:max_rows],
      title=_cap_title('first', min(len(samples), max_rows), len(samples)))


def nearest_training(generated, training, distances, max_rows=MAX_ROWS):
  """A row per cluster: generated images, and the training images nearest to them.

  Args:
    generated: Q arrays [n, H, W, C] in [-1, 1], C 1 or 3.
    training: the nearest training image of each, in the same order.
    distances: Q arrays [n], root mean square over pixels.
    max_rows: only the first rows are drawn.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  rows = list(zip(generated, training))[:max_rows]
  return _sheet(
      rows, headings=('generated', 'nearest training images'),
      row_titles=[f'cluster {q} · distances {min(d):.2f} to {max(d):.2f}'
                  for q, d in enumerate(distances)][:max_rows],
      title=_cap_title('first', len(rows), len(generated)))


def save_animation(states, path, milliseconds=120):
  """Writes the way from noise to image as a GIF, a row of images per cluster.

  Args:
    states: [Q, n, k, H, W, C], around [-1, 1], C 1 or 3.
    path: the file; it appears when it is complete.
    milliseconds: a state is shown so long; the last one ten times as long.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
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


def hero(means, members, samples, sizes=None, columns=6, max_rows=10):
  """One wide picture: per cluster its mean, members and generated images.

  Args:
    means: [Q, H, W, C] in [-1, 1], C 1 or 3.
    members: as for `cluster_gallery`; the typical ones are drawn.
    samples: [Q, n, H, W, C] in [-1, 1].
    sizes: [Q] images per cluster; with them the largest clusters are drawn,
      otherwise the first.
    columns: how many members and generated images at most.
    max_rows: how many clusters at most.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  shown = _largest(np.zeros(len(means)) if sizes is None else sizes, max_rows)
  return _sheet(
      [
          [means[q][None], members[q][0][:columns], samples[q][:columns]]
          for q in shown],
      headings=('mean', 'members', 'generated'),
      row_labels=[str(q) for q in shown],
      title=_cap_title(
          'first' if sizes is None else 'largest', len(shown), len(means)))


def history_curves(history):
  """The bound, the uncertainty and the churn by EM iteration.

  Args:
    history: dicts with iteration, bound_bits_per_dim, mean_entropy (nats),
      changed_fraction (in [0, 1]) and, if there are labels, acc; any value but
      the iteration may be missing or None.

  Returns:
    A Figure with three axes.
  """
  figure = _figure(9, 2.9)
  iterations = [record['iteration'] for record in history]

  def draw(axes, key, **style):
    values = [record.get(key) for record in history]
    if any(value is not None for value in values):
      values = [math.nan if value is None else value for value in values]
      axes.plot(iterations, values, **style)

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


def confusion_matrix(labels, clusters, label_names=None, num_clusters=None):
  """How the labels spread over the clusters, matched pairs on the diagonal.

  Args:
    labels: [N] integers from 0.
    clusters: [N] integers from 0.
    label_names: L names, the numbers if None.
    num_clusters: Q, to show empty last clusters too.

  Returns:
    A Figure: labels down, clusters across, each by the label it matches or else
    mostly holds, empty ones last; the shade is the share of the cluster's
    images, and up to 20 x 20 the counts are printed.

  Raises:
    ValueError: as `evaluation.clustering.contingency`.
  """
  table = clustering.contingency(labels, clusters, num_clusters)
  matched = clustering.match_clusters(labels, clusters, num_clusters)
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


def cluster_sizes(sizes, effective_sizes=None, start_sizes=None):
  """Bars of images per cluster, with the size that equal clusters would have.

  Args:
    sizes: [Q] images per cluster.
    effective_sizes: [Q] summed responsibilities, drawn as ticks across the bars.
    start_sizes: [Q] images per cluster at the start, drawn as bars behind.

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
  axes.axhline(np.mean(sizes), color=_GREY, linewidth=.8, linestyle='--',
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


def bound_terms(history, bands, num_dimensions):
  """Where the bits of the bound are, and where EM has saved some.

  Args:
    history: dicts with iteration, bound_prior, bound_decoder and bound_level_1 ...
      bound_level_K (nats) and, if known, bound_level_1_standard_error ...; one at least.
    bands: K pairs (first, last step of the band), None for an empty one.
    num_dimensions: numbers in an image, to give bits per dimension.

  Returns:
    A Figure: the terms of the last iteration, from the least noise to the most; beside
    it, if there are two iterations, their change since the first.
  """
  name = lambda first, last: f'{first}–{last}' if first < last else f'{first}'
  terms = [('bound_decoder', 'decoder')] + [
      (f'bound_level_{k}', name(*band)) for k, band in enumerate(bands, 1) if band
  ] + [('bound_prior', 'prior')]

  def in_bits(suffix, missing):
    nats = [[record.get(key + suffix, missing) for key, _ in terms] for record in history]
    return np.array(nats) / (num_dimensions * math.log(2))

  bits, errors = -in_bits('', math.nan), in_bits('_standard_error', 0.)
  figure = _figure(9, 2.9)
  panels = figure.subplots(1, 1 + (len(history) > 1), squeeze=False)[0]
  positions = np.arange(len(terms))
  panels[0].bar(positions, bits[-1], color=_ACCENT, width=.75)
  panels[0].set_title(f"EM {history[-1]['iteration']}", fontsize=10, loc='left',
                      color=_INK)
  panels[0].set_ylabel('bits per dimension', fontsize=9, color=_INK)
  for axes in panels[1:]:
    for row in range(1, len(history)):
      age = row / (len(history) - 1)
      axes.errorbar(positions, bits[row] - bits[0], np.hypot(errors[row], errors[0]),
                    color=_ACCENT, alpha=.25 + .75 * age, linewidth=.8 + .8 * age,
                    elinewidth=.6, marker='o', markersize=3,
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


def cluster_flows(flows, overlaps):
  """Where the images of each starting cluster went, and which clusters share images.

  Args:
    flows: [Q, Q] images by cluster at the start (down) and at the end (across).
    overlaps: [Q, Q] in [0, 1], as of `evaluation.diagnostics.overlaps`.

  Returns:
    A Figure of two matrices; up to 20 clusters their entries are printed.
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


def num_clusters(choice):
  """What speaks for each number of clusters, and the number that was chosen.

  Args:
    choice: a dict of lists by number: numbers, modularity, icl, stability, votes; and
      chosen, one of the numbers.

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


def latent_map(points, clusters, mistakes=None, examples=(), texts=()):
  """Images as points, by cluster; beside it, where labels are known, the mistakes.

  Args:
    points: [n, 2].
    clusters: [n] integers from 0.
    mistakes: [m] indices into n of the misclustered ones; None: labels are unknown.
    examples: images of the first of them, [k <= m, H, W, C] in [-1, 1], C 1 or 3.
    texts: of each, what to say of it in a few short lines.

  Returns:
    A Figure: each cluster has a colour, and its number where it is densest. The examples
    stand below the map, by numbers that stand on it, too.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  columns = 8
  rows = -(-len(examples) // columns)
  heights = [4.6] + [1.6 * rows] * (rows > 0)
  figure = _figure(4.6 if mistakes is None else 9, sum(heights))
  top, *below = np.ravel(figure.subfigures(len(heights), 1, height_ratios=heights))
  panels = top.subplots(1, 1 + (mistakes is not None), squeeze=False)[0]
  area = min(14., max(2.5, 9000 / len(points)))
  for turn, marker in enumerate(_MARKERS):
    chosen = clusters // len(_COLOURS) % len(_MARKERS) == turn
    panels[0].scatter(*points[chosen].T, s=area, marker=marker, linewidths=0,
                      c=np.take(_COLOURS, clusters[chosen] % len(_COLOURS)))
  for cluster in np.unique(clusters):
    _number(panels[0], cluster, _densest(points, clusters == cluster), 11)
  panels[0].set_title('Clusters', fontsize=10, loc='left', color=_INK)
  for axes in panels[1:]:
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


def reconstructions(originals, reconstructed, columns=12):
  """Real images, and below each what the model makes of its latent.

  Args:
    originals: [n, H, W, C] in [-1, 1], C 1 or 3.
    reconstructed: their reconstructions, in the same order.
    columns: images side by side.

  Returns:
    A Figure.

  Raises:
    ValueError: C is neither 1 nor 3.
  """
  rows = [[images[first:first + columns]]
          for first in range(0, len(originals), columns)
          for images in (originals, reconstructed)]
  return _sheet(rows, headings=('real above, reconstruction below',), paired=True)


def latent_walk(images, pairs):
  """A row of images for each walk from one cluster to another.

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


def latent_terms(iterations, terms):
  """Figures of the latents by EM iteration, each on axes of its own.

  Args:
    iterations: their numbers, [n].
    terms: {name: n numbers, None where unknown}, one name at least.

  Returns:
    A Figure with an axes per name.
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


def shorten(name, most=24):
  """Cuts a name to so many characters, the last one an ellipsis."""
  return name if len(name) <= most else name[:most - 1] + '…'


def _sheet(rows, headings, row_titles=None, row_labels=None, title='', paired=False):
  """Lays out rows of picture groups on white.

  Args:
    rows: [rows][groups] image arrays [n, H, W, C]; n may differ by row.
    headings: one per group, above the first row.
    row_titles: one line above each row.
    row_labels: a short name left of each row.
    title: a line on top.
    paired: every two rows belong together.

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
  figure = mpl_figure.Figure(
      ((total_width + .01) / DPI, (total_height + .01) / DPI), dpi=DPI)
  backend_agg.FigureCanvasAgg(figure)
  figure.figimage(sheet)

  def write(x, y, text, size=.6, **style):
    figure.text(x / total_width, 1 - y / total_height, text,
                fontsize=size * line * 72 / DPI, color=_INK,
                **{'va': 'bottom', **style})

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


def _pictures(images):
  """Turns [n, H, W, C] in [-1, 1] into [n, h, w, 3] bytes of about _TILE pixels."""
  images = np.asarray(images, np.float32)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(f'expected [n, H, W, 1 or 3] images, got {images.shape}')
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
      np.asarray(Image.fromarray(image).resize((width, height), Image.BOX))
      for image in images]
  return np.reshape(small, (-1, height, width, 3)).astype(np.uint8)


def _densest(points, own):
  """The point, of those that are `own` [n], with most of them and fewest others near."""
  reach = .05 * np.ptp(points, axis=0).max() + 1e-9
  weights = np.exp(-(distance.cdist(points[own], points) / reach)**2)
  return points[own][np.argmax(weights @ np.where(own, 1., -1.))]


def _number(axes, number, place, size):
  """Writes a number at a place of a map, readable on points of any colour."""
  axes.text(*place, str(number), fontsize=size, color=_INK, weight='bold', ha='center',
            va='center', path_effects=[
                patheffects.withStroke(linewidth=size / 4, foreground='white')])


def _largest(sizes, count):
  """The indices of the `count` largest sizes, in rising order of index."""
  return sorted(np.argsort(-np.asarray(sizes), kind='stable')[:count].tolist())


def _cap_title(which, shown, total):
  return f'The {which} {shown} of {total} clusters' if shown < total else ''


def _row_title(cluster, size, certainty):
  if not size or certainty is None:
    return f'cluster {cluster} · empty'
  certainty = f'{certainty:.2f}'.removeprefix('0')
  images = 'image' if size == 1 else 'images'
  return f'cluster {cluster} · {size:,} {images} · mean certainty {certainty}'


def _figure(width, height):
  figure = mpl_figure.Figure((width, height), dpi=DPI, layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  return figure


def _name_ticks(axis, names, most=25):
  """Names every tick, or every second, third... one where they would collide."""
  step = math.ceil(len(names) / most)
  axis.set_ticks(range(0, len(names), step), names[::step])


def _tidy(axes):
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_GREY)
  axes.tick_params(labelsize=8, colors=_INK)
