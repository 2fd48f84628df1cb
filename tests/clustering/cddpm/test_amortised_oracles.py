"""The amortised posterior's objective against closed forms, and over devices."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import Draws, make_estimator
from jdiffclust.clustering.bound.losses import Noise
from jdiffclust.clustering.bound.pooling import log_posterior, pooled
from jdiffclust.clustering.bound.tau import Scoring, summarise
from jdiffclust.clustering.bound.terms import ConditionalDDPM, DrawTerms
from jdiffclust.clustering.cddpm import m_step
from jdiffclust.clustering.cddpm.amortised import Posterior, log_prior, objective
from jdiffclust.clustering.cddpm.m_step import (
    Sums, follow, make_m_step, posterior_losses)
from jdiffclust.clustering.table import SampleTable, responsibilities_of
from jdiffclust.config import default_config
from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.sharding import make_mesh, replicate, split_rows, to_host
from jdiffclust.state import init_state, make_optimizer

Q = 3


def settings(**changes):
  return types.SimpleNamespace(**default_config().posterior.to_dict() | changes)


def random_rows(seed, rows, columns=Q):
  return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize('temper,balance', [(1., 0.), (.3, 0.), (2., .7), (0., 1.)])
def test_objective_by_scipy(temper, balance):
  """J of random q, errors and priors by SciPy's entropies."""
  log_q = scipy.special.log_softmax(random_rows(0, 5), axis=1)
  differences, prior = random_rows(1, 5), random_rows(2, 5)
  mean = np.exp(log_q).mean(axis=0)
  found = objective(jnp.asarray(log_q), jnp.asarray(differences),
                    jnp.asarray(prior), jnp.asarray(mean),
                    settings(temper=temper, balance=balance))
  q, p = np.exp(log_q), scipy.special.softmax(prior, axis=1)
  wanted = [row @ difference + temper * scipy.stats.entropy(row, of)
            - balance * scipy.stats.entropy(mean)
            for row, difference, of in zip(q, differences, p)]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_cluster_of_no_image_has_no_entropy():
  """0 log 0 is 0, where float32 has no smaller number; the gradient is finite."""
  log_q = jax.nn.log_softmax(jnp.array([[.5, 0., -300.], [-1., 2., -300.]]))
  mean = jnp.exp(log_q).mean(axis=0)
  assert mean[2] == 0
  prior = jax.nn.log_softmax(log_q)
  entropy = lambda mean: jnp.mean(objective(
      log_q, jnp.zeros((2, Q)), prior, mean, settings(temper=1., balance=1.)))
  found, gradient = jax.value_and_grad(entropy)(mean)
  assert float(found) == pytest.approx(-scipy.stats.entropy(mean[:2]), rel=1e-5)
  assert np.isfinite(gradient).all()


def test_best_posterior_is_bayes_rule():
  """Without balance, J is least at q = prior x exp(-errors / temper), normalised."""
  differences, prior = random_rows(1, 4), random_rows(2, 4)
  choices = settings(temper=.4)
  mean = lambda logits: jnp.mean(objective(
      jax.nn.log_softmax(logits), jnp.asarray(differences), jnp.asarray(prior),
      jnp.full(Q, 1 / Q), choices))
  best = jnp.asarray(prior - differences / .4)
  np.testing.assert_allclose(jax.grad(mean)(best), 0, atol=1e-6)
  rng = np.random.default_rng(3)
  for _ in range(5):
    assert mean(best + jnp.asarray(rng.normal(size=(4, Q)), jnp.float32)) > mean(best)


def test_prior_between_start_and_proportions():
  """anchor 1: the start, 1% in doubt; 0: pi; between: their geometric mean."""
  start = np.array([[1., 0., 0.], [.2, .3, .5]], np.float32)
  pi = np.array([.5, .25, .25], np.float32)
  of = lambda anchor: scipy.special.softmax(np.asarray(
      log_prior(jnp.asarray(start), jnp.log(pi), anchor)), axis=1)
  np.testing.assert_allclose(of(1.), .99 * start + .01 / 3, rtol=1e-5)
  np.testing.assert_allclose(of(0.), np.stack([pi, pi]), rtol=1e-5)
  between = np.sqrt((.99 * start + .01 / 3) * pi)
  np.testing.assert_allclose(of(.5), between / between.sum(axis=1, keepdims=True),
                             rtol=1e-5)


@pytest.mark.parametrize('weight', (0., .3, 1.))
def test_pool_is_the_closest_to_both(weight):
  """Against a search for the least weighted sum of divergences, a row at a time."""
  q, start = (np.exp(scipy.special.log_softmax(random_rows(seed, 3), axis=1))
              for seed in (5, 6))
  doubted = .99 * start + .01 / Q
  found = np.exp(pooled(jnp.asarray(np.log(q), jnp.float32),
                        jnp.asarray(start, jnp.float32), weight))
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
  for row, one, other in zip(found, q, doubted):
    def divergences(logits, one=one, other=other):
      tau = scipy.special.softmax(logits)
      return ((1 - weight) * np.sum(tau * np.log(tau / one))
              + weight * np.sum(tau * np.log(tau / other)))
    least = scipy.optimize.minimize(divergences, np.zeros(Q), tol=1e-12)
    np.testing.assert_allclose(row, scipy.special.softmax(least.x), atol=1e-4)


def batch_of(x0):
  return Batch(x0, jnp.arange(len(x0), dtype=jnp.int32))


def one_device(function):
  """Of arrays on one device, within a mesh: the collectives of a loss need an axis."""
  spec = jax.sharding.PartitionSpec()
  return jax.jit(jax.shard_map(function, mesh=make_mesh(1), in_specs=spec,
                               out_specs=spec))


@pytest.mark.parametrize('low,high', [(.1, .8), (.35, .65)])
def test_errors_of_the_window_in_units_of_their_spread(oracle, images, low, high):
  """sum_q q (e - mean e) / s by loops, where e = scale^2 norm2(x_0 - mu) / D."""
  p, x0, means = oracle.make(), images(0, 8), images(1, Q)
  params = oracle.parameters(oracle.known_network(p, x0, .7), means)
  t = np.array([1, 2, 3, 4, 5, 6, 8, 9], np.int32)
  keys = jax.random.split(jax.random.key(0), 8)
  noise = Noise(jnp.asarray(t), jax.random.normal(jax.random.key(1), x0.shape),
                keys, keys)
  log_q = scipy.special.log_softmax(random_rows(0, 8), axis=1)
  posterior = Posterior(None, settings(
      temper=0., warmup=4, noise_range=(low, high)), None)
  process = make_estimator(p, 'uniform', 'uniform').process
  found, square = one_device(lambda old, log_q, step: posterior_losses(
      posterior, oracle.known, process, params, x0, None, noise, jnp.full((8, Q), 1 / Q),
      log_q, old, step))(jnp.float32(0.), jnp.asarray(log_q), jnp.int32(1))
  squares = ((np.asarray(x0)[:, None] - np.asarray(means))**2).sum(axis=(2, 3, 4))
  errors = .49 * squares / 4
  inside = (t / 10 >= low) & (t / 10 <= high)
  assert 0 < inside.sum() < 8
  differences = (errors - errors.mean(axis=1, keepdims=True)) * inside[:, None]
  wanted = (differences[inside]**2).mean()
  np.testing.assert_allclose(square, wanted, rtol=1e-4)
  rise = 2 / 4  # the second of four steps of warm-up
  np.testing.assert_allclose(
      found, rise * (np.exp(log_q) * differences).sum(axis=1) / wanted**.5, rtol=1e-3,
      atol=1e-4)
  _, later = one_device(lambda old, log_q, step: posterior_losses(
      posterior, oracle.known, process, params, x0, None, noise, jnp.full((8, Q), 1 / Q),
      log_q, old, step))(jnp.float32(3.), jnp.asarray(log_q), jnp.int32(1))
  np.testing.assert_allclose(later, .98 * 3 + .02 * wanted, rtol=1e-5)


def test_bound_of_a_given_tau(oracle, images):
  """tau not chosen by the draws: its bound is sum_q tau (mean log-joint - log tau)."""
  p, x0, means = oracle.make(), images(0, 4), images(1, 2)
  params = oracle.parameters(oracle.network(10), means, [.3, .7])
  estimator = make_estimator(p, 'elbo', 'weight')
  rng = np.random.default_rng(0)
  t = jnp.full((2, 1, 2, 4), 3)
  error = rng.uniform(1, 2, (2, 1, 2, 4))
  draws = Draws(t, DrawTerms(jnp.asarray(error, jnp.float32), jnp.zeros(t.shape)))
  log_q = scipy.special.log_softmax(random_rows(1, 4, 2), axis=1)
  tau, info = summarise(estimator, params, x0, draws, Scoring(), log_q=jnp.asarray(log_q))
  np.testing.assert_allclose(tau, np.exp(log_q), rtol=1e-6)
  prior = np.array([[oracle.prior(p, x, mu) for mu in means] for x in x0])
  weight = float(estimator.elbo_weights[3] / estimator.proposal[3])
  constant = 4 * float(estimator.variance_kl)
  log_joint = np.log([.3, .7]) - prior - constant - weight * error.mean(axis=(0, 1)).T
  wanted = (np.exp(log_q) * (log_joint - log_q)).sum(axis=1)
  np.testing.assert_allclose(info.bound, wanted, rtol=1e-4)
  np.testing.assert_allclose(info.entropy, scipy.stats.entropy(np.exp(log_q), axis=1),
                             rtol=1e-4)


@functools.cache
def tiny_posterior():
  network = InferenceNetwork(Q, 8)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 6, 6, 1)))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
      lambda s: jnp.asarray(.3 * rng.normal(size=s.shape), jnp.float32), shapes)
  views = types.SimpleNamespace(rotation=.2, scale=.1, shear=.1, shift=.1,
                                flip=0., upside_down=0., quarter_turns=0.)
  return Posterior(network.apply, settings(num_views=3, every=2), views), variables


def test_posterior_over_views_does_not_depend_on_the_batch():
  """An image's q follows from its key and itself; it is a distribution; views matter."""
  posterior, variables = tiny_posterior()
  x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, 6, 6, 1)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 5)
  of = jax.jit(lambda variables, x, keys: log_posterior(
      functools.partial(posterior.infer, variables), x, keys, posterior.views, 3))
  whole = np.asarray(of(variables, x, keys))
  np.testing.assert_allclose(np.exp(whole).sum(axis=1), 1, rtol=1e-5)
  order = np.array([3, 0])
  np.testing.assert_allclose(of(variables, x[order], keys[order]), whole[order],
                             rtol=1e-4, atol=1e-5)
  other = np.asarray(of(variables, x, jax.random.split(jax.random.key(1), 5)))
  assert np.abs(other - whole).max() > 1e-3


def take_steps(devices, oracle, x0, start, steps=3):
  posterior, variables = tiny_posterior()
  params = oracle.parameters(oracle.network(10), x0[:Q] / 2)._replace(
      posterior=variables)
  options = default_config().m_step
  options.update(learning_rate_warmup=0)
  mesh = make_mesh(devices)
  state = init_state(params, make_optimizer(options))
  state, estimator, table = replicate(to_host(
      (state, make_estimator(oracle.make(), 'uniform', 'uniform'), start)), mesh)
  step = make_m_step(ConditionalDDPM(oracle.model.denoise), options, mesh, posterior)
  with jax.numpy_dtype_promotion('standard'):  # optax promotes implicitly
    for _ in range(steps):
      batch = split_rows(to_host(batch_of(x0)), mesh)
      state, info = step(state, estimator, batch, table, jax.random.key(7))
  return to_host(state), to_host(info)


@pytest.fixture
def gradient_of(monkeypatch, oracle):
  """A function from parts of a step to the gradient that its optimiser is given."""
  def of(model, posterior, params, x0, table, **changes):
    options = default_config().m_step
    options.update(changes)
    step = make_m_step(model, options, make_mesh(1), posterior)
    state = to_host(init_state(params, make_optimizer(options)))
    return step(state, make_estimator(oracle.make(), 'uniform', 'uniform'),
                batch_of(x0), table, jax.random.key(7))[0].params

  monkeypatch.setattr(m_step, 'descend', lambda optimizer, state, loss, gradient, decay: (
      state._replace(params=gradient), loss))
  return of


MIRROR = types.SimpleNamespace(rotation=0., scale=0., shear=0., shift=0., flip=1.,
                               upside_down=0., quarter_turns=0.)


@pytest.mark.parametrize('means, pool', [('gradient', .5), ('weighted', 0.)])
def test_the_denoiser_learns_from_its_loss_alone(oracle, gradient_of, means, pool):
  """As if a table had the likeliest clusters of the posterior: J and phi leave it alone.

  Where the posterior knows of no start, the table has q.
  """
  posterior, variables = tiny_posterior()
  posterior.options.pool = pool
  variables = jax.tree.map(lambda leaf: leaf / 4, variables)
  posterior = dataclasses.replace(posterior, views=MIRROR)
  rng = np.random.default_rng(2)
  x0 = jnp.asarray(rng.uniform(-1, 1, (8, 6, 6, 1)), jnp.float32)
  start = jnp.asarray(rng.dirichlet(np.ones(Q) / 50, 8), jnp.float32)
  weight = posterior.options.pool * posterior.options.anchor
  tau = (jax.nn.softmax(posterior.infer(variables, x0[:, :, ::-1]))**(1 - weight)
         * (.99 * start + .01 / Q)**weight)
  tau /= tau.sum(axis=1, keepdims=True)
  if pool:
    likeliest = np.argmax(np.asarray(tau), axis=1)
    assert len(np.unique(likeliest)) > 1
    tau = jnp.eye(Q)[likeliest]
  params = oracle.parameters(oracle.network(10), x0[:Q] / 2)
  changes = {'assignment': 'summed', 'means': means}
  wanted = gradient_of(oracle.model, None, params, x0, tau, **changes)
  found = gradient_of(oracle.model, posterior, params._replace(posterior=variables), x0,
                      start, **changes)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
               found.network, wanted.network)
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted.network)) > .01
  np.testing.assert_allclose(found.means, wanted.means, rtol=1e-4, atol=1e-5)
  assert (np.abs(found.means).max() > 0) == (means == 'gradient')


@pytest.mark.parametrize('every', [1, 3])
def test_the_inference_network_learns_from_its_objective_alone(oracle, gradient_of,
                                                               every):
  """J of mirror images, by errors in closed form; and pi learns from no gradient.

  Of all images, also where `every` does not divide them.
  """
  p, (posterior, variables) = oracle.make(), tiny_posterior()
  posterior = dataclasses.replace(posterior, views=MIRROR, options=settings(
      anchor=.5, temper=1., balance=.3, warmup=1, noise_range=(0., 1.), every=every))
  rng = np.random.default_rng(2)
  x0 = jnp.asarray(rng.uniform(-1, 1, (8, 6, 6, 1)), jnp.float32)
  means = rng.normal(size=(Q, 6, 6, 1))
  start, pi = rng.dirichlet(np.ones(Q), 8), np.array([.5, .3, .2])
  found = gradient_of(
      oracle.known, posterior,
      oracle.parameters(oracle.known_network(p, x0, .7), means, pi)._replace(
          posterior=variables), x0, jnp.asarray(start, jnp.float32), means='gradient',
      assignment='summed')
  errors = .49 * ((np.asarray(x0)[:, None] - means)**2).mean(axis=(2, 3, 4))
  differences = errors - errors.mean(axis=1, keepdims=True)
  prior = .5 * np.log(.99 * start + .01 / Q) + .5 * np.log(pi)

  def wanted(variables):
    log_q = jax.nn.log_softmax(posterior.infer(variables, x0[:, :, ::-1]))
    return jnp.mean(objective(
        log_q, jnp.asarray(differences / (differences**2).mean()**.5, jnp.float32),
        jnp.asarray(prior, jnp.float32), jnp.exp(log_q).mean(axis=0), posterior.options))

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
               found.posterior, jax.grad(wanted)(variables))
  np.testing.assert_array_equal(found.log_proportions, np.zeros(Q))


def test_the_inference_network_learns_from_one_image_in_so_many(oracle, gradient_of):
  """With 4 these are images 0 and 4 of 8: the start of others is of no account."""
  posterior, variables = tiny_posterior()
  posterior = dataclasses.replace(posterior, options=settings(every=4, anchor=.5))
  rng = np.random.default_rng(2)
  x0 = jnp.asarray(rng.uniform(-1, 1, (8, 6, 6, 1)), jnp.float32)
  start = jnp.asarray(rng.dirichlet(np.ones(Q), 8), jnp.float32)
  params = oracle.parameters(oracle.network(10), x0[:Q] / 2)._replace(posterior=variables)
  others = jnp.array([1, 2, 3, 5, 6, 7])
  bias = lambda start: np.asarray(jax.tree.leaves(
      gradient_of(oracle.model, posterior, params, x0, start).posterior)[0])
  wanted = bias(start)
  for rows, matters in ((others, False), (4, True)):
    change = np.abs(bias(start.at[rows].set(start[rows][..., ::-1])) - wanted).max()
    assert (change > 1e-6) == matters


def test_views_are_drawn_one_by_one(oracle):
  """Of five that may be mirrored, as many are as five coins show: 0 to 5, binomially."""
  posterior, variables = tiny_posterior()
  coin = types.SimpleNamespace(**{**vars(MIRROR), 'flip': .5})
  infer = functools.partial(posterior.infer, variables)
  x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 6, 6, 1)), jnp.float32)
  rows = 400
  found = np.asarray(log_posterior(infer, jnp.broadcast_to(x, (rows, 6, 6, 1)),
                                   jax.random.split(jax.random.key(0), rows), coin, 5))
  one, other = (jax.nn.log_softmax(infer(seen)) for seen in (x, x[:, :, ::-1]))
  means = jax.nn.log_softmax(jnp.concatenate(
      [(5 - k) / 5 * one + k / 5 * other for k in range(6)]))
  distance = np.abs(found[:, None] - np.asarray(means)).max(axis=2)
  assert distance.min(axis=1).max() < 1e-4 < np.abs(np.diff(means, axis=0)).max()
  counts = np.bincount(distance.argmin(axis=1), minlength=6)
  expected = rows * scipy.stats.binom.pmf(range(6), 5, .5)
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_stepwise_follows_ever_more_slowly(oracle):
  """Step k = 0, 1, 2 moves pi by (k + 100)^-.7 of the way to the minibatch's q."""
  posterior, variables = tiny_posterior()
  posterior = dataclasses.replace(posterior, views=MIRROR)
  rng = np.random.default_rng(2)
  x0 = jnp.asarray(rng.uniform(-1, 1, (8, 6, 6, 1)), jnp.float32)
  options = default_config().m_step
  options.update(learning_rate=1e-12)
  step = make_m_step(oracle.model, options, make_mesh(1), posterior, stepwise=True)
  pi = np.array([.6, .3, .1])
  state = to_host(init_state(oracle.parameters(oracle.network(10), x0[:Q], pi)._replace(
      posterior=variables), make_optimizer(options)))
  q = np.asarray(jax.nn.softmax(posterior.infer(variables, x0[:, :, ::-1]))).mean(axis=0)
  estimator = make_estimator(oracle.make(), 'uniform', 'uniform')
  for k in range(3):
    with jax.numpy_dtype_promotion('standard'):
      state, _ = step(state, estimator, batch_of(x0), jnp.full((8, Q), 1 / Q),
                      jax.random.key(7))
    pi = pi + (k + 100)**-.7 * (q - pi)
    np.testing.assert_allclose(np.exp(state.params.log_proportions), pi, rtol=1e-5)


def test_devices_agree(oracle):
  """1 and 8 devices: the same denoiser, inference network and scale after 3 steps."""
  rng = np.random.default_rng(2)
  x0 = jnp.asarray(rng.uniform(-1, 1, (16, 6, 6, 1)), jnp.float32)
  start = jnp.asarray(rng.dirichlet(np.ones(Q), 16), jnp.float32)
  (one, info), (many, others) = (take_steps(n, oracle, x0, start) for n in (1, 8))
  np.testing.assert_allclose(info, others, rtol=1e-4)
  assert one.error_scale > 0
  np.testing.assert_allclose(one.error_scale, many.error_scale, rtol=1e-4)
  # Three steps of 1e-3; Adam divides small gradients, and their rounding, by themselves.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
               one.params, many.params)
  before = tiny_posterior()[1]
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, one.params.posterior)
  assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize('side,halvings', [(3, 0), (4, 0), (8, 1), (9, 2), (28, 3),
                                           (32, 3)])
def test_inference_network_halves_to_four_pixels(side, halvings):
  """As many convolutions of stride 2 as it takes; zero, so uniform, before training."""
  network = InferenceNetwork(5, 8)
  x = jnp.ones((2, side, side + 2, 3))
  variables = jax.eval_shape(network.init, jax.random.key(0), x)['params']
  convolutions = [name for name in variables if name.startswith('Conv')]
  assert len(convolutions) == halvings + 1
  last = variables['Dense_1']['kernel']
  assert last.shape == (32, 5)
  if side == 3:
    out, _ = network.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, np.zeros((2, 5)))


def test_responsibilities_of_a_sample():
  """Rows of the images that are in it; the uniform distribution for the others."""
  values = np.random.default_rng(0).dirichlet(np.ones(Q), 3).astype(np.float32)
  table = SampleTable(jnp.array([2, 5, 9]), jnp.asarray(values))
  indices = jnp.array([9, 0, 2, 3, 5, 99])
  third = np.full(Q, 1 / Q)
  np.testing.assert_allclose(
      responsibilities_of(table, indices),
      [values[2], third, values[0], third, values[1], third], rtol=1e-6)
  np.testing.assert_array_equal(
      responsibilities_of(jnp.asarray(values), jnp.array([1, 0])), values[[1, 0]])


@pytest.mark.parametrize('learn_means', [False, True])
def test_follow_by_hand(oracle, learn_means):
  """S <- S + rho (s - S) for S = (pi, pi mu), with rho = (k + 100)^-.7."""
  rng = np.random.default_rng(0)
  pi, means = np.array([.2, .3, .5]), rng.normal(size=(Q, 2, 2, 1))
  q, x = rng.dirichlet(np.ones(Q), 4), rng.normal(size=(4, 2, 2, 1))
  sums = Sums(jnp.asarray(q.mean(axis=0), jnp.float32), jnp.asarray(
      np.einsum('bq,bhwc->qhwc', q, x) / 4, jnp.float32))
  new = follow(oracle.parameters({}, means, pi), sums, jnp.int32(7), learn_means)
  rho = 107**-.7
  wanted_pi = pi + rho * (q.mean(axis=0) - pi)
  np.testing.assert_allclose(np.exp(new.log_proportions), wanted_pi, rtol=1e-5)
  np.testing.assert_allclose(np.exp(new.log_proportions).sum(), 1, rtol=1e-5)
  for cluster in range(Q):
    product = pi[cluster] * means[cluster]
    own = sum(q[i, cluster] * x[i] for i in range(4)) / 4
    wanted = (product + rho * (own - product)) / wanted_pi[cluster]
    np.testing.assert_allclose(new.means[cluster],
                               means[cluster] if learn_means else wanted, rtol=1e-4,
                               atol=1e-6)
