"""Random views of images: affine maps that leave what an image shows as it is."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Turns by 0, 1, 2 and 3 quarters, of offsets (y, x): `numpy.rot90` as often.
QUARTERS = np.array([[[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]],
                     [[0, -1], [1, 0]]], np.float32)


class AffineMaps(NamedTuple):
  """Affine maps of the image plane about its centre.

  Attributes:
    matrix: from the view's offsets (y, x) to the image's, [..., 2, 2].
    shift: in shares of the height and the width, [..., 2].
  """

  matrix: jax.Array
  shift: jax.Array


def draw_small_maps(key, num: int, options) -> AffineMaps:
  """Draws maps whose rotation, scale, shear and shift are independent normals.

  Args:
    key: a typed key.
    num: n, how many.
    options: the `views` section of a config: standard deviations of rotation (radians),
      scale (of the logarithm, each axis), shear and shift (share of the side).

  Returns:
    `AffineMaps` of n.
  """
  return _small_maps(key, num, *(np.float32(getattr(options, name)) for name in (
      'rotation', 'scale', 'shear', 'shift')))


@jax.jit(static_argnums=1)
def _small_maps(key, num, rotation, scale, shear, shift):
  normal = jax.random.normal(key, (num, 6))
  angle = rotation * normal[:, 0]
  scale = jnp.exp(scale * normal[:, 1:3])
  shear = shear * normal[:, 3]
  one, zero = jnp.ones_like(angle), jnp.zeros_like(angle)
  stack = lambda rows: jnp.stack([jnp.stack(row, -1) for row in rows], -2)
  rotate = stack([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
  slant = stack([[one, zero], [shear, one]])
  matrix = jnp.einsum('nij,njk,nk->nik', rotate, slant, scale)
  return AffineMaps(matrix, shift * normal[:, 4:])


def draw_maps(key, num: int, options) -> AffineMaps:
  """Draws small maps, and mirrors or turns what they make.

  With probability `flip` left and right are exchanged; with probability `upside_down`
  top and bottom are; with probability `quarter_turns` the view is then turned by one, two
  or three quarters, each as likely.

  Args:
    key: a typed key.
    num: n, how many.
    options: the `views` section of a config: as of `draw_small_maps`; flip, upside_down
      and quarter_turns, which are numbers by now (`symmetry.settled`).

  Returns:
    `AffineMaps` of n.
  """
  small = draw_small_maps(key, num, options)
  happens = lambda draw, share: jax.random.bernoulli(
      jax.random.fold_in(key, draw), float(share), (num,))  # 0 may be an integer
  signs = jnp.stack([jnp.where(which, -1., 1.) for which in (
      happens(2, options.upside_down), happens(1, options.flip))], -1)
  turns = jnp.where(happens(3, options.quarter_turns),
                    jax.random.randint(jax.random.fold_in(key, 4), (num,), 1, 4), 0)
  matrix = jnp.einsum('nij,njk->nik', small.matrix * signs[:, None],
                      jnp.asarray(QUARTERS)[turns])
  return small._replace(matrix=matrix)


def transform(image, maps: AffineMaps) -> jax.Array:
  """One view of one image, by bilinear interpolation; edges go on beyond the image.

  Args:
    image: [H, W, C].
    maps: a single map, [2, 2] and [2].

  Returns:
    [H, W, C].
  """
  height, width, _ = image.shape
  size = jnp.asarray([height, width], image.dtype)
  centre = (size - 1) / 2
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing='ij'))
  offsets = grid.astype(image.dtype).reshape(2, -1) - centre[:, None]
  at = maps.matrix @ offsets + (maps.shift * size + centre)[:, None]
  sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode='nearest')
  pixels = jax.vmap(sample, in_axes=(-1, None), out_axes=-1)(image, list(at))
  return pixels.reshape(image.shape)


def random_views(images, keys, options) -> jax.Array:
  """A random view of each image, [B, H, W, C], by typed keys [B]."""
  maps = jax.vmap(lambda key: jax.tree.map(lambda a: a[0], draw_maps(key, 1, options)))(
      keys)
  return jax.vmap(transform)(images, maps)
