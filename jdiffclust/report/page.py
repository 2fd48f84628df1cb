"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
from PIL import Image

from jdiffclust import files
from jdiffclust.data.symmetry import MAPS
from jdiffclust.errors import UserError
from jdiffclust.evaluation import diagnostics

_DASH = '–'

# {name of a figure: (title, caption)}, in the order of the page. Figures without a title
# here come after them.
_FIGURES = {
    'hero': (
        'At a glance',
        'For each cluster its average image, real images that belong to it, and '
        'new images that the model invented for it.'),
    'cluster_gallery': (
        'The clusters',
        'Each row is a cluster: its average image, the images that fit it best, '
        'and those the model was least sure about, where clusters blur into each '
        'other.'),
    'sample_grid': (
        'Generated images',
        'New images that the model invented for each cluster, none of them part '
        'of your data. Compare a row with the members above: where it shows something '
        'else, the model has not learned that cluster well.'),
    'num_clusters': (
        'How many clusters?',
        'The number was chosen without labels: where neighbours, that is images that '
        'look alike, stay together more often than by chance (top left). The votes are '
        'the same question put to random parts of the images; stability is how far '
        'such a part gives the same clusters; the penalised likelihood of a simple '
        'mixture is a second opinion.'),
    'confusion_matrix': (
        'Clusters against labels',
        'Each column is a cluster and shows how its images spread over labels: one '
        'dark cell means that the cluster holds one label, several pale ones that '
        'it mixes labels.'),
}

# Figures that are not shown where the page shows the images themselves.
_REPLACED = ('hero', 'cluster_gallery', 'sample_grid')

# Figures of the section on the quality of generated images.
_QUALITY_FIGURES = {
    'nearest_training': (
        'Copies?',
        'For each cluster the generated images that come nearest to a training image, '
        'and these training images beside them, in the same order. Pairs that cannot be '
        'told apart are copies; distances are root mean squares over the pixels.'),
}

# Figures of the section on the latents.
_LATENT_FIGURES = {
    'latent_map': (
        'Map of the latents',
        'Each point is an image, and points are neighbours if their latents are (t-SNE: '
        'how far groups lie apart, and how large they are, means little). Colours, '
        'markers and numbers are the clusters. If there are labels, the images in red '
        'are those whose cluster is paired with another label, as for ACC, or with '
        'none. Some are shown below: one of each kind, the surest mistakes first.'),
    'reconstructions': (
        'Images from their latents',
        'Real images, and what the model makes of the latent of each. What is the same '
        'is what the latent tells of an image; the rest is invented anew.'),
    'latent_walk': (
        'From cluster to cluster',
        'Images made of latents on the way from one cluster to another, a row for each '
        'two clusters. Those half way show what the clusters have in common.'),
    'latent_terms': (
        'Round by round',
        'The quantities of the table above, in each EM iteration.'),
}

# Figures of the section on EM.
_EM_FIGURES = {
    'history_curves': (
        'Round by round',
        'How well the images are described (lower is better), how undecided the model '
        'is (lower is surer), and how many images changed cluster; flat curves mean '
        'that the fit had settled.'),
    'cluster_sizes': (
        'Cluster sizes',
        'How many images each cluster held at the start and holds now; the effective '
        'size lets an undecided image count in part for several clusters.'),
    'cluster_flows': (
        'Moves and overlaps',
        'Left, where the images of each starting cluster are now: off the diagonal are '
        'those that moved, and a row of two dark cells is a cluster that was split. '
        'Right, how much two clusters claim the same images: the probability that an '
        'image of one belongs to the other. Near one half they are one cluster.'),
    'bound_terms': (
        'The bound by noise level',
        'What it costs to describe an image, by how much noise has to be removed: fine '
        'detail on the left, the rough shape on the right. Each band of noise levels '
        'has the same weight in the bound; bars show the standard error over images. '
        'Beside it, where further rounds helped.'),
}

# The names of all.
FIGURES = frozenset(_FIGURES | _QUALITY_FIGURES | _LATENT_FIGURES | _EM_FIGURES)

_MEASURES = ('frechet', 'precision', 'recall', 'density', 'coverage')
_KINDS = {'generated': 'generated', 'real': 'real, held out', 'noise': 'noise'}

_METHODS = {
    'init': 'Start of the fit',
    'kmeans': 'k-means',
    'kmeans_of_embeddings': 'k-means of the embeddings',
    'gaussian_mixture': 'Gaussian mixture',
}


def write_report(path: str | os.PathLike, summary: Mapping[str, Any],
                 figures: Mapping[str, str | os.PathLike | None],
                 config: Mapping[str, Any],
                 per_cluster: Sequence[Mapping[str, Any]],
                 decided: Sequence[Mapping[str, Any]] = (),
                 view: Mapping[str, Any] | None = None) -> None:
  """Writes the report of a run, all at once or not at all.

  Args:
    path: the HTML file; its folder is made if it does not exist.
    summary: facts of the run, any of them None or missing: dataset, num_images,
      image_shape, method, num_clusters, seed, acc, nmi, ari, init (with acc, nmi,
      ari, method), baselines ({name: scores}), bound_bits_per_dim, mean_probability
      (of the chosen clusters), reliability (rows of `evaluation.scores.reliability`),
      num_em_iterations, num_clusters_choice (with chosen, confidence, within_one,
      numbers), symmetries (`data.symmetry.Symmetry` as a dict by name),
      train_images_per_second, e_step_evaluations_per_second, wall_seconds, devices,
      versions, warnings, advice (at the end, a text by kind), stop_reason,
      history (a dict for each EM iteration), sample_quality (the summary of
      `evaluation.sample_quality.measure`), latents (the summary of
      `evaluation.latent_space.LatentResults`), command. Further entries are not shown.
    figures: {name: path of a PNG, or None to leave it out}. The names of the functions
      in `report.figures` get a title and a caption.
    config: the configuration, of plain JSON types; others are shown as text.
    per_cluster: dicts as `evaluation.scores.cluster_table` makes them, perhaps with the
      name of each.
    decided: what a person made of the clusters: dicts of name, clusters, size and pinned.
    view: the images, see `explorer.view`; None: they are not shown.

  Raises:
    OSError: a figure cannot be read, or the page cannot be written.
  """
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True, trim_blocks=True, lstrip_blocks=True,
      undefined=jinja2.StrictUndefined)
  environment.filters.update(number=_number, percent=_percent, breaks=_breaks)
  history = summary.get('history') or ()
  here = pathlib.Path(__file__).parent
  replaced = _REPLACED if view else ()
  if view and view['matrix']:
    replaced += ('confusion_matrix',)
  page = environment.get_template('report.html.jinja').render(
      dataset=_text(summary.get('dataset')),
      facts=_facts(summary, view, decided),
      scores=_scores(summary),
      quick=summary.get('effort') == 'quick',
      agreement=[one['text'] for one in (summary.get('agreement') or {}).values() if one],
      bought=(summary.get('bought') or {}).get('text', ''),
      choice=summary.get('num_clusters_choice'),
      symmetries=_symmetries(summary.get('symmetries') or {}),
      reliability=[(row['low'], row['high'], _number(row['num_images']),
                    _percent(row['expected']), _percent(row['right']))
                   for row in summary.get('reliability') or ()],
      figures=_figures(_FIGURES, {
          name: path for name, path in figures.items()
          if name not in replaced
          and name not in _EM_FIGURES | _QUALITY_FIGURES | _LATENT_FIGURES}),
      quality=_quality(summary.get('sample_quality')),
      quality_figures=_figures(_QUALITY_FIGURES, {
          name: path for name, path in figures.items() if name in _QUALITY_FIGURES}),
      latents=_latents(summary.get('latents')),
      latent_figures=_figures(_LATENT_FIGURES, {
          name: path for name, path in figures.items() if name in _LATENT_FIGURES}),
      em_figures=_figures(_EM_FIGURES, {
          name: path for name, path in figures.items() if name in _EM_FIGURES}),
      iterations=[_iteration(record) for record in history],
      notes=[*(summary.get('warnings') or ()),
             *(summary.get('advice') or {}).values()],
      clusters=per_cluster, decided=decided,
      empty=sum(not row['size'] for row in per_cluster),
      run=_run(summary), verdict=_verdict(summary, view, decided), view=view,
      one_in=_one_in(config), command=summary.get('command'),
      style=markupsafe.Markup((here / 'report.css').read_text('utf-8')),
      script=markupsafe.Markup((here / 'explorer.js').read_text('utf-8')),
      data=view and _embedded_json(view['data']),
      config=json.dumps(config, indent=2, default=str, ensure_ascii=False))
  with files.replacing(path) as temporary:
    temporary.write_text(page, encoding='utf-8')


def _embedded_json(data: Any) -> markupsafe.Markup:
  """JSON within a script element, which no text in it can end."""
  return jinja2.utils.htmlsafe_json_dumps(data, separators=(',', ':'))


def _one_in(config: Mapping[str, Any]) -> str:
  """Of how many images about one is called foreign, whatever they are."""
  share = (config.get('predict') or {}).get('foreign_share')
  return _number(1 / share) if share else 'a hundred'


def _verdict(summary: Mapping[str, Any], view: Mapping[str, Any] | None,
             decided: Sequence[Mapping[str, Any]] = ()) -> list[str]:
  """What the run thinks of itself, a plain sentence each."""
  found = []
  if view:
    total = view['total']
    found.append(
        f"Of {_number(total)} images {_number(view['sure'])} "
        f"({_percent(view['sure'] / total)}) are sure: their cluster has more than 95 % "
        f"of the probability{', or they are pinned' * bool(view['pinned'])}. "
        f"{_number(view['torn'])} are torn between clusters.")
    if not view['sure'] and summary.get('history'):  # not of a start alone
      found.append('That none is sure is so after a training that was too short, '
                   'whatever the images are: it need not be their fault.')
    if view['pairs']:
      most = view['pairs'][0]
      found.append(f"{_counted(view['alike'], 'pair')} of clusters look alike, most of "
                   f"all {' and '.join(most['titles'])}: see Clusters that look alike.")
    elif len(view['cards']) > 1:
      found.append('No two clusters run into each other.')
  if not summary.get('num_clusters_choice'):
    found.append(f"The number of clusters, {_number(summary.get('num_clusters'))}, was "
                 'given, not found (num_clusters=auto would look for it).')
  sizes = summary.get('cluster_sizes') or ()
  if 0 in sizes:
    empty = list(sizes).count(0)
    found.append(f"{_counted(empty, 'cluster')} {'is' if empty == 1 else 'are'} empty: "
                 'the images do not need so many.')
  if view and (view['foreign']['count'] or view['copies']['count']):
    found.append(f"{_counted(view['foreign']['count'], 'image')} stand out as unusual, "
                 f"{_counted(view['copies']['count'], 'image')} repeat others: see "
                 'Unusual images and copies.')
  if summary.get('acc') is not None:
    known, number = summary.get('num_labelled'), summary['num_images']
    those = f'{_number(known)} labelled ' if known and known < number else ''
    found.append(f"By the labels, which the run never saw, {_percent(summary['acc'])} of "
                 f"the {those}images are in {_whose(decided)} cluster that stands for "
                 'their label' + ', decisions not counted' * bool(decided) + '.')
    sure = [row for row in summary.get('reliability') or () if row['low'] >= .9]
    count = sum(row['num_images'] for row in sure)
    if count:
      right = sum(row['num_images'] * row['right'] for row in sure) / count
      found.append(f'Where it was more than 90 % sure, {_percent(right)} of them were '
                   'right.')
  if summary.get('history') and not summary.get('advice'):
    found.append('Nothing was amiss at the end that the fit can tell of itself. Whether '
                 'the clusters are the ones you have in mind it cannot tell.')
  return found


def _counted(count: int, word: str) -> str:
  """A number of things, in words."""
  return f"{_number(count)} {word}{'' if count == 1 else 's'}"


def _whose(decided: Sequence[Mapping[str, Any]]) -> str:
  """Of whom the clusters are that figures are of, where a person has changed some."""
  return "the model's own" if decided else 'the'


def _facts(summary: Mapping[str, Any], view: Mapping[str, Any] | None,
           decided: Sequence[Mapping[str, Any]] = ()) -> tuple[tuple[str, str], ...]:
  """The headline: (value, what it is) pairs."""
  number = _number(summary.get('num_clusters'))
  images = _number(summary.get('num_images')), 'images'
  if view and view['added']:
    images = (_number(view['total']),
              f"images, {_number(view['added'])} of them added after the fit")
  return (
      images,
      (_shape(summary.get('image_shape')), 'pixels each, as the model sees them'),
      (_number(len(decided)), 'clusters: groups of images that look alike, as you '
       f"decided; the model's own are {number}") if decided else
      (number, 'clusters: groups of images that look alike'),
      (_percent(summary.get('mean_probability')), 'of the images are in the right '
       + "one of the model's clusters, by its" * bool(decided)
       + "cluster, by the model's" * (not decided) + ' own probabilities'),
  )


def _scores(summary: Mapping[str, Any]) -> list[tuple]:
  """Rows of the score table: (name, acc, nmi, ari), none without labels."""
  init = summary.get('init') or {}
  known = {'This run': summary}
  start = f' ({init["method"]})' if init.get('method') else ''
  known[_METHODS['init'] + start] = init
  for name, scores in (summary.get('baselines') or {}).items():
    known[_METHODS.get(name, name)] = scores or {}
  rows = [
      (name, *(scores.get(key) for key in ('acc', 'nmi', 'ari')))
      for name, scores in known.items()]
  labelled = any(value is not None for _, *values in rows for value in values)
  return rows if labelled else []


def _quality(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """Rows of the tables on generated images, as text; None where nothing was measured."""
  if not found:
    return None
  names = list(found['features'])

  def mean(value: Mapping | None, digits: int = 2, deviation: bool = False) -> str:
    if value is None:
      return _DASH
    spread = (f" ± {_number(value['std'], digits)}"
              if deviation and value['std'] is not None else '')
    return _number(value['mean'], digits) + spread

  def measures(judged: Mapping, name: str, deviation: bool = False) -> list[str]:
    return [mean((judged[name] or {}).get(key), 3 if key == 'frechet' else 2, deviation)
            for key in _MEASURES]

  def others(judged: Mapping) -> list[str]:
    accuracy, ratio = judged['label_accuracy'], judged['nearest_ratio']
    return [_percent(accuracy and accuracy['mean']), _number(ratio, 2),
            _percent(judged['near_copies'])]

  overall = found['overall']
  groups = [('All', overall)] + [(row['cluster'], row) for row in found['clusters']]
  return {
      'by_features': [
          (f'{name} ({found["features"][name]})', kind,
           measures(overall[key], name, deviation=True))
          for name in names for key, kind in _KINDS.items()],
      'by_cluster': [
          (cluster, _number(group['num_images']), kind,
           measures(group[key], names[0]) + others(group[key]))
          for cluster, group in groups for key, kind in _KINDS.items()],
      'features': names[0], 'num_clusters': len(found['clusters']),
      'num_images': _number(overall['num_images']),
      'neighbours': found['neighbours'], 'splits': found['splits'],
      'targets': found['targets'],
      'classifier_accuracy': _percent(
          (found['classifier_accuracy'] or {}).get('mean')),
      'definitions': found['definitions']}


def _latents(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """Rows of the tables on latents, as text; None where there are none."""
  if not found:
    return None
  neighbours = found['neighbours'] or {'num_images': 0, 'latents': {}, 'pixels': {}}

  def significant(value: float | None) -> str:
    return _DASH if _number(value) == _DASH else f'{value:.4g}'

  return {
      'num_images': _number(neighbours['num_images']),
      'ks': [_number(int(k)) for k in neighbours['latents']],
      'neighbours': [
          (name, [_percent(value) for value in neighbours[key].values()])
          for name, key in (('Latents', 'latents'), ('Raw pixels', 'pixels'))],
      'terms': [(name, significant(values[0]), significant(values[-1]))
                for name, values in found['terms'].items()]}


def _symmetries(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
  """What was found of each map: what it does, if it holds, the share and its error."""
  return [(MAPS[name].text, 'yes' if one['holds'] else 'no', _number(one['share'], 2),
           _number(one['error'], 2)) for name, one in found.items()]


def _run(summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
  """The facts of the run: (what, value) pairs of text."""
  devices, versions = summary.get('devices'), summary.get('versions') or {}
  if isinstance(devices, (list, tuple)):
    devices = ', '.join(
        f'{devices.count(name)} × {name}' if devices.count(name) > 1 else str(name)
        for name in dict.fromkeys(devices))
  return (
      ('Method', _text(summary.get('method'))),
      ('Bound', _unit(summary.get('bound_bits_per_dim'), 'bits per dimension', 4)),
      ('EM iterations', _number(summary.get('num_em_iterations'))),
      ('Stopped because', _text(summary.get('stop_reason'))),
      ('Training speed', _unit(summary.get('train_images_per_second'), 'images/s')),
      ('E-step speed', _unit(
          summary.get('e_step_evaluations_per_second'), 'network evaluations/s')),
      ('Wall time', _duration(summary.get('wall_seconds'))),
      ('Devices', _text(devices)),
      ('Seed', _text(summary.get('seed'))),
      ('Versions', ', '.join(f'{k} {v}' for k, v in versions.items()) or _DASH),
  )


def _iteration(record: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
  """An EM iteration's row in the table: its numbers, and its moves in words."""
  sizes = [_number(record.get(f'{kind}_cluster')) for kind in ('smallest', 'largest')]
  moves = ', '.join(f'{q} → {r}: {count:,}'
                    for q, r, count in (record.get('flows') or ())[:3])
  events = (diagnostics.splits_and_merges(dict(record))
            if {'splits', 'overlaps'} <= record.keys() else [])
  change, error = record.get('bound_change'), record.get('bound_change_error')
  numbers = (
      _number(record['iteration']), _number(record.get('bound_bits_per_dim'), 4),
      _DASH if change is None else f'{change:+.2f} ± {error:.2f}',
      _number(record.get('mean_entropy'), 3),
      _percent(record.get('certain_fraction')),
      _percent(record.get('uncertain_fraction')),
      _percent(record.get('changed_fraction')),
      _percent(record.get('moved_fraction')),
      ' to '.join(sizes), _number(record.get('effective_clusters'), 2))
  return numbers, '; '.join([moves or _DASH, *events])


def _figures(described: Mapping[str, tuple[str, str]],
             figures: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Dicts of title, caption, width and data URI, in the order of the page."""
  names = [name for name in (*described, *figures) if figures.get(name) is not None]
  shown = []
  for name in dict.fromkeys(names):
    title, caption = described.get(name, (name.replace('_', ' ').capitalize(), ''))
    data = pathlib.Path(figures[name]).read_bytes()
    try:
      with Image.open(io.BytesIO(data)) as image:
        width = image.width // 2  # Two pixels for one: sharp on good screens.
    except OSError:
      raise UserError(f'{figures[name]} is damaged, or no picture: remove it, or restore '
                      'it.') from None
    shown.append({'title': title, 'caption': caption, 'width': width,
                  'source': embedded(figures[name])})
  return shown


def embedded(path: str | os.PathLike) -> str:
  """A PNG file as the source of an image within a page."""
  data = pathlib.Path(path).read_bytes()
  return f'data:image/png;base64,{base64.b64encode(data).decode()}'


def _text(value: Any) -> str:
  return _DASH if value is None or value == '' else str(value)


def _number(value: float | None, digits: int = 0) -> str:
  """A number with thousands separators, or a dash for None and NaN."""
  if value is None or not math.isfinite(value):
    return _DASH
  return f'{value:,.{digits}f}'


def _breaks(name: str) -> markupsafe.Markup:
  """A file name that is broken after _ and -, rather than within words."""
  return markupsafe.Markup('<wbr>').join(re.findall('[^_-]+[_-]*|[_-]+', name))


def _percent(value: float | None) -> str:
  if value is None or not math.isfinite(value):
    return _DASH
  return f'{100 * value:.1f}\N{NO-BREAK SPACE}%'


def _unit(value: float | None, unit: str, digits: int = 0) -> str:
  number = _number(value, digits)
  return number if number == _DASH else f'{number} {unit}'


def _shape(shape: Sequence[int] | None) -> str:
  if not shape:
    return _DASH
  colour = {1: ' grey', 3: ' colour'}.get(shape[2], '') if len(shape) == 3 else ''
  return ' × '.join(str(size) for size in shape[:2]) + colour


def _duration(seconds: float | None) -> str:
  if seconds is None or not math.isfinite(seconds):
    return _DASH
  if seconds < 100:
    return f'{seconds:.1f} s'
  minutes = round(seconds / 60)
  return f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{minutes} min'
