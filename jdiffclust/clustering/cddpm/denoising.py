"""CDDPM as samplers see it: E[x_0 | x_t] of a cluster, and of the mixture.

E[x_0 | x_t] of a cluster follows from the network's n_t (`diffusion.predictions`); steps
between those of the process are shown to the network as they are, as fractions. Guidance
(Ho and Salimans, 2021) exaggerates what sets a cluster apart from the mixture: with
y = (x_t - b mu) / a, which has no cluster in it,

  x_0^ = D(y) + scale (D_q(y) - D(y)),   D = sum_r pi_r D_r,

D_q being E[x_0 | y] under cluster q. The mixture's own E[x_0 | y] has the posterior of r
given y in the place of pi_r; with pi_r it is what a network without a cluster would be
asked for at the highest noise, and where noise is low the D_r agree.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jdiffclust.clustering.bound.terms import ConditionalDDPM, Parameters
from jdiffclust.diffusion import predictions
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import Path, expand


def cluster_denoiser(model: ConditionalDDPM, path: Path, network) -> Denoiser:
  """D_q; its conditions are the means mu_q, [B, H, W, C].

  Args:
    model: the static part of the model.
    path: of its process.
    network: the denoiser's variables.
  """
  return predictions.denoiser(path, network, model.denoise, 'eta')


@dataclasses.dataclass(frozen=True)
class MeanOfClusters:
  """The function of D: the mean of D_r over all clusters at the same y.

  Attributes:
    model: the static part of the model.
  """

  model: ConditionalDDPM

  def __call__(self, params: Parameters, path: Path, x, t, mu) -> jax.Array:
    """x_0 [B, ...] of x_t, whose path is pulled to mu [B, ...]."""
    y = path.centred(x, t, mu)
    scaled = expand(path.scale(t), x) * y
    if self.model.stages is None:
      eta = lambda x_t, other: self.model.denoise(
          params.network, x_t, t, jnp.broadcast_to(other, x_t.shape))
    else:  # what is shared is that of a y, whatever the cluster
      shared = self.model.stages.shared(params.network, scaled, t, None)
      eta = lambda _, other: self.model.stages.of_cluster(
          params.network, shared, t, other, None)

    def add(total, cluster):
      mean, share = cluster
      other = mean[None]
      x_t = scaled + expand(path.pull(t), x) * other
      x0 = predictions.x0_from_eta(path, x_t, t, other, eta(x_t, other))
      return total + share * x0, None

    proportions = jnp.exp(params.log_proportions)
    return jax.lax.scan(add, jnp.zeros_like(y), (params.means, proportions))[0]


def mixture_denoiser(model: ConditionalDDPM, path: Path, params: Parameters) -> Denoiser:
  """D; its conditions are those of `cluster_denoiser`.

  Args:
    model: the static part of the model.
    path: of its process.
    params: network, means and proportions.
  """
  return Denoiser(path, params._replace(posterior=None), MeanOfClusters(model))
