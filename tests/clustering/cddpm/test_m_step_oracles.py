"""Gradient steps against enumeration, closed forms and one device."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import make_estimator
from jdiffclust.clustering.bound.losses import (
    choose_clusters, draw_noise, example_losses)
from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.clustering.cddpm.m_step import make_m_step, set_mixture
from jdiffclust.clustering.cddpm.method import conditional_ddpm
from jdiffclust.config import default_config
from jdiffclust.diffusion.preconditioning import SPREAD
from jdiffclust.networks.unet import ConcatenatedUNet, UNetBody
from jdiffclust.sharding import make_mesh, replicate, split_rows, to_host
from jdiffclust.state import average, init_state, make_optimizer

Q = 3


@pytest.fixture(autouse=True)
def standard_promotion():
  """optax.adam's bias correction does not trace under strict dtype promotion."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def options(**changes):
  section = default_config().m_step
  section.update(learning_rate_warmup=0, **changes)
  return section


def responsibilities(seed, rows):
  return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(Q), rows),
                     jnp.float32)


def batch_of(images):
  return Batch(images, jnp.arange(len(images), dtype=jnp.int32))


def losses_of(model, estimator, params, batch, tau, key, step, **choices):
  noise = draw_noise(estimator, batch, key)
  shared = model.shared(estimator.process, params.network, batch.images, noise.t,
                        noise.eps, noise.dropout_keys)
  return example_losses(model, estimator, params, batch.images, shared, noise, tau,
                        step, **choices)


@functools.cache
def jitted(model, assignment, weighting):
  return jax.jit(lambda *arguments: losses_of(
      model, *arguments, assignment=assignment, weighting=weighting))


def known_costs(p, x0, means, scale):
  """(scale^2 norm2(x_0 - mu) + abar_T / 2 norm2(mu)) / D, [B, Q], by loops."""
  pull = np.prod(1 - p.beta) / 2
  x0, means = np.asarray(x0, np.float64), np.asarray(means, np.float64)
  return np.array([[(scale**2 * ((x - mu)**2).sum() + pull * (mu**2).sum()) / x.size
                    for mu in means] for x in x0])


def known_setup(oracle, images, rows=6):
  # Little noise in all: abar_T = .9, so that the pull on mu counts.
  p = oracle.make(10, 'linear', rescale=False)
  x0, means = images(0, rows), images(1, Q)
  params = oracle.parameters(oracle.known_network(p, x0, .7), means)
  estimator = make_estimator(p, 'uniform', 'uniform')
  return estimator, params, batch_of(x0), responsibilities(2, rows), known_costs(
      p, x0, means, .7)


def test_summed_by_loops(oracle, images, key):
  """The loss is sum_q tau_iq times each cluster's own loss."""
  estimator, params, batch, tau, costs = known_setup(oracle, images)
  losses = jitted(oracle.known, 'summed', 'uniform')(
      estimator, params, batch, tau, key, 0)
  np.testing.assert_allclose(losses, (np.asarray(tau) * costs).sum(axis=1), rtol=1e-4)


def test_per_cluster_cycles(oracle, images, key):
  """Step s trains cluster s mod Q, weighted by tau."""
  estimator, params, batch, tau, costs = known_setup(oracle, images)
  for step in (0, 1, 2, 3, 7):
    losses = jitted(oracle.known, 'per_cluster', 'uniform')(
        estimator, params, batch, tau, key, step)
    q = step % 3
    np.testing.assert_allclose(losses, np.asarray(tau)[:, q] * costs[:, q], rtol=1e-4)


def test_sampled_takes_one_cluster(oracle, images, key):
  """Each loss is that of one cluster, unweighted; one-hot tau fixes which."""
  estimator, params, batch, tau, costs = known_setup(oracle, images)
  losses = np.asarray(jitted(oracle.known, 'sampled', 'uniform')(
      estimator, params, batch, tau, key, 0))
  assert (np.abs(losses[:, None] - costs).min(axis=1) < 1e-4).all()
  fixed = jnp.eye(Q)[jnp.array([2, 0, 1, 1, 0, 2])]
  losses = jitted(oracle.known, 'sampled', 'uniform')(
      estimator, params, batch, fixed, key, 0)
  np.testing.assert_allclose(losses, costs[range(6), [2, 0, 1, 1, 0, 2]], rtol=1e-4)


def test_sampled_clusters_follow_tau(key):
  """Frequencies of the sampled cluster: chi-square against tau."""
  tau = jnp.broadcast_to(jnp.array([.6, .3, .1, 0.]), (20000, 4))
  clusters, weights = choose_clusters('sampled', tau, jax.random.split(key, 20000), 0)
  counts = np.bincount(np.asarray(clusters)[:, 0], minlength=4)
  assert counts[3] == 0 and (weights == 1).all()
  assert scipy.stats.chisquare(counts[:3], [12000, 6000, 2000]).pvalue > 1e-3


@pytest.mark.parametrize('weighting', ('uniform', 'elbo'))
def test_sampled_gradient_is_unbiased(oracle, images, key, weighting):
  """sum_q tau_q (gradient given q) = gradient of 'summed', in one and the same draw."""
  p, x0 = oracle.make(), images(0, 1)
  params = oracle.parameters(oracle.network(10), images(1, Q))
  estimator = make_estimator(p, weighting, 'uniform')
  tau = responsibilities(2, 1)

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(assignment, tau):
    loss = lambda params: losses_of(
        oracle.model, estimator, params, batch_of(x0), tau, key, 0,
        assignment=assignment, weighting=weighting)[0]
    return jax.grad(loss)(params)

  parts = [gradient('sampled', jnp.eye(Q)[q:q + 1]) for q in range(Q)]
  enumerated = jax.tree.map(
      lambda *leaves: sum(float(tau[0, q]) * leaves[q] for q in range(Q)), *parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
               enumerated, gradient('summed', tau))


@pytest.mark.parametrize('assignment,proposal', [
    ('sampled', 'weight'), ('summed', 'uniform')])
def test_elbo_loss_is_unbiased(oracle, images, key, assignment, proposal):
  """Its mean over draws is the exact negative bound per dimension, within 4 s.e."""
  p, network, x0, means = oracle.make(), oracle.network(10), images(0, 1), images(1, Q)
  tau = responsibilities(2, 1)
  rows = 20000
  batch = batch_of(jnp.broadcast_to(x0, (rows, 2, 2, 1)))
  losses = np.asarray(jitted(oracle.model, assignment, 'elbo')(
      make_estimator(p, 'elbo', proposal), oracle.parameters(network, means), batch,
      jnp.broadcast_to(tau, (rows, Q)), key, 0), np.float64)
  exact = sum(float(tau[0, q]) * sum(oracle.exact_parts(p, network, x0[0], means[q]))
              for q in range(Q)) / 4
  error = losses.std() / rows**.5
  assert abs(losses.mean() - exact) < 4 * error + 1e-4 * abs(exact)
  assert error < .05 * abs(exact) + .05


def test_uniform_loss_is_unbiased(oracle, images, key):
  """Its mean is the mean squared error over t plus the pull of mu, within 4 s.e."""
  p, network, x0, means = oracle.make(), oracle.network(10), images(0, 1), images(1, Q)
  tau, rows = responsibilities(2, 1), 20000
  losses = np.asarray(jitted(oracle.model, 'summed', 'uniform')(
      make_estimator(p, 'uniform', 'uniform'), oracle.parameters(network, means),
      batch_of(jnp.broadcast_to(x0, (rows, 2, 2, 1))),
      jnp.broadcast_to(tau, (rows, Q)), key, 0), np.float64)
  pull = np.prod(1 - p.beta) / 2
  exact = sum(float(tau[0, q]) * (
      oracle.expected_errors(p, network, x0[0], means[q])[1:].mean()
      + pull * float((means[q]**2).sum())) for q in range(Q)) / 4
  assert abs(losses.mean() - exact) < 4 * losses.std() / rows**.5


def test_residual_loss_is_in_posterior_deviations(oracle, images, key):
  """A silent network misses x_0 by its distance from E[x_0 | z], pixels Gaussian."""
  p, x0, means = oracle.make(), images(0, 6), images(1, Q)
  silent = types.SimpleNamespace(apply=lambda variables, x, *_: jnp.zeros_like(x))
  model = conditional_ddpm(silent, p, None, 'residual')
  estimator = make_estimator(p, 'residual', 'density')
  batch, tau = batch_of(x0), jnp.eye(Q)[jnp.array([2, 0, 1, 1, 0, 2])]
  losses = losses_of(model, estimator, oracle.parameters(None, means), batch, tau, key, 0,
                     assignment='summed', weighting='residual')
  noise = draw_noise(estimator, batch, key)
  t, abar = np.asarray(noise.t), np.cumprod(1 - p.beta)
  for i, q in enumerate(tau.argmax(axis=1)):
    a, mu = (1 - p.m[t[i]]) * abar[t[i]]**.5, np.asarray(means[q])
    variance = 1 - abar[t[i]] - p.m[t[i]]**2 * abar[t[i]]
    z = a * np.asarray(x0[i]) + variance**.5 * np.asarray(noise.eps[i])
    precision = SPREAD**-2 + a**2 / variance
    miss = np.asarray(x0[i]) - (mu / SPREAD**2 + a * z / variance) / precision
    expected = np.mean(miss**2 * precision + abar[-1] / 2 * mu**2)
    np.testing.assert_allclose(losses[i], expected, rtol=2e-3)


def test_an_image_that_comes_again_is_drawn_anew(oracle, images, key):
  """With noise, a step and a cluster of its own; the first time as if it were alone."""
  p, x0 = oracle.make(), images(0, 4)
  estimator = make_estimator(p, 'elbo', 'density')
  once = draw_noise(estimator, batch_of(x0), key)
  rows = np.arange(12) % 4
  batch = Batch(x0[rows], jnp.asarray(rows, jnp.int32),
                repeated=jnp.asarray(np.arange(12) - rows, jnp.int32))
  noise = draw_noise(estimator, batch, key)
  np.testing.assert_array_equal(noise.eps[:4], once.eps)
  np.testing.assert_array_equal(noise.t[:4], once.t)
  eps = np.asarray(noise.eps).reshape(12, -1)
  assert np.abs(eps[:, None] - eps[None])[~np.eye(12, dtype=bool)].max(axis=1).min() > .1
  for keys in (noise.cluster_keys, noise.dropout_keys):
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 12


@functools.cache
def compiled(model, devices, **changes):
  """A compiled M-step, shared by the tests that ask for the same one."""
  return make_m_step(model, options(**changes), make_mesh(devices))


def take_steps(model, params, estimator, x0, tau, key, devices, steps=4, **changes):
  """Runs gradient steps on a mesh; returns the host's state and infos."""
  mesh, chosen = make_mesh(devices), options(**changes)
  step = compiled(model, devices, **changes)
  state = replicate(to_host(init_state(params, make_optimizer(chosen))), mesh)
  estimator, tau = replicate(to_host((estimator, tau)), mesh)
  infos = []
  for _ in range(steps):
    batch = split_rows(to_host(batch_of(x0)), mesh)
    state, info = step(state, estimator, batch, tau, key)
    infos.append(to_host(info))
  return to_host(state), infos


def tiny_unet():
  network = ConcatenatedUNet(UNetBody(
      channels=4, channel_multipliers=(1,), blocks_per_level=1, middle_attention=False,
      num_heads=1, num_groups=2, dropout=.2))
  x = jnp.zeros((1, 4, 4, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.ones(1, jnp.int32), x)
  rng = np.random.default_rng(0)
  return ConditionalDDPM(network.apply), jax.tree.map(
      lambda s: jnp.asarray(.2 * rng.normal(size=s.shape), s.dtype), shapes)


@pytest.mark.parametrize('means,meshes', [('weighted', [8]), ('gradient', [2, 8])])
def test_devices_agree_linear(oracle, images, key, means, meshes):
  """1, 2 and 8 devices: equal losses, gradient norms and parameters after 4 steps."""
  params = oracle.parameters(oracle.network(10), images(1, Q))
  estimator = make_estimator(oracle.make(), 'uniform', 'uniform')
  x0, tau = images(0, 16), responsibilities(2, 16)
  one, infos = take_steps(oracle.model, params, estimator, x0, tau, key, 1,
                          means=means)
  for devices in meshes:
    many, others = take_steps(oracle.model, params, estimator, x0, tau, key, devices,
                              means=means)
    np.testing.assert_allclose(infos, others, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                 one.params, many.params)
  moved = np.abs(one.params.means - np.asarray(params.means)).max()
  assert (moved == 0) == (means == 'weighted')
  np.testing.assert_array_equal(one.params.log_proportions, params.log_proportions)


def test_unet_with_dropout_agrees_with_plain_gradient(oracle, key):
  """8 devices: loss and gradient norm are those of unsharded jax.grad, dropout on."""
  model, variables = tiny_unet()
  rng = np.random.default_rng(1)
  x0 = jnp.asarray(rng.uniform(-1, 1, (8, 4, 4, 1)), jnp.float32)
  tau = responsibilities(2, 8)
  means = jnp.asarray(rng.normal(size=(Q, 4, 4, 1)), jnp.float32)
  params = Parameters(variables, means, jnp.zeros(Q))
  estimator = make_estimator(oracle.make(), 'uniform', 'uniform')

  def plain(params):
    losses = losses_of(model, estimator, params, batch_of(x0), tau,
                       jax.random.fold_in(key, 0), 0, assignment='sampled',
                       weighting='uniform')
    return jnp.mean(losses)

  loss, gradient = jax.jit(
      jax.value_and_grad(plain),
      compiler_options={'xla_backend_optimization_level': 0})(params)
  norm = np.sqrt(sum((np.asarray(g, np.float64)**2).sum()
                     for g in jax.tree.leaves(gradient)))
  _, infos = take_steps(model, params, estimator, x0, tau, key, 8, steps=1,
                        means='gradient')
  np.testing.assert_allclose(infos[0].loss, loss, rtol=1e-5)
  np.testing.assert_allclose(infos[0].gradient_norm, norm, rtol=1e-4)


def test_first_adam_step(oracle, images, key):
  """One step moves every trained number by the learning rate against its gradient."""
  params = oracle.parameters(oracle.network(10), images(1, Q))
  estimator = make_estimator(oracle.make(), 'uniform', 'uniform')
  x0, tau = images(0, 16), responsibilities(2, 16)
  before = to_host(params)
  state, infos = take_steps(oracle.model, params, estimator, x0, tau, key, 1, steps=1,
                            means='weighted')
  moves = np.concatenate([state.params.network[k] - before.network[k] for k in 'ghk'])
  gradient = jax.jit(jax.grad(lambda p: jnp.mean(losses_of(
      oracle.model, estimator, p, batch_of(x0), tau, jax.random.fold_in(key, 0), 0,
      assignment='sampled', weighting='uniform'))))(params).network
  signs = np.concatenate([np.sign(gradient[k]) for k in 'ghk'])
  np.testing.assert_allclose(moves, -1e-3 * signs, atol=1e-6)
  assert state.step == 1 and state.nonfinite_step == -1
  for a, b, c in zip(*map(jax.tree.leaves, (state.ema, params, state.params))):
    np.testing.assert_allclose(a, .1 * np.asarray(b) + .9 * np.asarray(c), atol=1e-6)


def test_nonfinite_step_keeps_the_first(oracle, images, key):
  """The first step with a NaN loss is recorded, and later ones do not replace it."""
  mesh, step = make_mesh(1), compiled(oracle.model, 1, means='weighted')
  state, estimator, tau = replicate(to_host((
      init_state(oracle.parameters(oracle.network(10), images(1, Q)),
                 make_optimizer(options())),
      make_estimator(oracle.make(), 'uniform', 'uniform'), responsibilities(2, 16))),
      mesh)
  good = images(0, 16)
  seen = []
  for x0 in (good, good, good.at[1].set(jnp.nan), good, good):
    state, _ = step(state, estimator, split_rows(to_host(batch_of(x0)), mesh), tau, key)
    seen.append(int(state.nonfinite_step))
  assert seen == [-1, -1, 2, 2, 2]


def test_average_by_numpy(oracle, images):
  """decay x old + (1 - decay) x new with decay min(d, (1 + s) / (10 + s))."""
  old, new = (oracle.parameters(oracle.network(10, s), images(s, Q)) for s in (0, 1))
  for step, rate in ((0, .1), (8, .5), (1000, .9)):
    actual = average(old, new, jnp.asarray(step, jnp.int32), .9)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(
        c, rate * np.asarray(b) + (1 - rate) * np.asarray(a), rtol=1e-5, atol=1e-6),
                 new, old, actual)


def test_set_mixture_replaces_both(oracle, images):
  """Closed-form updates reach parameters and average; buffers are not shared."""
  state = init_state(oracle.parameters(oracle.network(10), images(1, Q)),
                     make_optimizer(options()))
  means = images(5, Q)
  new = set_mixture(state, means=means)
  np.testing.assert_array_equal(new.params.means, means)
  np.testing.assert_array_equal(new.ema.means, means)
  assert (new.params.means.unsafe_buffer_pointer()
          != new.ema.means.unsafe_buffer_pointer())
  np.testing.assert_array_equal(new.params.log_proportions,
                                state.params.log_proportions)


def test_compiled_once(oracle, images, key):
  """Repeated gradient steps trace the denoiser in the first call only."""
  calls = []

  def counting(*arguments):
    calls.append(1)
    return oracle.model.denoise(*arguments)

  take = make_m_step(ConditionalDDPM(counting), options(), make_mesh(1))
  mesh = make_mesh(1)
  state = replicate(to_host(init_state(
      oracle.parameters(oracle.network(10), images(1, Q)),
      make_optimizer(options()))), mesh)
  estimator, tau = replicate(
      to_host((make_estimator(oracle.make(), 'uniform', 'uniform'),
               responsibilities(2, 4))), mesh)
  counts = []
  for k in range(4):
    state, _ = take(state, estimator, split_rows(to_host(batch_of(images(k, 4))), mesh),
                    tau, key)
    counts.append(len(calls))
  assert counts[0] >= 1 and len(set(counts)) == 1
