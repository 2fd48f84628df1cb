"""Rows one by one: the host's loop against the scan, and the noise level after each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, grids, samplers
from jdiffclust.errors import UserError
from jdiffclust.registry import SAMPLERS

DIM = 8
PATHS = ('vp', 've', 'ddpm', 'cddpm')
TABLES = [name for name in SAMPLERS if name != 'adaptive']
OPTIONS = {'adaptive': dict(tolerance=1e-3)}  # those without a default
# As outside of tests: at level 0, XLA rounds in a long loop otherwise than in its body.
CAREFUL = {'xla_backend_optimization_level': 3}


@functools.partial(jax.jit, static_argnums=(0, 5), compiler_options=CAREFUL)
def scanned(sampler, table, denoiser, keys, mu, num_states):
  """All rows as one program."""
  return samplers.run(sampler, table, denoiser, keys, mu, num_states)


@pytest.fixture
def careful_host(monkeypatch):
  """The programs that the host calls, compiled with as much care as the scan."""
  for name in ('begin', 'advance'):
    static = (0, 1) if name == 'begin' else 0
    monkeypatch.setattr(samplers, f'_compiled_{name}', jax.jit(
        getattr(samplers, f'_{name}'), static_argnums=static, compiler_options=CAREFUL))


@pytest.mark.parametrize('name,num_states', [
    *((name, 0) for name in SAMPLERS), *((name, 4) for name in TABLES)])
def test_host_and_scan_agree(careful_host, world, name, num_states):
  """Row by row from the host: the same bits, images, counts and states on the way."""
  path = world.path('cddpm')
  sampler, table = samplers.make_sampler(name, path, 6, 'karras', **OPTIONS.get(name, {}))
  denoiser = analytic.denoiser(path, world.mixture(DIM))
  mu = jnp.linspace(-1, 1, 5)[:, None] * jnp.ones((1, DIM))
  arguments = sampler, table, denoiser, world.keys(5), mu, num_states
  whole, by_row = scanned(*arguments), samplers.run(*arguments, scan=False)
  assert (whole.states is None) == (num_states == 0)
  assert len(np.unique(whole.images, axis=0)) == 5
  jax.tree.map(np.testing.assert_array_equal, whole, by_row)


class Counted(samplers.Sampler):
  """ddim by its formula, with a state of its own: the sum of the levels it has seen."""

  def init(self, table, denoiser, keys, condition):
    walk = samplers.TableSampler().init(table, denoiser, keys, condition)
    return walk.y, jnp.zeros(len(walk.y))

  def step(self, state, row, denoiser, keys, condition):
    y, total = state
    x = row.scale * y + row.pull * denoiser.centre(condition)
    x0 = denoiser.estimate(x, jnp.full(len(x), row.t), condition)
    share = row.sigma_next / row.sigma
    return share * y + (1 - share) * x0, total + row.sigma

  def finish(self, state, table):
    return samplers.Generated(*state)


def test_a_sampler_with_a_state_needs_no_more_than_its_class(world, monkeypatch):
  """Registered, it is made, gets rows of the grid, and runs on both ways."""
  monkeypatch.setattr(samplers, 'SAMPLERS', {**SAMPLERS, 'counted': lambda: Counted()})
  path = world.path('cddpm')
  denoiser = analytic.denoiser(path, world.mixture(DIM))
  mu = jnp.linspace(-1, 1, 5)[:, None] * jnp.ones((1, DIM))
  given = denoiser, world.keys(5), mu
  sampler, table = samplers.make_sampler('counted', path, 6, 'karras')
  wanted = samplers.run(*samplers.make_sampler('ddim', path, 6, 'karras'), *given)
  for scan in (True, False):
    found = samplers.run(sampler, table, *given, scan=scan)
    np.testing.assert_allclose(found.images, wanted.images, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.evaluations, table.rows.sigma.sum(), rtol=1e-5)
  with pytest.raises(UserError, match='Counted keeps no states'):
    samplers.run(sampler, table, *given, 3)
  with pytest.raises(UserError, match='it has none'):
    samplers.make_sampler('counted', path, 6, 'karras', eta=1.)


@pytest.mark.parametrize('grid', ('trailing', 'karras'))
@pytest.mark.parametrize('kind', PATHS)
@pytest.mark.parametrize('name', TABLES)
def test_sigma_next_is_the_level_after_the_row(world, name, kind, grid):
  """That of the grid's next time, for both rows of a step if it has two; at last 0."""
  path = world.path(kind)
  _, table = samplers.make_sampler(name, path, 6, grid)
  sigma = path.levels(grids.make_grid(grid, path, 6)).sigma
  assert (np.diff(sigma) < 0).all()
  rows_a_step = 2 if name in ('heun', 'predictor_corrector') else 1
  np.testing.assert_array_equal(table.rows.sigma_next,
                                [*np.repeat(sigma[1:], rows_a_step), 0.])
  np.testing.assert_array_equal(table.rows.sigma[0], sigma[0])


@pytest.mark.parametrize('predictor', ('ddim', 'heun'))
def test_sigma_next_of_corrections(world, predictor):
  """A corrector leaves the noise level as it is, however often."""
  path = world.path('cddpm')
  _, table = samplers.make_sampler('predictor_corrector', path, 4, predictor=predictor,
                                   corrections=3)
  sigma = path.levels(grids.make_grid('uniform', path, 4)).sigma
  repeats = 5 if predictor == 'heun' else 4
  np.testing.assert_array_equal(table.rows.sigma_next,
                                [*np.repeat(sigma[1:], repeats), 0.])
  corrects = table.rows.snr > 0
  assert corrects.sum() == 9
  np.testing.assert_array_equal(table.rows.sigma_next[corrects],
                                table.rows.sigma[corrects])


@pytest.mark.parametrize('name,options', [
    ('ddpm', {}), ('ddim', {}), ('ddim', dict(eta=.6)), ('heun', {}),
    ('dpm_solver_pp_2m', {})])
def test_sigma_next_by_the_rows_themselves(world, name, options):
  """Of data that is one point, y - x_0 = sigma eps: its deviation after each row."""
  _, table = samplers.make_sampler(name, world.path('ve'), 6, 'karras', **options)
  rows, first = table.rows, float(table.start_noise)
  # Variances and the covariance of y and y of the row before; x_0^ is 0, the point.
  spread = np.full((2, 2), first**2)
  np.testing.assert_allclose(first, rows.sigma[0], rtol=1e-9)
  for i in range(len(rows.t)):
    move = np.array([[rows.c_y[i], rows.c_y_before[i]], [1., 0.]])
    spread = move @ spread @ move.T
    spread[0, 0] += rows.c_z[i]**2
    np.testing.assert_allclose(spread[0, 0]**.5, rows.sigma_next[i], rtol=1e-9,
                               atol=1e-12)
