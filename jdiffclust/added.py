"""Images that were added to a finished run: what is known of them, kept in its folder.

No fit reads them. They are told once, by the weights that are there then, and stand in
the tables behind the run's own images, which they do not change but for their ranks. An
image whose id is taken is called FOLDER/ID, FOLDER being what it was read from, and if
that is taken, too, `FOLDER/ID 2`, and so on, the number before the ending.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdiffclust import files
from jdiffclust.errors import UserError
from jdiffclust.report import spreadsheet

FILE = 'added.parquet'  # in the folder of a run
# Arrays with a row for each image, and their types.
ARRAYS = {'batches': np.int64, 'told': bool, 'responsibilities': np.float32,
          'bound': np.float64, 'foreign': bool, 'features': np.float32,
          'signatures': np.float16, 'digests': np.uint64}
LISTS = ('ids', 'names', 'reasons', 'labels', 'metadata', 'pictures', 'originals')


class Added(NamedTuple):
  """M images that were added to a run, in the order in which they came.

  Attributes:
    ids: what the tables call them, M texts.
    names: what their sources call them, M texts.
    batches: the row of `sources` that each is of, int [M].
    told: whether what is said of each is by `weights`, bool [M].
    responsibilities: [M, Q].
    bound: nats, [M].
    foreign: whether each is of another kind than the fit's images, bool [M].
    reasons: what sets each apart most, M texts.
    features, signatures, digests: see `evaluation.gallery.Gallery`.
    labels: the class of each; None: unknown.
    metadata: what else is known of each, M dicts by column.
    pictures: PNG files of them, as the run sees them; None: there were too many.
    originals: small pictures of what they are read from, see `exploring.originals_of`.
    sources: how each batch is read again: `config`, as JSON; `share`, the false alarm
      rate of `foreign`; `folder`, where its files are, None if they are no files.
    weights: of the fit, by which they were told: a text that tells them from others.
  """

  ids: Sequence[str]
  names: Sequence[str]
  batches: np.ndarray
  told: np.ndarray
  responsibilities: np.ndarray
  bound: np.ndarray
  foreign: np.ndarray
  reasons: Sequence[str]
  features: np.ndarray
  signatures: np.ndarray
  digests: np.ndarray
  labels: Sequence[str | None]
  metadata: Sequence[dict]
  pictures: Sequence[bytes | None]
  originals: Sequence[bytes | None]
  sources: Sequence[dict[str, Any]]
  weights: str

  def of(self, rows: np.ndarray) -> Added:
    """Those of some rows, int [n] or bool [M]; the sources stay."""
    rows = np.arange(len(self.ids))[rows]
    changed: dict[str, Any] = {name: getattr(self, name)[rows] for name in ARRAYS}
    changed |= {name: [getattr(self, name)[row] for row in rows] for name in LISTS}
    return self._replace(**changed)

  def without_last(self) -> Added:
    """Without the last batch."""
    last = len(self.sources) - 1
    return self.of(self.batches < last)._replace(sources=self.sources[:last])

  def and_(self, other: Added) -> Added:
    """These, and a batch that comes after them."""
    changed: dict[str, Any] = {
        name: np.concatenate([getattr(self, name), getattr(other, name)])
        for name in ARRAYS}
    changed |= {name: [*getattr(self, name), *getattr(other, name)]
                for name in (*LISTS, 'sources')}
    return self._replace(**changed, weights=other.weights)

  def paths(self) -> list[str | None]:
    """The file of each; None: it is none."""
    folders = [self.sources[batch]['folder'] for batch in self.batches]
    return [folder and os.path.join(folder, name)
            for folder, name in zip(folders, self.names)]


def distinct(names: Sequence[str], taken: Iterable[str], folder: str) -> list[str]:
  """What the tables call images; see the module's text.

  Args:
    names: of their source.
    taken: ids of other images.
    folder: what they were read from.
  """
  taken, found = set(taken), []
  for name in names:
    stem, ending = os.path.splitext(f'{folder}/{name}')
    tries = itertools.chain([name, stem + ending],
                            (f'{stem} {k}{ending}' for k in itertools.count(2)))
    found.append(next(one for one in tries if one not in taken))
    taken.add(found[-1])
  return found


def write(workdir, added: Added | None) -> None:
  """Keeps them in the folder of a run; where there are none, no file."""
  path = pathlib.Path(workdir) / FILE
  if added is None or not added.sources:
    path.unlink(missing_ok=True)
    return
  columns = added._asdict()
  notes = {name: columns.pop(name) for name in ('sources', 'weights')}
  columns['metadata'] = [json.dumps(cells, default=str) for cells in added.metadata]
  columns['signatures'] = added.signatures.astype(np.float32)
  spreadsheet.write_parquet(path, columns, json.dumps(notes))


def read(workdir) -> Added | None:
  """What `write` wrote; None: none were added.

  Raises:
    UserError: the file is damaged.
  """
  columns = _read(workdir)
  return None if columns is None else Added(**columns)


def ids_in(workdir) -> list[str]:
  """The ids of the images that were added to a run.

  Raises:
    UserError: as of `read`.
  """
  columns = _read(workdir, ['ids'])
  return columns['ids'] if columns else []


def names_from(workdir, folder: str) -> set[str]:
  """What the files are called in a folder that were added to a run from there.

  Raises:
    UserError: as of `read`.
  """
  columns = _read(workdir, ['names', 'batches'])
  return {name for name, batch in zip(columns['names'], columns['batches'])
          if columns['sources'][batch]['folder'] == folder} if columns else set()


def paths_in(workdir) -> set[str]:
  """What the images that were added to a run are read from again, `data.path` of each.

  Raises:
    UserError: as of `read`.
  """
  columns = _read(workdir, ['batches'])
  return {json.loads(source['config'])['data']['path']
          for source in columns['sources']} if columns else set()


def _read(workdir, names: Sequence[str] | None = None) -> dict[str, Any] | None:
  """The fields of `Added`, or those of `names`; None: there is no file."""
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return None
  files.check_readable(path)
  try:
    columns, notes = spreadsheet.read_arrays(path, names, ARRAYS)
    if 'metadata' in columns:
      columns['metadata'] = list(map(json.loads, columns['metadata']))
    found = {**columns, **json.loads(notes)}
    if names is None:
      found.setdefault('originals', [None] * len(found['ids']))  # of an earlier version
      Added(**found)
    return found
  # On a damaged file Arrow and json raise nearly anything.
  except Exception:  # pylint: disable=broad-except
    raise UserError(f'{path} is damaged: restore it, or remove it and with it the images '
                    'that were added to the run.') from None
