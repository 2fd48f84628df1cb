"""Makes a local TensorFlow Datasets folder from IDX files, without TensorFlow.

    python -m jdiffclust.data.prepare_tfds --name=fashion_mnist --data_dir=my_tfds \\
      --split=train,test \\
      --images=train-images-idx3-ubyte.gz,t10k-images-idx3-ubyte.gz \\
      --labels=train-labels-idx1-ubyte.gz,t10k-labels-idx1-ubyte.gz

Afterwards `--config.data.source=tfds --config.data.name=fashion_mnist
--config.data.path=my_tfds` reads it, in the order of the IDX files. These must be on this
machine: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jdiffclust import errors
from jdiffclust.data.sources.common import Labels
from jdiffclust.data.sources.idx import read_idx_images, read_idx_labels
from jdiffclust.data.sources.tfds import import_tfds


def prepare_tfds(images_path: str | Sequence[str], labels_path: str | Sequence[str],
                 name: str, data_dir: str, split: str | Sequence[str] = 'train') -> str:
  """Writes `data_dir`/`name`/<version>, one ArrayRecord split for each IDX images file.

  TFDS needs TensorFlow to encode arrays but stores bytes as they are. So the images are
  handed to it as PNG. If TFDS knows a set of this name, the version is the one that it
  expects, else 1.0.0.

  Args:
    images_path: an IDX images file, or a sequence of files, one for each split.
    labels_path: IDX labels files in the same order; '': no labels.
    name: of the data set: lower case letters, digits and underscores, a letter first.
    data_dir: folder to write in; it is made if it does not exist.
    split: name of the split, or a sequence of names, all different.

  Returns:
    The path of the folder that was written.

  Raises:
    UserError: a file cannot be read; the numbers of files and splits or the shapes of
      images differ; a package is missing; the name is not allowed or belongs to a
      different set of TFDS; the folder exists already or cannot be written.
  """
  images_paths, labels_paths, splits = (
      [value] if isinstance(value, str) else list(value)
      for value in (images_path, labels_path, split))
  if labels_paths == ['']:
    labels_paths *= len(images_paths)
  if not len(images_paths) == len(labels_paths) == len(splits) == len(set(splits)):
    raise errors.UserError(
        f'{len(images_paths)} images files, {len(labels_paths)} labels files and '
        f'splits {",".join(splits)!r}; one images file and one labels file for each '
        'split are needed, and the names of the splits must be all different; list '
        'them with commas between')
  if not re.fullmatch('[a-z][a-z0-9_]*', name):
    raise errors.UserError(
        f'name {name!r} is not allowed; lower case letters, digits and _ are, and the '
        'first must be a letter; choose such a name, like fashion_mnist')
  arrays = {}
  for split_name, images_file, labels_file in zip(splits, images_paths, labels_paths):
    images = read_idx_images(images_file)
    arrays[split_name] = images, (
        read_idx_labels(labels_file, len(images)) if labels_file else None)
  shapes = {images.shape[1:] for images, _ in arrays.values()}
  if len(shapes) > 1:
    raise errors.UserError(
        f'the splits have images of shapes {sorted(shapes)}; one shape is needed; '
        'prepare them under different names')
  tfds = import_tfds()
  builder = _builder(tfds, name, data_dir, arrays)
  if builder.is_prepared():
    raise errors.UserError(
        f'{builder.data_path} exists already; a new folder is needed; remove it, or '
        'choose another --name or --data_dir')
  try:
    builder.download_and_prepare(
        file_format='array_record',
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except OSError as error:
    raise errors.UserError(
        f'cannot write {builder.data_path} ({error}); a folder on a disk with space '
        'is needed; choose another --data_dir') from error
  return str(builder.data_path)


def _version_and_features(tfds: types.ModuleType, name: str, shape: tuple[int, ...],
                          classes: list[str]) -> tuple[str, Any]:
  """Returns the set's version and features: those TFDS expects, if it knows the name."""
  try:
    known = tfds.builder_cls(name)
  except tfds.core.DatasetNotFoundError:
    features = {'image': tfds.features.Image(shape=shape, encoding_format='png')}
    if classes:
      features['label'] = tfds.features.ClassLabel(names=classes)
    return '1.0.0', tfds.features.FeaturesDict(features)
  features = None if known.BUILDER_CONFIGS else known(data_dir=os.devnull).info.features
  if not features or set(features) != {'image', 'label'} or (
      features['image'].shape != shape or not set(classes) <= set(
          map(str, range(features['label'].num_classes)))):
    raise errors.UserError(
        f'name {name!r} belongs to a TFDS set with other features than yours (images '
        f'{shape}, {len(classes)} labels), so yours could not be read back; another name '
        f'is needed; choose one, like my_{name}')
  return str(known.VERSION), features


def _builder(tfds: types.ModuleType, name: str, data_dir: str,
             arrays: Mapping[str, tuple[np.ndarray, Labels | None]]) -> Any:
  """Returns the TFDS builder that writes arrays[split] = (images, `Labels` or None)."""
  classes = sorted({label for _, labels in arrays.values() if labels is not None
                    for label in labels.names}, key=int)
  shape = next(iter(arrays.values()))[0].shape[1:]
  version, features = _version_and_features(tfds, name, shape, classes)
  # A set that TFDS knows has names of its own for the numbers 0, 1, ...
  own = list(features['label'].names) == classes if 'label' in features else False

  base: Any = tfds.core.GeneratorBasedBuilder

  class IdxBuilder(base, skip_registration=True):  # type: ignore[call-arg]
    """The files handed in, under the name asked for."""

    VERSION = tfds.core.Version(version)

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, features=features, disable_shuffling=True)  # in file order

    def _split_generators(self, dl_manager):
      return {key: self._generate_examples(*pair) for key, pair in arrays.items()}

    def _generate_examples(self, images, labels):
      for i, image in enumerate(images):
        example: dict[str, Any] = {'image': _png(image)}
        if 'label' in features:  # TFDS writes -1 for a label that is not known
          label = None if labels is None else labels.names[labels.numbers[i]]
          example['label'] = -1 if label is None else label if own else int(label)
        yield i, example

  IdxBuilder.name = name
  return IdxBuilder(data_dir=data_dir)


def _png(image: np.ndarray) -> bytes:
  """Returns the bytes of a PNG file of an image uint8 [H, W, C]."""
  file = io.BytesIO()
  Image.fromarray(np.squeeze(image, -1) if image.shape[-1] == 1 else image).save(
      file, 'png')
  return file.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    argv: the arguments, without the program's name; None: those of this process.

  Returns:
    The exit code: 0, or 2 after one line on standard error about a mistake of the user.
  """
  parser = argparse.ArgumentParser(
      description='Make a TensorFlow Datasets folder from IDX files.')
  parser.add_argument('--images', required=True, help='IDX files, commas between')
  parser.add_argument('--labels', default='', help='IDX files in the same order')
  parser.add_argument('--name', required=True, help='name of the data set')
  parser.add_argument('--data_dir', required=True, help='folder to write in')
  parser.add_argument('--split', default='train', help='splits, commas between')
  args = parser.parse_args(argv)
  try:
    folder = prepare_tfds(args.images.split(','), args.labels.split(','), args.name,
                          args.data_dir, args.split.split(','))
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{folder} is ready: --config.data.source=tfds --config.data.name={args.name} '
        f'--config.data.path={args.data_dir}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
