"""Every sampler's draws of 25 Gaussians against exact ones; what the corrector mends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, paths, samplers

NUM, DIM = 4000, 8
# Sampler -> times of the Karras grid (of the uniform one for steps in t); options.
SETTINGS = {
    'ddpm': (400, 'karras', {}), 'ddpm step': (400, 'karras', dict(variance='step')),
    'ddim': (200, 'karras', {}), 'ddim .5': (200, 'karras', dict(eta=.5)),
    'euler': (400, 'uniform', {}), 'euler_maruyama': (400, 'uniform', {}),
    'reverse_diffusion': (400, 'uniform', {}),
    'predictor_corrector': (200, 'uniform', dict(snr=.1)),
    'heun': (30, 'karras', {}), 'dpm_solver_pp_2m': (40, 'karras', {}),
    'adaptive': (1, 'karras', dict(tolerance=1e-3))}


# Many random numbers, by code that hardly optimised would be six times as dear.
@functools.partial(jax.jit, static_argnums=0,
                   compiler_options={'xla_backend_optimization_level': 1})
def draw(sampler, table, path, data, keys):
  """Images by the perfect denoiser."""
  return samplers.run(sampler, table, analytic.denoiser(path, data), keys,
                      jnp.zeros((len(keys), data.means.shape[1]))).images


def path_of(world, kind):
  """Paths of usual ranges: a wider one takes more steps of a first-order sampler."""
  return {'vp': paths.VariancePreserving(), 've': paths.VarianceExploding(.01, 100.),
          'cddpm': world.path('cddpm', 400)}[kind]


def exact(data, seed):
  return np.asarray(data.sample(jax.random.key(100 + seed), NUM), np.float64)


@pytest.fixture(scope='module')
def chance(world):
  """From a distance to the largest over 6 pairs of exact samples."""
  data = world.mixture(DIM)
  return functools.cache(lambda distance: np.max([
      distance(exact(data, 2 * i), exact(data, 2 * i + 1)) for i in range(6)], axis=0))


def moments_apart(x, y):
  """Largest difference of the means, and of the covariances."""
  return np.array([np.abs(x.mean(0) - y.mean(0)).max(),
                   np.abs(np.cov(x.T) - np.cov(y.T)).max()])


# In y and sigma all paths are one; where t enters, a path of a table has more to show.
CDDPM = ('ddpm step', 'euler', 'euler_maruyama', 'adaptive')


@pytest.mark.parametrize('kind, name', [
    ('cddpm' if name in CDDPM else 'vp', name) for name in SETTINGS])
def test_draws_are_those_of_the_data(world, chance, kind, name):
  """Mean, covariance, sliced Wasserstein distance: as of two exact samples, + .015."""
  path, data = path_of(world, kind), world.mixture(DIM)
  steps, grid, options = SETTINGS[name]
  made = samplers.make_sampler(name.split()[0], path, steps, grid, **options)
  x = np.asarray(draw(*made, path, data, world.keys(NUM, seed=7)), np.float64)
  truth = exact(data, 0)
  for distance in (moments_apart, world.sliced_distance):
    found, allowed = distance(x, truth), chance(distance) + .015
    assert np.all(found < allowed), (found, allowed)


def test_the_distance_sees_what_is_wrong(world, chance):
  """Modes twice as wide, or weights mixed up, lie beyond the threshold used above."""
  data = world.mixture(DIM)
  allowed = chance(world.sliced_distance) + .015
  for wrong in (data._replace(variances=4 * data.variances),
                data._replace(log_weights=data.log_weights[::-1])):
    assert world.sliced_distance(exact(wrong, 1), exact(data, 0)) > allowed


@pytest.mark.parametrize('predictor', ('ddim', 'ddpm'))
@pytest.mark.parametrize('kind', ('vp', 've'))
def test_corrector_mends_a_coarse_predictor(world, kind, predictor):
  """12 steps with 4 Langevin steps after each leave less than .6 of the distance."""
  path, data = path_of(world, kind), world.gaussian(64)
  truth = exact(data, 0)

  def distance(name, **options):
    made = samplers.make_sampler(name, path, 12, 'karras', **options)
    return world.sliced_distance(draw(*made, path, data, world.keys(NUM, 5)), truth)

  coarse = distance(predictor)
  mended = distance('predictor_corrector', predictor=predictor, corrections=4)
  assert mended < .6 * coarse, (coarse, mended)
