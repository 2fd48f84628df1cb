"""Images by their edges: where in an image there is how much contrast, which way.

A shift by a pixel changes the pixels along every contour, a lamp's brightness all of
them; how much contour of which direction runs through the upper left quarter hardly
changes. So these distances fail on other images than those of pixels do, and need
neither views nor training. The descriptor is that of Lowe (2004, section 6; there of an
image's surroundings of a keypoint), taken of the whole image, without its Gaussian
window and its clipping.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

CELLS = 4  # a side
DIRECTIONS = 8
FAINT = 1e-3  # of the histogram: below, rounding would decide where an edge runs
BATCH = 256  # images described at once


def sharing(positions, nodes: int, period: bool):
  """Linear interpolation: the weights [..., nodes] of nodes 0, 1, ... at positions."""
  nodes_at = jnp.arange(nodes, dtype=positions.dtype)
  away = jnp.abs(jax.vmap(lambda node: positions - node, out_axes=-1)(nodes_at))
  if period:
    away = jnp.minimum(away, nodes - away)
  return jnp.maximum(1 - away, 0)


def _cells(side: int):
  """The weights [side, CELLS] of the cells for a row of pixels; 0 beyond the last."""
  centres = (jnp.arange(side, dtype=jnp.float32) + .5) / side * CELLS - .5
  return sharing(centres, CELLS, False)


def orientations(image) -> jax.Array:
  """The histogram of the gradient's directions in each cell of an image.

  The gradient is the central difference of the channel where it is largest, the image's
  border repeated. A pixel adds the gradient's norm, divided linearly between the two
  nearest directions and the nearest cells.

  Args:
    image: [H, W, C].

  Returns:
    [4, 4, 8], of norm 1, or less if the image is all but constant.
  """
  height, width, _ = image.shape
  beyond = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode='edge')
  slopes = jnp.stack([beyond[2:, 1:-1] - beyond[:-2, 1:-1],
                      beyond[1:-1, 2:] - beyond[1:-1, :-2]]) / 2
  steepest = jnp.argmax(jnp.sum(slopes**2, axis=0), axis=-1)
  rise, run = jnp.take_along_axis(slopes, steepest[None, ..., None], axis=-1)[..., 0]
  norm = jnp.hypot(rise, run)
  direction = jnp.arctan2(rise, run) / (2 * jnp.pi) * DIRECTIONS % DIRECTIONS
  shares = sharing(direction, DIRECTIONS, True)
  histogram = jnp.einsum('yx,yxd,ya,xb->abd', norm, shares, _cells(height), _cells(width))
  return histogram / jnp.maximum(jnp.sqrt(jnp.sum(histogram**2)), FAINT)


@jax.jit
def _of_all(images):
  return jax.lax.map(orientations, images, batch_size=BATCH)


def describe(images) -> np.ndarray:
  """`orientations` of images [n, H, W, C]: float32 [n, 4, 4, 8]."""
  return np.asarray(_of_all(jnp.asarray(images, jnp.float32)))
