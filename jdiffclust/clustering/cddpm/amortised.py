"""The amortised posterior: q_phi(z | x) by an inference network.

A table of responsibilities freezes: the exact posterior is nearly one-hot, and a network
that was trained on a partition explains that partition. A function of the image cannot
hold on to one image's assignment. And two views, a and b, of image i by independent
small maps: the network sees a, the denoiser's errors are those of b (or of the image
itself), so that q_phi can only tell what survives such a map.

With q_i = q_phi(z | a_i), t and eps shared by the clusters, and
e_iq = norm2(n_t - eta_theta(b_i, t, mu_q)) / D, phi descends, beside theta,

  J = mean_i [sum_q q_iq r (e_iq - mean_q e_iq) / s + temper KL(q_i || p_i)]
      - balance H(mean_i q_i),

  log p_iq = anchor log start_iq + (1 - anchor) log pi_q + constant.

With temper 1, no balance and anchor 0 this is the negative variational bound (equation
22) but for its weighting of the noise levels and its scale: errors count equally from
t in a window of noise levels, by the 'uniform' weighting, and in units of s, their
running root mean square over images and clusters, since the exact ones leave one-hot
posteriors. r rises from 0 to 1 over the first steps, while the denoiser knows nothing.
`anchor` replaces the mixture's proportions, as prior of z_i, by the starting partition
(where it is sure, the errors must be so too to move an image); `balance` is a prior for
clusters of equal sizes.

Where an image has a start, tau is pooled with it (`jdiffclust.clustering.bound.pooling`),
with a weight of `pool`, an equal say, times `anchor`: in the E-step, and where the
denoiser learns. The bound that is reported is the exact one of
`jdiffclust.clustering.bound.tau`, with this tau and q_phi averaged over views.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jdiffclust.clustering.bound.pooling import log_doubted


# Weight of the past in the running mean square of the errors' differences.
SCALE_DECAY = .98


@dataclasses.dataclass(frozen=True)
class Posterior:
  """The static part of an amortised posterior.

  Attributes:
    infer: (variables, images [B, H, W, C]) -> logits [B, Q].
    options: the `posterior` section of the config.
    views: the `views` section.
  """

  infer: Callable[..., jax.Array]
  options: Any
  views: Any


def log_prior(start, log_proportions, anchor: float) -> jax.Array:
  """log p_iq, up to a constant of each image.

  Args:
    start: responsibilities of the start, [B, Q].
    log_proportions: log pi, [Q].
    anchor: in [0, 1].

  Returns:
    [B, Q].
  """
  return anchor * log_doubted(start) + (1 - anchor) * log_proportions[None]


def centred(errors, counted) -> jax.Array:
  """Errors [B, Q] less their mean over the clusters; 0 where not counted, [B] bool."""
  return jnp.where(counted[:, None], errors - errors.mean(axis=1, keepdims=True), 0)


def objective(log_q, differences, prior, proportions_of_batch, options) -> jax.Array:
  """J of the module's text, a term per image; its mean is to be minimised.

  Args:
    log_q: log q_phi(z | a), [B, Q].
    differences: r (e_iq - mean_q e_iq) / s, [B, Q].
    prior: log p_iq up to constants, [B, Q].
    proportions_of_batch: mean of q over the minibatch, [Q].
    options: the `posterior` section: temper and balance.

  Returns:
    [B].
  """
  q = jnp.exp(log_q)
  prior = jax.nn.log_softmax(prior, axis=1)
  divergence = jnp.sum(q * (log_q - prior), axis=1)
  entropy = -jnp.sum(proportions_of_batch * jnp.log(proportions_of_batch + 1e-9))
  return (jnp.sum(q * differences, axis=1) + options.temper * divergence
          - options.balance * entropy)
