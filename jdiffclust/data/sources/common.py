"""What the readers of images share.

A reader takes the data options (see `jdiffclust.data.dataset.load_source`) and returns
a `Raw`: the images as stored. Resizing, conversion of channels and padding are the same
for all readers, and `load_source` does them afterwards.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from jdiffclust import errors
from jdiffclust.data.rendering import Rendering
from jdiffclust.files import spelling

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')

# Axes of fewer are not looked along for images; so many places of each other one are;
# what is as many times as rough as both others has images along it.
FEWEST_ALONG, LOOKED_AT, ROUGH = 8, 24, 1.5
# What programs write, in any case, where a value is missing.
MISSING = {'na', 'n/a', 'nan', '<na>', 'nat', 'null', 'none'}
THREADS = min(16, 2 * (os.cpu_count() or 1))


class Stored(NamedTuple):
  """What N image files hold.

  Attributes:
    sizes: (height, width) in pixels, int [N, 2].
    transparent: whether some of its pixels are, bool [N].
    contrast: the share of the variance of its pixels that is left of it at the size at
      which it is read, [N]; about 1 if it keeps its size.
  """

  sizes: np.ndarray
  transparent: np.ndarray
  contrast: np.ndarray

  def take(self, rows: np.ndarray) -> 'Stored':
    """The same of some images, int [n]."""
    return Stored(*(array[rows] for array in self))


class Raw(NamedTuple):
  """What a reader hands to `load_source`.

  Attributes:
    images: [N, H, W, C], an array (maybe a memory map) or `LazyImages`; uint8 levels, or
      float32 in [-1, 1] if `levels` is None. C is 1 or 3.
    ids: N texts, one for each image.
    labels: int64 [N], -1 where unknown; None: there are no labels.
    label_names: the name of label 0, 1, ...; None: labels have no names.
    levels: number of grey levels; None: the pixels are real numbers.
    name: of the data set, for reports.
    skipped: unreadable files that were left out.
    rendering: how stored pixels became these.
    notes: what the user should know of how the data were read, a line each.
    resized: which files were of another size, for a person; '': none.
    thumbnail: from the number of an image and a number of pixels to the whole picture as
      it is stored, uint8 [h, w, 1 or 3] with no side above that; None: `images` are it.
    stored: what the files hold; None: the images are no files.
    metadata: as of `ImageSource`.
  """

  images: np.ndarray | LazyImages
  ids: Sequence[str]
  labels: np.ndarray | None
  label_names: tuple[str, ...] | None
  levels: int | None
  name: str
  skipped: tuple[str, ...] = ()
  rendering: Rendering = Rendering()
  notes: tuple[str, ...] = ()
  resized: str = ''
  thumbnail: Callable[[int, int], np.ndarray] | None = None
  stored: Stored | None = None
  metadata: Mapping[str, Sequence[Any]] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class LazyImages:
  """Images that are read when asked for: item i is `read(keys[i])`.

  Attributes:
    keys: what identifies each of the N images: its file path, or its row number.
    read: a function from a key to the pixels [H, W, C].
    shape: (N, H, W, C).
    dtype: type of the pixels.
  """

  keys: Sequence[Any]
  read: Callable[[Any], np.ndarray]
  shape: tuple[int, int, int, int]
  dtype: np.dtype

  def __len__(self) -> int:
    """N."""
    return len(self.keys)

  def __getitem__(self, index: int) -> np.ndarray:
    """Reads an image, [H, W, C]."""
    return self.read(self.keys[index])

  def take(self, indices: Iterable[int]) -> LazyImages:
    """Selects images without reading them.

    Args:
      indices: n integers in 0..N - 1.

    Returns:
      The LazyImages of these n images, in this order.
    """
    keys = [self.keys[i] for i in indices]
    return dataclasses.replace(self, keys=keys, shape=(len(keys), *self.shape[1:]))


def threaded_map(function: Callable[[_Item], _Result],
                 items: Sequence[_Item]) -> list[_Result]:
  """Applies a function to every item, in several threads.

  Threads are enough, since decoding and reading release the interpreter lock.

  Args:
    function: of one item. An exception that it raises is raised here.
    items: a sequence that can be sliced.

  Returns:
    The results, in the order of the items.
  """
  # By blocks: for small images, handing over single items costs more than reading.
  size = min(64, len(items) // (4 * THREADS) + 1)
  blocks = [items[i:i + size] for i in range(0, len(items), size)]
  with futures.ThreadPoolExecutor(THREADS) as pool:
    done = pool.map(lambda block: [function(item) for item in block], blocks)
    return [result for block in done for result in block]


def with_channels(images: np.ndarray, path: Any) -> np.ndarray:
  """Gives images an axis of channels if they have none, and checks their shape.

  Args:
    images: [N, H, W] or [N, H, W, C], C 1, 3 or 4.
    path: what the error message calls the images, usually the path of their file.

  Returns:
    [N, H, W, C], C 1, 3 or 4.

  Raises:
    UserError: another shape, or axes that look transposed, by the shape or the pixels.
  """
  transposed = images.ndim == 3 and (
      images.shape[-1] > 8 * max(images.shape[:2])
      or min(images.shape[:2]) >= 16 and images.shape[-1] in (3, 4)
      # Rather squares along the last axis than as many images as these have rows.
      or 8 <= images.shape[0] == images.shape[1] != images.shape[2]
      or last_axis_is_rough(images))
  if transposed:
    raise errors.UserError(
        f'{path}: an array of shape {images.shape} looks like one colour image '
        '[H, W, C], or like images along the last axis [H, W, N]; [N, H, W] or '
        '[N, H, W, C] are needed; use array[None] or np.moveaxis(array, -1, 0), or '
        'array[..., None] if it is right')
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
    channels_first = images.ndim == 4 and images.shape[1] in (1, 3, 4)
    raise errors.UserError(
        f'{path}: images of shape {images.shape}; [N, H, W] or [N, H, W, C] with C 1, '
        '3 or 4 (channels last) are allowed; ' + (
            'np.moveaxis(array, 1, -1) puts its channels last' if channels_first else
            'reshape or transpose the array'))
  return images


def last_axis_is_rough(images: np.ndarray) -> bool:
  """Tells whether neighbours differ along the third axis more than along the others.

  From one image to the next pixels change more than within one, in either direction; of
  frames of a film less. So images lie along the third axis.

  Args:
    images: [A, B, C] or [A, B, C, channels]; some of its pixels are looked at.
  """
  if min(images.shape[:3]) < FEWEST_ALONG or not is_real(images.dtype):
    return False
  places = [np.unique(np.linspace(0, side - 2, LOOKED_AT, dtype=int))
            for side in images.shape[:3]]
  at = lambda *axes: images[np.ix_(*axes)].astype(np.float64)
  with np.errstate(invalid='ignore', over='ignore'):  # pixels that are none: told later
    first, second, third = (
        np.abs(at(*(places[k] + (k == axis) for k in range(3))) - at(*places)).mean()
        for axis in range(3))
  return bool(third > ROUGH * max(first, second))


def is_real(dtype: np.dtype) -> bool:
  """Whether an array has truth values, integers or floats."""
  return dtype.kind in 'biuf'


def constant_images_error(value: float) -> errors.UserError:
  """Makes the error for data whose pixels all have one value.

  Args:
    value: of every pixel.

  Returns:
    A UserError, to be raised.
  """
  return errors.UserError(
      f'every pixel of every image is {value:g}: nothing to cluster; images that '
      'differ are needed; check --config.data.path and the file it names')


def row_ids(num_images: int) -> tuple[str, ...]:
  """Makes the ids of images that have no file name.

  Args:
    num_images: N.

  Returns:
    The row numbers '0', '1', ... as N texts.
  """
  return tuple(map(str, range(num_images)))


def existing_file(path: str | os.PathLike) -> str | os.PathLike:
  """Checks that a path is that of a file.

  Args:
    path: of the file.

  Returns:
    The path.

  Raises:
    UserError: it is empty, it does not exist, or it is a folder.
  """
  if not path or not os.path.isfile(path):
    what = 'is a folder' if path and os.path.isdir(path) else 'does not exist'
    raise errors.UserError(
        f'{str(path)!r} {what if path else "names no file"}; the path of a file is '
        'needed; check --config.data.path and --config.data.labels_path')
  return path


def no_pipe(path: str | os.PathLike) -> str:
  """A path with the home folder for ~, which can be opened.

  To open a pipe is to wait for what another process writes.

  Raises:
    OSError: it is not there.
    ValueError: it is a pipe, or a device.
  """
  path = os.path.expanduser(os.fspath(path))
  mode = os.stat(path).st_mode
  if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
    raise ValueError('it is a pipe or a device, not a file')
  return path


class Labels(NamedTuple):
  """What is known of the classes of N images; used to score a result, never to find it.

  Attributes:
    numbers: int64 [N], an index of `names`; -1 where unknown.
    names: the classes, as the user wrote them, in their order.
  """

  numbers: np.ndarray
  names: tuple[str, ...]


def checked_labels(labels: ArrayLike, num_images: int, where: Any,
                   unknown: np.ndarray | None = None) -> Labels:
  """Checks labels and numbers the classes that occur.

  A label is a name, whatever its type: 20230001 and -1 are classes like any other.

  Args:
    labels: whole numbers, truth values or texts, [N] or [N, 1].
    num_images: N.
    where: what error messages call the labels.
    unknown: which images have no label, bool [N]; None: those have none whose label is
      masked, or a text of blanks.

  Returns:
    `Labels`, numbered in the order of the numbers, or alphabetically.

  Raises:
    UserError: another shape or number of labels, or numbers that are not whole.
  """
  labels = np.asanyarray(labels)
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  hidden, labels = np.ma.getmaskarray(labels), np.ma.getdata(labels)
  if labels.ndim != 1:
    raise errors.UserError(
        f'{where}: labels of shape {labels.shape}; one number or text for each image '
        'is allowed; take argmax(-1) of one-hot labels')
  if len(labels) != num_images:
    raise errors.UserError(
        f'{where}: {len(labels)} labels for {num_images} images; one label for each '
        'image is needed; give the matching file, or set '
        '--config.data.use_labels=False')
  if labels.dtype.kind == 'O' and all(isinstance(label, str) for label in labels):
    labels = labels.astype(str)
  whole = labels.dtype.kind in 'SUbiu' or labels.dtype.kind == 'f' and bool(
      (labels == np.rint(labels)).all() and np.isfinite(labels).all())
  if not whole:
    raise errors.UserError(
        f'{where}: labels of type {labels.dtype} that are not whole numbers; whole '
        'numbers or texts are allowed; mend them, or set '
        '--config.data.use_labels=False')
  if unknown is None:
    blank = np.char.strip(labels) == labels.dtype.type() if (
        labels.dtype.kind in 'SU') else False
    unknown = hidden | blank
  known = ~unknown
  classes, members = np.unique(labels[known], return_inverse=True)
  numbers = np.full(num_images, -1, np.int64)
  numbers[known] = members
  return Labels(numbers, tuple(map(_class_name, classes.tolist())))


def alike_classes(names: Sequence[str]) -> tuple[str, ...]:
  """Tells of classes that may be one: written alike but for case, spaces or zeros.

  Args:
    names: of the classes, each one once.

  Returns:
    A note, or nothing.
  """
  groups = collections.defaultdict(list)
  for name in names:
    groups[_bare(name)].append(name)
  found = [group for group in groups.values() if len(group) > 1]
  if not found:
    return ()
  first, second = map(repr, found[0][:2])
  return (f'{len(found)} classes are written in several ways, such as {first} and '
          f'{second}, and count as several: write them alike if they are one',)


def missing_classes(names: Sequence[str]) -> tuple[str, ...]:
  """Tells of classes that look like what programs write where nothing is known.

  Args:
    names: of the classes.

  Returns:
    A note, or nothing.
  """
  found = [name for name in names if is_missing(name)]
  return (f"{', '.join(map(repr, found))} counts as a class like any other: where it "
          'means that the class is not known, leave the label empty',) if found else ()


def is_missing(text: str) -> bool:
  """Whether a text is what R, NumPy, pandas or a database writes for a missing value."""
  return text.strip().lower() in MISSING


def _bare(name: str) -> str:
  """A name without what a person may not see: case, spaces, 1.0 in the place of 1."""
  shown = ''.join(sign for sign in spelling(name) if sign.isprintable()).strip()
  if len(shown) < 7 and re.fullmatch(r'[+-]?\d+([.]\d*)?', shown):
    return f'{float(shown):g}'
  return re.sub(r'[\s_-]+', ' ', shown)


def _class_name(label: bytes | str | bool | int | float) -> str:
  """Returns a label as text."""
  if isinstance(label, bytes):
    return label.decode('utf-8', 'backslashreplace')
  if isinstance(label, float) and abs(label) < 2**53:
    return str(int(label))
  return str(label)


def one_line(error: BaseException) -> str:
  """Shortens an exception's message to one line.

  Args:
    error: the exception.

  Returns:
    Its message, at most 200 characters; the name of its type if there is no message.
  """
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else f'{text[:197]}...'


def cannot_read(path: Any, error: OSError) -> errors.UserError:
  """Makes the error for a file or folder that the system does not let us read.

  Args:
    path: of the file or folder.
    error: what the system says.

  Returns:
    A UserError, to be raised.
  """
  return errors.UserError(
      f'{path} cannot be read ({error.strerror or one_line(error)}); a readable file or '
      'folder is needed; check --config.data.path and its permissions')
