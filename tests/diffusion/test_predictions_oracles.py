"""Predictions: definitions, inverses, and Tweedie's formula by differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, forward, predictions
from jdiffclust.diffusion.denoiser import guided
from jdiffclust.diffusion.paths import expand, from_process
from jdiffclust.errors import UserError

PATHS = ('vp', 've', 'ddpm', 'cddpm')


def noised(path, seed=0, dim=4):
  rng = np.random.default_rng(seed)
  x0, mu, eps = (jnp.asarray(v) for v in rng.normal(size=(3, 6, dim)))
  t = jnp.asarray(np.linspace(path.t_min, path.t_max, 6))
  return path.noised(x0, t, mu, eps), t, mu, x0, eps


@pytest.mark.parametrize('name', PATHS)
def test_definitions(x64, world, name):
  """Each prediction of (x_0, eps) is what its paper says."""
  path = world.path(name)
  x, t, mu, x0, eps = noised(path)
  a, b, s = (expand(v(t), x) for v in (path.scale, path.pull, path.std))
  norm = jnp.sqrt(a**2 + s**2)
  expected = {
      'x0': x0, 'noise': eps, 'score': -(x - a * x0 - b * mu) / s**2,
      'velocity': (a * eps - s * x0) / norm,
      'eta': (b * (mu - x0) + s * eps) / jnp.sqrt(s**2 + b**2)}
  assert set(expected) == set(predictions.KINDS)
  for kind, (from_x0, to_x0) in predictions.KINDS.items():
    value = from_x0(path, x, t, mu, x0)
    np.testing.assert_allclose(value, expected[kind], rtol=1e-6, atol=1e-7, err_msg=kind)
    denoiser = predictions.denoiser(
        path, expected, lambda variables, x, t, mu: variables[kind], kind)
    np.testing.assert_allclose(denoiser.estimate(x, t, mu), x0, rtol=1e-6, atol=1e-6,
                               err_msg=kind)


def test_eta_is_the_target_of_training(x64, world):
  """eta of x_0 equals `forward.noise_target`, what the network is trained on."""
  process = world.process()
  path, device = from_process(process), jax.tree.map(jnp.asarray, process)
  rng = np.random.default_rng(3)
  x0, mu, eps = (jnp.asarray(v) for v in rng.normal(size=(3, 50, 2, 2, 1)))
  t = jnp.arange(1, 51)
  x = forward.noised(device, x0, t, mu, eps)
  np.testing.assert_allclose(
      predictions.eta_from_x0(path, x, t.astype(float), mu, x0),
      forward.noise_target(device, x0, t, mu, eps), atol=1e-10)


@pytest.mark.parametrize('name', PATHS)
def test_tweedie(x64, world, name):
  """The posterior mean's score is the gradient of the exact log density of x_t."""
  path, data = world.path(name), world.mixture(4)
  x, t, mu, *_ = noised(path, 5)

  def log_density(x):
    y = path.centred(x, t, mu)
    return jnp.sum(data.log_density(y, path.sigma(t)))

  x0 = analytic.denoiser(path, data).estimate(x, t, mu)
  np.testing.assert_allclose(predictions.score_from_x0(path, x, t, mu, x0),
                             jax.grad(log_density)(x), rtol=1e-6, atol=1e-9)


def test_posterior_mean_by_quadrature(x64):
  """E[x_0 | y] and p(y) of a mixture on the line, by numerical integration."""
  data = analytic.GaussianMixture(jnp.log(jnp.array([.3, .7])),
                                  jnp.array([[-.5], [.8]]), jnp.array([[.04], [.3]]))
  x0 = np.linspace(-12, 12, 200001)
  normal = lambda x, m, v: np.exp(-.5 * (x - m)**2 / v) / np.sqrt(2 * np.pi * v)
  prior = .3 * normal(x0, -.5, .04) + .7 * normal(x0, .8, .3)
  for y, sigma in ((-1., .1), (.2, .5), (1.5, 3.)):
    joint = prior * normal(y, x0, sigma**2)
    evidence = np.trapezoid(joint, x0)
    point = jnp.array([[y]])
    np.testing.assert_allclose(data.log_density(point, sigma)[0], np.log(evidence),
                               rtol=1e-8)
    np.testing.assert_allclose(data.posterior_mean(point, sigma)[0, 0],
                               np.trapezoid(x0 * joint, x0) / evidence, rtol=1e-8)


def test_mixture_of_25():
  """25 means (-8i, -8j) repeated over pairs, unit variances; draws have its moments."""
  data = analytic.mixture_of_25(6, seed=1)
  expected = {(-8. * i, -8. * j) * 3 for i in range(-2, 3) for j in range(-2, 3)}
  assert {tuple(m) for m in np.asarray(data.means).tolist()} == expected
  squares = np.random.default_rng(1).normal(size=25)**2
  np.testing.assert_allclose(np.exp(data.log_weights), squares / squares.sum(), rtol=1e-5)
  x = np.asarray(data.sample(jax.random.key(0), 20000), np.float64)
  weights, means = np.exp(np.asarray(data.log_weights)), np.asarray(data.means)
  mean = weights @ means
  covariance = (means - mean).T @ ((means - mean) * weights[:, None]) + np.eye(6)
  assert np.abs(x.mean(0) - mean).max() < 5 * (covariance.max() / 20000)**.5
  assert np.abs(np.cov(x.T) - covariance).max() < 8 * covariance.max() / 20000**.5


def test_guidance(x64, world):
  """Scale 1 and 0 are the two denoisers; scores are combined alike; scales by image."""
  path, x = world.path('vp'), jnp.ones((3, 2))
  t, mu = jnp.array([.1, .5, .9]), jnp.zeros((3, 2))
  first, second = (analytic.denoiser(path, world.mixture(2)),
                   analytic.denoiser(path, world.gaussian(2)))
  call = lambda scale: guided(first, second, scale).estimate(x, t, mu)
  one, other = (denoiser.estimate(x, t, mu) for denoiser in (first, second))
  np.testing.assert_allclose(call(1.), one, rtol=1e-12)
  np.testing.assert_allclose(call(0.), other, rtol=1e-12)
  score = lambda x0: predictions.score_from_x0(path, x, t, mu, x0)
  combined = score(other) + 3 * (score(one) - score(other))
  np.testing.assert_allclose(score(call(3.)), combined, rtol=1e-9)
  each = call(jnp.array([0., 1., 3.]))
  for i, scale in enumerate((0., 1., 3.)):
    np.testing.assert_allclose(each[i], call(scale)[i], rtol=1e-12)


def test_unknown_kind(world):
  """The allowed kinds are named."""
  with pytest.raises(UserError, match="'epsilon'.*noise.*velocity"):
    predictions.denoiser(world.path('vp'), None, None, 'epsilon')
