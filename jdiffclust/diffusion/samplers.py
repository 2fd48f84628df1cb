"""Samplers: from noise back to images.

In y = (x_t - b mu) / a and the noise level sigma = s / a every path is y = x_0 +
sigma eps, and its reverse transitions are those of a plain random walk (see
`jdiffclust.diffusion.paths`). With x_0^ = E[x_0 | y] of the network, every sampler is a
table of rows, one a network evaluation,

  y <- c_y y + c_0 x_0^ + c_y' y' + c_0' x_0^' + c_z z,       z standard normal,

where y' and x_0^' are those of the row before. A table is found once, in float64 on the
host; one `lax.scan` runs them all, and tables of as many rows share its compiled
program. From noise level sigma to tau < sigma, with w = tau / sigma:

  ddpm      Ho, Jain and Abbeel (2020): c_y = w^2, c_0 = 1 - w^2, and c_z^2 =
            w^2 (sigma^2 - tau^2), the 'posterior' (small) variance, or (a_sigma /
            a_tau)^2 (sigma^2 - tau^2), the 'step' (large) one
  ddim      Song, Meng and Ermon (2021): c_z = eta w sqrt(sigma^2 - tau^2), c_y =
            sqrt(tau^2 - c_z^2) / sigma, c_0 = 1 - c_y; eta = 0 is Euler's method for
            dy / d sigma = (y - x_0^) / sigma, eta = 1 is ddpm's posterior variance
  euler, euler_maruyama, reverse_diffusion
            Song et al. (2021): the probability-flow ODE and the reverse SDE of x - b mu
            in steps of t, and the SDE's forward transition read backwards
  heun      Karras et al. (2022), algorithm 1: two rows a step
  dpm_solver_pp_2m
            Lu et al. (2023): second order in log sigma with the x_0^ of the row before
  predictor_corrector
            Song et al. (2021), algorithms 2 and 3: any one-step sampler with Langevin
            steps after it, whose size follows from each image's own norms

The last row returns x_0^ itself, the mean of the decoder. `adaptive` is no table: it
integrates the probability-flow ODE with steps chosen for each image.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import ode
from jdiffclust.diffusion.grids import make_grid
from jdiffclust.diffusion.paths import Levels, Path, on_host
from jdiffclust.errors import UserError


class Rows(NamedTuple):
  """One entry a network evaluation, in their order; every field [R].

  Attributes:
    t: time shown to the network.
    scale: a(t); the network sees x = a y + b mu.
    pull: b(t).
    sigma: noise level at t.
    c_y, c_0: weights of y and x_0^.
    c_y_before, c_0_before: weights of the y and x_0^ of the row before.
    c_z: weight of the noise.
    snr: signal-to-noise ratio of a Langevin step, 0 in other rows.
    left: rows still to come; it numbers the noise.
  """

  t: np.ndarray
  scale: np.ndarray
  pull: np.ndarray
  sigma: np.ndarray
  c_y: np.ndarray
  c_0: np.ndarray
  c_y_before: np.ndarray
  c_0_before: np.ndarray
  c_z: np.ndarray
  snr: np.ndarray
  left: np.ndarray


class Table(NamedTuple):
  """A sampler; an argument of jitted functions.

  Attributes:
    start_noise: weight of the noise in the first y.
    start_mu: weight of mu in the first y.
    rows: `Rows`.
  """

  start_noise: np.ndarray
  start_mu: np.ndarray
  rows: Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Continuous:
  """The adaptive sampler; an argument of jitted functions.

  Attributes:
    path: integrated from t_max to t_min.
    solver: of `jdiffclust.diffusion.ode`.
  """

  path: Path
  solver: ode.Adaptive = dataclasses.field(metadata={'static': True})


class Drawn(NamedTuple):
  """What a sampler returns.

  Attributes:
    images: x_0, [B, ...].
    evaluations: network evaluations of each image, int [B].
    states: None, or x_t before evenly spaced rows, from pure noise on, and `images` at
      last, [k, B, ...].
  """

  images: jax.Array
  evaluations: jax.Array
  states: jax.Array | None = None


def draw(sampler: Table | Continuous, denoise: Callable, keys, mu,
         num_states: int = 0) -> Drawn:
  """Draws images.

  Args:
    sampler: of `make_sampler`.
    denoise: (x [B, ...], t float [B], mu [B, ...]) -> E[x_0 | x_t], see
      `jdiffclust.diffusion.predictions`.
    keys: typed keys [B], one an image: an image does not depend on its neighbours.
    mu: cluster means [B, ...]; zeros where there are none.
    num_states: k >= 2 states to keep, 0 for none.

  Returns:
    `Drawn`.

  Raises:
    UserError: more states than the sampler has, or any of the adaptive one.
  """
  sampler = jax.tree.map(jnp.asarray, sampler)
  if isinstance(sampler, Continuous):
    if num_states:
      raise UserError('The adaptive sampler keeps no states: set num_states to 0, or '
                      'another sampler.')
    return _integrate(sampler, denoise, keys, mu)
  return _run(sampler, denoise, keys, mu, num_states)


def _normal(keys, number, images):
  one = lambda k: jax.random.normal(
      jax.random.fold_in(k, number), images.shape[1:], images.dtype)
  return jax.vmap(one)(keys)


def _run(table, denoise, keys, mu, num_states):
  num_rows = len(table.rows.t)
  if num_states and not 2 <= num_states <= num_rows + 1:
    raise UserError(f'{num_states} states of a sampler of {num_rows} network evaluations'
                    f': set num_states to 2..{num_rows + 1}, or 0 for none.')
  kept = np.rint(np.linspace(0, num_rows, num_states)).astype(int)[:-1]
  slots = np.full(num_rows, num_states)  # one beyond the last: not kept
  slots[kept] = np.arange(len(kept))

  def step(carry, now):
    (y, y_before, x0_before, states), (row, slot) = carry, now
    x = row.scale * y + row.pull * mu
    if num_states:
      states = states.at[slot].set(x, mode='drop')
    x0 = denoise(x, jnp.full(len(x), row.t), mu)
    z = _normal(keys, row.left, y)
    new = (row.c_y * y + row.c_0 * x0 + row.c_y_before * y_before
           + row.c_0_before * x0_before + row.c_z * z)
    kappa = _langevin_step(row.snr, row.sigma, y - x0)
    new += kappa * (x0 - y) + jnp.sqrt(2 * kappa) * row.sigma * z
    return (new, y, x0, states), None

  start = table.start_noise * _normal(keys, num_rows, mu) + table.start_mu * mu
  states = jnp.broadcast_to(start, (num_states, *start.shape)) if num_states else None
  (images, *_, states), _ = jax.lax.scan(
      step, (start, start, start, states), (table.rows, jnp.asarray(slots)))
  if num_states:
    states = states.at[-1].set(images)
  return Drawn(images, jnp.full(len(mu), num_rows), states)


def _langevin_step(snr, sigma, removed):
  """kappa of y + kappa sigma^2 score + sqrt(2 kappa) sigma z, score = -removed / sigma^2.

  Song et al.'s (2021) step 2 (snr norm(z) / norm(score))^2 in units of sigma^2, with
  the expected norm(z)^2 = D. It is cut at 1, where Langevin's steps are still stable
  for any data: an image that happens to need no denoising would jump far.
  """
  axes = tuple(range(1, removed.ndim))
  norm2 = jnp.sum(removed**2, axes, keepdims=True)
  step = 2 * (snr * sigma)**2 * removed[0].size
  return step / jnp.maximum(norm2, jnp.maximum(step, jnp.finfo(norm2.dtype).tiny))


def _integrate(sampler, denoise, keys, mu):
  path = sampler.path
  t = jnp.asarray([path.t_max, path.t_min], mu.dtype)
  start, end = path.log_sigma(t)
  x = path.prior_std(t[0]) * _normal(keys, 0, mu)
  z = ode.shrinkage(start) * path.centred(x, t[0], mu)

  def one(z, mu):
    field = lambda u, z: ode.flow(u, z, ode.estimate(path, denoise, z, u, mu))
    z, evaluations = sampler.solver.solve(field, z, start, end)
    return ode.estimate(path, denoise, z, end, mu), evaluations + 1

  return Drawn(*jax.vmap(one)(z, mu))


def _row(at: Levels, **weights):
  """The rows of one kind at levels [n]: those of `weights`, others zero."""
  zero = dict.fromkeys(('c_y', 'c_0', 'c_y_before', 'c_0_before', 'c_z', 'snr'), 0.)
  values = zero | dict(t=at.t, scale=at.scale, pull=at.pull, sigma=at.sigma) | weights
  return {name: np.broadcast_to(value, at.t.shape) for name, value in values.items()}


# What follows maps levels [n] of the n steps' starts and ends to the rows of each step,
# in their order. Options stand after `then`.


def _ddpm(now: Levels, then: Levels, variance: str = 'posterior'):
  _check('variance', variance, ('posterior', 'step'))
  w2 = (then.sigma / now.sigma)**2
  rise = now.sigma**2 - then.sigma**2
  factor = w2 if variance == 'posterior' else (now.scale / then.scale)**2
  return [_row(now, c_y=w2, c_0=1 - w2, c_z=np.sqrt(factor * rise))]


def _ddim(now: Levels, then: Levels, eta: float = 0.):
  if not 0 <= eta <= 1:
    raise UserError(f'eta = {eta}: set 0 (deterministic) to 1 (ddpm).')
  c_z = eta * then.sigma / now.sigma * np.sqrt(now.sigma**2 - then.sigma**2)
  c_y = np.sqrt(then.sigma**2 - c_z**2) / now.sigma
  return [_row(now, c_y=c_y, c_0=1 - c_y, c_z=c_z)]


def _in_time(now, then, share, noise):
  """Euler's step of z = x - b mu: dz/dt = alpha z - share rho a (x_0^ - y)."""
  h, growth = now.t - then.t, now.scale / then.scale
  c_0 = share * h * now.d_log_sigma
  c_z = noise * now.sigma * np.sqrt(2 * now.d_log_sigma * h)
  return [_row(now, c_y=growth * (1 - h * now.d_log_scale - c_0), c_0=growth * c_0,
               c_z=growth * c_z)]


def _euler(now: Levels, then: Levels):
  return _in_time(now, then, 1., 0.)


def _euler_maruyama(now: Levels, then: Levels):
  return _in_time(now, then, 2., 1.)


def _reverse_diffusion(now: Levels, then: Levels):
  r = now.scale / then.scale
  rise = now.sigma**2 - then.sigma**2
  c_0 = r * rise / now.sigma**2
  return [_row(now, c_y=r * (2 - r) - c_0, c_0=c_0, c_z=r * np.sqrt(rise))]


def _heun(now: Levels, then: Levels):
  w = then.sigma / now.sigma
  # The second row's y is Euler's; it starts again from the one before with the mean of
  # both slopes, (tau - sigma) / 2 [(y' - x_0') / sigma + (y - x_0) / tau].
  first, second = (w - 1) / 2, (1 - 1 / w) / 2
  return [_row(now, c_y=w, c_0=1 - w),
          _row(then, c_y=second, c_0=-second, c_y_before=1 + first, c_0_before=-first)]


def _dpm_solver_pp_2m(now: Levels, then: Levels):
  w = then.sigma / now.sigma
  h = -np.log(w)
  half = np.zeros_like(h)  # the first step has no x_0^ before it
  half[1:] = h[1:] / (2 * h[:-1])
  return [_row(now, c_y=w, c_0=(1 - w) * (1 + half), c_0_before=(w - 1) * half)]


_PREDICTORS = {'ddpm': _ddpm, 'ddim': _ddim, 'euler': _euler,
               'euler_maruyama': _euler_maruyama,
               'reverse_diffusion': _reverse_diffusion, 'heun': _heun}


def _predictor_corrector(now: Levels, then: Levels, predictor: str = 'reverse_diffusion',
                         snr: float = .16, corrections: int = 1):
  _check('predictor', predictor, _PREDICTORS)
  if not (snr > 0 and corrections >= 1):
    raise UserError(f'Langevin corrector with snr = {snr}, corrections = {corrections}: '
                    'set snr above 0 (.16 is usual) and at least 1 correction.')
  correct = _row(then, c_y=1., snr=snr)
  return _PREDICTORS[predictor](now, then) + corrections * [correct]


# Name -> (starts, ends of the steps, **options) -> rows.
TABLES = {**_PREDICTORS, 'dpm_solver_pp_2m': _dpm_solver_pp_2m,
           'predictor_corrector': _predictor_corrector}
SAMPLERS = (*TABLES, 'adaptive')


def sampler_options(name: str) -> dict:
  """The options of a sampler of `SAMPLERS` and their defaults."""
  function, skip = (ode.Adaptive, 0) if name == 'adaptive' else (TABLES[name], 2)
  parameters = list(inspect.signature(function).parameters.values())[skip:]
  return {p.name: p.default for p in parameters}


def make_sampler(name: str, path: Path, num_steps: int, grid: str = 'uniform',
                 **options) -> Table | Continuous:
  """Prepares a sampler, on the host.

  Args:
    name: one of `SAMPLERS`.
    path: the path.
    num_steps: N times of the grid; the network is evaluated N times, by heun 2 N - 1, by
      predictor_corrector N + corrections (N - 1). Not used by adaptive.
    grid: one of `grids.GRIDS`. Not used by adaptive.
    **options: see `sampler_options`: ddpm variance ('posterior' or 'step'), ddim eta in
      [0, 1], predictor_corrector predictor, snr and corrections, adaptive rtol, atol and
      max_steps.

  Returns:
    The sampler, for `draw`.

  Raises:
    UserError: an unknown name, option or value.
  """
  _check('sampler', name, SAMPLERS)
  for option in options:
    _check(f'option of {name}', option, sampler_options(name))
  if name == 'adaptive':
    return Continuous(path, ode.Adaptive(**options))
  return make_table(path, make_grid(grid, path, num_steps),
                    lambda now, then: TABLES[name](now, then, **options))


def make_table(path: Path, times: np.ndarray, steps: Callable) -> Table:
  """The table of a sampler at given times.

  Args:
    path: the path.
    times: float64 [N], falling.
    steps: (starts, ends of the N - 1 steps, two `Levels`) -> the rows of each step.
  """
  levels = path.levels(times)
  part = lambda begin, end: Levels(*(values[begin:end] for values in levels))
  kinds = steps(part(None, -1), part(1, None))
  final = _row(part(-1, None), c_0=1.)
  columns = {name: np.append(np.stack([rows[name] for rows in kinds], axis=1), last)
             for name, last in final.items()}
  left = np.arange(len(columns['t']) - 1, -1, -1)
  scale, pull = levels.scale[0], levels.pull[0]
  return Table(on_host(path.prior_std, times[0]) / scale, -pull / scale,
               Rows(left=left, **columns))


def _check(what, value, allowed):
  if value not in allowed:
    raise UserError(f'Unknown {what} {value!r}: set one of {", ".join(allowed)}.'
                    if allowed else f'Unknown {what} {value!r}: it has none.')
