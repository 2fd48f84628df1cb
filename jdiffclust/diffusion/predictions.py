"""What networks predict, and the x_0 that it implies (Tweedie's formula).

Samplers ask for E[x_0 | x_t] (`jdiffclust.diffusion.denoiser`). Here x and mu are
[B, ...], t float [B]. With y = (x - b mu) / a the other predictions are

  noise     eps   = (y - x_0) / sigma
  score           = -eps / s           (Tweedie: x_0 = y + sigma s score)
  velocity  v     = cos eps - sin x_0,  tan = sigma      (Salimans and Ho, 2022)
  eta       n_t   = (b (mu - x_0) + s eps) / sqrt(s^2 + b^2)
                  = (x - (a + b) x_0) / sqrt(s^2 + b^2)

n_t is CDDPM's target: there a + b = sqrt(abar_t) and s^2 + b^2 = 1 - abar_t. Without a
pull it is eps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.denoiser import Denoiser, itself
from jdiffclust.diffusion.paths import Path, expand
from jdiffclust.errors import UserError


def noise_from_x0(path: Path, x, t, mu, x0) -> jax.Array:
  """eps."""
  return (path.centred(x, t, mu) - x0) / expand(path.sigma(t), x)


def x0_from_noise(path: Path, x, t, mu, eps) -> jax.Array:
  """x_0 of eps."""
  return path.centred(x, t, mu) - expand(path.sigma(t), x) * eps


def score_from_x0(path: Path, x, t, mu, x0) -> jax.Array:
  """The score of x_t."""
  return -noise_from_x0(path, x, t, mu, x0) / expand(path.std(t), x)


def x0_from_score(path: Path, x, t, mu, score) -> jax.Array:
  """x_0 of the score."""
  return x0_from_noise(path, x, t, mu, -expand(path.std(t), x) * score)


def velocity_from_x0(path: Path, x, t, mu, x0) -> jax.Array:
  """v."""
  cos, sin = _angle(path, t, x)
  return cos * noise_from_x0(path, x, t, mu, x0) - sin * x0


def x0_from_velocity(path: Path, x, t, mu, v) -> jax.Array:
  """x_0 of v: turning (x_0, eps) by the angle gives (cos y, v)."""
  cos, sin = _angle(path, t, x)
  return cos**2 * path.centred(x, t, mu) - sin * v


def eta_from_x0(path: Path, x, t, mu, x0) -> jax.Array:
  """n_t; see also `forward.noise_target`."""
  root, spread = _eta_weights(path, t, x)
  return (x - root * x0) / spread


def x0_from_eta(path: Path, x, t, mu, eta) -> jax.Array:
  """x_0 of n_t."""
  root, spread = _eta_weights(path, t, x)
  return (x - spread * eta) / root


def _angle(path, t, x):
  sigma = path.sigma(t)
  cos = 1 / jnp.sqrt(1 + sigma**2)
  return expand(cos, x), expand(sigma * cos, x)


def _eta_weights(path, t, x):
  a, b, s = path.scale(t), path.pull(t), path.std(t)
  return expand(a + b, x), expand(jnp.hypot(s, b), x)


# Kind of prediction -> (from x_0, to x_0).
KINDS = {
    'x0': (lambda path, x, t, mu, x0: x0, lambda path, x, t, mu, x0: x0),
    'noise': (noise_from_x0, x0_from_noise),
    'score': (score_from_x0, x0_from_score),
    'velocity': (velocity_from_x0, x0_from_velocity),
    'eta': (eta_from_x0, x0_from_eta),
}


@dataclasses.dataclass(frozen=True)
class Predicted:
  """The function of a `Denoiser` whose network predicts something else than x_0.

  Attributes:
    predict: (variables, x [B, ...], t [B], condition) -> [B, ...].
    kind: what it predicts, one of `KINDS`.
    centring: condition -> mu.
  """

  predict: Callable
  kind: str
  centring: Callable

  def __call__(self, variables, path: Path, x, t, condition) -> jax.Array:
    """x_0 of the prediction."""
    to_x0 = KINDS[self.kind][1]
    return to_x0(path, x, t, self.centring(condition),
                 self.predict(variables, x, t, condition))


def denoiser(path: Path, variables, predict: Callable, kind: str,
             centring: Callable = itself) -> Denoiser:
  """The `Denoiser` of a network.

  Args:
    path: the path.
    variables: the network's.
    predict: (variables, x [B, ...], t [B], condition) -> [B, ...].
    kind: what it predicts, one of `KINDS`.
    centring: condition -> mu; by default the condition is mu.

  Raises:
    UserError: an unknown kind.
  """
  if kind not in KINDS:
    raise UserError(f'Unknown prediction {kind!r}: set one of {", ".join(KINDS)}.')
  return Denoiser(path, variables, Predicted(predict, kind, centring), centring)
