"""Each operator against its matrix, made column by column."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage, signal

from jdiffclust.inverse import operators as op
from tests.helpers import refused

SHAPE = (6, 8, 2)
RNG = np.random.default_rng(0)
KERNEL = RNG.random((3, 5))


def ordinary():
  """Operators by name, of images 6x8x2 (grey: 6x8x3)."""
  return {
      'mask': op.inpainting(RNG.random((6, 8)) > .5, SHAPE),
      'mask of channels': op.inpainting(RNG.random(SHAPE) > .5, SHAPE),
      'box': op.box(SHAPE, .25, .25, .5, .5),
      'random': op.random_pixels(SHAPE, .3, 0),
      'averaging': op.averaging(2, SHAPE), 'subsampling': op.subsampling(2, SHAPE),
      'bicubic': op.bicubic(2, SHAPE), 'gaussian': op.gaussian_blur(1.2, SHAPE),
      'separable': op.separable(RNG.normal(size=(7, 6)), RNG.normal(size=(3, 8)), SHAPE),
      'convolution': op.convolution(KERNEL, SHAPE),
      'box blur': op.convolution(np.ones((3, 1)) / 3, SHAPE),  # some K are 0
      'grey': op.grey((6, 8, 3)),
      'matrix': op.matrix(RNG.normal(size=(20, 96)), SHAPE),
      'tall matrix': op.matrix(RNG.normal(size=(100, 96)), SHAPE),
      'poor matrix': op.matrix(np.outer(RNG.normal(size=9), RNG.normal(size=96)), SHAPE),
      'function': op.Function(lambda x: jnp.cumsum(x, axis=1)[:, ::2, ..., 0], SHAPE)}


OPERATORS = ordinary()
SPECTRAL = {name: each for name, each in OPERATORS.items()
            if isinstance(each, op.Spectral)}


def matrix_of(function, shape):
  """The matrix of a linear map of images, [M, D], column by column."""
  size = int(np.prod(shape))
  images = jnp.eye(size).reshape(size, *shape)
  return np.asarray(function(images).reshape(size, -1), np.float64).T


@pytest.mark.parametrize('name', OPERATORS)
def test_adjoint_is_the_transposed_matrix(name):
  """A^T, entry by entry; rows of a batch know nothing of each other."""
  operator = OPERATORS[name]
  matrix = matrix_of(operator.apply, operator.shape)
  seen = operator.apply(jnp.zeros((1, *operator.shape))).shape[1:]
  transposed = matrix_of(operator.adjoint, seen)
  np.testing.assert_allclose(transposed, matrix.T, atol=2e-5)
  op.check_adjoint(operator, jax.random.key(0))


@pytest.mark.parametrize('name', SPECTRAL)
def test_singular_value_decomposition(name):
  """V is orthogonal, U^T A = S V^T, and S are the singular values of the matrix."""
  operator = SPECTRAL[name]
  shape = operator.shape
  into = matrix_of(operator.into, shape)
  np.testing.assert_allclose(into @ into.T, np.eye(len(into)), atol=2e-5)
  np.testing.assert_allclose(matrix_of(operator.back, shape), into.T, atol=2e-5)
  matrix = matrix_of(operator.apply, shape)
  values = np.broadcast_to(operator.singular_values, shape).reshape(-1)
  seen = operator.apply(jnp.zeros((1, *shape))).shape[1:]
  observed = matrix_of(operator.observed, seen)
  np.testing.assert_allclose(observed @ matrix, values[:, None] * into, atol=5e-5)
  expected = np.linalg.svd(matrix, compute_uv=False)
  np.testing.assert_allclose(np.sort(values)[::-1][:len(expected)], expected, atol=5e-5)
  # Where something is seen, U has orthonormal columns; elsewhere it gives zeros.
  kept = observed[values > 0]
  np.testing.assert_allclose(kept @ kept.T, np.eye(len(kept)), atol=5e-5)
  np.testing.assert_allclose(observed[values == 0], 0, atol=1e-6)


def test_a_few_measurements_of_large_images():
  """Two sums over 90,000 pixels, of which all pairs would not fit into memory."""
  shape = 300, 300, 1
  rows, x = RNG.normal(size=(2, 90_000)), RNG.normal(size=(1, *shape))
  operator = op.matrix(rows, shape)
  seen = rows @ x.ravel()
  np.testing.assert_allclose(operator.apply(x)[0], seen, rtol=1e-3)
  coordinates = np.asarray(operator.into(x)).ravel()
  assert np.linalg.norm(coordinates) == pytest.approx(np.linalg.norm(x), rel=1e-5)
  np.testing.assert_allclose(
      (np.asarray(operator.singular_values).ravel() * coordinates)[:2],
      np.asarray(operator.observed(seen[None])).ravel()[:2], rtol=1e-3)


@pytest.mark.parametrize('name', SPECTRAL)
def test_passes_through_jit_as_an_argument(name):
  """Its arrays are arguments of a program, not constants of it."""
  operator = SPECTRAL[name]
  x = jnp.asarray(RNG.normal(size=(3, *operator.shape)), jnp.float32)
  jitted = jax.jit(lambda operator, x: operator.back(operator.into(x)))
  np.testing.assert_allclose(jitted(operator, x), x, atol=1e-5)


def test_blurs_are_those_of_scipy():
  """Any kernel, tiled; a Gaussian, edges going on."""
  x = RNG.normal(size=(2, 6, 8, 2)).astype(np.float32)
  found = op.convolution(KERNEL, SHAPE).apply(x)
  for image, blurred in zip(x, found):
    for c in range(2):
      expected = signal.convolve2d(np.pad(image[..., c], 4, mode='wrap'), KERNEL, 'same')
      np.testing.assert_allclose(blurred[..., c], expected[4:-4, 4:-4], atol=1e-5)
  found = op.gaussian_blur(1.2, SHAPE).apply(x)
  expected = ndimage.gaussian_filter(x, (0, 1.2, 1.2, 0), mode='nearest',
                                     truncate=5 / 1.2)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_reductions_are_those_of_pillow():
  """Means of blocks, every second pixel, and bicubic with antialiasing."""
  image = RNG.random((12, 16)).astype(np.float32)
  x = jnp.asarray(image)[None, ..., None]
  shape = (12, 16, 1)
  picture = Image.fromarray(image)
  for operator, kind in ((op.averaging(4, shape), Image.Resampling.BOX),
                         (op.bicubic(4, shape), Image.Resampling.BICUBIC),
                         (op.bicubic(2, shape), Image.Resampling.BICUBIC)):
    small = operator.apply(x)[0, ..., 0]
    expected = picture.resize(small.shape[::-1], kind)
    np.testing.assert_allclose(small, np.asarray(expected), atol=2e-3)
  np.testing.assert_allclose(op.subsampling(4, shape).apply(x)[0, ..., 0],
                             image[::4, ::4], atol=1e-6)


def test_what_is_hidden():
  """A box by shares of the sides; a share of the pixels."""
  mask = np.asarray(op.box((8, 8, 1), .25, .5, .5, .25).mask)[..., 0]
  expected = np.ones((8, 8))
  expected[2:6, 4:6] = 0
  np.testing.assert_array_equal(mask, expected)
  masks = [np.asarray(op.random_pixels((8, 8, 1), .25, seed).mask) for seed in (0, 0, 1)]
  assert masks[0].sum() == masks[2].sum() == 48
  assert (masks[0] == masks[1]).all() and (masks[0] != masks[2]).any()
  for side, what in ((1., 'all'), (0., 'none')):  # in the words of the options
    assert f'box = (0, 0, 1, {side}) hides {what}' in refused(
        op.box, (8, 8, 1), 0, 0, 1, side)
    assert f'share = {side} hides {what}' in refused(op.random_pixels, (8, 8, 1), side, 0)
  weights = op.grey((1, 3, 3)).apply(jnp.eye(3).reshape(1, 1, 3, 3))
  np.testing.assert_allclose(weights[0, 0, :, 0], [.299, .587, .114], atol=1e-6)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 100), st.floats(.3, 3.))
def test_blur_keeps_one_colour(seed, width):
  """The weights sum to one everywhere, at the edges too."""
  value = np.random.default_rng(seed).normal()
  found = op.gaussian_blur(width, (5, 7, 1)).apply(jnp.full((1, 5, 7, 1), value))
  np.testing.assert_allclose(found, value, atol=1e-5)


@pytest.mark.parametrize('make, fragment', [
    (lambda: op.inpainting(np.ones((6, 8)), SHAPE), 'all of the pixels'),
    (lambda: op.inpainting(np.zeros((6, 8)), SHAPE), 'none of the pixels'),
    (lambda: op.inpainting(np.ones((8, 6)), SHAPE), '(8, 6, 1)'),
    (lambda: op.averaging(4, SHAPE), 'height of 6'),
    (lambda: op.averaging(1, SHAPE), 'by 1'),
    (lambda: op.gaussian_blur(0., SHAPE), 'width 0'),
    (lambda: op.convolution(np.ones((2, 3)), SHAPE), '(2, 3)'),
    (lambda: op.convolution(np.ones((7, 3)), SHAPE), '(7, 3)'),
    (lambda: op.grey(SHAPE), '3 channels'),
    (lambda: op.matrix(np.ones((3, 5)), SHAPE), '96 columns'),
    (lambda: op.matrix(np.zeros((3, 96)), SHAPE), 'zero'),
    (lambda: op.matrix(np.full((3, 96), np.nan), SHAPE), 'finite'),
    (lambda: op.separable(np.eye(5), np.eye(8), SHAPE), 'height, 6')])
def test_what_is_no_operator_is_refused(make, fragment):
  """One line that names what is wrong."""
  assert fragment in refused(make)


class Crooked(op.Function):
  """Its adjoint is twice what it should be."""

  def adjoint(self, y):
    """Wrong."""
    return 2 * super().adjoint(y)


def twice_twice(x):
  """4 x, by a loop of which JAX knows no transpose."""
  return jax.lax.while_loop(lambda state: state[0] < 2,
                            lambda state: (state[0] + 1, 2 * state[1]), (0, x))[1]


@pytest.mark.parametrize('operator, told', [
    (Crooked(lambda x: 2 * x, SHAPE), 'another adjoint'),
    (op.Function(lambda x: 2 * x[:, ::2] + 1, SHAPE), 'no linear operator'),
    (op.Function(jnp.abs, SHAPE), 'no linear operator'),
    (op.Function(twice_twice, SHAPE), 'no adjoint that')])
def test_wrong_adjoints_are_found(operator, told):
  """An adjoint that is none, functions that are not linear, one without a transpose."""
  assert told in refused(op.check_adjoint, operator, jax.random.key(1))


@pytest.mark.parametrize('make, told', [
    (lambda: op.averaging(2.5, SHAPE), 'whole number'),
    (lambda: op.gaussian_blur(np.inf, SHAPE), 'width inf'),
    (lambda: op.box(SHAPE, np.nan, 0, 1, 1), 'box ='),
    (lambda: op.inpainting(np.eye(8), (8, 8)), 'shape = (8, 8)'),
    (lambda: op.averaging(2, 8), 'shape = 8'),
    (lambda: op.grey((8, 8, 0)), 'shape = (8, 8, 0)'),
    (lambda: op.random_pixels(SHAPE, -.5, 0), 'share = -0.5'),
    (lambda: op.random_pixels(SHAPE, np.nan, 0), 'share = nan')])
def test_what_makes_no_operator(make, told):
  assert told in refused(make)
