"""Whether JAX computes rightly here: a short test at the beginning of a run.

A compiler's fault shows in no error: the run ends well, with wrong numbers. What a fit
consists of is computed once, by XLA and by NumPy: a sum over the three colours of many
pixels, the product of a matrix with such pixels summed up likewise, and the gradient of a
convolution. All numbers are small whole ones, which every device gets exactly, whatever
the precision of its products.

jaxlib 0.10 is known to fail at the second on CPUs: it merges the product with the sum,
and where a row of three is mapped to one of two or three, the rows beyond the first
32,768 are wrong if there are no more than 43,520. Nothing of ours is known to be of that
form (tests/test_backend.py, docs/benchmarks.md), so that this version may run: there the
second is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from jdiffclust.errors import UserError
from jdiffclust.networks.convolution import conv

ROWS = 40_000  # within the range in which jaxlib 0.10 is wrong
OFF = .25  # whole numbers further apart than this are not the same


def colour_sums(pixels) -> jax.Array:
  """The sum over colours of the squares of pixels [n, 3]: [n]."""
  return jax.vmap(lambda pixel: jnp.sum(pixel**2))(pixels)


def product_sums(matrix, pixels) -> jax.Array:
  """The same of pixels [n, 3] that are multiplied by a matrix [3, 3] first: [n]."""
  return jax.vmap(lambda pixel: jnp.sum((matrix @ pixel)**2))(pixels)


def kernel_gradient(images, kernel, output) -> jax.Array:
  """The gradient of sum(conv * output) by a kernel [3, 3, C, O], as that of training.

  Args:
    images: [B, H, W, C].
    kernel: where the gradient is taken.
    output: [B, H, W, O].
  """
  return jax.vjp(functools.partial(conv, images), kernel)[1](output)[0]


# What is computed, of what: each beside NumPy's function of the same.
CHECKS: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    'sums over colours': (
        colour_sums, lambda pixels: np.sum(pixels**2, axis=1), ('pixels',)),
    'sums of products': (
        product_sums, lambda matrix, pixels: np.sum((pixels @ matrix.T)**2, axis=1),
        ('matrix', 'pixels')),
    'gradients of a convolution': (
        kernel_gradient, lambda images, kernel, output: np.einsum(
            'byxcij,byxo->ijco', sliding_window_view(
                np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2)),
            output), ('images', 'kernel', 'output'))}


def known_to_fail(name: str) -> bool:
  """Whether this jaxlib is known to compute wrongly what no run needs."""
  return (name == 'sums of products' and jax.default_backend() == 'cpu'
          and jax.lib.__version__.startswith('0.10.'))


def faults(computed: Iterable, expected: Iterable, names: Iterable[str]) -> list[str]:
  """What is wrong, in words, of arrays beside those of NumPy.

  Args:
    computed: arrays.
    expected: arrays of the same shapes.
    names: what they are.
  """
  found = []
  for ours, right, name in zip(computed, expected, names, strict=True):
    wrong = ~(np.abs(np.asarray(ours) - right) < OFF)  # NaN is wrong, too
    if wrong.any():
      found.append(f'{wrong.sum():,} of {wrong.size:,} {name}')
  return found


def check_backend() -> None:
  """Computes a few things by JAX and by NumPy.

  Raises:
    UserError: they are not the same.
  """
  draws = np.random.default_rng(0)
  arrays = {name: draws.integers(-2, 3, shape).astype(np.float32)
            for name, shape in (
                ('pixels', (ROWS, 3)), ('matrix', (3, 3)), ('images', (2, 6, 6, 3)),
                ('kernel', (3, 3, 3, 4)), ('output', (2, 6, 6, 4)))}
  names = [name for name in CHECKS if not known_to_fail(name)]
  given = [[arrays[array] for array in CHECKS[name][2]] for name in names]
  # A CPU's code is not made quick, which takes half as long again as all of this.
  careless = ({'xla_backend_optimization_level': 0}
              if jax.default_backend() == 'cpu' else None)
  computed = jax.jit(lambda given: [CHECKS[name][0](*own)
                                    for name, own in zip(names, given)],
                     compiler_options=careless)(given)
  found = faults(computed, [CHECKS[name][1](*own) for name, own in zip(names, given)],
                 names)
  if found:
    raise UserError(
        f'JAX {jax.__version__} on {jax.default_backend()} computes wrongly '
        f"({', '.join(found)}): try without XLA_FLAGS, or install another version of jax "
        'and jaxlib.')


@functools.cache
def check_backend_once() -> None:
  """`check_backend`, the first time in a process."""
  check_backend()
