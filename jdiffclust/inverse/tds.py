"""TDS, the twisted diffusion sampler (Wu, Trippe, Naesseth, Blei and Cunningham, 2023).

Particles walk by the model's steps N(m, v), pushed by the gradient g of the twist log
psi(u) = log p(y | u) of `jdiffclust.inverse.twist` (PiGDM's, which is DPS's idea with a
variance), and weights make up for all that the twist is wrong in:

  u' ~ N(m + v g, v),      weight  psi(u') N(u'; m, v) / (N(u'; m + v g, v) psi(u)).

psi(u') is known once the network has seen u', in the next row: what is left of the weight
waits until then. In the last row x_0 ~ N(x_0^, r^2) meets y exactly, as in `mcgdiff`;
without a singular value decomposition x_0^ is taken, and weighted by its likelihood.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jdiffclust.inverse import particles, restorer
from jdiffclust.inverse.problem import coordinates, is_spectral, residuals, row_sums
from jdiffclust.inverse.twist import log_normal, log_twist


@dataclasses.dataclass(frozen=True)
class TDS(particles.Particles):
  """The method tds."""

  needs_spectrum = False
  needs_noise = True

  def init(self, table, denoiser, keys, given):
    """Pure noise, not weighted yet."""
    u = restorer.start(table, denoiser, keys, given.condition)
    return self.begun(u, given, keys, table.rows.sigma[0])

  def step(self, state, row, denoiser, keys, given):
    """The weights, resampling, and the pushed step."""
    cloud, problem = state.cloud, given.problem
    u, condition, pending = cloud.rows
    x0, pullback = restorer.estimate_and_pullback(denoiser, u, row, condition)
    variance = given.moments.variance(row.sigma)
    log_psi, gradient = log_twist(problem, x0, given.moments.widest(row.sigma))
    cloud = particles.reweighted(cloud, pending + log_psi)
    carried = condition, u, x0, pullback(gradient), log_psi
    cloud = self.resampled(cloud._replace(rows=carried), row, keys)
    condition, u, x0, push, log_psi = cloud.rows
    m, v = restorer.bridge(u, x0, row.sigma, row.sigma_next, variance)
    z = restorer.noise(keys, row, 0, u)
    new = m + v * push + jnp.sqrt(v) * z
    pending = v * row_sums(push**2) / 2 - row_sums(push * (new - m)) - log_psi
    image, factors = _end(problem, x0, variance, z)
    factors = factors - log_psi
    last = row.left == 0
    rows = particles.Carried(jnp.where(last, image, new), condition,
                             jnp.where(last, factors, pending))
    return state._replace(cloud=cloud._replace(rows=rows))

  def finish(self, state, table):
    """The last weights, and draws of equal weight."""
    cloud = particles.reweighted(state.cloud, state.cloud.rows.pending)
    return super().finish(state._replace(cloud=cloud), table)


def _end(problem, x0, variance, z):
  """x_0 that fits to y, and the log density of y given u, [R]."""
  if not is_spectral(problem.operator):
    likelihood = row_sums(log_normal(residuals(problem, x0), 0., problem.noise**2))
    return x0, likelihood
  known, c0 = coordinates(problem, len(x0)), problem.operator.into(x0)
  noise2 = jnp.where(known.seen, known.tau, 0.)**2
  gain = variance / (variance + noise2)
  seen = c0 + gain * (known.value - c0) + jnp.sqrt(gain * noise2) * z
  likelihood, _ = log_twist(problem, x0, variance)
  return problem.operator.back(jnp.where(known.seen, seen, c0)), likelihood
