"""Random streams: every key follows from (seed, purpose, step).

So a resumed run needs no saved key, and one purpose never disturbs another.
"""

from __future__ import annotations

import zlib

import jax
import numpy as np


def stream(seed: int, name: str) -> jax.Array:
  """The typed key of a purpose; fold the step into it.

  Args:
    seed: the config's seed, in 0..2^31 - 1.
    name: the purpose, as 'm_step'.

  Returns:
    A typed key [].
  """
  return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def integer_seed(seed: int, name: str) -> int:
  """A seed in 0..2^31 - 1 for libraries that draw on the host, per purpose."""
  words = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)
  return int(words[0] >> 1)


def sample_keys(key, owners, count: int) -> jax.Array:
  """Typed keys of generated images: each depends on its owner and its number alone.

  Args:
    key: a typed key.
    owners: k numbers, such as clusters.
    count: n images of each.

  Returns:
    [k, n].
  """
  return _grid(key, np.asarray(owners, np.int32), np.arange(count, dtype=np.int32))


@jax.jit
def _grid(key, owners, numbers):
  of = lambda q, n: jax.random.fold_in(jax.random.fold_in(key, q), n)
  return jax.vmap(jax.vmap(of, (None, 0)), (0, None))(owners, numbers)
