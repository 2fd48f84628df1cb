"""CDDPM of latents: the bound of an image, and latents from and to its own units."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jdiffclust.batch import Batch
from jdiffclust.clustering import latent_cddpm
from jdiffclust.clustering.bound.tau import EStepInfo
from jdiffclust.clustering.cluster_ddpm.model import Reconstruction
from jdiffclust.clustering.method import latents_of
from jdiffclust.config import default_config
from jdiffclust.errors import NonFiniteError
from jdiffclust.progress import Reporter
from jdiffclust.sharding import make_mesh
from tests import tiny

Q, J, ROWS = 3, 4, 5
CENTRE = np.array([.5, -1., 2., 0.], np.float32)
SCALE = np.array([.2, 3., 1., .5], np.float32)


@pytest.fixture
def method():
  """A tiny one."""
  config = default_config()
  config.update_from_flattened_dict({
      'method': 'latent_cddpm', 'num_clusters': Q, 'latent.size': J,
      'diffusion.num_steps': 20, 'diffusion.beta_end': .01, 'posterior.channels': 8})
  return tiny.build(config, (4, 4, 1), None, make_mesh(1))


@pytest.fixture
def params(method):
  """Those of the second model, which has begun."""
  return jax.eval_shape(method.new_state).params._replace(
      centre=jnp.asarray(CENTRE), scale=jnp.asarray(SCALE), begun=np.asarray(True))


def random_info(seed):
  """Figures of an E-step."""
  rng = np.random.default_rng(seed)
  return EStepInfo(**{name: jnp.asarray(rng.normal(size=ROWS), jnp.float32)
                      for name in EStepInfo._fields})


def test_the_bound_of_an_image_is_that_of_three_terms(method, params):
  """E log p(x_0 | z) + H(q(z | x_0)) + E log p(z), whose density is per number of z."""
  rng = np.random.default_rng(0)
  draw = lambda: rng.normal(size=(ROWS, J)).astype(np.float32)
  of_images, of_latents = random_info(1), random_info(2)
  found = Reconstruction(of_images, draw(), draw() - 1, draw())
  tau, seen = rng.dirichlet(np.ones(Q), ROWS), []
  method._reconstruct = lambda *_: found
  method.second.e_step = lambda estimator, params, batch, key: (
      seen.append(batch), (tau, of_latents))[1]
  batch = Batch(jnp.zeros((ROWS, 4, 4, 1)), jnp.arange(ROWS), jnp.asarray(tau))
  own, info = method._score_of_second(method.e_estimator, params, batch,
                                      jax.random.key(0))
  assert own is tau
  np.testing.assert_allclose(np.reshape(seen[0].images, (ROWS, J)),
                             (found.z - CENTRE) / SCALE, rtol=1e-5)
  assert seen[0].start is batch.start
  entropy = stats.norm(scale=np.exp(found.log_variance / 2)).entropy().sum(axis=1)
  gain = of_latents.bound + entropy - np.log(SCALE).sum()
  np.testing.assert_allclose(info.bound, of_images.bound + gain, rtol=1e-5)
  np.testing.assert_allclose(info.prior, of_images.prior + gain, rtol=1e-5)
  for name in ('diffusion', 'levels', 'decoder'):
    assert getattr(info, name) is getattr(of_images, name)
  for name in ('margin', 'margin_error', 'entropy'):
    assert getattr(info, name) is getattr(of_latents, name)
  np.testing.assert_allclose(info.evaluations,
                             of_images.evaluations + of_latents.evaluations)


def test_latents_are_sampled_in_the_units_of_the_decoder(method, params, monkeypatch):
  """What CDDPM draws is standardised; what the decoder is given is not."""
  drawn = np.random.default_rng(0).normal(size=(1, ROWS, 1, 1, J)).astype(np.float32)
  monkeypatch.setattr(latent_cddpm, 'sample_from',
                      lambda *_, **__: types.SimpleNamespace(images=drawn))
  monkeypatch.setattr(method.second, 'conditions', lambda *_: np.zeros((ROWS, 1, 1, J)))
  z = method.conditions(params, 1, ROWS, 0)
  np.testing.assert_allclose(z, CENTRE + SCALE * drawn.reshape(ROWS, J), rtol=1e-5)
  np.testing.assert_allclose(params.standardised(z), drawn[0], rtol=1e-4, atol=1e-5)


def test_a_latent_that_is_not_finite_is_named():
  """Of five images of a selection, the third, whatever of its latent it is."""
  for mean, log_variance in ((np.nan, 0.), (0., np.inf)):
    def encode(params, images, mean=mean, log_variance=log_variance):
      bad = (np.arange(5) == 2)[:, None]
      return np.where(bad, mean, images), np.where(bad, log_variance, images)

    method = types.SimpleNamespace(encode=encode, config=default_config())
    pipeline = types.SimpleNamespace(ordered=lambda indices, size: iter(
        [(Batch(np.ones((5, J)), indices), 5)]))
    with pytest.raises(NonFiniteError, match='the latent of image 14 is not finite'):
      latents_of(method, None, pipeline, Reporter(quiet=True), np.arange(12, 17))


def test_latents_have_no_units_before_the_second_model_begins(method):
  """Neither centre nor scale, in the parameters and in their average."""
  state = jax.jit(method.new_state)()
  z = np.random.default_rng(0).normal(size=(ROWS, J)).astype(np.float32)
  for params in (state.params, state.ema):
    np.testing.assert_array_equal(params.standardised(z)[:, 0, 0], z)
    assert not params.begun


def test_the_proportions_are_those_of_the_model_that_clusters(method):
  """ClusterDDPM's until CDDPM has begun, then its own."""
  params = jax.eval_shape(method.new_state).params
  first, second = (jnp.log(jnp.asarray(pi)) for pi in ([.5, .3, .2], [.1, .2, .7]))
  params = params._replace(
      first=params.first._replace(mixture=params.first.mixture._replace(
          log_proportions=first)),
      second=params.second._replace(log_proportions=second))
  for begun, wanted in ((False, first), (True, second)):
    found = params._replace(begun=jnp.asarray(begun)).log_proportions
    np.testing.assert_array_equal(found, wanted)
