"""IDX files to a TFDS folder and back, with TensorFlow never imported."""

import functools
import io
import json
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from jdiffclust import errors
from jdiffclust.data import dataset
from jdiffclust.data import prepare_tfds

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (20, 5, 4), dtype=np.uint8)
TEST = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.arange(20) * 7 % 5


@pytest.fixture(scope='module')
def files(tmp_path_factory, write_idx):
  """Two pairs of IDX files, of 20 and of 6 images."""
  root = tmp_path_factory.mktemp('idx')
  return {
      'train': write_idx(root / 'train.gz', TRAIN.tobytes(), TRAIN.shape),
      'train_labels': write_idx(root / 'train_labels', LABELS.tolist(), (20,)),
      'test': write_idx(root / 'test', TEST.tobytes(), TEST.shape),
      'test_labels': write_idx(root / 'test_labels', LABELS[:6].tolist(), (6,))}


@pytest.fixture(scope='module')
def prepared(files, tmp_path_factory):
  """A data_dir with the set 'small', splits train and test."""
  data_dir = str(tmp_path_factory.mktemp('tfds'))
  prepare_tfds.prepare_tfds(
      [files['train'], files['test']], [files['train_labels'], files['test_labels']],
      'small', data_dir, ['train', 'test'])
  return data_dir


@pytest.fixture
def small(options, prepared):
  return functools.partial(options, source='tfds', name='small', path=prepared)


def refused(function, *args):
  with pytest.raises(errors.UserError) as caught:
    function(*args)
  message = str(caught.value)
  assert '\n' not in message and message
  return message


def test_round_trip_of_both_splits(small):
  source = dataset.load_source(small())
  np.testing.assert_array_equal(
      dataset.read_images(source, range(20))[..., 0], TRAIN)
  np.testing.assert_array_equal(source.labels, LABELS)
  assert source.labels.dtype == np.int64
  assert source.name == 'tfds:small' and source.levels == 256
  assert source.image_shape == (5, 4, 1) == source.images[0].shape
  assert source.ids[:2] == ('0', '1')
  test = dataset.load_source(small(split='test'))
  np.testing.assert_array_equal(dataset.read_images(test, range(6))[..., 0], TEST)
  assert test.labels.tolist() == LABELS[:6].tolist()


def test_splits_can_be_cut_and_added(small):
  source = dataset.load_source(small(split='train[5:8]+test'))
  np.testing.assert_array_equal(
      dataset.read_images(source, range(9))[..., 0], np.concatenate([TRAIN[5:8], TEST]))


def test_options_hold_for_tfds(small):
  source = dataset.load_source(
      small(use_labels=False, channels=3, image_size=4, padding=1, max_images=7))
  assert source.labels is None and source.label_names is None
  assert source.image_shape == (6, 6, 3) and source.num_images == 7
  assert dataset.read_images(source, [6]).shape == (1, 6, 6, 3)


@pytest.mark.parametrize('changes, parts', [
    (dict(split='valid'), ["no split 'valid'", 'train, test']),
    (dict(split='train[:'), ["'train[:'", 'config.data.split']),
    (dict(split='train[:1]'), ['has 1 image']),
    (dict(split='train[:0]'), ["'train[:0]'"]),
    (dict(image_key='picture'), ["no feature 'picture'", 'image, label']),
    (dict(label_key='class'), ["no feature 'class'", 'image, label']),
    (dict(image_key='label'), ["'label' is a ClassLabel"]),
])
def test_mistakes_in_reading(small, changes, parts):
  message = refused(dataset.load_source, small(**changes))
  assert all(part in message for part in parts), message


def test_known_name_and_no_labels(files, tmp_path, options, write_idx):
  images = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
  path = write_idx(tmp_path / 'x', images.tobytes(), images.shape)
  folder = prepare_tfds.prepare_tfds(path, '', 'fashion_mnist', str(tmp_path / 'd'))
  assert 'fashion_mnist' in folder
  source = dataset.load_source(
      options(source='tfds', name='fashion_mnist', path=str(tmp_path / 'd')))
  assert source.labels is None and source.num_images == 3
  np.testing.assert_array_equal(dataset.read_images(source, [2])[0, ..., 0], images[2])


def test_mistakes_in_preparing(files, prepared, tmp_path):
  prepare = prepare_tfds.prepare_tfds
  train, labels, new = files['train'], files['train_labels'], str(tmp_path)
  assert 'exists already' in refused(prepare, train, labels, 'small', prepared)
  assert "'Small Set'" in refused(prepare, train, labels, 'Small Set', new)
  assert "'cifar10' belongs" in refused(prepare, train, labels, 'cifar10', new)
  assert "'emnist' belongs" in refused(prepare, train, labels, 'emnist', new)
  assert '6 labels for 20' in refused(prepare, train, files['test_labels'], 'a', new)
  assert 'does not exist' in refused(prepare, 'nowhere', labels, 'a', new)
  assert '2 images files, 1 labels' in refused(
      prepare, [train, train], [labels], 'a', new, ['train', 'test'])
  assert 'all different' in refused(
      prepare, [train, train], [labels, labels], 'a', new, ['train', 'train'])
  (tmp_path / 'file').write_text('')
  assert 'cannot write' in refused(
      prepare, train, labels, 'a', str(tmp_path / 'file' / 'under'))


def test_splits_of_different_shapes(files, tmp_path, write_idx):
  other = write_idx(tmp_path / 'x', bytes(8), (2, 2, 2))
  message = refused(prepare_tfds.prepare_tfds, [files['train'], other], ['', ''], 'a',
                    str(tmp_path), ['train', 'test'])
  assert '(2, 2, 1), (5, 4, 1)' in message


def test_command_line_answers_a_mistake_with_one_line(files, tmp_path, capsys):
  code = prepare_tfds.main([
      '--images=nowhere', '--name=a', f'--data_dir={tmp_path}'])
  error = capsys.readouterr().err
  assert code == 2 and 'nowhere' in error and error.count('\n') == 1


def test_command_line_and_reading_never_import_tensorflow(files, tmp_path):
  """In a fresh process: whatever other tests import does not count."""
  data_dir = str(tmp_path / 'd')
  script = f'''
import json, sys
from jdiffclust.config import default_config
from jdiffclust.data import dataset, prepare_tfds
lazy = 'tensorflow_datasets' not in sys.modules
code = prepare_tfds.main(['--images={files["train"]},{files["test"]}', '--name=mine',
    '--labels={files["train_labels"]},{files["test_labels"]}',
    '--data_dir={data_dir}', '--split=train,test'])
data = default_config().data
data.update(source='tfds', name='mine', path='{data_dir}', split='test')
source = dataset.load_source(data)
pixels = int(dataset.read_images(source, range(6)).sum(dtype=int))
print(json.dumps([code, lazy, pixels, 'tensorflow' in sys.modules]))
'''
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout.splitlines()[-1]) == [
      0, True, int(TEST.sum(dtype=int)), False]


def test_sizes_that_differ_within_a_set(options, tmp_path):
  """A set whose features leave the size open is measured image by image."""
  import tensorflow_datasets as tfds

  class Mixed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
          {'image': tfds.features.Image()}), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples([(4, 6), (4, 6), (8, 6)])}

    def _generate_examples(self, sizes):
      for i, (height, width) in enumerate(sizes):
        file = io.BytesIO()
        pixels = np.full((height, width, 3), i, np.uint8)
        Image.fromarray(pixels).save(file, 'png')
        yield i, {'image': file.getvalue()}

  Mixed(data_dir=str(tmp_path)).download_and_prepare(
      file_format='array_record',
      download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  data = options(source='tfds', name='mixed', path=str(tmp_path))
  message = refused(dataset.load_source, data)
  assert 'image 0 is 4x6' in message and 'image 2 is 8x6' in message
  same = dataset.load_source(
      options(source='tfds', name='mixed', path=str(tmp_path), split='train[:2]'))
  assert same.image_shape == (4, 6, 3) and same.labels is None
  data.image_size = 3
  found = dataset.load_source(data)  # 0..2 are scaled to all levels, and told of
  assert found.images[:, 0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
  assert 'all pixels lie in 0..2' in found.notes[0]
  data.range = (0, 255)
  images = dataset.read_images(dataset.load_source(data), range(3))
  assert images[:, 0, 0].tolist() == [[i] * 3 for i in range(3)]
