"""results.csv and results.parquet: all that is known of each image, a row an image.

The CSV is for Excel and its like: UTF-8 with the mark by which Excel knows it, and a '
put before texts that a spreadsheet would compute, such as the file name `=a.png`. The
Parquet file is for programs: texts as they are, numbers as numbers, neighbours as lists,
and small pictures.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdiffclust import files
from jdiffclust.data.by_name import as_text
from jdiffclust.decisions import Decisions
from jdiffclust.errors import WRITES_IT, UserError

PREFIX = 'metadata_'  # of a column of the user's whose name is taken
# Column -> how the CSV writes its numbers.
DIGITS = {'probability': '.6f', 'second_probability': '.6f', 'typicality': '.4f',
          'bound': '.2f', 'x': '.3f', 'y': '.3f', 'neighbor_distances': '.4g'}

NUMBERS = (int, float, np.number)  # truth values among them
NOTE = b'jdiffclust'  # in a Parquet file's own metadata
# The columns that are not the user's.
OURS = {'file', 'cluster', 'name', 'probability', 'second', 'second_probability', 'rank',
        'model_cluster', 'pinned', 'added', 'bound', 'typicality', 'foreign', 'why',
        'duplicate_of', 'duplicate', 'x', 'y', 'neighbor_files', 'neighbor_distances',
        'neighbors', 'probabilities', 'image', 'label'}
IN_PARQUET = ('probabilities', 'neighbors', 'image')  # columns that the CSV leaves out

Columns = dict[str, Any]  # sequences of cells, and the array of probabilities


def assigned(responsibilities: np.ndarray, bound: np.ndarray,
             decided: Decisions) -> Columns:
  """The columns that say where images belong.

  Args:
    responsibilities: [N, Q].
    bound: nats, [N]; it orders images of equal probability.
    decided: what a person did: clusters that are one add their probabilities, those that
      were split share them out, and a pinned image belongs to its cluster, however
      probable that is.

  Returns:
    cluster, its name and probability; second and second_probability, of the most probable
    other cluster, None if there is none; rank, from 1, the order of a cluster's images by
    falling probability and then by falling bound; model_cluster, what the model says
    alone; and pinned.
  """
  kept, together = decided.merged(responsibilities)
  rows, first = np.arange(len(together)), decided.first(kept, together)
  preferred = together.copy()
  preferred[rows, first] = np.inf
  order = np.argsort(-preferred, axis=1, kind='stable')
  cluster, probability = kept[first], together[rows, first]
  second = [None] * len(rows), [None] * len(rows)
  if len(kept) > 1:
    second = kept[order[:, 1]].tolist(), together[rows, order[:, 1]].tolist()
  rank = np.zeros(len(rows), int)
  for q in kept:
    members = np.flatnonzero(cluster == q)
    rank[members[np.lexsort((-bound[members], -probability[members]))]] = (
        np.arange(len(members)) + 1)
  return {'cluster': cluster.tolist(), 'name': [decided.name(q) for q in cluster],
          'probability': probability.tolist(), 'second': second[0],
          'second_probability': second[1], 'rank': rank.tolist(),
          'model_cluster': responsibilities.argmax(axis=1).tolist(),
          'pinned': (decided.pins >= 0).tolist()}


def columns_of(ids: Sequence[str], responsibilities: np.ndarray, bound: np.ndarray,
               decided: Decisions, typicality: np.ndarray,
               foreign: tuple[np.ndarray, Sequence[str]] | None, beside,
               known_ids: Sequence[str] | None, labels: Sequence[str] | None,
               metadata: Mapping[str, Sequence[Any]],
               pictures: Sequence[bytes | None] | None = None,
               added: bool | None = False) -> Columns:
  """All columns, in their order.

  Args:
    ids: of N images.
    responsibilities, bound, decided: see `assigned`.
    typicality: the share of the fit's images whose bound is lower, [N].
    foreign: whether each is of another kind than the fit's, bool [N], and what sets it
      apart; None: that cannot be told.
    beside: with near, away, points and copies, see `jdiffclust.exploring.Beside`.
    known_ids: of the run's images, whose rows `beside` has; None: they are these.
    labels: the class of each image, '' where unknown; None: there are none.
    metadata: see `with_metadata`.
    pictures: PNG files of the images; None: there are none.
    added: whether they were added to the run, whose table they will stand in; None: they
      have a table of their own.
  """
  known = ids if known_ids is None else known_ids
  name = lambda row: str(known[row])
  alien, why = (None, None) if foreign is None else foreign
  nothing = [None] * len(ids)
  columns = {
      'file': list(ids), **assigned(responsibilities, bound, decided),
      **({} if added is None else {'added': [added] * len(ids)}),
      'bound': _known(bound), 'typicality': _known(np.where(np.isnan(bound), np.nan,
                                                            typicality)),
      'foreign': nothing if alien is None else [bool(yes) for yes in alien],
      'why': nothing if alien is None else [
          text if yes else None for text, yes in zip(why or (), alien)],
      'duplicate_of': [name(row) if row >= 0 else None for row in beside.copies.of],
      'duplicate': [None if row < 0 else 'exact' if exact else 'near'
                    for row, exact in zip(beside.copies.of, beside.copies.exact)],
      'x': [float(x) for x in beside.points[:, 0]],
      'y': [float(y) for y in beside.points[:, 1]],
      'neighbor_files': [[name(row) for row in rows] for rows in beside.near],
      'neighbor_distances': beside.away.tolist()}
  columns['probabilities'] = np.asarray(responsibilities, np.float32)
  if added is not None:
    # As Embedding Atlas reads them: rows of this table, which CSV leaves out.
    columns['neighbors'] = [{'ids': rows, 'distances': away} for rows, away in zip(
        beside.near.tolist(), beside.away.tolist())]
  if pictures is not None:  # as Hugging Face's datasets have them, which tools know
    columns['image'] = [picture and {'bytes': picture, 'path': str(one)}
                        for picture, one in zip(pictures, ids)]
  if labels is not None:
    columns['label'] = [label or None for label in labels]
  return with_metadata(columns, metadata)


def _known(values: np.ndarray) -> list[float | None]:
  """Numbers, None in the place of NaN."""
  return [None if np.isnan(value) else float(value) for value in values]


def with_metadata(columns: Columns, metadata: Mapping[str, Sequence[Any]]) -> Columns:
  """The columns with those of the user, by names that are free.

  A name of `OURS`, which another table of the run may have, gets `PREFIX`, and _ as often
  as that is taken, too.
  """
  found = dict(columns)
  for name, cells in metadata.items():
    if name in found or name in OURS:
      name = PREFIX + name
      while name in found or name in metadata:
        name += '_'
    found[name] = cells
  return found


def one_below_the_other(columns: Columns, more: Columns) -> Columns:
  """Two tables as one; a cell of a column that one of them lacks is empty.

  Pictures are left out where a table has none.
  """
  counts = [len(part['file']) for part in (columns, more)]
  found: Columns = {}
  for name in dict.fromkeys([*columns, *more]):
    parts = [part.get(name, [None] * count)
             for part, count in zip((columns, more), counts)]
    if name == 'probabilities':
      found[name] = np.concatenate(parts)
    elif name != 'image' or name in columns and name in more:
      found[name] = [*parts[0], *parts[1]]
  return found


def of_rows(columns: Columns, rows: Sequence[int]) -> Columns:
  """Some rows of a table."""
  return {name: cells[rows] if isinstance(cells, np.ndarray) else
          [cells[row] for row in rows] for name, cells in columns.items()}


def _cell(name: str, value: Any) -> str:
  """A value as the CSV has it."""
  text = cell_text(name, value)
  return text if isinstance(value, NUMBERS) else as_text(text)


def cell_text(name: str, value: Any) -> str:
  """A value of a column as a person sees it."""
  if value is None:
    return ''
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, (list, tuple, np.ndarray)):
    return '; '.join(_plain(name, item) for item in value)
  return _plain(name, value) if isinstance(value, NUMBERS) else str(value)


def _plain(name: str, value: Any) -> str:
  return format(value, DIGITS[name]) if name in DIGITS else str(value)


def write_csv(path, columns: Columns) -> None:
  """Writes columns of N cells, but for IN_PARQUET, as a CSV file, atomically."""
  shown = {name: cells for name, cells in columns.items() if name not in IN_PARQUET}
  with files.replacing(path) as temporary:
    with open(temporary, 'w', newline='', encoding='utf-8-sig') as file:
      writer = csv.writer(file)
      writer.writerow([as_text(name) for name in shown])
      for cells in zip(*shown.values()):
        writer.writerow([_cell(name, cell) for name, cell in zip(shown, cells)])


def write_parquet(path, columns: Columns, note: str = '') -> None:
  """Writes columns of N cells as a Parquet file, atomically.

  A column of cells of several types, or without any, becomes texts; an array [N, Q] a
  column of lists.

  Args:
    path: the file.
    columns: by name.
    note: a text that goes with the table.
  """
  import pyarrow  # takes a while, and is needed at the end alone
  import pyarrow.parquet
  arrays = {}
  for name, cells in columns.items():
    if isinstance(cells, np.ndarray) and cells.ndim == 2:
      arrays[name] = pyarrow.ListArray.from_arrays(
          np.arange(len(cells) + 1) * cells.shape[1], cells.reshape(-1))
      continue
    arrays[name] = _column(list(cells))
  with files.replacing(path) as temporary:
    table = pyarrow.table(arrays)
    if note:
      table = table.replace_schema_metadata({NOTE: note})
    pyarrow.parquet.write_table(table, temporary)


def _column(cells: list[Any]):
  """The `pyarrow.Array` of cells: of the type that fits all of them, or of texts."""
  import pyarrow
  whole = all(cell is None or isinstance(cell, int) for cell in cells)
  for kind in (None, *[pyarrow.uint64()] * whole):  # hashes have 64 bits and no sign
    try:
      found = pyarrow.array(cells, kind)
    except (pyarrow.ArrowException, OverflowError):
      continue
    return found.cast(pyarrow.string()) if found.type == pyarrow.null() else found
  return pyarrow.array([None if cell is None else str(cell) for cell in cells],
                       pyarrow.string())


def read_arrays(path, names: Sequence[str] | None,
                types: Mapping[str, Any]) -> tuple[Columns, str]:
  """Columns that `write_parquet` wrote, and their note.

  Args:
    path: the file.
    names: of the columns; None: all.
    types: of those that are arrays, of numbers [N] or [N, Q].
  """
  import pyarrow.parquet
  table = pyarrow.parquet.read_table(path, columns=names)
  found = {}
  for name in table.column_names:
    cells = table.column(name).combine_chunks()
    if name not in types:
      found[name] = cells.to_pylist()
    elif pyarrow.types.is_list(cells.type):
      found[name] = cells.flatten().to_numpy().reshape(len(cells), -1).astype(types[name])
    else:
      found[name] = cells.to_numpy(zero_copy_only=False).astype(types[name])
  return found, table.schema.metadata[NOTE].decode()


def read_parquet(path) -> Columns:
  """The columns that `write_parquet` wrote, of `columns_of`.

  Raises:
    UserError: there is no such file, or a damaged one, or of an earlier version.
    PermissionError: it may not be read.
  """
  import pyarrow
  import pyarrow.parquet
  files.check_readable(path)
  try:
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).combine_chunks().flatten().to_numpy().reshape(
        table.num_rows, -1) if name == 'probabilities' else table.column(name).to_pylist()
               for name in table.column_names}
    columns['file'], columns['probabilities'], columns['bound']
    columns.setdefault('added', [False] * table.num_rows)  # of an earlier version
  except (OSError, pyarrow.ArrowInvalid, KeyError):
    raise UserError(f'{path} is missing or damaged: {WRITES_IT}.') from None
  return columns


def decided_anew(columns: Columns, decided: Decisions) -> Columns:
  """The columns as other decisions make them.

  Args:
    columns: of `columns_of`.
    decided: of the same images.
  """
  return columns | assigned(np.asarray(columns['probabilities']),
                            np.array(columns['bound'], float), decided)
