"""The Monte Carlo E-step against closed forms and enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound import terms
from jdiffclust.clustering.bound.draws import (
    Drawing, draw_steps, evaluate_draws, make_estimator)
from jdiffclust.clustering.bound.tau import (
    cross_bound, leads, margins, posterior)
from jdiffclust.clustering.bound.terms import (
    NUM_BANDS, ConditionalDDPM, noise_bands, step_weights)
from jdiffclust.clustering.cddpm.e_step import make_e_step
from jdiffclust.config import default_config
from jdiffclust.sharding import make_mesh

Q = 3


def options(**changes):
  section = default_config().e_step
  section.update(num_draws=8, clusters_per_chunk=Q, draws_per_chunk=2)
  section.update(changes)
  return section


@functools.cache
def step(model, devices=1, **changes):
  """A compiled E-step, shared by the tests that ask for the same one."""
  return make_e_step(model, options(**changes), make_mesh(devices))


def copies(image, rows):
  """One image under many indices: independent replicates of its draws."""
  return Batch(jnp.broadcast_to(image, (rows, *image.shape)),
               jnp.arange(rows, dtype=jnp.int32))


def close_in_error(values, exact, count=4.):
  """The mean of replicates is within `count` standard errors of the truth."""
  values = np.asarray(values, np.float64)
  error = values.std(axis=0, ddof=1) / len(values)**.5
  np.testing.assert_array_less(np.abs(values.mean(axis=0) - exact),
                               count * error + 1e-4 * np.abs(exact) + 1e-6)


@pytest.mark.parametrize('proposal,stratify,noise', [
    ('uniform', True, 'antithetic'), ('weight', False, 'independent')])
def test_bound_is_unbiased(oracle, images, key, proposal, stratify, noise):
  """One cluster: bound, prior, diffusion and decoder parts equal the sums over t."""
  p, network = oracle.make(), oracle.network(10)
  x0, mu = images(0, 1)[0], images(1, 1)
  params = oracle.parameters(network, mu)
  tau, info = step(oracle.model, stratify=stratify, noise=noise)(
      make_estimator(p, 'elbo', proposal), params, copies(x0, 4000), key)
  prior, diffusion, decoder = oracle.exact_parts(p, network, x0, mu[0])
  np.testing.assert_allclose(info.prior, -prior, rtol=1e-5)
  close_in_error(info.diffusion, -diffusion)
  close_in_error(info.decoder, -decoder)
  close_in_error(info.bound, -prior - diffusion - decoder)
  assert (tau == 1).all() and (info.entropy == 0).all()
  assert np.isinf(info.margin).all() and (info.margin_error == 0).all()


@pytest.mark.parametrize('proposal', ['weight', 'uniform'])
def test_bands_split_the_diffusion_term(oracle, images, key, proposal):
  """Two clusters: each band is the tau-weighted sum of its levels in closed form."""
  p, network = oracle.make(40, 'linear'), oracle.network(40)
  x0, means = images(0, 1)[0], images(1, 2)
  estimator = make_estimator(p, 'elbo', proposal)
  # Temperature without end: tau is 1/2 whatever the draws say.
  tau, info = step(oracle.model, temperature=1e9)(
      estimator, oracle.parameters(network, means), copies(x0, 4000), key)
  np.testing.assert_allclose(tau, .5, atol=1e-4)
  levels = np.mean([oracle.exact_levels(p, network, x0, mu) for mu in means], axis=0)
  bands = np.asarray(estimator.bands)
  exact = [-levels[bands == band].sum() for band in range(NUM_BANDS)]
  close_in_error(info.levels, exact)
  assert sum(level < 0 for level in exact) >= 5  # not all of it in one band
  np.testing.assert_allclose(info.levels.sum(axis=1), info.diffusion, rtol=1e-5)


def test_noise_bands_by_hand(monkeypatch):
  """Weights 1, 1, 2, 4, 8 in quarters: middles at 1/32, 3/32, 6/32, 12/32, 24/32."""
  monkeypatch.setattr(terms, 'step_weights', lambda process, weighting: np.array(
      [0., 99., 1., 1., 2., 4., 8.]))
  assert noise_bands(None, 4).tolist() == [-1, -1, 0, 0, 0, 1, 3]


def test_bands_have_equal_weight(oracle):
  """Of a long schedule, within the weight of one level; they rise with t."""
  p = oracle.make(1000, 'linear')
  bands, weights = noise_bands(p, 8), step_weights(p, 'elbo')
  assert (np.diff(bands[1:]) >= 0).all() and bands[:2].tolist() == [-1, -1]
  shares = np.bincount(bands[2:], weights=weights[2:]) / weights[2:].sum()
  np.testing.assert_allclose(shares, 1 / 8, atol=weights[2:].max() / weights[2:].sum())


@pytest.mark.parametrize('weighting,proposal,stratify,share,noise', [
    ('elbo', 'weight', True, True, 'antithetic'),
    ('elbo', 'uniform', False, False, 'independent'),
    ('uniform', 'weight', True, False, 'independent')])
def test_log_joints_are_unbiased(oracle, images, key, weighting, proposal, stratify,
                                 share, noise):
  """temperature x log(tau_q / tau_0) is an unbiased difference of log-joints."""
  p, network = oracle.make(), oracle.network(10)
  x0, means = images(0, 1)[0], images(1, Q)
  proportions = np.array([.5, .2, .3])
  exact = []
  for mu in means:
    prior, diffusion, decoder = oracle.exact_parts(p, network, x0, mu)
    if weighting == 'uniform':
      diffusion = oracle.expected_errors(p, network, x0, mu)[1:].mean()
      decoder = 0.
    exact.append(-prior - diffusion - decoder)
  exact = np.log(proportions) + exact
  tau, _ = step(oracle.model, weighting=weighting, stratify=stratify,
                share_draws=share, temperature=100., num_draws=4, noise=noise)(
      make_estimator(p, weighting, proposal),
      oracle.parameters(network, means, proportions), copies(x0, 4000), key)
  log_tau = 100 * np.log(np.asarray(tau, np.float64))
  close_in_error(log_tau[:, 1:] - log_tau[:, :1], exact[1:] - exact[0])


def test_sharing_lowers_the_noise(oracle, images, key):
  """The same draws for all clusters lower the variance of their differences."""
  p, network = oracle.make(), oracle.network(10)
  noise = {}
  for share in (True, False):
    tau, _ = step(oracle.model, share_draws=share, temperature=20.)(
        make_estimator(p, 'elbo', 'weight'), oracle.parameters(network, images(1, Q)),
        copies(images(0, 1)[0], 500), key)
    noise[share] = np.log(np.asarray(tau, np.float64)[:, 0]
                          / np.asarray(tau)[:, 1]).var()
  assert noise[True] < noise[False]


def test_antithetic_noise_cancels_what_is_odd(oracle, images, key):
  """Linear denoisers' cost differences are linear in eps: a pair has no noise left."""
  p, network = oracle.make(), oracle.network(10)
  # One level: nothing else varies.
  estimator = make_estimator(p, 'elbo', 'weight')._replace(
      proposal=jnp.zeros(11).at[4].set(1.))
  tau, info = step(oracle.model, noise='antithetic', temperature=20.)(
      estimator, oracle.parameters(network, images(1, Q)),
      copies(images(0, 1)[0], 50), key)
  assert np.ptp(np.asarray(tau), axis=0).max() < 1e-4
  np.testing.assert_allclose(info.margin_error, 0, atol=1e-3)
  assert np.asarray(info.bound).std() > .1  # the costs themselves keep their noise


def evaluate(oracle, images, key, share, p=None, rows=5):
  p = p or oracle.make()
  estimator = make_estimator(p, 'elbo', 'weight')
  params = oracle.parameters(oracle.network(p.num_steps), images(1, Q))
  batch = Batch(images(0, rows), jnp.arange(rows, dtype=jnp.int32))
  drawing = Drawing(8, shared=share, clusters_per_chunk=Q, draws_per_chunk=8)
  return jax.jit(lambda *arguments: evaluate_draws(oracle.model, *arguments, drawing))(
      estimator, params, batch, key)


def test_shared_draws_have_the_same_steps(oracle, images, key):
  """share_draws: all clusters of an image see one t; else each its own."""
  shared = np.asarray(evaluate(oracle, images, key, True).t).reshape(8, Q, 5)
  own = np.asarray(evaluate(oracle, images, key, False).t).reshape(8, Q, 5)
  assert shared.shape == own.shape == (8, Q, 5)
  assert (shared == shared[:, :1]).all()
  assert not (own == own[:, :1]).all()
  assert len({tuple(shared[:, 0, i]) for i in range(5)}) > 1  # images differ


def test_replicates_have_draws_of_their_own(oracle, images, key):
  """In 20 strata of 100 equal levels, two independent ones have 1/20 of their t alike."""
  p = oracle.make(100, 'linear')
  estimator = make_estimator(p, 'elbo', 'uniform')
  params = oracle.parameters(oracle.network(100), images(1, 1))
  t = np.asarray(jax.jit(lambda *given: evaluate_draws(
      oracle.model, *given, Drawing(10, draws_per_chunk=10)))(
          estimator, params, copies(images(0, 1)[0], 400), key).t)[:, :, 0]
  assert ((t - 1) // 20 == np.arange(5)[:, None]).all()  # one in each stratum
  alike, count = (t[0] == t[1]).mean(), t[0].size
  assert abs(alike - 1 / 20) < 4 * (1 / 20 * 19 / 20 / count)**.5


def test_strata_have_jitters_of_their_own(key):
  """Where t falls within its stratum says nothing of where the next one falls."""
  proposal = jnp.full(1001, .001).at[0].set(0)
  t = np.asarray(jax.vmap(lambda key: draw_steps(key, proposal, 4, True))(
      jax.random.split(key, 4000)))
  place = (t - 1) % 250
  correlation = np.corrcoef(place.T)[np.triu_indices(4, 1)]
  assert np.abs(correlation).max() < 4 / 4000**.5


@pytest.mark.parametrize('weighting,temperature', [('elbo', 3.), ('uniform', 1.)])
def test_tau_by_enumeration(oracle, images, key, weighting, temperature):
  """Noise-free errors: tau is the softmax of the enumerated log-joints."""
  p = oracle.make()
  x0, means = images(0, 6), images(1, Q)
  proportions = np.array([.6, .3, .1])
  estimator = make_estimator(p, weighting, 'weight')
  network = oracle.known_network(p, x0, .4)
  tau, info = step(oracle.known, weighting=weighting, temperature=temperature)(
      estimator, oracle.parameters(network, means, proportions),
      Batch(x0, jnp.arange(6, dtype=jnp.int32)), key)
  # Every level errs alike: the sum of weights is all that matters. With uniform weights
  # it is 1, and the exact bound's is the sum over t of the KLs of a unit error.
  unit = {'g': np.zeros(11), 'h': np.zeros(11), 'k': np.zeros(11)}
  pixel = np.zeros((1, 1, 1))
  ones = oracle.expected_errors(p, unit, pixel, pixel)
  total = 1.
  if weighting == 'elbo':
    # With eta = 0 and x_0 = mu = 0 each level errs by delta_t / (1 - abar_t), so the
    # weights follow from the closed form one level at a time.
    total = 0.
    for t in range(1, 11):
      k = np.zeros(11)
      k[t] = 1.
      base = sum(oracle.exact_parts(p, unit, pixel, pixel)[1:])
      total += sum(oracle.exact_parts(p, unit | {'k': k}, pixel, pixel)[1:]) - base
    assert ones[1:].min() > 0
  joint = np.array([[np.log(pi) - oracle.prior(p, x, mu)
                     - total * .16 * ((np.asarray(x) - np.asarray(mu))**2).sum()
                     for pi, mu in zip(proportions, means)] for x in x0])
  expected = scipy.special.softmax(joint / temperature, axis=1)
  np.testing.assert_allclose(tau, expected, atol=2e-4)
  entropy = [scipy.stats.entropy(row) for row in expected]
  np.testing.assert_allclose(info.entropy, entropy, atol=2e-3)
  ordered = np.sort(joint, axis=1)
  np.testing.assert_allclose(info.margin, ordered[:, -1] - ordered[:, -2], rtol=2e-3,
                             atol=2e-3)
  np.testing.assert_allclose(info.margin_error, 0, atol=2e-3)


@pytest.mark.parametrize('stratify', (True, False))
def test_draw_steps_marginal(stratify):
  """Draws follow p (chi-square), and stay in 1..T."""
  rng = np.random.default_rng(0)
  proposal = np.r_[0, rng.dirichlet(np.ones(12))].astype(np.float32)
  keys = jax.random.split(jax.random.key(1), 2000)
  t = np.asarray(jax.jit(jax.vmap(lambda k: draw_steps(
      k, jnp.asarray(proposal), 5, stratify)))(keys))
  assert t.min() >= 1 and t.max() <= 12 and t.dtype == np.int32
  p = proposal[1:].astype(np.float64)
  counts = np.bincount(t.ravel(), minlength=13)[1:]
  statistic = ((counts - t.size * p / p.sum())**2 / (t.size * p / p.sum())).sum()
  assert statistic < scipy.stats.chi2(11).ppf(.999)


def test_strata_counts():
  """Of n stratified draws, step t gets n p_t exactly when that is whole."""
  proposal = jnp.array([0., .5, .125, .25, .125])
  for seed in range(20):
    t = draw_steps(jax.random.key(seed), proposal, 8, True)
    assert np.bincount(np.asarray(t), minlength=5).tolist() == [0, 4, 1, 2, 1]


def test_extreme_uniforms_stay_in_range(monkeypatch):
  """u = 0 and u just below 1 give the first and the last step of positive weight."""
  proposal = jnp.array([0., .1, .2, .3, .4], jnp.float32)
  for u, expected in ((0., 1), (np.nextafter(np.float32(1), np.float32(0)), 4)):
    monkeypatch.setattr(jax.random, 'uniform',
                        lambda key, shape: jnp.full(shape, u, jnp.float32))
    for stratify in (True, False):
      t = np.asarray(draw_steps(jax.random.key(0), proposal, 1, stratify))
      assert t.tolist() == [expected]
    last = draw_steps(jax.random.key(0), proposal, 7, True)
    assert 1 <= last.min() and last.max() <= 4


def test_long_schedule_never_leaves_range():
  """T = 1000 in float32: every draw in 1..T, the strata in order."""
  proposal = jnp.asarray(np.r_[0, np.full(1000, 1e-3)], jnp.float32)
  t = np.asarray(draw_steps(jax.random.key(0), proposal, 100_000, True))
  assert t.min() == 1 and t.max() == 1000 and (np.diff(t) >= 0).all()
  assert np.abs(np.bincount(t)[1:] - 100).max() <= 2


def run(oracle, images, key, rows=16, order=None, devices=1, indices=None, **changes):
  p = oracle.make()
  means, proportions = images(1, Q), np.array([.6, .3, .1])
  if order is not None:
    means, proportions = means[jnp.asarray(order)], proportions[order]
  indices = jnp.arange(rows, dtype=jnp.int32) if indices is None else indices
  changes = dict(temperature=20., share_draws=True) | changes
  return step(oracle.model, devices, **changes)(
      make_estimator(p, 'elbo', 'weight'),
      oracle.parameters(oracle.network(10), means, proportions),
      Batch(images(0, 16)[indices], indices), key)


def assert_same(a, b, rows=slice(None)):
  """Equal up to float32 rounding of sums of order 100."""
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      np.asarray(x)[rows], y, rtol=2e-5, atol=2e-5), a, b)


def test_permuting_clusters(oracle, images, key):
  """Renaming the clusters renames the columns of tau and changes no diagnostic."""
  order = np.array([2, 0, 1])
  tau, info = run(oracle, images, key)
  other, other_info = run(oracle, images, key, order=order)
  np.testing.assert_allclose(other, np.asarray(tau)[:, order], rtol=1e-5, atol=1e-6)
  assert_same(info, other_info)


@pytest.mark.parametrize('share', (True, False))
def test_chunks_devices_and_batches_change_nothing(oracle, images, key, share):
  """tau depends on neither chunk sizes, devices, batch-mates nor padding."""
  whole = run(oracle, images, key, share_draws=share)
  assert_same(whole, run(oracle, images, key, share_draws=share, devices=8,
                         clusters_per_chunk=2, draws_per_chunk=3))
  if not share:
    return
  some = jnp.array([5, 11, 15, 15], jnp.int32)  # the last is padding
  assert_same(whole, run(oracle, images, key, share_draws=share, indices=some,
                         clusters_per_chunk=1, draws_per_chunk=100),
              rows=np.asarray(some))


def test_cross_bound_is_unbiased():
  """tau of one half scored by the other: no bias. By the same draws: too high."""
  rng = np.random.default_rng(3)
  truth = np.array([-1., -1.5, -2.5, -1.2])
  halves = truth + rng.normal(size=(2, 20000, 4)) * 1.5
  estimate = np.asarray(cross_bound(*[jnp.asarray(halves, jnp.float32)] * 2),
                        np.float64)
  log_tau = halves - scipy.special.logsumexp(halves, axis=-1, keepdims=True)
  tau = np.exp(log_tau)
  honest = (tau * (truth - log_tau)).sum(axis=-1).mean(axis=0)
  difference = estimate - honest
  assert abs(difference.mean()) < 4 * difference.std() / 20000**.5
  best = scipy.special.logsumexp(truth)
  assert estimate.mean() < best
  naive = scipy.special.logsumexp(halves.mean(axis=0), axis=-1)
  assert naive.mean() > best + 4 * naive.std() / 20000**.5
  own = (tau * (halves - log_tau)).sum(axis=-1).mean()
  assert own > naive.mean()


@pytest.mark.parametrize('temperature', (.5, 1., 4.))
def test_cross_bound_and_posterior_by_loops(temperature):
  """Both equal their definitions written out as loops."""
  rng = np.random.default_rng(4)
  chosen, exact = rng.normal(size=(2, 2, 3, 4)).astype(np.float32) * 2
  expected = np.zeros(3)
  for i in range(3):
    for h in (0, 1):
      power = np.exp(chosen[h, i].astype(np.float64) / temperature)
      for q in range(4):
        tau = power[q] / power.sum()
        expected[i] += tau * (exact[1 - h, i, q] - np.log(tau)) / 2
  np.testing.assert_allclose(cross_bound(jnp.asarray(chosen), jnp.asarray(exact),
                                         temperature), expected, rtol=2e-5)
  tau, log_tau = posterior(jnp.asarray(chosen[0]), temperature)
  np.testing.assert_allclose(
      tau, scipy.special.softmax(chosen[0] / temperature, axis=-1), rtol=1e-5)
  np.testing.assert_allclose(log_tau, np.log(tau), atol=1e-5)


def test_extreme_log_joints_stay_finite():
  """Differences of thousands of nats: tau one-hot, no NaN in entropy or bound."""
  halves = jnp.array([[[-9e3, -1e3, -5e3]], [[-9e3, -1e3, -5e3]]])
  np.testing.assert_allclose(cross_bound(halves, halves), [-1e3], rtol=1e-6)
  tau, log_tau = posterior(halves[0])
  assert tau.tolist() == [[0., 1., 0.]] and np.isfinite(log_tau).all()


def test_margins_by_loops():
  """Best minus second, over the draws they share, and the strata's variance of it."""
  rng = np.random.default_rng(5)
  costs = rng.normal(size=(4, 3, 5, 50)).astype(np.float32)
  fixed = rng.normal(size=(5, 50)).astype(np.float32)
  counts = rng.integers(2, 5, (5, 50))
  most = counts == counts.max(axis=0)
  found = leads(*map(jnp.asarray, (fixed, costs, counts, most)))
  margin, error = margins(found, found.best)
  own = rng.integers(0, 5, 50)
  of_own, error_of_own = margins(found, jnp.asarray(own))
  for i in range(50):
    joint = [fixed[q, i] - costs[:counts[q, i], :, q, i].sum(axis=1).mean()
             if most[q, i] else -np.inf for q in range(5)]
    best = int(np.argmax(joint))
    others = {}
    for q in set(range(5)) - {best}:
      excess = costs[:counts[q, i], :, q, i] - costs[:counts[q, i], :, best, i]
      lead = fixed[best, i] - fixed[q, i] + excess.mean(axis=0).sum()
      others[q] = lead, (excess.var(axis=0, ddof=1).sum() / counts[q, i])**.5
    expected = min(others.values())
    np.testing.assert_allclose((margin[i], error[i]), expected, rtol=1e-4, atol=1e-5)
    lag = others.get(own[i])  # of an image that is not in its best cluster
    expected = expected if lag is None else (-lag[0], lag[1])
    np.testing.assert_allclose((of_own[i], error_of_own[i]), expected, rtol=1e-4,
                               atol=1e-5)


@pytest.mark.parametrize('noise,stratify', [
    ('independent', True), ('independent', False), ('antithetic', True)])
def test_margin_error_is_calibrated(oracle, images, key, noise, stratify):
  """Its mean square is the variance of the margin over replicates."""
  _, info = step(oracle.model, noise=noise, stratify=stratify)(
      make_estimator(oracle.make(), 'elbo', 'weight'),
      oracle.parameters(oracle.network(10), images(1, 2), [1 - 1e-30, 1e-30]),
      copies(images(0, 1)[0], 4000), key)
  # 69 nats of prior: the first cluster leads in every replicate.
  margin, error = np.asarray(info.margin), np.asarray(info.margin_error)
  assert margin.min() > 1
  np.testing.assert_allclose((error**2).mean(), margin.var(), rtol=.1)


def test_discretized_bound_is_negative(oracle, images, key):
  """Bounds of the discretized decoder are log probabilities, hence below 0."""
  p = oracle.make(50)
  levels = jnp.asarray(np.random.default_rng(0).integers(0, 17, (32, 2, 2, 1)) / 8. - 1,
                       jnp.float32)
  batch = Batch(levels, jnp.arange(32, dtype=jnp.int32))
  _, info = step(ConditionalDDPM(oracle.model.denoise, 17), num_draws=64)(
      make_estimator(p, 'elbo', 'weight'),
      oracle.parameters(oracle.network(50), images(1, Q)), batch, key)
  assert (np.asarray(info.bound) < 0).all() and (np.asarray(info.decoder) <= 0).all()


def test_compiled_once(oracle, images, key):
  """Repeated E-steps of one shape trace the denoiser in the first call only."""
  calls = []

  def counting(*arguments):
    calls.append(1)
    return oracle.model.denoise(*arguments)

  run_step = step(ConditionalDDPM(counting))
  p = oracle.make()
  estimator = make_estimator(p, 'elbo', 'weight')
  for k in range(3):
    params = oracle.parameters(oracle.network(10, k), images(k, Q))
    run_step(estimator, params, Batch(images(k, 4), jnp.arange(4, dtype=jnp.int32) + k),
             jax.random.fold_in(key, k))
    if k == 0:
      first = len(calls)
  assert first >= 1 and len(calls) == first
