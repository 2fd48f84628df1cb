"""The recognition network's gradient on a CPU: kernels in parts, halving by comparisons.

  python -m benchmarks.speed.recognition [--repeats=5] [--sides=16,28,32]

Question:  how much time do kernels' gradients in parts spare, and comparisons in the
           place of Flax's max_pool?
Time:      three minutes.
Kept:      benchmarks/speed/README.md.

CPU milliseconds of the gradient of 96 colour images, as a step of the start takes it,
the least of the repeats: as it is; kernels' gradients in one sum each; and these and
max_pool.
"""

from __future__ import annotations

import contextlib
import time
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import integers, make_parser, markdown
from jdiffclust.networks import convolution, recogniser

BATCH, CELLS = 96, 20
AT_ONCE = mock.patch.object(convolution, 'WHOLE', 10**12)
POOLED = mock.patch.object(recogniser, 'halved',
                           lambda images: nn.max_pool(images, (2, 2), (2, 2)))
FORMS = {'as it is': (), 'in one sum': (AT_ONCE,), 'and max_pool': (AT_ONCE, POOLED)}


def milliseconds(side: int, forms, repeats: int) -> float:
  """CPU time of a gradient, compiling left out."""
  jax.clear_caches()
  images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, side, side, 3)),
                       jnp.float32)
  network = recogniser.RecognitionNetwork(CELLS)
  variables = network.init(jax.random.key(0), images)

  @jax.jit
  @jax.grad
  def gradient(params, images):
    (logits, _), _ = network.apply({**variables, 'params': params}, images,
                                   jax.random.key(1), mutable=['batch_stats'])
    return jnp.sum(logits**2)

  with contextlib.ExitStack() as stack:
    for form in forms:
      stack.enter_context(form)
    jax.block_until_ready(gradient(variables['params'], images))
  found = []
  for _ in range(repeats):
    began = time.process_time()
    jax.block_until_ready(gradient(variables['params'], images))
    found.append(time.process_time() - began)
  return 1000 * min(found)


def main() -> None:
  """Prints the table."""
  parser = make_parser(__doc__)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--sides', type=integers, default='16,28,32')
  args = parser.parse_args()
  rows = [[f'{side}x{side}', *(f'{milliseconds(side, forms, args.repeats):.0f}'
                               for forms in FORMS.values())] for side in args.sides]
  print(markdown(['images', *FORMS], rows))


if __name__ == '__main__':
  main()
