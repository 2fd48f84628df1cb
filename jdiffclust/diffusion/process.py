"""The coefficients of the pulled diffusion, all in float64 on the host.

The forward process of the cluster with mean image mu (CDDPM: Niang, Bouveyron,
Corneli and Latouche, 2024) is, with abar_t = prod_{s<=t} alpha_s,

  q(x_t | x_0, mu)     = N((1 - m_t) sqrt(abar_t) x_0 + m_t sqrt(abar_t) mu, delta_t I)
  q(x_t | x_{t-1}, mu) = N(r_t sqrt(alpha_t) x_{t-1}
                           + (m_t - r_t m_{t-1}) sqrt(abar_t) mu, delta_{t|t-1} I)

  r_t           = (1 - m_t) / (1 - m_{t-1})
  delta_t       = (1 - abar_t) - m_t^2 abar_t      (the paper squares 1 - abar_t)
  delta_{t|t-1} = delta_t - r_t^2 alpha_t delta_{t-1}   (the paper lacks alpha_t
                                                          delta_{t-1})

and its reversal given x_0, q(x_{t-1} | x_t, x_0, mu) = N(mu~, delta~_t I), has

  mu~ = a_x x_t + a_0 x_0 + a_mu mu                                  (equation 19)
  a_x  = r_t (delta_{t-1} / delta_t) sqrt(alpha_t)
  a_0  = (1 - m_{t-1}) (delta_{t|t-1} / delta_t) sqrt(abar_{t-1})
  a_mu = (m_{t-1} delta_t - m_t r_t alpha_t delta_{t-1}) sqrt(abar_{t-1}) / delta_t
  delta~_t = delta_{t|t-1} delta_{t-1} / delta_t

Replacing x_0 by (x_t - sqrt(1 - abar_t) eta) / sqrt(abar_t) gives the network's form
of the reverse mean, mu_theta = c_x x_t + c_mu mu + c_eta eta_theta(x_t, t, mu), with

  c_x   = a_x + (1 - m_{t-1}) (delta_{t|t-1} / delta_t) / sqrt(alpha_t)
  c_mu  = a_mu                           (the paper prints sqrt(alpha_{t-1}) in it)
  c_eta = -(1 - m_{t-1}) (delta_{t|t-1} / delta_t) sqrt(1 - abar_t) / sqrt(alpha_t)

The variance sigma_t^2 of p_theta(x_{t-1} | x_t, mu), the paper's hyper-parameter
delta-bar, is delta_{t|t-1} or delta~_t: Ho et al.'s fixed large and small variance. The
first makes the bound tight as T grows, the second does not for any data but a single
point (docs/benchmarks.md). sigma_1^2 is the decoder's variance.

With m = 0 all of it is the DDPM of Ho, Jain and Abbeel (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import schedules
from jdiffclust.errors import UserError


class Process(NamedTuple):
  """A pulled diffusion; every field an array over t = 0..T, of shape [T + 1].

  Attributes:
    beta: variance of the DDPM step, beta[0] = 0.
    alpha: 1 - beta.
    alphas_cumprod: abar_t, the product of alpha up to t.
    m: the pull towards the cluster mean, m[0] = 0, rising, below 1.
    r: (1 - m_t) / (1 - m_{t-1}).
    delta: variance of q(x_t | x_0, mu).
    delta_step: variance of q(x_t | x_{t-1}, mu).
    delta_posterior: variance of q(x_{t-1} | x_t, x_0, mu), 0 at t = 1.
    a_x, a_0, a_mu: weights of x_t, x_0 and mu in the posterior mean.
    c_x, c_mu, c_eta: weights of x_t, mu and eta_theta in the reverse mean.
    reverse_variance: sigma_t^2 of p_theta(x_{t-1} | x_t, mu); at t = 1 of p(x_0 | x_1,
      mu), see `make_process`; 0 at t = 0.
  """

  beta: jax.Array | np.ndarray
  alpha: jax.Array | np.ndarray
  alphas_cumprod: jax.Array | np.ndarray
  m: jax.Array | np.ndarray
  r: jax.Array | np.ndarray
  delta: jax.Array | np.ndarray
  delta_step: jax.Array | np.ndarray
  delta_posterior: jax.Array | np.ndarray
  a_x: jax.Array | np.ndarray
  a_0: jax.Array | np.ndarray
  a_mu: jax.Array | np.ndarray
  c_x: jax.Array | np.ndarray
  c_mu: jax.Array | np.ndarray
  c_eta: jax.Array | np.ndarray
  reverse_variance: jax.Array | np.ndarray

  @property
  def num_steps(self) -> int:
    """T, the number of noise levels."""
    return self.beta.shape[0] - 1


def make_process(betas: np.ndarray, m: np.ndarray, name: str = 'this',
                 reverse_variance: str = 'step') -> Process:
  """Derives every coefficient from beta_t and m_t.

  The decoder's variance is the one of x_0 given x_1 under a flat prior,
  delta_1 / ((1 - m_1)^2 abar_1): the posterior variance delta~_1 is zero, since
  delta_0 is, and would make the decoder's density infinite.

  Args:
    betas: float64 [T + 1], betas[0] = 0, the others in (0, 1).
    m: float64 [T + 1], m[0] = 0.
    name: what the error calls the pull.
    reverse_variance: sigma_t^2 for t > 1: 'step', delta_{t|t-1}, or 'posterior',
      delta~_t.

  Returns:
    A `Process` of float64 NumPy arrays.

  Raises:
    UserError: the pull is invalid: m_t outside [0, 1), falling, or delta_t or
      delta_{t|t-1} not positive. The first bad t is named.
  """
  alpha = 1 - betas
  abar = np.cumprod(alpha)
  _check_pull(m, alpha, abar, name)
  previous = lambda a: np.concatenate([a[:1], a[:-1]])
  m_, abar_ = previous(m), previous(abar)
  r = (1 - m) / (1 - m_)
  delta = (1 - abar) - m**2 * abar
  delta_ = previous(delta)
  delta_step = delta - r**2 * alpha * delta_
  # The clean image, t = 0, has no step: its 0/0 are set to zero.
  over_delta = np.concatenate([[0.], 1 / delta[1:]])
  gain = (1 - m_) * delta_step * over_delta
  a_x = r * delta_ * over_delta * np.sqrt(alpha)
  a_mu = (m_ * delta - m * r * alpha * delta_) * np.sqrt(abar_) * over_delta
  delta_posterior = delta_step * delta_ * over_delta
  variance = (delta_step if reverse_variance == 'step' else delta_posterior).copy()
  variance[1] = delta[1] / ((1 - m[1])**2 * abar[1])
  return Process(
      beta=betas, alpha=alpha, alphas_cumprod=abar, m=m, r=r, delta=delta,
      delta_step=delta_step, delta_posterior=delta_posterior,
      a_x=a_x, a_0=gain * np.sqrt(abar_), a_mu=a_mu,
      c_x=a_x + gain / np.sqrt(alpha), c_mu=a_mu,
      c_eta=-gain * np.sqrt(1 - abar) / np.sqrt(alpha),
      reverse_variance=variance)


def _check_pull(m, alpha, abar, name):
  delta = (1 - abar) - m**2 * abar
  with np.errstate(divide='ignore', invalid='ignore'):
    r = (1 - m[1:]) / (1 - m[:-1])
    delta_step = delta[1:] - r**2 * alpha[1:] * delta[:-1]
  reasons = (
      (~((m[1:] >= 0) & (m[1:] < 1)), 'm_t is outside [0, 1)'),
      (m[1:] < m[:-1], 'm_t falls'),
      (~(delta[1:] > 0), 'the variance delta_t = 1 - abar_t - m_t^2 abar_t is not '
       'positive'),
      (~(delta_step > 0), 'the step variance delta_{t|t-1} is not positive'))
  bad = np.any([mask for mask, _ in reasons], axis=0)
  if bad.any():
    t = int(np.flatnonzero(bad)[0]) + 1
    why = next(text for mask, text in reasons if mask[t - 1])
    raise UserError(
        f"The pull {name!r} is invalid on this noise schedule, first at t = {t} "
        f'(m_t = {m[t]:.4g}, abar_t = {abar[t]:.4g}): {why}. Set '
        "--config.diffusion.pull=one_minus_sqrt_abar, which is valid on every schedule, "
        'or less noise (config.diffusion.beta_end).')


def process_from_config(diffusion) -> Process:
  """The process that the `diffusion` section of a config describes.

  Args:
    diffusion: options num_steps, betas, beta_start, beta_end, rescale_betas, pull,
      reverse_variance.

  Returns:
    A `Process` of float64 NumPy arrays.

  Raises:
    UserError: betas outside (0, 1) or an invalid pull.
  """
  betas = schedules.make_betas(diffusion.betas, diffusion.num_steps,
                               diffusion.beta_start, diffusion.beta_end,
                               diffusion.rescale_betas)
  pull = schedules.make_pull(diffusion.pull, np.cumprod(1 - betas))
  return make_process(betas, pull, diffusion.pull, diffusion.reverse_variance)


def as_float32(process: Process) -> Process:
  """Casts the host's float64 coefficients to float32 arrays of the default device."""
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), process)


def at(coefficient: jax.Array | np.ndarray, t: jax.Array, ndim: int) -> jax.Array:
  """Coefficients at integer steps, shaped to multiply images.

  Args:
    coefficient: a field of a `Process`, [T + 1].
    t: integer steps in 0..T, shape [B] or [].
    ndim: number of axes of the images they will multiply.

  Returns:
    coefficient[t], with axes of length 1 appended up to `ndim` axes.
  """
  values = coefficient[t]
  return values.reshape(values.shape + (1,) * (ndim - values.ndim))
