"""Orders of convergence and limits: samplers on finer and finer grids.

For a Gaussian N(m, v) the probability-flow ODE has the solution y - m in proportion to
sqrt(v + sigma^2), and every linear sampler keeps Gaussians Gaussian: its mean and
variance follow from its rows by an exact recursion, without any draws.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, ode, paths, samplers

CENTRE, VARIANCE = .3, .25
DATA = analytic.GaussianMixture(np.zeros(1), np.full((1, 1), CENTRE),
                                np.full((1, 1), VARIANCE))


VP = paths.VariancePreserving(.1, 20.)
VE = paths.VarianceExploding(.05, 20.)


@functools.partial(jax.jit, static_argnums=0)
def draw(sampler, table, path, keys):
  """Images of the Gaussian, by one program for tables of one length."""
  return samplers.run(sampler, table, analytic.denoiser(path, DATA), keys,
                      jnp.zeros((len(keys), 1))).images


def moments(table, mean, variance):
  """Mean and variance of the last y before the decoder, from those of the first.

  The state is (1, y, y of the row before, x_0^ of the row before); rows act on it
  linearly, for x_0^ = gain y + shift.
  """
  rows = table.rows
  first = np.array([1., mean, mean, mean])
  second = np.outer(first, first)
  second[1:, 1:] += variance
  for i in range(len(rows.t) - 1):
    assert rows.snr[i] == 0
    gain = VARIANCE / (VARIANCE + rows.sigma[i]**2)
    x0 = np.array([(1 - gain) * CENTRE, gain, 0., 0.])
    y = (np.array([0., rows.c_y[i], rows.c_y_before[i], rows.c_0_before[i]])
         + rows.c_0[i] * x0)
    move = np.array([[1., 0, 0, 0], y, [0, 1., 0, 0], x0])
    second = move @ second @ move.T
    second[1, 1] += rows.c_z[i]**2
    first = move @ first
  return first[1], second[1, 1] - first[1]**2


def flow(path, y):
  """The exact flow of y from t_max to t_min."""
  low, high = path.levels([path.t_min, path.t_max]).sigma
  return CENTRE + (y - CENTRE) * ((VARIANCE + low**2) / (VARIANCE + high**2))**.5


def decoded(path, y):
  """E[x_0 | y] at t_min."""
  return CENTRE + VARIANCE / (VARIANCE + path.levels([path.t_min]).sigma**2) * (
      y - CENTRE)


def noise_of(keys, number):
  return np.asarray(jax.vmap(lambda k: jax.random.normal(
      jax.random.fold_in(k, number), (1,)))(keys))


def slope(steps, errors):
  return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize('name,grid,order', [
    ('ddim', 'karras', 1), ('ddim', 'uniform', 1), ('euler', 'uniform', 1),
    ('heun', 'karras', 2), ('heun', 'uniform', 2),
    ('dpm_solver_pp_2m', 'karras', 2), ('dpm_solver_pp_2m', 'uniform', 2)])
@pytest.mark.parametrize('path', (VP, VE), ids=('vp', 've'))
def test_order(x64, world, path, name, grid, order):
  """The error against the exact flow falls as the number of steps^-order."""
  keys, steps, errors = world.keys(3), (64, 128, 256, 512), []
  for num in steps:
    sampler, table = samplers.make_sampler(name, path, num, grid)
    y = float(table.start_noise)  # one standard deviation out
    last, _ = moments(table, y, 0.)
    errors.append(abs(last - flow(path, y)))
    if num == steps[0]:  # the compiled scan does what the rows say
      y = float(table.start_noise) * noise_of(keys, len(table.rows.t))
      expected = [[decoded(path, moments(table, v, 0.)[0])[0]] for v in y[:, 0]]
      np.testing.assert_allclose(draw(sampler, table, path, keys), expected, rtol=1e-7)
  assert abs(slope(steps, errors) - order) < .1, (slope(steps, errors), errors)


@pytest.mark.parametrize('name,options', [
    ('euler_maruyama', {}), ('reverse_diffusion', {}), ('ddpm', {}),
    ('ddpm', dict(variance='step')), ('ddim', dict(eta=.5))])
@pytest.mark.parametrize('path', (VP, VE), ids=('vp', 've'))
def test_weak_order(path, name, options):
  """From the exact marginal at t_max, mean and variance at t_min are right to order 1."""
  low, high = path.levels([path.t_min, path.t_max]).sigma
  steps, errors = (500, 1000, 2000, 4000), []
  for num in steps:
    _, table = samplers.make_sampler(name, path, num, **options)
    mean, variance = moments(table, CENTRE, VARIANCE + high**2)
    errors.append(abs(mean - CENTRE) + abs(variance - VARIANCE - low**2))
  assert abs(slope(steps, errors) - 1) < .2, (slope(steps, errors), errors)
  assert errors[-1] < .02 * VARIANCE


@pytest.mark.parametrize('variance', ('posterior', 'step'))
def test_ddpm_moments(world, variance):
  """Its variance from step to step in closed form, on the process's own steps."""
  path = world.path('ddpm', 1000)
  p = world.process('zero', 1000)
  _, table = samplers.make_sampler('ddpm', path, 1000, variance=variance)
  mean, spread = 0., 1.
  for t in range(1000, 1, -1):
    abar, before, beta = p.alphas_cumprod[t], p.alphas_cumprod[t - 1], p.beta[t]
    gain = VARIANCE * abar**.5 / (VARIANCE * abar + 1 - abar)
    # Ho et al. (2020), equation 7, with x_0 = m + gain (x - sqrt(abar) m).
    on_x0, on_x = before**.5 * beta / (1 - abar), (1 - beta)**.5 * (1 - before) / (
        1 - abar)
    move = on_x + on_x0 * gain
    mean = move * mean + on_x0 * CENTRE * (1 - gain * abar**.5)
    added = beta if variance == 'step' else beta * (1 - before) / (1 - abar)
    spread = move**2 * spread + added
  found = moments(table, 0., float(table.start_noise)**2)
  scale = path.levels([1.]).scale[0]
  np.testing.assert_allclose(found[0] * scale, mean, rtol=1e-9)
  np.testing.assert_allclose(found[1] * scale**2, spread, rtol=1e-9)


@pytest.mark.parametrize('kind,tolerances', [
    ('vp', (1e-3, 1e-5)), ('ve', (1e-5,)), ('cddpm', (1e-5,))])
def test_adaptive_is_exact_to_its_tolerance(world, kind, tolerances):
  """Errors against the exact flow follow the tolerance."""
  path, keys = world.path(kind), world.keys(6)
  last = path.levels([path.t_max])
  std = float(path.prior_std(jnp.asarray(path.t_max)))
  expected = decoded(path, flow(path, std * noise_of(keys, 0) / last.scale))
  for tolerance in tolerances:
    made = samplers.make_sampler('adaptive', path, 1, tolerance=tolerance)
    np.testing.assert_allclose(draw(*made, path, keys), expected,
                               atol=max(tolerance, 5e-5))


def test_adaptive_in_double_precision(x64, world):
  """Errors that float32 could not show."""
  made = samplers.make_sampler('adaptive', VP, 1, tolerance=1e-10)
  expected = decoded(VP, flow(VP, noise_of(world.keys(6), 0)
                              / VP.levels([VP.t_max]).scale))
  np.testing.assert_allclose(draw(*made, VP, world.keys(6)), expected, atol=1e-8)


def test_adaptive_gives_up(world):
  """Too few steps allowed: NaN, not a wrong image."""
  _, table = samplers.make_sampler('adaptive', VP, 1, tolerance=1e-3)
  sampler = samplers.Integrator(ode.Adaptive(max_steps=3))
  assert np.isnan(draw(sampler, table, VP, world.keys(2))).all()
