"""A folder of image files."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from PIL import Image

from jdiffclust import errors, files
from jdiffclust.data import preprocess
from jdiffclust.data.by_name import LABELS, NAMES, column_of, read_table
from jdiffclust.data.formats import FOR_HEIC, HEIC, image_endings, register_formats
from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.common import (
    LazyImages, Raw, Stored, cannot_read, existing_file, one_line, threaded_map)
from jdiffclust.data.sources.decoding import (
    Decoding, Header, Kept, colours_note, common_size, decode, decoding_of,
    find_rendering, kept_to, levels_of, look, room_for, thumbnail)

LISTING = '.json'  # the ending of lists that `write_listed` writes
# Words of sub-folders that say how data were divided, not what is to be seen; and of what
# may stand beside them: train2017, test_images.
SPLITS = {'train', 'training', 'trainset', 'test', 'testing', 'testset', 'val', 'valid',
          'validation', 'dev', 'eval', 'unlabeled', 'unlabelled'}
OF_SPLITS = {'data', 'dataset', 'image', 'images', 'img', 'imgs', 'set', 'split',
             'pictures'}
# Folders that systems make for themselves: thumbnails, what was thrown away, archives'.
SYSTEM = {'@eadir', '$recycle.bin', '__macosx'}
# What is in each folder of a run, by which its pictures are known not to be the user's.
# One of these sets: of a run, and of one that was cut off before it had begun.
RUN_FILES = ({'config.json', 'checkpoints'}, {'.lock', 'command.txt'})


class Key(NamedTuple):
  """A picture of a file: its path in the folder, and the number of its frame."""

  name: str
  frame: int = 0


class Found(NamedTuple):
  """The files of a folder.

  Attributes:
    names: paths of image files, '/' between their parts, sorted.
    locked: (path, reason) of sub-folders that may not be read.
    runs: paths of the folders of runs, which were not looked into.
    others: how many files of each ending, such as '.heic', are no images to Pillow.
  """

  names: list[str]
  locked: list[tuple[str, str]]
  runs: list[str]
  others: collections.Counter


def read_folder(data: ml_collections.ConfigDict,
                rendering: Rendering | None = None) -> Raw:
  """Reads the image files of a folder and its sub-folders, decoded when asked for.

  Files are those with an ending that Pillow reads (with pillow-heif, if it is installed,
  HEIC too), ordered by their path. Hidden ones, pipes and devices, and the folders of
  jdiffclust's own runs are left out; files of other endings are told of. All are decoded
  now, so that damaged ones and the range of the pixels are known. The label of a file is
  the sub-folder that it lies under, see `labels_of`.

  Args:
    data: the `data` section of a config; the options path, image_size, fit,
      channels, use_labels, unreadable, frames, range, percentile, background, pipeline
      and memory_limit_mb are used.
    rendering: of a fit, to be kept to; None: it is found.

  Returns:
    A Raw of `LazyImages`, 256 levels. Unless `channels` says otherwise, the images are
    grey if every file is, else in colour.

  Raises:
    UserError: the folder does not exist or has no image; a file or sub-folder is
      unreadable and `unreadable` is 'refuse', or all are; or sizes differ while
      `image_size` is 0.
  """
  root = pathlib.Path(data.path)
  if not data.path or not os.path.isdir(root):
    raise errors.UserError(
        f'--config.data.path={data.path!r} is not a folder that can be read; a folder of '
        'image files is needed; set it to an existing one')
  return _raw(root, find_files(root), data, rendering, f'folder:{root.resolve().name}')


def read_files(paths: Sequence[str | os.PathLike], data: ml_collections.ConfigDict,
               rendering: Rendering | None = None) -> Raw:
  """Reads image files, in their order; see `read_folder`.

  Args:
    paths: of the files.
    data, rendering: as in `read_folder`.

  Returns:
    A Raw of `LazyImages`, 256 levels.

  Raises:
    UserError: a file is unreadable, or sizes differ, as in `read_folder`.
  """
  register_formats()
  names = [os.path.expanduser(os.fspath(path)) for path in paths]
  found = Found(names, [], [], collections.Counter())
  return _raw(pathlib.Path(), found, data, rendering, 'files')


def read_listed(data: ml_collections.ConfigDict,
                rendering: Rendering | None = None) -> Raw:
  """Reads the image files that a list names, in its order; see `read_folder`.

  Args:
    data: as of `read_folder`; path is a list, see `listed`, or an image file.
    rendering: of a fit, to be kept to; None: it is found.

  Returns:
    A Raw of `LazyImages`, 256 levels; files of a list have no labels of their own.

  Raises:
    UserError: as of `listed` and `read_files`.
  """
  register_formats()
  root, names = listed(data.path)
  data, told = copy.deepcopy(data), data.use_labels and not data.labels
  data.use_labels = False
  path = pathlib.PurePath(data.path)
  name = f'files:{root.name if path.suffix == LISTING else path.stem}'
  raw = _raw(root, Found(names, [], [], collections.Counter()), data, rendering, name)
  return raw._replace(notes=(*raw.notes, *classes_note(data.path, told)))


def classes_note(path: str, given: bool) -> list[str]:
  """Tells of the classes in a table that names images, which are not read from there.

  Args:
    path: of the list.
    given: whether classes are wanted, and not given elsewhere.
  """
  if not given or pathlib.Path(path).suffix.lower() not in ('.csv', '.parquet'):
    return []
  found = [name for name in read_table(path, 'config.data.path', ('file',)).columns
           if name.lower() in LABELS]
  return [f'{path}: its column {found[0]!r} is not used; if it holds the classes by '
          f'which the clusters shall be scored, give --config.data.labels={path}'
          ] if found else []


def write_listed(path: pathlib.Path, names: Sequence[str]) -> None:
  """Lists files that a command named, by the folder that they share.

  Args:
    path: of the list, which ends with LISTING.
    names: absolute paths of the files.
  """
  root = os.path.commonpath([os.path.dirname(name) for name in names])
  files.write_text(path, json.dumps(
      {'folder': root, 'files': [os.path.relpath(name, root) for name in names]},
      indent=1) + '\n')


def folder_of(source: str, path: str) -> pathlib.Path | None:
  """The folder to which the names of images are relative; None: they are no files.

  Args:
    source, path: the options data.source and data.path.

  Raises:
    UserError: there is no such list.
  """
  if source == 'files':
    return listed(os.path.expanduser(path))[0].absolute()
  return pathlib.Path(path).expanduser().absolute() if source == 'folder' else None


def listed(path: str) -> tuple[pathlib.Path, list[str]]:
  """The files that a list names.

  Args:
    path: of a text file with a name on each line, of a table with a column of names
      (`data.by_name`), of what `write_listed` wrote, or of an image, which is the only
      one then. Names are relative to the folder of the list, if it names no other.

  Returns:
    That folder, and the names as they are written, but with the home folder for ~.

  Raises:
    UserError: there is no list, it is empty, or it has a name twice.
  """
  path = os.fspath(existing_file(path))
  root, ending = pathlib.Path(path).parent, pathlib.Path(path).suffix.lower()
  if ending == '.txt':
    try:
      text = pathlib.Path(path).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
      raise errors.UserError(f'{path} cannot be read as a list of files '
                             f'({one_line(error)}): give a text file, UTF-8, of a name '
                             'on each line') from None
    # Blanks around a name are of the list, unless there is such a file.
    names = [line if line != line.strip() and os.path.isfile(root / line) else
             line.strip() for line in text.splitlines() if line.strip()]
  elif ending == LISTING:
    try:
      found = json.loads(pathlib.Path(path).read_bytes())
      root, names = pathlib.Path(found['folder']), list(map(str, found['files']))
    except (OSError, ValueError, KeyError, TypeError):
      raise errors.UserError(f'{path} is no list of files that this program wrote: give '
                             'a text file of a name on each line') from None
  elif ending in ('.csv', '.parquet'):
    table = read_table(path, 'config.data.path', ('file',))
    column = column_of(table, NAMES, 0, 'the names of the files', path,
                       'config.data.path')
    names = [name for name in table.columns[column] if name is not None]
    other = next((name for name in names if not isinstance(name, str)), None)
    if other is not None:
      raise errors.UserError(
          f'{path}: its column {column!r} holds {type(other).__name__}, where the names '
          'of image files are needed; pixels and pictures within a table are not read: '
          'save them as files, or as an array (.npy, .npz)')
  else:
    return root, [pathlib.Path(path).name]
  if ending != LISTING:
    names = [os.path.expanduser(name) if name.startswith('~/') else name
             for name in names]
  if not names:
    raise errors.UserError(f'{path} names no file: a list of image files is needed, a '
                           'name on each line')
  places = [os.path.normpath(os.path.join(root, name)) for name in names]
  place, times = collections.Counter(places).most_common(1)[0]
  if times > 1:
    raise errors.UserError(f'{path} names {names[places.index(place)]!r} {times} times: '
                           'name each image once')
  return root, names


def _raw(root: pathlib.Path, found: Found, data: ml_collections.ConfigDict,
         rendering: Rendering | None, name: str) -> Raw:
  """The Raw of files that were found."""
  names = found.names
  decoding = decoding_of(data, rendering)
  kept = Kept(room_for((len(names), *(decoding.size or _first_size(root, names)),
                        data.channels or 3), data))
  with _libtiff_silent(names):
    headers = threaded_map(functools.partial(_verify, root, decoding, kept), names)
  bad = [*found.locked,
         *((n, h) for n, h in zip(names, headers) if not isinstance(h, Header))]
  total = len(names) + len(found.locked)
  if bad and (data.unreadable == 'refuse' or len(bad) == total):
    what = ('use --config.data.unreadable=skip to leave them out, or remove them'
            if len(bad) < total else 'give readable images')
    shown = ', '.join(f'{name} ({reason})' for name, reason in bad[:3])
    more = ', ...' * (len(bad) > 3)
    raise errors.UserError(
        f'{len(bad)} of {total} image files and folders in {root} cannot be read: '
        f'{shown}{more}; {what}')
  good = [(n, h) for n, h in zip(names, headers) if isinstance(h, Header)]
  names, headers = [n for n, _ in good], [h for _, h in good]
  height, width = common_size(names, headers, decoding.size, root)
  channels = data.channels or (1 if all(h.grey for h in headers) else 3)
  notes = left_out_notes(found, names, headers, data.frames)
  if rendering is None:
    rendering, told = find_rendering(names, headers, data)
    notes += told
  else:
    rendering, told = kept_to(rendering, names, headers)
    notes += told + colours_note(names, headers) * (channels == 1)
  labels, label_names, told = (labels_of(names) if data.use_labels else (None, None, []))
  notes += told
  frames = [header.frames if data.frames == 'all' else 1 for header in headers]
  keys = [Key(n, k) for n, many in zip(names, frames) for k in range(many)]
  images = LazyImages(
      keys, functools.partial(_read, root, decoding, kept, rendering),
      (len(keys), height, width, channels), np.dtype(np.uint8))
  ids = [f'{n}#{k}' if many > 1 else n
         for n, many in zip(names, frames) for k in range(many)]
  ids = list(map(id_of, ids))
  return Raw(images, ids, None if labels is None else np.repeat(labels, frames),
             label_names, 256, name, tuple(name for name, _ in bad), rendering,
             tuple(notes), resized_of(names, headers, (height, width)),
             stored=stored_of(headers, frames),
             thumbnail=functools.partial(_thumbnail, root, rendering, keys))


def id_of(name: str) -> str:
  """The id of a file: its name, in which what is no UTF-8 is spelt out.

  It must not break the writing of the results.
  """
  return name.encode('utf-8', 'backslashreplace').decode()


def file_of(root: pathlib.Path, name: str) -> pathlib.Path:
  """The path of the file of an id, see `id_of`, whether there is one or not."""
  path = root / name
  if '\\udc' in name and not path.is_file():
    return root / re.sub(r'\\udc([0-9a-f]{2})', lambda found: chr(
        0xdc00 + int(found[1], 16)), name)
  return path


def stored_of(headers: Sequence[Header], frames: Sequence[int]) -> Stored:
  """What the pictures of files hold, of which so many are used of each."""
  columns = ([header.size for header in headers],
             [header.transparent for header in headers],
             [header.contrast for header in headers])
  return Stored(*(np.repeat(np.array(column), frames, axis=0) for column in columns))


@contextlib.contextmanager
def _libtiff_silent(names: Sequence[str]) -> Iterator[None]:
  """Lets libtiff not write of damaged files on the error output by itself: we tell."""
  if not any(name.lower().endswith(('.tif', '.tiff')) for name in names):
    yield
    return
  ours, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  try:
    yield
  finally:
    os.dup2(ours, 2)
    os.close(ours)
    os.close(nowhere)


def _first_size(root: pathlib.Path, names: Sequence[str]) -> tuple[int, int]:
  """The size of the first file that tells it; (0, 0) if none does."""
  for name in names:
    try:
      with Image.open(root / name) as image:
        return preprocess.upright_size(image)
    except Exception:  # pylint: disable=broad-except
      continue  # it is told of when it is decoded, as in `_verify`
  return 0, 0


def find_files(root: pathlib.Path) -> Found:
  """Looks for the image files under a folder.

  Raises:
    UserError: the folder cannot be read, or it has no image file.
  """
  found, readable = Found([], [], [], collections.Counter()), image_endings()
  if any(all(os.path.exists(root / name) for name in files) for files in RUN_FILES):
    raise errors.UserError(
        f'{root} is the folder of a run, whose pictures are results: name the folder of '
        f'your images; the run goes on by its own command ({root / "command.txt"})')
  try:
    for name in _walk(root, found):
      ending = pathlib.PurePosixPath(name).suffix.lower()
      if ending in readable:
        found.names.append(name)
      else:
        found.others[ending] += 1
  except OSError as error:
    raise cannot_read(root, error) from error
  found.names.sort()
  if not found.names and not found.locked:
    raise errors.UserError(
        f'no image file in {root} (files seen: {_counts(found.others)}); .png, .jpg and '
        'the other types Pillow reads are allowed; set --config.data.path to where they '
        'are')
  return found


def _counts(others: collections.Counter) -> str:
  """Files by their ending, in words."""
  return ', '.join(f'{number} {ending or "without extension"}'
                   for ending, number in sorted(others.items())) or 'none at all'


def _walk(folder: str | os.PathLike[str], found: Found, prefix: str = '',
          above: tuple[str, ...] = ()) -> Iterator[str]:
  """Yields the paths of the files that are not hidden, following linked folders."""
  real = os.path.realpath(folder)
  if real in above:  # a link back to a folder we are in
    return
  try:
    entries = list(os.scandir(folder))
  except OSError as error:
    if not prefix:
      raise
    found.locked.append((prefix, error.strerror or one_line(error)))
    return
  names = {entry.name for entry in entries}
  if prefix and any(files <= names for files in RUN_FILES):
    found.runs.append(prefix)
    return
  for entry in entries:
    if entry.name.startswith('.') or entry.name.lower() in SYSTEM:
      continue
    try:
      folder, file = entry.is_dir(), entry.is_file()
    except OSError as error:  # such as a link to itself
      found.locked.append((prefix + entry.name, error.strerror or one_line(error)))
      continue
    if folder:
      yield from _walk(entry.path, found, f'{prefix}{entry.name}/', (*above, real))
    elif file or entry.is_symlink():  # a link to nothing is an unreadable file
      yield prefix + entry.name


def left_out_notes(found: Found, names: Sequence[str], headers: Sequence[Header],
                   frames: str) -> list[str]:
  """Tells of what is not used: other files, runs, further frames."""
  notes = []
  if found.others:
    photos = any(ending in found.others for ending in HEIC)
    notes.append(f'{found.others.total()} files were passed over, since they are no '
                 f'images that can be read here: {_counts(found.others)}'
                 + f' (for .heic: {FOR_HEIC})' * photos)
  if found.runs:
    notes.append(f"the folders of runs were passed over: {', '.join(found.runs[:5])}"
                 + ' ...' * (len(found.runs) > 5))
  many = [(name, header.frames) for name, header in zip(names, headers)
          if header.frames > 1]
  if many and frames == 'first':
    name, number = many[0]
    notes.append(f'{len(many)} files hold several pictures ({name}: {number}), of which '
                 'only the first is used: --config.data.frames=all uses all')
  return notes


def resized_of(names: Sequence[str], headers: Sequence[Header],
               size: tuple[int, int]) -> str:
  """Which files are not of a size (height, width), for a person; '': all are."""
  others = [(name, header.size) for name, header in zip(names, headers)
            if tuple(header.size) != tuple(size)]
  if not others:
    return ''
  name, found = others[0]
  return f'{len(others)} of {len(names)} files ({name}: {found[0]}x{found[1]})'


def _verify(root: pathlib.Path, decoding: Decoding, kept: Kept,
            name: str) -> Header | str:
  """Returns the Header of a file, or one line saying why it cannot be decoded."""
  try:
    header, pictures = look(functools.partial(preprocess.opened, root / name), decoding,
                            keep=kept.room > 0)
  # On a damaged file Pillow's many decoders raise nearly anything: OSError, SyntaxError,
  # struct.error, KeyError, DecompressionBombError, ... Whatever it is, the file is
  # unreadable, and the exception is the reason to show.
  except Exception as error:  # pylint: disable=broad-except
    if isinstance(error, Image.DecompressionBombError):
      most = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # as Pillow has it
      return f'of more than {most / 1e6:,.0f} million pixels: make it smaller'
    return 'not an image' if isinstance(error, Image.UnidentifiedImageError) else (
        one_line(error))
  for frame, picture in enumerate(pictures):
    kept.put(Key(name, frame), picture)
  return header


def _read(root: pathlib.Path, decoding: Decoding, kept: Kept, rendering: Rendering,
          key: Key) -> np.ndarray:
  """Returns the pixels [H, W, C] of a picture, kept or decoded again."""
  picture = kept.pop(key)
  if picture is None:
    return _decode_file(root, decoding, rendering, key)
  return levels_of(picture, decoding, rendering)


def _thumbnail(root: pathlib.Path, rendering: Rendering, keys: Sequence[Key], row: int,
               side: int) -> np.ndarray:
  """Returns a whole picture as it is stored, small."""
  key = keys[row]
  with _told(root, key):
    return thumbnail(functools.partial(preprocess.opened, root / key.name), rendering,
                     side, key.frame)


def _decode_file(root: pathlib.Path, decoding: Decoding, rendering: Rendering,
                 key: Key) -> np.ndarray:
  """Returns the pixels [H, W, C] of a picture of an image file."""
  with _told(root, key):
    return decode(functools.partial(preprocess.opened, root / key.name), decoding,
                  rendering, key.frame)


@contextlib.contextmanager
def _told(root: pathlib.Path, key: Key) -> Iterator[None]:
  """Tells of a file that can no longer be read."""
  try:
    yield
  except OSError as error:
    raise errors.UserError(
        f'{root / key.name} could be read when the data was loaded, but not any more '
        f'({one_line(error)}); put it back, or start again without it') from error


def labels_of(names: Sequence[str]) -> tuple[
    np.ndarray | None, tuple[str, ...] | None, list[str]]:
  """Makes labels of the sub-folders that files lie in.

  A label is the first part of a path that not all files share. Where these parts are
  names of splits, such as train and test, it is the part after them, also if there are
  files outside of them.

  Args:
    names: N paths relative to the folder, '/' between their parts.

  Returns:
    The labels, int64 [N], the names of the sub-folders that they count, and notes. A
    file outside of the sub-folders has the label -1. (None, None) if there are fewer
    than two sub-folders.
  """
  folders, notes = [tuple(name.split('/')[:-1]) for name in names], []
  depth = 0
  while True:
    parts = {folder[depth] if len(folder) > depth else None for folder in folders}
    named = sorted(part for part in parts if part is not None)
    splits = len(named) > 1 and all(map(is_split, named))
    if splits:
      notes.append(f"the sub-folders {', '.join(named)} are taken for parts of "
                   'the data, not for classes')
    elif len(parts) != 1 or not named:
      break
    depth += 1
  if len(named) < 2:
    return None, None, notes
  number = {name: label for label, name in enumerate(named)}
  labels = np.array([number[folder[depth]] if len(folder) > depth else -1
                     for folder in folders], np.int64)
  return labels, tuple(named), notes


def is_split(name: str) -> bool:
  """Whether a folder or an array is called as a part of the data: train, test_images."""
  words = re.findall('[a-z]+', name.lower())
  return not SPLITS.isdisjoint(words) and SPLITS.union(OF_SPLITS).issuperset(words)
