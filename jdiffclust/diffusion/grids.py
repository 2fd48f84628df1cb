"""Time grids: the N falling times at which a sampler calls the network.

After the last of them stands the clean image, sigma = 0. On a discrete process times
are whole numbers in 1..T, but for the Karras grid, whose times lie between.
"""

from __future__ import annotations

import numpy as np

from jdiffclust.diffusion.paths import Path, on_host
from jdiffclust.errors import UserError
from jdiffclust.registry import GRIDS


def uniform(path: Path, num_steps: int) -> np.ndarray:
  """From t_max to t_min, both included ("linspace" of Lin et al., 2024, table 2)."""
  return np.linspace(path.t_max, path.t_min, num_steps)


def leading(path: Path, num_steps: int) -> np.ndarray:
  """Equal strides up from t_min; t_max is left out, unless all steps are taken."""
  if path.num_steps:
    stride = path.num_steps // num_steps
  else:
    stride = (path.t_max - path.t_min) / num_steps
  return path.t_min + stride * np.arange(num_steps)[::-1]


def trailing(path: Path, num_steps: int) -> np.ndarray:
  """Equal strides down from t_max; t_min is left out, unless all steps are taken."""
  span = path.num_steps or path.t_max - path.t_min
  return path.t_max - span * (np.arange(num_steps) / num_steps)


def karras_levels(high: float, low: float, num_steps: int, rho: float = 7.):
  """N noise levels, falling from high to low, sigma^(1 / rho) in equal strides."""
  return np.linspace(high ** (1 / rho), low ** (1 / rho), num_steps) ** rho


def karras(path: Path, num_steps: int, rho: float = 7.) -> np.ndarray:
  """sigma^(1 / rho) in equal strides (Karras et al., 2022, equation 5)."""
  high, low = np.exp(on_host(path.log_sigma, [path.t_max, path.t_min]))
  sigma = karras_levels(high, low, num_steps, rho)
  # The inverse's rounding shall not lead outside.
  return np.clip(on_host(path.time, np.log(sigma)), path.t_min, path.t_max)


def make_grid(name: str, path: Path, num_steps: int) -> np.ndarray:
  """The times of a named grid.

  Args:
    name: one of `registry.GRIDS`.
    path: the path.
    num_steps: N, at least 1; at most T on a discrete process.

  Returns:
    float64 [N], falling.

  Raises:
    UserError: an unknown name or an N out of range.
  """
  grid = GRIDS[name]
  most = path.num_steps
  if num_steps < 1 or (most and num_steps > most):
    allowed = f'1..{most}, the steps of the process' if most else 'at least 1'
    raise UserError(f'{num_steps} sampling steps: set {allowed}.')
  times = grid(path, num_steps)
  return np.rint(times) if most and name != 'karras' else times
