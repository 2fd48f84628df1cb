"""PiGDM, pseudoinverse-guided diffusion (Song, Vahdat, Mardani and Kautz, 2023).

E[x_0 | u, y] = x_0^ + sigma^2 grad_u log p(y | u), with p(y | u) of
`jdiffclust.inverse.twist`, takes the place of x_0^ in a step of ddpm. In the limit of
many steps it is exact for Gaussian images of independent pixels of one variance, and for
no others. (The paper has r^2 = sigma^2 / (1 + sigma^2); here it is the model's own.)
"""

from __future__ import annotations

import dataclasses

from jdiffclust.inverse import restorer
from jdiffclust.inverse.twist import log_twist


@dataclasses.dataclass(frozen=True)
class PiGDM(restorer.Independent):
  """The method pigdm."""

  needs_spectrum = False
  needs_noise = True

  def advance(self, u, row, denoiser, keys, given):
    """A step of ddpm by E[x_0 | u, y]."""
    x0, pullback = restorer.estimate_and_pullback(denoiser, u, row, given.condition)
    variance = given.moments.widest(row.sigma)
    _, gradient = log_twist(given.problem, x0, variance)
    x0 = x0 + row.sigma**2 * pullback(gradient)
    return restorer.ddpm_step(u, x0, row, given.moments, keys)
