"""Images by their colours: how much of which, wherever it is.

The histogram of an image's colours says nothing of form, nor pixels' distances much of
colour where forms or places differ. A pixel is divided linearly among the nearest of
LEVELS^3 colours, so that a little more light changes little. Of shares p and q of pixels
the Euclidean distance of sqrt(p) and sqrt(q) is Hellinger's, up to a factor: small shares
count, too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.clustering.starts.edges import sharing

LEVELS = 4  # of each channel
BATCH = 256  # images described at once
GREY = .01  # mean range of the channels at a pixel, of [-1, 1], below which all is grey


def in_colour(images) -> bool:
  """Whether images [n, H, W, C] have three channels that differ."""
  return images.shape[-1] == 3 and float(np.mean(np.ptp(images, axis=-1))) > GREY


def histogram(image) -> jax.Array:
  """The roots of the shares of an image's colours.

  Args:
    image: [H, W, 3] in [-1, 1]; what lies beyond counts as the ends.

  Returns:
    [LEVELS, LEVELS, LEVELS], of norm 1: levels of the three channels.
  """
  places = jnp.clip((image + 1) / 2 * LEVELS - .5, 0, LEVELS - 1)
  red, green, blue = jnp.moveaxis(sharing(places, LEVELS, False), 2, 0)
  shares = jnp.einsum('yxr,yxg,yxb->rgb', red, green, blue)
  return jnp.sqrt(shares / (image.shape[0] * image.shape[1]))


@jax.jit
def _of_all(images):
  return jax.lax.map(histogram, images, batch_size=BATCH)


def describe(images) -> np.ndarray:
  """`histogram` of images [n, H, W, 3]: float32 [n, LEVELS, LEVELS, LEVELS]."""
  return np.asarray(_of_all(jnp.asarray(images, jnp.float32)))
