"""Weights, resampling and effective sample sizes against NumPy, and their edges."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.inverse import particles, restorer
from tests.helpers import refused
from tests.inverse.gaussians import PATH, keys

NEAR_ONE = np.float32(1) - np.float32(2)**-24
# Weights as small whole numbers and positions between their sums: rounding cannot matter.
CLOUDS = st.lists(st.integers(0, 5), min_size=1, max_size=40).filter(any)


def logs(weights):
  """Normalised logarithms [N, P] of weights [P, N]."""
  weights = np.asarray(weights, np.float64).T
  with np.errstate(divide='ignore'):
    return jnp.asarray(np.log(weights / weights.sum(0)), jnp.float32)


def one_by_one(weights, position):
  """The particle on whose piece of the line from 0 to 1 a position lies."""
  end = 0.
  for particle, weight in enumerate(weights):
    end += weight / sum(weights)
    if position < end:
      return particle
  raise AssertionError


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(CLOUDS, CLOUDS, st.integers(1, 30), st.floats(.05, .95))
def test_ancestors_against_a_loop(first, second, number, within):
  """Of two problems of one size; positions spread over the line, each in its piece."""
  size = min(len(first), len(second))
  clouds = [weights[:size - 1] + [1] for weights in (first, second)]
  chosen = []
  for weights in clouds:
    rng = np.random.default_rng(number)
    chosen.append((rng.integers(0, sum(weights), number) + within) / sum(weights))
  found = np.asarray(particles.ancestors(
      logs(clouds), jnp.asarray(np.stack(chosen, 1), jnp.float32)))
  for problem, weights in enumerate(clouds):
    wanted = [one_by_one(weights, at) for at in chosen[problem]]
    np.testing.assert_array_equal(found[:, problem], wanted)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(CLOUDS, st.integers(0, 10**6))
def test_systematic_counts_are_the_nearest(weights, seed):
  """Each particle comes N w times, rounded down or up; each position is in its N-th."""
  number = len(weights)
  at = np.asarray(particles.positions('systematic', keys(1, seed), number), np.float64)
  steps = at[:, 0] * number - np.arange(number)
  np.testing.assert_allclose(steps, steps[0], atol=1e-5)
  assert -1e-5 < steps[0] < 1 + 1e-5
  found = np.asarray(particles.ancestors(logs([weights]), jnp.asarray(at, jnp.float32)))
  counts = np.bincount(found[:, 0], minlength=number)
  expected = number * np.array(weights) / sum(weights)
  assert (np.abs(counts - expected) < 1 + 1e-4).all()


@pytest.mark.parametrize('kind', particles.RESAMPLING)
def test_counts_are_unbiased(kind):
  """Over many problems: mean counts N w; their variance is multinomial or less."""
  weights = np.array([.02, .3, .08, .15, .05, 0., .4])
  problems, number = 20_000, 7
  at = particles.positions(kind, keys(problems), number)
  assert at.shape == (number, problems) and float(at.min()) >= 0 and float(at.max()) < 1
  found = np.asarray(particles.ancestors(logs([weights] * problems), at))
  counts = (found[..., None] == np.arange(7)).sum(0)
  np.testing.assert_allclose(counts.mean(0), number * weights, atol=.03)
  if kind == 'multinomial':
    np.testing.assert_allclose(
        counts.var(0), number * weights * (1 - weights), rtol=.04)
  else:
    share = number * weights % 1
    np.testing.assert_allclose(counts.var(0), share * (1 - share), atol=.01)


@pytest.mark.parametrize('particle', [0, 3, 6])
def test_one_particle_has_all_the_weight(particle):
  """It is taken wherever resampling looks, up to the last number below 1."""
  weights = np.eye(7)[particle]
  at = jnp.asarray([[0.], [2.**-149], [.5], [NEAR_ONE]], jnp.float32)
  found = particles.ancestors(logs([weights]), at)
  assert (np.asarray(found) == particle).all()


@pytest.mark.parametrize('kind', particles.RESAMPLING)
@pytest.mark.parametrize('ends', ['dead', 'alive'])
def test_no_particle_of_weight_zero_is_taken(kind, ends):
  """Of 100,000, many dead, the last among them; also at positions near 0 and 1."""
  rng = np.random.default_rng(0)
  number = 100_000
  weights = rng.random((2, number)) * (rng.random((2, number)) < .5)
  edge = 0. if ends == 'dead' else 1e-9
  weights[:, :2] = weights[:, -3000:] = edge
  at = particles.positions(kind, keys(2), number)
  assert 0 <= float(at.min()) and float(at.max()) < 1
  at = jnp.concatenate([at, jnp.full((1, 2), NEAR_ONE), jnp.zeros((1, 2))])
  found = np.asarray(particles.ancestors(logs(weights), at))
  assert found.min() >= 0 and found.max() < number
  taken = np.take_along_axis(weights.T, found, 0)
  assert (taken > 0).all()


def test_positions_stay_below_one(monkeypatch):
  """Though a random number just below 1 is rounded up when others are added to it."""
  monkeypatch.setattr(jax.random, 'uniform',
                      lambda key, shape=(): jnp.full(shape, NEAR_ONE))
  for kind in particles.RESAMPLING:
    at = np.asarray(particles.positions(kind, keys(2), 1000))
    assert at.dtype == np.float32 and at.max() < 1


def test_effective_sample_size():
  """1 / sum w^2: N of even weights, 1 of a single one."""
  rng = np.random.default_rng(0)
  weights = np.stack([np.ones(6), np.eye(6)[2], rng.random(6)])
  shares = weights / weights.sum(1, keepdims=True)
  found = particles.effective_sample_size(logs(weights))
  np.testing.assert_allclose(found, 1 / (shares**2).sum(1), rtol=1e-5)


def cloud_of(number, problems):
  """Particles that carry their row's number."""
  rows = jnp.arange(number * problems)
  return particles.new_cloud(rows, problems)


def test_weights_and_evidence():
  """The evidence is the product of the weighted means of factors, problem by problem."""
  rng = np.random.default_rng(0)
  factors = rng.random((2, 5, 3)) * 4
  cloud = cloud_of(5, 3)
  np.testing.assert_allclose(np.exp(cloud.log_weights), .2, rtol=1e-6)
  sizes = []
  weights, evidence = np.full((5, 3), .2), np.ones(3)
  for each in factors:
    cloud = particles.reweighted(cloud, jnp.asarray(np.log(each).ravel(), jnp.float32))
    weights = weights * each
    evidence, weights = evidence * weights.sum(0), weights / weights.sum(0)
    sizes.append(1 / (weights**2).sum(0))
  np.testing.assert_allclose(np.exp(cloud.log_weights), weights, rtol=1e-5)
  np.testing.assert_allclose(cloud.log_evidence, np.log(evidence), atol=1e-5)
  np.testing.assert_allclose(cloud.least_ess, np.min(sizes, 0), rtol=1e-5)


def test_the_dead():
  """NaN kills one particle; where all died the evidence stays 0, weights even."""
  nan, inf = np.nan, np.inf
  factors = np.array([[nan, -inf, 0.], [0., nan, 0.], [0., -inf, -inf], [-inf, nan, 0.]])
  cloud = particles.reweighted(cloud_of(4, 3), jnp.asarray(factors.ravel(), jnp.float32))
  np.testing.assert_allclose(
      np.exp(cloud.log_weights),
      np.array([[0, .5, .5, 0], [.25] * 4, [1 / 3, 1 / 3, 0, 1 / 3]]).T, rtol=1e-6)
  np.testing.assert_allclose(cloud.log_evidence, [np.log(.5), -inf, np.log(.75)],
                             rtol=1e-6)
  np.testing.assert_allclose(cloud.least_ess, [2, 0, 3], rtol=1e-6)
  after = particles.reweighted(cloud, jnp.ones(12))
  np.testing.assert_allclose(after.log_evidence, [np.log(.5) + 1, -inf, np.log(.75) + 1],
                             rtol=1e-6)
  assert np.isfinite(after.log_weights[:, 1]).all() and float(after.least_ess[1]) == 0


@pytest.mark.parametrize('threshold,moved', [(0., []), (.5, [2]), (.95, [1, 2]),
                                             (1., [0, 1, 2])])
def test_only_uneven_problems_are_resampled(threshold, moved):
  """Below the threshold; the others keep particles and weights. Rows stay their own."""
  weights = np.array([[1, 1, 1, 1], [1, 2, 1, 2], [0, 9, 0, 1]])
  cloud = cloud_of(4, 3)._replace(log_weights=logs(weights))
  method = restorer.make_restorer('tds', particles=4, threshold=threshold)
  row = jax.tree.map(lambda a: a[0], restorer.table_of(PATH, 3, 1.).rows)
  found = method.resampled(cloud, row, keys(12))
  before, after = np.arange(12).reshape(4, 3), np.asarray(found.rows).reshape(4, 3)
  np.testing.assert_array_equal(after % 3, before % 3)
  for problem in range(3):
    if problem in moved:
      counts = np.bincount(after[:, problem] // 3, minlength=4)
      share = 4 * weights[problem] / weights[problem].sum()
      assert (np.abs(counts - share) < 1).all()
      np.testing.assert_allclose(np.exp(found.log_weights[:, problem]), .25, rtol=1e-6)
    else:
      np.testing.assert_array_equal(after[:, problem], before[:, problem])
      np.testing.assert_array_equal(found.log_weights[:, problem],
                                    cloud.log_weights[:, problem])
  np.testing.assert_array_equal(found.log_evidence, cloud.log_evidence)


@pytest.mark.parametrize('number', [4, 7, 50])
def test_threshold_of_one_always_resamples(number):
  """Even where weights are even."""
  method = restorer.make_restorer('tds', particles=number, threshold=1.,
                                  resampling='multinomial')
  row = jax.tree.map(lambda a: a[0], restorer.table_of(PATH, 3, 1.).rows)
  found = method.resampled(cloud_of(number, 5), row, keys(5 * number))
  before = np.arange(5 * number).reshape(number, 5)
  assert (np.asarray(found.rows).reshape(number, 5) != before).any(0).all()


def grouped(num_draws):
  """Six particles of each of two problems, in three groups, at their end; what came."""
  method = restorer.make_restorer('mcgdiff', particles=6, groups=3, num_draws=num_draws)
  rng = np.random.default_rng(5)
  weights = rng.dirichlet(np.ones(2), 6).T  # of two particles, by group and problem
  evidence = rng.normal(size=6)
  rows = particles.Carried(jnp.arange(12), jnp.arange(12), jnp.zeros(12))
  cloud = particles.Cloud(rows, jnp.asarray(np.log(weights), jnp.float32),
                          jnp.asarray(evidence, jnp.float32), jnp.arange(1., 7.))
  last = particles.positions('systematic', keys(6), -(-num_draws // 3))
  state = particles.State(cloud, last, jnp.ones(()))
  return method.finish(state, method.table(PATH, 5, 1.)), weights, evidence


@pytest.mark.parametrize('num_draws', [3, 4, 6])
def test_each_draw_is_of_a_group_in_turn(num_draws):
  """Particle n of problem p, in row 2 n + p, is of the group n % 3."""
  result, _, _ = grouped(num_draws)
  rows = np.asarray(result.images).reshape(num_draws, 2)
  np.testing.assert_array_equal(rows % 2, [[0, 1]] * num_draws)
  np.testing.assert_array_equal(rows // 2 % 3, np.arange(num_draws)[:, None].repeat(2, 1)
                                % 3)
  np.testing.assert_array_equal(result.condition, result.images)


def test_evidence_and_weights_of_groups():
  """The mean of the groups' evidence; sums of their sizes; weights in equal shares."""
  result, weights, evidence = grouped(4)
  evidence, size = evidence.reshape(3, 2), (1 / (weights**2).sum(0)).reshape(3, 2)
  np.testing.assert_allclose(result.log_evidence, np.log(np.exp(evidence).mean(0)),
                             rtol=1e-5)
  np.testing.assert_allclose(result.ess, size.sum(0), rtol=1e-5)
  np.testing.assert_array_equal(result.least_ess, [1 + 3 + 5, 2 + 4 + 6])
  np.testing.assert_allclose(np.exp(result.log_weights), weights.reshape(6, 2) / 3,
                             rtol=1e-5)
  np.testing.assert_array_equal(result.evaluations, [30] * 8)


@pytest.mark.parametrize('num_particles,num_draws,groups', [
    (64, 8, 8), (64, 9, 8), (64, 5, 4), (7, 5, 1), (6, 100, 6), (12, 0, 12)])
def test_as_many_groups_as_draws(num_particles, num_draws, groups):
  """Or the most that part the particles evenly."""
  method = restorer.make_restorer('tds', particles=num_particles, num_draws=num_draws,
                                  groups=0)
  assert method.num_groups == groups


def test_options_are_checked():
  """Each out of its range is refused by a line that says what is allowed."""
  make = restorer.make_restorer
  assert 'systematic, multinomial' in refused(make, 'tds', resampling='nothing')
  for option in ({'particles': 0}, {'num_draws': -1}, {'threshold': 1.1},
                 {'threshold': -.1}, {'threshold': np.nan}):
    assert 'must be 1 or more' in refused(make, 'mcgdiff', **option)
  for groups in (-1, 4):
    assert 'a divisor of particles' in refused(make, 'mcgdiff', particles=6,
                                               groups=groups)
  assert 'set one of particles' in refused(make, 'mcgdiff', scale=1.)
  assert 'it has none' in refused(make, 'pigdm', scale=1.)
  assert 'set one of dps, pigdm' in refused(make, 'nothing')
