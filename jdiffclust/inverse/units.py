"""Pixels as they are stored, and as the model has them: -1 to 1."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jdiffclust.errors import UserError
from jdiffclust.inverse.operators import (
    Channels, Convolution, Function, Matrix, Operator, Separable)
from jdiffclust.inverse.problem import Problem

SLACK = 1.5  # observations lie within so many times the range, and 6 sigma


class Units(NamedTuple):
  """Of stored pixels.

  Attributes:
    low: the value that is -1 in the model.
    high: the value that is 1.
  """

  low: float
  high: float

  @property
  def scale(self) -> float:
    """What a stored unit is in the model."""
    return 2 / (self.high - self.low)

  def stored(self, images) -> np.ndarray:
    """Images of the model in stored units, float32."""
    images = np.asarray(images, np.float64)
    return ((images + 1) / self.scale + self.low).astype(np.float32)

  def problem(self, operator: Operator, observation, noise: float) -> Problem:
    """A problem in units of the model, of one in stored units.

    With x = a p + b, of stored pixels p, A x = a A p + b A 1. What a mask hides of y
    may be anything, NaN too.

    Args:
      operator: A, linear, the same in all units.
      observation: y = A p + noise, [n, ...].
      noise: standard deviation, in stored units.

    Raises:
      UserError: observations that no image of the range has.
    """
    ones = np.asarray(operator.apply(jnp.ones((1, *operator.shape))), np.float64)
    observation = np.asarray(observation, np.float64)
    if observation.ndim != ones.ndim or observation.shape[1:] != ones.shape[1:]:
      return Problem(operator, observation, np.float32(noise * self.scale))  # refused
    observation = np.where(is_told(operator, ones.shape), observation, 0.)
    y = self.scale * (observation - self.low * ones) - ones
    if not isinstance(operator, (Matrix, Function)):
      most = SLACK * _reach(operator) + 6 * noise * self.scale
      beyond = np.nanmax(np.abs(y), initial=0.)
      if beyond > most:
        which = np.unravel_index(np.nanargmax(np.abs(y)), y.shape)
        raise UserError(
            f'Observation {which[0]} has the pixel {observation[which]:g}, but pixels '
            f'go from {self.low:g} to {self.high:g} and sigma is {noise:g}: give '
            'observations and sigma in the units of these pixels, or the range of '
            'yours (pixel_range).')
    return Problem(operator, y.astype(np.float32), np.float32(noise * self.scale))


def is_told(operator: Operator, shape: tuple[int, ...]) -> np.ndarray:
  """Which numbers of observations say something, bool; the rest may be anything."""
  return np.asarray(operator.told(jnp.ones(shape, jnp.float32))) > 0


def _reach(operator: Operator) -> float:
  """The largest sum of an observation's absolute weights: that of images in [-1, 1]."""
  def of_matrix(u, s, v):
    weights = np.asarray(u * s) @ np.asarray(v)[:, :len(s)].T
    return float(np.abs(weights).sum(axis=1).max())
  if isinstance(operator, Separable):
    return of_matrix(*operator.rows) * of_matrix(*operator.columns)
  if isinstance(operator, Channels):
    return of_matrix(*operator.factors)
  if isinstance(operator, Convolution):
    return float(np.abs(np.fft.ifft2(np.asarray(operator.spectrum)).real).sum())
  return float(np.abs(np.asarray(operator.apply(jnp.ones((1, *operator.shape))))).max())
