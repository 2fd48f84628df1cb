"""What XLA's CPU compiler shall not merge.

It computes an operation again within each one that reads it, if it thinks that cheaper
than to keep the result. Where the reader goes through memory in another order, or where
many sums feed many readers, that costs several times what it saves.
"""

from __future__ import annotations

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def apart(function, *arguments):
  """Calls a function within a jitted one, as a program of its own.

  Args:
    function: of arrays.
    *arguments: the arrays; XLA has them in memory before it goes on.

  Returns:
    What the function returns.
  """
  with set_xla_metadata(inlineable='false'):
    return jax.jit(function)(*arguments)


def summed_once(x) -> jax.Array:
  """The identity; on CPUs the gradient by its result is summed up before it goes on.

  Args:
    x: an array with several readers, each of which adds to its gradient.

  Returns:
    x.
  """
  return identity_p.bind(x, kept=False)


def computed_once(x) -> jax.Array:
  """The identity; on CPUs the value is in memory before it is read.

  Args:
    x: a small array that is spread over a large one.

  Returns:
    x.
  """
  return identity_p.bind(x, kept=True)


identity_p = Primitive('kept_identity')
identity_p.def_impl(lambda x, kept: x)
identity_p.def_abstract_eval(lambda x, kept: x)
ad.deflinear2(identity_p, lambda g, x, kept: [identity_p.bind(g, kept=not kept)])
batching.defvectorized(identity_p)


def _lowered(x, kept):
  return apart(lambda x: x, x) if kept else x


mlir.register_lowering(identity_p, mlir.lower_fun(lambda x, kept: x, False))
mlir.register_lowering(identity_p, mlir.lower_fun(_lowered, False), 'cpu')
