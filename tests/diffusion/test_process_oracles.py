"""Schedules, pulls and coefficients against 80-bit composition and Bayes' rule."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jdiffclust.config import default_config
from jdiffclust.diffusion import forward, predictions, reverse, schedules
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.process import (
    as_float32, at, make_process, process_from_config)
from jdiffclust.errors import UserError

BETAS = ('linear', 'cosine', 'sigmoid')
PULLS = ('one_minus_sqrt_abar', 'cdiffuse', 'linear', 'zero')
STEPS = (2, 10, 50, 200, 1000)
QUICK = hypothesis.settings(max_examples=40, deadline=None, derandomize=True,
                            database=None)


def wide(values):
  """Extended precision, so that the oracle's rounding does not count."""
  return np.asarray(values, np.longdouble)


def reference_betas(name, steps):
  """The published formulas, one step at a time; beta_0 = 0."""
  betas = [0.]
  for t in range(1, steps + 1):
    if name == 'cosine':
      f = [np.cos((s / steps + .008) / 1.008 * np.pi / 2) ** 2 for s in (t - 1, t)]
      betas.append(min(1 - f[1] / f[0], .999))
      continue
    low, high = 1e-4 * 1000 / steps, .02 * 1000 / steps
    u = (t - 1) / (steps - 1)
    weight = u if name == 'linear' else 1 / (1 + np.exp(6 - 12 * u))
    betas.append(low + (high - low) * weight)
  return np.array(betas)


def reference_pull(name, abar):
  """m_t of each family."""
  if name == 'cdiffuse':
    return ((1 - abar) / abar**.5)**.5
  if name == 'linear':
    return .999 * (1 - abar[-1]**.5) * np.arange(len(abar)) / (len(abar) - 1)
  return np.zeros(len(abar)) if name == 'zero' else 1 - abar**.5


def first_bad(betas, m):
  """The first t where no such Markov chain exists, or None."""
  abar, variance = 1., 0.
  for t in range(1, len(betas)):
    if not 0 <= m[t] < 1 or m[t] < m[t - 1]:
      return t
    previous = variance
    abar *= 1 - betas[t]
    variance = 1 - abar - m[t]**2 * abar
    ratio = (1 - m[t]) / (1 - m[t - 1])
    if variance <= 0 or variance - ratio**2 * (1 - betas[t]) * previous <= 0:
      return t
  return None


def check_composition(process):
  """Composes the one-step kernels and compares with the marginals."""
  x0_weight, mu_weight, variance = wide(1), wide(0), wide(0)
  roots = np.sqrt(wide(process.alphas_cumprod))
  for t in range(1, process.num_steps + 1):
    r, alpha = wide(process.r[t]), wide(process.alpha[t])
    x0_weight = r * np.sqrt(alpha) * x0_weight
    mu_weight = (r * np.sqrt(alpha) * mu_weight
                 + (process.m[t] - r * process.m[t - 1]) * roots[t])
    variance = r**2 * alpha * variance + process.delta_step[t]
    assert abs(x0_weight - (1 - wide(process.m[t])) * roots[t]) < 1e-12
    assert abs(mu_weight - process.m[t] * roots[t]) < 1e-12
    assert abs(variance - process.delta[t]) < 1e-12
    assert process.delta_step[t] > 0


def check_bayes(process):
  """Multiplies q(x_{t-1} | x_0) by q(x_t | x_{t-1}) and completes the square."""
  abar, m = wide(process.alphas_cumprod), wide(process.m)
  for t in range(2, process.num_steps + 1):
    before = (1 - abar[t - 1]) - m[t - 1]**2 * abar[t - 1]
    ratio = (1 - m[t]) / (1 - m[t - 1])
    slope = ratio * np.sqrt(abar[t] / abar[t - 1])
    shift = (m[t] - ratio * m[t - 1]) * np.sqrt(abar[t])
    noise = 1 - abar[t] - m[t]**2 * abar[t] - slope**2 * before
    variance = 1 / (1 / before + slope**2 / noise)
    weights = dict(
        a_x=variance * slope / noise,
        a_0=variance * (1 - m[t - 1]) * np.sqrt(abar[t - 1]) / before,
        a_mu=variance * (m[t - 1] * np.sqrt(abar[t - 1]) / before
                         - slope * shift / noise))
    np.testing.assert_allclose(float(process.delta_posterior[t]), float(variance),
                               rtol=1e-11)
    for name, value in weights.items():
      np.testing.assert_allclose(getattr(process, name)[t], float(value), rtol=1e-11,
                                 atol=1e-13, err_msg=f'{name} at t = {t}')


def config_process(betas, pull, steps):
  options = default_config().diffusion
  options.update(betas=betas, pull=pull, num_steps=steps)
  return process_from_config(options)


@pytest.mark.parametrize('steps', STEPS)
@pytest.mark.parametrize('pull', PULLS)
@pytest.mark.parametrize('name', BETAS)
def test_every_combination(name, pull, steps):
  """Valid: kernels compose and Bayes holds. Invalid: the first bad t is named."""
  betas = reference_betas(name, steps)
  bad = np.flatnonzero((betas[1:] <= 0) | (betas[1:] >= 1)) + 1
  if bad.size:
    with pytest.raises(UserError, match=rf'beta_{bad[0]} = '):
      config_process(name, pull, steps)
    return
  t = first_bad(betas, reference_pull(pull, np.cumprod(1 - betas)))
  if t is not None:
    with pytest.raises(UserError, match=rf'first at t = {t} '):
      config_process(name, pull, steps)
    return
  process = config_process(name, pull, steps)
  np.testing.assert_allclose(process.beta, betas, rtol=1e-9, atol=0)
  np.testing.assert_allclose(
      process.m, reference_pull(pull, np.cumprod(1 - process.beta)), atol=1e-14)
  assert process.num_steps == steps and process.m[0] == process.delta[0] == 0
  check_composition(process)
  check_bayes(process)


@pytest.mark.parametrize('name', BETAS)
@pytest.mark.parametrize('steps', (50, 200, 1000))
def test_default_pull_is_valid_everywhere(name, steps):
  """The default pull is accepted, and its signal-to-noise ratio falls with t."""
  p = config_process(name, 'one_minus_sqrt_abar', steps)
  ratio = ((1 - p.m)**2 * p.alphas_cumprod)[1:] / p.delta[1:]
  assert (np.diff(ratio) < 0).all()


def test_named_refusals():
  """CDiffuSE's pull at T = 1000 and rescaled betas at T = 10 are refused by name."""
  abar = np.cumprod(1 - reference_betas('linear', 1000))
  over = next(t for t in range(1001) if (1 - abar[t]) / abar[t]**.5 >= 1)
  t = first_bad(reference_betas('linear', 1000), reference_pull('cdiffuse', abar))
  assert t <= over < 500
  with pytest.raises(UserError, match=rf"'cdiffuse' is invalid .* t = {t} "):
    config_process('linear', 'cdiffuse', 1000)
  # beta_t = .01 + 1.99 (t - 1) / 9 reaches 1 between t = 5 and t = 6.
  with pytest.raises(UserError, match=r'beta_6 = 1\.1'):
    config_process('linear', 'zero', 10)


def test_cdiffuse_on_its_own_schedule():
  """Where abar_T stays near .4 CDiffuSE's pull is valid and ends below 1."""
  betas = schedules.make_betas('linear', 50, 1e-4, .035, rescale=False)
  abar = np.cumprod(1 - betas)
  assert .35 < abar[-1] < .45
  pull = schedules.make_pull('cdiffuse', abar)
  t = first_bad(betas, pull)
  if t is None:
    check_composition(make_process(betas, pull))
  else:
    with pytest.raises(UserError, match=rf'first at t = {t} '):
      make_process(betas, pull)


@st.composite
def valid_chains(draw):
  """Random betas, and pulls with sqrt(alpha_t) <= r_t <= 1."""
  steps = draw(st.integers(2, 25))
  floats = lambda low, high: st.lists(
      st.floats(low, high), min_size=steps, max_size=steps)
  betas = np.concatenate([[0.], draw(floats(1e-3, .6))])
  share = np.concatenate([[0.], draw(floats(0., 1.))])
  m = 1 - np.cumprod(1 - share * (1 - np.sqrt(1 - betas)))
  return betas, m


@QUICK
@hypothesis.given(valid_chains())
def test_random_pulls(chain):
  """Composition and Bayes hold for pulls of any shape."""
  betas, m = chain
  assert first_bad(betas, m) is None
  process = make_process(betas, m)
  check_composition(process)
  check_bayes(process)


def test_no_variance_at_all_is_refused():
  """delta_1 = 1 - abar - m^2 abar of exactly 0: m = sqrt((1 - abar) / abar)."""
  betas = np.array([0., .235, .1])
  m = np.sqrt(.235 / (1 - .235))
  assert .235 - m**2 * (1 - .235) == 0
  with pytest.raises(UserError, match='first at t = 1 .* the variance delta_t'):
    make_process(betas, np.array([0., m, m]))


@QUICK
@hypothesis.given(st.lists(st.floats(1e-3, .5), min_size=2, max_size=8), st.data())
def test_random_refusals(betas, data):
  """Arbitrary m_t: refused exactly when no chain exists, at the first bad t."""
  betas = np.concatenate([[0.], betas])
  m = np.concatenate([[0.], data.draw(st.lists(
      st.floats(-.1, 1.1), min_size=len(betas) - 1, max_size=len(betas) - 1))])
  if data.draw(st.booleans()):
    m = np.sort(np.abs(m))
    m[0] = 0.
  t = first_bad(betas, m)
  if t is None:
    check_composition(make_process(betas, m))
  else:
    with pytest.raises(UserError, match=rf'first at t = {t} '):
      make_process(betas, m)


def test_nan_pull_is_refused():
  """A pull that is not a number is refused where it first occurs."""
  m = np.array([0., .01, np.nan, .02])
  with pytest.raises(UserError, match='first at t = 2 '):
    make_process(np.array([0., .1, .1, .1]), m)


def test_without_pull_it_is_ddpm():
  """m = 0: Ho, Jain and Abbeel's equations 6, 7 and 11."""
  p = config_process('linear', 'zero', 200)
  abar, alpha, beta = p.alphas_cumprod[1:], p.alpha[1:], p.beta[1:]
  before = p.alphas_cumprod[:-1]
  expected = dict(
      delta=1 - abar, delta_step=beta, r=np.ones(200),
      delta_posterior=beta * (1 - before) / (1 - abar),
      a_x=np.sqrt(alpha) * (1 - before) / (1 - abar),
      a_0=np.sqrt(before) * beta / (1 - abar), a_mu=np.zeros(200),
      c_x=1 / np.sqrt(alpha), c_mu=np.zeros(200),
      c_eta=-beta / np.sqrt(alpha * (1 - abar)))
  for name, value in expected.items():
    np.testing.assert_allclose(getattr(p, name)[1:], value, rtol=1e-10, atol=1e-14,
                               err_msg=name)
  # beta_1 / alpha_1 is the variance of x_0 = (x_1 - noise) / sqrt(alpha_1).
  np.testing.assert_allclose(p.reverse_variance[1], beta[0] / alpha[0], rtol=1e-10)


def images(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize('pull', ('one_minus_sqrt_abar', 'linear', 'zero'))
def test_forward_and_reverse_means(x64, pull):
  """n_t's two forms agree; mu_theta of n_t is mu~; x_0 is recovered from n_t."""
  p = jax.tree.map(jnp.asarray, config_process('linear', pull, 50))
  t = jnp.arange(1, 51)
  x0, mu, eps = (images(k, 50, 2, 2, 1) for k in range(3))
  x_t = forward.noised(p, x0, t, mu, eps)
  n_t = forward.noise_target(p, x0, t, mu, eps)
  abar = at(p.alphas_cumprod, t, 4)
  np.testing.assert_allclose(n_t, (x_t - jnp.sqrt(abar) * x0) / jnp.sqrt(1 - abar),
                             rtol=0, atol=1e-12)
  np.testing.assert_allclose(reverse.reverse_mean(p, x_t, t, mu, n_t),
                             forward.posterior_mean(p, x_t, x0, t, mu), atol=1e-11)
  path = from_process(config_process('linear', pull, 50))
  np.testing.assert_allclose(
      predictions.x0_from_eta(path, x_t, t.astype(float), mu, n_t), x0, atol=1e-11)


def test_noised_is_the_marginal(x64):
  """x_t = (1-m) sqrt(abar) x_0 + m sqrt(abar) mu + sqrt(delta) eps, in NumPy."""
  p = config_process('linear', 'one_minus_sqrt_abar', 50)
  on_device = jax.tree.map(jnp.asarray, p)
  x0, mu, eps = (images(k, 3, 2, 2, 3) for k in range(3))
  t = np.array([1, 20, 50])
  col = lambda a: a[:, None, None, None]
  root, m = col(p.alphas_cumprod[t]**.5), col(p.m[t])
  mean = (1 - m) * root * np.asarray(x0) + m * root * np.asarray(mu)
  noise = col(1 - p.alphas_cumprod[t] - p.m[t]**2 * p.alphas_cumprod[t])**.5
  np.testing.assert_allclose(forward.noised(on_device, x0, jnp.asarray(t), mu, eps),
                             mean + noise * np.asarray(eps), atol=1e-13)


def test_steps_lead_to_the_marginal(x64):
  """Equation 14's mean of x_t, at the marginal mean of x_{t-1}, is the marginal mean."""
  p = jax.tree.map(jnp.asarray, config_process('cosine', 'one_minus_sqrt_abar', 200))
  x0, mu = images(0, 199, 2, 1, 1), images(1, 199, 2, 1, 1)
  t = jnp.arange(2, 201)
  before = forward.marginal_mean(p, x0, t - 1, mu)
  column = lambda a: np.asarray(a)[:, None, None, None]
  alpha, r, m = (column(a[t]) for a in (p.alpha, p.r, p.m))
  after = (r * alpha**.5 * before
           + (m - r * column(p.m[t - 1])) * column(p.alphas_cumprod[t])**.5 * mu)
  np.testing.assert_allclose(after, forward.marginal_mean(p, x0, t, mu), atol=1e-12)


@pytest.mark.parametrize('pull', ('one_minus_sqrt_abar', 'zero'))
def test_prior_kl_by_quadrature(x64, pull):
  """KL_T equals the numerically integrated KL(q(x_T) || N(0, 1)), pixel by pixel."""
  p = config_process('linear', pull, 50)
  x0, mu = images(3, 2, 2, 1, 1) * 3, images(4, 2, 2, 1, 1) * 3
  kl = forward.prior_kl(jax.tree.map(jnp.asarray, p), x0, mu)
  root, m = p.alphas_cumprod[-1]**.5, p.m[-1]
  scale = (1 - root**2 - m**2 * root**2)**.5
  for i in range(2):
    total = 0.
    for x, c in zip(np.ravel(x0[i]), np.ravel(mu[i])):
      q = scipy.stats.norm((1 - m) * root * x + m * root * c, scale)
      total += scipy.integrate.quad(
          lambda z: q.pdf(z) * (q.logpdf(z) - scipy.stats.norm.logpdf(z)), -12, 12,
          epsabs=1e-13)[0]
    np.testing.assert_allclose(kl[i], total, rtol=1e-8, atol=1e-11)


def test_float32_copy_keeps_seven_digits():
  """Device coefficients are float32 roundings of the float64 ones."""
  p = config_process('linear', 'one_minus_sqrt_abar', 1000)
  for name, value in as_float32(p)._asdict().items():
    assert value.dtype == jnp.float32, name
    np.testing.assert_allclose(value, getattr(p, name), rtol=6e-8, atol=1e-37)


def test_at_broadcasts_over_images():
  """Coefficients are picked by t and given image axes."""
  values = jnp.arange(5.)
  assert at(values, jnp.array([4, 1]), 4).shape == (2, 1, 1, 1)
  assert at(values, jnp.array([4, 1]), 4).ravel().tolist() == [4., 1.]
  assert at(values, jnp.array(3), 2).shape == (1, 1)


def test_message_names_values():
  """The refusal prints m_t and abar_t of the bad step."""
  betas = np.array([0., .1, .2])
  with pytest.raises(UserError) as caught:
    make_process(betas, np.array([0., .2, .1]), 'mine')
  text = str(caught.value)
  found = re.search(r't = (\d+) \(m_t = ([\d.]+), abar_t = ([\d.]+)\)', text)
  assert found.groups() == ('2', '0.1', '0.72') and 'falls' in text
