"""Linear operators A: what is seen of an image, y = A x + sigma_y n.

An operator is a tree of arrays with static sizes, so that it passes through `jax.jit`.
Images are x [B, H, W, C], observations y [B, ...]; no row depends on another. Where a
singular value decomposition A = U S V^T is cheap, `Spectral` operators have it as three
orthogonal maps: `into` is V^T, `back` is V, `observed` is U^T. All of them have D
coordinates, in the shape of the image; those with singular value 0 are not seen.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from jdiffclust.errors import UserError


class Operator(abc.ABC):
  """A linear map of images.

  Attributes:
    shape: of an image, (H, W, C).
  """

  shape: tuple[int, int, int]

  @abc.abstractmethod
  def apply(self, x) -> jax.Array:
    """A x, [B, ...], of images [B, H, W, C]."""

  @abc.abstractmethod
  def adjoint(self, y) -> jax.Array:
    """A^T y, [B, H, W, C], of observations [B, ...]."""

  def told(self, y) -> jax.Array:
    """y [B, ...] without what A never shows: 0 there, whatever it was."""
    return y


class Spectral(Operator):
  """An operator whose singular value decomposition is cheap."""

  @property
  @abc.abstractmethod
  def singular_values(self) -> jax.Array:
    """Of each coordinate, >= 0; broadcasts to (H, W, C)."""

  @abc.abstractmethod
  def into(self, x) -> jax.Array:
    """V^T x, the coordinates of images, [B, H, W, C]."""

  @abc.abstractmethod
  def back(self, coordinates) -> jax.Array:
    """V c, the images of coordinates, [B, H, W, C]: the inverse of `into`."""

  @abc.abstractmethod
  def observed(self, y) -> jax.Array:
    """U^T y, [B, H, W, C]: S V^T x where there is no noise; 0 where S is."""


@dataclass_transform(frozen_default=True, eq_default=False)
def _register(fields, static=()):
  """Makes a class a frozen dataclass, and a tree of the arrays `fields`."""
  return lambda cls: jax.tree_util.register_dataclass(
      dataclasses.dataclass(frozen=True, eq=False)(cls), fields, static)


@_register(('mask',), ('shape',))
class Inpainting(Spectral):
  """Some pixels are seen: A multiplies by a mask of zeros and ones.

  Attributes:
    mask: 1. where a pixel is seen, [H, W, 1] or [H, W, C].
    shape: (H, W, C).
  """

  mask: jax.Array
  shape: tuple[int, int, int]

  @property
  def singular_values(self):
    """The mask."""
    return self.mask

  def apply(self, x):
    """The seen pixels, zeros elsewhere."""
    return self.mask[None] * x

  adjoint = observed = apply

  def told(self, y):
    """What the mask shows; the rest may be anything, NaN too."""
    return jnp.where(self.mask[None] > 0, y, 0.)

  def into(self, x):
    """Pixels are the coordinates."""
    return x

  back = into


@_register(('rows', 'columns'), ('shape',))
class Separable(Spectral):
  """The same matrix for all columns of an image, and one for all rows: R x C^T.

  Subsampling, averaging and bicubic reduction, and blur by a product of two kernels.

  Attributes:
    rows: R = U S V^T of the first axis, (U [h, k], S [k], V [H, H]); V's first k columns
      belong to S.
    columns: of the second axis, likewise.
    shape: (H, W, C).
  """

  rows: tuple[jax.Array, jax.Array, jax.Array]
  columns: tuple[jax.Array, jax.Array, jax.Array]
  shape: tuple[int, int, int]

  @property
  def singular_values(self):
    """Products of those of both, [H, W, 1]."""
    return (_padded(self.rows[1], self.shape[0])[:, None, None]
            * _padded(self.columns[1], self.shape[1])[None, :, None])

  def apply(self, x):
    """R x C^T of each channel, [B, h, w, C]."""
    (u, s, v), (p, t, q) = self.rows, self.columns
    seen = jnp.einsum('hk,bhwc,wl->bklc', v[:, :len(s)], x, q[:, :len(t)])
    return jnp.einsum('ik,k,bklc,jl,l->bijc', u, s, seen, p, t)

  def adjoint(self, y):
    """R^T y C of each channel."""
    (u, s, v), (p, t, q) = self.rows, self.columns
    seen = jnp.einsum('ik,k,bijc,jl,l->bklc', u, s, y, p, t)
    return jnp.einsum('hk,bklc,wl->bhwc', v[:, :len(s)], seen, q[:, :len(t)])

  def into(self, x):
    """V^T x Q of each channel."""
    return jnp.einsum('hk,bhwc,wl->bklc', self.rows[2], x, self.columns[2])

  def back(self, coordinates):
    """V c Q^T of each channel."""
    return jnp.einsum('hk,bklc,wl->bhwc', self.rows[2], coordinates, self.columns[2])

  def observed(self, y):
    """U^T y P of each channel, zeros where nothing is seen."""
    seen = jnp.einsum('ik,bijc,jl->bklc', self.rows[0], y, self.columns[0])
    height, width, _ = self.shape
    return jnp.pad(seen, ((0, 0), (0, height - seen.shape[1]),
                          (0, width - seen.shape[2]), (0, 0)))


@_register(('spectrum',), ('shape',))
class Convolution(Spectral):
  """Blur by any kernel; images go on beyond their edges as if they were tiled.

  The coordinates are Hartley's: Re - Im of the unitary Fourier transform, which is real
  and its own inverse. A multiplies the Fourier transform by K = |K| e^(i phi); |K| is
  even and phi odd in the frequency, so |K| are singular values in these coordinates, and
  turning phases back is orthogonal.

  Attributes:
    spectrum: K, complex [H, W].
    shape: (H, W, C).
  """

  spectrum: jax.Array
  shape: tuple[int, int, int]

  @property
  def singular_values(self):
    """|K|, [H, W, 1]."""
    return jnp.abs(self.spectrum)[..., None]

  def apply(self, x):
    """The blurred images."""
    return self._filtered(x, self.spectrum)

  def adjoint(self, y):
    """Blur by the flipped kernel."""
    return self._filtered(y, self.spectrum.conj())

  def into(self, x):
    """Hartley's transform."""
    found = jnp.fft.fft2(x, axes=(1, 2), norm='ortho')
    return found.real - found.imag

  back = into

  def observed(self, y):
    """Hartley's transform, phases turned back; 0 where nothing is seen."""
    turned = self.spectrum.conj()
    seen = turned != 0
    phases = turned / jnp.where(seen, jnp.abs(turned), 1.).astype(turned.dtype)
    return self.into(self._filtered(y, phases))

  def _filtered(self, x, spectrum):
    found = jnp.fft.fft2(x, axes=(1, 2)) * spectrum[None, ..., None]
    return jnp.fft.ifft2(found, axes=(1, 2)).real.astype(x.dtype)


@_register(('left', 'values', 'into_plane', 'normals'), ('shape',))
class Matrix(Spectral):
  """Any matrix A = U S V^T of rank k; its SVD is made once, on the host.

  V is k of Householder's reflections, one after the other, whose product is I - P W^T
  (Schreiber and Van Loan, 1989). So a few measurements of large images take k D numbers
  and operations, not D^2.

  Attributes:
    left: U, [M, k].
    values: S > 0, [k].
    into_plane: P, [D, k].
    normals: W, [D, k]; the first k columns of I - P W^T belong to S.
    shape: (H, W, C), D numbers.
  """

  left: jax.Array
  values: jax.Array
  into_plane: jax.Array
  normals: jax.Array
  shape: tuple[int, int, int]

  @property
  def singular_values(self):
    """S, then zeros, in the shape of an image."""
    return _padded(self.values, len(self.normals)).reshape(self.shape)

  def apply(self, x):
    """A x, [B, M]."""
    rank = len(self.values)
    flat = x.reshape(len(x), -1)
    seen = flat[:, :rank] - flat @ self.into_plane @ self.normals[:rank].T
    return seen * self.values[None] @ self.left.T

  def adjoint(self, y):
    """A^T y."""
    return self.back(self._coordinates((y @ self.left) * self.values[None]))

  def into(self, x):
    """V^T x."""
    flat = x.reshape(len(x), -1)
    return (flat - flat @ self.into_plane @ self.normals.T).reshape(x.shape)

  def back(self, coordinates):
    """V c."""
    flat = coordinates.reshape(len(coordinates), -1)
    turned = flat - flat @ self.normals @ self.into_plane.T
    return turned.reshape(coordinates.shape)

  def observed(self, y):
    """U^T y, then zeros."""
    return self._coordinates(y @ self.left)

  def _coordinates(self, seen):
    """Coordinates [B, H, W, C], of which the first are given, [B, k]; zeros follow."""
    return _padded(seen, len(self.normals)).reshape(len(seen), *self.shape)


@_register(('factors',), ('shape',))
class Channels(Spectral):
  """The same matrix for the channels of every pixel, such as grey from colour.

  Attributes:
    factors: (U [c, k], S [k], V [C, C]) of the matrix [c, C].
    shape: (H, W, C).
  """

  factors: tuple[jax.Array, jax.Array, jax.Array]
  shape: tuple[int, int, int]

  @property
  def singular_values(self):
    """S, then zeros, [1, 1, C]."""
    return _padded(self.factors[1], self.shape[2])[None, None]

  def apply(self, x):
    """[B, H, W, c]."""
    u, s, v = self.factors
    return jnp.einsum('bhwc,ck,k,dk->bhwd', x, v[:, :len(s)], s, u)

  def adjoint(self, y):
    """[B, H, W, C]."""
    u, s, v = self.factors
    return jnp.einsum('bhwd,dk,k,ck->bhwc', y, u, s, v[:, :len(s)])

  def into(self, x):
    """V^T of each pixel."""
    return x @ self.factors[2]

  def back(self, coordinates):
    """V of each pixel."""
    return coordinates @ self.factors[2].T

  def observed(self, y):
    """U^T of each pixel, then zeros."""
    seen = y @ self.factors[0]
    unseen = self.shape[2] - seen.shape[-1]
    return jnp.pad(seen, ((0, 0), (0, 0), (0, 0), (0, unseen)))


@dataclasses.dataclass(frozen=True)
class Function(Operator):
  """A user's own linear function; its adjoint is found by differentiating it.

  Attributes:
    function: from images [B, H, W, C] to observations [B, ...], row by row; linear, and
      made of JAX operations. Static to `jax.jit`.
    shape: (H, W, C).
  """

  function: Callable
  shape: tuple[int, int, int]

  def apply(self, x):
    """The function."""
    return self.function(x)

  def adjoint(self, y):
    """Its transpose."""
    like = jax.ShapeDtypeStruct((len(y), *self.shape), y.dtype)
    (found,) = jax.linear_transpose(self.function, like)(y)
    return found


jax.tree_util.register_static(Function)


def _padded(values, length):
  """Zeros after the last axis, up to a length."""
  before = ((0, 0),) * (values.ndim - 1)
  return jnp.pad(values, (*before, (0, length - values.shape[-1])))


def shape_of(shape) -> tuple[int, int, int]:
  """(H, W, C) of any sequence of three.

  Raises:
    UserError: it is none of three whole numbers above 0.
  """
  found = tuple(shape) if isinstance(shape, Sequence) else ()
  if len(found) != 3 or not all(
      isinstance(side, (int, np.integer)) and side > 0 for side in found):
    raise UserError(f'shape = {shape!r} is not allowed: it is the (height, width, '
                    'channels) of an image, three whole numbers.')
  return int(found[0]), int(found[1]), int(found[2])


def _decomposed(matrix, full: bool):
  """U [M, k], S [k] falling and V, in float64, of a matrix [M, D] that shows something.

  Args:
    matrix: finite.
    full: whether V has all D columns, or those of the k = min(M, D) values.

  Raises:
    UserError: it is no matrix, or not finite, or has nothing but zeros.
  """
  matrix = np.asarray(matrix, np.float64)
  if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
    raise UserError(f'A matrix of shape {matrix.shape} is needed as [M, D] of finite '
                    'numbers.')
  left, values, right = np.linalg.svd(matrix, full_matrices=full)
  values = np.where(values > 1e-6 * values.max(), values, 0.)
  if not values.any():
    raise UserError('The operator is zero: it shows nothing of an image. Give another.')
  return left[:, :len(values)], values, right.T


def factors_of(matrix) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The singular value decomposition of a matrix, on the host in float64.

  Args:
    matrix: [M, D], finite.

  Returns:
    U [M, k], S [k] falling, V [D, D], k = min(M, D), float32; values that are zero up to
    rounding are exactly zero.

  Raises:
    UserError: it is no matrix, or not finite, or has nothing but zeros.
  """
  u, s, v = (jnp.asarray(a, jnp.float32) for a in _decomposed(matrix, full=True))
  return u, s, v


def _reflections(columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Householder's reflections whose product has given orthonormal columns first.

  Args:
    columns: [D, k], float64.

  Returns:
    P and W [D, k], and signs [k]: the first columns of I - P W^T, times the signs, are
    those given.
  """
  (packed, scales), triangle = linalg.qr(columns, mode='raw')
  normals = np.tril(packed, -1)[:, :len(scales)]
  np.fill_diagonal(normals, 1.)
  mixed = np.zeros((len(scales),) * 2)  # T: the product is I - W T W^T
  for k, scale in enumerate(scales):
    mixed[:k, k] = -scale * (mixed[:k, :k] @ (normals[:, :k].T @ normals[:, k]))
    mixed[k, k] = scale
  return normals @ mixed, normals, np.sign(np.diag(triangle))


# ------------------------------------------------------------- what people name


def inpainting(mask, shape: tuple[int, int, int]) -> Inpainting:
  """Seen are the pixels of a mask.

  Args:
    mask: true, or above 0, where a pixel is seen, [H, W] or [H, W, 1 or C].
    shape: of an image.

  Raises:
    UserError: another shape, nothing to be restored, or nothing seen.
  """
  mask, shape = np.asarray(mask), shape_of(shape)
  mask = mask[..., None] if mask.ndim == 2 else mask
  if mask.ndim != 3 or mask.shape[:2] != tuple(shape[:2]) or (
      mask.shape[2] not in (1, shape[2])):
    raise UserError(f'A mask of shape {mask.shape} for images of {tuple(shape)}: it must '
                    'have their height and width, and one channel or as many as they.')
  seen = mask > 0
  if seen.all() or not seen.any():
    raise UserError(f"The mask says that {'all' if seen.all() else 'none'} of the pixels "
                    'are known: make those that are lost 0, and the others more.')
  return Inpainting(jnp.asarray(seen, jnp.float32), shape)


def box(shape: tuple[int, int, int], top: float, left: float, height: float,
        width: float) -> Inpainting:
  """Hidden is a box, in shares of the height and the width of an image.

  Raises:
    UserError: it hides nothing, or all, or is no box of finite numbers.
  """
  shape = shape_of(shape)
  if not all(np.isfinite(value) for value in (top, left, height, width)):
    raise UserError(f'box = {(top, left, height, width)} is not allowed: four shares of '
                    'the height and the width are needed.')
  rows, columns = np.arange(shape[0]), np.arange(shape[1])
  inside = lambda at, side, begin, size: (
      (at >= round(begin * side)) & (at < round((begin + size) * side)))
  hidden = (inside(rows, shape[0], top, height)[:, None]
            & inside(columns, shape[1], left, width)[None])
  return _hidden(hidden, f'box = {(top, left, height, width)}', shape)


def _hidden(hidden: np.ndarray, asked: str, shape) -> Inpainting:
  """Pixels [H, W] are hidden, as an option asked."""
  if hidden.all() or not hidden.any():
    raise UserError(f"{asked} hides {'all' if hidden.all() else 'none'} of the "
                    f'{shape[0]}x{shape[1]} pixels: some must be hidden, and some seen.')
  return inpainting(~hidden, shape)


def random_pixels(shape: tuple[int, int, int], share: float, seed: int) -> Inpainting:
  """Hidden is a share of the pixels, chosen at random.

  Raises:
    UserError: it hides nothing, or all, or is no share.
  """
  shape = shape_of(shape)
  if not 0 <= share <= 1:
    raise UserError(f'share = {share} is not allowed: it must be from 0 to 1.')
  number = shape[0] * shape[1]
  hidden = np.zeros(number, bool)
  hidden[np.random.default_rng(seed).permutation(number)[:round(share * number)]] = True
  return _hidden(hidden.reshape(shape[:2]), f'share = {share}', shape)


def separable(rows, columns, shape: tuple[int, int, int]) -> Separable:
  """One matrix for the columns of an image, [h, H], and one for its rows, [w, W]."""
  shape = shape_of(shape)
  for matrix, side, what in ((rows, shape[0], 'height'), (columns, shape[1], 'width')):
    if np.ndim(matrix) != 2 or np.shape(matrix)[1] != side:
      raise UserError(f'A matrix of shape {np.shape(matrix)} for images of '
                      f'{tuple(shape)}: its second side must be their {what}, {side}.')
  return Separable(factors_of(rows), factors_of(columns), shape)


def _divided(shape, factor: int) -> list[int]:
  """The height and width of images that are reduced."""
  for side, what in zip(shape_of(shape), ('height', 'width')):
    if not isinstance(factor, (int, np.integer)) or factor < 2 or side % factor:
      raise UserError(f'A reduction by {factor} of a {what} of {side} pixels: it must be '
                      'a whole number, 2 or more, and divide it.')
  return [side // factor for side in shape[:2]]


def averaging(factor: int, shape: tuple[int, int, int]) -> Separable:
  """Reduction by the means of blocks of factor x factor pixels."""
  small = _divided(shape, factor)
  rows, columns = (np.kron(np.eye(side), np.full((1, factor), 1 / factor))
                   for side in small)
  return separable(rows, columns, shape)


def subsampling(factor: int, shape: tuple[int, int, int]) -> Separable:
  """Every factor-th pixel of every factor-th row."""
  small = _divided(shape, factor)
  first = np.eye(1, factor)
  rows, columns = (np.kron(np.eye(side), first) for side in small)
  return separable(rows, columns, shape)


def bicubic_matrix(small: int, side: int, sharpness: float = -.5) -> np.ndarray:
  """What a bicubic reduction with antialiasing does to a line of pixels, [small, side].

  Keys' kernel, widened by the factor; weights beyond the edges are left out and the
  others sum to 1, as in Pillow.

  Source: Keys, 'Cubic convolution interpolation for digital image processing' (1981).
  """
  factor = side / small
  centres = (np.arange(small)[:, None] + .5) * factor - .5
  x = np.abs(np.arange(side)[None] - centres) / factor
  near = (sharpness + 2) * x**3 - (sharpness + 3) * x**2 + 1
  far = sharpness * (x**3 - 5 * x**2 + 8 * x - 4)
  weights = np.where(x < 1, near, np.where(x < 2, far, 0.))
  return weights / weights.sum(axis=1, keepdims=True)


def bicubic(factor: int, shape: tuple[int, int, int]) -> Separable:
  """Bicubic reduction with antialiasing."""
  small = _divided(shape, factor)
  rows, columns = map(bicubic_matrix, small, shape[:2])
  return separable(rows, columns, shape)


def _gaussian(width: float, radius: int) -> np.ndarray:
  at = np.arange(-radius, radius + 1)
  kernel = np.exp(-.5 * (at / width)**2)
  return kernel / kernel.sum()


def gaussian_blur(width: float, shape: tuple[int, int, int]) -> Separable:
  """Blur by a Gaussian; beyond the edges images go on as at the edges.

  Args:
    width: its standard deviation in pixels, above 0.
    shape: of an image.

  Raises:
    UserError: width is not above 0.
  """
  shape = shape_of(shape)
  if not 0 < width < np.inf:
    raise UserError(f'A blur of width {width}: it must be above 0, in pixels.')
  radius = int(np.ceil(4 * width))

  def matrix(side):
    found = np.zeros((side, side))
    for offset, weight in zip(range(-radius, radius + 1), _gaussian(width, radius)):
      at = np.clip(np.arange(side) + offset, 0, side - 1)
      found[np.arange(side), at] += weight
    return found

  return separable(matrix(shape[0]), matrix(shape[1]), shape)


def convolution(kernel, shape: tuple[int, int, int]) -> Convolution:
  """Blur by any kernel [h, w] of odd sides; images go on as if they were tiled.

  Raises:
    UserError: another kernel, one larger than the images, or one that is zero or has
      numbers that are not finite.
  """
  kernel, shape = np.asarray(kernel, np.float64), shape_of(shape)
  odd = kernel.ndim == 2 and all(side % 2 for side in kernel.shape)
  if not odd or any(k > side for k, side in zip(kernel.shape, shape)):
    raise UserError(f'A kernel of shape {kernel.shape} for images of {tuple(shape)}: two '
                    'odd sides are needed, no larger than theirs.')
  if not np.isfinite(kernel).all():
    raise UserError('The kernel has NaN or infinite numbers: its numbers must be finite.')
  if not kernel.any():
    raise UserError('The kernel is zero: it shows nothing of an image. Give another.')
  padded = np.zeros(shape[:2])
  padded[:kernel.shape[0], :kernel.shape[1]] = kernel
  padded = np.roll(padded, [-(side // 2) for side in kernel.shape], axis=(0, 1))
  spectrum = np.fft.fft2(padded)
  spectrum[np.abs(spectrum) < 1e-6 * np.abs(spectrum).max()] = 0
  return Convolution(jnp.asarray(spectrum, jnp.complex64), shape)


def grey(shape: tuple[int, int, int], weights=(.299, .587, .114)) -> Channels:
  """Grey from colour, by the luma of ITU-R BT.601.

  Raises:
    UserError: the images have another number of channels.
  """
  shape = shape_of(shape)
  if shape[2] != len(weights):
    raise UserError(f'Grey from colour of images of {tuple(shape)}: they must have '
                    f'{len(weights)} channels.')
  return Channels(factors_of(np.asarray(weights)[None]), shape)


def matrix(values, shape: tuple[int, int, int]) -> Matrix:
  """Any matrix [M, H W C]; its decomposition takes 2 k H W C numbers, k its rank.

  Raises:
    UserError: another number of columns, or not finite, or zero.
  """
  shape = shape_of(shape)
  size = int(np.prod(shape))
  if np.ndim(values) != 2 or np.shape(values)[1] != size:
    raise UserError(f'A matrix of shape {np.shape(values)} for images of {tuple(shape)}: '
                    f'it must have {size} columns.')
  left, singular_values, right = _decomposed(values, full=False)
  seen = singular_values > 0
  into_plane, normals, signs = _reflections(right[:, seen])
  left, singular_values, into_plane, normals = (
      jnp.asarray(a, jnp.float32)
      for a in (left[:, seen] * signs, singular_values[seen], into_plane, normals))
  return Matrix(left, singular_values, into_plane, normals, shape)


def check_adjoint(operator: Operator, key, tolerance: float = 1e-3) -> None:
  """Checks that an operator is linear and that its adjoint is one: <A x, y> = <x, A^T y>.

  Args:
    operator: to be checked; cheap, with four images.
    key: a typed key.
    tolerance: relative.

  Raises:
    UserError: it is not.
  """
  x = jax.random.normal(jax.random.fold_in(key, 0), (2, *operator.shape))
  seen = operator.apply(x)
  y = jax.random.normal(jax.random.fold_in(key, 1), seen.shape)
  name = type(operator).__name__
  both = operator.apply(x[:1] - 2 * x[1:])
  bent = float(jnp.max(jnp.abs(both - (seen[:1] - 2 * seen[1:])))
               / jnp.maximum(jnp.max(jnp.abs(seen)), 1e-30))
  if not bent < tolerance:
    raise UserError(f'{name} is no linear operator: A (x - 2 z) and A x - 2 A z differ '
                    f'by {bent:.2g} (relative). Mend its apply.')
  rows = lambda a: a.reshape(len(a), -1)
  try:
    turned = operator.adjoint(y)
  # JAX raises this and that where a user's function has no transpose.
  except Exception as error:  # pylint: disable=broad-except
    why = ' '.join(str(error).split())[:200]
    raise UserError(f'{name} has no adjoint that can be found ({why}): make its function '
                    'of linear operations of JAX.') from None
  sides = jnp.sum(rows(seen) * rows(y), 1), jnp.sum(rows(x) * rows(turned), 1)
  scale = jnp.linalg.norm(rows(seen), axis=1) * jnp.linalg.norm(rows(y), axis=1)
  wrong = float(jnp.max(jnp.abs(sides[0] - sides[1]) / jnp.maximum(scale, 1e-30)))
  if not wrong < tolerance:
    raise UserError(
        f'{name} has another adjoint than this: <A x, y> and <x, A^T y> differ by '
        f'{wrong:.2g} (relative). Mend its adjoint.')
