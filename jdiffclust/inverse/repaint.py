"""RePaint (Lugmayr et al., 2022): what is known is put in, as noisy as the rest.

Before each network call the known coordinates of u are y~ + sigma z. That the rest fits
to them, the way goes back again and again: after `jump` steps down, noise of the
difference is added and they are taken anew, `repeats` times in all (the paper's
sqrt(1 - beta) x + sqrt(beta) z, in u). The paper restores missing pixels; in the
operator's coordinates (`jdiffclust.inverse.problem`) the same is done for any operator
whose decomposition is known. There must be no noise in y: below sigma = tau nothing would
hold the noisy coordinates, and going back again and again would forget them. Not exact.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jdiffclust.errors import UserError
from jdiffclust.inverse import restorer
from jdiffclust.inverse.problem import with_known


class Level(NamedTuple):
  """The state: as of `restorer.Draws`, and the noise level of u, [].

  Attributes:
    draws: `restorer.Draws`.
    sigma: noise level of u.
  """

  draws: Any
  sigma: Any


@dataclasses.dataclass(frozen=True)
class RePaint(restorer.Independent):
  """The method repaint.

  Attributes:
    jump: steps that are taken anew together.
    repeats: times that each is taken, at least 1; network calls are as many times more.
  """

  jump: int = 10
  repeats: int = 10
  allows_noise = False

  def table(self, path, num_steps, spread):
    """The rows in the order of the jumps."""
    table = super().table(path, num_steps, spread)
    order = schedule(num_steps, self.jump, self.repeats)
    rows = type(table.rows)(*(np.asarray(field)[order] for field in table.rows))
    return table._replace(rows=rows._replace(left=np.arange(len(order) - 1, -1, -1)))

  def init(self, table, denoiser, keys, given):
    """Pure noise, and what is known."""
    draws = super().init(table, denoiser, keys, given)
    first = table.rows.sigma[0]
    u = with_known(draws.u, first, restorer.start_noise(keys, draws.u), given.problem)
    return Level(draws._replace(u=u), first)

  def step(self, state, row, denoiser, keys, given):
    """Back to the row's level where the way jumps, and a step down."""
    up = jnp.sqrt(jnp.maximum(row.sigma**2 - state.sigma**2, 0.))
    u = state.draws.u + up * restorer.noise(keys, row, 0, state.draws.u)
    u = self.advance(u, row, denoiser, keys, given)
    return Level(state.draws._replace(u=u), row.sigma_next)

  def advance(self, u, row, denoiser, keys, given):
    """A step of ddpm, then what is known at its end."""
    x0 = restorer.estimate(denoiser, u, row, given.condition)
    u = restorer.ddpm_step(u, x0, row, given.moments, keys)
    return with_known(u, row.sigma_next, restorer.noise(keys, row, 2, u),
                      given.problem)

  def finish(self, state, table):
    """The last u is the image."""
    return super().finish(state.draws, table)


def schedule(num_steps: int, jump: int, repeats: int) -> np.ndarray:
  """The order in which the steps are taken.

  Args:
    num_steps: N; step 0 is the noisiest.
    jump: steps that are taken anew together, at least 1.
    repeats: times that each is taken, at least 1.

  Returns:
    Numbers of steps. Blocks of `jump` end with the last step, as in the paper's loop;
    the first block, of what is left, comes once.

  Raises:
    UserError: jump or repeats is below 1.
  """
  if jump < 1 or repeats < 1:
    raise UserError(f'repaint with jump = {jump}, repeats = {repeats}: both must be 1 or '
                    'more.')
  first = (num_steps - 1) % jump + 1
  order = list(range(min(first, num_steps)))
  for begin in range(first, num_steps, jump):
    order += list(range(begin, begin + jump)) * repeats
  return np.array(order)
