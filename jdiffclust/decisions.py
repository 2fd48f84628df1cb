"""What a person decides of a run by hand: two tables in its folder, to edit in Excel.

clusters.csv   cluster,images,name   the name of a cluster; those of one name are one
pinned.csv     file,cluster          the cluster, a number or name, of an image

No fit reads them and none changes them: they are what results show, on top of what the
model says. An empty name, or a row that is removed, undoes what it said. Names are the
same in any case. Of clusters that are one, the smallest number stands for all.

Clusters that were cut in two (`splits.py`) have their parts in the tables, by numbers
beyond those of the model. An image stays with the parts of its cluster: what is decided
first is to which of the clusters that share parts, or a name, it belongs, and then to
which of these parts. So a split moves no image between others, and the same name for
both parts takes it back.
"""

from __future__ import annotations

import csv
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jdiffclust import files, splits
from jdiffclust.data.by_name import (
    FAILED, NAMES, Layout, column_of, has_header, images_of, layout_of, read_table,
    rows_of)
from jdiffclust.errors import UserError
from jdiffclust.evaluation.interpolation import weighted
from jdiffclust.splits import Splits

# What clusters without a name are called.
OF_NUMBER = re.compile(r'cluster \d+', re.IGNORECASE)
NAMED = ('cluster', 'name')  # of a table without a header
# Signs of which a name must have one, and none; there are others, as within emoji.
LETTERS, CONTROLS = {'Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'So'}, {'Cc', 'Cn', 'Cs', 'Zl', 'Zp'}
COLUMNS = ('cluster', 'images', 'name')  # images: how many, for the reader alone
CLUSTERS, PINNED = 'clusters.csv', 'pinned.csv'


class Decisions(NamedTuple):
  """What was decided of N images in Q clusters, cut by S splits.

  Attributes:
    names: of each cluster, Q + S texts; '': none.
    owners: the number that stands for each cluster, int [Q + S].
    pins: the number that stands for the cluster of each image, int [N]; -1: the model
      decides.
    splits: of the clusters, by the images of the fit.
    shares: of the new part of each split in each image, [N, S].
  """

  names: tuple[str, ...]
  owners: np.ndarray
  pins: np.ndarray
  splits: Splits
  shares: np.ndarray

  def name(self, cluster: int) -> str:
    """What a cluster is called; its number, if it has no name."""
    return self.names[cluster] or f'cluster {cluster}'

  @property
  def of_the_model(self) -> tuple[str, ...]:
    """What the model's clusters are called, Q texts; '': it has no name.

    One that was split is called by the names of its parts.
    """
    found = []
    for cluster in range(int(self.splits.num_clusters)):
      parts = self.splits.whole(cluster)
      names = dict.fromkeys(self.name(self.owners[part]) for part in parts)
      found.append(self.names[cluster] if len(names) == 1 else ' + '.join(names))
    return tuple(found)

  @property
  def any(self) -> bool:
    """Whether anything was decided."""
    return (any(self.names) or bool((self.pins >= 0).any())
            or bool(len(self.splits.clusters)))

  def merged(self, responsibilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the clusters that are left, int [G], and their probabilities [N, G].

    Args:
      responsibilities: of the model, [N, Q].
    """
    kept, groups = np.unique(self.owners, return_inverse=True)
    together = np.zeros((len(responsibilities), len(kept)))
    parts = splits.expanded(responsibilities, self.splits.clusters, self.shares)
    np.add.at(together.T, groups.reshape(-1), parts.T)
    return kept, together

  def relatives(self) -> np.ndarray:
    """The smallest number of those that share parts with each that is left, int [G]."""
    eldest = self.owners.copy()
    pairs = [(self.owners[cluster], self.owners[int(self.splits.num_clusters) + split])
             for split, cluster in enumerate(self.splits.clusters)]
    for one, other in pairs:
      first, second = sorted((eldest[one], eldest[other]))
      eldest[eldest == second] = first
    return eldest[np.unique(self.owners)]

  def clusters_of(self, responsibilities: np.ndarray) -> np.ndarray:
    """The cluster of each image, int [N], by the model's responsibilities [N, Q]."""
    kept, together = self.merged(responsibilities)
    return kept[self.first(kept, together)]

  def first(self, kept: np.ndarray, together: np.ndarray) -> np.ndarray:
    """Where among those that are left the cluster of each image is, int [N].

    Args:
      kept, together: of `merged`.
    """
    relatives = self.relatives()
    families, places = np.unique(relatives, return_inverse=True)
    sums = np.zeros((len(together), len(families)))
    np.add.at(sums.T, places.reshape(-1), together.T)
    own = families[sums.argmax(axis=1)][:, None] == relatives
    decided = np.where(own, together, -1).argmax(axis=1)
    return np.where(self.pins >= 0, np.searchsorted(kept, self.pins), decided)

  def of(self, rows) -> Decisions:
    """The same for some of the images."""
    return self._replace(pins=self.pins[rows], shares=self.shares[rows])

  def for_others(self, near: np.ndarray, away: np.ndarray) -> Decisions:
    """The same for other images, none of which is pinned.

    Args:
      near: the images of the fit that are nearest to each, int [n, k].
      away: their distances, rising, [n, k].
    """
    return self._replace(pins=np.full(len(near), -1), shares=self._beside(near, away))

  def and_others(self, near: np.ndarray, away: np.ndarray) -> Decisions:
    """The same, the last images being others; args as of `for_others`."""
    own = self.splits.shares
    return self._replace(shares=np.concatenate([own, self._beside(near, away)]))

  def _beside(self, near, away):
    if not len(self.splits.clusters):  # the fit's images need not be known then
      return np.zeros((len(near), 0), np.float32)
    return weighted(away, self.splits.shares[near])

  def drawn_for(self, cluster: int | str) -> list[int]:
    """The clusters of the model that a number or a name means, rising.

    Raises:
      UserError: none has the name, or it is but a part of one.
    """
    found = self.numbers_of(cluster)
    if isinstance(cluster, str):
      for number in found:
        root = self.splits.root(number)
        if not set(self.splits.whole(root)) <= set(found):
          raise UserError(
              f'{cluster!r} is a part of cluster {root}, which was split by hand: the '
              f'model knows the whole of it alone. Ask for {root}, which draws that.')
    # A number of no cluster stays one, to be refused with those that there are.
    return sorted({number if number >= len(self.names) else self.splits.root(number)
                   for number in found})

  def numbers_of(self, cluster: int | str) -> list[int]:
    """The clusters that a number or a name means, rising.

    Raises:
      UserError: none has this name.
    """
    if not isinstance(cluster, str):
      return [cluster]
    found = [q for q, name in enumerate(self.names)
             if name and _same(name) == _same(cluster)]
    if not found:
      known = [self.names[q] for q in np.unique(self.owners) if self.names[q]]
      raise UserError(f'No cluster is called {cluster!r}: give a number of '
                      f'0..{len(self.names) - 1}, or a name of {CLUSTERS} '
                      f"({', '.join(known) or 'there is none'}).")
    return found


def none_of(num_clusters: int, num_images: int) -> Decisions:
  """No decision."""
  return Decisions(('',) * num_clusters, np.arange(num_clusters),
                   np.full(num_images, -1), splits.none_of(num_clusters),
                   np.zeros((num_images, 0)))


def _same(name: str) -> str:
  return files.spelling(' '.join(name.split()))


def read(workdir, num_clusters: int, ids: Sequence[str] | None = None,
         others: Sequence[str] = (), cut: Splits | None = None) -> Decisions:
  """What was decided of a run.

  Args:
    workdir: its folder.
    num_clusters: Q.
    ids: of its images; None: which are pinned is not asked.
    others: of images that were added to it; their shares are to come, by
      `Decisions.and_others`.
    cut: the splits; None: those of the folder.

  Raises:
    UserError: a table cannot be read, or a row is wrong, which is named; or the splits
      are of other images.
  """
  cut = splits.read(workdir, num_clusters, ids) if cut is None else cut
  number = num_clusters + len(cut.clusters)
  names = _read_names(pathlib.Path(workdir) / CLUSTERS, number)
  first: dict[str, int] = {}
  for q, name in enumerate(names):
    if name:
      first.setdefault(_same(name), q)
  owners = np.array([first[_same(name)] if name else q for q, name in enumerate(names)])
  decided = Decisions(tuple(names), owners, np.zeros(0, int), cut,
                      np.zeros((0, len(cut.clusters))))
  if ids is None:
    return decided
  return decided._replace(shares=cut.shares, pins=_read_pins(
      pathlib.Path(workdir) / PINNED, decided, [*ids, *others]))


def _number(text: str, num_clusters: int, where: str, more: str = '') -> int:
  """The number of a cluster, which a spreadsheet may have written as 3.0.

  Raises:
    UserError: it is none.
  """
  try:
    number = float(text)
    if number == int(number) and 0 <= number < num_clusters:
      return int(number)
  except (ValueError, OverflowError):
    pass
  raise UserError(f'{where}: there is no cluster {text!r}; it must be a number of '
                  f'0..{num_clusters - 1}{more}. Correct the row, or remove it.')


def _is_empty(path: pathlib.Path) -> bool:
  """Whether a table is missing, or says nothing at all."""
  return not path.is_file() or not path.read_bytes().strip(b'\xef\xbb\xbf\r\n\t ,;')


def _read_names(path: pathlib.Path, num_clusters: int) -> list[str]:
  """The name of each cluster by a table; '' where it has none."""
  names = [''] * num_clusters
  if _is_empty(path):
    return names
  table = read_table(str(path), CLUSTERS, NAMED).columns
  lower = {key.strip().lower(): key for key in table}
  if not {'cluster', 'name'} <= set(lower):
    raise UserError(f'{path} has the columns {", ".join(table)}: it must have cluster '
                    'and name (clusters of the same name are one).')
  others = [key for key in table if key.strip().lower() not in COLUMNS
            and any(cell is not None for cell in table[key])]
  if others:
    raise UserError(f'{path} has the column {others[0]!r}, which means nothing here: it '
                    'must have cluster and name (clusters of the same name are one). '
                    'Remove it.')
  seen = set()
  for number, name in zip(table[lower['cluster']], table[lower['name']]):
    if name is None:
      continue
    name = ' '.join(str(name).split())
    number = '' if number is None else str(number)
    cluster = _number(number, num_clusters, str(path))
    if cluster in seen:
      raise UserError(f'{path}: cluster {cluster} is named twice, also {name!r}. Remove '
                      'a row.')
    if OF_NUMBER.fullmatch(name):
      raise UserError(f'{path}: cluster {cluster} cannot be called {name!r}, as clusters '
                      'without a name are. Correct the row, or remove it.')
    kinds = {unicodedata.category(sign) for sign in name}
    if not kinds & LETTERS or kinds & CONTROLS:
      raise UserError(f'{path}: cluster {cluster} cannot be called {name!r}: a name must '
                      'have a letter or a picture, and be of one line. Correct the row.')
    if FAILED.fullmatch(name):
      raise UserError(f'{path}: cluster {cluster} cannot be called {name!r}, which a '
                      'spreadsheet writes for a formula that fails: a name must not '
                      'begin with =, +, - or @ there. Correct the row.')
    seen.add(cluster)
    names[cluster] = name
  return names


def _read_pins(path: pathlib.Path, decided: Decisions, ids: Sequence[str]) -> np.ndarray:
  """The cluster that each image is pinned to by a table; -1: none."""
  pins = np.full(len(ids), -1)
  if _is_empty(path):
    return pins
  table = read_table(str(path), PINNED, ('file', 'cluster'))
  name = column_of(table, NAMES, 0, 'the names of the files', str(path), PINNED)
  clusters = {key.lower(): cells for key, cells in table.columns.items()}.get('cluster')
  if clusters is None:
    raise UserError(f'{path} has the columns {", ".join(table.columns)}: it must have '
                    'file and cluster.')
  named = table.columns[name]
  for file, text, images in zip(named, clusters, images_of(named, ids)):
    if file is None or text is None:
      raise UserError(f'{path}: the row of {file or text!r} has no '
                      f"{'file' if file is None else 'cluster'}. Fill it in, or remove "
                      'the row.')
    if len(images) != 1:
      raise UserError(f'{path}: {file!r} is not the name of one image of this run, such '
                      f'as {ids[0]!r}. Correct the row, or remove it.')
    image, = images
    try:
      cluster = decided.numbers_of(str(text))[0]
    except UserError:
      cluster = _number(str(text), len(decided.names), f'{path}: {file!r}',
                        f', or a name of {CLUSTERS}')
    if pins[image] not in (-1, decided.owners[cluster]):
      raise UserError(f'{path}: {file!r} is pinned to two clusters, also {text!r}. '
                      'Remove a row.')
    pins[image] = decided.owners[cluster]
  return pins


def write_templates(workdir, sizes: Sequence[int]) -> None:
  """Writes both tables, to be filled in; those that are there stay.

  Args:
    workdir: the folder of the run.
    sizes: images of each cluster.
  """
  for name, rows in ((CLUSTERS, [('cluster', 'images', 'name'),
                                 *((q, size, '') for q, size in enumerate(sizes))]),
                     (PINNED, [('file', 'cluster')])):
    path = pathlib.Path(workdir) / name
    if not path.exists():
      _write(path, rows)


def with_row(workdir, cluster: int, size: int) -> None:
  """Gives a new cluster its row in clusters.csv, to be named; the others stay."""
  path = pathlib.Path(workdir) / CLUSTERS
  if _is_empty(path):
    _write(path, [('cluster', 'images', 'name'), (cluster, size, '')])
    return
  data = path.read_bytes()
  header, rows = _headed(data)
  told = {'cluster': cluster, 'images': size}
  _write(path, [header, *rows, [told.get(key.strip().lower(), '') for key in header]],
         layout_of(data))


def without_row(workdir, cluster: int) -> None:
  """Takes the row of a cluster out of clusters.csv, with its name."""
  path = pathlib.Path(workdir) / CLUSTERS
  if _is_empty(path):
    return
  data = path.read_bytes()
  header, rows = _headed(data)
  place = [key.strip().lower() for key in header].index('cluster')
  kept = [row for row in rows if not _is_number(row[place] if place < len(row) else '',
                                                cluster)]
  _write(path, [header, *kept], layout_of(data))


def _headed(data: bytes) -> tuple[list[str], list[list[str]]]:
  """The header and the rows of clusters.csv, which may have none, as it is read."""
  header, *rows = rows_of(data)
  return (header, rows) if has_header(header, NAMED) else (list(NAMED), [header, *rows])


def _is_number(text: str, number: int) -> bool:
  try:
    return float(text) == number
  except ValueError:
    return False


def _write(path: pathlib.Path, rows: Sequence[Sequence],
           layout: Layout = Layout('utf-8-sig', ',', said=False)) -> None:
  with files.replacing(path) as temporary:
    with open(temporary, 'w', newline='', encoding=layout.encoding) as file:
      if layout.said:
        file.write(f'sep={layout.delimiter}\r\n')
      csv.writer(file, delimiter=layout.delimiter).writerows(rows)
