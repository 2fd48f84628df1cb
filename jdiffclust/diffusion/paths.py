"""Gaussian noising paths x_t = a(t) x_0 + b(t) mu + s(t) eps, and their formulas.

A path is three functions of a time t, from t_min (data) to t_max (noise): the log scale
log a, the pull b towards a known image mu (zero except for CDDPM), and the log noise
level log sigma, sigma = s / a. With alpha = (log a)' and rho = (log sigma)', the forward
SDE dx = f dt + g dw that has these marginals is (Song et al., 2021; Karras et al., 2022,
appendix B)

  f(x, t, mu) = alpha x + (b' - alpha b) mu
  g(t)^2      = (s^2)' - 2 alpha s^2 = 2 rho s^2.

With y = (x_t - b mu) / a every path is y = x_0 + sigma eps. So the samplers, the
probability-flow ODE dy / d log sigma = y - E[x_0 | y] and the likelihood are written once
for all paths, in y and sigma. A path only says which x_t and t the network is shown.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion.process import Process
from jdiffclust.diffusion.tables import Levels


def expand(values, images) -> jax.Array:
  """Gives values axes of length 1, so that they multiply images.

  Args:
    values: one number an image, [B], or one for all, [].
    images: [B, ...].

  Returns:
    The values, [B, 1, ...] with as many axes as the images.
  """
  values = jnp.asarray(values)
  return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def on_host(function, *arguments) -> Any:
  """Evaluates a function at once, on the CPU and in float64, even within `jax.jit`.

  The precision of the session does not matter.

  Args:
    function: of JAX arrays, to a tree of JAX arrays.
    *arguments: numbers or NumPy arrays.

  Returns:
    A tree of float64 NumPy arrays.
  """
  cpu = jax.local_devices(backend='cpu')[0]
  with jax.enable_x64(True), jax.ensure_compile_time_eval(), jax.default_device(cpu):
    values = function(*(jnp.asarray(v, jnp.float64) for v in arguments))
    return jax.tree.map(np.asarray, values)


class Path(abc.ABC):
  """A path; its numbers are leaves of a pytree, so that it passes through `jax.jit`.

  Times are floats [] or [B]; images x, x0, mu, eps, y are [B, ...].

  Attributes:
    t_min: the time of the least noise.
    t_max: the time of the most noise.
    num_steps: T of a discrete process, whose network is trained at t = 1..T; None: time
      is continuous.
  """

  t_min: float
  t_max: float
  num_steps: int | None = None

  @abc.abstractmethod
  def log_scale(self, t) -> jax.Array:
    """log a(t)."""

  @abc.abstractmethod
  def log_sigma(self, t) -> jax.Array:
    """log sigma(t), rising."""

  @abc.abstractmethod
  def time(self, log_sigma) -> jax.Array:
    """The inverse of `log_sigma`."""

  def pull(self, t) -> jax.Array:
    """b(t), the weight of mu."""
    return jnp.zeros_like(t)

  def prior_std(self, t) -> jax.Array:
    """Standard deviation of the N(0, prior_std^2) that stands for x_t near t_max."""
    return jnp.ones_like(t)

  def scale(self, t) -> jax.Array:
    """a(t)."""
    return jnp.exp(self.log_scale(t))

  def sigma(self, t) -> jax.Array:
    """The noise level s / a."""
    return jnp.exp(self.log_sigma(t))

  def std(self, t) -> jax.Array:
    """s(t), the standard deviation of x_t given x_0."""
    return jnp.exp(self.log_scale(t) + self.log_sigma(t))

  def noised(self, x0, t, mu, eps) -> jax.Array:
    """x_t of x_0 and standard normal noise `eps`; with eps = 0, the mean of x_t."""
    a, b, s = (expand(v(t), x0) for v in (self.scale, self.pull, self.std))
    return a * x0 + b * mu + s * eps

  def centred(self, x, t, mu) -> jax.Array:
    """y = (x_t - b mu) / a, which is x_0 + sigma eps."""
    return (x - expand(self.pull(t), x) * mu) / expand(self.scale(t), x)

  def drift(self, x, t, mu) -> jax.Array:
    """f(x, t, mu) of the forward SDE."""
    alpha, (b, db) = _slope(self.log_scale, t), _jvp(self.pull, t)
    return expand(alpha, x) * x + expand(db - alpha * b, x) * mu

  def diffusion(self, t) -> jax.Array:
    """g(t)^2 of the forward SDE."""
    return 2 * _slope(self.log_sigma, t) * self.std(t)**2

  def levels(self, times) -> Levels:
    """Evaluates the path on the host, in float64; not for use within `jax.jit`.

    Args:
      times: [N].

    Returns:
      `Levels` of N times.
    """
    def evaluate(t):
      return (t, self.scale(t), self.pull(t), self.sigma(t), _slope(self.log_scale, t),
              _slope(self.log_sigma, t), self.prior_std(t))
    return Levels(*on_host(evaluate, times))


def _jvp(function, t):
  return jax.jvp(function, (t,), (jnp.ones_like(t),))


def _slope(function, t):
  return _jvp(function, t)[1]


@dataclass_transform(frozen_default=True, eq_default=False)
def _register(fields, static=()):
  """Makes a class a frozen dataclass, and a tree of the arrays `fields`."""
  return lambda cls: jax.tree_util.register_dataclass(
      dataclasses.dataclass(frozen=True, eq=False)(cls), fields, static)


@_register(('beta_min', 'beta_max'), ('t_min',))
class VariancePreserving(Path):
  """Song et al.'s (2021) VP-SDE, dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

  beta(t) = beta_min + t (beta_max - beta_min), t in [t_min, 1]. (Texts that write
  dx = -beta x dt + sqrt(2 beta) dw have half of this beta.)
  """

  beta_min: float = .1
  beta_max: float = 20.
  t_min: float = 1e-3
  t_max = 1.

  def log_scale(self, t):
    """-1/2 the integral of beta up to t."""
    return -.5 * t * (self.beta_min + .5 * t * (self.beta_max - self.beta_min))

  def log_sigma(self, t):
    """From a^2 + s^2 = 1."""
    return .5 * jnp.log(jnp.expm1(-2 * self.log_scale(t)))

  def time(self, log_sigma):
    """The positive t at which the integral of beta up to t is log(1 + sigma^2)."""
    integral = jax.nn.softplus(2 * log_sigma)
    rise = self.beta_max - self.beta_min
    return 2 * integral / (
        self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * rise * integral))


@_register(('sigma_min', 'sigma_max'))
class VarianceExploding(Path):
  """Song et al.'s (2021) VE-SDE: a = 1, sigma = sigma_min (sigma_max / sigma_min)^t."""

  sigma_min: float = .01
  sigma_max: float = 50.
  t_min, t_max = 0., 1.

  def log_scale(self, t):
    """Zero."""
    return jnp.zeros_like(t)

  def log_sigma(self, t):
    """Linear in t in [0, 1]."""
    low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
    return low + t * (high - low)

  def time(self, log_sigma):
    """Linear in log sigma."""
    low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
    return (log_sigma - low) / (high - low)

  def prior_std(self, t):
    """s(t), which neglects the spread of the data."""
    return self.std(t)


@_register(('log_scales', 'pulls', 'log_sigmas'))
class Tabulated(Path):
  """A path given at t = 1..T by arrays [T], linear in between.

  Since log sigma is linear in between, its inverse is exact. The slopes jump at t = 1..T.
  Formulas in y and sigma do not contain slopes; those in t do, which are `drift`,
  `diffusion` and the samplers euler and euler_maruyama.
  """

  log_scales: jax.Array | np.ndarray
  pulls: jax.Array | np.ndarray
  log_sigmas: jax.Array | np.ndarray
  t_min = 1.

  @property
  def num_steps(self):  # type: ignore[override]  # fixed like the others
    """T."""
    return len(self.log_sigmas)

  @property
  def t_max(self):  # type: ignore[override]
    """T, as a time."""
    return float(self.num_steps)

  def log_scale(self, t):
    """log a, interpolated."""
    return self._at(t, self.log_scales)

  def pull(self, t):
    """b, interpolated."""
    return self._at(t, self.pulls)

  def log_sigma(self, t):
    """log sigma, interpolated."""
    return self._at(t, self.log_sigmas)

  def time(self, log_sigma):
    """The inverse of a rising piecewise linear function."""
    table = jnp.asarray(self.log_sigmas, log_sigma.dtype)
    return jnp.interp(log_sigma, table, self._steps(table.dtype))

  def _at(self, t, table):
    return jnp.interp(t, self._steps(t.dtype), jnp.asarray(table, t.dtype))

  def _steps(self, dtype):
    return jnp.arange(1, self.num_steps + 1, dtype=dtype)


def from_process(process: Process) -> Tabulated:
  """The path of a discrete process (DDPM, CDDPM), exact at t = 1..T.

  a = (1 - m) sqrt(abar), b = m sqrt(abar), s = sqrt(delta). In a valid process sigma
  rises with t, since every step has a positive variance.

  Args:
    process: the diffusion, float64 on the host.

  Returns:
    A `Tabulated` path.
  """
  root = np.sqrt(process.alphas_cumprod[1:])
  log_scale = np.log1p(-process.m[1:]) + np.log(root)
  log_sigma = .5 * np.log(process.delta[1:]) - log_scale
  return Tabulated(log_scale, process.m[1:] * root, log_sigma)
