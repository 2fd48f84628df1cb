"""The posterior of c by a network: its mean over views, pooled with the start.

The start knows an image's neighbours, a network sees one image at a time. So where an
image has a start, tau is the logarithmic pool of both (Genest and Zidek, 1986),

  log tau_iq = (1 - w) log q_phi(z = q | x_i) + w log start_iq + constant,

which of all distributions has the smallest (1 - w) KL(tau_i || q_i) + w KL(tau_i ||
start_i). A new image has a start where that is by recognition, else q_phi alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jdiffclust.data.views import random_views


# The start's probabilities are mixed with so much of the uniform distribution: it may be
# wrong where all its cuts agree.
START_DOUBT = .01


def log_doubted(start) -> jax.Array:
  """The logarithm of the start's responsibilities [B, Q], none of which is 0."""
  return jnp.log((1 - START_DOUBT) * start + START_DOUBT / start.shape[1])


def log_posterior(infer, images, keys, views, num_views: int) -> jax.Array:
  """log q_phi of images: the normalised mean of log q_phi over random views.

  Args:
    infer: images [B, H, W, C] -> logits [B, Q].
    images: [B, H, W, C].
    keys: typed keys [B].
    views: the `views` section of the config.
    num_views: over which it is averaged; 0: the image itself.

  Returns:
    [B, Q].
  """
  of = lambda x: jax.nn.log_softmax(infer(x), axis=1)
  if not num_views:
    return of(images)
  keys = jax.vmap(lambda key: jax.random.split(key, num_views), out_axes=1)(keys)
  seen = jax.lax.map(lambda k: of(random_views(images, k, views)), keys)
  return jax.nn.log_softmax(seen.mean(axis=0), axis=1)


def pooled(log_q, start, weight: float) -> jax.Array:
  """log tau of the module's text.

  Args:
    log_q: log q_phi, [B, Q].
    start: responsibilities of the start, [B, Q].
    weight: w in [0, 1].

  Returns:
    [B, Q].
  """
  return jax.nn.log_softmax((1 - weight) * log_q + weight * log_doubted(start), axis=1)
