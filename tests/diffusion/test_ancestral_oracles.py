"""Sampler ddpm on all steps against the exact affine recursion of a Gaussian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.config import default_config
from jdiffclust.diffusion import predictions, samplers
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.diffusion.reverse import reverse_mean

CENTRE, SPREAD = .3, .4


def make(steps, betas='linear', pull='one_minus_sqrt_abar', variance='step'):
  options = default_config().diffusion
  options.update(num_steps=steps, betas=betas, pull=pull, reverse_variance=variance)
  return process_from_config(options)


def parts(p):
  abar = np.cumprod(1 - np.asarray(p.beta))
  m = np.asarray(p.m)
  a, b, delta = (1 - m) * abar**.5, m * abar**.5, 1 - abar - m**2 * abar
  gain = SPREAD**2 * a / (SPREAD**2 * a**2 + delta)
  return a, b, delta, abar, gain


def denoiser(p):
  a, b, _, abar, gain = (jnp.asarray(v, jnp.float32) for v in parts(p))

  def eta(x_t, t, mu):
    pick = lambda v: v[t][:, None, None, None]
    x0 = CENTRE + pick(gain) * (x_t - pick(a) * CENTRE - pick(b) * mu)
    return (x_t - jnp.sqrt(pick(abar)) * x0) / jnp.sqrt(1 - pick(abar))
  return eta


def ancestral(p, keys, mu, variance='step'):
  """Images of `ddpm` on all steps; the denoiser knows whole steps only."""
  path = from_process(p)
  eta = lambda variables, x, t, mu: denoiser(p)(x, t.astype(jnp.int32), mu)
  made = samplers.make_sampler('ddpm', path, p.num_steps, variance=variance)
  return samplers.run(
      *made, predictions.denoiser(path, None, eta, 'eta'), keys, mu).images


def exact(p, mu, variance_of='step'):
  """Mean and variance of a sampled pixel; the last step adds no noise."""
  a, b, delta, _, gain = parts(p)
  mean, variance = 0., 1.
  for t in range(p.num_steps, 0, -1):
    start = CENTRE - gain[t] * (a[t] * CENTRE + b[t] * mu)
    if t == 1:
      return gain[1] * mean + start, gain[1]**2 * variance
    k = a[t] / a[t - 1]
    h, step = b[t] - k * b[t - 1], delta[t] - k**2 * delta[t - 1]
    noise = 1 / (1 / delta[t - 1] + k**2 / step)
    w0, wt = noise * a[t - 1] / delta[t - 1], noise * k / step
    wmu = noise * (b[t - 1] / delta[t - 1] - k * h / step)
    mean = (wt + w0 * gain[t]) * mean + w0 * start + wmu * mu
    added = step if variance_of == 'step' else noise
    variance = (wt + w0 * gain[t])**2 * variance + added


def keys(numbers):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), numbers)


@pytest.mark.parametrize('steps,betas,pull,choice', [
    (10, 'cosine', 'one_minus_sqrt_abar', 'step'),
    (50, 'linear', 'one_minus_sqrt_abar', 'posterior'), (10, 'cosine', 'zero', 'step'),
    (50, 'linear', 'zero', 'step')])
def test_moments(steps, betas, pull, choice):
  """Mean and variance of many samples equal the recursion's, within 4 s.e."""
  p = make(steps, betas, pull, choice)
  sample = jax.jit(lambda mu: ancestral(p, keys(jnp.arange(5000)), mu, choice))
  for mu in (-.5, .8):
    images = sample(jnp.full((5000, 2, 2, 1), mu))
    x = np.asarray(images, np.float64).ravel()
    mean, variance = exact(p, mu, choice)
    assert abs(x.mean() - mean) < 4 * (variance / x.size)**.5 + 1e-5
    assert abs(x.var() / variance - 1) < 4 * (2 / x.size)**.5 + 1e-4


def test_no_noise_is_used_twice():
  """Three steps of little noise: x_T still shows, were its key drawn from again."""
  options = default_config().diffusion
  options.update(num_steps=3, beta_start=.1, beta_end=.3, rescale_betas=False)
  p = process_from_config(options)
  images = jax.jit(lambda k: ancestral(p, k, jnp.zeros((5000, 2, 2, 1))))(
      keys(jnp.arange(5000)))
  variance = exact(p, 0.)[1]
  x = np.asarray(images, np.float64)
  assert abs(x.var() / variance - 1) < 4 * (2 / x.size)**.5 + 1e-4


def test_thousand_steps_reach_the_data():
  """At T = 1000 samples have the data's mean and spread, in theory and in fact."""
  p = make(1000)
  mean, variance = exact(p, -.5)
  assert abs(mean - CENTRE) < .005 and abs(variance**.5 - SPREAD) < .005
  images = jax.jit(lambda k: ancestral(p, k, jnp.full((500, 4, 4, 1), -.5)))(
      keys(jnp.arange(500)))
  x = np.asarray(images, np.float64).ravel()
  assert abs(x.mean() - CENTRE) < .005 + 4 * SPREAD / x.size**.5
  assert abs(x.std() - SPREAD) < .005 + 4 * SPREAD / (2 * x.size)**.5


def test_pixels_are_independent():
  """No noise is used twice: neighbouring pixels and images are uncorrelated."""
  p = make(50)
  images = jax.jit(lambda k, mu: ancestral(p, k, mu))(
      keys(jnp.arange(4000)), jnp.zeros((4000, 2, 2, 1)))
  x = np.asarray(images, np.float64).reshape(4000, 4)
  correlation = np.corrcoef(np.c_[x[:-1], x[1:]].T) - np.eye(8)
  assert np.abs(correlation).max() < 4.5 / 4000**.5


def test_neighbours_do_not_matter():
  """An image follows from its key and mean alone, whoever shares its batch."""
  p = make(50)
  sample = jax.jit(lambda k, mu: ancestral(p, k, mu))
  mu = jnp.linspace(-1, 1, 6)[:, None, None, None] * jnp.ones((1, 2, 2, 3))
  whole = sample(keys(jnp.arange(6)), mu)
  order = jnp.array([4, 0, 5])
  some = sample(keys(order), mu[order])
  np.testing.assert_allclose(some, whole[order], rtol=0, atol=1e-6)
  assert len(np.unique(np.asarray(whole).round(5))) == whole.size


@pytest.mark.parametrize('pull,choice', [
    ('one_minus_sqrt_abar', 'step'), ('linear', 'posterior'), ('zero', 'step')])
def test_is_the_chain_of_the_paper(pull, choice):
  """x_{t-1} = c_x x_t + c_mu mu + c_eta eta + sigma_t z in a loop, from N(0, I)."""
  p = make(50, 'linear', pull, choice)
  mu = jnp.linspace(-1, 1, 4)[:, None, None, None] * jnp.ones((1, 2, 2, 1))
  k, eta = keys(jnp.arange(4)), denoiser(p)
  normal = lambda t: jax.vmap(lambda k: jax.random.normal(
      jax.random.fold_in(k, t), (2, 2, 1)))(k)
  device = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p)
  x = normal(p.num_steps)
  for t in range(p.num_steps, 0, -1):
    steps = jnp.full(4, t)
    x = reverse_mean(device, x, steps, mu, eta(x, steps, mu))
    if t > 1:
      x += device.reverse_variance[t]**.5 * normal(t - 1)
  np.testing.assert_allclose(jax.jit(lambda k, mu: ancestral(p, k, mu, choice))(k, mu), x,
                             atol=2e-5)


def test_traced_once():
  """Once in a scan, not once per step; other samplers of as many rows do not compile."""
  path, calls = from_process(make(50)), []

  def shrunk(variables, path, x_t, t, mu):
    calls.append(x_t.shape)
    return variables * path.centred(x_t, t, mu)

  @functools.partial(jax.jit, static_argnums=0)
  def sample(sampler, table, path, k, mu):
    denoiser = Denoiser(path, jnp.float32(.9), shrunk)
    return samplers.run(sampler, table, denoiser, k, mu).images

  mu = jnp.zeros((3, 2, 2, 1))
  sample(*samplers.make_sampler('ddpm', path, 15), path, keys(jnp.arange(3)), mu)
  assert len(calls) == 1
  other = from_process(make(50, 'cosine', 'zero'))
  for name, steps in (('ddim', 15), ('euler_maruyama', 15), ('dpm_solver_pp_2m', 15),
                      ('heun', 8), ('predictor_corrector', 8)):
    for grid in ('uniform', 'karras'):
      sample(*samplers.make_sampler(name, other, steps, grid), other,
             keys(jnp.arange(3, 6)), mu + 1)
  assert len(calls) == 1
  sample(*samplers.make_sampler('ddpm', path, 16), path, keys(jnp.arange(3)), mu)
  assert len(calls) == 2
