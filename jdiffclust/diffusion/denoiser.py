"""The one door to a model: its E[x_0 | x_t, condition], fitted or analytic.

Samplers, likelihoods and whatever restores images ask a model for no more than this. A
*condition* is a tree of rows [B, ...], one an image: the mean image mu of CDDPM, the
latent z of ClusterDDPM, None where there is nothing to condition on.

A denoiser is a tree of arrays with static functions: it passes through `jax.jit` as an
argument, and a function of denoisers to denoisers may keep others among its `variables`
(see `guided`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.paths import Path, expand


def itself(condition) -> jax.Array:
  """The centre where the condition is mu."""
  return condition


@dataclasses.dataclass(frozen=True)
class Unpulled:
  """The centre of a path without a pull: zeros, one for all rows.

  Attributes:
    shape: of an image.
  """

  shape: tuple[int, ...]

  def __call__(self, condition) -> jax.Array:
    """mu, [1, ...], whatever the condition."""
    del condition
    return jnp.zeros((1, *self.shape))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser:
  """A model, as samplers see it.

  Attributes:
    path: the noising path of its images.
    variables: what the function needs, a tree of arrays.
    function: (variables, path, x [B, ...], t float [B], condition) -> x_0 [B, ...].
    centring: condition -> mu [B, ...], or one for all, [1, ...]: the image that the path
      pulls to.
  """

  path: Path
  variables: Any
  function: Callable = dataclasses.field(metadata={'static': True})
  centring: Callable = dataclasses.field(metadata={'static': True}, default=itself)

  def estimate(self, x, t, condition) -> jax.Array:
    """E[x_0 | x_t, condition].

    Args:
      x: x_t, [B, ...].
      t: times, float [B].
      condition: a tree of rows [B, ...].

    Returns:
      x_0, [B, ...].
    """
    return self.function(self.variables, self.path, x, t, condition)

  def centre(self, condition) -> jax.Array:
    """mu of a condition, [B, ...] or [1, ...]; its shape is that of the images."""
    return self.centring(condition)


def guided(denoiser: Denoiser, reference: Denoiser, scale) -> Denoiser:
  """Classifier-free guidance (Ho and Salimans, 2021): away from the reference.

  reference + scale (denoiser - reference); the same holds for eps and the score. Scale 1
  is the denoiser, 0 the reference, more exaggerates what sets them apart.

  Args:
    denoiser: the model.
    reference: what to move away from; of the same path and conditions.
    scale: [] or [B].

  Returns:
    A denoiser of the same path and conditions.
  """
  return Denoiser(denoiser.path, (denoiser, reference, scale), _guided,
                  denoiser.centring)


def _guided(variables, path, x, t, condition):
  del path
  denoiser, reference, scale = variables
  base = reference.estimate(x, t, condition)
  return base + expand(scale, x) * (denoiser.estimate(x, t, condition) - base)
