"""How loose the bound is by the choice of the reverse variance, in closed form.

  python -m benchmarks.tau.reverse_variance

Question:  how many nats a pixel does the bound lose, by variance and number of steps?
Time:      a second.
Kept:      docs/benchmarks.md, The reverse variance.

For pixels N(0, s^2) and the perfect denoiser, each step's reverse mean is exact and only
its variance errs: -H(data) - E bound is a sum of KL divergences of two normals (KL_T
left out). No network, no sampling.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import markdown
from jdiffclust.config import default_config
from jdiffclust.diffusion.process import process_from_config


def gap(num_steps: int, variance: str, spread: float) -> float:
  """Nats per pixel that the bound loses on data N(0, spread^2)."""
  options = default_config().diffusion
  options.num_steps, options.reverse_variance = num_steps, variance
  p = process_from_config(options)
  scale = (1 - p.m) * np.sqrt(p.alphas_cumprod)  # x_t = scale_t x_0 + noise
  total = 0.
  for t in range(1, num_steps + 1):
    k = scale[t] / scale[t - 1]
    before = scale[t - 1]**2 * spread**2 + p.delta[t - 1]  # variance of x_{t-1}
    true = 1 / (1 / before + k**2 / p.delta_step[t])
    ratio = true / p.reverse_variance[t]
    total += (ratio - 1 - np.log(ratio)) / 2
  return total


def main() -> None:
  """Prints the table."""
  steps = (50, 200, 1000, 4000)
  print(markdown(['sigma_t^2', *(f'T = {t}' for t in steps)], [
      [f'`{variance}`', *(f'{gap(t, variance, .5):.4f}' for t in steps)]
      for variance in ('posterior', 'step')]))


if __name__ == '__main__':
  main()
