"""Random views of images: affine maps that leave what an image shows as it is."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class AffineMaps(NamedTuple):
  """Affine maps of the image plane about its centre.

  Attributes:
    matrix: from the view's offsets (y, x) to the image's, [..., 2, 2].
    shift: in shares of the height and the width, [..., 2].
  """

  matrix: jax.Array
  shift: jax.Array


def draw_maps(key, num: int, options) -> AffineMaps:
  """Draws maps whose rotation, scale, shear and shift are independent normals.

  With probability `flip` the view is mirrored, left and right exchanged.

  Args:
    key: a typed key.
    num: n, how many.
    options: the `views` section of a config: standard deviations of rotation (radians),
      scale (of the logarithm, each axis), shear and shift (share of the side); flip.

  Returns:
    `AffineMaps` of n.
  """
  normal = jax.random.normal(key, (num, 6))
  angle = options.rotation * normal[:, 0]
  scale = jnp.exp(options.scale * normal[:, 1:3])
  shear = options.shear * normal[:, 3]
  one, zero = jnp.ones_like(angle), jnp.zeros_like(angle)
  stack = lambda rows: jnp.stack([jnp.stack(row, -1) for row in rows], -2)
  rotate = stack([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
  slant = stack([[one, zero], [shear, one]])
  mirrored = jax.random.bernoulli(jax.random.fold_in(key, 1), options.flip, (num,))
  scale = scale * jnp.stack([one, jnp.where(mirrored, -1., 1.)], -1)
  matrix = jnp.einsum('nij,njk,nk->nik', rotate, slant, scale)
  return AffineMaps(matrix, options.shift * normal[:, 4:])


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
