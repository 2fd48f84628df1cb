"""Both pipelines: every image, in an order that a restart does not change."""

import itertools
import time

import jax
import numpy as np
import pytest

from jdiffclust import config as config_lib
from jdiffclust.data import dataset, pipelines
from jdiffclust.sharding import make_mesh


def digits(count):
  """The first digits."""
  config = config_lib.default_config()
  config.data.max_images = count
  return dataset.load_source(config.data)


def make(name, count, batch_size, seed=0, devices=1, workers=2):
  """A pipeline over the first digits."""
  config = config_lib.default_config()
  config.data.pipeline, config.data.workers = name, workers
  with jax.numpy_dtype_promotion('standard'):
    return pipelines.make_pipeline(digits(count), config.data, batch_size, seed,
                                   make_mesh(devices))


def indices(pipeline, count, step=0):
  """The image numbers of `count` minibatches, [count, B]."""
  batches = itertools.islice(pipeline.training(step), count)
  return np.stack([np.asarray(batch.indices) for batch in batches])


NAMES = pytest.mark.parametrize('name', ['memory', 'grain'])


@NAMES
def test_every_image_once_an_epoch(name):
  """64 images in batches of 16: each epoch of 4 has all, in another order."""
  found = indices(make(name, 64, 16), 12).reshape(3, 64)
  np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(64), (3, 1)))
  assert (found[0] != found[1]).any() and (found[1] != found[2]).any()
  assert (found[0] != np.arange(64)).any()


@NAMES
def test_no_image_is_left_out_for_long(name):
  """60 images in batches of 16: no image twice in an epoch, and all in a few."""
  found = indices(make(name, 60, 16), 30)
  assert len(set(found[:3].ravel())) == 48
  assert set(found.ravel()) == set(range(60))


@NAMES
def test_seed_decides_the_order(name):
  """The same seed, the same order; another seed, another."""
  first, again, other = (indices(make(name, 64, 16, seed), 8) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


@NAMES
@pytest.mark.parametrize('step', [0, 1, 3, 4, 5, 11])
def test_goes_on_at_any_step(name, step):
  """Minibatches from step s on are those of a run from 0, epoch ends included."""
  whole = indices(make(name, 64, 16), 14)
  np.testing.assert_array_equal(indices(make(name, 64, 16), 14 - step, step),
                                whole[step:])


@pytest.mark.parametrize('count, batch_size', [(64, 16), (60, 16), (5, 8)])
def test_both_pipelines_give_the_same_minibatches(count, batch_size):
  """By any number of workers and devices, pixels included."""
  wanted = list(itertools.islice(make('memory', count, batch_size).training(2), 9))
  for workers, devices in ((0, 1), (5, 2)):
    pipeline = make('grain', count, batch_size, devices=devices, workers=workers)
    for ours, theirs in zip(pipeline.training(2), wanted):
      for one in ('indices', 'numbers', 'images'):
        np.testing.assert_array_equal(getattr(ours, one), getattr(theirs, one))


@NAMES
@pytest.mark.parametrize('count, batch_size', [(5, 8), (8, 8), (3, 8)])
def test_fewer_images_than_a_batch(name, count, batch_size):
  """The batch has its full size; each image comes up as often as any other, +-1."""
  found = indices(make(name, count, batch_size), 10)
  assert found.shape == (10, batch_size)
  assert set(found.ravel()) == set(range(count))


@NAMES
@pytest.mark.parametrize('count, batch_size, devices', [
    (5, 8, 1), (3, 8, 2), (8, 8, 1), (9, 8, 1)])
def test_an_image_that_comes_again_has_draws_of_its_own(name, count, batch_size, devices):
  """By a number that no other image of the minibatch has; the first time its index."""
  pipeline = make(name, count, batch_size, devices=devices)
  for batch in itertools.islice(pipeline.training(0), 3):
    found, wanted = np.asarray(batch.numbers), np.asarray(batch.indices)
    assert len(set(found.tolist())) == batch_size
    np.testing.assert_array_equal(found % count, wanted)
    np.testing.assert_array_equal(found[:count], wanted[:count])
  for batch, _ in pipeline.ordered(np.arange(count), batch_size):
    np.testing.assert_array_equal(batch.numbers, batch.indices)


@NAMES
@pytest.mark.parametrize('count, at_most, devices, size', [
    (60, 16, 1, 15), (64, 16, 1, 16), (5, 8, 1, 5), (17, 16, 1, 9),
    (60, 16, 2, 16), (17, 16, 2, 10), (5, 8, 8, 8)])
def test_ordered_has_every_image_once(name, count, at_most, devices, size):
  """In order, in as few batches as asked for, of one size, with the least filling."""
  found = []
  pipeline = make(name, count, 16, devices=devices)
  for batch, valid in pipeline.ordered(np.arange(count), at_most):
    assert batch.images.shape == (size, 8, 8, 1)
    assert batch.indices.shape == (size,)
    found.append(np.asarray(batch.indices)[:valid])
    assert (np.asarray(batch.indices) < count).all()
  assert len(found) == -(-count // at_most)
  np.testing.assert_array_equal(np.concatenate(found), np.arange(count))


@NAMES
def test_ordered_of_some(name):
  """The images of the indices asked for, in their order, and no others."""
  wanted, found = np.array([3, 10, 11, 40, 59]), []
  for batch, valid in make(name, 60, 16).ordered(wanted, 2):
    found.append(np.asarray(batch.indices)[:valid])
    np.testing.assert_allclose(batch.images,
                               digits(60).images[np.asarray(batch.indices)] / 8. - 1)
  np.testing.assert_array_equal(np.concatenate(found), wanted)


@NAMES
@pytest.mark.parametrize('devices', [1, 2])
def test_images_are_the_scaled_digits(name, devices):
  """Every batch holds the images of its indices, in [-1, 1], on all devices."""
  wanted = digits(60).images / 8. - 1
  pipeline = make(name, 60, 16, devices=devices)
  batches = list(itertools.islice(pipeline.training(0), 5))
  batches += [batch for batch, _ in pipeline.ordered(np.arange(60), 16)]
  for batch in batches:
    assert batch.images.dtype == np.float32
    assert len(batch.images.sharding.device_set) == devices
    np.testing.assert_allclose(batch.images, wanted[np.asarray(batch.indices)],
                               atol=1e-6)


def test_order_does_not_depend_on_devices():
  """1, 2 and 8 devices see the same minibatches."""
  one, two, eight = (indices(make('memory', 64, 16, devices=n), 6) for n in (1, 2, 8))
  np.testing.assert_array_equal(one, two)
  np.testing.assert_array_equal(one, eight)


def test_auto_goes_by_size():
  """60 digits are 3,840 bytes; 1,797 are 115 kB; limits are in MB."""
  config = config_lib.default_config()
  config.data.workers = 1
  for limit, kind in ((2048, pipelines.MemoryPipeline), (1, pipelines.MemoryPipeline)):
    config.data.memory_limit_mb = limit
    made = pipelines.make_pipeline(digits(60), config.data, 8, 0, make_mesh(1))
    assert isinstance(made, kind)
  config.data.memory_limit_mb, config.data.image_size = 1, 32
  large = dataset.load_source(config.data)  # 1797 * 32 * 32 bytes = 1.8 MB
  made = pipelines.make_pipeline(large, config.data, 8, 0, make_mesh(1))
  assert isinstance(made, pipelines.GrainPipeline)


def test_how_long_reading_is_waited_for(monkeypatch):
  """A slow source and a quick loop: most of the time; the other way round: hardly any."""
  stored, read = pipelines.read_images, 0.

  def reading(source, indices):
    time.sleep(read)
    return stored(source, indices)

  monkeypatch.setattr(pipelines, 'read_images', reading)
  shares = []
  for read, loop in ((.05, 0.), (0., .05)):
    pipeline = make('grain', 64, 16, workers=0)
    assert pipeline.waiting_share is None
    for _ in itertools.islice(pipeline.training(0), 8):
      time.sleep(loop)
    shares.append(pipeline.waiting_share)
  assert shares[0] > .7 and shares[1] < .3
  assert make('memory', 64, 16).waiting_share is None
