"""Densities of images under each cluster and the mixture, by the probability-flow ODE.

Beside the variational bound of `clustering.bound`, which is below the log-likelihood of
the reverse *chain*: here the same network defines an ODE, whose density is computed (see
`diffusion.likelihood`), at hundreds of evaluations an image and cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdiffclust.clustering.bound.terms import ConditionalDDPM
from jdiffclust.diffusion.likelihood import dequantised, log_density
from jdiffclust.diffusion.ode import Fixed
from jdiffclust.sharding import SPLIT, WHOLE


class Densities(NamedTuple):
  """Log densities of B images, nats.

  Attributes:
    clusters: log p(x | z = q), [B, Q].
    mixture: log sum_q pi_q p(x | z = q), [B].
    standard_error: of `mixture`, from that of the traces, [B].
  """

  clusters: jax.Array
  mixture: jax.Array
  standard_error: jax.Array


def make_densities(model: ConditionalDDPM, mesh: Mesh) -> Callable:
  """Compiles the densities for a mesh of devices.

  Args:
    model: its grey levels are those that images are taken to be of, if it has any: then
      they are spread over their bins first.
    mesh: one-dimensional; images are spread over it.

  Returns:
    A jitted function (denoiser of `denoising.cluster_denoiser`, params, images
    [B, H, W, C], keys [B], num_steps, num_probes) -> `Densities`; the last two are
    static: Runge-Kutta steps of 4 evaluations, and probes of the trace, 0 for the exact
    one. B is a multiple of the device count.
  """
  def densities(denoiser, params, images, keys, num_steps, num_probes):
    both = jax.vmap(jax.random.split)(keys)
    if model.levels is not None:
      images = dequantised(both[:, 0], images, model.levels)

    def of_cluster(mean):
      found = log_density(denoiser, images, jnp.broadcast_to(mean, images.shape),
                          Fixed(num_steps, order=4), both[:, 1], num_probes)
      return found.nats, found.standard_error

    nats, errors = (a.T for a in jax.lax.map(of_cluster, params.means))
    joint = params.log_proportions[None] + nats
    # The weights of the clusters' errors are the posterior: d log sum exp.
    error = jnp.sum(jax.nn.softmax(joint, axis=1) * errors, axis=1)
    return Densities(nats, jax.nn.logsumexp(joint, axis=1), error)

  def spread(denoiser, params, images, keys, num_steps, num_probes):
    return jax.shard_map(
        lambda *args: densities(*args, num_steps, num_probes),  # type: ignore[call-arg]
        mesh=mesh,
        in_specs=(WHOLE, WHOLE, SPLIT, SPLIT), out_specs=SPLIT)(
            denoiser, params, images, keys)

  return jax.jit(spread, static_argnums=(4, 5))
