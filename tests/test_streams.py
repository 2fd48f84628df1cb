"""No two purposes draw from one key: streams by name, images by index, purposes apart."""

import ast
import functools
import itertools
import pathlib

import jax
import numpy as np
import pytest

from jdiffclust import config as config_lib
from jdiffclust.batch import Batch
from jdiffclust.clustering import latent_cddpm, sr3
from jdiffclust.clustering.bound import draws, losses
from jdiffclust.clustering.bound.draws import image_keys, key_apart
from jdiffclust.clustering.cddpm import e_step, m_step, proposals
from jdiffclust.clustering.cluster_ddpm import model
from jdiffclust.sharding import make_mesh
from jdiffclust.streams import integer_seed, sample_keys, stream
from tests import tiny

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


def built(method):
  """A tiny method, its state, and a batch of images with their start."""
  config = config_lib.default_config()
  config.update_from_flattened_dict({
      'method': method, 'num_clusters': 3, 'latent.size': 4, 'diffusion.num_steps': 20,
      'diffusion.beta_end': .01, 'e_step.num_draws': 4, 'posterior.channels': 8,
      'posterior.num_views': 2, 'views.flip': 0., 'views.upside_down': 0.,
      'views.quarter_turns': 0.})
  made = tiny.build(config, (4, 4, 1), None, make_mesh(1))
  images = np.random.default_rng(0).uniform(-1, 1, (6, 4, 4, 1)).astype(np.float32)
  start = np.full((6, 3), 1 / 3, np.float32)
  return made, made.init_state(), Batch(images, np.arange(6, dtype=np.int32), start)


@pytest.fixture
def taken(monkeypatch):
  """A function that has the keys noted which a function of modules takes, or gives."""
  def noting(modules, function, place=None):
    def wrapper(original, *args, **kwargs):
      found = original(*args, **kwargs)
      keys = found if place is None else args[place]
      jax.debug.callback(lambda rows: noted.append(np.asarray(rows).reshape(-1, 2)),
                         jax.random.key_data(keys))
      return found
    for module in modules:
      monkeypatch.setattr(module, function, functools.partial(
          wrapper, getattr(module, function)))
    return noted

  noted = []
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield noting


def check_apart(noted, counts):
  """So many times so many keys, of which no two share a descendant."""
  jax.effects_barrier()
  assert [len(keys) for keys in noted] == counts
  roots = [jax.random.wrap_key_data(row) for keys in noted for row in keys]
  assert distinct([one for root in roots for one in descendants(root)])


# What images are given keys for: in a step, and in an E-step.
@pytest.mark.parametrize('method, step, score', [
    ('cddpm', ['views', 'draws'], ['draws', 'views']),
    ('cluster_ddpm', ['draws and z'], ['z', 'draws', 'views']),
    ('latent_cddpm', ['z', 'views', 'draws'], ['z', 'draws', 'draws', 'views']),
    ('sr3', ['y', 'draws'], ['y', 'draws'])])
def test_an_image_s_purposes_and_steps_have_keys_of_their_own(method, step, score, taken):
  """None from which a draw of its own, of another image or of another step comes."""
  noted = taken([draws, losses, e_step, m_step, model, latent_cddpm, sr3],
                'image_keys')
  made, state, batch = built(method)
  if method == 'latent_cddpm':
    state = state._replace(**{name: getattr(state, name)._replace(begun=np.asarray(True))
                              for name in ('params', 'ema')})
  ema = jax.tree.map(np.asarray, state.ema)
  for _ in range(2):
    state, _ = made.m_step(state, batch._replace(start=None), batch.start,
                           stream(0, 'm_step'))
  made.e_step(made.e_estimator, ema, batch, stream(0, 'e_step'))
  check_apart(noted, (2 * len(step) + len(score)) * [6])


def test_the_pilot_has_keys_of_its_own(taken):
  """Other than those of the E-step that it prepares."""
  noted = taken([draws, proposals], 'image_keys')
  made, state, batch = built('cddpm')
  key = stream(0, 'e_step')
  pilot = e_step.make_pilot(made.model, made.config.e_step, made.mesh)
  pilot(made.e_estimator, state.ema, batch, 6, key)
  made.e_step(made.e_estimator, state.ema, batch, key)
  check_apart(noted, [6, 6])


def test_a_view_and_its_latent_have_keys_of_their_own(taken):
  """In the gradient steps of cluster_ddpm."""
  noted = taken([model], 'random_views', 1)
  taken([model], 'sampled_latents', 2)
  made, state, batch = built('cluster_ddpm')
  made.m_step(state, batch._replace(start=None), batch.start, stream(0, 'm_step'))
  check_apart(noted, [6, 6])
