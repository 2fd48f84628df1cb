"""New images of the clusters: what the samplers ask of the mixture.

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

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jdiffclust.clustering.mixture import Mixture, Parameters
from jdiffclust.diffusion import predictions, samplers
from jdiffclust.diffusion.paths import Path, expand
from jdiffclust.sharding import DATA_AXIS


def cluster_denoiser(mixture: Mixture, path: Path, network) -> Callable:
  """D_q: the function (x_t [B, ...], t float [B], mu_q [B, ...]) -> x_0 [B, ...].

  Args:
    mixture: the model.
    path: of its process.
    network: the denoiser's variables.
  """
  eta = lambda x, t, mu: mixture.denoise(network, x, t, mu)
  return predictions.denoiser(path, eta, 'eta')


def mixture_denoiser(mixture: Mixture, path: Path, params: Parameters) -> Callable:
  """D: as `cluster_denoiser`, the mean over all clusters at the same y.

  Args:
    mixture: the model.
    path: of its process.
    params: network, means and proportions.
  """
  proportions = jnp.exp(params.log_proportions)

  def denoise(x, t, mu):
    y = path.centred(x, t, mu)
    scaled = expand(path.scale(t), x) * y
    if mixture.trunk is None:
      eta = lambda x_t, other: mixture.denoise(
          params.network, x_t, t, jnp.broadcast_to(other, x_t.shape))
    else:  # its features are those of a y, whatever the cluster
      features = mixture.trunk.features(params.network, scaled, t, None)
      eta = lambda _, other: mixture.trunk.from_features(
          params.network, features, t, other, None)

    def add(total, cluster):
      mean, share = cluster
      other = mean[None]
      x_t = scaled + expand(path.pull(t), x) * other
      x0 = predictions.x0_from_eta(path, x_t, t, other, eta(x_t, other))
      return total + share * x0, None

    return jax.lax.scan(add, jnp.zeros_like(y), (params.means, proportions))[0]

  return denoise


def make_draw(mixture: Mixture, mesh: Mesh) -> Callable:
  """Compiles the generation of images for a mesh of devices.

  Args:
    mixture: the model.
    mesh: one-dimensional; images are spread over it.

  Returns:
    See `spread_draw`; the conditions are mu [B, H, W, C].
  """
  def draw(sampler, path, params, keys, mu, scale, guided, num_states):
    denoise = cluster_denoiser(mixture, path, params.network)
    if guided:
      denoise = predictions.guided(denoise, mixture_denoiser(mixture, path, params),
                                   scale)
    return samplers.draw(sampler, denoise, keys, mu, num_states)

  return spread_draw(draw, mesh)


def spread_draw(draw: Callable, mesh: Mesh) -> Callable:
  """Spreads the generation of images over devices, and compiles it.

  Args:
    draw: (sampler, path, params, keys [B], conditions [B, ...], scale [], guided,
      num_states) -> `samplers.Drawn`; the sampler is of `samplers.make_sampler`, and the
      last two are static: whether `scale`, that of the guidance, is used, and the states
      kept.
    mesh: one-dimensional.

  Returns:
    The same function, jitted; B a multiple of the device count.
  """
  def spread(sampler, path, params, keys, conditions, scale, guided=False, num_states=0):
    whole, rows = PartitionSpec(), PartitionSpec(DATA_AXIS)
    out = samplers.Drawn(rows, rows,
                         PartitionSpec(None, DATA_AXIS) if num_states else None)
    return jax.shard_map(
        lambda *args: draw(*args, guided, num_states), mesh=mesh,
        in_specs=(whole, whole, whole, rows, rows, whole), out_specs=out,
        check_vma=not isinstance(sampler, samplers.Continuous))(  # diffrax fails it
            sampler, path, params, keys, conditions, scale)

  return jax.jit(spread, static_argnums=(6, 7))
