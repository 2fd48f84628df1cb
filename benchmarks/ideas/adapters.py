"""Clusters with a denoiser of their own: low-rank adapters that mu generates."""

from __future__ import annotations

import functools
import pathlib

import flax.linen as nn
import jax

from benchmarks.ideas.fits import fit
from jdiffclust.clustering.method import Networks, build
from jdiffclust.networks.unet import SharedTrunkUNet, SmallHead, Trunk, unet_from_config


class AdaptedHead(SmallHead):
  """The head, its features first changed by a matrix of low rank that mu generates."""

  rank: int = 4

  @nn.compact
  def __call__(self, features, t, mu, dropout_keys=None) -> jax.Array:
    """As `SmallHead`, of h + B(mu) A(mu) h in place of each of the features h."""
    code = nn.silu(nn.Dense(64)(mu.reshape(len(mu), -1)))
    adapted = []
    for h in features:
      shape = (len(mu), self.rank, h.shape[-1])
      down = nn.Dense(shape[1] * shape[2])(code).reshape(shape)
      up = nn.Dense(shape[1] * shape[2],
                    kernel_init=nn.initializers.zeros)(code).reshape(shape)
      adapted.append(h + (h @ down.swapaxes(1, 2)[:, None]) @ up[:, None])
    return SmallHead(self.channels, self.num_groups, self.dropout, self.dtype)(
        tuple(adapted), t, mu, dropout_keys)


class AdaptedUNet(SharedTrunkUNet):
  """A shared trunk with an `AdaptedHead`."""

  def setup(self):
    """Names the two parts."""
    body = self.body
    self.trunk = Trunk(body)
    self.head = AdaptedHead(body.channels * body.channel_multipliers[0], body.num_groups,
                            body.dropout, body.dtype)


def adapted_unet(network) -> AdaptedUNet:
  """The denoiser of the `network` section of a config, with adapters."""
  return AdaptedUNet(unet_from_config(network).body)


def adapters(seed: int, workdir: pathlib.Path) -> dict:
  """The default fit with low-rank adapters in the head."""
  networks = Networks(denoiser=adapted_unet)
  return fit({}, seed, workdir, build=functools.partial(build, networks=networks))
