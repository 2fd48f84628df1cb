"""The latents' mixture against SciPy, closed forms, quadrature, search and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from scipy import stats
from scipy.special import logsumexp, softmax

from jdiffclust.clustering.cluster_ddpm import latent_mixture as lm

Q, J, B = 3, 4, 6
both = pytest.mark.parametrize('full', (False, True))


def make(full, seed=0, dtype=np.float32, spread=1.):
  """A mixture, and its proportions, means and covariances [Q, J, J] in float64."""
  rng = np.random.default_rng(seed)
  pi = rng.dirichlet(np.full(Q, 3.))
  means = spread * rng.normal(size=(Q, J))
  if full:
    root = rng.normal(size=(Q, J, 2 * J))
    covariances = root @ root.mT / (2 * J)
    factors = np.linalg.inv(np.linalg.cholesky(covariances)).mT
  else:
    variances = rng.uniform(.3, 2., (Q, J))
    covariances = variances[:, :, None] * np.eye(J)
    factors = variances**-.5
  mixture = lm.LatentMixture(
      *(jnp.asarray(a, dtype) for a in (np.log(pi), means, factors)))
  return mixture, pi, means, covariances


def encoder(seed=1, dtype=np.float32, rows=B):
  rng = np.random.default_rng(seed)
  return (jnp.asarray(rng.normal(size=(rows, J)), dtype),
          jnp.asarray(rng.uniform(-2, 1, (rows, J)), dtype))


def kl_of_gaussians(mean, log_variance, centre, covariance):
  """KL(N(m, diag s^2) || N(mu, Sigma)), with inverses and determinants."""
  inverse, d = np.linalg.inv(covariance), np.asarray(mean, np.float64) - centre
  s2 = np.exp(np.asarray(log_variance, np.float64))
  return (np.trace(inverse @ np.diag(s2)) + d @ inverse @ d - len(d)
          + np.linalg.slogdet(covariance)[1] - np.log(s2).sum()) / 2


def all_kl(mean, log_variance, means, covariances):
  return np.array([[kl_of_gaussians(m, v, mu, cov) for mu, cov in zip(means, covariances)]
                   for m, v in zip(mean, log_variance)])


def draws(mean, log_variance, number, seed=5):
  """z of one image [number, J]."""
  eps = np.random.default_rng(seed).normal(size=(number, len(mean)))
  return np.asarray(mean) + np.exp(np.asarray(log_variance) / 2) * eps


def joint_by_scipy(z, pi, means, covariances):
  return np.log(pi) + np.stack([stats.multivariate_normal(mu, cov).logpdf(z)
                                for mu, cov in zip(means, covariances)], axis=-1)


@both
def test_log_joint(full):
  """(9), (10) and (22)."""
  mixture, *of = make(full)
  z, _ = encoder()
  expected = joint_by_scipy(np.asarray(z), *of)
  np.testing.assert_allclose(lm.log_joint(mixture, z), expected, rtol=1e-5)
  np.testing.assert_allclose(jax.nn.softmax(lm.log_joint(mixture, z), axis=1),
                             softmax(expected, axis=1), rtol=1e-4)


@both
def test_slopes(full):
  """The gradient of log p(z, c) over z, by JAX."""
  mixture, *_ = make(full)
  z, _ = encoder()
  gradient = jax.jit(jax.vmap(jax.jacrev(
      lambda one: lm.log_joint(mixture, one[None])[0])))(z)
  np.testing.assert_allclose(lm.slopes(mixture, z), gradient, rtol=1e-4, atol=1e-5)


@both
def test_gaussian_kl(full):
  """The closed form with inverses and determinants; 0 where both are the same."""
  mixture, _, means, covariances = make(full)
  mean, log_variance = encoder()
  np.testing.assert_allclose(lm.gaussian_kl(mixture, mean, log_variance),
                             all_kl(mean, log_variance, means, covariances), rtol=1e-5)
  standard = lm.standard_normal(Q, J, 'full' if full else 'diagonal')
  zero = jnp.zeros((B, J))
  np.testing.assert_allclose(lm.gaussian_kl(standard, zero, zero), 0, atol=1e-6)


def test_gaussian_kl_by_quadrature():
  """In one dimension, with SciPy's densities."""
  mixture = lm.LatentMixture(jnp.zeros(1), jnp.array([[.4]]), jnp.array([[1 / .7]]))
  q, p = stats.norm(-.3, 1.2), stats.norm(.4, .7)
  expected, _ = scipy.integrate.quad(
      lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -15, 15)
  found = lm.gaussian_kl(mixture, jnp.array([[-.3]]), jnp.array([[2 * np.log(1.2)]]))
  np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


@both
def test_expectations_by_monte_carlo(full):
  """l_c, and E [log q - log p(z | c)], within four standard errors."""
  mixture, pi, means, covariances = make(full)
  mean, log_variance = encoder(rows=2)
  for i in range(2):
    z = draws(mean[i], log_variance[i], 40000)
    joint = joint_by_scipy(z, pi, means, covariances)
    own = stats.norm(np.asarray(mean[i]), np.exp(np.asarray(log_variance[i]) / 2))
    ratio = own.logpdf(z).sum(axis=1)[:, None] - (joint - np.log(pi))
    for found, sample in (
        (lm.expected_log_joint(mixture, mean, log_variance)[i], joint),
        (lm.gaussian_kl(mixture, mean, log_variance)[i], ratio)):
      error = sample.std(axis=0) / np.sqrt(len(z))
      assert (np.abs(found - sample.mean(axis=0)) < 4 * error).all()


def test_prior_terms_as_printed():
  """(24), (A.14) and (A.15) by loops: the constant is that of two Gaussians' KL."""
  mixture, pi, means, covariances = make(False)
  mean, log_variance = encoder()
  w = np.random.default_rng(2).dirichlet(np.ones(Q), B)
  found = lm.prior_matching(mixture, mean, log_variance, jnp.asarray(w, jnp.float32))
  for i in range(B):
    categorical = -sum(w[i, c] * np.log(pi[c] / w[i, c]) for c in range(Q))
    of_encoder = sum(1 + float(log_variance[i, j]) for j in range(J)) / 2
    of_both = sum(
        w[i, c] * (np.log(covariances[c, j, j])
                   + np.exp(float(log_variance[i, j])) / covariances[c, j, j]
                   + (float(mean[i, j]) - means[c, j])**2 / covariances[c, j, j])
        for c in range(Q) for j in range(J)) / 2
    np.testing.assert_allclose(found.categorical[i], categorical, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.gaussian[i], of_both - of_encoder, rtol=1e-5)


@both
def test_best_responsibilities(full):
  """softmax(l) is what a search finds; (22), of whatever z, is worse."""
  mixture, pi, means, covariances = make(full, spread=.7)
  mean, log_variance = encoder()
  divergences = all_kl(mean, log_variance, means, covariances)
  term = lambda w, i: np.sum(w * (np.log(w / pi) + divergences[i]), axis=-1)
  best = lm.expected_responsibilities(mixture, mean, log_variance)
  matched = lm.prior_matching(mixture, mean, log_variance, best)
  for i in range(B):
    found = scipy.optimize.minimize(lambda logits: term(softmax(logits), i), np.zeros(Q))
    np.testing.assert_allclose(best[i], softmax(found.x), atol=1e-4)
    total = matched.categorical[i] + matched.gaussian[i]
    np.testing.assert_allclose(total, found.fun, rtol=1e-5)
    np.testing.assert_allclose(total, -logsumexp(np.log(pi) - divergences[i]), rtol=1e-5)
    z = jnp.asarray(draws(mean[i], log_variance[i], 200), jnp.float32)
    w = jax.nn.softmax(lm.log_joint(mixture, z), axis=1)
    sampled = term(np.asarray(w, np.float64), i)
    assert sampled.min() > total - 1e-5
    assert sampled.mean() > total + .05  # and not by rounding


def test_divergence_of_equation_21():
  """E KL(w || p(c | z)) is smallest at softmax(l), and not 0 there."""
  mixture, *of = make(False)
  mean, log_variance = encoder()
  z = draws(mean[0], log_variance[0], 20000)
  joint = joint_by_scipy(z, *of)
  log_p = joint - logsumexp(joint, axis=1, keepdims=True)
  divergence = lambda w: np.sum(w * (np.log(w) - log_p.mean(axis=0)))
  best = np.asarray(lm.expected_responsibilities(mixture, mean, log_variance)[0])
  found = scipy.optimize.minimize(lambda logits: divergence(softmax(logits)), np.zeros(Q))
  np.testing.assert_allclose(best, softmax(found.x), atol=.02)  # of the draws' error
  assert found.fun > .1


def test_sure_encoder_agrees_with_equation_22():
  """Where s is small both are the same."""
  mixture, *_ = make(True)
  mean, _ = encoder()
  log_variance = jnp.full((B, J), -18.)
  np.testing.assert_allclose(
      lm.expected_responsibilities(mixture, mean, log_variance),
      jax.nn.softmax(lm.log_joint(mixture, lm.reparametrise(mean, log_variance, 1.)),
                     axis=1),
      rtol=2e-3)


def total_prior(mixture, mean, log_variance, eps, kind):
  if kind == 'expected':
    w = lm.expected_responsibilities(mixture, mean, log_variance)
  else:
    z = lm.reparametrise(mean, log_variance, eps)
    w = jax.nn.softmax(lm.log_joint(mixture, z), axis=1)
  return sum(jnp.sum(term) for term in lm.prior_matching(mixture, mean, log_variance, w))


@both
@pytest.mark.parametrize('kind', ('sampled', 'expected'))
def test_gradients(x64, full, kind):
  """Of the whole prior term, through w and z too, by central differences."""
  mixture, *_ = make(full, dtype=np.float64)
  arguments = encoder(dtype=np.float64)
  eps = jnp.asarray(np.random.default_rng(3).normal(size=(B, J)))
  of = jax.jit(lambda mean, log_variance: total_prior(mixture, mean, log_variance, eps,
                                                      kind))
  gradients = jax.jit(jax.grad(of, argnums=(0, 1)))(*arguments)
  step = 1e-5
  for n, gradient in enumerate(gradients):
    for i, j in ((0, 0), (1, 3), (4, 2), (5, 1)):
      value = lambda by: of(*(a.at[i, j].add(by) if k == n else a
                              for k, a in enumerate(arguments)))
      difference = (value(step) - value(-step)) / (2 * step)
      np.testing.assert_allclose(gradient[i, j], difference, rtol=1e-6, atol=1e-8)


def test_best_responsibilities_need_no_gradient(x64):
  """At the best w the bound is flat in w: its gradient through w is 0."""
  mixture, *_ = make(True, dtype=np.float64)
  arguments = encoder(dtype=np.float64)

  def held(mean, log_variance):
    w = jax.lax.stop_gradient(lm.expected_responsibilities(mixture, mean, log_variance))
    return sum(jnp.sum(t) for t in lm.prior_matching(mixture, mean, log_variance, w))

  whole = lambda *a: total_prior(mixture, *a, None, 'expected')
  for one, other in zip(*jax.jit(lambda *a: [
      jax.grad(of, (0, 1))(*a) for of in (held, whole)])(*arguments)):
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@both
def test_no_overflow(full):
  """Whatever the encoder says, terms and gradients are finite and lead back."""
  mixture, *_ = make(full)
  # Small variances, as few images give them.
  mixture = mixture._replace(factors=1e3 * mixture.factors)
  mean, _ = encoder()
  flat = jnp.full((B, Q), 1 / Q)
  kinds = [lambda v, kind=kind: total_prior(mixture, mean, v, jnp.ones((B, J)), kind)
           for kind in ('sampled', 'expected')]
  divergence = lambda v: lm.prior_matching(mixture, mean, v, flat).gaussian.sum()
  all_terms = jax.jit(lambda v: (
      [jax.value_and_grad(of)(v) for of in kinds], lm.margins(mixture, mean, v)))
  both_of = jax.jit(jax.value_and_grad(divergence))
  for sign, end in zip((-1, 1), lm.LOG_VARIANCE_RANGE):
    for size in (1e4, np.inf):
      log_variance = jnp.full((B, J), sign * size, jnp.float32)
      assert all(np.isfinite(a).all() for a in jax.tree.leaves(all_terms(log_variance)))
      value, gradient = both_of(log_variance)
      assert (sign * gradient > .1).all()
      np.testing.assert_array_equal(value, both_of(jnp.full((B, J), end))[0])


def test_range_is_left_alone():
  """Inside its range log s^2 is what the encoder says."""
  inside = jnp.linspace(*lm.LOG_VARIANCE_RANGE, 9)
  np.testing.assert_array_equal(lm.clamp(inside), inside)


def test_one_hot_responsibilities():
  """w log w is 0 at 0, and its gradient is finite."""
  mixture, pi, means, covariances = make(False)
  mean, log_variance = encoder()
  w = jnp.eye(Q)[jnp.arange(B) % Q]
  found = lm.prior_matching(mixture, mean, log_variance, w)
  np.testing.assert_allclose(found.categorical, -np.log(pi[np.arange(B) % Q]), rtol=1e-5)
  kls = all_kl(mean, log_variance, means, covariances)
  np.testing.assert_allclose(found.gaussian, kls[np.arange(B), np.arange(B) % Q],
                             rtol=1e-5)
  gradient = jax.jit(jax.grad(lambda logits: lm.prior_matching(
      mixture, mean, log_variance, jax.nn.softmax(logits)).categorical.sum()))(1e4 * w)
  assert np.isfinite(gradient).all()


@both
def test_margins_by_monte_carlo(full):
  """Mean and standard deviation of the difference of the two log p(z, c)."""
  mixture, *of = make(full)
  mean, log_variance = encoder()
  found = lm.margins(mixture, mean, log_variance)
  number = 40000
  for i in range(B):
    joint = joint_by_scipy(draws(mean[i], log_variance[i], number), *of)
    order = np.argsort(-lm.expected_log_joint(mixture, mean, log_variance)[i])
    np.testing.assert_array_equal(found.clusters[i], order[:2])
    difference = joint[:, order[0]] - joint[:, order[1]]
    assert abs(found.lead[i] - difference.mean()) < 4 * found.spread[i] / number**.5
    # The error of a standard deviation, by the sample's own fourth moment.
    squares = (difference - difference.mean())**2
    error = squares.std() / number**.5 / (2 * difference.std())
    assert abs(found.spread[i] - difference.std()) < 4 * error


def test_margins_of_one_cluster():
  """Nothing to compare with."""
  found = lm.margins(lm.standard_normal(1, J, 'diagonal'), *encoder())
  assert np.isinf(found.lead).all() and (found.spread == 0).all()


@both
def test_draws(full, key):
  """Moments and normality of p(z | c); a draw is its key's whatever the batch."""
  mixture, _, means, covariances = make(full)
  rows = 6000
  clusters = jnp.arange(rows) % Q
  keys = jax.random.split(key, rows)
  z = np.asarray(lm.draw_latents(mixture, clusters, keys), np.float64)
  for c in range(Q):
    own = z[np.asarray(clusters) == c] - means[c]
    white = own @ np.linalg.inv(np.linalg.cholesky(covariances[c])).T
    assert stats.kstest(white.ravel(), 'norm').pvalue > 1e-3
    # J (J + 1) / 2 entries of known error.
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(J),
                               atol=4.5 * (2 / len(white))**.5)
    assert np.abs(white.mean(axis=0)).max() < 4 / len(white)**.5
  part = lm.draw_latents(mixture, clusters[5:8], keys[5:8])
  np.testing.assert_allclose(part, z[5:8], rtol=1e-5)


@both
def test_standard_normal(full):
  """Equal proportions of N(0, I)."""
  z, _ = encoder()
  found = lm.log_joint(lm.standard_normal(Q, J, 'full' if full else 'diagonal'), z)
  expected = stats.norm.logpdf(np.asarray(z)).sum(axis=1, keepdims=True) - np.log(Q)
  np.testing.assert_allclose(found, np.tile(expected, Q), rtol=1e-5)


@both
@pytest.mark.parametrize('clusters,size', [(3, 5), (4, 4), (5, 2)])
def test_separated(full, clusters, size):
  """Orthonormal means, or a tight frame of more than J; N(mean, .1^2) by SciPy."""
  found = lm.separated(clusters, size, 'full' if full else 'diagonal', jax.random.key(1))
  means = np.asarray(found.means)
  product = means @ means.T if clusters <= size else means.T @ means
  np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)
  z = np.random.default_rng(0).normal(size=(7, size)).astype(np.float32)
  expected = stats.norm.logpdf(z[:, None], means, .1).sum(axis=2) - np.log(clusters)
  np.testing.assert_allclose(lm.log_joint(found, jnp.asarray(z)), expected, rtol=1e-4)


@both
def test_second_moments(x64, full):
  """Covariances, precisions and their diagonals, from the factors."""
  mixture, _, _, covariances = make(full, dtype=np.float64)
  inverses, diagonals = np.linalg.inv(covariances), lambda a: np.diagonal(a, 0, 1, 2)
  same = lambda found, expected: np.testing.assert_allclose(found, expected, atol=1e-10)
  same(lm.precisions(mixture), inverses if full else diagonals(inverses))
  same(lm.precision_diagonals(mixture), diagonals(inverses))
  same(lm.variances(mixture), diagonals(covariances))
  same(lm.log_determinants(mixture), -np.linalg.slogdet(covariances)[1] / 2)
  same(lm.inverses(lm.inverses(mixture.factors)), mixture.factors)


def test_many_numbers_in_float32():
  """J = 512, at variances near the least: as accurate as float32 inputs allow."""
  rng = np.random.default_rng(0)
  means = rng.normal(size=(Q, 512)).astype(np.float32)
  variance = rng.uniform(1e-5, 1e-3, (Q, 512))
  mixture = lm.LatentMixture(jnp.zeros(Q), jnp.asarray(means),
                             jnp.asarray(variance**-.5, jnp.float32))
  mean = means[:2] + .01 * rng.normal(size=(2, 512)).astype(np.float32)
  log_variance = rng.uniform(-9, -7, (2, 512)).astype(np.float32)
  s2 = np.exp(log_variance.astype(np.float64))[:, None]
  d = mean[:, None].astype(np.float64) - means
  expected = ((s2 + d**2) / variance - 1 - np.log(s2 / variance)).sum(axis=2) / 2
  np.testing.assert_allclose(
      lm.gaussian_kl(mixture, jnp.asarray(mean), jnp.asarray(log_variance)), expected,
      rtol=2e-6)


@both
def test_collapse(full):
  """Against the moments of p(z_j) by quadrature; none is left of N(0, I) posteriors."""
  mixture, pi, means, covariances = make(full)
  m, v = encoder(rows=50)
  found = lm.collapse(mixture, m, v)
  m, v = (np.asarray(a, np.float64) for a in (m, v))
  for j in range(J):
    components = [stats.norm(means[c, j], covariances[c, j, j]**.5) for c in range(Q)]
    density = lambda x: sum(p * c.pdf(x) for p, c in zip(pi, components))
    moment = lambda power: scipy.integrate.quad(
        lambda x: x**power * density(x), -12, 12)[0]
    centre = moment(1)
    variance = moment(2) - centre**2
    np.testing.assert_allclose(found.variance[j], m[:, j].var() / variance, rtol=1e-4)
    expected = np.mean([kl_of_gaussians(a[[j]], b[[j]], centre, np.array([[variance]]))
                        for a, b in zip(m, v)])
    np.testing.assert_allclose(found.divergence[j], expected, rtol=1e-4)
  assert found.active.all()
  # One dimension tells something, the others only just do not.
  m = jnp.asarray(np.random.default_rng(0).normal(size=(4000, J)), jnp.float32)
  m = m * jnp.array([1., .09, .01, 0.])[None]
  standard = lm.standard_normal(Q, J, 'full' if full else 'diagonal')
  found = lm.collapse(standard, m, jnp.zeros((4000, J)))
  np.testing.assert_array_equal(found.active, [True, False, False, False])
  np.testing.assert_allclose(found.divergence, [.5, .00405, .00005, 0], rtol=.1,
                             atol=1e-6)
