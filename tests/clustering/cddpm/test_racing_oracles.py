"""Racing against simulations with known differences and the plain E-step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import (
    Drawing, Draws, image_draw, image_keys, make_estimator)
from jdiffclust.clustering.bound.tau import Scoring, summarise
from jdiffclust.clustering.bound.terms import ConditionalDDPM, DrawTerms
from jdiffclust.clustering.cddpm import racing
from jdiffclust.clustering.cddpm.e_step import make_e_step
from jdiffclust.config import default_config
from jdiffclust.sharding import make_mesh

Q = 3


@functools.cache
def step(model, devices=1, **changes):
  section = default_config().e_step
  section.update(num_draws=8, clusters_per_chunk=Q, draws_per_chunk=8)
  section.update(changes)
  return make_e_step(model, section, make_mesh(devices))


def test_critical_values_by_scipy():
  """Student's quantiles, for fractional degrees of freedom too; none at level 0."""
  freedom = np.r_[np.linspace(1, 12, 60), 40., 1e4].astype(np.float32)
  for level in (.2, .01, 1e-5):
    np.testing.assert_allclose(racing.critical_values(level, jnp.asarray(freedom)),
                               scipy.stats.t.isf(level, freedom), rtol=.01)
  assert racing.critical_values(0., jnp.asarray(freedom)).min() > 1e30


def simulate(deficits, spread, replicates, rows, error_rate, seed=0):
  """Races of Gaussian costs: what is left, [Q, rows], and what each cluster got."""
  rng = np.random.default_rng(seed)
  q, n = len(deficits), len(spread)
  noise = rng.normal(size=(replicates, n, q, rows)) * np.reshape(spread, (n, 1, 1))
  costs = jnp.asarray(noise + np.reshape(deficits, (q, 1)) / n, jnp.float32)
  fixed = jnp.zeros((q, rows))
  level = error_rate / ((q - 1) * (replicates - 2))
  race = racing.Race(None, jnp.full((q, rows), 2), jnp.full((q, rows), True),
                     jnp.full(rows, True), 2)
  test = jax.jit(racing.drop_losers, static_argnames='level')
  for taken in range(2, replicates):
    race = test(race, fixed, costs, 0., level=level)
    wanted = race.left & race.running[None]
    race = race._replace(counts=race.counts + wanted.astype(jnp.int32),
                         taken=taken + 1)
  return np.asarray(race.left), np.asarray(race.counts)


@pytest.mark.parametrize('spread', [(1., 1., 1., 1.), (3., .3, .1, .1)])
def test_best_cluster_is_lost_no_more_than_the_error_rate(spread):
  """The hardest truth: all but ties. Strata of one or of very different variances."""
  rate, rows = .2, 4000
  left, counts = simulate(np.array([0., 1e-6, 1e-6, 1e-6]), spread, 8, rows, rate)
  assert (~left[0]).mean() < rate + 4 * (rate * (1 - rate) / rows)**.5
  assert left.any(axis=0).all() and counts.min() >= 2
  # The other side: Student's quantiles matter. Normal ones lose the best more often.
  assert (~left[0]).mean() > 0


def test_losers_are_dropped_early():
  """Clusters far behind get few replicates, the close ones all."""
  left, counts = simulate(np.array([0., .1, 60., 80.]), (1.,) * 8, 10, 500, .05)
  assert left[:2].mean() > .95 and not left[2:].any()
  assert counts[2:].mean() < 4 and counts[:2].mean() > 9.5


def test_map_where_by_loops():
  """The function's values where wanted, zeros elsewhere, for any chunk."""
  wanted = np.random.default_rng(0).random(13) < .4
  mesh = make_mesh(1)
  for chunk in (1, 4, 13, 20):
    calls = []

    def function(i):
      jax.debug.callback(lambda n: calls.append(n), i[0])
      return {'a': i * 2 + 1, 'b': jnp.stack([i, i], axis=1)}

    spec = jax.sharding.PartitionSpec('data')
    result = jax.jit(jax.shard_map(
        lambda w: racing.map_where(function, w, chunk), mesh=mesh, in_specs=spec,
        out_specs=spec))(jnp.asarray(wanted))
    expected = np.where(wanted, 2 * np.arange(13) + 1, 0)
    np.testing.assert_array_equal(result['a'], expected)
    np.testing.assert_array_equal(result['b'], np.where(
        wanted[:, None], np.arange(13)[:, None], 0) * np.ones((1, 2)))
    jax.effects_barrier()
    assert len(calls) == -(-wanted.sum() // chunk)


def run(oracle, images, key, rows=16, devices=1, indices=None, scale=1., **changes):
  indices = jnp.arange(rows, dtype=jnp.int32) if indices is None else indices
  means = images(1, Q)
  return step(oracle.model, devices, **changes)(
      make_estimator(oracle.make(), 'elbo', 'weight'),
      oracle.parameters(oracle.network(10), scale * means, np.array([.5, .3, .2])),
      Batch(images(0, 16)[indices], indices), key)


def test_no_error_means_no_loser(oracle, images, key):
  """Error rate 0: tau and margins are those of all draws for all, in replicates."""
  tau, info = run(oracle, images, key, max_draws=32, race_error=0.)
  assert (np.asarray(info.evaluations) == 32 * Q).all()
  p = oracle.make()
  estimator = make_estimator(p, 'elbo', 'weight')
  params = oracle.parameters(oracle.network(10), images(1, Q), np.array([.5, .3, .2]))
  batch = Batch(images(0, 16), jnp.arange(16, dtype=jnp.int32))
  x0 = batch.images

  @jax.jit
  def by_hand(estimator, params, batch, key):
    keys = image_keys(key, batch.indices)

    def total(mu):
      def one(s):
        t, eps = jax.vmap(lambda key: image_draw(
            key, estimator, Drawing(8), x0.shape[1:], s // 4, s % 4))(keys)
        terms = oracle.model.draw_terms(
            estimator.process, params.network, None, x0, t,
            jnp.broadcast_to(mu, x0.shape), eps)
        cost = jnp.where(t == 1, -terms.log_decoder,
                         estimator.elbo_weights[t] * terms.error)
        return cost / (32 * estimator.proposal[t])
      return jax.lax.map(one, jnp.arange(32)).sum(axis=0)

    return params.log_proportions[None] - jax.lax.map(total, params.means).T

  joint = by_hand(estimator, params, batch, key)
  prior = np.array([[oracle.prior(p, x, mu) for mu in images(1, Q)] for x in x0])
  expected = jax.nn.softmax(jnp.asarray(joint - prior, jnp.float32), axis=1)
  np.testing.assert_allclose(tau, expected, atol=2e-4)


def test_evaluations_are_saved_and_counted(oracle, images, key):
  """The network runs for the pairs left only, and `evaluations` says how often."""
  rows = []

  def counting(network, x_t, t, mu, dropout_keys):
    jax.debug.callback(lambda: rows.append(x_t.shape[0]))
    return oracle.model.denoise(network, x_t, t, mu, dropout_keys)

  p = oracle.make()
  arguments = (make_estimator(p, 'elbo', 'weight'),
               oracle.parameters(oracle.network(10), 4 * images(1, Q)),
               Batch(images(0, 16), jnp.arange(16, dtype=jnp.int32)), key)
  tau, info = step(ConditionalDDPM(counting), max_draws=64, race_error=.05,
                   clusters_per_chunk=1, draws_per_chunk=1)(*arguments)
  jax.effects_barrier()
  counted, evaluations = sum(rows), int(info.evaluations.sum())
  assert evaluations < .6 * 16 * Q * 64
  # Chunks of 4 rows are filled up: less than one a draw.
  assert evaluations <= counted <= evaluations + 3 * 4 * 14
  full, _ = step(oracle.model, max_draws=64, race_error=0.)(*arguments)
  assert (np.asarray(tau).argmax(1) == np.asarray(full).argmax(1)).mean() > .9
  np.testing.assert_allclose(np.asarray(tau).sum(axis=1), 1, atol=1e-5)


def test_bound_stays_a_lower_bound(oracle, images, key):
  """Its mean over replicates is below the exact log sum, and close to it."""
  p, network = oracle.make(), oracle.network(10)
  x0, means = images(0, 1)[0], 4 * images(1, Q)
  rows = 2000
  _, info = step(oracle.model, max_draws=48, race_error=.2)(
      make_estimator(p, 'elbo', 'weight'), oracle.parameters(network, means),
      Batch(jnp.broadcast_to(x0, (rows, *x0.shape)), jnp.arange(rows, dtype=jnp.int32)),
      key)
  joint = np.array([-sum(oracle.exact_parts(p, network, x0, mu)) for mu in means])
  exact = scipy.special.logsumexp(joint - np.log(Q))
  bound = np.asarray(info.bound, np.float64)
  error = bound.std() / rows**.5
  assert np.unique(info.evaluations).size > 1  # races ended after different replicates
  assert exact - 1 < bound.mean() < exact + 4 * error


def test_race_depends_on_neither_batch_nor_devices(oracle, images, key):
  """Each image's race is its own."""
  race = {'max_draws': 32, 'race_error': .1, 'scale': 2.}
  whole = run(oracle, images, key, **race)
  same = lambda a, b: jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5), a, b)
  same(whole, run(oracle, images, key, devices=8, **race))
  some = jnp.array([5, 11, 15, 15], jnp.int32)  # the last is padding
  same(jax.tree.map(lambda a: np.asarray(a)[np.asarray(some)], whole),
       run(oracle, images, key, indices=some, **race))


@pytest.mark.parametrize('clusters, max_draws', [(2, 16), (5, 20)])
def test_the_error_rate_is_that_of_all_tests_together(oracle, images, key, clusters,
                                                      max_draws, monkeypatch):
  """Bonferroni: a pair's test has its share, over opponents and over looks."""
  taken = []
  original = racing.drop_losers
  monkeypatch.setattr(racing, 'drop_losers', lambda *args: (
      taken.append(args[3:]), original(*args))[1])
  section = default_config().e_step
  section.update(num_draws=8, max_draws=max_draws, race_error=.06, temperature=2.)
  jax.eval_shape(make_e_step(oracle.model, section, make_mesh(1)),
                 make_estimator(oracle.make(), 'elbo', 'weight'),
                 oracle.parameters(oracle.network(10), images(1, clusters)),
                 Batch(images(0, 4), jnp.arange(4, dtype=jnp.int32)), key)
  looks = len(range(2, max_draws // 4))  # after the first two replicates, the third, ...
  for least, level in taken:
    assert level == pytest.approx(.06 / (clusters - 1) / looks)
    assert least == pytest.approx(2 * np.log(clusters / .1))
  assert taken


def test_the_replicate_that_scores_has_not_chosen(oracle, images):
  """tau of the clusters left by the replicates before the last; their bound by that."""
  p, x0, means = oracle.make(), images(0, 4), images(1, Q)
  pi = np.array([.5, .3, .2])
  estimator = make_estimator(p, 'elbo', 'weight')
  counts = np.array([[4, 4, 2, 3], [4, 2, 3, 3], [2, 4, 3, 2]])
  error = np.random.default_rng(0).uniform(1, 2, (4, 1, Q, 4))
  t = jnp.full(error.shape, 3)
  _, info = summarise(
      estimator, oracle.parameters(oracle.network(10), means, pi), x0,
      Draws(t, DrawTerms(jnp.asarray(error, jnp.float32), jnp.zeros(t.shape))), Scoring(),
      counts=jnp.asarray(counts))
  weight = float(estimator.elbo_weights[3] / estimator.proposal[3])
  for i, x in enumerate(x0):
    last = counts[:, i].max() - 1
    left = np.flatnonzero(counts[:, i] > last)
    fixed = np.log(pi) - [oracle.prior(p, x, mu) for mu in means] - 4 * float(
        estimator.variance_kl)
    before, final = ((fixed - weight * error[rows, 0, :, i].mean(axis=0))[left]
                     for rows in (slice(last), [last]))
    tau = scipy.special.softmax(before)
    np.testing.assert_allclose(info.bound[i], tau @ final + scipy.stats.entropy(tau),
                               rtol=1e-4)


def test_one_cluster_has_no_opponent(oracle, images, key):
  """Q = 1: tau is 1, the race over at once."""
  tau, info = step(oracle.model, max_draws=32)(
      make_estimator(oracle.make(), 'elbo', 'weight'),
      oracle.parameters(oracle.network(10), images(1, 1)),
      Batch(images(0, 4), jnp.arange(4, dtype=jnp.int32)), key)
  assert (np.asarray(tau) == 1).all() and (np.asarray(info.evaluations) == 8).all()
