"""Our group normalisation against Flax's, on the CPU.

  python -m benchmarks.group_norm [--repeats=15]

1,024 feature maps of 8x8x16 in 8 groups, as in an E-step of the digits. The two
alternate; reported are the medians of the forward pass and of forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.networks.layers import GroupNorm

SHAPE, GROUPS = (1024, 8, 8, 16), 8


def main() -> None:
  """Alternates the two modules and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=15)
  repeats = parser.parse_args().repeats
  x = jax.random.normal(jax.random.key(0), SHAPE)
  calls, outputs = {}, {}
  for name, module in (('flax.linen', nn.GroupNorm(GROUPS)),
                       ('jdiffclust', GroupNorm(GROUPS, jnp.float32))):
    variables = module.init(jax.random.key(1), x)
    forward = jax.jit(module.apply)
    loss = lambda variables, x, module=module: jnp.sum(module.apply(variables, x)**2 * x)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    outputs[name] = forward(variables, x)
    for kind, function in (('forward', forward), ('and backward', gradient)):
      call = lambda f=function, v=variables: jax.block_until_ready(f(v, x))
      call()  # compiles
      calls[name, kind] = call
  times = {key: [] for key in calls}
  for _ in range(repeats):
    for key, call in calls.items():
      began = time.perf_counter()
      call()
      times[key].append(1e3 * (time.perf_counter() - began))
  difference = np.abs(np.subtract(*outputs.values())).max()
  print('| group normalisation | forward, ms | forward and backward, ms |\n|---|---|---|')
  for name in outputs:
    middle = [statistics.median(times[name, kind])
              for kind in ('forward', 'and backward')]
    print(f'| {name} | {middle[0]:.1f} | {middle[1]:.1f} |')
  print(f'largest difference of the outputs: {difference:.1e}')


if __name__ == '__main__':
  main()
