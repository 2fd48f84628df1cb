"""Our group normalisation against Flax's, on the CPU.

  python -m benchmarks.speed.group_norm [--repeats=15]

Question:  how much faster is it, and are the outputs the same?
Time:      some seconds.
Kept:      docs/benchmarks.md, Speed and memory.

1,024 feature maps of 8x8x16 in 8 groups, as in an E-step of the digits. The two
alternate; reported are the medians of the forward pass and of forward and backward.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import make_parser, markdown, median_seconds
from jdiffclust.networks.layers import GroupNorm

SHAPE, GROUPS = (1024, 8, 8, 16), 8


def main() -> None:
  """Alternates the two modules and prints the table."""
  parser = make_parser(__doc__)
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
      calls[name, kind] = lambda f=function, v=variables: jax.block_until_ready(f(v, x))
  seconds = median_seconds(calls, repeats)
  print(markdown(
      ('group normalisation', 'forward, ms', 'forward and backward, ms'),
      [[name, f"{1e3 * seconds[name, 'forward']:.1f}",
        f"{1e3 * seconds[name, 'and backward']:.1f}"] for name in outputs]))
  difference = np.abs(np.subtract(*outputs.values())).max()
  print(f'largest difference of the outputs: {difference:.1e}')


if __name__ == '__main__':
  main()
