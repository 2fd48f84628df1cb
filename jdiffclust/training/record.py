"""What the history keeps of an EM iteration."""

from __future__ import annotations

import numpy as np

from jdiffclust.clustering.bound.tau import EStepInfo
from jdiffclust.evaluation import diagnostics


def iteration_record(tau, info: EStepInfo, image_shape) -> dict:
  """What the history keeps of an E-step; plain floats.

  Args:
    tau: responsibilities, [N, Q].
    info: of the E-step, arrays [N, ...].
    image_shape: (H, W, C).

  Returns:
    bound_nats (mean per image) and its standard error over images, its three terms,
    bits per dimension, mean entropy (nats), uncertain_fraction: images whose cluster
    leads, or lags, by less than two standard errors; contradicted_fraction: those whose
    cluster lags by more (an amortised one only); evaluations_per_image of the network;
    bound_level_1, 2, ...: the diffusion term by bands of noise levels, rising, each
    with its standard error over images; and `diagnostics.occupancy`.
  """
  bound = float(np.mean(info.bound, dtype=np.float64))
  levels: dict[str, float] = {}
  for k, level in enumerate(np.asarray(info.levels, np.float64).T, 1):
    levels |= {f'bound_level_{k}': float(level.mean()),
               f'bound_level_{k}_standard_error': float(level.std() / len(tau)**.5)}
  return {
      'bound_nats': bound,
      'bound_standard_error': float(np.std(info.bound) / np.sqrt(len(tau))),
      'bound_bits_per_dim': float(
          diagnostics.bits_per_dimension(bound, np.prod(image_shape))),
      'bound_prior': float(np.mean(info.prior)),
      'bound_diffusion': float(np.mean(info.diffusion)),
      'bound_decoder': float(np.mean(info.decoder)),
      'mean_entropy': float(np.mean(info.entropy)),
      'uncertain_fraction': float(np.mean(np.abs(info.margin) < 2 * info.margin_error)),
      'contradicted_fraction': float(np.mean(info.margin < -2 * info.margin_error)),
      'evaluations_per_image': float(np.mean(info.evaluations)),
      **levels, **diagnostics.occupancy(tau),
  }
