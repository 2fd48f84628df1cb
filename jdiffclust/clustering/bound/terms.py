"""The terms of the variational bound of a mixture of conditional DDPMs (CDDPM).

  p(x_0) = sum_q pi_q p_theta(x_0 | mu_q)                            (equation 7)

With q(z_i = q) = tau_iq, the bound on log p(x_0) of image i is

  sum_q tau_iq [log pi_q - log tau_iq - KL_T(i, q)
                - sum_{t > 1} (w_t f_t(i, q) + D v_t) + E log p(x_0 | x_1, mu_q)]

  f_t(i, q) = E_eps norm2(n_t - eta_theta(x_t, t, mu_q))
  w_t       = c_eta_t^2 / (2 sigma_t^2)
  v_t       = (delta~_t / sigma_t^2 - 1 - log(delta~_t / sigma_t^2)) / 2

(equation 18, whose KL_T is a limit and whose sigma_t^2 = delta-bar lacks v_t, and 22,
which applies 1 / (2 delta) twice and drops the last term). Its maximum over tau is the
softmax over q of log pi_q minus the terms after it. A Gaussian decoder makes the last
term one more of the sum, w_1 = c_eta_1^2 / (2 sigma_1^2), up to a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import forward, reverse
from jdiffclust.diffusion.preconditioning import level_density, residual
from jdiffclust.diffusion.process import Process

NUM_BANDS = 8  # of noise levels, by which the bound is reported


class Parameters(NamedTuple):
  """What EM estimates.

  Attributes:
    network: the denoiser's variables, shared by all clusters.
    means: mu, [Q, H, W, C].
    log_proportions: log pi, [Q].
    posterior: phi, the inference network's variables; None without one.
  """

  network: Any
  means: jax.Array
  log_proportions: jax.Array
  posterior: Any = None


class DrawTerms(NamedTuple):
  """What one draw (t, eps) says of images under a cluster.

  Attributes:
    error: norm2(n_t - eta_theta), [B].
    log_decoder: log p(x_0 | x_1, mu) if t is 1, of no meaning elsewhere, [B].
  """

  error: jax.Array
  log_decoder: jax.Array


class TwoStages(NamedTuple):
  """A denoiser in two stages, the first of which all clusters share.

  Attributes:
    shared: (network variables, x_t - m_t sqrt(abar_t) mu, t [B], dropout keys [B] or
      None) -> whatever the second stage needs, arrays [B, ...].
    of_cluster: (network variables, what is shared, t [B], mu [B, H, W, C] or, one for all
      images, [1, H, W, C], dropout keys) -> eta [B, H, W, C].
  """

  shared: Callable[..., Any]
  of_cluster: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class ConditionalDDPM:
  """The static part of the model: what the compiler may build on.

  Attributes:
    denoise: eta_theta as a function (network variables, x_t [B, H, W, C], t [B], whole
      numbers or fractions between, mu [B, H, W, C], dropout keys [B] or None) ->
      [B, H, W, C].
    levels: grey levels of the discretized decoder; None: the Gaussian decoder.
    stages: the same eta_theta in two stages; None: it has but one.
  """

  denoise: Callable[..., jax.Array]
  levels: int | None = None
  stages: TwoStages | None = None

  def log_decoder(self, process: Process, x0, mean) -> jax.Array:
    """log p(x_0 | x_1, mu) in nats, [B], from the reverse mean at t = 1."""
    if self.levels is None:
      return reverse.gaussian_log_decoder(process, x0, mean)
    return reverse.discretized_log_decoder(process, x0, mean, self.levels)

  def shared(self, process: Process, network, x0, t, eps, dropout_keys=None):
    """What the clusters share of a draw (t, eps), for `draw_terms`.

    Args:
      process: the diffusion, float32.
      network: the denoiser's variables.
      x0: images [B, H, W, C].
      t: steps [B] in 1..T.
      eps: standard normal [B, H, W, C].
      dropout_keys: typed keys [B], or None.

    Returns:
      What the first stage gives; None if there is but one.
    """
    if self.stages is None:
      return None
    # x_t less its share of mu is x_t of a cluster whose mean is zero.
    centred = forward.noised(process, x0, t, jnp.zeros_like(x0), eps)
    return self.stages.shared(network, centred, t, dropout_keys)

  def draw_terms(self, process: Process, network, shared, x0, t, mu, eps,
                 dropout_keys=None) -> DrawTerms:
    """Evaluates the network once per image.

    Args:
      process: the diffusion, float32.
      network: the denoiser's variables.
      shared: of the method `shared`, with the same x0, t, eps and keys.
      x0: images [B, H, W, C].
      t: steps [B] in 1..T.
      mu: cluster means [B, H, W, C], or one for all images [1, H, W, C]: cheaper in
        two stages.
      eps: standard normal [B, H, W, C].
      dropout_keys: typed keys [B], or None.

    Returns:
      `DrawTerms`.
    """
    x_t = forward.noised(process, x0, t, mu, eps)
    if self.stages is None:
      eta = self.denoise(network, x_t, t, jnp.broadcast_to(mu, x_t.shape), dropout_keys)
    else:
      eta = self.stages.of_cluster(network, shared, t, mu, dropout_keys)
    target = forward.noise_target(process, x0, t, mu, eps)
    error = jnp.sum((target - eta)**2, axis=tuple(range(1, x0.ndim)))
    mean = reverse.reverse_mean(process, x_t, t, mu, eta)
    return DrawTerms(error, self.log_decoder(process, x0, mean))


def step_weights(process: Process, weighting: str) -> np.ndarray:
  """Weights of the squared errors of the noise levels.

  Args:
    process: the diffusion, float64 on the host.
    weighting: 'elbo', w_t above, which makes their sum the exact bound; 'uniform',
      1 / T, the mean squared error of the noise (Ho et al.'s L_simple): no bound;
      'residual', the mean squared error of F of `diffusion.preconditioning` over its
      `level_density`: no bound either.

  Returns:
    float64 [T + 1], 0 at t = 0.
  """
  steps = process.num_steps
  if weighting == 'uniform':
    return np.concatenate([[0.], np.full(steps, 1 / steps)])
  if weighting == 'residual':
    scale = np.concatenate([[1.], residual(process).output[1:]])
    return level_density(process) / scale**2
  weights = np.zeros(steps + 1)
  weights[1:] = process.c_eta[1:]**2 / (2 * process.reverse_variance[1:])
  return weights


def variance_kl(process: Process) -> np.ndarray:
  """v_t: what the reverse variances cost the bound, per dimension.

  Args:
    process: the diffusion, float64 on the host.

  Returns:
    nats per dimension, float64 [T + 1], 0 at t < 2; the same for all images and
    clusters, and 0 throughout if sigma_t^2 = delta~_t.
  """
  ratio = process.delta_posterior[2:] / process.reverse_variance[2:]
  return np.concatenate([[0., 0.], (ratio - 1 - np.log(ratio)) / 2])


def noise_bands(process: Process, num: int) -> np.ndarray:
  """Divides the noise levels t > 1 into bands of equal weight in the bound.

  Where t is drawn in proportion to its weight, every band gets as many draws.

  Args:
    process: the diffusion, float64 on the host.
    num: number of bands K; some are empty where few levels have most of the weight.

  Returns:
    int [T + 1]: the band 0..K - 1 of every level, rising with the noise; -1 at t < 2.
  """
  weights = step_weights(process, 'elbo')[2:]
  middles = (np.cumsum(weights) - weights / 2) / np.sum(weights)
  return np.concatenate([[-1, -1], np.minimum(num * middles, num - 1).astype(int)])


def step_costs(terms: DrawTerms, t, weights, weighting: str) -> jax.Array:
  """The summand at step t of the negative bound (or of another weighting).

  Args:
    terms: of one draw at step t.
    t: steps, of the shape of the terms or broadcast to it.
    weights: `step_weights` of the same weighting, [T + 1].
    weighting: 'elbo': at t = 1 the decoder's negative log-likelihood; 'uniform': the
      weighted error throughout.

  Returns:
    nats, of the shape of the terms.
  """
  weighted = weights[t] * terms.error
  if weighting == 'uniform':
    return weighted
  return jnp.where(t == 1, -terms.log_decoder, weighted)
