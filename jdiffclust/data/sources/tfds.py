"""TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import functools
import io
import types
import urllib.parse
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from jdiffclust import errors
from jdiffclust.data import preprocess
from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.common import (
    LazyImages, Raw, checked_labels, one_line, row_ids, threaded_map)
from jdiffclust.data.sources.decoding import (
    Decoding, Kept, colours_note, common_size, decode, decoding_of, find_rendering,
    kept_to, levels_of, look, room_for, thumbnail)

# Images that are looked at for the range of the pixels where not all are kept.
MOST_LOOKED_AT = 4096


def read_tfds(data: ml_collections.ConfigDict,
              rendering: Rendering | None = None) -> Raw:
  """Reads a TensorFlow Datasets image set, decoded by Pillow when asked for.

  Args:
    data: the `data` section of a config. The options name (which may include a config
      and a version of the set), split, path (the data_dir; '': TFDS's default),
      image_key ('': 'image'), label_key ('': 'label' if there is such a feature),
      image_size, fit, channels, range, percentile, background, use_labels, pipeline
      and memory_limit_mb are used.
    rendering: of a fit, to be kept to; None: it is found, of all images if they are kept
      in memory, else of some.

  Returns:
    A Raw of `LazyImages`, 256 levels.

  Raises:
    UserError: a package, the set, the split or a feature is missing; the set is not
      prepared and cannot be downloaded; the labels are not whole numbers or texts; or
      sizes differ while `image_size` is 0.
  """
  source, image_key = _tfds_source(data)
  features = source.dataset_info.features
  label_key = data.label_key or ('label' if 'label' in features else '')
  if label_key:
    label_key = _feature_name(features, label_key, data, 'label_key')
  labels = ([source[i][label_key] for i in range(len(source))]
            if data.use_labels and label_key else [])
  stored, where = features[image_key].shape, f'TFDS {data.name!r}'
  decoding = decoding_of(data, rendering)
  # Where sizes are not declared, every image tells its own.
  kept = Kept(0. if None in stored[:2] and decoding.size is None else room_for(
      (len(source), *(decoding.size or stored[:2]), data.channels or stored[2] or 3),
      data))
  every = np.arange(len(source))
  if not kept.room and None not in stored:
    every = preprocess.spread(every, MOST_LOOKED_AT)
  headers = threaded_map(
      functools.partial(_look, source, image_key, decoding, kept), every.tolist())
  names = [f'image {i}' for i in every]
  if None in stored:
    size = common_size(names, headers, decoding.size, where)
    stored = (*size, 1 if all(h.grey for h in headers) else 3)
  shape = (len(source), *(decoding.size or stored[:2]),
           data.channels or (1 if stored[2] == 1 else 3))
  label_names = None
  labels = np.asarray(labels)
  classes = getattr(features[label_key], 'names', None) if label_key else None
  unknown = labels == -1 if classes else np.zeros(len(labels), bool)  # TFDS's own mark
  if not data.use_labels or not label_key or unknown.all():
    labels = None
  else:
    labels, label_names = checked_labels(labels, len(source), where, unknown)
    if classes:
      label_names = tuple(classes[int(name)] for name in label_names)
  if rendering is None:
    rendering, notes = find_rendering(names, headers, data)
  else:
    rendering, notes = kept_to(rendering, names, headers)
    notes += colours_note(names, headers) * (shape[-1] == 1)
  return Raw(
      LazyImages(range(len(source)),
                 functools.partial(_read_example, source, image_key, decoding, kept,
                                   rendering),
                 shape, np.dtype(np.uint8)),
      row_ids(len(source)), labels, label_names, 256,
      f'tfds:{data.name}', rendering=rendering, notes=tuple(notes),
      thumbnail=functools.partial(_thumbnail, source, image_key, rendering))


def _open(source: Any, image_key: str, index: int) -> Image.Image:
  """Opens an example of a TFDS source."""
  return Image.open(io.BytesIO(source[index][image_key]))


def _look(source: Any, image_key: str, decoding: Decoding, kept: Kept, index: int):
  """Returns the Header of an example."""
  header, pictures = look(functools.partial(_open, source, image_key, index), decoding,
                          keep=kept.room > 0)
  for picture in pictures[:1]:
    kept.put(index, picture)
  return header


def _read_example(source: Any, image_key: str, decoding: Decoding, kept: Kept,
                  rendering: Rendering, index: int) -> np.ndarray:
  """Returns the pixels [H, W, C] of an example."""
  picture = kept.pop(index)
  if picture is not None:
    return levels_of(picture, decoding, rendering)
  return decode(functools.partial(_open, source, image_key, index), decoding, rendering)


def _thumbnail(source: Any, image_key: str, rendering: Rendering, row: int,
               side: int) -> np.ndarray:
  """Returns a whole example as it is stored, small."""
  return thumbnail(functools.partial(_open, source, image_key, row), rendering, side)


def _feature_name(features: Mapping[str, Any], key: str, data: ml_collections.ConfigDict,
                  option: str) -> str:
  """Returns `key` if it names a feature, else raises UserError with all names."""
  if key not in features:
    raise errors.UserError(
        f'TFDS {data.name!r} has no feature {key!r}; it has: '
        f'{", ".join(sorted(features))}; set --config.data.{option} to one of them')
  return key


_INSTEAD = ('or use --config.data.source=folder, npz or idx, or make the set from IDX '
            'files with python -m jdiffclust.data.prepare_tfds')


def import_tfds() -> types.ModuleType:
  """Imports TFDS and the packages by which it reads without TensorFlow.

  Returns:
    The module tensorflow_datasets.

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


def _tfds_source(data: ml_collections.ConfigDict) -> tuple[Any, str]:
  """Returns a random-access TFDS source of encoded images, and their feature's name."""
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
        f'({one_line(error)}); a split like train[:1000] of a set prepared with '
        f'file_format="array_record" is needed; mend --config.data.split, {_INSTEAD}'
    ) from error


def _prepared_builder(tfds: types.ModuleType, data: ml_collections.ConfigDict) -> Any:
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
        f'downloaded ({one_line(error)}); set --config.data.path to the data_dir of a '
        f'prepared copy, {_INSTEAD}') from error
  return builder


def _check_reachable(builder: Any) -> None:
  """Raises OSError at once if there is no network; TFDS itself retries for minutes."""
  import requests  # comes with TFDS
  for url in list(builder.url_infos or ())[:1]:
    try:
      requests.head(url, timeout=20)
    except requests.RequestException as error:
      host = urllib.parse.urlsplit(url).netloc
      raise OSError(f'no connection to {host}') from error
