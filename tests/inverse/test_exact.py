"""Posteriors and what looks ahead to y, against dense Gaussian algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jdiffclust.inverse import exact, twist
from jdiffclust.inverse import operators as op
from jdiffclust.inverse.problem import Problem
from tests.helpers import refused
from tests.inverse.gaussians import (
    MEAN, MIXTURE, SETTINGS, SHAPE, SIZE, dense, dense_mixture, gaussian, matrix_of,
    mixture_of, observe, standardised)


def flat(values):
  """Images as vectors, in float64."""
  return np.asarray(values, np.float64).reshape(-1, SIZE)


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('variance', [1., .25])
def test_posterior_of_a_gaussian(setting, variance):
  """Mean, covariance, evidence, and draws."""
  problem = observe(*SETTINGS[setting], np.ones(1), MEAN[None], variance, 1)
  found = exact.posterior(gaussian(variance), problem)
  mean, covariance, evidence = dense(problem, MEAN, variance * np.eye(SIZE))
  np.testing.assert_allclose(flat(found.mean()), mean, atol=2e-5)
  np.testing.assert_allclose(found.log_evidence, evidence[0], rtol=1e-4, atol=1e-4)
  v = flat(found.operator.back(jnp.eye(SIZE).reshape(SIZE, *SHAPE))).T
  spread = flat(jnp.broadcast_to(found.mixture.variances, (1, *SHAPE)))[0]
  np.testing.assert_allclose(v * spread @ v.T, covariance, atol=1e-5)
  draws = flat(found.sample(jax.random.key(0), 20_000))
  free, fixed = standardised(draws, mean[0], covariance)
  np.testing.assert_allclose(free.mean(0), 0, atol=.04)
  np.testing.assert_allclose(np.cov(free.T), np.eye(free.shape[1]), atol=.05)
  np.testing.assert_allclose(fixed, 0, atol=1e-5)


@pytest.mark.parametrize('setting', SETTINGS)
def test_posterior_of_a_mixture(setting):
  """The shares of its components, their means, and the evidence of all."""
  weights, means, variance = MIXTURE
  problem = observe(*SETTINGS[setting], weights, means, variance, 4)
  shares, centres, _, evidence = dense_mixture(problem, *MIXTURE)
  assert (shares.max(1) < .98).any()  # something is left to be found
  for i in range(4):
    one = problem._replace(observation=problem.observation[i:i + 1])
    found = exact.posterior(mixture_of(*MIXTURE), one)
    np.testing.assert_allclose(np.exp(found.mixture.log_weights), shares[i], atol=2e-4)
    np.testing.assert_allclose(found.log_evidence, evidence[i], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found.log_joint, np.log(shares[i]) + evidence[i], rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(flat(found.operator.back(found.mixture.means)),
                               centres[i], atol=3e-5)
    np.testing.assert_allclose(flat(found.mean())[0], shares[i] @ centres[i], atol=3e-4)


def test_components_of_different_variances():
  """Each has its own gain."""
  weights, means, _ = MIXTURE
  variances = np.array([.1, 1., 4.])
  problem = observe(*SETTINGS['noisy matrix'], weights, means, 1., 1)
  each = [dense(problem, mean, variance * np.eye(SIZE))
          for mean, variance in zip(means, variances)]
  joint = np.log(weights) + [evidence[0] for _, _, evidence in each]
  mixture = mixture_of(weights, means, 1.)._replace(
      variances=jnp.asarray(variances, jnp.float32).reshape(3, 1, 1, 1))
  found = exact.posterior(mixture, problem)
  np.testing.assert_allclose(found.log_joint, joint, rtol=1e-4)
  np.testing.assert_allclose(flat(found.operator.back(found.mixture.means)),
                             np.concatenate([mean for mean, _, _ in each]), atol=2e-5)
  v = flat(found.operator.back(jnp.eye(SIZE).reshape(SIZE, *SHAPE))).T
  for spread, (_, covariance, _) in zip(flat(found.mixture.variances), each):
    np.testing.assert_allclose(v * spread @ v.T, covariance, atol=2e-5)


def test_other_mixtures_are_refused():
  """Whose variances differ from pixel to pixel; and more observations than one."""
  problem = observe(*SETTINGS['noisy mask'], np.ones(1), MEAN[None], 1., 2)
  message = refused(exact.posterior, gaussian(1.), problem)
  assert '2 observations' in message and 'one observation' in message
  one = problem._replace(observation=problem.observation[:1])
  for shape in ((1, *SHAPE), (1, 1, 1, 2)):
    uneven = gaussian(1.)._replace(variances=jnp.ones(shape))
    assert str(shape) in refused(exact.posterior, uneven, one)


@pytest.mark.parametrize('setting', SETTINGS)
@pytest.mark.parametrize('variance', [.01, 2.])
def test_twist(setting, variance):
  """log N(y; A x, r^2 A A^T + sigma_y^2 I) of y's seen part, and its gradient."""
  problem = observe(*SETTINGS[setting], np.ones(1), MEAN[None], 1., 3)
  x = np.random.default_rng(4).normal(size=(6, SIZE))
  logs, gradient = twist.log_twist(
      problem, jnp.asarray(x.reshape(6, *SHAPE), jnp.float32), variance)
  for row in range(6):
    one = problem._replace(observation=problem.observation[row % 3:row % 3 + 1])
    wanted = lambda x: dense(one, x, variance * np.eye(SIZE))[2][0]
    np.testing.assert_allclose(logs[row], wanted(x[row]), rtol=1e-3)
    slopes = [(wanted(x[row] + step) - wanted(x[row] - step)) / 2e-5
              for step in 1e-5 * np.eye(SIZE)]
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(flat(gradient)[row], slopes, atol=1e-3 * scale)
  total = lambda x: jnp.sum(twist.log_twist(problem, x, variance)[0])
  own = jax.grad(total)(jnp.asarray(x.reshape(6, *SHAPE), jnp.float32))
  np.testing.assert_allclose(own, gradient, rtol=1e-3,
                             atol=1e-4 * np.abs(gradient).max())


def test_twist_without_a_spectrum():
  """A A^T is taken for the identity."""
  operator = op.Function(lambda x: 2 * x[:, :, 0] - x[:, :, 1], SHAPE)
  a = matrix_of(operator)
  rng = np.random.default_rng(0)
  y, x = rng.normal(size=(2, 4)), rng.normal(size=(4, SIZE))
  problem = Problem(operator, jnp.asarray(y.reshape(2, 2, 2), jnp.float32),
                    jnp.float32(.3))
  image = jnp.asarray(x.reshape(4, *SHAPE), jnp.float32)
  logs, gradient = twist.log_twist(problem, image, .7)
  rest, total = y[np.arange(4) % 2] - x @ a.T, .7 + .09
  np.testing.assert_allclose(
      logs, stats.norm(0, np.sqrt(total)).logpdf(rest).sum(1), rtol=1e-5)
  np.testing.assert_allclose(flat(gradient), rest @ a / total, atol=1e-5)
