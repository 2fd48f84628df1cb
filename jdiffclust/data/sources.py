"""Readers of the five kinds of data, one function each, listed in `READERS`.

A reader takes the data options (see `jdiffclust.data.dataset.load_source`) and
returns a `Raw`: the images as stored, before resizing, channel conversion and
padding, which `load_source` does alike for all of them.
"""

from concurrent import futures
import dataclasses
import functools
import gzip
import io
import os
import pathlib
import re
from typing import Any, Callable, NamedTuple, Sequence
import urllib.parse
import zipfile
import zlib

import numpy as np
from PIL import Image

from jdiffclust import errors
from jdiffclust.data import preprocess

THREADS = min(16, 2 * (os.cpu_count() or 1))

IMAGE_KEYS = ('images', 'x', 'x_train', 'arr_0')  # the automatic npz array names,
LABEL_KEYS = ('labels', 'y', 'y_train', 'arr_1')  # tried in this order

_IDX_TYPES = {0x08: 'u1', 0x09: 'i1', 0x0B: '>i2', 0x0C: '>i4', 0x0D: '>f4',
              0x0E: '>f8'}


class Raw(NamedTuple):
  """What a reader hands to `load_source`.

  images: [N, H, W, C] array (maybe a memory map) or `LazyImages`; uint8 levels, or
    float32 in [-1, 1] where `levels` is None. C is 1 or 3.
  ids: N texts. labels: int64 [N] or None. label_names: one text a label, or None.
  levels: number of grey levels, None for real values. name: for reports.
  skipped: unreadable files left out. grouped: whether neighbours in this order are
    alike (files of one folder), so that the first few would not do as a sample.
  """
  images: Sequence
  ids: Sequence[str]
  labels: np.ndarray | None
  label_names: tuple[str, ...] | None
  levels: int | None
  name: str
  skipped: tuple[str, ...] = ()
  grouped: bool = False


@dataclasses.dataclass(frozen=True)
class LazyImages:
  """Images read when asked for: item i is `read(keys[i])`.

  Attributes:
    keys: what tells an image from the others: file paths, or row numbers.
    read: from a key to the array [H, W, C].
    shape: (N, H, W, C).
    dtype: type of the pixels.
  """
  keys: Sequence
  read: Callable[[Any], np.ndarray]
  shape: tuple[int, int, int, int]
  dtype: np.dtype

  def __len__(self):
    return len(self.keys)

  def __getitem__(self, index):
    return self.read(self.keys[index])

  def take(self, indices):
    """Returns the LazyImages of these indices alone, still unread."""
    keys = [self.keys[i] for i in indices]
    return dataclasses.replace(self, keys=keys, shape=(len(keys), *self.shape[1:]))


def threaded_map(function, items):
  """Runs a function on every item in threads; returns the results in order.

  Threads are enough, since decoding and reading let go of the interpreter lock.
  """
  # By blocks: for small images, handing over single items costs more than reading.
  size = min(64, len(items) // (4 * THREADS) + 1)
  blocks = [items[i:i + size] for i in range(0, len(items), size)]
  with futures.ThreadPoolExecutor(THREADS) as pool:
    done = pool.map(lambda block: [function(item) for item in block], blocks)
    return [result for block in done for result in block]


# --- digits -------------------------------------------------------------------


def read_digits(data):
  """Reads scikit-learn's 1,797 digits, 8x8x1 with levels 0..16.

  Args:
    data: the data options; only `use_labels` counts.

  Returns:
    a Raw.
  """
  from sklearn import datasets  # slow to import, and needed here alone
  digits = datasets.load_digits()
  labels = digits.target.astype(np.int64) if data.use_labels else None
  return Raw(
      images=digits.images.astype(np.uint8)[..., None],
      ids=_row_ids(len(digits.images)), labels=labels,
      label_names=tuple('0123456789') if data.use_labels else None,
      levels=17, name='digits')


# --- idx ----------------------------------------------------------------------


def read_idx(path):
  """Reads one array of the IDX format (MNIST's), gzipped or not.

  Args:
    path: the file. Whether it is gzipped is told by its first bytes.

  Returns:
    the array, of the type and shape its header names; a read-only memory map if
    the file is not gzipped.

  Raises:
    UserError: no such file, not IDX, truncated, or longer than its header says.
  """
  path = _existing_file(path)
  try:
    with open(path, 'rb') as file:
      gzipped = file.read(2) == b'\x1f\x8b'
    with (gzip.open if gzipped else open)(path, 'rb') as file:
      dtype, shape, start = _idx_header(file, path)
      expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
      if gzipped:
        pixels = file.read(expected + 1)  # one more shows that there is too much
        found = len(pixels)
      else:
        found = os.path.getsize(path) - start
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise errors.UserError(
        f'{path} is a damaged or truncated gzip file ({error}); fetch it again'
    ) from error
  except OSError as error:
    raise _cannot_read(path, error) from error
  if found != expected:
    what = 'truncated' if found < expected else 'longer than its header says'
    raise errors.UserError(
        f'{path} is {what}: its header announces {expected} bytes for the shape '
        f'{shape}, {"at least " * (gzipped and found > expected)}{found} follow; '
        'fetch or write the file again')
  if gzipped or not expected:
    return np.frombuffer(pixels if gzipped else b'', dtype).reshape(shape)
  return np.memmap(path, dtype, 'r', start, shape)


def _idx_header(file, path):
  """Returns (dtype, shape, bytes of header) of an IDX file open at its start."""
  magic = file.read(4)
  if len(magic) < 4 or magic[:2] != b'\0\0' or magic[2] not in _IDX_TYPES:
    raise errors.UserError(
        f'{path} is not an IDX file: it starts with the bytes {magic.hex(" ")!r}, '
        'where 00 00, a type (08 for images) and the number of axes belong; give '
        'the *-idx3-ubyte file, or set --config.data.source')
  axes = file.read(4 * magic[3])
  if len(axes) < 4 * magic[3] or not axes:
    raise errors.UserError(
        f'{path} is truncated: {len(axes)} of the {4 * magic[3]} bytes of its shape '
        'are there; fetch or write the file again')
  shape = tuple(int(n) for n in np.frombuffer(axes, '>u4'))
  return np.dtype(_IDX_TYPES[magic[2]]), shape, 4 + len(axes)


def read_idx_images(path):
  """Reads an IDX file of images.

  Args:
    path: an idx3 (grey) or idx4 (channels last) file of unsigned bytes.

  Returns:
    uint8 [N, H, W, C], C 1, 3 or 4.

  Raises:
    UserError: as `read_idx`, or the array is not of images.
  """
  images = read_idx(path)
  if images.dtype != np.uint8 or images.ndim not in (3, 4):
    raise errors.UserError(
        f'{path} holds {images.dtype} of shape {images.shape}, not images: unsigned '
        'bytes [N, H, W] (idx3) or [N, H, W, C] (idx4) are needed; give the '
        'images file (a labels file goes to --config.data.labels_path)')
  return _with_channels(images, path)


def read_idx_labels(path, num_images):
  """Reads an IDX file of labels.

  Args:
    path: an idx1 file of integers.
    num_images: how many labels there must be.

  Returns:
    int64 [num_images].

  Raises:
    UserError: as `read_idx`, or not one integer for each image.
  """
  return _checked_labels(read_idx(path), num_images, path)[0]


def read_idx_source(data):
  """Reads the images of `data.path` and labels from a file beside them.

  The labels file is `data.labels_path`, or else the file named as the images file
  is with 'labels' for 'images' and 'idx1' for 'idx3', where there is one.

  Args:
    data: the data options; `path`, `labels_path` and `use_labels` count.

  Returns:
    a Raw; the images are a memory map unless the file is gzipped.

  Raises:
    UserError: see `read_idx_images` and `read_idx_labels`.
  """
  images = _composited(read_idx_images(data.path), 255)
  labels = None
  labels_path = data.labels_path or _idx_labels_path(data.path)
  if data.use_labels and labels_path:
    labels = read_idx_labels(labels_path, len(images))
  return Raw(images, _row_ids(len(images)), labels, None, 256,
             f'idx:{pathlib.Path(data.path).name}')


def _idx_labels_path(images_path):
  """Returns the labels file usual beside an images file, or None without one."""
  path = pathlib.Path(images_path)
  name = re.sub('idx[34]', 'idx1', path.name.replace('images', 'labels'))
  stem = name.removesuffix('.gz')
  for candidate in (name, stem, f'{stem}.gz'):
    if candidate != path.name and path.with_name(candidate).is_file():
      return path.with_name(candidate)
  return None


# --- npz and npy --------------------------------------------------------------


def read_npz(data):
  """Reads arrays saved by `np.savez` (.npz) or `np.save` (.npy, no labels).

  The images are the array `image_key`, or else the first there is of IMAGE_KEYS,
  or the only array; the labels are `label_key`, or else the first of LABEL_KEYS.
  Integers must lie in 0..255 and count as 256 levels (truth values as 2). Floats
  are mapped linearly from their own [min, max] to [-1, 1]. An alpha channel (0..255,
  or 0..1 for floats) is composited on black first.

  Args:
    data: the data options; `path`, `image_key`, `label_key` and `use_labels` count.

  Returns:
    a Raw; an .npy file of uint8 is a memory map.

  Raises:
    UserError: the file or the named array is missing or of a wrong shape or type,
      or pixels are NaN or infinite.
  """
  path = _existing_file(data.path)
  try:
    found = np.load(path, mmap_mode='r', allow_pickle=False)
    if isinstance(found, np.ndarray):
      images, labels = found, None
    else:
      with found:
        key = _array_name(found, data.image_key, IMAGE_KEYS, 'image_key', path)
        images, labels = found[key], None
        key = data.use_labels and _array_name(
            found, data.label_key, LABEL_KEYS, 'label_key', path)
        if key:
          labels = found[key]
  except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    raise errors.UserError(
        f'{path} is not a readable .npz or .npy file of numbers ({_line(error)}); '
        'write it with np.savez(path, images=..., labels=...)') from error
  except OSError as error:
    raise _cannot_read(path, error) from error
  images, levels = _as_levels(_with_channels(images, path), path)
  names = None
  if labels is not None:
    labels, names = _checked_labels(labels, len(images), f'{path}, {key!r}')
  return Raw(images, _row_ids(len(images)), labels, names, levels,
             f'npz:{pathlib.Path(path).name}')


def _array_name(arrays, wanted, automatic, option, path):
  """Returns the name of the array to read, or None for labels there are none of."""
  names = list(arrays)
  if not wanted:
    wanted = next((name for name in automatic if name in names), '')
    if not wanted and option == 'label_key':
      return None
    if not wanted and len(names) == 1:
      wanted = names[0]
  if wanted not in names:
    tried = repr(wanted) if wanted else f'named {", ".join(automatic)}'
    raise errors.UserError(
        f'{path} has no array {tried}; it has: {", ".join(names) or "none"}; set '
        f'--config.data.{option} to one of them')
  return wanted


def _with_channels(images, path):
  """Returns an array as [N, H, W, C], or says what is wrong with its shape."""
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
    raise errors.UserError(
        f'{path}: images of shape {images.shape}; [N, H, W] or [N, H, W, C] with C 1, '
        '3 or 4 (channels last) are allowed; reshape or transpose the array')
  return images


def _composited(images, opaque):
  """Returns [..., 4] images on black, and others as they are."""
  if images.shape[-1] < 4:
    return images
  return preprocess.composite_on_black(images, opaque)


def _as_levels(images, path):
  """Returns [N, H, W, C] numbers as uint8 and their levels, or float32 and None."""
  if images.dtype == bool:
    return images.astype(np.uint8), 2
  if np.issubdtype(images.dtype, np.integer):
    if images.dtype != np.uint8 and images.size:
      low, high = images.min(), images.max()
      if low < 0 or high > 255:
        raise errors.UserError(
            f'{path}: integer pixels from {low} to {high}; 0 to 255 are allowed; '
            'save other ranges as floats, which are scaled from their own range')
      images = images.astype(np.uint8)
    return _composited(images, 255), 256
  if not np.issubdtype(images.dtype, np.floating):
    raise errors.UserError(
        f'{path}: pixels of type {images.dtype}; truth values, integers and floats '
        'are allowed; convert the array')
  bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
  if bad.size:
    raise errors.UserError(
        f'{path}: {bad.size} of {len(images)} images have NaN or infinite pixels, '
        f'the first is index {bad[0]}; pixels must be finite; remove or mend them')
  if images.shape[-1] == 4:
    alpha = images[..., 3]
    if alpha.size and (alpha.min() < 0 or alpha.max() > 1):
      raise errors.UserError(
          f'{path}: alpha (the 4th channel) from {alpha.min():g} to '
          f'{alpha.max():g}; floats need it in 0 to 1; save 3 channels instead')
    images = preprocess.composite_on_black(images, 1)
  if not images.size:
    return images.astype(np.float32), None
  images = images.astype(np.float64)
  low, high = images.min(), images.max()
  if low == high:
    raise constant_images_error(low)
  return ((images - low) / (high - low) * 2 - 1).astype(np.float32), None


def constant_images_error(value):
  """Returns the UserError for data whose every pixel has this value."""
  return errors.UserError(
      f'every pixel of every image is {value:g}: nothing to cluster; images that '
      'differ are needed; check --config.data.path and the file it names')


# --- folder -------------------------------------------------------------------


class _Header(NamedTuple):
  """What is kept of a file that was opened and decoded once."""
  size: tuple[int, int]
  grey: bool


def read_folder(data):
  """Reads the image files of a folder and its sub-folders, decoded when asked for.

  Files are those with an extension Pillow reads, hidden ones left out, ordered by
  their path. All are decoded once now, so that damaged ones are known. How one is
  decoded: see `preprocess.pixels_of`. The label is the sub-folder of `data.path`
  the file lies under (deeper ones do not count), -1 for files outside them; fewer
  than two sub-folders give no labels.

  Args:
    data: the data options; `path`, `image_size`, `channels`, `use_labels` and
      `unreadable` count.

  Returns:
    a Raw of `LazyImages`, 256 levels; grey if every file is.

  Raises:
    UserError: no such folder, no image in it, an unreadable file while these are
      refused, sizes that differ while `image_size` is 0, or labels for some only.
  """
  root = pathlib.Path(data.path)
  if not data.path or not root.is_dir():
    raise errors.UserError(
        f'--config.data.path={data.path!r} is not a folder; a folder of image files '
        'is needed; set it to an existing one')
  names = _image_names(root)
  headers = threaded_map(functools.partial(_verify, root), names)
  bad = [(n, h) for n, h in zip(names, headers) if not isinstance(h, _Header)]
  if bad and (data.unreadable == 'refuse' or len(bad) == len(names)):
    what = ('use --config.data.unreadable=skip to leave them out, or remove them'
            if len(bad) < len(names) else 'give a folder with readable images')
    shown = ', '.join(f'{name} ({reason})' for name, reason in bad[:3])
    more = ', ...' * (len(bad) > 3)
    raise errors.UserError(
        f'{len(bad)} of {len(names)} image files in {root} cannot be read: '
        f'{shown}{more}; {what}')
  good = [(n, h) for n, h in zip(names, headers) if isinstance(h, _Header)]
  names, headers = [n for n, _ in good], [h for _, h in good]
  height, width = _common_size(names, headers, data.image_size, root)
  channels = data.channels or (1 if all(h.grey for h in headers) else 3)
  images = LazyImages(
      names, functools.partial(_decode_file, root, data.image_size),
      (len(names), height, width, channels), np.dtype(np.uint8))
  labels, label_names = _folder_labels(names) if data.use_labels else (None, None)
  # A name that is not UTF-8 must not break the writing of the results.
  ids = [name.encode('utf-8', 'backslashreplace').decode() for name in names]
  return Raw(images, ids, labels, label_names, 256, f'folder:{root.resolve().name}',
             tuple(name for name, _ in bad), grouped=True)


def _image_names(root):
  """Returns the sorted image paths under a folder, relative to it, '/' between."""
  try:
    names = sorted(_walk(root))
  except OSError as error:
    raise _cannot_read(root, error) from error
  readable = {extension for extension, form in Image.registered_extensions().items()
              if form in Image.OPEN}
  extensions = [pathlib.PurePosixPath(name).suffix.lower() for name in names]
  found = [n for n, extension in zip(names, extensions) if extension in readable]
  if not found:
    counts = ', '.join(f'{extensions.count(e)} {e or "without extension"}'
                       for e in sorted(set(extensions))) or 'none at all'
    raise errors.UserError(
        f'no image file in {root} (files seen: {counts}); .png, .jpg and the other '
        'types Pillow reads are allowed; set --config.data.path to where they are')
  return found


def _walk(folder, prefix='', above=()):
  """Yields the paths of the files that are not hidden, following linked folders."""
  real = os.path.realpath(folder)
  if real in above:  # a link back to a folder we are in
    return
  for entry in os.scandir(folder):
    if entry.name.startswith('.'):
      continue
    if entry.is_dir():
      yield from _walk(entry.path, f'{prefix}{entry.name}/', (*above, real))
    else:
      yield prefix + entry.name


def _verify(root, name):
  """Returns the _Header of a file, or one line saying why it cannot be decoded."""
  try:
    with Image.open(root / name) as image:
      header = _Header(preprocess.upright_size(image), preprocess.is_grey(image))
      image.draft(None, (1, 1))  # a JPEG is read to its end, at 1/8 of the work
      preprocess.pixels_of(image)
    return header
  # A damaged file makes Pillow's many decoders raise nearly anything (OSError,
  # SyntaxError, struct.error, KeyError, DecompressionBombError, ...): whatever it
  # is, this file is unreadable and that is the reason to show.
  except Exception as error:  # pylint: disable=broad-except
    return 'not an image' if isinstance(error, Image.UnidentifiedImageError) else (
        _line(error))


def _decode_file(root, image_size, name):
  """Returns the pixels [H, W, C] of an image file."""
  try:
    with Image.open(root / name) as image:
      return _decode(image, image_size)
  except OSError as error:
    raise errors.UserError(
        f'{root / name} could be read when the data was loaded, not any more '
        f'({_line(error)}); put it back, or start again without it') from error


def _decode(image, image_size):
  """Returns the pixels of an opened image, not much larger than will be needed."""
  if image_size:
    image.draft(None, (2 * image_size, 2 * image_size))  # JPEGs only, others ignore
  return preprocess.pixels_of(image)


def _common_size(names, headers, image_size, where):
  """Returns the (height, width) of all images, or the size they will be given."""
  if image_size:
    return image_size, image_size
  first = headers[0].size
  other = next((i for i, h in enumerate(headers) if h.size != first), None)
  if other is not None:
    (h0, w0), (h1, w1) = first, headers[other].size
    raise errors.UserError(
        f'images of {where} differ in size: {names[0]} is {h0}x{w0}, {names[other]} '
        f'is {h1}x{w1} (height x width); one size is needed; set '
        '--config.data.image_size=N to resize all to NxN')
  return first


def _folder_labels(names):
  """Returns int64 labels and their names from the first part of each path.

  A file outside the sub-folders gets -1, no label; fewer than two sub-folders are no
  labels at all: (None, None).
  """
  parts = [name.split('/')[0] if '/' in name else None for name in names]
  label_names = sorted({part for part in parts if part is not None})
  if len(label_names) < 2:
    return None, None
  number = {name: label for label, name in enumerate(label_names)}
  labels = np.array([number.get(part, -1) for part in parts], np.int64)
  return labels, tuple(label_names)


# --- TensorFlow Datasets, read without TensorFlow ---------------------------------


def read_tfds(data):
  """Reads a TensorFlow Datasets image set, decoded by Pillow when asked for.

  Args:
    data: the data options; `name` (may hold a config and version), `split`, `path`
      (the data_dir; '' for TFDS's own default), `image_key` ('' = 'image'),
      `label_key` ('' = 'label' where there is one), `image_size`, `channels` and
      `use_labels` count.

  Returns:
    a Raw of `LazyImages`, 256 levels.

  Raises:
    UserError: a package is missing, or the set, split or feature is; the set is not
      prepared and cannot be downloaded; or its sizes differ and `image_size` is 0.
  """
  source, image_key = _tfds_source(data)
  features = source.dataset_info.features
  label_key = data.label_key or ('label' if 'label' in features else '')
  if label_key:
    label_key = _feature_name(features, label_key, data, 'label_key')
  labels, headers, stored = [], [], features[image_key].shape
  for i in range(len(source)) if data.use_labels or None in stored else ():
    example = source[i]
    if label_key:
      labels.append(example[label_key])
    if None in stored:
      with Image.open(io.BytesIO(example[image_key])) as image:
        headers.append(_Header(preprocess.upright_size(image),
                               preprocess.is_grey(image)))
  where = f'TFDS {data.name!r}'
  if headers:
    names = [f'image {i}' for i in range(len(headers))]
    size = _common_size(names, headers, data.image_size, where)
    stored = (*size, 1 if all(h.grey for h in headers) else 3)
  shape = (len(source), *stored[:2], data.channels or (1 if stored[2] == 1 else 3))
  label_names = None
  labels = np.asarray(labels)
  if not data.use_labels or not label_key or (labels == -1).all():  # -1: not known
    labels = None
  else:
    labels, _ = _checked_labels(labels, len(source), where)
    label_names = getattr(features[label_key], 'names', None)
  return Raw(
      LazyImages(range(len(source)),
                 functools.partial(_read_example, source, image_key, data.image_size),
                 shape, np.dtype(np.uint8)),
      _row_ids(len(source)), labels, label_names and tuple(label_names), 256,
      f'tfds:{data.name}')


def _read_example(source, image_key, image_size, index):
  """Returns the pixels [H, W, C] of an example of a TFDS source."""
  with Image.open(io.BytesIO(source[index][image_key])) as image:
    return _decode(image, image_size)


def _feature_name(features, key, data, option):
  """Returns a feature's name, or lists the names there are."""
  if key not in features:
    raise errors.UserError(
        f'TFDS {data.name!r} has no feature {key!r}; it has: '
        f'{", ".join(sorted(features))}; set --config.data.{option} to one of them')
  return key


_INSTEAD = ('or use --config.data.source=folder, npz or idx, or make the set from IDX '
            'files with python -m jdiffclust.data.prepare_tfds')


def import_tfds():
  """Imports TFDS and what it needs to read without TensorFlow.

  Returns:
    the module tensorflow_datasets.

  Raises:
    UserError: a package is not installed.
  """
  try:
    import array_record.python.array_record_data_source  # noqa: F401 (for TFDS)
    import importlib_resources  # noqa: F401 (TFDS does not declare it)
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise errors.UserError(
        f'TFDS needs the package {error.name}, which is not installed; pip install '
        'tensorflow-datasets array_record importlib_resources, or use '
        '--config.data.source=folder, npz or idx') from error
  return tfds


def _tfds_source(data):
  """Returns a random-access TFDS source, its images encoded, and their feature."""
  tfds = import_tfds()
  builder = _prepared_builder(tfds, data)
  splits = {part.split('[')[0] for part in data.split.split('+')}
  if not splits <= {*builder.info.splits, 'all'}:
    raise errors.UserError(
        f'TFDS {data.name!r} has no split {data.split!r}; it has: '
        f'{", ".join(builder.info.splits)}; set --config.data.split to one of them')
  features = builder.info.features
  image_key = _feature_name(features, data.image_key or 'image', data, 'image_key')
  if not isinstance(features[image_key], tfds.features.Image):
    raise errors.UserError(
        f'TFDS {data.name!r}: feature {image_key!r} is a '
        f'{type(features[image_key]).__name__}; an Image is needed; set '
        '--config.data.image_key to one')
  try:
    source = builder.as_data_source(
        split=data.split, decoders={image_key: tfds.decode.SkipDecoding()})
    return source, image_key
  except (NotImplementedError, ValueError) as error:
    raise errors.UserError(
        f'TFDS {data.name!r}, split {data.split!r}, cannot be read '
        f'({_line(error)}); a split like train[:1000] of a set prepared with '
        f'file_format="array_record" is needed; mend --config.data.split, {_INSTEAD}'
    ) from error


def _prepared_builder(tfds, data):
  """Returns a builder whose data is on this machine, downloading it if need be."""
  data_dir = data.path or None
  if not data.name:
    raise errors.UserError(
        "--config.data.name='' names no data set; the name of a TFDS image set is "
        'needed; set it, for example to cifar10')
  try:
    builder = tfds.builder(data.name, data_dir=data_dir, try_gcs=False)
  except (ValueError, AssertionError) as error:  # not found; no such version
    raise errors.UserError(
        f'--config.data.name={data.name!r}: TFDS knows no such set and there is none '
        f'prepared in {data_dir or "its default folder"}; check the name and '
        f'--config.data.path, {_INSTEAD}') from error
  if builder.is_prepared():
    return builder
  try:
    _check_reachable(builder)
    builder.download_and_prepare(
        file_format='array_record',
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except ImportError as error:
    raise errors.UserError(
        f'TFDS {data.name!r} is not prepared in {builder.data_path}, and preparing it '
        f'needs the package {error.name}; prepare it once where that is installed '
        f'(file_format="array_record") and copy the folder, {_INSTEAD}') from error
  except (OSError, ValueError, AssertionError, RuntimeError) as error:
    raise errors.UserError(
        f'TFDS {data.name!r} is not prepared in {builder.data_path} and could not be '
        f'downloaded ({_line(error)}); set --config.data.path to the data_dir of a '
        f'prepared copy, {_INSTEAD}') from error
  return builder


def _check_reachable(builder):
  """Raises OSError at once without a network; TFDS itself retries for minutes."""
  import requests  # comes with TFDS
  for url in list(builder.url_infos or ())[:1]:
    try:
      requests.head(url, timeout=20)
    except requests.RequestException as error:
      host = urllib.parse.urlsplit(url).netloc
      raise OSError(f'no connection to {host}') from error


# --- shared -------------------------------------------------------------------


READERS = {
    'digits': read_digits,
    'idx': read_idx_source,
    'npz': read_npz,
    'folder': read_folder,
    'tfds': read_tfds,
}


def _row_ids(num_images):
  """Returns the row numbers as texts: the ids of images that have no file name."""
  return tuple(map(str, range(num_images)))


def _existing_file(path):
  """Returns a path if it is a file; else says which option to set."""
  if not path or not os.path.isfile(path):
    what = 'is a folder' if path and os.path.isdir(path) else 'does not exist'
    raise errors.UserError(
        f'{str(path)!r} {what if path else "names no file"}; the path of a file is '
        'needed; check --config.data.path and --config.data.labels_path')
  return path


def _checked_labels(labels, num_images, where):
  """Returns int64 [N] labels and, if they were texts, the texts in order."""
  labels = np.asarray(labels)
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.ndim != 1:
    raise errors.UserError(
        f'{where}: labels of shape {labels.shape}; one number or text an image is '
        'allowed; take argmax(-1) of one-hot labels')
  if len(labels) != num_images:
    raise errors.UserError(
        f'{where}: {len(labels)} labels for {num_images} images; as many as images '
        'are needed; give the matching file, or set --config.data.use_labels=False')
  if labels.dtype.kind in 'SU':
    names, labels = np.unique(labels.astype(str), return_inverse=True)
    return labels.astype(np.int64), tuple(names.tolist())
  whole = labels.dtype.kind in 'biu' or (
      labels.dtype.kind == 'f' and bool((labels == np.rint(labels)).all()))
  if not whole or not np.isfinite(labels).all():
    raise errors.UserError(
        f'{where}: labels of type {labels.dtype} that are not whole numbers; whole '
        'numbers or texts are allowed; mend them, or set '
        '--config.data.use_labels=False')
  return labels.astype(np.int64), None


def _line(error):
  """Returns an exception's message as one line of bounded length."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else f'{text[:197]}...'


def _cannot_read(path, error):
  """Returns the UserError for a path the system would not let us read."""
  return errors.UserError(
      f'{path} cannot be read ({error.strerror or _line(error)}); a readable file or '
      'folder is needed; check --config.data.path and its permissions')
