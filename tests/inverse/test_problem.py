"""Problems in the coordinates of their operator, against dense algebra in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from jdiffclust.inverse import operators as op
from jdiffclust.inverse import problem as pb
from jdiffclust.inverse.problem import Problem
from tests.helpers import refused
from tests.inverse.gaussians import (
    MEAN, SETTINGS, SHAPE, SIZE, matrix_of, observe)

CASES = dict(SETTINGS, averaging=(op.averaging(2, SHAPE), .5))


def case(name, number=3):
  """A problem, and A."""
  operator, noise = CASES[name]
  return (observe(operator, noise, np.ones(1), MEAN[None], 1., number),
          matrix_of(operator))


def svd_of(operator, a):
  """V [D, D] and S [D] of an operator; that they are A's is checked."""
  coordinates = jnp.eye(SIZE).reshape(SIZE, *SHAPE)
  v = np.asarray(operator.back(coordinates).reshape(SIZE, SIZE), np.float64).T
  s = np.broadcast_to(np.asarray(operator.singular_values, np.float64), SHAPE).ravel()
  np.testing.assert_allclose(v.T @ v, np.eye(SIZE), atol=1e-5)
  np.testing.assert_allclose((a @ v).T @ (a @ v), np.diag(s**2), atol=1e-5)
  return v, s


@pytest.mark.parametrize('name', CASES)
def test_coordinates(name):
  """y~ is V^T A^+ y, tau is sigma_y / s, and the scale is the product of all s."""
  problem, a = case(name)
  v, s = svd_of(problem.operator, a)
  known = pb.coordinates(problem, 6)
  seen = s > 0
  assert 0 < seen.sum() and known.value.shape == (6, *SHAPE)
  flat = lambda values: np.asarray(values, np.float64).reshape(-1, SIZE)
  np.testing.assert_array_equal(flat(known.seen)[0], seen)
  y = np.tile(np.asarray(problem.observation, np.float64).reshape(3, -1), (2, 1))
  inverse = linalg.pinv(a, rtol=1e-5)
  tolerance = 1e-5 / s[seen].min()
  np.testing.assert_allclose(flat(known.value) @ v.T, y @ inverse.T, atol=tolerance)
  assert (flat(known.value)[:, ~seen] == 0).all()
  tau = flat(known.tau)[0]
  np.testing.assert_allclose(tau[seen], CASES[name][1] / s[seen], rtol=1e-4)
  assert np.isinf(tau[~seen]).all()
  values = linalg.svdvals(a)
  np.testing.assert_allclose(known.log_scale, np.log(values[values > 1e-5]).sum(),
                             rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['noisy mask', 'noisy matrix', 'averaging'])
def test_density_of_coordinates(name):
  """N(y~; c, tau^2) over the scale is N(y; A x, sigma_y^2 I) of y's seen part."""
  problem, a = case(name)
  x = np.random.default_rng(5).normal(size=(3, SIZE))
  known = pb.coordinates(problem, 3)
  c = problem.operator.into(jnp.asarray(x.reshape(3, *SHAPE), jnp.float32))
  seen, tau = np.asarray(known.seen), np.asarray(known.tau)
  logs = stats.norm(c, np.where(seen, tau, 1.)).logpdf(known.value)
  found = np.where(seen, logs, 0.).reshape(3, -1).sum(1) - float(known.log_scale)
  left, s, _ = linalg.svd(a)
  left = left[:, :len(s)][:, s > 1e-5]
  rest = (np.asarray(problem.observation).reshape(3, -1) - x @ a.T) @ left
  wanted = stats.norm(0, CASES[name][1]).logpdf(rest).sum(1)
  np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('sigma', [.05, .45, 3., 300.])
def test_with_known(name, sigma):
  """Coordinates less noisy than u are y~, as noisy as u; the others are as they were."""
  problem, a = case(name)
  noise = CASES[name][1]
  v, s = svd_of(problem.operator, a)
  rng = np.random.default_rng(1)
  u, z = rng.normal(size=(2, 6, SIZE))
  shaped = lambda values: jnp.asarray(values.reshape(-1, *SHAPE), jnp.float32)
  found = np.asarray(pb.with_known(shaped(u), sigma, shaped(z), problem)).reshape(6, -1)
  y = np.asarray(problem.observation, np.float64).reshape(3, -1)
  for row in range(6):
    wanted = np.zeros(SIZE)
    for j in range(SIZE):
      if s[j] > 0 and noise / s[j] <= sigma:
        value = v[:, j] @ a.T @ y[row % 3] / s[j]**2
        value += np.sqrt(sigma**2 - (noise / s[j])**2) * z[row, j]
      else:
        value = v[:, j] @ u[row]
      wanted += value * v[:, j]
    np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-4 * (1 + sigma))


def test_with_known_at_tau_itself():
  """There is nothing to be added, and rounding makes no root of less than 0."""
  problem, _ = case('noisy mask')
  u = jnp.ones((3, *SHAPE))
  tau = jnp.float32(.3) / jnp.float32(1.)
  found = np.asarray(pb.with_known(u, tau, 100 * u, problem))
  np.testing.assert_allclose(found[:, :, 0], problem.observation[:, :, 0], atol=1e-4)
  assert (found[:, :, 1] == 1).all()


def test_rows_of_problems():
  """Row r is of problem r % P."""
  values = np.arange(6.).reshape(3, 2)
  found = pb.of_rows(jnp.asarray(values, jnp.float32), 9)
  np.testing.assert_array_equal(found, values[np.arange(9) % 3])
  problem, a = case('noisy matrix')
  x = np.random.default_rng(5).normal(size=(6, SIZE))
  rest = pb.residuals(problem, jnp.asarray(x.reshape(6, *SHAPE), jnp.float32))
  y = np.asarray(problem.observation)[np.arange(6) % 3]
  np.testing.assert_allclose(rest, y - x @ a.T, atol=1e-5)
  np.testing.assert_allclose(pb.row_sums(rest), np.asarray(rest).sum(1), rtol=1e-5)


def test_wrong_problems_are_refused():
  """Another shape, no observation, no numbers, no noise level: by one line each."""
  problem, _ = case('noisy mask')
  pb.check_problem(problem)
  y = np.array(problem.observation)
  message = refused(pb.check_problem, problem._replace(observation=y[:, :1]))
  assert '(3, 1, 2, 2)' in message and '[n, 2, 2, 2]' in message
  assert 'n at least 1' in refused(pb.check_problem, problem._replace(observation=y[:0]))
  short = Problem(CASES['noisy matrix'][0], np.zeros((2, 3)), np.float32(0))
  assert '[n, 4]' in refused(pb.check_problem, short)
  for wrong in (np.nan, np.inf):
    bad = y.copy()
    bad[2, 0, 1, 1] = bad[1, 0, 0, 0] = wrong
    message = refused(pb.check_problem, problem._replace(observation=bad))
    assert message.startswith('Observation 1 has')
  for wrong in (-.1, np.inf, np.nan):
    message = refused(pb.check_problem, problem._replace(noise=np.float32(wrong)))
    assert 'must be 0 (none) or more' in message and str(np.float32(wrong))[:3] in message


def test_operators_with_and_without_a_spectrum():
  """A function has none."""
  assert all(pb.is_spectral(operator) for operator, _ in CASES.values())
  assert not pb.is_spectral(op.Function(lambda x: x, SHAPE))
