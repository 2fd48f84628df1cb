"""The probability-flow ODE in u = log sigma, and its solvers.

dy / du = y - E[x_0 | y] is the same for every path and holds no derivative of one
(Karras et al., 2022). At high noise y grows like sigma, which costs a solver steps and
digits, so the ODE is solved for z = c y, c = 1 / sqrt(1 + sigma^2), which does not grow:

  dz / du = c^2 z - c E[x_0 | z / c].

Fields and states are of *one* image: solvers are mapped over a batch with `jax.vmap`, so
that no image's step sizes depend on its neighbours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.errors import UserError


def shrinkage(u) -> jax.Array:
  """c = 1 / sqrt(1 + sigma^2) at u = log sigma."""
  return jnp.sqrt(jax.nn.sigmoid(-2 * u))


def estimate(denoiser: Denoiser, z, u, condition) -> jax.Array:
  """E[x_0 | z] of one image.

  Args:
    denoiser: the model.
    z: c (x - b mu) / a, [...].
    u: log sigma, [].
    condition: of the image: a tree of arrays without the axis of rows.

  Returns:
    x_0, [...].
  """
  path, row = denoiser.path, as_row(condition)
  t = path.time(u)
  x = path.scale(t) / shrinkage(u) * z + path.pull(t) * denoiser.centre(row)[0]
  return denoiser.estimate(x[None], t[None], row)[0]


def as_row(condition):
  """The condition of one image, as that of a batch of one."""
  return jax.tree.map(lambda a: a[None], condition)


def flow(u, z, x0) -> jax.Array:
  """dz / du, where E[x_0 | z] is `x0`."""
  c = shrinkage(u)
  return c**2 * z - c * x0


@dataclasses.dataclass(frozen=True)
class Fixed:
  """Runge-Kutta in equal steps of u.

  Attributes:
    num_steps: at least 1.
    order: 2, Heun's method, or 4, the classical one; also the evaluations a step.
  """

  num_steps: int = 100
  order: int = 4

  def __post_init__(self):
    if self.order not in (2, 4) or self.num_steps < 1:
      raise UserError(f'ODE solver of order {self.order} in {self.num_steps} steps: set '
                      'the order to 2 or 4, and at least 1 step.')

  def solve(self, field: Callable, state, start, end) -> tuple[Any, jax.Array]:
    """Integrates d state / du = field(u, state) from u = start to end.

    Args:
      field: from u [] and a tree of arrays to a tree of the same shapes.
      state: the tree at `start`.
      start: [].
      end: [].

    Returns:
      The tree at `end`, and the evaluations of `field` used, [].
    """
    h = (end - start) / self.num_steps
    # Nodes and weights of the tableau; each stage builds on the one before alone.
    nodes, weights = {2: ((0., 1.), (.5, .5)),
                      4: ((0., .5, .5, 1.), (1 / 6, 1 / 3, 1 / 3, 1 / 6))}[self.order]

    def move(state, amount, slope):
      return jax.tree.map(lambda s, d: s + amount * d, state, slope)

    def step(state, i):
      u, result, slope = start + i.astype(h.dtype) * h, state, None
      for node, weight in zip(nodes, weights):
        stage = state if slope is None else move(state, node * h, slope)
        slope = field(u + node * h, stage)
        result = move(result, weight * h, slope)
      return result, None

    state, _ = jax.lax.scan(step, state, jnp.arange(self.num_steps))
    return state, jnp.asarray(self.num_steps * self.order)


@dataclasses.dataclass(frozen=True)
class Adaptive:
  """Tsitouras' 5(4) pair under a PID controller, by diffrax (`pip install .[ode]`).

  Attributes:
    rtol: relative tolerance of a step's error, root mean square over an image.
    atol: absolute tolerance of the same, in units of z.
    max_steps: steps, refused ones included, before it gives up.
  """

  rtol: float = 1e-3
  atol: float = 1e-3
  max_steps: int = 4096

  def __post_init__(self):
    if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
      raise UserError(f'Adaptive solver with rtol = {self.rtol}, atol = {self.atol}, '
                      f'max_steps = {self.max_steps}: set all above 0.')

  def solve(self, field: Callable, state, start, end) -> tuple[Any, jax.Array]:
    """As `Fixed.solve`; a state that `max_steps` do not bring to `end` is NaN.

    Within `shard_map` it needs check_vma=False: diffrax starts its loops with zeros
    that are the same on all devices.

    Raises:
      UserError: diffrax is not installed.
    """
    try:
      import diffrax  # slow to import, and needed here only
    except ImportError:
      raise UserError('The adaptive solver needs diffrax: pip install '
                      "'jdiffclust[ode]', or use sampler=heun.") from None
    first = (end - start) / 100
    # At high noise z stands almost still, and steps would grow until they leap over the
    # levels where it begins to move: none is longer than one power of e in sigma.
    controller = diffrax.PIDController(self.rtol, self.atol, dtmax=1.)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda u, y, _: field(u, y)), diffrax.Tsit5(), start, end, first,
        state, stepsize_controller=controller, max_steps=self.max_steps, throw=False)
    done = solution.result == diffrax.RESULTS.successful
    final = jax.tree.map(lambda a: jnp.where(done, a[-1], jnp.nan), solution.ys)
    # The last of a step's 7 stages is the first of the next step.
    return final, 6 * solution.stats['num_steps'] + 1
