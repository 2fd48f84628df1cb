"""The encoder of ClusterDDPM: from an image to the Gaussian of its latent z."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdiffclust.networks.layers import GroupNorm, silu
from jdiffclust.networks.unet import UNetBody, first_half

# At the start the means of two images differ by about .05 (digits, MNIST), as much as a
# standard deviation of e^-3: under a variance of 1 the denoiser would see noise alone.
# On the digits, one run each, z lowers the noise error by .7 after 250 steps from here,
# by .2 from a variance of 1.
FIRST_LOG_VARIANCE = -6.


class Encoder(nn.Module):
  """f_phi(x_0), equation 19 of Yan, Liu and Zhang (2023).

  Its layers are those of the first half of the U-Net, which here does not see the step.
  Then comes the mean over the pixels, as in diffusion autoencoders (Preechakul et al.,
  2022). Convolutions and attention have seen the whole image by then, and a cluster
  should not depend on where things lie in it. The paper's numbers of parameters, 2 M at
  J = 32 and 2.01 M at J = 64, also rule out layers that grow faster with J.

  Attributes:
    body: a U-Net, for its options; its layers are not shared.
    latent_size: J.
  """

  body: UNetBody
  latent_size: int

  @nn.compact
  def __call__(self, images, dropout_keys=None) -> tuple[jax.Array, jax.Array]:
    """Computes the Gaussian of z.

    Args:
      images: x_0, float32 [B, H, W, C]; H and W divisible by 2^(levels - 1).
      dropout_keys: typed keys [B] when training with dropout; None: no dropout.

    Returns:
      Its mean and the logarithm of its variance, float32 [B, J] each.
    """
    h, _ = first_half(self.body, images, None, dropout_keys)
    h = silu(GroupNorm(self.body.num_groups, jnp.dtype('float32'))(h))
    pooled = jnp.mean(h, axis=(1, 2))
    log_variance = nn.Dense(
        self.latent_size, kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(FIRST_LOG_VARIANCE), name='log_variance')
    return nn.Dense(self.latent_size, name='mean')(pooled), log_variance(pooled)
