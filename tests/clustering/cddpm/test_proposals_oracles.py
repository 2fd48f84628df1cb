"""The measured proposal against known optima."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import make_estimator
from jdiffclust.clustering.bound.tau import Scoring
from jdiffclust.clustering.cddpm import proposals
from jdiffclust.clustering.cddpm.e_step import make_pilot
from jdiffclust.clustering.method import build
from jdiffclust.config import default_config
from jdiffclust.sharding import make_mesh


def test_two_levels_by_search(monkeypatch):
  """p proportional to the root mean square is the best p found by search."""
  monkeypatch.setattr(proposals, 'SAFETY', 0.)
  spread = np.array([3., .5])
  p = np.asarray(proposals.spread_proposal(
      jnp.asarray(spread, jnp.float32), np.array([1, 2]), jnp.array([0., .9, .1])))
  grid = np.linspace(.01, .99, 9801)
  variance = spread[0]**2 / grid + spread[1]**2 / (1 - grid)  # less a constant
  np.testing.assert_allclose(p, [0, grid[variance.argmin()], 1 - grid[variance.argmin()]],
                             atol=2e-4)


def test_importance_weights_are_bounded():
  """Where the pilot saw nothing, a share of the proposal by weight is left."""
  weight = jnp.array([0., .4, .3, .2, .1])
  spread = jnp.array([0., 1., 0.])
  p = np.asarray(proposals.spread_proposal(spread, np.array([1, 2, 4]), weight))
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
  assert p[0] == 0 and (weight[1:] / p[1:]).max() <= 1 / proposals.SAFETY * 1.001
  flat = proposals.spread_proposal(jnp.zeros(3), np.array([1, 2, 4]), weight)
  np.testing.assert_allclose(flat, weight, rtol=1e-5)


def test_levels():
  """From 1 to T, rising, for short and long schedules."""
  for steps in (2, 10, 200, 4000):
    levels = proposals.pilot_levels(steps)
    assert levels[0] == 1 and levels[-1] == steps and (np.diff(levels) > 0).all()


@pytest.mark.parametrize('antithetic', (True, False))
def test_spread_in_closed_form(oracle, images, key, antithetic):
  """Linear denoisers: the cost's mean, which is all that an antithetic pair keeps."""
  p, network = oracle.make(), oracle.network(10)
  x0, means = images(0, 1)[0], images(1, 3)
  rows = 3000
  batch = Batch(jnp.broadcast_to(x0, (rows, *x0.shape)),
                jnp.arange(rows, dtype=jnp.int32))
  estimator = make_estimator(p, 'uniform', 'weight')
  levels = np.array([2, 5, 9])
  spread = jax.jit(lambda *arguments: proposals.cost_spread(
      oracle.model, *arguments, Scoring('uniform', antithetic=antithetic)))(
          estimator, oracle.parameters(network, means), batch, key, jnp.asarray(levels))
  # n_t - eta = u_q + v eps: the difference of two clusters' costs is
  # (norm2(u_q) - norm2(u_r) + 2 v <u_q - u_r, eps>) / T.
  g, h, k = (np.asarray(network[name], np.float64) for name in 'ghk')
  x0, means = np.asarray(x0, np.float64)[None], np.asarray(means, np.float64)
  abar, expected = np.cumprod(1 - p.beta), []
  x0, means = (np.asarray(a, np.float64)[None] if a.ndim == 3 else
               np.asarray(a, np.float64) for a in (x0, means))
  for t in levels:
    root, m = (1 - abar[t])**.5, p.m[t]
    mean = abar[t]**.5 * ((1 - m) * x0 + m * means)
    u = m * abar[t]**.5 * (means - x0) / root - g[t] * mean - h[t] * means - k[t]
    u = u.reshape(3, -1)
    v = (1 - abar[t] - m**2 * abar[t])**.5 * (1 / root - g[t])
    norms = (u**2).sum(axis=1)
    square = (norms - norms.mean())**2
    if not antithetic:
      square = square + 4 * v**2 * ((u - u.mean(axis=0))**2).sum(axis=1)
    expected.append(square.mean()**.5 / 10)
  np.testing.assert_allclose(spread, expected, rtol=.04)


def test_pilot_does_not_depend_on_devices(oracle, images, key):
  """The same from one device and eight, of the valid rows."""
  options = default_config().e_step
  options.proposal = 'spread'
  estimator = make_estimator(oracle.make(), 'elbo', 'spread')
  arguments = (estimator, oracle.parameters(oracle.network(10), images(1, 3)),
               Batch(images(0, 64), jnp.arange(64, dtype=jnp.int32)), 27, key)
  one, eight = (make_pilot(oracle.model, options, make_mesh(n))(*arguments).proposal
                for n in (1, 8))
  np.testing.assert_allclose(one, eight, rtol=1e-5)
  assert not np.allclose(one, estimator.proposal, rtol=.01)
  valid = jax.tree.map(lambda a: a[:27], arguments[2])
  alone = make_pilot(oracle.model, options, make_mesh(1))(
      *arguments[:2], valid, 27, key)
  np.testing.assert_allclose(one, alone.proposal, rtol=1e-5)


@pytest.mark.parametrize('proposal', ('weight', 'uniform'))
def test_no_pilot_unless_asked_for(proposal):
  """The estimator of all E-steps, without a look at any image."""
  config = default_config()
  config.e_step.proposal = proposal
  method = build(config, (4, 4, 1), None, make_mesh(1))
  assert method.pilot(None, None, None, None) is method.e_estimator


@pytest.mark.parametrize('count, batch_size, most', [
    (100, 64, 32), (100, 16, 16), (20, 64, 20)])
def test_the_pilot_sees_images_from_all_over(count, batch_size, most):
  """In equal steps from the first to the last, as many as a batch and 32: files may be
  sorted."""
  config, seen = default_config(), []
  config.e_step.update(proposal='spread', batch_size=batch_size)
  method = build(config, (4, 4, 1), None, make_mesh(1))
  method._pilot = lambda estimator, params, batch, valid, key: seen.append(
      batch.indices[:valid].tolist())
  pipeline = SimpleNamespace(ordered=lambda indices, size: iter(
      [(Batch(None, indices[:size]), min(len(indices), size))]))
  method.pilot(None, pipeline, 1000 + np.arange(count), None)
  assert seen == [[1000 + i * (count - 1) // (most - 1) for i in range(most)]]


def test_the_pilot_s_levels_reach_the_last_step(oracle, images, key, monkeypatch):
  """From 1 to T of the process."""
  asked, original = [], proposals.pilot_levels
  monkeypatch.setattr(proposals, 'pilot_levels', lambda steps: (
      asked.append(original(steps)), asked[-1])[1])
  jax.eval_shape(
      lambda *given: proposals.measured_estimator(oracle.model, *given, Scoring()),
      make_estimator(oracle.make(10), 'elbo', 'spread'),
      oracle.parameters(oracle.network(10), images(1, 3)),
      Batch(images(0, 4), jnp.arange(4, dtype=jnp.int32)), key)
  assert [(levels[0], levels[-1]) for levels in asked] == [(1, 10)]
