"""What the page of a run shows of its images and clusters, from the rows of results.csv.

Python lays out what can be read without JavaScript: cards, look-alikes, the unusual and
the repeated images, the matrix of labels. The rest is data for explorer.js: of each image
that is shown its row, its tile and why it is where it is.

Of more than `MOST_SHOWN` images some are shown: of each cluster those that are most and
least certain, and others drawn at random.
"""

from __future__ import annotations

import base64
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdiffclust.data.by_name import CHANGED, FORMULA, PLAIN
from jdiffclust.decisions import Decisions
from jdiffclust.evaluation import gallery
from jdiffclust.evaluation.diagnostics import CERTAIN, OVERLAP, overlaps
from jdiffclust.report import figures, thumbnails
from jdiffclust.report.spreadsheet import NUMBERS, OURS, Columns, cell_text
from jdiffclust.report.thumbnails import Sheets

FILE = 'thumbnails.npz'  # in the folder of a run
MOST_SHOWN = 10_000
# Names of sheets -> bytes that they may take: all images, clusters (means and generated
# images), and some images larger, which the cards show.
SHEETS = {'images': 10_000_000, 'clusters': 2_000_000, 'close': 2_000_000}
OF_IMAGES = ('images', 'close')
# Images that were added have a sheet of their own, which is made with the page: so many
# are shown, or more where the fit's own images leave room; of more some, at random.
ADDED = 'added'
MOST_ADDED, ADDED_PIXELS, ADDED_BYTES = 2_500, 4_000_000, 2_500_000
CLOSE_PIXELS, CLOSE_SIDE, CLUSTER_PIXELS = 4_000_000, 128, 3_000_000
TYPICAL, UNSURE, GENERATED = 10, 5, 5  # pictures on a card
TORN = .7  # an image is torn between clusters if its largest probability is smaller
WHY = 3  # nearest images of its own and of the rival cluster that explain an image
# Two clusters are said to be alike if of the nearest images of those of one more than
# this share are in the other, or if they claim more than `OVERLAP` of the same images.
MIXED = .02
MOST_PAIRS, MOST_NEAREST, BETWEEN = 6, 3, 8
MOST_GROUPS, MOST_FOREIGN = 24, 24  # of copies, and of unusual images, on the page
WIDEST_MATRIX = 40  # labels, and clusters, of a matrix that is a table
MOST_METADATA = 2_000_000  # characters of the user's own columns


class Explored(NamedTuple):
  """What is known of the images of a run for its page.

  Attributes:
    columns: of all N images, see `spreadsheet.columns_of`; those that were added after
      the fit come last.
    decided: by hand.
    features: by which neighbours are found, [N, D].
    sheets: by the names in `SHEETS`, and of images that were added.
  """

  columns: Columns
  decided: Decisions
  features: np.ndarray
  sheets: Mapping[str, Sheets]


# -------------------------------------------------------------------------- pictures


def shown_rows(columns: Columns, most: int = MOST_SHOWN) -> np.ndarray:
  """The images that are shown, int, rising: all, or `most` of them."""
  count = len(columns['file'])
  if count <= most:
    return np.arange(count)
  sizes = np.bincount(columns['cluster'])
  first = np.array(columns['rank'])
  last = sizes[columns['cluster']] - first + 1  # from the least certain one
  place = np.minimum(first, last)
  kept = place <= max(1, most // (4 * np.count_nonzero(sizes)))
  order = np.lexsort((np.random.default_rng(0).random(count), ~kept))
  return np.sort(order[:most])


def close_rows(columns: Columns, rows: np.ndarray) -> np.ndarray:
  """Of the images `rows` those that cards show, int, rising."""
  rank, cluster = np.array(columns['rank'])[rows], np.array(columns['cluster'])[rows]
  left = np.bincount(columns['cluster'])[cluster] - rank
  return rows[(rank <= TYPICAL) | (left < UNSURE)]


def asked_of(columns: Columns) -> dict[str, tuple[np.ndarray, int]]:
  """The images of which there are pictures, int, rising, and of which side, by sheet."""
  rows = shown_rows(columns)
  close = close_rows(columns, rows)
  return {'images': (rows, thumbnails.side_of(len(rows))),
          'close': (close, thumbnails.side_of(len(close), CLOSE_PIXELS, CLOSE_SIDE))}


def make_sheets(columns: Columns, thumbnail, means: np.ndarray,
                samples: np.ndarray) -> dict[str, Sheets]:
  """The pictures of a page, by the names in `SHEETS`.

  Args:
    columns: of N images.
    thumbnail: see `ImageSource`.
    means: of the clusters, [Q, H, W, C] in [-1, 1].
    samples: generated images, [Q, n, H, W, C].
  """
  asked = asked_of(columns)
  (rows, side), (close, large) = (asked[name] for name in OF_IMAGES)
  pictures = thumbnails.eight_bits(np.concatenate(
      [means, *np.swapaxes(samples[:, :GENERATED], 0, 1)]))
  clusters = np.arange(len(pictures)) % len(means)

  def of_cluster(tile: int, side: int) -> np.ndarray:
    return thumbnails.reduced(pictures[tile], side)

  def sheets_of(some: np.ndarray, side: int, name: str) -> Sheets:
    return thumbnails.sheets_of(lambda tile, most: thumbnail(some[tile], most), some,
                                side, SHEETS[name])

  found = {'clusters': thumbnails.sheets_of(
      of_cluster, clusters, thumbnails.side_of(len(clusters), CLUSTER_PIXELS, CLOSE_SIDE),
      SHEETS['clusters'])}
  # First, should time run out: the cards are seen by all.
  found['close'] = sheets_of(close if large > side else close[:0], large, 'close')
  found['images'] = sheets_of(rows, side, 'images')
  if found['close'].side <= found['images'].side:  # no image has more pixels
    found['close'] = sheets_of(close[:0], large, 'close')
  return {name: found[name] for name in SHEETS}


def with_added(sheets: Mapping[str, Sheets], first: int,
               originals: Sequence[bytes | None],
               pictures: Sequence[bytes | None]) -> dict[str, Sheets]:
  """The pictures of a page, with those of images that were added.

  Args:
    sheets: of the run's own images.
    first: the row of the first image that was added.
    originals, pictures: of these, see `added.Added`; those that have neither are not
      shown.
  """
  found = [original or picture for original, picture in zip(originals, pictures)]
  places = np.flatnonzero([file is not None for file in found])
  most = max(MOST_ADDED, MOST_SHOWN - len(sheets['images'].rows))
  places = np.sort(np.random.default_rng(0).permutation(places)[:most])
  files = [file for file in (found[place] for place in places.tolist()) if file]
  room = SHEETS['images'] - sum(map(len, sheets['images'].files))
  made = thumbnails.sheets_of(
      lambda tile, side: thumbnails.reduced(thumbnails.unpacked(files[tile]), side),
      first + places, thumbnails.side_of(len(places), ADDED_PIXELS),
      max(ADDED_BYTES, room))
  missing = np.array([originals[place] is None for place in places.tolist()], np.bool_)
  return {**sheets, ADDED: made._replace(missing=missing)}


def shown_of(sheets: Mapping[str, Sheets]) -> np.ndarray:
  """The rows of the images that a page shows, int, rising."""
  return np.concatenate([sheets[name].rows for name in ('images', ADDED)
                         if name in sheets])


def stylesheet(sheets: Mapping[str, Sheets]) -> str:
  """CSS by which an element of the classes `t` and `t-NAME-K` shows a tile."""
  lines = []
  for name, one in sheets.items():
    pixelated = ' image-rendering: pixelated;' if one.exact and one.side <= 48 else ''
    for number, file in enumerate(one.files):
      data = base64.b64encode(file).decode()
      lines.append(f'.t-{name}-{number} {{ --columns: {one.columns};{pixelated} '
                   f'background-image: url(data:image/webp;base64,{data}); }}')
  return '\n'.join(lines)


def tile_of(name: str, sheets: Sheets, place: int) -> dict[str, str]:
  """The classes and the style of an element that shows a tile."""
  number, rest = divmod(place, sheets.columns**2)
  row, column = divmod(rest, sheets.columns)
  cuts = ' '.join(f'{round(50 * (1 - side / sheets.side), 2):g}%'
                  for side in (sheets.heights[place], sheets.widths[place]))
  clip = '' if cuts == '0% 0%' else f'; clip-path: inset({cuts})'
  return {'classes': f't t-{name}-{number}', 'style': f'--x: {column}; --y: {row}{clip}'}


# ------------------------------------------------------------------------ what is told


def view(explored: Explored) -> dict[str, Any]:
  """What the template shows: see its parts.

  Returns:
    A dict of
      data: for explorer.js, of plain JSON types;
      stylesheet: see `stylesheet`;
      total, shown: how many images there are, and on the page;
      added: how many images were added after the fit;
      missing: of how many images there is no picture of the original: of the fit's own
        and of those that were added;
      cards: of each cluster, see `_cards`;
      sure, fair, torn: shares of all images;
      pairs: of clusters that are alike, see `_pairs`; alike: how many there are;
      pinned: how many images are;
      foreign, copies, matrix: see `_foreign`, `_copies` and `_matrix`.
  """
  columns, sheets = explored.columns, explored.sheets
  rows, own = shown_of(sheets), len(sheets['images'].rows)
  places = {int(row): place for place, row in enumerate(rows)}
  close = {int(row): place for place, row in enumerate(sheets['close'].rows)}

  def picture(row: int) -> dict[str, Any]:
    """What a template shows of an image: its tile, name, place and probability."""
    tile = (tile_of('close', sheets['close'], close[row]) if row in close else
            tile_of('images', sheets['images'], places[row]) if places[row] < own else
            tile_of(ADDED, sheets[ADDED], places[row] - own))
    return {**tile, 'place': places[row], 'file': columns['file'][row],
            'added': columns['added'][row],
            'short': short_name(columns['file'][row]),
            'title': title_of(explored.decided, columns['cluster'][row]),
            'probability': columns['probability'][row]}

  cluster = np.array(columns['cluster'])
  probability = np.array(columns['probability'])
  mixing = _mixing(columns, cluster)
  members = _shown_members(columns, rows, cluster)
  sureness = np.where(columns['pinned'], 1, probability)
  alike, pairs = _pairs(explored, cluster, sureness, mixing, members, rows, picture)
  cards = _cards(explored, cluster, probability, sureness, mixing, members, picture)
  return {
      'data': _data(explored, rows, places, cards), 'stylesheet': stylesheet(sheets),
      'total': len(cluster), 'shown': len(rows), 'added': sum(columns['added']),
      'missing': [int(sheets[name].missing.sum()) if name in sheets else 0
                  for name in ('images', ADDED)], 'cards': cards, 'pairs': pairs,
      'alike': alike, **_sureness(sureness),
      'pinned': int(np.sum(explored.decided.pins >= 0)),
      'foreign': _foreign(columns, places, picture),
      'copies': _copies(columns, places, picture), 'matrix': _matrix(columns, cluster)}


def short_name(file: str, most: int = 20) -> str:
  """The last part of a path; of a long one its end, which tells files apart."""
  name = pathlib.PurePosixPath(file).name or file
  return name if len(name) <= most else '…' + name[1 - most:]


def title_of(decided: Decisions, cluster: int) -> str:
  """What a cluster is called on the page: by its number, and its name if it has one."""
  name = decided.names[cluster]
  return f'{cluster} · {name}' if name else f'Cluster {cluster}'


def _sureness(probability: np.ndarray) -> dict[str, int]:
  """How many images are sure, fairly sure and torn; pinned ones, of 1, are sure."""
  sure, torn = (probability > CERTAIN).sum(), (probability < TORN).sum()
  return {'sure': int(sure), 'fair': int(len(probability) - sure - torn),
          'torn': int(torn)}


def _mixing(columns: Columns, cluster: np.ndarray) -> dict[tuple[int, int], float]:
  """Of the nearest images of those of a cluster, the share in each other one."""
  sizes: dict[int, int] = {}
  found: dict[tuple[int, int], float] = {}
  for own, near in zip(cluster.tolist(), columns['neighbors']):
    ids = near['ids']
    sizes[own] = sizes.get(own, 0) + len(ids)
    for other in cluster[ids].tolist():
      if other != own:
        found[own, other] = found.get((own, other), 0) + 1
  return {pair: count / sizes[pair[0]] for pair, count in found.items()}


def _shown_members(columns: Columns, rows: np.ndarray,
                   cluster: np.ndarray) -> dict[int, np.ndarray]:
  """The images of each cluster that are shown, the most typical one first."""
  rank = np.array(columns['rank'])
  own = {int(q): rows[cluster[rows] == q] for q in np.unique(cluster)}
  return {q: some[np.argsort(rank[some], kind='stable')] for q, some in own.items()}


def _cards(explored: Explored, cluster, probability, sureness, mixing, shown,
           picture) -> list[dict[str, Any]]:
  """What is told of each cluster, those that are one together.

  Returns:
    Dicts of number, name, title, colour, parts (the model's clusters), size, added (how
    many of these were, after the fit), share of all, sure, fair, torn, certainty (mean
    probability), pinned, means, typical, unsure, generated (pictures), and nearest
    (number, title, share of the nearest images).
  """
  decided, sheets = explored.decided, explored.sheets['clusters']
  added = np.array(explored.columns['added'], bool)
  kept, together = decided.merged(np.asarray(explored.columns['probabilities']))
  cards = []
  for place, q in enumerate(np.unique(decided.owners).tolist()):
    parts = np.flatnonzero(decided.owners == q).tolist()
    members = shown.get(q, np.zeros(0, int))
    own = probability[cluster == q]
    # The least certain ones of few would be the typical ones once more.
    tail = members[max(TYPICAL, len(members) - UNSURE):][::-1]
    # The model knows the whole of a cluster that was split by hand alone.
    roots = list(dict.fromkeys(decided.splits.root(part) for part in parts))
    tiles = {root: np.flatnonzero(sheets.rows == root) for root in roots}
    drawn = lambda places: [tile_of('clusters', sheets, int(place)) for place in places]
    near = _nearest_clusters(q, mixing, kept, together[cluster == q])
    each = max(1, GENERATED // len(roots))
    cards.append({
        'number': q, 'name': decided.name(q), 'title': title_of(decided, q),
        'colour': figures.COLOURS[place % len(figures.COLOURS)], 'parts': parts,
        'size': len(own), 'added': int(np.sum(added[cluster == q])),
        'share': len(own) / len(cluster), **_sureness(sureness[cluster == q]),
        'certainty': float(own.mean()) if len(own) else None,
        'pinned': int(np.sum(decided.pins == q)),
        'means': drawn(tiles[root][0] for root in roots) if len(own) else [],
        'generated': drawn(place for root in roots for place in tiles[root][1:1 + each]),
        'typical': [picture(int(row)) for row in members[:TYPICAL]],
        'unsure': [picture(int(row)) for row in tail],
        'nearest': [{'number': other, 'title': title_of(decided, other), 'share': share}
                    for other, share in near]})
  return cards


def _nearest_clusters(q: int, mixing: Mapping[tuple[int, int], float], kept: np.ndarray,
                      together: np.ndarray) -> list[tuple[int, float]]:
  """The clusters nearest to one, with their shares of the nearest images of its images.

  Args:
    q: its number.
    mixing: see `_mixing`.
    kept: the numbers of all clusters, [G].
    together: the probabilities of its images, [n, G]; they decide where shares are equal.
  """
  if not len(together):
    return []
  ranked = sorted(((mixing.get((q, r), 0.), float(mean), r) for r, mean in zip(
      kept.tolist(), together.mean(axis=0)) if r != q), reverse=True)
  return [(r, share) for share, _, r in ranked[:MOST_NEAREST]
          if share or r == ranked[0][2]]


def _pairs(explored: Explored, cluster, probability, mixing, members, rows,
           picture) -> tuple[int, list[dict[str, Any]]]:
  """Pairs of clusters that are alike.

  Returns:
    How many there are; and of the `MOST_PAIRS` that are most alike, the most alike
    first, dicts of numbers, titles, mixed (of the nearest images of those of one, the
    share in the other), of_title and to_title (from which to which it is larger),
    claimed (see `diagnostics.overlaps`), torn (how many images), typical (pictures of
    each) and between (those that are least sure).
  """
  columns, decided = explored.columns, explored.decided
  kept, together = decided.merged(np.array(columns['probabilities'], np.float64))
  claimed = overlaps(together)
  second = np.array([-1 if q is None else q for q in columns['second']])
  full = np.flatnonzero(np.isin(kept, cluster)).tolist()  # an empty one is like all
  found = []
  for i, j in itertools.combinations(full, 2):
    q, r = int(kept[i]), int(kept[j])
    mixed, one = max((mixing.get((q, r), 0.), q), (mixing.get((r, q), 0.), r))
    if mixed > MIXED or claimed[i, j] > OVERLAP:
      found.append((max(mixed, claimed[i, j]), mixed, one, float(claimed[i, j]), q, r))
  pairs = []
  for _, mixed, one, claim, q, r in sorted(found, reverse=True)[:MOST_PAIRS]:
    both = ((cluster == q) & (second == r)) | ((cluster == r) & (second == q))
    between = rows[both[rows]]
    between = between[np.argsort(probability[between], kind='stable')][:BETWEEN]
    pairs.append({
        'numbers': [q, r], 'titles': [title_of(decided, q), title_of(decided, r)],
        'mixed': mixed, 'of_title': title_of(decided, one),
        'to_title': title_of(decided, r if one == q else q),
        'claimed': claim, 'torn': int(np.sum(both & (probability < TORN))),
        'typical': [[picture(int(row)) for row in members[number][:TYPICAL]]
                    for number in (q, r)],
        'between': [picture(int(row)) for row in between]})
  return len(found), pairs


def _foreign(columns: Columns, places, picture) -> dict[str, Any]:
  """How many images are unusual, and pictures of some, each with why.

  Those that were added come first: strays are looked for among new images.
  """
  alien = sorted((row for row, yes in enumerate(columns['foreign']) if yes),
                 key=lambda row: not columns['added'][row])
  shown = [row for row in alien if row in places][:MOST_FOREIGN]
  known = any(yes is not None for yes in columns['foreign'])
  return {'count': len(alien), 'known': known,
          'some': [{**picture(row), 'why': columns['why'][row]} for row in shown]}


def _copies(columns: Columns, places, picture) -> dict[str, Any]:
  """How many images repeat others, and pictures of some groups that are the same."""
  row_of = {file: row for row, file in enumerate(columns['file'])}
  groups: dict[int, list[int]] = {}
  for row, first in enumerate(columns['duplicate_of']):
    if first is not None:
      known = row_of[first]
      while (before := columns['duplicate_of'][known]) is not None:
        known = row_of[before]  # the same as another's near copy
      groups.setdefault(known, []).append(row)
  some = [
      [{**picture(row), 'kind': columns['duplicate'][row]}
       for row in (first, *others) if row in places]
      for first, others in list(groups.items())[:MOST_GROUPS]]
  exact = sum(kind == 'exact' for kind in columns['duplicate'])
  return {'count': sum(len(own) for own in groups.values()), 'exact': exact,
          'groups': len(groups), 'some': [group for group in some if len(group) > 1]}


def _matrix(columns: Columns, cluster: np.ndarray) -> dict[str, Any] | None:
  """How the labels spread over the clusters; None: no labels, or too many of them.

  Clusters stand in the order of the label that most of their images have.
  """
  labels = columns.get('label')
  if labels is None:
    return None
  # An earlier version let a column of the user's have this name, of numbers perhaps.
  labels = [None if label is None else str(label) for label in labels]
  names = sorted({label for label in labels if label is not None}, key=_natural)
  numbers = np.unique(cluster)
  if not names or max(len(names), len(numbers)) > WIDEST_MATRIX:
    return None
  place = {name: i for i, name in enumerate(names)}
  counts = np.zeros((len(names), len(numbers)), int)
  for label, q in zip(labels, np.searchsorted(numbers, cluster)):
    if label is not None:
      counts[place[label], q] += 1
  order = np.lexsort((-counts.max(axis=0), counts.argmax(axis=0)))
  counts, numbers = counts[:, order], numbers[order]
  totals = np.maximum(counts.sum(axis=0), 1)
  return {'clusters': numbers.tolist(), 'rows': [
      {'label': name, 'cells': [
          {'count': int(n), 'share': round(100 * n / total)}
          for n, total in zip(line, totals)]} for name, line in zip(names, counts)]}


def _natural(text: str) -> tuple:
  """So that 2 comes before 10."""
  return (0, float(text), text) if text.isdecimal() else (1, 0., text)


# -------------------------------------------------------------------- for explorer.js


def _data(explored: Explored, rows: np.ndarray, places: Mapping[int, int],
          cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The rows of the images that are shown, and their tiles, of plain JSON types."""
  columns = explored.columns
  at = lambda name: [columns[name][row] for row in rows]
  cluster = np.array(at('cluster'))
  known, away = nearest_of_both(
      explored.features[rows], cluster,
      np.array([-1 if q is None else q for q in at('second')]),
      ~np.array(at('added'), bool))
  points = np.stack([at('x'), at('y')], axis=1).astype(float)
  points -= points.min(axis=0)
  points = np.rint(points / max(points.max(), 1e-9) * 9999).astype(int)
  data = {
      'clusters': [{**{key: card[key] for key in (
          'number', 'name', 'title', 'colour', 'size')}, 'place': _middle(
              points[cluster == card['number']])} for card in cards],
      'file': at('file'), 'cluster': at('cluster'), 'rank': at('rank'),
      'probability': [round(p, 6) for p in at('probability')],
      'second': at('second'), 'secondProbability': [
          None if p is None else round(p, 6) for p in at('second_probability')],
      'typicality': [None if p is None else round(p, 4) for p in at('typicality')],
      'why': {place: columns['why'][row] or '' for row, place in places.items()
              if columns['foreign'][row]},
      'copy': {place: [columns['duplicate_of'][row], columns['duplicate'][row]]
               for row, place in places.items()
               if columns['duplicate_of'][row] is not None},
      'added': sum(at('added')),  # which are the last ones
      'pinned': [place for row, place in places.items() if columns['pinned'][row]],
      'x': points[:, 0].tolist(), 'y': points[:, 1].tolist(),
      'near': known, 'away': away,
      'tiles': {name: _tiles(sheets) for name, sheets in explored.sheets.items()
                if name != 'clusters'},
      'close': {places[int(row)]: place
                for place, row in enumerate(explored.sheets['close'].rows)},
      'label': at('label') if 'label' in columns else None,
      'judged': all(told is not None for told in at('foreign')),
      'certain': CERTAIN, 'torn': TORN, 'total': len(columns['file'])}
  own = _metadata(columns, rows)
  return data | {'metadata': own, 'numbers': [
      name for name in own or () if all(
          isinstance(columns[name][row], NUMBERS) or columns[name][row] is None
          for row in rows)], 'guard': {
              'begins': FORMULA, 'changed': CHANGED.pattern, 'plain': PLAIN.pattern}}


def _middle(points: np.ndarray) -> list[int] | None:
  """The point of some, int [n, 2], that most others are near; None of none."""
  if not len(points):
    return None
  some = points[::-(-len(points) // 500)]
  away = np.linalg.norm(some[:, None] - some, axis=-1)
  return some[np.argmax(np.exp(-(away / 500)**2).sum(axis=1))].tolist()


def _tiles(sheets: Sheets) -> dict[str, Any]:
  """Where the tiles are; sizes only where they differ from the side."""
  squares = (sheets.heights == sheets.side).all() and (sheets.widths == sheets.side).all()
  return {'side': sheets.side, 'columns': sheets.columns, 'sheets': len(sheets.files),
          'exact': sheets.exact,
          'heights': None if squares else sheets.heights.tolist(),
          'widths': None if squares else sheets.widths.tolist()}


def _metadata(columns: Columns, rows: np.ndarray) -> dict[str, list[str]] | None:
  """The user's own columns of the images that are shown; None: they are too long."""
  own = {name: [cell_text(name, columns[name][row]) for row in rows]
         for name in columns if name not in OURS}
  length = sum(len(cell) for cells in own.values() for cell in cells)
  return own if length <= MOST_METADATA else None


def nearest_of_both(features: np.ndarray, cluster: np.ndarray, second: np.ndarray,
                    fitted: np.ndarray, count: int = WHY) -> tuple[list, list]:
  """Of each image the nearest fitted ones of its own cluster, and of the rival one.

  Args:
    features: [n, D].
    cluster: of each, int [n].
    second: its rival, int [n]; -1: none.
    fitted: which the fit has seen, bool [n]; the others are told by these.
    count: k, at most, of each of the two.

  Returns:
    n pairs of lists of at most k places, nearest first, and their distances.
  """
  places: list[list[list[int]]] = [[[], []] for _ in cluster]
  aways: list[list[list[float]]] = [[[], []] for _ in cluster]
  members = {int(q): np.flatnonzero((cluster == q) & fitted)
             for q in np.unique(cluster)}

  def look(rows: np.ndarray, known: np.ndarray, side: int, own=None) -> None:
    near, away = gallery.nearest(features[rows], features[known], count, own)
    for row, found, distances in zip(rows, near, away):
      places[row][side] = known[found].tolist()
      aways[row][side] = [float(f'{one:.4g}') for one in distances]

  for q, known in members.items():
    look(known, known, 0, np.arange(len(known)))
    look(np.flatnonzero((cluster == q) & ~fitted), known, 0)
    rows = np.flatnonzero(cluster == q)
    for r in np.unique(second[rows]).tolist():
      if r in members:
        look(rows[second[rows] == r], members[r], 1)
  return places, aways
