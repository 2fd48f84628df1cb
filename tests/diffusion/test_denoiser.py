"""Denoisers as arguments: guidance, conditions of any kind, one compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, likelihood, ode, samplers
from jdiffclust.diffusion.denoiser import Denoiser, Unpulled, guided
from jdiffclust.registry import SAMPLERS

DIM = 4


def three(world, path):
  """Denoisers of unlike data on one path."""
  wide = world.gaussian(DIM)
  return [analytic.denoiser(path, data) for data in (
      world.mixture(DIM), wide, wide._replace(means=-wide.means))]


def inputs(path):
  """x, t and mu of five images."""
  rng = np.random.default_rng(0)
  x, mu = (jnp.asarray(v, jnp.float32) for v in rng.normal(size=(2, 5, DIM)))
  return x, jnp.linspace(path.t_min, path.t_max, 5), mu


@pytest.mark.parametrize('kind', ('vp', 've', 'cddpm'))
def test_scale_one_is_the_denoiser_and_zero_the_reference(world, kind):
  """Also where both are guided themselves; the centre is the denoiser's."""
  path = world.path(kind)
  first, second, third = three(world, path)
  x, t, mu = inputs(path)
  for one, other in ((first, second), (guided(first, second, jnp.float32(2.)), third),
                     (third, guided(first, second, jnp.float32(2.)))):
    for scale, same in ((1., one), (0., other)):
      found = guided(one, other, jnp.float32(scale))
      np.testing.assert_allclose(found.estimate(x, t, mu), same.estimate(x, t, mu),
                                 rtol=1e-5, atol=1e-6)
      np.testing.assert_array_equal(found.centre(mu), mu)


def test_guided_of_guided_compiles_once(world):
  """c + r (b + s (a - b) - c) for any s and r, which a program has as arguments."""
  path, calls = world.path('cddpm'), []
  first, second, third = three(world, path)
  x, t, mu = inputs(path)

  @jax.jit
  def estimate(denoiser, x, t, mu):
    calls.append(1)
    return denoiser.estimate(x, t, mu)

  a, b, c = (denoiser.estimate(x, t, mu) for denoiser in (first, second, third))
  for inner, outer in ((1.5, 3.), (-.5, .25), (1., 1.), (0., 1.), (4., 0.)):
    nested = guided(guided(first, second, jnp.float32(inner)), third,
                    jnp.float32(outer))
    np.testing.assert_allclose(estimate(nested, x, t, mu),
                               c + outer * (b + inner * (a - b) - c), rtol=1e-4,
                               atol=1e-5)
  assert len(calls) == 1


def test_guided_draws_compile_once(world):
  """A sampler's program is that of all scales; scale 1 draws what the denoiser does."""
  path, calls = world.path('vp'), []
  first, second, third = three(world, path)
  sampler, table = samplers.make_sampler('ddim', path, 5)

  @jax.jit
  def draw(table, denoiser, keys, mu):
    calls.append(1)
    return samplers.run(sampler, table, denoiser, keys, mu).images

  keys, mu = world.keys(3), jnp.zeros((3, DIM))
  nested = lambda inner, outer: guided(guided(first, second, jnp.float32(inner)), third,
                                       jnp.float32(outer))
  images = {scales: draw(table, nested(*scales), keys, mu)
            for scales in ((1., 1.), (0., 1.), (1., 0.), (3., 2.))}
  assert len(calls) == 1
  for scales, alone in (((1., 1.), first), ((0., 1.), second), ((1., 0.), third)):
    np.testing.assert_allclose(images[scales], draw(table, alone, keys, mu), rtol=1e-4,
                               atol=1e-5)
  assert np.abs(images[3., 2.] - images[1., 1.]).max() > .1


def known(variables, path, x, t, condition):
  """x_0 is told by the condition, or else by the variables."""
  del path, t
  told = variables if condition is None else condition['a'] * condition['b'][:, None]
  return jnp.broadcast_to(told, x.shape)


def conditions():
  """A tree of rows, and none."""
  rng = np.random.default_rng(1)
  a, b = (jnp.asarray(v, jnp.float32) for v in (rng.normal(size=(3, DIM)),
                                                rng.normal(size=3)))
  return {'a': a, 'b': b}, None


@pytest.mark.parametrize('name', SAMPLERS)
def test_conditions_are_trees_or_none(world, name):
  """Every sampler hands them on, and draws the image that they tell."""
  path, told = world.path('vp'), jnp.linspace(-1, 1, DIM)[None]
  denoiser = Denoiser(path, told, known, Unpulled((DIM,)))
  options = {'tolerance': 1e-3} if name == 'adaptive' else {}
  sampler, table = samplers.make_sampler(name, path, 4, **options)
  call = jax.jit(functools.partial(samplers.run, sampler))
  for condition in conditions():
    expected = (jnp.broadcast_to(told, (3, DIM)) if condition is None else
                condition['a'] * condition['b'][:, None])
    np.testing.assert_array_equal(
        call(table, denoiser, world.keys(3), condition).images, expected)


@pytest.mark.parametrize('num_probes', (0, 2))
def test_densities_of_trees_or_none(world, num_probes):
  """One point's flow only shrinks y: log p = log prior(x_T) + D log of its slope."""
  path, told = world.path('vp'), jnp.linspace(-1, 1, DIM)[None]
  denoiser = Denoiser(path, told, known, Unpulled((DIM,)))
  low, high = path.levels([path.t_min, path.t_max]).sigma
  scale = path.levels([path.t_max]).scale
  call = jax.jit(lambda denoiser, x, condition: likelihood.log_density(
      denoiser, x, condition, ode.Fixed(200), world.keys(3), num_probes))
  for condition in conditions():
    point = (jnp.broadcast_to(told, (3, DIM)) if condition is None else
             condition['a'] * condition['b'][:, None])
    noise = np.random.default_rng(2).normal(size=(3, DIM))
    x = point + jnp.asarray(low * noise, jnp.float32)
    last = scale * (np.asarray(point) + high * noise)
    expected = (-.5 * last**2 - .5 * np.log(2 * np.pi) + np.log(scale * high / low)
                ).sum(axis=1)
    found = call(denoiser, x, condition)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-4)
    np.testing.assert_allclose(found.standard_error, 0, atol=1e-3)


def test_centre_without_a_pull(world):
  """Zeros of the images' shape, one row for all; equal shapes share a program."""
  path, calls = world.path('vp'), []

  @jax.jit
  def centre(denoiser, condition):
    calls.append(1)
    return denoiser.centre(condition)

  for condition in (jnp.ones((5, 2)), jnp.zeros((5, 2))):
    denoiser = Denoiser(path, None, known, Unpulled((2, 3, 1)))
    np.testing.assert_array_equal(centre(denoiser, condition), np.zeros((1, 2, 3, 1)))
  assert len(calls) == 1
