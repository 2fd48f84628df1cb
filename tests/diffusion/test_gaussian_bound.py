"""The bound where everything is Gaussian, and p_theta(x_0) is known exactly.

Pixels are independent N(a, s^2). With the denoiser E[x_0 | x_t] the reverse chain is
affine, so that p_theta(x_0) is a normal found by a recursion over t. Squared errors
are quadratic in eps: eps = +1 and -1 in equal parts give their exact expectation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jdiffclust.clustering.bound.tau import posterior
from jdiffclust.clustering.bound.terms import (
    ConditionalDDPM, step_costs, step_weights, variance_kl)
from jdiffclust.config import default_config
from jdiffclust.diffusion import forward
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.evaluation.diagnostics import bits_per_dimension

CENTRE, SPREAD = .2, .5


def make(steps, pull='one_minus_sqrt_abar', betas='cosine', variance='step'):
  options = default_config().diffusion
  options.update(num_steps=steps, pull=pull, betas=betas, reverse_variance=variance)
  return process_from_config(options)


def coefficients(p):
  """Weights of x_0 and mu in x_t, and its variance, from beta and m alone."""
  abar = np.cumprod(1 - np.asarray(p.beta))
  m = np.asarray(p.m)
  return (1 - m) * abar**.5, m * abar**.5, 1 - abar - m**2 * abar, abar


def denoiser(p, centre=None):
  """eta of E[x_0 | x_t] for x_0 ~ N(centre, SPREAD^2); centre None: mu."""
  a, b, delta, abar = coefficients(p)
  gain = SPREAD**2 * a / (SPREAD**2 * a**2 + delta + (np.arange(len(a)) == 0))

  def eta(network, x_t, t, mu, dropout_keys):
    pick = lambda v: jnp.asarray(v)[t][:, None, None, None]
    own = mu if centre is None else jnp.full_like(mu, centre)
    x0 = own + pick(gain) * (x_t - pick(a) * own - pick(b) * mu)
    return (x_t - pick(abar**.5) * x0) / pick((1 - abar)**.5)
  return eta


def log_density(p, x0, mu, centre, variance_of='step'):
  """log p_theta(x_0 | mu) per pixel, by pushing N(0, 1) down the reverse chain."""
  a, b, delta, abar = coefficients(p)
  mean, variance = 0., 1.
  for t in range(p.num_steps, 0, -1):
    gain = SPREAD**2 * a[t] / (SPREAD**2 * a[t]**2 + delta[t])
    intercept = centre - gain * (a[t] * centre + b[t] * mu)  # x0^ = that + gain x_t
    if t == 1:
      slope, shift, noise = gain, intercept, delta[1] / a[1]**2
    else:
      k = a[t] / a[t - 1]
      h = b[t] - k * b[t - 1]
      step = delta[t] - k**2 * delta[t - 1]
      posterior = 1 / (1 / delta[t - 1] + k**2 / step)
      to_x0, to_xt = posterior * a[t - 1] / delta[t - 1], posterior * k / step
      slope = to_xt + to_x0 * gain
      shift = (to_x0 * intercept
               + posterior * (b[t - 1] / delta[t - 1] - k * h / step) * mu)
      noise = step if variance_of == 'step' else posterior
    mean, variance = slope * mean + shift, slope**2 * variance + noise
  return scipy.stats.norm.logpdf(x0, mean, variance**.5)


def bound(p, x0, mu, centre=None):
  """The package's bound on log p(x_0 | mu), exact, for one-pixel images x0, mu [B]."""
  device = jax.tree.map(jnp.asarray, p)
  model = ConditionalDDPM(denoiser(p, centre))
  x0, mu = (jnp.broadcast_to(jnp.asarray(v)[..., None, None, None],
                             (len(x0), 1, 1, 1)) for v in (x0, mu))
  weights = jnp.asarray(step_weights(p, 'elbo'))

  @jax.jit
  def cost(t):
    steps = jnp.full((x0.shape[0],), t)
    of = lambda eps: step_costs(
        model.draw_terms(device, None, None, x0, steps, mu, jnp.full(x0.shape, eps)),
        steps, weights, 'elbo')
    return (of(1.) + of(-1.)) / 2

  total = jax.lax.map(cost, jnp.arange(1, p.num_steps + 1)).sum(axis=0)
  return np.asarray(-forward.prior_kl(device, x0, mu) - total) - variance_kl(p).sum()


POINTS = np.linspace(-1.5, 2., 15)


@pytest.mark.parametrize('variance', ['step', 'posterior'])
@pytest.mark.parametrize('betas,steps,pull', [
    ('cosine', 2, 'one_minus_sqrt_abar'), ('cosine', 10, 'zero'),
    ('cosine', 200, 'one_minus_sqrt_abar'), ('linear', 50, 'linear'),
    ('linear', 50, 'zero'), ('sigmoid', 200, 'one_minus_sqrt_abar')])
def test_bound_below_log_density(x64, betas, steps, pull, variance):
  """The bound never exceeds log p_theta(x_0), typical x_0 or not."""
  p = make(steps, pull, betas, variance)
  for mu in (CENTRE, -.6):
    gap = log_density(p, POINTS, mu, CENTRE, variance) - bound(p, POINTS, mu, CENTRE)
    assert (gap > -1e-9).all() and np.isfinite(gap).all()


def exact_gap(p, variance='step'):
  """-H(data) minus the mean bound, as a sum of KL divergences of two normals.

  The denoiser gives every q(x_{t-1} | x_t) its mean; only the variance is another,
  that of the data against the model's delta_{t|t-1} or delta~_t. The data's is close
  to delta_{t|t-1} at small t, and delta~_t = delta_{t|t-1} delta_{t-1} / delta_t never.
  """
  a, b, delta, _ = coefficients(p)
  gap = 0.
  for t in range(1, p.num_steps + 1):
    k = a[t] / a[t - 1]
    step = delta[t] - k**2 * delta[t - 1]
    true = 1 / (1 / (a[t - 1]**2 * SPREAD**2 + delta[t - 1]) + k**2 / step)
    model = (delta[1] / a[1]**2 if t == 1 else step if variance == 'step'
             else 1 / (1 / delta[t - 1] + k**2 / step))
    gap += .5 * (true / model - 1 - np.log(true / model))
  return gap


def last_kl(p, mu):
  """KL of the x_T of the data and N(0, 1)."""
  a, b, delta, _ = coefficients(p)
  mean, variance = a[-1] * CENTRE + b[-1] * mu, a[-1]**2 * SPREAD**2 + delta[-1]
  return .5 * (mean**2 + variance - 1 - np.log(variance))


# Two points of the data's mean and variance: expectations of quadratics are exact.
NODES = np.array([CENTRE - SPREAD, CENTRE + SPREAD])


@pytest.mark.parametrize('variance', ['step', 'posterior'])
@pytest.mark.parametrize('betas,steps,pull', [
    ('cosine', 2, 'zero'), ('cosine', 10, 'one_minus_sqrt_abar'),
    ('linear', 50, 'zero'),
    ('linear', 200, 'one_minus_sqrt_abar'), ('linear', 1000, 'one_minus_sqrt_abar')])
def test_mean_bound(x64, betas, steps, pull, variance):
  """E bound = -H(data) - KL_T - sum of the steps' KLs, all in closed form."""
  p = make(steps, pull, betas, variance)
  entropy = scipy.stats.norm(CENTRE, SPREAD).entropy()
  value = bound(p, NODES, -.6, CENTRE).mean()
  assert value <= -entropy
  np.testing.assert_allclose(value, -entropy - exact_gap(p, variance) - last_kl(p, -.6),
                             rtol=1e-7)


def test_bound_is_tight_in_the_limit(x64):
  """With sigma_t^2 = delta_{t|t-1} the gaps to log p_theta and to -H(data) vanish.

  KL_T, which is the schedule's and not the steps', is taken out.
  """
  entropy = scipy.stats.norm(CENTRE, SPREAD).entropy()
  gaps = []
  for steps in (50, 200, 1000):
    p = make(steps, betas='linear')
    value = bound(p, NODES, -.6, CENTRE).mean() + last_kl(p, -.6)
    gaps.append([log_density(p, NODES, -.6, CENTRE).mean() - value, -entropy - value])
  gaps = np.array(gaps)
  # First order in 1 / T: some fourfold, then fivefold smaller.
  assert (gaps[:-1, 1] / gaps[1:, 1] > 3).all(), gaps
  assert (np.abs(gaps[-1]) < 2e-3).all() and gaps[-1, 1] > 0, gaps


def test_posterior_variance_stays_loose(x64):
  """With sigma_t^2 = delta~_t the gap to -H(data) falls with T but stays large."""
  entropy = scipy.stats.norm(CENTRE, SPREAD).entropy()
  gaps = [-entropy - bound(make(steps, betas='linear', variance='posterior'), NODES,
                           -.6, CENTRE).mean() for steps in (50, 200, 1000)]
  assert gaps[0] > gaps[1] > gaps[2] > .4, gaps


def test_mixture_bound(x64):
  """Three clusters: the bound <= log sum_q pi_q p_theta(x_0 | mu_q), any tau lower."""
  p = make(200)
  means, weights = np.array([-.8, .1, .9]), np.array([.2, .5, .3])
  joint = np.stack([np.log(w) + bound(p, POINTS, m)
                    for w, m in zip(weights, means)], axis=1)
  exact = scipy.special.logsumexp(
      np.stack([np.log(w) + log_density(p, POINTS, m, m)
                for w, m in zip(weights, means)], axis=1), axis=1)
  tau, log_tau = (np.asarray(v) for v in posterior(jnp.asarray(joint)))
  value = (tau * (joint - log_tau)).sum(axis=1)
  assert (value < exact).all() and (exact - value < 1).all()
  rng = np.random.default_rng(0)
  for other in rng.dirichlet(np.ones(3), (20, len(POINTS))):
    assert ((other * (joint - np.log(other))).sum(axis=1) <= value + 1e-12).all()


def test_elbo_weights_by_kl(x64):
  """w_t f_t is the KL of two normals of one variance, t > 1; w_1 the decoder's."""
  p = make(50, variance='posterior')
  a, b, delta, abar = coefficients(p)
  weights = step_weights(p, 'elbo')
  assert weights[0] == 0
  for t in (2, 17, 50):
    k = a[t] / a[t - 1]
    variance = 1 / (1 / delta[t - 1] + k**2 / (delta[t] - k**2 * delta[t - 1]))
    to_x0 = variance * a[t - 1] / delta[t - 1]
    # An error e in n_t is one of -sqrt((1 - abar) / abar) e in x_0.
    shift = to_x0 * ((1 - abar[t]) / abar[t])**.5
    np.testing.assert_allclose(weights[t], shift**2 / (2 * variance), rtol=1e-9)
  shift = ((1 - abar[1]) / abar[1])**.5
  np.testing.assert_allclose(weights[1], shift**2 / (2 * delta[1] / a[1]**2), rtol=1e-9)


def test_uniform_weights():
  """1 / T each, none at t = 0."""
  weights = step_weights(make(50), 'uniform')
  np.testing.assert_allclose(weights, np.r_[0, np.full(50, .02)], rtol=1e-15)


def test_bits_per_dimension():
  """A uniform distribution over 256 levels costs 8 bits a pixel."""
  np.testing.assert_allclose(
      bits_per_dimension(-12 * np.log(256.), 12), 8., rtol=1e-12)
