"""What samplers ask of the mixture, against sums over clusters by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters, TwoStages
from jdiffclust.clustering.cddpm.denoising import cluster_denoiser, mixture_denoiser
from jdiffclust.clustering.cddpm.method import conditional_ddpm
from jdiffclust.clustering.generation import generate, sample_clusters, sampler_of
from jdiffclust.config import default_config
from jdiffclust.diffusion.denoiser import guided
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.predictions import eta_from_x0
from jdiffclust.diffusion.process import as_float32
from jdiffclust.diffusion.samplers import make_sampler
from jdiffclust.networks.unet import SharedTrunkUNet, UNetBody
from jdiffclust.sharding import make_mesh
from tests import tiny

SHAPE = (4, 4, 1)


@pytest.fixture
def fitted(oracle):
  """A network in two stages with random weights, and parameters of three clusters."""
  rng = np.random.default_rng(0)
  process = oracle.make(12)
  network = SharedTrunkUNet(UNetBody(8, (1,), 1, middle_attention=False))
  x = jnp.zeros((1, *SHAPE))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(1, jnp.int32), x)
  variables = jax.tree.map(
      lambda s: jnp.asarray(.3 * rng.normal(size=s.shape), jnp.float32), shapes)
  params = Parameters(variables, jnp.asarray(rng.normal(size=(3, *SHAPE)), jnp.float32),
                      jnp.log(jnp.asarray([.5, .3, .2], jnp.float32)))
  return process, conditional_ddpm(network, process, None), params


def images(seed, count=4):
  """Random images [count, *SHAPE]."""
  normal = np.random.default_rng(seed).normal(size=(count, *SHAPE))
  return jnp.asarray(normal, jnp.float32)


def test_cluster_denoiser_is_the_predicted_x0(fitted):
  """At whole steps: (x_t - sqrt(1 - abar) eta) / sqrt(abar)."""
  process, model, params = fitted
  t = jnp.asarray([1, 5, 9, process.num_steps], jnp.int32)
  x, mu = images(1), params.means[jnp.asarray([0, 1, 2, 0])]
  denoiser = cluster_denoiser(model, from_process(process), params.network)
  found = denoiser.estimate(x, t.astype(jnp.float32), mu)
  eta = model.denoise(params.network, x, t, mu)
  abar = jnp.asarray(process.alphas_cumprod, jnp.float32)[t][:, None, None, None]
  expected = (x - jnp.sqrt(1 - abar) * eta) / jnp.sqrt(abar)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('in_stages', [True, False])
def test_mixture_denoiser_is_the_mean_at_one_y(fitted, in_stages):
  """Cluster by cluster: the same y, moved to the cluster's own x_t."""
  process, model, params = fitted
  assert model.stages is not None
  if not in_stages:
    model = ConditionalDDPM(model.denoise)
  path = from_process(process)
  t, x, mu = jnp.asarray([1., 5., 9.5, 12.]), images(2), params.means[
      jnp.asarray([1, 1, 2, 0])]
  found = mixture_denoiser(model, path, params).estimate(x, t, mu)
  m = jnp.interp(t, jnp.arange(1., 1 + process.num_steps), jnp.asarray(
      process.m[1:] * np.sqrt(process.alphas_cumprod[1:]), jnp.float32))
  expected = 0.
  for r in range(3):
    other = jnp.broadcast_to(params.means[r], x.shape)
    x_r = x + m[:, None, None, None] * (other - mu)
    expected += jnp.exp(params.log_proportions[r]) * cluster_denoiser(
        model, path, params.network).estimate(x_r, t, other)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def exaggerated(model, path, params, scale):
  """The cluster's denoiser, guided away from the mixture's."""
  return guided(cluster_denoiser(model, path, params.network),
                mixture_denoiser(model, path, params), jnp.float32(scale))


def test_draws_do_not_depend_on_devices(fitted):
  """One device and eight, guided, with the states on the way.

  (Of every sampler, for a mixture: ../diffusion/test_samplers_oracles.py.)
  """
  process, model, params = fitted
  path = from_process(process)
  sampler, table = make_sampler('ddpm', path, 12, 'trailing')
  keys, mu = jax.random.split(jax.random.key(5), 8), images(3, 8)
  denoiser = exaggerated(model, path, params, 1.5)
  one, eight = (generate(table, denoiser, keys, mu, mesh=make_mesh(n), sampler=sampler,
                         num_states=4) for n in (1, 8))
  assert eight.states.shape == (4, 8, *SHAPE)
  np.testing.assert_array_equal(one.evaluations, eight.evaluations)
  np.testing.assert_allclose(one.images, eight.images, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(one.states, eight.states, rtol=1e-3, atol=1e-3)
  np.testing.assert_array_equal(one.states[-1], one.images)


def test_guidance_of_one_is_none_and_of_zero_the_mixture(fitted):
  """Scale 1 gives the cluster's own images; scale 0 what the mixture alone gives."""
  process, model, params = fitted
  path = from_process(process)
  sampler, table = make_sampler('ddim', path, 4)
  keys, mu = jax.random.split(jax.random.key(6), 8), images(4, 8)
  draw = lambda denoiser: generate(table, denoiser, keys, mu, mesh=make_mesh(1),
                                   sampler=sampler, num_states=0).images
  plain = draw(cluster_denoiser(model, path, params.network))
  one = draw(exaggerated(model, path, params, 1.))
  np.testing.assert_allclose(one, plain, rtol=1e-3, atol=1e-3)
  zero = draw(exaggerated(model, path, params, 0.))
  lone = ConditionalDDPM(lambda network, x, t, mu, dropout_keys=None: _eta_of_mixture(
      fitted, x, t, mu))
  expected = draw(cluster_denoiser(lone, path, params.network))
  np.testing.assert_allclose(zero, expected, rtol=1e-3, atol=1e-3)
  assert np.abs(zero - plain).max() > .01


def _eta_of_mixture(fitted, x, t, mu):
  """The n_t whose x_0 is the mixture's."""
  process, model, params = fitted
  path = from_process(process)
  x0 = mixture_denoiser(model, path, params).estimate(x, t, mu)
  return eta_from_x0(path, x, t, mu, x0)


def sampling(**changes):
  """A tiny CDDPM of three clusters with one mean, and options of a sample."""
  config = default_config()
  config.update_from_flattened_dict({
      'num_clusters': 3, 'diffusion.num_steps': 12, 'diffusion.beta_end': .01,
      'em.posterior': 'monte_carlo', 'sample.sampler': 'ddpm', 'sample.num_steps': 0,
      'sample.num_images': 2, **changes})
  method = tiny.build(config, SHAPE, None, make_mesh(1))
  return method, method.init_state().ema, config.sample


def test_clusters_have_noise_of_their_own():
  """Though all clusters are alike, their images are not; nor does it matter who else is
  drawn, or how many at once."""
  method, params, options = sampling()
  images = sample_clusters(method, params, [0, 1, 2], options).images.reshape(6, -1)
  assert np.abs(images[:, None] - images[None])[np.triu_indices(6, 1)].max(-1).min() > .1
  alone = sample_clusters(method, params, [2], options).images.reshape(2, -1)
  np.testing.assert_allclose(alone, images[4:], rtol=1e-4, atol=1e-4)
  options.batch_size = 4  # and a rest of 2
  parts = sample_clusters(method, params, [0, 1, 2], options).images.reshape(6, -1)
  np.testing.assert_allclose(parts, images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('variance', ['step', 'posterior'])
def test_ddpm_has_the_variance_of_the_process(variance):
  """Step by step sigma_t^2, as the bound has it; by the command's way to images, too."""
  method, params, options = sampling(**{'diffusion.reverse_variance': variance})
  _, table = sampler_of(options, variance, from_process(method.process))
  scale = from_process(method.process).levels(np.arange(1., 12)).scale[::-1]
  alpha = 1 - np.asarray(method.process.beta)
  m, abar = method.process.m, np.cumprod(alpha)
  delta = 1 - abar - m**2 * abar
  ratio = ((1 - m[2:]) / (1 - m[1:-1]))**2 * alpha[2:]
  step = delta[2:] - ratio * delta[1:-1]  # of q(x_t | x_{t-1}), t = 2..T
  wanted = step if variance == 'step' else step * delta[1:-1] / delta[2:]
  np.testing.assert_allclose((scale * table.rows.c_z[:-1])**2, wanted[::-1], rtol=1e-6)
  images = sample_clusters(method, params, [0], options).images
  method.config = method.config.copy_and_resolve_references()
  method.config.diffusion.reverse_variance = (
      'posterior' if variance == 'step' else 'step')
  assert np.abs(sample_clusters(method, params, [0], options).images - images).max() > .01


def test_the_shared_stage_sees_no_cluster(oracle):
  """x_t less its share of mu, for any mu: (1 - m) sqrt(abar) x_0 + sqrt(delta) eps."""
  process = oracle.make(12)
  seeing = ConditionalDDPM(None, None, TwoStages(
      lambda network, centred, t, keys: centred, None))
  x0, eps = images(1), images(2)
  t = np.array([1, 4, 9, 12])
  found = seeing.shared(as_float32(process), None, x0, jnp.asarray(t), eps)
  abar, m = (a[t][:, None, None, None] for a in (np.cumprod(1 - process.beta), process.m))
  wanted = (1 - m) * abar**.5 * x0 + (1 - abar - m**2 * abar)**.5 * eps
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
