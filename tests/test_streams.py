"""No two purposes draw from one key: streams by name, images by index, purposes apart."""

import ast
import itertools
import pathlib

import jax
import numpy as np

from jdiffclust.clustering.bound.draws import image_keys, key_apart
from jdiffclust.streams import integer_seed, sample_keys, stream

PACKAGE = pathlib.Path(__file__).parents[1] / 'jdiffclust'
NAMES = sorted({call.args[1].value
                for path in PACKAGE.rglob('*.py')
                for call in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
                if isinstance(call, ast.Call)
                and getattr(call.func, 'id', '') in ('stream', 'integer_seed')
                and isinstance(call.args[1], ast.Constant)} | {'sample', 'condition'})


def data(key):
  """A key's numbers, one row a key."""
  return np.asarray(jax.random.key_data(key)).reshape(-1, 2)


def distinct(keys):
  rows = np.concatenate([data(key) for key in keys])
  return len(np.unique(rows, axis=0)) == len(rows)


def test_named_streams_differ():
  """By name and by seed."""
  assert len(NAMES) > 15
  assert distinct([stream(seed, name) for seed in (0, 1, 2**31 - 1) for name in NAMES])
  seeds = {integer_seed(seed, name) for seed in (0, 1) for name in NAMES}
  assert len(seeds) == 2 * len(NAMES)


def descendants(key):
  """The keys that an image's draws come from: its own, and two generations of it."""
  first = [jax.random.fold_in(key, n) for n in range(8)]
  return [key, *first, *(jax.random.fold_in(one, n) for one in first for n in range(8))]


def test_no_purpose_has_an_image_s_key():
  """`split(k)[j]` is `fold_in(k, j)`: a purpose's number must be no image's index."""
  key = stream(0, 'e_step')
  assert (data(jax.random.split(key, 3)) == np.concatenate(
      [data(jax.random.fold_in(key, j)) for j in range(3)])).all()
  of = lambda key, i: descendants(image_keys(key, np.array([i]))[0])
  images = [one for i in range(6) for one in of(key, i)]
  others = [one for number, i in itertools.product(range(3), range(6))
            for one in of(key_apart(key, number), i)]
  assert distinct([*images, *others])


def test_generated_images_and_their_latents_have_their_own_noise():
  owners = np.arange(3)
  keys = [sample_keys(stream(0, name), owners, 4).ravel()
          for name in ('sample', 'condition')]
  assert distinct(keys)
