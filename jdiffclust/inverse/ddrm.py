"""DDRM, denoising diffusion restoration (Kawar, Elad, Ermon and Song, 2022).

Coordinate by coordinate of the operator, with c the coordinates of x_0^ and y~ what is
seen of them (`jdiffclust.inverse.problem`), u at the next level sigma' is

  not seen:         c + sqrt(1 - eta^2) sigma' (u - c) / sigma + eta sigma' z
  sigma' < tau:     c + sqrt(1 - eta^2) sigma' (y~ - c) / tau + eta sigma' z
  sigma' >= tau:    (1 - eta_b) c + eta_b y~ + sqrt(sigma'^2 - tau^2 eta_b^2) z,

equations 7 and 8. No gradient is taken. Not exact, not even for Gaussians.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jdiffclust.inverse import restorer
from jdiffclust.inverse.problem import coordinates, with_known


@dataclasses.dataclass(frozen=True)
class DDRM(restorer.Independent):
  """The method ddrm.

  Attributes:
    eta: the share of new noise where nothing better is known, in [0, 1].
    eta_b: the weight of what is seen where it is less noisy than u, in [0, 1].
  """

  eta: float = .85
  eta_b: float = 1.

  def init(self, table, denoiser, keys, given):
    """What is seen, as noisy as the first row."""
    state = super().init(table, denoiser, keys, given)
    u = with_known(state.u, table.rows.sigma[0], restorer.start_noise(keys, state.u),
                   given.problem)
    return state._replace(u=u)

  def advance(self, u, row, denoiser, keys, given):
    """Coordinate by coordinate."""
    operator = given.problem.operator
    x0 = restorer.estimate(denoiser, u, row, given.condition)
    known, after = coordinates(given.problem, len(u)), row.sigma_next
    c0, c = operator.into(x0), operator.into(u)
    z = restorer.noise(keys, row, 0, u)
    tau = jnp.where(known.seen & (known.tau > 0), known.tau, 1.)
    kept, fresh = jnp.sqrt(1 - self.eta**2) * after, self.eta * after * z
    unseen = c0 + kept * (c - c0) / row.sigma + fresh
    noisier = c0 + kept * (known.value - c0) / tau + fresh
    clear = after >= known.tau
    tau = jnp.where(clear, known.tau, 0.) * self.eta_b
    clearer = ((1 - self.eta_b) * c0 + self.eta_b * known.value
               + jnp.sqrt(jnp.maximum(after**2 - tau**2, 0.)) * z)
    found = jnp.where(clear, clearer, noisier)
    return operator.back(jnp.where(known.seen, found, unseen))
