"""Tables of a person's about images, joined to these by the names of their files.

A table is a CSV file (with commas, semicolons or tabs, UTF-8, as Excel writes it) or a
Parquet file. A row is of an image if its name is the image's id, or if the one is the end
of the other at a '/': `a.png` is of `cats/a.png`, and so is `/home/me/pics/cats/a.png`.
A name that is none of these may be so but for its case, for blanks around it, which cells
lose, or for the ending that it lacks: in capitals, or `a`. A row of several images, such
as `a.png` of `cats/a.png` and `dogs/a.png`, is of none. Of several rows of one image
those count whose name is the whole id; labels and metadata that contradict each other are
left out and counted, two embeddings of one image are refused.
"""

from __future__ import annotations

import collections
import csv
import io
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdiffclust import errors
from jdiffclust.data.sources.common import (
    Labels, checked_labels, is_missing, no_pipe, one_line)

# What the column of the names is called; else it is the first one.
NAMES = ('file', 'filename', 'file_name', 'filepath', 'file_path', 'image_path',
         'image_file', 'image_name', 'img_path', 'path', 'image', 'img', 'name', 'id',
         'key')
INDEX = '__index_level_'  # how pandas calls what numbers the rows of a table
LABELS = ('label', 'class', 'target')
# A cell that begins with one of these is a formula to a spreadsheet.
FORMULA = ('=', '+', '-', '@', '\t', '\r')
DELIMITERS = ',;\t'
END = '\x1aend'  # stands behind the last line
# What a spreadsheet writes in the place of a formula that fails, as -cats is one.
FAILED = re.compile(r'#(NAME\?|REF!|VALUE!|DIV/0!|NULL!|NUM!|N/A|SPILL!|CALC!)',
                    re.IGNORECASE)
UNSIGNED = re.compile(r'\d[eE]\d')  # of codes such as 1E5; numbers are written 1e+05
BINARY = b'PK\x03\x04', b'\xd0\xcf\x11\xe0', b'\x1f\x8b'  # .xlsx, .xls, .gz
# Texts that a spreadsheet would take for a number, a time or a day, and show as another
# text: 007, 1E5, 3/4, 1-2, 12:30, Mar 1. Not 7, 1.5 and 2026-03-01, which say the same.
PLAIN = re.compile(r'0|[1-9]\d{0,14}|\d{1,9}\.\d{0,5}[1-9]|\d{4}-\d\d-\d\d')
MONTHS = '(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*'
TIME = r'(,? \d{1,2}:\d\d(:\d\d)?)?( ?[ap]m)?'
CHANGED = re.compile(
    rf'(?=.*\d)[\d.$€£¥(][\d., /:%$€£¥()-]*(e[+-]?\d+| ?[ap]m)?|'
    rf'{MONTHS}[ ./-]?\d{{1,4}}(,? \d{{2,4}})?{TIME}|'
    rf'\d{{1,4}}[ ./-]?{MONTHS}(,?[ ./-]?\d{{2,4}})?{TIME}', re.IGNORECASE)


class Table(NamedTuple):
  """Columns by name, of equally many cells; None: an empty cell."""

  columns: dict[str, list[Any]]

  @property
  def num_rows(self) -> int:
    """How many rows there are."""
    return len(next(iter(self.columns.values()), ()))


class Matches(NamedTuple):
  """Which rows of a table may be of which image.

  Attributes:
    rows: of each image, rising; empty: none.
    of_none: those of no image.
    of_several: those of several images, which are left out.
    aside: those left out that name an image by its end alone, where others name it whole.
  """

  rows: list[list[int]]
  of_none: list[int]
  of_several: list[int]
  aside: list[int]


class Joined(NamedTuple):
  """Which row of a table is of which image.

  Attributes:
    rows: of each image, int [N]; -1: none.
    note: what a person should know of it, a line; '': all went well.
  """

  rows: np.ndarray
  note: str


def as_text(text: str) -> str:
  """A text as a spreadsheet shows it, and neither computes nor changes it."""
  return f"'{text}" if _is_touched(text.lstrip("'")) else text


def as_given(text: str) -> str:
  """The text that `as_text` made this of."""
  quoted = text[:1] == "'" and _is_touched(text.lstrip("'"))
  return text[1:] if quoted else text


def _is_touched(text: str) -> bool:
  """Whether a spreadsheet would make something else of a text."""
  return text.startswith(FORMULA) or bool(
      CHANGED.fullmatch(text) and not PLAIN.fullmatch(text))


def read_table(path: str, option: str, header: Sequence[str] | None = None) -> Table:
  """Reads a CSV or a Parquet file.

  Args:
    path: ends with .parquet, or is a CSV file.
    option: that names it, for errors.
    header: names of the columns, if the first line may be none: it is taken for data
      unless one of its cells is among these or `NAMES`, in any case; None: the first line
      names the columns.

  Returns:
    `Table`; cells of CSV files are texts.

  Raises:
    UserError: it cannot be read, or is no table.
  """
  try:
    opened = no_pipe(path)
    if os.path.splitext(path)[1].lower() in ('.parquet', '.pq'):
      return _read_parquet(opened)
    with open(opened, 'rb') as file:
      lines = _cells(file.read())
  except UnicodeDecodeError:
    raise errors.UserError(
        f'{option} = {path!r} is not UTF-8: save it as "CSV UTF-8" in Excel.') from None
  except Exception as error:  # pylint: disable=broad-except
    raise errors.UserError(f'{option} = {path!r} cannot be read as a table '
                           f'({one_line(error)}): give a .csv or .parquet file.'
                           ) from None
  if not lines:
    raise errors.UserError(f'{option} = {path!r} is empty: give a table with a line for '
                           'each image.')
  lines = _without_empty_columns(lines)
  names = [cell.strip() for cell in lines[0][1]]
  if header is not None:
    if not has_header(names, header):
      names, lines = list(header), [(0, header), *lines]
  again = [name for name, count in collections.Counter(names).items() if count > 1]
  if again or '' in names[:-1] and header is None:
    what = f'two columns {again[0]!r}' if again else 'a column without a name'
    raise errors.UserError(f'{option} = {path!r} has {what}: name each column in the '
                           'first line, differently.')
  for number, cells in lines[1:]:
    if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names):]):
      raise errors.UserError(
          f'{option} = {path!r}, line {number}: {len(cells)} cells, but there are '
          f"{len(names)} columns ({', '.join(names)}): put cells with commas in quotes.")
  columns = {name: [as_given(cells[k].strip()) or None if k < len(cells) else None
                    for _, cells in lines[1:]]
             for k, name in enumerate(names) if name}
  return Table(columns)


def has_header(first: Sequence[str], header: Sequence[str]) -> bool:
  """Whether the cells of a first line name columns, by these names or `NAMES`."""
  return not {*header, *NAMES}.isdisjoint(cell.strip().lower() for cell in first)


def _without_empty_columns(lines):
  """The lines without the columns in which nothing stands, as Excel may leave some."""
  width = max(len(cells) for _, cells in lines)
  used = [k for k in range(width)
          if any(cells[k].strip() for _, cells in lines if k < len(cells))]
  return [(number, [cells[k] for k in used if k < len(cells)]) for number, cells in lines]


class Layout(NamedTuple):
  """How a CSV file is written: its encoding, its delimiter, whether a line says that."""

  encoding: str
  delimiter: str
  said: bool


def layout_of(data: bytes) -> Layout:
  """How a CSV file is written, by its first line; `sep=;` there is of Excel's kind.

  Raises:
    ValueError: it is a workbook or another archive.
  """
  if data.startswith(BINARY):
    raise ValueError('it is a workbook or an archive, not text')
  encoding = 'utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig'
  first = (data.decode(encoding, 'replace').lstrip('\r\n').splitlines() or [''])[0]
  said = re.fullmatch(r'"?sep=(.)"?', first.strip(), re.IGNORECASE)
  return Layout(encoding, said[1] if said else _delimiter(first), said is not None)


def _delimiter(header: str) -> str:
  """That by which a column is called as the files' are; or else there are most."""
  def merit(delimiter):
    cells = next(csv.reader([header], delimiter=delimiter), [])
    named = len(cells) > 1 and any(cell.strip().lower() in NAMES for cell in cells)
    return named, len(cells)
  return max(DELIMITERS, key=merit)


def rows_of(data: bytes) -> list[list[str]]:
  """The cells of each line of a CSV file that is not empty, as they stand there."""
  return [cells for _, cells in _cells(data)]


def _cells(data: bytes):
  """(line number, cells) of each line of a CSV file that is not empty.

  Raises:
    ValueError: a quote is not closed: the cell would have all that follows in it.
  """
  layout = layout_of(data)
  text = io.StringIO(data.decode(layout.encoding), newline='')
  # A blank before a quote would make the quote a part of the cell.
  reader = csv.reader(itertools.chain(text, [END]), delimiter=layout.delimiter,
                      skipinitialspace=f'{layout.delimiter} "' in text.getvalue())
  lines, before = [], 0
  for cells in reader:
    if cells and cells[-1].endswith(END) and cells != [END]:
      raise ValueError(f'the quote in line {before + 1} is not closed')
    if cells != [END] and any(cell.strip() for cell in cells):
      lines.append((reader.line_num, cells))
    before = reader.line_num
  return lines[int(layout.said):]


def _read_parquet(path: str) -> Table:
  table = arrow_of_parquet(path)
  return Table({name: _as_csv_has_them(table.column(name).to_pylist())
                for name in table.column_names})


def _as_csv_has_them(column: list[Any]) -> list[Any]:
  """Cells of which NaN and blank texts are empty, and texts in bytes are texts."""
  try:
    column = [cell.decode() if isinstance(cell, bytes) else cell for cell in column]
  except UnicodeDecodeError:
    pass  # it is of other things than texts
  return [None if isinstance(cell, float) and math.isnan(cell)
          or isinstance(cell, str) and not cell.strip() else cell for cell in column]


def _check_columns(names: Sequence[str], path: str) -> None:
  """Checks that no two columns have one name.

  Raises:
    UserError: two have.
  """
  twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
  if twice is not None:
    raise errors.UserError(f'{path!r} has two columns of one name, {twice!r}: rename '
                           'one.')


def arrow_of_parquet(path: str):
  """The `pyarrow.Table` of a Parquet file, without the row numbers of pandas.

  Texts by which pandas calls the rows are a column `file`.
  """
  import pyarrow.parquet  # not before it is needed: it takes a while
  _check_columns(pyarrow.parquet.read_schema(path).names, path)
  table = pyarrow.parquet.read_table(path)
  for place, field in enumerate(table.schema):  # pandas' categories
    if pyarrow.types.is_dictionary(field.type):
      plain = field.type.value_type
      table = table.set_column(place, field.name, table.column(place).cast(plain))
  texts = [name for name in table.column_names if name.startswith(INDEX)
           and str(table.schema.field(name).type) in ('string', 'large_string')]
  if len(texts) == 1 and NAMES[0] not in table.column_names:
    table = table.rename_columns([NAMES[0] if name == texts[0] else name
                                  for name in table.column_names])
  return table.drop_columns([name for name in table.column_names
                             if name.startswith(INDEX)])


def arrow_of_csv(path: str, named: Callable[[Sequence[str]], bool]):
  """The `pyarrow.Table` of a CSV file, its cells typed: for very many numbers.

  Args:
    path: of the file, as `read_table` takes it.
    named: whether the cells of the first line name the columns.
  """
  import pyarrow.csv
  with open(os.path.expanduser(path), 'rb') as file:
    layout = layout_of(file.read(2**20))
  options = {'encoding': layout.encoding.removesuffix('-sig'),  # Arrow knows the mark
             'skip_rows': int(layout.said)}
  parse = pyarrow.csv.ParseOptions(delimiter=layout.delimiter)
  read = lambda **more: pyarrow.csv.read_csv(
      path, parse_options=parse, read_options=pyarrow.csv.ReadOptions(**options, **more))
  table = read()
  if not named(table.column_names):
    return read(autogenerate_column_names=True)
  _check_columns(table.column_names, path)
  return table


def column_of(table: Table, known: Sequence[str], place: int, what: str, path: str,
              option: str) -> str:
  """The name of the column that holds something.

  Args:
    table: with it.
    known: what it is usually called, in any case.
    place: which column it is else.
    what: is in it, for errors.
    path, option: of the table.

  Raises:
    UserError: there is none.
  """
  lower = {name.lower(): name for name in reversed(table.columns)}
  found = next((lower[name] for name in known if name in lower), None)
  if found is None and len(table.columns) <= place:
    raise errors.UserError(
        f'{option} = {path!r} has no column {known[0]!r} for {what} (columns: '
        f"{', '.join(table.columns)}).")
  return found or list(table.columns)[place]


def names_column(table: Table, ids: Sequence[str], path: str, option: str) -> str:
  """The name of the column of the files' names, see `column_of`.

  Of several that are called so, such as id and path, the one that names most images as
  they are called, and not by their stem alone.
  """
  first = column_of(table, NAMES, 0, 'the names of the files', path, option)
  called = [name for known in NAMES for name in table.columns if name.lower() == known]
  if len(called) < 2:
    return first
  named = lambda name: sum(len(images) == 1 for images in images_of(
      table.columns[name], ids, loosely=False))
  return max(called, key=named)  # the first of equal ones


def _parts(name: Any) -> tuple[str, ...]:
  """A name's folders and file, from the last one on."""
  if isinstance(name, float) and name.is_integer():
    name = int(name)
  # The same letter may be one sign or two: ä, as most systems write it, and a and ¨.
  parts = unicodedata.normalize('NFC', str(name)).replace('\\', '/').split('/')
  return tuple(part for part in reversed(parts) if part not in ('', '.'))


def images_of(names: Sequence[Any], ids: Sequence[str],
              loosely: bool = True) -> list[list[int]]:
  """The images that each name may be of; see the module's text.

  Args:
    names: texts or numbers; None: of none.
    ids: of the images.
    loosely: in any case, without blanks around them, and without an ending, where that
      is needed; only of images that no other name fits.
  """
  own = list(map(_parts, ids))
  given = [() if name is None else _parts(name) for name in names]
  found, place = _fitting(given, own), {name: k for k, name in enumerate(ids)}
  for row, name in enumerate(names):
    if (known := place.get(str(name))) is not None and name is not None:
      found[row] = [known]  # to the sign: two files may differ in how an ä is written
  for change, of_ids in ((_in_any_case, _in_any_case), (_in_any_case, _without_ending)):
    rest = [row for row, images in enumerate(found) if given[row] and not images]
    named = {images[0] for images in found if len(images) == 1}
    if rest and loosely:
      others = _fitting([change(given[row]) for row in rest], list(map(of_ids, own)))
      for row, images in zip(rest, others):
        found[row] = [image for image in images if image not in named]
  return found


def _fitting(names: Sequence[tuple[str, ...]],
             ids: Sequence[tuple[str, ...]]) -> list[list[int]]:
  """The ids that each name is equal to, or else the end of, or has as its end.

  Of several that are its end, the longest: /r/b/a.png is b/a.png, and not a.png.
  """
  ends, whole = collections.defaultdict(list), collections.defaultdict(list)
  for image, parts in enumerate(ids):
    whole[parts].append(image)
    for count in range(1, len(parts)):
      ends[parts[:count]].append(image)
  def longest(parts):
    return next((whole[parts[:count]] for count in range(len(parts) - 1, 0, -1)
                 if parts[:count] in whole), ())
  return [whole[parts] if parts in whole else
          sorted([*ends.get(parts, ()), *longest(parts)]) for parts in names]


def _in_any_case(parts: tuple[str, ...]) -> tuple[str, ...]:
  return tuple(part.casefold().strip() for part in parts)


def _without_ending(parts: tuple[str, ...]) -> tuple[str, ...]:
  first, *rest = _in_any_case(parts)
  return os.path.splitext(first)[0].strip(), *rest


def matches(names: Sequence[Any], ids: Sequence[str]) -> Matches:
  """Which rows may be of which image; see the module's text.

  Args:
    names: of each row; None: it has none.
    ids: of the images.
  """
  found: list[list[int]] = [[] for _ in ids]
  of_none: list[int] = []
  of_several: list[int] = []
  for row, images in enumerate(images_of(names, ids)):
    if len(images) == 1:
      found[images[0]].append(row)
    else:
      (of_several if images else of_none).append(row)
  # The whole id counts before its end.
  rows = [own if len(own) < 2 else
          [row for row in own if _parts(names[row]) == _parts(ids[image])] or own
          for image, own in enumerate(found)]
  aside = [row for own, kept in zip(found, rows) for row in own if row not in kept]
  return Matches(rows, of_none, of_several, aside)


def join(names: Sequence[Any], ids: Sequence[str], values: Sequence[Any],
         where: str) -> Joined:
  """Which row is of which image; see the module's text.

  Args:
    names: of each row; None: it has none.
    ids: of the images.
    values: what each row says, by which rows of one image contradict each other.
    where: what the note calls the table.
  """
  found = matches(names, ids)
  rows, torn = np.full(len(ids), -1), []
  for image, own in enumerate(found.rows):
    if any(values[row] != values[own[0]] for row in own):
      torn.append(ids[image])
    elif own:
      rows[image] = own[0]
  named = lambda rows: [names[row] for row in rows]
  told = [f'{len(which)} {what} (such as {which[0]!r})' for which, what in (
      (named(found.of_none), 'rows are of no image here'),
      (named(found.of_several),
       'rows are of several images, by their names, and left out'),
      (named(found.aside), 'rows name an image by its end alone that another row names '
       'whole, and are left out'),
      (torn, 'images have rows that contradict each other, and get none')) if which]
  missing = int(np.sum(rows < 0))
  if missing:
    first = ids[int(np.argmin(rows))]
    told.append(f'{missing} of {len(ids)} images have no row (such as {first!r})')
  return Joined(rows, f"{where}: {'; '.join(told)}" if told else '')


def read_labels(path: str, ids: Sequence[str]) -> tuple[Labels, str]:
  """The classes of images by a table of file and label; -1 where it has none.

  Args:
    path: of a table; see `read_table`. Its columns may be named or not.
    ids: of the images.

  Returns:
    `Labels`, and a note.

  Raises:
    UserError: it cannot be read, or is of none of the images.
  """
  option = 'config.data.labels'
  table = read_table(path, option, ('file', 'label'))
  given = (path, option)
  name = names_column(table, ids, *given)
  rest = Table({key: column for key, column in table.columns.items() if key != name})
  label = column_of(rest, LABELS, 0, 'the classes', *given)
  # A column of whole numbers in which some are missing is one of floats.
  whole = lambda value: isinstance(value, float) and value.is_integer()
  values = [None if value is None else str(int(value) if whole(value) else value)
            for value in rest.columns[label]]
  joined = join(table.columns[name], ids, values, path)
  check_some(joined, table, name, ids, path, option)
  if all(values[row] is None for row in joined.rows if row >= 0):
    raise errors.UserError(f'{option} = {path!r} tells no class of any image: its column '
                           f'{label!r} is empty. Fill it in, or leave the table out.')
  found = np.array([values[row] or '' if row >= 0 else '' for row in joined.rows], str)
  notes = [joined.note] * bool(joined.note)
  notes += _empty_note(joined, [not value for value in values], ids,
                       f'{path}: its column {label!r}')
  failed = [(image, cell) for image, cell in zip(ids, found.tolist())
            if FAILED.fullmatch(cell)]
  if failed:
    image, cell = failed[0]
    notes.append(f'{path}: the class of {len(failed)} images is {cell!r} (such as of '
                 f'{image!r}), which a spreadsheet writes for a formula that '
                 'fails, and counts as a class: mend them, or empty them')
  others = [key for key in rest.columns if key != label]
  if others and label.lower() not in LABELS:
    notes.append(f'{path}: the classes are taken from its column {label!r}; if they are '
                 f"in {', '.join(map(repr, others))}, call that one {LABELS[0]!r}")
  return checked_labels(found, len(ids), path, found == ''), '; '.join(notes)


def read_metadata(path: str, ids: Sequence[str]) -> tuple[dict[str, list[Any]], str]:
  """The columns of a table for images, without that of the names.

  Args:
    path: of the table.
    ids: of the images.

  Returns:
    {column: N cells, None where there is none}, and a note.

  Raises:
    UserError: it cannot be read, or is of none of the images.
  """
  option = 'config.data.metadata'
  table = read_table(path, option)
  name = names_column(table, ids, path, option)
  if any(images_of([name], ids, loosely=False)):
    raise errors.UserError(
        f'{option} = {path!r} names an image, {name!r}, in its first line, where its '
        "columns are named: put a line such as 'file,species' above.")
  rest = {key: typed(column) for key, column in table.columns.items() if key != name}
  if not rest:
    raise errors.UserError(f'{option} = {path!r} has no column but {name!r}, the names '
                           'of the files: give it those that the results shall have.')
  values = list(zip(*rest.values()))
  joined = join(table.columns[name], ids, values, path)
  check_some(joined, table, name, ids, path, option)
  notes = [joined.note] * bool(joined.note) + _empty_note(
      joined, [bool(row) and all(cell is None for cell in row) for row in values], ids,
      f'{path}: all but the name')
  return {key: [column[row] if row >= 0 else None for row in joined.rows]
          for key, column in rest.items()}, '; '.join(notes)


def _empty_note(joined: Joined, empty: Sequence[bool], ids: Sequence[str],
                what: str) -> list[str]:
  """Tells of images whose rows say nothing.

  Args:
    joined: the rows of the images.
    empty: of each row.
    ids: of the images.
    what: is empty, for a person.
  """
  rows = [image for image, row in enumerate(joined.rows) if row >= 0 and empty[row]]
  return [f'{what} is empty for {len(rows)} of {len(ids)} images (such as '
          f'{ids[rows[0]]!r}), of which nothing is known so'] if rows else []


def check_some(joined: Joined, table: Table, name: str, ids: Sequence[str], path: str,
               option: str) -> None:
  """Checks that a table, of which a column has the names, is of some of the images.

  Raises:
    UserError: it is of none.
  """
  if (joined.rows < 0).all():
    if not table.num_rows:
      raise errors.UserError(f'{option} = {path!r} has no line below its first one: give '
                             'a line for each image.')
    shown = table.columns[name][0]
    raise errors.UserError(
        f'{option} = {path!r} has no row that is of one image: its column {name!r} has '
        f'names such as {shown!r}, the images {ids[0]!r}. Name them alike, or leave the '
        'table out.')


def _numbered(cells: Sequence[str]) -> bool:
  """Whether what stands behind a point counts on, as 1.9, 1.10: 0s at its end tell."""
  after = [cell.partition('.')[2] for cell in cells if '.' in cell]
  return len({len(part) for part in after if part != '0'}) > 1 and any(
      part.endswith('0') and part != '0' for part in after)


def typed(column: Sequence[Any]) -> list[Any]:
  """A column of texts as numbers, if all are but for what says that nothing is known.

  Codes are none: 007, +49, 1E5, or 1.10 where there is 1.1 or 3.2, too.
  """
  if not all(cell is None or isinstance(cell, str) for cell in column):
    return list(column)
  known = [None if cell is None or is_missing(cell) else cell for cell in column]
  given = {cell for cell in known if cell is not None}
  for kind in (int, float) if given else ():
    try:
      value = {cell: kind(cell) for cell in given}
    except ValueError:
      continue
    digits = [cell.lstrip('-') for cell in given]
    plain = all(cell.isascii() and '_' not in cell and cell[:1] != '+'
                and not (cell[:1] == '0' and cell[1:2].isdigit())
                and not UNSIGNED.search(cell) for cell in digits)
    plain = plain and not _numbered(digits)
    if plain and len(set(value.values())) == len(given) and all(
        abs(number) < 2**53 for number in value.values()):
      return [None if cell is None else value[cell] for cell in known]
  return list(column)
