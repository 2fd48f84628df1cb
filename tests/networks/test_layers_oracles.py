"""Layers whose derivatives are stated, against those that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.networks.compilation import summed_once
from jdiffclust.networks.layers import silu
from jdiffclust.sharding import SPLIT, make_mesh

X = np.linspace(-30, 30, 101)


def test_silu(x64):
  """Value and derivatives of first and second order, in both modes, against Flax's."""
  for f in (lambda f, x: f(x), lambda f, x: jax.vmap(jax.grad(f))(x),
            lambda f, x: jax.vmap(jax.grad(jax.grad(f)))(x),
            lambda f, x: jax.jvp(f, (x,), (jnp.cos(x),))[1]):
    np.testing.assert_allclose(f(silu, X), f(jax.nn.silu, X), rtol=1e-9, atol=1e-15)


def test_silu_of_extremes():
  """No NaN where the exponential overflows, and the type stays."""
  x = jnp.asarray([-1e30, -100., 0., 100., 1e30], jnp.bfloat16)
  value, slope = jax.jvp(silu, (x,), (jnp.ones_like(x),))
  assert value.dtype == slope.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(value, np.float32), [0, 0, 0, 100, x[-1]])
  np.testing.assert_array_equal(np.asarray(slope, np.float32), [0, 0, .5, 1, 1])


@pytest.mark.parametrize('of', (lambda f: f, jax.jit, jax.vmap))
def test_summed_once_is_the_identity(x64, of):
  """Of a value with three readers: value, gradient, second derivative, tangent."""
  def loss(keep, x):
    x = keep(jnp.sin(x))
    return jnp.sum(x**3 + x * jnp.exp(x)) + jnp.sum(x)

  x = jnp.asarray(X[45:57].reshape(3, 4))
  same = lambda x: x
  for f in (lambda keep: of(lambda x: keep(x) * 2),
            lambda keep: of(jax.grad(lambda x: loss(keep, x))),
            lambda keep: of(jax.grad(lambda x: jnp.sum(jax.grad(
                lambda x: loss(keep, x))(x)**2))),
            lambda keep: of(lambda x: jax.jvp(lambda x: loss(keep, x), (x,), (x,))[1])):
    np.testing.assert_allclose(f(summed_once)(x), f(same)(x), rtol=1e-12)


def test_summed_once_over_devices():
  """Each device's rows have gradients of their own."""
  x = jnp.arange(16.)
  f = lambda x: jax.grad(lambda x: jax.lax.psum(jnp.sum(summed_once(x)**2), 'data'))(x)
  found = jax.jit(jax.shard_map(f, mesh=make_mesh(8), in_specs=SPLIT, out_specs=SPLIT))(x)
  np.testing.assert_array_equal(found, 2 * x)
