"""Convolutions with stated gradients, against sums in NumPy and against JAX's own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

from jdiffclust.networks import convolution
from jdiffclust.networks.convolution import (
    conv, conv3x3, conv_of_doubled, pointwise)
from jdiffclust.sharding import make_mesh

# (height, width), stride: odd and even, also smaller than the kernel.
CASES = [((5, 6), 1), ((6, 5), 2), ((4, 4), 2), ((7, 7), 2), ((1, 2), 1), ((1, 2), 2)]


def derived(image, kernel, strides=(1, 1), padding='SAME'):
  """The same convolution with the gradients that JAX derives."""
  return lax.conv_general_dilated(image, kernel, strides, padding,
                                  dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def drawn(sizes, stride=1, seed=0, batch=2, channels=(3, 4), window=3,
          dtype=np.float64):
  """An image, a kernel, and an array of their convolution's shape."""
  rng = np.random.default_rng(seed)
  shapes = ((batch, *sizes, channels[0]), (window, window, *channels),
            (batch, *(-(-size // stride) for size in sizes), channels[1]))
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def close(found, expected, tolerance=1e-10):
  """Asserts that two trees of arrays agree, to what is left of double precision."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(
        np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=0,
        atol=tolerance * (1 + np.abs(np.asarray(b, np.float64)).max(initial=0)))


def by_sums(image, kernel, g, stride):
  """The convolution and both gradients of sum(g * convolution), one product at a time."""
  image, kernel, g = (np.asarray(a) for a in (image, kernel, g))
  _, height, width, _ = image.shape
  _, rows, columns, _ = g.shape
  size = kernel.shape[0]
  # As many zeros before as after; an odd one comes after.
  before = [max((count - 1) * stride + size - length, 0) // 2
            for count, length in ((rows, height), (columns, width))]
  result, d_image, d_kernel = np.zeros(g.shape), np.zeros(image.shape), np.zeros(
      kernel.shape)
  for i, j, u, v in np.ndindex(rows, columns, size, size):
    y, x = i * stride + u - before[0], j * stride + v - before[1]
    if 0 <= y < height and 0 <= x < width:
      result[:, i, j] += image[:, y, x] @ kernel[u, v]
      d_image[:, y, x] += g[:, i, j] @ kernel[u, v].T
      d_kernel[u, v] += image[:, y, x].T @ g[:, i, j]
  return result, (d_image, d_kernel)


@pytest.mark.parametrize('sizes, stride', CASES)
def test_value_and_gradients_are_the_sums(x64, sizes, stride):
  """All three maps against loops over pixels and the kernel's places."""
  image, kernel, g = drawn(sizes, stride)
  value, pull = jax.vjp(lambda x, w: conv(x, w, (stride, stride)), image, kernel)
  close((value, pull(g)), by_sums(image, kernel, g, stride))


@pytest.mark.parametrize('part', [1, 1700, 2600])
@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_in_parts_are_the_sums(x64, monkeypatch, part, stride):
  """Parts of one to four of seven images, the last not full; in a loop, too."""
  image, kernel, g = drawn((5, 7), stride, batch=7, channels=(2, 3))
  expected = by_sums(image, kernel, g, stride)[1]
  monkeypatch.setattr(convolution, 'WHOLE', 7 * 5 * 7 * 2 * 8 - 1)
  monkeypatch.setattr(convolution, 'PART', part)

  @jax.jit
  def gradients(image, kernel, g):
    return jax.vjp(lambda x, w: conv(x, w, (stride, stride)), image, kernel)[1](g)

  jax.clear_caches()  # of maps of these sizes, made by another case
  close(gradients(image, kernel, g), expected)
  found = lax.map(lambda args: gradients(*args), (image[None], kernel[None], g[None]))
  close([a[0] for a in found], list(expected))
  loops = gradients.lower(image, kernel, g).as_text().count('stablehlo.while')
  assert loops == 1
  jax.clear_caches()


@pytest.mark.parametrize('sizes, stride, dtype', [
    *((*case, 'float32') for case in CASES),
    *((*case, dtype) for case in CASES[:2] for dtype in ('float64', 'bfloat16'))])
def test_the_value_has_the_bits_of_lax(x64, sizes, stride, dtype):
  """Compiled or not, whatever the type."""
  image, kernel, _ = drawn(sizes, dtype=dtype)
  strides = stride, stride
  for of in (lambda f: f, jax.jit):
    found = of(lambda x, w: conv(x, w, strides))(image, kernel)
    expected = of(lambda x, w: derived(x, w, strides))(image, kernel)
    assert found.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize('dtype, tolerance', (('float32', 1e-5), ('bfloat16', 2e-2)))
@pytest.mark.parametrize('stride', (1, 2))
def test_types(dtype, tolerance, stride):
  """Gradients have the arguments' types, and are those of JAX up to rounding."""
  image, kernel, g = drawn((6, 7), stride, dtype=dtype)
  gradients = [jax.vjp(lambda x, w: f(x, w, (stride, stride)), image, kernel)[1](g)
               for f in (conv, derived)]
  close(*gradients, tolerance)


@settings(max_examples=7, deadline=None, derandomize=True)
@given(height=st.integers(1, 8), width=st.integers(1, 8), strides=st.tuples(
    st.integers(1, 3), st.integers(1, 3)), batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)), window=st.integers(1, 4),
    padding=st.sampled_from(('SAME', 'VALID')), seed=st.integers(0, 9))
def test_derivatives_of_random_shapes(height, width, strides, batch, channels, window,
                                      padding, seed):
  """Forward mode, reverse mode and three mixtures of them are those of JAX."""
  if padding == 'VALID' and min(height, width) < window:
    padding = 'SAME'
  with jax.enable_x64(True):
    image, kernel, _ = drawn((height, width), 1, seed, batch, channels, window)
    tangents = drawn((height, width), 1, seed + 10, batch, channels, window)[:2]

    def derivatives(f):
      loss = lambda x, w: jnp.sum(jnp.sin(f(x, w, strides, padding)))
      gradient = jax.grad(loss, (0, 1))
      along = lambda *a: jax.jvp(loss, a, tuple(tangents))[1]
      product = lambda *a: sum(
          jnp.vdot(d, v) for d, v in zip(gradient(*a), tangents))
      return jax.jit(lambda *a: (
          gradient(*a), along(*a), jax.jvp(gradient, a, tuple(tangents)),
          jax.grad(along, (0, 1))(*a), jax.grad(product, (0, 1))(*a)))(image, kernel)

    close(derivatives(conv), derivatives(derived))


@pytest.mark.parametrize('sizes, stride', CASES)
def test_forward_and_reverse_mode_agree(x64, sizes, stride):
  """<g, J v> = <J' g, v>, of the map and of its gradient."""
  image, kernel, g = drawn(sizes, stride)
  tangents = tuple(drawn(sizes, stride, seed=1)[:2])
  dot = lambda a, b: sum(float(jnp.vdot(u, v)) for u, v in zip(
      jax.tree.leaves(a), jax.tree.leaves(b)))

  def gradient(x, w):
    return jax.grad(lambda x, w: jnp.sum(g * jnp.sin(conv(x, w, (stride, stride)))),
                    (0, 1))(x, w)

  for f, cotangent in ((lambda x, w: conv(x, w, (stride, stride)), g),
                       (gradient, tuple(drawn(sizes, stride, seed=2)[:2]))):
    _, forward = jax.jvp(f, (image, kernel), tangents)
    backward = jax.vjp(f, image, kernel)[1](cotangent)
    assert dot(cotangent, forward) == pytest.approx(dot(backward, tangents), rel=1e-10)


@pytest.mark.parametrize('axes, stride', [
    ((0, None), 2), ((3, None), 1), ((None, 0), 1), ((None, 4), 2), ((1, 2), 1),
    ((1, 2), 2)])
def test_vmap(x64, axes, stride):
  """Over images, kernels or both, wherever the axis is; the gradients, too."""
  image, kernel, g = drawn((4, 5), stride)
  rng = np.random.default_rng(3)
  image, kernel = (
      a if axis is None else jnp.stack(
          [a * scale for scale in rng.normal(size=5)], axis)
      for a, axis in zip((image, kernel), axes))

  def all_three(f, x, w):
    value, pull = jax.vjp(lambda x, w: f(x, w, (stride, stride)), x, w)
    return value, pull(g), pull(jnp.cos(value) * g)  # g is not mapped over

  found, expected = (jax.vmap(functools.partial(all_three, f), axes)(image, kernel)
                     for f in (conv, derived))
  close(found, expected)


def test_vmap_of_vmap_and_of_jvp(x64):
  """Two axes, and the derivatives along many directions at once."""
  image, kernel, _ = drawn((4, 4))
  many = jnp.stack([image, 2 * image, -image])
  twice = jnp.stack([many, many + 1])
  f = lambda x, w: jax.vmap(jax.vmap(lambda x: conv(x, w, (2, 2))))(x)
  close(f(twice, kernel), jnp.stack([
      jnp.stack([derived(x, kernel, (2, 2)) for x in row]) for row in twice]))
  push = lambda f, v: jax.jvp(lambda x: f(x, kernel)**2, (image,), (v,))[1]
  close(*(jax.vmap(functools.partial(push, f))(many) for f in (conv, derived)))


@pytest.mark.parametrize('stride', (1, 2))
def test_gradient_steps_in_loops(x64, stride):
  """Steps in a scan, a while loop and a branch end where those outside do."""
  image, kernel, _ = drawn((5, 5), stride)

  def step(pair, f=conv):
    loss = lambda x, w: jnp.sum(jnp.tanh(f(x, w, (stride, stride)))**2)
    slopes = jax.grad(loss, (0, 1))(*pair)
    return jax.tree.map(lambda a, slope: a - .01 * slope, pair, slopes)

  pair = image, kernel
  expected = functools.reduce(lambda a, _: step(a, derived), range(3), pair)
  loops = (
      lambda pair: lax.scan(lambda a, _: (step(a), None), pair, None, length=3)[0],
      lambda pair: lax.while_loop(
          lambda a: a[0] < 3, lambda a: (a[0] + 1, step(a[1])), (0, pair))[1],
      lambda pair: lax.fori_loop(
          0, 3, lambda i, a: lax.cond(i < 3, step, lambda a: a, a), pair))
  for loop in loops:
    close(jax.jit(loop)(pair), expected)


def test_gradient_through_a_scan(x64):
  """Reverse and forward mode of a scan, with one kernel for all steps."""
  image, kernel, _ = drawn((4, 4), channels=(3, 3))

  def loss(f, x, w):
    last, _ = lax.scan(lambda h, _: (jnp.sin(f(h, w)), None), x, None, length=3)
    return jnp.sum(last)

  of = lambda f: (
      jax.grad(functools.partial(loss, f), (0, 1))(image, kernel),
      jax.jvp(functools.partial(loss, f), (image, kernel), (image, kernel)))
  close(of(conv), of(derived))


@pytest.mark.parametrize('check', (True, False))
@pytest.mark.parametrize('stride', (1, 2))
def test_devices(x64, stride, check):
  """On 8 devices the kernel's gradient is the sum over all, with one kernel for all."""
  image, kernel, _ = drawn((4, 5), stride, batch=16)

  def gradients(f, x, w):
    def loss(x, w):
      return lax.psum(jnp.sum(jnp.sin(f(x, w, (stride, stride)))), 'data')
    slopes = jax.grad(loss, (0, 1))(x, w)
    # Unless it is told which values differ, shard_map leaves the sum to the caller, and
    # takes each device's loss for one of its own.
    return slopes if check else (slopes[0] / 8, lax.pmean(slopes[1], 'data'))

  found, expected = (
      jax.jit(jax.shard_map(
          functools.partial(gradients, f), mesh=make_mesh(8),
          in_specs=(P('data'), P()), out_specs=(P('data'), P()), check_vma=check))(
              image, kernel) for f in (conv, derived))
  close(found, expected)
  whole = jax.grad(lambda x, w: jnp.sum(jnp.sin(derived(x, w, (stride, stride)))), (0, 1))
  if check:
    close(found, whole(image, kernel))


def test_devices_with_kernels_of_their_own(x64):
  """One image for all devices, a kernel for each: the image's gradient is the sum."""
  image, kernel, _ = drawn((4, 4), channels=(3, 8))

  def loss(x, w):
    return lax.psum(jnp.sum(jnp.sin(conv(x, w))), 'data')

  found = jax.jit(jax.shard_map(
      jax.grad(loss, (0, 1)), mesh=make_mesh(8), in_specs=(P(), P(None, None, None,
                                                                 'data')),
      out_specs=(P(), P(None, None, None, 'data'))))(image, kernel)
  close(found, jax.grad(lambda x, w: jnp.sum(jnp.sin(derived(x, w))), (0, 1))(
      image, kernel))


def lowered(platform, of, stride, dtype='float32'):
  """The options and types of the convolutions in a scan of gradient steps."""
  image, kernel, _ = drawn((6, 6), stride, dtype=dtype)

  def step(pair, _):
    loss = lambda x, w: jnp.sum(of(x, w, (stride, stride))**2)
    return jax.grad(loss, (0, 1))(*pair), None

  text = jax.jit(lambda pair: lax.scan(step, pair, None, length=3)[0]).trace(
      (image, kernel)).lower(lowering_platforms=(platform,)).as_text()
  return re.findall(r'stablehlo.convolution\(.*?dim_numbers = (.*)', text)


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
@pytest.mark.parametrize('stride', (1, 2))
def test_all_are_of_the_form_that_cpus_are_quick_in(stride, dtype):
  """Value and gradients; JAX's own gradients are not."""
  quick = '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],'
  count = lambda of: sum(
      line.startswith(quick) for line in lowered('cpu', of, stride, dtype))
  assert len(lowered('cpu', conv, stride, dtype)) == count(conv) == 3
  assert count(derived) == 1


@pytest.mark.parametrize('platform', ('cuda', 'tpu'))
@pytest.mark.parametrize('stride', (1, 2))
def test_other_devices_get_what_jax_makes(platform, stride):
  """Their compilers look for the gradients that JAX derives, stated as it does."""
  expected = lowered(platform, derived, stride)
  assert len(expected) == 3 and lowered(platform, conv, stride) == expected


def test_the_layer_is_that_of_flax():
  """Names, shapes and bits of the parameters and of the result."""
  import flax.linen as nn
  x = drawn((5, 6), dtype=np.float32)[0]

  class Net(nn.Module):
    make: object

    @nn.compact
    def __call__(self, x):
      x = self.make(4, strides=2, use_bias=False)(x)
      return self.make(2, dtype=jnp.bfloat16)(nn.silu(x))

  ours, flax = Net(conv3x3), Net(lambda features, **kw: nn.Conv(features, (3, 3), **kw))
  variables = flax.init(jax.random.key(0), x)
  assert jax.tree.all(jax.tree.map(
      lambda a, b: a.dtype == b.dtype and bool((a == b).all()),
      ours.init(jax.random.key(0), x), variables))
  np.testing.assert_array_equal(np.asarray(ours.apply(variables, x)),
                                np.asarray(flax.apply(variables, x)))


@pytest.mark.parametrize('sizes', ((5, 6), (1, 2), (4, 4)))
def test_conv_of_doubled(x64, sizes):
  """Against repetition before the convolution; gradients, too."""
  image, kernel, _ = drawn(sizes)
  g = drawn([2 * size for size in sizes])[2]

  def repeated(image, kernel):
    return derived(jnp.repeat(jnp.repeat(image, 2, axis=1), 2, axis=2), kernel)

  found, expected = (jax.vjp(f, image, kernel) for f in (conv_of_doubled, repeated))
  close((found[0], found[1](g)), (expected[0], expected[1](g)))


@pytest.mark.parametrize('shape', ((2, 3, 4, 5), (2, 6, 5)))
def test_pointwise_is_a_dense_layer(shape):
  """Names, shapes and numbers of the parameters, the result and the gradients."""
  import flax.linen as nn
  x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

  def all_of(make):
    class Net(nn.Module):

      @nn.compact
      def __call__(self, x):
        return make(7)(x)

    variables = Net().init(jax.random.key(0), x)
    loss = lambda variables, x: jnp.sum(jnp.sin(Net().apply(variables, x)))
    return variables, Net().apply(variables, x), jax.grad(loss, (0, 1))(variables, x)

  close(all_of(pointwise), all_of(nn.Dense), 1e-6)


@pytest.mark.parametrize('platform', ('cuda', 'tpu'))
def test_pointwise_is_a_product_of_matrices(platform):
  """On other devices, too; there its gradients turn the kernel alone, as Flax's do."""
  import flax.linen as nn
  x = jnp.ones((2, 3, 4, 5))

  def counted(make):
    layer = make(7)
    variables = layer.init(jax.random.key(0), x)
    loss = lambda variables, x: jnp.sum(layer.apply(variables, x)**2)
    text = jax.jit(jax.grad(loss, (0, 1))).trace(variables, x).lower(
        lowering_platforms=(platform,)).as_text()
    return [text.count(f'stablehlo.{name}')
            for name in ('convolution', 'dot_general', 'transpose')]

  assert counted(pointwise) == counted(nn.Dense) == [0, 3, 1]
  # Mapped over both arguments, CPUs take that form, too.
  image, kernel, g = drawn((3, 4), window=1, dtype=np.float32)
  many = lambda a: jnp.stack([a, 2 * a])
  gradients = lambda of: jax.vmap(lambda x, w: jax.vjp(of, x, w)[1](g))(
      many(image), many(kernel))
  close(gradients(conv), gradients(derived), 1e-5)


def test_what_feeds_a_kernels_gradient_is_not_computed_as_it_is_turned():
  """On CPUs the arrays are turned by themselves: no arithmetic goes with a transpose."""
  image, kernel, _ = drawn((6, 6), dtype=np.float32, batch=4, channels=(8, 8))
  def slope(of):
    loss = lambda x, w: jnp.sum(of(jnp.tanh(x) * x, w)**2)
    text = jax.jit(jax.grad(loss, 1)).lower(image, kernel).compile().as_text()
    bodies = re.findall(r'^%\S*fused_computation.*?^}', text, re.M | re.S)
    return [body for body in bodies
            if re.search(r' (transpose|copy)\(', body) and 'multiply(' in body]
  assert not slope(conv)
