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

PREFIX = 'metadata_'  # of a column of the user's whose name is taken
# Column -> how the CSV writes its numbers.
DIGITS = {'probability': '.6f', 'second_probability': '.6f', 'typicality': '.4f',
          'bound': '.2f', 'x': '.3f', 'y': '.3f', 'neighbor_distances': '.4g'}

Columns = dict[str, Sequence[Any]]


def assigned(responsibilities: np.ndarray, bound: np.ndarray) -> Columns:
  """The columns that say where images belong.

  Args:
    responsibilities: [N, Q].
    bound: nats, [N]; it orders images of equal probability.

  Returns:
    cluster and probability; second and second_probability, of the next best cluster, None
    if there is one only; rank, from 1, the order of a cluster's images by falling
    probability and then by falling bound.
  """
  number = responsibilities.shape[1]
  order = np.argsort(-responsibilities, axis=1, kind='stable')
  best = order[:, 0]
  rows = np.arange(len(best))
  probability = responsibilities[rows, best]
  second = order[:, 1].tolist() if number > 1 else [None] * len(best)
  next_one = ([float(p) for p in responsibilities[rows, order[:, 1]]] if number > 1
              else [None] * len(best))
  rank = np.zeros(len(best), int)
  for q in range(number):
    members = np.flatnonzero(best == q)
    rank[members[np.lexsort((-bound[members], -probability[members]))]] = (
        np.arange(len(members)) + 1)
  return {'cluster': best.tolist(), 'probability': [float(p) for p in probability],
          'second': second, 'second_probability': next_one, 'rank': rank.tolist()}


def columns_of(ids: Sequence[str], where: Columns, typicality: np.ndarray,
               foreign: tuple[np.ndarray, Sequence[str]] | None, beside,
               known_ids: Sequence[str], labels: Sequence[str] | None,
               metadata: Mapping[str, Sequence[Any]],
               pictures: Sequence[bytes] | None = None) -> Columns:
  """All columns, in their order.

  Args:
    ids: of N images.
    where: of `assigned`.
    typicality: the share of the fit's images whose bound is lower, [N].
    foreign: whether each is of another kind than the fit's, bool [N], and what sets it
      apart; None: that cannot be told.
    beside: with near, away, points and copies, see `jdiffclust.exploring.Beside`.
    known_ids: of the run's images, whose rows `beside` has.
    labels: the class of each image, '' where unknown; None: there are none.
    metadata: see `with_metadata`.
    pictures: PNG files of the images; None: there are none.
  """
  name = lambda row: str(known_ids[row])
  alien, why = (None, None) if foreign is None else foreign
  nothing = [None] * len(ids)
  columns = {
      'file': list(ids), **where, 'typicality': typicality.tolist(),
      'foreign': nothing if alien is None else [bool(yes) for yes in alien],
      'why': nothing if alien is None else [
          text if yes else None for text, yes in zip(why, alien)],
      'duplicate_of': [name(row) if row >= 0 else None for row in beside.copies.of],
      'duplicate': [None if row < 0 else 'exact' if exact else 'near'
                    for row, exact in zip(beside.copies.of, beside.copies.exact)],
      'x': [float(x) for x in beside.points[:, 0]],
      'y': [float(y) for y in beside.points[:, 1]],
      'neighbor_files': [[name(row) for row in rows] for rows in beside.near],
      'neighbor_distances': beside.away.tolist()}
  if known_ids is ids:
    # As Embedding Atlas reads them: rows of this table, which CSV leaves out.
    columns['neighbors'] = [{'ids': rows, 'distances': away} for rows, away in zip(
        beside.near.tolist(), beside.away.tolist())]
  if pictures is not None:  # as Hugging Face's datasets have them, which tools know
    columns['image'] = [{'bytes': picture, 'path': str(one)}
                        for picture, one in zip(pictures, ids)]
  if labels is not None:
    columns['label'] = [label or None for label in labels]
  return with_metadata(columns, metadata)


def with_metadata(columns: Columns, metadata: Mapping[str, Sequence[Any]]) -> Columns:
  """The columns with those of the user, by names that are free.

  A name that is taken gets `PREFIX`, and _ as often as that is taken, too.
  """
  found = dict(columns)
  for name, cells in metadata.items():
    if name in found:
      name = PREFIX + name
      while name in found or name in metadata:
        name += '_'
    found[name] = cells
  return found


def _cell(name: str, value: Any) -> str:
  """A value as the CSV has it."""
  if value is None:
    return ''
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, (list, tuple, np.ndarray)):
    return as_text('; '.join(_plain(name, item) for item in value))
  if isinstance(value, (int, float, np.number)):
    return _plain(name, value)
  return as_text(str(value))


def _plain(name: str, value: Any) -> str:
  return format(value, DIGITS[name]) if name in DIGITS else str(value)


def write_csv(path, columns: Columns) -> None:
  """Writes columns of N cells as a CSV file, atomically; dicts are left out."""
  shown = {name: cells for name, cells in columns.items()
           if not any(isinstance(cell, dict) for cell in cells[:1])}
  with files.replacing(path) as temporary:
    with open(temporary, 'w', newline='', encoding='utf-8-sig') as file:
      writer = csv.writer(file)
      writer.writerow([as_text(name) for name in shown])
      for cells in zip(*shown.values()):
        writer.writerow([_cell(name, cell) for name, cell in zip(shown, cells)])


def write_parquet(path, columns: Columns) -> None:
  """Writes columns of N cells as a Parquet file, atomically.

  A column of cells of several types, or without any, becomes texts.
  """
  import pyarrow  # takes a while, and is needed at the end alone
  import pyarrow.parquet
  arrays = {}
  for name, cells in columns.items():
    cells = list(cells)
    try:
      arrays[name] = pyarrow.array(cells)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
      arrays[name] = pyarrow.array([None if cell is None else str(cell)
                                    for cell in cells], pyarrow.string())
    if arrays[name].type == pyarrow.null():
      arrays[name] = arrays[name].cast(pyarrow.string())
  with files.replacing(path) as temporary:
    pyarrow.parquet.write_table(pyarrow.table(arrays), temporary)
