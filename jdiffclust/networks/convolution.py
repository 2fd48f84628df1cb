"""Convolutions whose gradients are quick on CPUs within loops, too.

XLA's CPU backend has a quick convolution for images [B, H, W, C] and kernels
[k, k, I, O] alone. It brings others into this form at the outermost level of a program
only: with the gradients that JAX derives, a U-Net's training step takes some 20 times as
long in a `jax.lax.scan`, `cond` or `while_loop` as outside (docs/benchmarks.md). Here
gradients have this form from the start.

The sum of g * conv(x, w) is linear in x, w and g. Its derivatives with respect to the
three are three bilinear maps, each a primitive below. The transposes of one are the other
two, so that derivatives of any order, in both modes, stay among them. On other devices
than CPUs they are what JAX makes of its own convolution; with a kernel of 1x1, on every
device, of a product of matrices.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jdiffclust.networks.compilation import apart

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Bytes of images, or of their gradients, over which a kernel's gradient is summed at once
# on a CPU; of more, in parts of so many, which fit into a core's own cache. As one, a sum
# over more than the caches hold takes up to nine times as long
# (benchmarks/speed/README.md).
WHOLE, PART = 2**20, 2**18


class Geometry(NamedTuple):
  """The sizes of a convolution that its arguments do not always show.

  Attributes:
    image: (H, W).
    window: (k, k), of the kernel.
    strides: along height and width.
    padding: zeros before and after, along height and width.
  """

  image: tuple[int, int]
  window: tuple[int, int]
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]


def conv(image, kernel, strides: tuple[int, int] = (1, 1),
         padding='SAME') -> jax.Array:
  """Convolves images with a kernel, as `jax.lax.conv_general_dilated` does.

  Args:
    image: [B, H, W, I].
    kernel: [k, k, I, O], of the same type.
    strides: along height and width.
    padding: 'SAME', 'VALID', or the zeros before and after, along height and width.

  Returns:
    [B, h, w, O]; h = H / stride, rounded up, with 'SAME'.
  """
  (height, width), (high, wide) = image.shape[1:3], kernel.shape[:2]
  sizes, window = (height, width), (high, wide)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(sizes, window, strides, padding)
  (down, across), (rows, columns) = strides, padding
  geometry = Geometry(sizes, window, (down, across), (tuple(rows), tuple(columns)))
  # Within shard_map, an argument that is the same on all devices becomes one that may
  # differ if the other one does; the transpose of this sums over the devices.
  axes = _axes(image) | _axes(kernel)
  return output_p.bind(_varying(image, axes), _varying(kernel, axes), geometry=geometry)


def _axes(array):
  return jax.typeof(array).manual_axis_type.varying


def _varying(array, axes):
  missing = tuple(axes - _axes(array))
  return lax.pcast(array, missing, to='varying') if missing else array


def conv3x3(features: int, strides: int = 1, dtype: Any = None, use_bias: bool = True,
            kernel_init=nn.initializers.lecun_normal()) -> nn.Conv:
  """Makes a layer of 3x3 convolutions: Flax's, which computes by `conv`.

  Args:
    features: output channels.
    strides: along height and width.
    dtype: compute type; None: that of the image and the parameters.
    use_bias: add a number per channel.
    kernel_init: of the kernel.

  Returns:
    A module from [B, H, W, C] to [B, H / strides, W / strides, features].
  """
  return nn.Conv(features, (3, 3), strides=strides, dtype=dtype, use_bias=use_bias,
                 kernel_init=kernel_init, conv_general_dilated_cls=lambda: _for_flax)


def _for_flax(image, kernel, strides, padding, **rest):
  del rest  # what `conv3x3` leaves at its defaults
  return conv(image, kernel, strides, padding)


def doubled_conv3x3(features: int, dtype: Any = None) -> nn.Conv:
  """Makes a layer that doubles height and width by repetition, then convolves.

  The parameters are those of `conv3x3`; see `conv_of_doubled`.

  Args:
    features: output channels.
    dtype: compute type; None: that of the image and the parameters.

  Returns:
    A module from [B, H, W, C] to [B, 2 H, 2 W, features].
  """
  return nn.Conv(features, (3, 3), dtype=dtype,
                 conv_general_dilated_cls=lambda: _doubled_for_flax)


def _doubled_for_flax(image, kernel, *args, **rest):
  del args, rest  # what `doubled_conv3x3` leaves at its defaults
  return conv_of_doubled(image, kernel)


def conv_of_doubled(image, kernel) -> jax.Array:
  """Repeats every pixel 2x2 times and convolves by 3x3, in less than half of the work.

  Of the three rows that a row of the result sees, two are copies of one row. With their
  weights added, a convolution of the small image by 2x2 windows gives each of the four
  places within a repeated pixel: 16 products instead of 36.

  Args:
    image: [B, H, W, I].
    kernel: [3, 3, I, O].

  Returns:
    [B, 2 H, 2 W, O], of zero padding.
  """
  first, middle, last = kernel
  rows = (jnp.stack([first, middle + last]), jnp.stack([first + middle, last]))

  def columns(kernel):  # [2, 3, I, O] -> [2, 2, I, O], for the left and the right column
    first, middle, last = kernel[:, 0], kernel[:, 1], kernel[:, 2]
    return (jnp.stack([first, middle + last], axis=1),
            jnp.stack([first + middle, last], axis=1))

  batch, height, width, _ = image.shape
  zeros = ((1, 0), (0, 1))  # before and after, for the first and the second place
  lines = [jnp.stack([conv(image, kernel, padding=(zeros[a], zeros[b]))
                      for b, kernel in enumerate(columns(rows[a]))], axis=3)
           for a in (0, 1)]
  return jnp.stack(lines, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def pointwise(features: int, **options) -> nn.Dense:
  """Makes a dense layer over the channels of each pixel: Flax's, computed by `conv`.

  Args:
    features: output channels.
    **options: of `nn.Dense`.

  Returns:
    A module from [B, ..., C] to [B, ..., features].
  """
  return nn.Dense(features, dot_general_cls=lambda: _pointwise_for_flax, **options)


def _pointwise_for_flax(image, kernel, *args, **rest):
  del args, rest
  flat = image.reshape(image.shape[0], -1, 1, image.shape[-1])
  return conv(flat, kernel[None, None]).reshape(*image.shape[:-1], -1)


# ------------------------------------------------------------------------ the three maps


def _pixelwise(geometry: Geometry) -> bool:
  """Whether the convolution is a product of matrices, as which it is computed."""
  return geometry.window == geometry.strides == (1, 1)


def _output(image, kernel, geometry):
  if _pixelwise(geometry):
    return image @ kernel[0, 0]
  return lax.conv_general_dilated(image, kernel, geometry.strides, geometry.padding,
                                  dimension_numbers=LAYOUT)


def _image(output, kernel, geometry, for_cpu=False):
  """A convolution of the gradient, spread by the strides, with the turned kernel."""
  if _pixelwise(geometry):
    return output @ kernel[0, 0].T
  turned, layout = lax.rev(kernel, (0, 1)), ('NHWC', 'HWOI', 'NHWC')
  if for_cpu:
    turned, layout = turned.transpose(0, 1, 3, 2), LAYOUT
  padding = [
      (window - 1 - before, size + before - ((count - 1) * stride + 1))
      for size, window, stride, (before, _), count in zip(*geometry, output.shape[1:3])]
  return lax.conv_general_dilated(output, turned, (1, 1), padding, geometry.strides,
                                  dimension_numbers=layout)


def _kernel(image, output, geometry, for_cpu=False):
  """Channels take the place of examples, the spread gradient that of the kernel."""
  if for_cpu:
    # Apart: what precedes would be computed again in the order of the turned arrays.
    return apart(functools.partial(_kernel_for_cpu, geometry=geometry), image, output)
  if _pixelwise(geometry):
    return jnp.einsum('bhwi,bhwo->io', image, output)[None, None]
  return _kernel_as('CHWN', 'IHWO', 'HWNC', image, output, geometry)


def _kernel_for_cpu(image, output, geometry):
  if _pixelwise(geometry):
    rows = lambda a: a.reshape(-1, a.shape[-1])
    return (rows(image).T @ rows(output))[None, None]
  count = len(image)
  largest = max(math.prod(a.shape[1:]) * a.dtype.itemsize for a in (image, output))
  parts = 1 if count * largest <= WHOLE else -(-count // max(1, PART // largest))
  part = lambda both: _kernel_as(*LAYOUT, both[0].transpose(3, 1, 2, 0),
                                 both[1].transpose(1, 2, 0, 3), geometry)
  if parts == 1:
    found = part((image, output))
  else:
    size = -(-count // parts)
    missing = ((0, parts * size - count), *((0, 0),) * 3)  # zeros add nothing
    parted = [jnp.pad(a, missing).reshape(parts, size, *a.shape[1:])
              for a in (image, output)]
    found = jnp.sum(lax.map(part, parted), axis=0)
  return found.transpose(1, 2, 0, 3)


def _kernel_as(images, kernels, results, image, output, geometry):
  sizes = [output.shape[kernels.index(axis)] for axis in 'HW']
  padding = [
      (before, window + (count - 1) * stride - size - before)
      for size, window, stride, (before, _), count in zip(*geometry, sizes)]
  return lax.conv_general_dilated(image, output, (1, 1), padding,
                                  rhs_dilation=geometry.strides,
                                  dimension_numbers=(images, kernels, results))


# ------------------------------------------------------------------------- as primitives


def _primitive(name, function, free, **for_cpu):
  """A bilinear map as a primitive, yet without its derivatives.

  Args:
    name: of the primitive.
    function: the map, from two arrays and a geometry to an array.
    free: for each argument, an axis of it over which the map does not sum, and the axis
      that this one becomes in the result.
    **for_cpu: what else `function` is given on CPUs.
  """
  primitive = Primitive(name)

  @functools.lru_cache(maxsize=None)
  def compiled(geometry):
    return jax.jit(functools.partial(primitive.bind, geometry=geometry))

  @functools.lru_cache(maxsize=None)
  def result_type(first, second, geometry):
    closed = jax.make_jaxpr(functools.partial(function, geometry=geometry))
    return closed(first, second).out_avals[0]

  def batch(arguments, axes, *, geometry):
    """Examples of one argument join its free axis; of both: as JAX does it."""
    if None not in axes:
      return jax.vmap(functools.partial(function, geometry=geometry), axes)(
          *arguments), 0
    place = 0 if axes[0] is not None else 1
    (axis, result_axis), arguments = free[place], list(arguments)
    array = jnp.moveaxis(arguments[place], axes[place], axis)
    shape = array.shape
    arguments[place] = array.reshape(*shape[:axis], -1, *shape[axis + 2:])
    result = primitive.bind(*arguments, geometry=geometry)
    split = (*result.shape[:result_axis], *shape[axis:axis + 2],
             *result.shape[result_axis + 1:])
    return result.reshape(split), result_axis

  primitive.def_impl(lambda *arguments, geometry: compiled(geometry)(*arguments))
  primitive.def_abstract_eval(result_type)
  batching.primitive_batchers[primitive] = batch
  for platform, options in ((None, {}), ('cpu', for_cpu)):
    mlir.register_lowering(primitive, mlir.lower_fun(
        functools.partial(function, **options), multiple_results=False), platform)
  return primitive


output_p = _primitive('convolution', _output, ((0, 0), (3, 3)))
image_p = _primitive('convolution_image', _image, ((0, 0), (2, 3)), for_cpu=True)
kernel_p = _primitive('convolution_kernel', _kernel, ((3, 2), (3, 3)), for_cpu=True)

# The rules take a cotangent and the two arguments, of which the one that it belongs to is
# not known: image, kernel -> output; output, kernel -> image; image, output -> kernel.
ad.defbilinear(output_p,
               lambda g, _, kernel, **sizes: image_p.bind(g, kernel, **sizes),
               lambda g, image, _, **sizes: kernel_p.bind(image, g, **sizes))
ad.defbilinear(image_p,
               lambda g, _, kernel, **sizes: output_p.bind(g, kernel, **sizes),
               lambda g, output, _, **sizes: kernel_p.bind(g, output, **sizes))
ad.defbilinear(kernel_p,
               lambda g, _, output, **sizes: image_p.bind(output, g, **sizes),
               lambda g, image, _, **sizes: output_p.bind(image, g, **sizes))
