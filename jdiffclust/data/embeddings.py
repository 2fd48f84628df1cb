"""Embeddings: vectors that another network has made of the images, one for each image.

A file of them has its rows in the order of the images, or says by file names whose they
are, by the rule of all tables (`by_name.py`):

  .npy            an array [N, D], mapped rather than read
  .npz            `embeddings` (or features, x, arr_0, or the only array), and perhaps
                  `names` (or ids, files, paths, filenames; texts also file_name and
                  whatever else `by_name.NAMES` has)
  .parquet, .csv  a column of lists, or a column for each of the D numbers; and perhaps
                  one of texts, the file names

Nothing but these numbers is taken of a table: columns that look like labels or like row
numbers are refused, since they would become part of the vectors.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jdiffclust.data.by_name import (
    INDEX, LABELS, NAMES, arrow_of_csv, arrow_of_parquet, as_given, matches)
from jdiffclust.data.sources.common import one_line, row_ids
from jdiffclust.errors import UserError

OPTION = '--config.data.embeddings'
KINDS = ('.npy', '.npz', '.parquet', '.csv')
VECTOR_KEYS = ('embeddings', 'features', 'x', 'arr_0')
NAME_KEYS = ('names', 'ids', 'files', 'paths', 'filenames')
ROW_KEYS = ('image_ids', 'image_id', 'index', 'indices', 'idx', 'row', 'rows')
REFUSED = (*LABELS, 'labels', 'classes', 'y', 'cluster')
BLOCK = 4096  # rows looked at at once
DECIMAL = re.compile(r'\s*[+-]?\d*,\d+(e[+-]?\d+)?\s*', re.IGNORECASE)
CONSTANT = 3  # numbers in a vector, from which on it is odd if all are the same
LARGEST = 1e15  # number of a vector; its square is far from float32's largest


class Embeddings(NamedTuple):
  """Vectors as a file or a caller gives them.

  Attributes:
    values: real numbers [M, D], perhaps a memory map.
    names: whose they are, M texts; None: they are in the order of the images.
    where: what error messages call them.
    notes: what the user should know of how they were read, a line each.
  """

  values: np.ndarray
  names: tuple[str, ...] | None
  where: str
  notes: tuple[str, ...] = ()


def opened(given: ArrayLike | str | os.PathLike) -> Embeddings:
  """The embeddings of an array [N, D], or of the path of a file."""
  if isinstance(given, (str, os.PathLike)):
    return read_embeddings(os.fspath(given))
  try:
    values = np.asanyarray(given)
  except (ValueError, TypeError, RuntimeError) as error:  # the last two: of PyTorch's
    raise UserError(f'embeddings are no array ({one_line(error)}): vectors of one length '
                    'are needed, [N, D].') from None
  if np.ma.isMA(values) and np.ma.getmaskarray(values).any():
    raise UserError('embeddings: some numbers of a masked array are hidden, but vectors '
                    'must be whole: leave these images out, or give the numbers values.')
  values = np.asarray(values)
  return _checked(Embeddings(values, None, 'embeddings'))


def read_embeddings(path: str) -> Embeddings:
  """Reads a file of embeddings, see the module's text.

  Raises:
    UserError: it cannot be read, or holds anything else.
  """
  path = os.path.expanduser(path)
  kind = pathlib.Path(path).suffix.lower()
  if not os.path.isfile(path):
    what = 'is a folder' if os.path.isdir(path) else 'does not exist'
    raise UserError(f'{path!r} {what}: {OPTION} must name a file, '
                    f"{', '.join(KINDS)}.")
  if kind not in KINDS:
    raise UserError(f'{path!r} is no file of embeddings by its name: {OPTION} must name '
                    f"one of {', '.join(KINDS)}.")
  read = {'.npy': _read_npy, '.npz': _read_npz}.get(kind, _read_table)
  try:
    found = read(path)
  except UserError:
    raise
  # On a damaged file NumPy, zipfile and Arrow raise nearly anything.
  except Exception as error:  # pylint: disable=broad-except
    raise UserError(f'{path!r} cannot be read as embeddings ({one_line(error)}): write '
                    'them again, such as by numpy.save(path, array of [N, D]).'
                    ) from None
  return _checked(found)


def _read_npy(path: str) -> Embeddings:
  values = np.load(path, mmap_mode='r', allow_pickle=False)
  if not isinstance(values, np.ndarray):
    raise ValueError('it holds several arrays, as an .npz does: call it so')
  return Embeddings(values, None, repr(path))


def _read_npz(path: str) -> Embeddings:
  with np.load(path, allow_pickle=False) as arrays:
    known = list(arrays)
    key = next((name for name in VECTOR_KEYS if name in known), None)
    texts = [name for name in known if name != key and _is_of_texts(arrays, name)]
    named = next((name for name in (*NAME_KEYS, *filter(_is_of_names, texts))
                  if name in known), None)
    if key is None:
      others = [name for name in known if name != named and name not in NAME_KEYS]
      if len(others) != 1:
        raise UserError(f"{path!r} has no array named {', '.join(VECTOR_KEYS)}; it has: "
                        f"{', '.join(known) or 'none'}: name one so.")
      key = others[0]
    try:
      given = () if named is None else arrays[named].ravel()
    except ValueError:  # objects are not loaded
      raise UserError(f'{path!r}: {named!r} holds Python objects, which are not read: '
                      f'save {named}.astype(str).') from None
    names = None if named is None else tuple(
        name.decode('utf-8', 'backslashreplace') if isinstance(name, bytes) else str(name)
        for name in given)
    if named is None:
      _check_numbers(arrays, key, path)
    rest = [name for name in texts if name not in (key, named, *REFUSED)]
    return Embeddings(arrays[key], names, f'{path!r}, {key!r}', _not_used(path, rest))


def _check_numbers(arrays, key: str, path: str) -> None:
  """Checks that numbers of the images, if there are any, are in their order.

  Raises:
    UserError: they are not, so that it is not known which image a vector is of.
  """
  for name in arrays:
    if name != key and (_is_of_names(name) or name.lower() in ROW_KEYS):
      numbers = arrays[name]
      if numbers.dtype.kind in 'iuf' and numbers.ndim == 1 and (
          np.diff(numbers.astype(np.float64)) < 0).any():
        raise UserError(
            f'{path!r}: the numbers in {name!r} are in no order, and nothing names the '
            'image of each vector: add an array of file names, or sort the vectors and '
            'leave the numbers out.')


def _is_of_texts(arrays, key: str) -> bool:
  """Whether an array of an .npz is of texts, or of objects, which may be."""
  try:
    return arrays[key].dtype.kind in 'SU'
  except ValueError:  # objects are not loaded
    return True


def _is_of_names(key: str) -> bool:
  """Whether texts are file names by what they are called: `file_names` as `filename`."""
  return key.lower() in NAMES or key.lower().removesuffix('s') in NAMES


def _not_used(path: str, texts: Sequence[str]) -> tuple[str, ...]:
  """What there is to say of texts that are taken for anything but file names."""
  return (f"{path!r}: {', '.join(map(repr, texts))} is not used; call it 'file' if it "
          'names the files',) * bool(texts)


def _read_table(path: str) -> Embeddings:
  """Embeddings of a table; Arrow is imported here, since most runs have none."""
  import pyarrow as pa
  if path.lower().endswith('.parquet'):
    table = arrow_of_parquet(path)
  else:
    table = arrow_of_csv(path, lambda header: not _are_values(header))
  types = pa.types
  of = {name: table.schema.field(name).type for name in table.column_names}
  among = lambda *tests: [name for name, kind in of.items()
                          if any(test(kind) for test in tests)]
  texts = among(types.is_string, types.is_large_string, types.is_string_view)
  lists = among(types.is_list, types.is_large_list, types.is_fixed_size_list)
  fractions, whole = among(types.is_floating), among(types.is_integer)
  empty = among(types.is_null)
  odd = [name for name in of if name not in (*texts, *lists, *fractions, *whole, *empty)]
  if odd or empty:
    name = (odd or empty)[0]
    raise UserError(f'{path!r}: column {name!r} holds {of[name]}, which is no part of a '
                    'vector: leave it out.')
  names, notes = _names_in(table, texts, path)
  if names is None and path.lower().endswith('.parquet'):
    _check_order(path)
  if lists:
    if len(lists) > 1 or fractions or whole:
      more = next(name for name in (*lists[1:], *fractions, *whole))
      raise UserError(f'{path!r}: column {lists[0]!r} holds vectors, but column {more!r} '
                      'numbers, too: leave one of them out.')
    return Embeddings(_of_lists(table[lists[0]], path), names, repr(path), notes)
  refused = _of_no_vector(table, (*whole, *fractions))
  if refused:
    raise UserError(f'{path!r}: column {refused[0]!r} looks like labels or numbers of '
                    'rows, which would become part of the vectors: leave it out, or '
                    'write it as texts if it names the files. Vectors of such numbers '
                    'can be given as an .npy file.')
  columns = [name for name in of if name not in texts]
  if not columns:
    raise UserError(f'{path!r} has no columns of numbers: one for each of the D numbers '
                    'of a vector is needed, or one of lists.')
  values = np.empty((table.num_rows, len(columns)), np.float32)
  for place, name in enumerate(columns):
    values[:, place] = table[name].to_numpy()
  return Embeddings(values, names, repr(path), notes)


def _of_no_vector(table, numbers: Sequence[str]) -> list[str]:
  """The columns of numbers that are labels, or count rows, by their name or content.

  Whole numbers are, where others have fractions; not what is the same throughout.
  """
  def whole(name):
    column = table[name].to_numpy()
    known = column[np.isfinite(column)]
    return bool(np.all(known == np.rint(known)))
  counts = set(filter(whole, numbers))
  some = len(counts) < len(numbers)
  differ = lambda name: len(np.unique(table[name].to_numpy())) > 1
  return [name for name in numbers if name.lower() in REFUSED or name in counts and (
      name.lower() in NAMES or _are_row_numbers(table[name].to_numpy())
      or some and differ(name))]


def _check_order(path: str) -> None:
  """Checks that the rows of a Parquet file are in the order of their numbers, if any.

  Raises:
    UserError: they have been shuffled, or sorted: which image a row is of is not known.
  """
  import pyarrow.parquet
  for name in pyarrow.parquet.read_schema(path).names:
    if name.startswith(INDEX):
      column = pyarrow.parquet.read_table(path, columns=[name])[name].to_numpy()
      if column.dtype.kind in 'iuf' and (np.diff(column) < 0).any():
        raise UserError(
            f'{path!r}: the rows are in another order than their index has them, and '
            'nothing names the image of each: add a column file, or write the table '
            'by sort_index(), or by reset_index(drop=True) if their order is right.')


def _are_row_numbers(column: np.ndarray) -> bool:
  """Whether whole numbers count the rows, from 0 or 1."""
  return len(column) > 2 and bool((column - column[0] == np.arange(len(column))).all()
                                  and column[0] in (0, 1))


def _are_values(header: Sequence[str]) -> bool:
  """Whether the first row of a table is a vector, perhaps with a name, and no header."""
  numbers = [text for text in header if _is_number(text)]
  counted = [[str(n + first) for n in range(len(numbers))] for first in (0, 1)]
  return len(numbers) >= max(1, len(header) - 1) and numbers not in counted


def _is_number(text: str | None) -> bool:
  """Whether a cell is a number, as a text."""
  try:
    float(text or '')
  except ValueError:
    return False
  return True


def _names_in(table, texts: list[str], path: str):
  """The file names in a table [M] or None, and what there is to say of other texts."""
  for name in texts:
    comma = [cell for cell in table[name].to_pylist() if cell and DECIMAL.fullmatch(cell)]
    if 2 * len(comma) > table.num_rows:
      raise UserError(f'{path!r}: column {name!r} holds numbers with commas in the place '
                      f'of points ({comma[0]!r}): write 1.5, not 1,5.')
  if not texts:
    return None, ()
  chosen = [name for name in texts if name.lower() in NAMES] or texts
  if len(chosen) > 1:
    raise UserError(f"{path!r} has several columns of texts ({', '.join(chosen)}): leave "
                    'but the one of file names.')
  names = table[chosen[0]].to_pylist()
  if None in names:
    raise UserError(f'{path!r}: row {names.index(None)} has no name in column '
                    f'{chosen[0]!r}: fill it in, or leave the column out.')
  rest = [name for name in texts if name != chosen[0]]
  for name in rest:  # a decimal comma, or a word, has made texts of a part of the vectors
    cells = table[name].to_pylist()
    other = next((cell for cell in cells if not _is_number(cell)), '')
    if 2 * sum(map(_is_number, cells)) > len(cells):
      raise UserError(f'{path!r}: column {name!r} holds numbers, and {other!r}, which is '
                      'none: correct it, or leave the column out.')
  return tuple(map(as_given, names)), _not_used(path, rest)


def _of_lists(column, path: str) -> np.ndarray:
  """The vectors in a column of lists, float32 [M, D]."""
  lengths = column.combine_chunks()
  rows = lengths.to_pylist() if lengths.null_count else None
  if rows is not None:
    raise UserError(f'{path!r}: row {rows.index(None)} has no vector: fill it in.')
  import pyarrow.compute
  sizes = pyarrow.compute.list_value_length(lengths).to_numpy(zero_copy_only=False)
  if len(sizes) and sizes.min() != sizes.max():
    row = int(np.argmax(sizes != sizes[0]))
    raise UserError(f'{path!r}: the vector of row {row} has {sizes[row]} numbers, that '
                    f'of row 0 {sizes[0]}: all must be of one length.')
  flat = lengths.flatten().to_numpy(zero_copy_only=False)
  return flat.astype(np.float32).reshape(len(sizes), -1)


def _checked(found: Embeddings) -> Embeddings:
  """The same, if they are real numbers [M, D] and have as many names."""
  values, where = found.values, found.where
  if values.dtype.kind not in 'fiu' or values.ndim != 2 or not values.shape[1]:
    raise UserError(f'{where}: {values.dtype} of shape {values.shape}; embeddings are '
                    'real numbers [N, D], a row for each image.')
  if found.names is not None and len(found.names) != len(values):
    raise UserError(f'{where}: {len(found.names)} names, but {len(values)} vectors: give '
                    'each its name.')
  return found


def matched(found: Embeddings, ids: Sequence[str],
            for_fit: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
  """The embeddings of images.

  Args:
    found: of these images; where it has names, perhaps of more.
    ids: of the N images, see `ImageSource`.
    for_fit: whether vectors that are all the same are refused.

  Returns:
    [N, D], a memory map if `found` is one in their order; and notes, a line each.

  Raises:
    UserError: an image has no vector or two; or a vector is not finite, or far too large
      or small to be compared in float32.
  """
  values, notes = found.values, list(found.notes)
  named, names = found.names is not None, found.names or ()
  if named and tuple(ids) == row_ids(len(ids)) and set(ids).isdisjoint(names):
    notes.append(f'{found.where}: the images have no file names, so that the vectors are '
                 'taken in their order; their names are not looked at')
    named = False
  if named:
    rows = _rows_by_name(found, ids)
    left = len(values) - len(rows)
    if left:
      notes.append(f'{found.where}: {left} of {len(values)} vectors are of none of the '
                   f'{len(ids)} images, and are not used')
    if not np.array_equal(rows, np.arange(len(values))):
      values = values[rows]
  elif len(values) != len(ids):
    raise UserError(f'{found.where}: {len(values)} vectors, but there are {len(ids)} '
                    'images: give one for each, in their order, or name the file of each '
                    f'(names in an .npz, a column of a table).')
  notes += _check_values(values, ids, found.where, for_fit)
  return values, tuple(notes)


def _rows_by_name(found: Embeddings, ids: Sequence[str]) -> np.ndarray:
  """The row of each image, int [N]."""
  names = found.names or ()
  rows, _, several, _ = matches(names, ids)
  missing = next((name for name, own in zip(ids, rows) if not own), None)
  if missing is not None and several:
    raise UserError(
        f'{found.where}: no vector for the image {missing!r}, while '
        f'{names[several[0]]!r} there may be of several images: name the file of each '
        'by its whole path.')
  if missing is not None:
    raise UserError(
        f'{found.where}: no vector for the image {missing!r}; the names there begin with '
        f"{', '.join(map(repr, names[:2])) or 'none'}: name the file of each "
        'image, as assignments.csv does, or by its path.')
  twice = next((image for image, own in enumerate(rows) if len(own) > 1), None)
  if twice is not None:
    raise UserError(f'{found.where}: two vectors for {ids[twice]!r}, in rows '
                    f'{rows[twice][0]} and {rows[twice][1]}: leave one.')
  return np.array([own[0] for own in rows])


def _check_values(values: np.ndarray, ids: Sequence[str], where: str,
                  for_fit: bool) -> list[str]:
  """Checks that vectors are finite and, for a fit, not all the same.

  Returns:
    A note if some of them are one number throughout.
  """
  differ, constant, largest = not for_fit or len(values) < 2, [], 0.
  for start in range(0, len(values), BLOCK):
    with np.errstate(over='ignore'):  # what is too large becomes infinite
      rows = np.asarray(values[start:start + BLOCK], np.float32)
      first = np.asarray(values[0], np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
      row = start + int(np.argmax(bad))
      raise UserError(f'{where}: the vector of image {row} ({ids[row]!r}) has NaN or '
                      'infinite numbers: all must be finite; embed that image again.')
    sizes = np.abs(rows).max(axis=1)
    if sizes.max() > LARGEST:
      row = int(np.argmax(sizes))
      odd = rows[row][np.argmax(np.abs(rows[row]))]
      raise UserError(f'{where}: the vector of image {start + row} '
                      f'({ids[start + row]!r}) has the number {odd:g}, as what stands '
                      'for a missing one: embed that image again, or scale '
                      f'all vectors to numbers under {LARGEST:g}.')
    largest = max(largest, float(sizes.max()))
    differ = differ or (rows != first).any()
    constant += (start + np.flatnonzero(np.ptp(rows, axis=1) == 0)).tolist()
  if not differ:
    raise UserError(f'{where}: all {len(values)} vectors are the same: nothing to '
                    'cluster; look at how they were made.')
  if 0 < largest < 1 / LARGEST:
    raise UserError(f'{where}: no number is larger than {largest:g}: scale all vectors, '
                    f'by {1 / largest:g}, say.')
  if not constant or values.shape[1] < CONSTANT:
    return []
  return [f'{where}: {len(constant)} of {len(values)} vectors are one number throughout, '
          f'as failures leave them; the first is of image {constant[0]} '
          f'({ids[constant[0]]!r})']
