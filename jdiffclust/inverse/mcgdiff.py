"""MCGdiff (Cardoso, Janati El Idrissi, Le Corff and Moulines, 2024): guided particles.

Particles walk back from noise by the model's own steps, and each looks ahead to what is
seen. In the coordinates of the operator y~ = c + tau n is seen of each
(`jdiffclust.inverse.problem`), which is u at the level tau. As long as sigma > tau a
particle has a potential, p(y~ | u) for x_0 ~ N(mu, rho^2) of the model's own centre and
spread,

  g_sigma(u) = N(y~; h(u), p_sigma),    h(u) linear;

with rho infinite it is the paper's N(y~; u, sigma^2 - tau^2), which takes no account of
how far images spread, and whose weights are heavy-tailed where there is much noise. With
the model's step to the next level, u' ~ N(m, v), a particle's weight is multiplied by the
integral of step times potential over g_sigma(u), and u' is drawn from their product: all
Gaussian, coordinate by coordinate.

Below tau the coordinate is free. It meets y~ exactly at tau: where that lies between two
levels, the step is taken in two, first to tau, where p = 0, and on from there. That needs
no grid made for the operator, as the paper's does. A coordinate noisier than the first
level has no potential; its likelihood is the last weight.

Corrections of the paper's Algorithm 1: every step has its weight, the first and the last
too; and K has sigma_{s+1}^2, the variance of the step. Departures: rho; the variance of a
step, r^2 of `jdiffclust.inverse.moments` (0 would be the paper's), so that few steps do;
and particles are resampled only where their weights are uneven.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdiffclust.inverse import particles, restorer
from jdiffclust.inverse.problem import Coordinates, coordinates, row_sums
from jdiffclust.inverse.twist import log_normal


class Potential(NamedTuple):
  """N(y~; slope u + offset, variance), coordinate by coordinate."""

  slope: jax.Array
  offset: jax.Array
  variance: jax.Array

  def log(self, value, mean, variance=0.):
    """log of the integral of N(u; mean, variance) times it, at y~ = value."""
    return log_normal(value, self.slope * mean + self.offset,
                      self.slope**2 * variance + self.variance)

  def product(self, value, mean, variance, z):
    """u drawn from N(u; mean, variance) times it, by standard normal z."""
    total = self.slope**2 * variance + self.variance
    gain = variance * self.slope / total
    return (mean + gain * (value - self.slope * mean - self.offset)
            + jnp.sqrt(variance * self.variance / total) * z)


def potential(sigma, tau, mu, spread) -> Potential:
  """p(u at tau | u at sigma) where x_0 ~ N(mu, spread^2).

  Args:
    sigma: noise level, at least tau.
    tau: of y~.
    mu: coordinates of the centre.
    spread: rho.
  """
  kept = spread**2 / (spread**2 + sigma**2)  # E[x_0 | u] = mu + kept (u - mu)
  w2 = (tau / sigma)**2
  _, variance = restorer.bridge(0., 0., sigma, tau, kept * sigma**2)
  return Potential(kept + w2 * (1 - kept), (1 - w2) * (1 - kept) * mu, variance)


def _safe(known: Coordinates, sigma) -> tuple[jax.Array, jax.Array]:
  """Where sigma > tau; and tau there, 0 elsewhere."""
  active = sigma > known.tau
  return active, jnp.where(active, known.tau, 0.)


@dataclasses.dataclass(frozen=True)
class MCGdiff(particles.Particles):
  """The method mcgdiff."""

  def init(self, table, denoiser, keys, given):
    """u of the first level, drawn from its prior times its potential."""
    operator, spread = given.problem.operator, given.moments.spread
    known = coordinates(given.problem, len(keys))
    sigma, variance = table.rows.sigma[0], table.start_noise**2
    u = restorer.start(table, denoiser, keys, given.condition)
    mu = _centre(denoiser, operator, given.condition, u)
    active, tau = _safe(known, sigma)
    first, m = potential(sigma, tau, mu, spread), table.start_mu * mu
    z = restorer.start_noise(keys, u)
    seen = first.product(known.value, m, variance, z)
    u = operator.back(jnp.where(active, seen, operator.into(u)))
    factors = jnp.where(active, first.log(known.value, m, variance), 0.)
    state = self.begun(u, given, keys, sigma)
    return state._replace(
        cloud=particles.reweighted(state.cloud, row_sums(factors) - known.log_scale))

  def step(self, state, row, denoiser, keys, given):
    """Weights by what lies ahead, resampling, and the step."""
    cloud, operator = state.cloud, given.problem.operator
    known, spread = coordinates(given.problem, len(keys)), given.moments.spread
    u, condition, pending = cloud.rows
    sigma, after, last = row.sigma, row.sigma_next, row.left == 0
    x0 = restorer.estimate(denoiser, u, row, condition)
    c, c0, mu = operator.into(u), operator.into(x0), _centre(denoiser, operator,
                                                             condition, u)
    r2 = given.moments.variance(sigma)
    active, tau = _safe(known, sigma)
    # Where y~ is met: at the next level, or at tau if that comes first.
    at = jnp.where(active, jnp.maximum(after, tau), after)
    m, v = restorer.bridge(c, c0, sigma, at, r2)
    then = _potential_at(at, tau, mu, spread)
    factors = (then.log(known.value, m, v)
               - potential(sigma, tau, mu, spread).log(known.value, c))
    # The last weight is the likelihood of what was never met.
    faint = known.seen & (known.tau >= state.first) & last
    rest = log_normal(known.value, c0, r2 + jnp.where(faint, known.tau, 1.)**2)
    cloud = particles.reweighted(cloud, row_sums(
        jnp.where(active, factors, jnp.where(faint, rest, 0.))))
    cloud = self.resampled(cloud._replace(rows=(condition, c0, m, mu)), row, keys)
    condition, c0, m, mu = cloud.rows
    z = restorer.noise(keys, row, 0, m)
    seen = _potential_at(at, tau, mu, spread).product(known.value, m, v, z)
    free = m + jnp.where(last, 0., jnp.sqrt(v)) * z
    found = jnp.where(active, seen, free)
    # From tau on to the next level, by x_0 given u at tau.
    met = active & (at > after)
    away = 1 - (at / sigma)**2
    gain = r2 * away / v
    on, v = restorer.bridge(found, c0 + gain * (found - m), jnp.where(met, at, 1.), after,
                            r2 * (1 - gain * away))
    on = on + jnp.where(last, 0., jnp.sqrt(v)) * restorer.noise(keys, row, 1, m)
    rows = particles.Carried(operator.back(jnp.where(met, on, found)), condition, pending)
    return state._replace(cloud=cloud._replace(rows=rows))


def _centre(denoiser, operator, condition, like):
  """Coordinates of the conditions' centres, [R, H, W, C]."""
  return operator.into(jnp.broadcast_to(denoiser.centre(condition), like.shape))


def _potential_at(at, tau, mu, spread):
  """The potential; at = 0, where tau is, too, that of u = y~."""
  return potential(jnp.where(at > 0, at, 1.), jnp.where(at > 0, tau, 1.), mu, spread)
