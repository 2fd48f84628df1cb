"""Samplers as tables of rows, in float64 on the host.

In y = (x_t - b mu) / a and the noise level sigma = s / a every path is y = x_0 +
sigma eps, and its reverse transitions are those of a plain random walk (see
`jdiffclust.diffusion.paths`). With x_0^ = E[x_0 | y] of the network, a sampler is a table
of rows, one for each network evaluation,

  y <- c_y y + c_0 x_0^ + c_y' y' + c_0' x_0^' + c_z z,       z standard normal,

where y' and x_0^' are those of the row before. From noise level sigma to tau < sigma,
with w = tau / sigma:

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
            Song et al. (2021), algorithms 2 and 3: any one-step sampler, with Langevin
            steps after each of its steps, whose size follows from each image's norms

The last row returns x_0^ itself, the mean of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdiffclust.errors import UserError


class Levels(NamedTuple):
  """A path at N times, float64 on the host; every field [N].

  Attributes:
    t: the times.
    scale: a.
    pull: b.
    sigma: s / a.
    d_log_scale: alpha, per unit of time.
    d_log_sigma: rho, per unit of time.
    prior_std: standard deviation of x_t taken for pure noise.
  """

  t: np.ndarray
  scale: np.ndarray
  pull: np.ndarray
  sigma: np.ndarray
  d_log_scale: np.ndarray
  d_log_sigma: np.ndarray
  prior_std: np.ndarray


class Rows(NamedTuple):
  """The rows of a sampler, one for each of R network evaluations; every field [R].

  Attributes:
    t: time shown to the network.
    scale: a(t); the network sees x = a y + b mu.
    pull: b(t).
    sigma: noise level at t.
    c_y: weight of y.
    c_0: weight of x_0^.
    c_y_before: weight of the y of the row before.
    c_0_before: weight of the x_0^ of the row before.
    c_z: weight of the noise.
    snr: signal-to-noise ratio of a Langevin step, 0 in other rows.
    left: rows that come after it; each row draws its noise by this number.
    sigma_next: noise level after the row; 0 after the last.
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
  sigma_next: np.ndarray


class Table(NamedTuple):
  """A sampler at given times; an argument of jitted functions.

  Attributes:
    start_noise: weight of the noise in the first y.
    start_mu: weight of mu in the first y.
    rows: `Rows`.
  """

  start_noise: np.ndarray
  start_mu: np.ndarray
  rows: Rows


def _row(at: Levels, **weights):
  """Rows at n levels: a dict of fields [n], zero where `weights` has none."""
  zero = dict.fromkeys(('c_y', 'c_0', 'c_y_before', 'c_0_before', 'c_z', 'snr'), 0.)
  values = zero | dict(t=at.t, scale=at.scale, pull=at.pull, sigma=at.sigma) | weights
  return {name: np.broadcast_to(value, at.t.shape) for name, value in values.items()}


# The functions that follow make the rows of n steps. `now` and `then` are the `Levels` of
# their starts and ends. The result is a list with an entry for each row of a step, in
# their order: a dict of fields [n]. Further arguments are the sampler's own options.


def ddpm(now: Levels, then: Levels, variance: str = 'posterior') -> list[dict]:
  """The rows of ddpm; variance 'posterior' (small) or 'step' (large)."""
  _check('variance', variance, ('posterior', 'step'))
  w2 = (then.sigma / now.sigma)**2
  rise = now.sigma**2 - then.sigma**2
  factor = w2 if variance == 'posterior' else (now.scale / then.scale)**2
  return [_row(now, c_y=w2, c_0=1 - w2, c_z=np.sqrt(factor * rise))]


def ddim(now: Levels, then: Levels, eta: float = 0.) -> list[dict]:
  """The rows of ddim; eta in [0, 1]: 0 deterministic, 1 the noise of ddpm."""
  if not 0 <= eta <= 1:
    raise UserError(f'eta = {eta}: set 0 (deterministic) to 1 (ddpm).')
  c_z = eta * then.sigma / now.sigma * np.sqrt(now.sigma**2 - then.sigma**2)
  c_y = np.sqrt(then.sigma**2 - c_z**2) / now.sigma
  return [_row(now, c_y=c_y, c_0=1 - c_y, c_z=c_z)]


def _in_time(now, then, share, noise):
  """Euler's step of z = x - b mu: dz/dt = alpha z - share rho a (x_0^ - y).

  The noise sqrt(2 rho h) s is added `noise` times.
  """
  h, growth = now.t - then.t, now.scale / then.scale
  c_0 = share * h * now.d_log_sigma
  c_z = noise * now.sigma * np.sqrt(2 * now.d_log_sigma * h)
  return [_row(now, c_y=growth * (1 - h * now.d_log_scale - c_0), c_0=growth * c_0,
               c_z=growth * c_z)]


def euler(now: Levels, then: Levels) -> list[dict]:
  """The rows of euler: Euler's method for the probability-flow ODE, in steps of t."""
  return _in_time(now, then, 1., 0.)


def euler_maruyama(now: Levels, then: Levels) -> list[dict]:
  """The rows of euler_maruyama: the reverse SDE, in steps of t."""
  return _in_time(now, then, 2., 1.)


def reverse_diffusion(now: Levels, then: Levels) -> list[dict]:
  """The rows of reverse_diffusion: the forward transition read backwards."""
  r = now.scale / then.scale
  rise = now.sigma**2 - then.sigma**2
  c_0 = r * rise / now.sigma**2
  return [_row(now, c_y=r * (2 - r) - c_0, c_0=c_0, c_z=r * np.sqrt(rise))]


def heun(now: Levels, then: Levels) -> list[dict]:
  """The rows of heun: Heun's method for the probability-flow ODE, two a step."""
  w = then.sigma / now.sigma
  # The second row's y is Euler's; it starts again from the one before with the mean of
  # both slopes, (tau - sigma) / 2 [(y' - x_0') / sigma + (y - x_0) / tau].
  first, second = (w - 1) / 2, (1 - 1 / w) / 2
  return [_row(now, c_y=w, c_0=1 - w),
          _row(then, c_y=second, c_0=-second, c_y_before=1 + first, c_0_before=-first)]


def dpm_solver_pp_2m(now: Levels, then: Levels) -> list[dict]:
  """The rows of dpm_solver_pp_2m: second order in log sigma, by the last x_0^."""
  w = then.sigma / now.sigma
  h = -np.log(w)
  half = np.zeros_like(h)  # the first step has no x_0^ before it
  half[1:] = h[1:] / (2 * h[:-1])
  return [_row(now, c_y=w, c_0=(1 - w) * (1 + half), c_0_before=(w - 1) * half)]


PREDICTORS: dict[str, Callable[[Levels, Levels], list[dict]]] = {
    'ddpm': ddpm, 'ddim': ddim, 'euler': euler, 'euler_maruyama': euler_maruyama,
    'reverse_diffusion': reverse_diffusion, 'heun': heun}


def predictor_corrector(now: Levels, then: Levels, predictor: str = 'reverse_diffusion',
                        snr: float = .16, corrections: int = 1) -> list[dict]:
  """The rows of a one-step sampler, with Langevin corrections after each step.

  Args:
    now: starts of the steps.
    then: their ends.
    predictor: one of `PREDICTORS`.
    snr: signal-to-noise ratio of a Langevin step, above 0.
    corrections: the number of Langevin steps after each step, at least 1.

  Returns:
    The rows of each step.

  Raises:
    UserError: an option is out of its range.
  """
  _check('predictor', predictor, PREDICTORS)
  if not (snr > 0 and corrections >= 1):
    raise UserError(f'Langevin corrector with snr = {snr}, corrections = {corrections}: '
                    'set snr above 0 (.16 is usual) and at least 1 correction.')
  correct = _row(then, c_y=1., snr=snr)
  return PREDICTORS[predictor](now, then) + corrections * [correct]


def make_table(path, times: np.ndarray, steps: Callable) -> Table:
  """Makes the table of a sampler at given times.

  Args:
    path: a `paths.Path`.
    times: float64 [N], falling.
    steps: a function of two `Levels`, the starts and the ends of the N - 1 steps, to the
      rows of each step, such as `ddpm`.

  Returns:
    The `Table`.
  """
  levels = path.levels(times)
  part = lambda begin, end: Levels(*(values[begin:end] for values in levels))
  kinds = steps(part(None, -1), part(1, None))
  final = _row(part(-1, None), c_0=1.)
  columns = {name: np.append(np.stack([rows[name] for rows in kinds], axis=1), last)
             for name, last in final.items()}
  left = np.arange(len(columns['t']) - 1, -1, -1)
  scale, pull = levels.scale[0], levels.pull[0]
  return Table(levels.prior_std[0] / scale, -pull / scale,
               Rows(left=left, sigma_next=np.append(columns['sigma'][1:], 0.), **columns))


def _check(what, value, allowed):
  if value not in allowed:
    raise UserError(f'Unknown {what} {value!r}: set one of {", ".join(allowed)}.'
                    if allowed else f'Unknown {what} {value!r}: it has none.')
