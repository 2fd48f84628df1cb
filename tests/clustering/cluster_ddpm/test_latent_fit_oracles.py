"""The E-step's mixture against scikit-learn itself, and on degenerate latents."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from jdiffclust.clustering.cluster_ddpm import latent_fit
from jdiffclust.clustering.cluster_ddpm.latent_mixture import LatentMixture, log_joint
from jdiffclust.config import default_config
from jdiffclust.sharding import make_mesh

N, Q, J = 2003, 5, 32  # N is no multiple of eight devices
both = pytest.mark.parametrize('covariance', ('diagonal', 'full'))
each = pytest.mark.parametrize('how', ('scikit', 'jax'))


def section(**changes):
  options = default_config().latent
  options.update({'mixture_iterations': 100, **changes})
  return options


def latents(seed=0, count=N):
  """Overlapping Gaussians of unlike shapes, far from 0; and where they come from."""
  rng = np.random.default_rng(seed)
  members = rng.choice(Q, count, p=[.4, .3, .15, .1, .05])
  shapes = rng.normal(size=(Q, J, J)) / J**.5 * rng.uniform(.4, 1, (Q, 1, J))
  z = rng.normal(size=(Q, J))[members] + np.einsum(
      'njk,nk->nj', shapes[members], rng.normal(size=(count, J)))
  return (7 + z).astype(np.float32), members


def responsibilities(seed=1, count=N):
  return np.random.default_rng(seed).dirichlet(np.full(Q, .3), count).astype(np.float32)


def standard(means, covariance):
  """Equal proportions, unit variances."""
  count, size = means.shape
  unit = np.ones(size) if covariance == 'diagonal' else np.eye(size)
  return LatentMixture(*(jnp.asarray(a, jnp.float32) for a in (
      np.full(count, -np.log(count)), means, np.stack([unit] * count))))


def by_scikit(z, start, options):
  """scikit-learn's own fit, without a line of ours but the factors' product."""
  factors = np.asarray(start.factors, np.float64)
  diagonal = options.covariance == 'diagonal'
  model = GaussianMixture(
      len(factors), covariance_type='diag' if diagonal else 'full',
      reg_covar=1e-6, max_iter=options.mixture_iterations,
      weights_init=softmax(np.asarray(start.log_proportions, np.float64)),
      means_init=np.asarray(start.means, np.float64),
      precisions_init=factors**2 if diagonal else factors @ factors.mT)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)
    return model.fit(z.astype(np.float64))


def covariances_of(mixture):
  factors = np.asarray(mixture.factors, np.float64)
  return factors**-2. if factors.ndim == 2 else np.linalg.inv(factors @ factors.mT)


def likelihood(mixture, z):
  """Mean log-likelihood from covariances, in float64."""
  pi = softmax(np.asarray(mixture.log_proportions, np.float64))
  own = GaussianMixture(len(pi), covariance_type='full')
  own.weights_, own.means_ = pi, np.asarray(mixture.means, np.float64)
  covariances = covariances_of(mixture)
  if covariances.ndim == 2:
    covariances = covariances[:, :, None] * np.eye(covariances.shape[1])
  own.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances)).mT
  return own.score(z.astype(np.float64))


@both
@each
def test_is_scikit_learns_fit(how, covariance):
  """One iteration and all of them: likelihood to 1e-5, and the parameters.

  Full covariances here have condition numbers of up to 10^6.
  """
  z, _ = latents()
  start = standard(z[[3, 50, 200, 700, 1500]], covariance)
  for iterations in (1, 100):
    options = section(covariance=covariance, mixture=how, mixture_iterations=iterations)
    expected = by_scikit(z, start, options)
    mixture, info = latent_fit.fit(z, start, options, make_mesh(8))
    assert info.log_likelihood == pytest.approx(expected.score(z.astype(np.float64)),
                                                abs=1e-5)
    assert likelihood(mixture, z) == pytest.approx(info.log_likelihood, abs=1e-5)
    assert info.iterations == expected.n_iter_
    assert info.converged == expected.converged_ == (iterations == 100)
    assert info.empty == []
    np.testing.assert_allclose(np.exp(mixture.log_proportions), expected.weights_,
                               rtol=1e-3)
    np.testing.assert_allclose(mixture.means, expected.means_, atol=1e-3)
    np.testing.assert_allclose(covariances_of(mixture), expected.covariances_, rtol=.01,
                               atol=1e-3)


@both
def test_both_agree_from_responsibilities(covariance):
  """An M-step first, then the same likelihood to 1e-5."""
  z, tau = latents()[0], responsibilities()
  found = [latent_fit.fit(z, tau, section(covariance=covariance, mixture=how),
                          make_mesh(8))[1] for how in ('scikit', 'jax')]
  assert found[0].log_likelihood == pytest.approx(found[1].log_likelihood, abs=1e-5)
  assert found[0].iterations == found[1].iterations > 5


@both
def test_m_step_by_loops(covariance):
  """The start from responsibilities: weighted moments."""
  z, tau = latents()[0], responsibilities()
  diagonal = covariance == 'diagonal'
  tau = np.pad(tau, [(0, 0), (0, 1)])  # and nobody's component
  mixture = latent_fit._one_m_step(z, np.ones(N, bool), tau, np.float32(.01),
                                   diagonal=diagonal, mesh=make_mesh(1))
  assert np.exp(mixture.log_proportions[Q]) == pytest.approx(.01 / N, rel=1e-4)
  mixture = mixture._replace(log_proportions=mixture.log_proportions[:Q])
  np.testing.assert_allclose(mixture.means[Q], z.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(np.exp(mixture.log_proportions), tau.mean(axis=0)[:Q],
                             rtol=1e-4)
  for q in range(Q):
    np.testing.assert_allclose(mixture.means[q], np.average(z, axis=0, weights=tau[:, q]),
                               rtol=1e-5)
    expected = np.cov(z.T, aweights=tau[:, q], ddof=0) + .01 * np.eye(J)
    np.testing.assert_allclose(covariances_of(mixture)[q],
                               np.diag(expected) if diagonal else expected, atol=2e-5)


@pytest.mark.parametrize('how', ('scikit', 'jax', 'auto'))
def test_no_iterations_are_one_m_step(how):
  """The moments of the responsibilities, whoever would fit; the likelihood is theirs."""
  z, tau = latents()[0], responsibilities()
  mixture, info = latent_fit.fit(
      z, tau, section(mixture=how, mixture_iterations=0), make_mesh(8))
  np.testing.assert_allclose(
      mixture.means, [np.average(z, axis=0, weights=tau[:, q]) for q in range(Q)],
      rtol=1e-4)
  assert info.iterations == 0
  assert info.log_likelihood == pytest.approx(likelihood(mixture, z), abs=1e-4)


@both
def test_devices_and_padding_change_nothing(covariance):
  """One device or eight, and whatever the invalid rows hold."""
  z, _ = latents()
  start = standard(z[:Q], covariance)
  options = section(covariance=covariance)
  one, of_one = latent_fit.fit_jax(z, np.ones(N, bool), start, options, make_mesh(1))
  rows = np.random.default_rng(0).permutation(N + 5)  # invalid ones in between
  padded = np.concatenate([z, np.full((5, J), np.nan, np.float32)])[rows]
  eight, of_eight = latent_fit.fit_jax(padded, rows < N, start, options, make_mesh(8))
  assert of_one.log_likelihood == pytest.approx(of_eight.log_likelihood, abs=1e-5)
  assert of_one.iterations == of_eight.iterations
  np.testing.assert_allclose(one.means, eight.means, atol=1e-3)


def test_order_of_components_is_free():
  """A permuted start gives the permuted mixture."""
  z, _ = latents()
  options, mesh = section(), make_mesh(8)
  order = np.array([2, 0, 4, 1, 3])
  start = standard(z[:Q], 'diagonal')
  one, of_one = latent_fit.fit(z, start, section(mixture='jax'), mesh)
  start = start._replace(means=start.means[order])
  options.mixture = 'jax'
  other, of_other = latent_fit.fit(z, start, options, mesh)
  assert of_one.log_likelihood == pytest.approx(of_other.log_likelihood, abs=1e-5)
  for a, b in zip(one, other):
    np.testing.assert_allclose(a[order], b, atol=1e-3)


@both
def test_likelihood_never_falls(covariance):
  """Iteration by iteration, from a poor start."""
  z, _ = latents()
  options = section(covariance=covariance, mixture='jax', mixture_iterations=1)
  mixture, mesh, values = standard(z[:Q], covariance), make_mesh(8), []
  for _ in range(12):
    mixture, info = latent_fit.fit(z, mixture, options, mesh)
    assert info.iterations == 1
    values.append(info.log_likelihood)
  assert (np.diff(values) > -1e-5).all() and values[-1] > values[0] + .5


@each
def test_from_kmeans(how, monkeypatch):
  """Without a start: planted clusters come back, of a sample if need be; by the seed."""
  monkeypatch.setattr(latent_fit, 'START_IMAGES', 500)
  rng = np.random.default_rng(0)
  members = np.arange(N) % Q
  centres = 6 * rng.normal(size=(Q, J))
  z = (centres[members] + rng.normal(size=(N, J))).astype(np.float32)
  options = section(mixture=how)
  mixture, info = latent_fit.fit(z, Q, options, make_mesh(8), seed=3, restarts=2)
  found = np.asarray(log_joint(mixture, jnp.asarray(z))).argmax(axis=1)
  assert len({*zip(members.tolist(), found.tolist())}) == Q
  assert info.converged and info.empty == []
  again, _ = latent_fit.fit(z, Q, options, make_mesh(8), seed=3, restarts=2)
  np.testing.assert_array_equal(mixture.means, again.means)


@both
@each
def test_empty_component(how, covariance):
  """Far from everything: it keeps its mean, with the others' variance, and is named."""
  z, _ = latents()
  means = z[:Q].copy()
  means[2] = 500.
  options = section(covariance=covariance, mixture=how)
  mixture, info = latent_fit.fit(z, standard(means, covariance), options, make_mesh(8))
  assert info.empty == [2] and np.isfinite(info.log_likelihood)
  assert all(np.isfinite(a).all() for a in mixture)
  np.testing.assert_allclose(mixture.means[2], 500, rtol=1e-5)
  share = np.exp(mixture.log_proportions)
  assert 0 < share[2] < 1 / N
  np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
  others = [0, 1, 3, 4]
  pooled = np.average(covariances_of(mixture)[others], axis=0, weights=share[others])
  np.testing.assert_allclose(covariances_of(mixture)[2], pooled, rtol=.01, atol=1e-3)
  # Where images move there, it has them.
  moved = z + 493 * (np.arange(N) % 20 == 0)[:, None].astype(np.float32)
  mixture, info = latent_fit.fit(moved, mixture, options, make_mesh(8))
  assert info.empty == []
  assert np.exp(mixture.log_proportions[2]) == pytest.approx(101 / N, rel=1e-3)


@both
@each
@pytest.mark.parametrize('case', ('identical', 'duplicates', 'few', 'nobody'))
def test_degenerate_latents(how, covariance, case):
  """Equal points, fewer points than numbers, nobody's component: all stay finite."""
  z, _ = latents(count=40)
  start = standard(z[:Q], covariance)
  if case == 'identical':
    z = np.full((40, J), 3., np.float32)
  elif case == 'duplicates':
    z = z[np.arange(40) % 3]
  elif case == 'few':
    z = z[:Q]
  else:
    start = np.eye(Q, dtype=np.float32)[np.arange(40) % (Q - 1)]
  options = section(covariance=covariance, mixture=how)
  mixture, info = latent_fit.fit(z, start, options, make_mesh(8))
  assert np.isfinite(info.log_likelihood)
  assert all(np.isfinite(a).all() for a in mixture)
  assert np.isfinite(log_joint(mixture, jnp.asarray(z))).all()
  np.testing.assert_allclose(np.exp(mixture.log_proportions).sum(), 1, rtol=1e-5)


@both
def test_variances_of_an_empty_component(covariance):
  """Of 3, .2 and 1 images: (3 Sigma_a + Sigma_c) / 4, its old mean, a share of .2."""
  rng = np.random.default_rng(0)
  roots = rng.normal(size=(3, 4, 4)) + 2 * np.eye(4)
  covariances = roots @ roots.mT
  if covariance == 'diagonal':
    covariances = covariances * np.eye(4)
  factors = np.linalg.inv(np.linalg.cholesky(covariances)).mT
  if covariance == 'diagonal':
    factors = np.diagonal(factors, axis1=1, axis2=2)
  means, old_means = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(2, 3, 4)))
  found = latent_fit.restore_empty(
      LatentMixture(None, means, jnp.asarray(factors, jnp.float32)),
      jnp.asarray([3., .2, 1.], jnp.float32), old_means)
  covariances[1] = (3 * covariances[0] + covariances[2]) / 4
  wanted = covariances if covariance == 'full' else np.einsum('qjj->qj', covariances)
  np.testing.assert_allclose(covariances_of(found), wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found.means, np.stack(
      [means[0], old_means[1], means[2]]))
  np.testing.assert_allclose(np.exp(found.log_proportions), np.array([3, .2, 1]) / 4.2,
                             rtol=1e-5)


def test_auto(monkeypatch):
  """scikit-learn up to 2^20 numbers, images times dimensions; JAX beyond."""
  start, called = standard(np.zeros((2, 32)), 'diagonal'), []
  for name in ('fit_scikit', 'fit_jax'):
    monkeypatch.setattr(latent_fit, name, lambda *_, name=name: called.append(name))
  for count in (40, 2**15, 2**15 + 1):
    latent_fit.fit(np.zeros((count, 32), np.float32), start, section(), make_mesh(8))
  assert called == ['fit_scikit', 'fit_scikit', 'fit_jax']
