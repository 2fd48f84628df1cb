"""Flow densities against exact ones: Gaussians, mixtures, a quadrature over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jdiffclust.diffusion import analytic, likelihood, ode
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.errors import UserError
from jdiffclust.evaluation.diagnostics import bits_per_dimension

DIM = 4
SOLVERS = {'heun': ode.Fixed(600, 2), 'rk4': ode.Fixed(100, 4),
           'adaptive': ode.Adaptive(1e-5, 1e-5)}


def density(path, data, x, solver, mu=None, keys=None, num_probes=0):
  """Compiled, with data and path as arguments."""
  call = jax.jit(lambda path, data, x, mu: likelihood.log_density(
      analytic.denoiser(path, data), x, mu, solver, keys, num_probes))
  return call(path, data, x, jnp.zeros_like(x) if mu is None else mu)


@pytest.mark.parametrize('solver', SOLVERS)
def test_exact_density(world, solver):
  """Within 1e-3 nats of the density of a mixture with the noise of t_min (VP).

  (Of a Gaussian, more exactly: `test_pushforward_of_the_prior`.)
  """
  path, data = world.path('vp'), world.mixture(DIM)
  x = data.sample(jax.random.key(1), 12)
  found = density(path, data, x, SOLVERS[solver])
  expected = data.log_density(x, path.sigma(jnp.asarray(path.t_min)))
  np.testing.assert_allclose(found.nats, expected, atol=1e-3)
  np.testing.assert_array_equal(found.standard_error, 0)
  if solver != 'adaptive':
    assert set(found.evaluations.tolist()) == {1200 if solver == 'heun' else 400}


@pytest.mark.parametrize('kind', ('ve', 'cddpm'))
def test_exact_density_on_other_paths(world, kind):
  """The same on the VE path and on CDDPM's, where mu is known but drops out."""
  path, data = world.path(kind), world.mixture(DIM)
  x = data.sample(jax.random.key(2), 12)
  mu = jnp.asarray(np.random.default_rng(0).normal(size=x.shape), jnp.float32)
  found = density(path, data, x, ode.Fixed(150), mu)
  sigma = path.sigma(jnp.asarray(path.t_min))
  # A data point x_T away from the prior's centre costs (a x + b mu)^2 / 2 at most.
  t = jnp.asarray(path.t_max)
  slack = float(jnp.max(jnp.sum((path.scale(t) * x + path.pull(t) * mu)**2, 1)
                        * .5 / path.prior_std(t)**2))
  np.testing.assert_allclose(found.nats, data.log_density(x, sigma),
                             atol=1e-3 + 10 * slack**.5)


@pytest.mark.parametrize('kind', ('vp', 've', 'ddpm', 'cddpm'))
def test_pushforward_of_the_prior(x64, world, kind):
  """A Gaussian's flow is affine: log p = log prior(x_T) + log of its slope, to 1e-7."""
  path, data = world.path(kind), world.gaussian(DIM)
  rng = np.random.default_rng(3)
  x, mu = rng.normal(size=(2, 9, DIM))
  low, high = path.levels([path.t_min, path.t_max]).sigma
  end = path.levels([path.t_max])
  m, v = np.asarray(data.means), np.asarray(data.variances)
  growth = np.sqrt((v + high**2) / (v + low**2))
  last = end.scale * (m + (x - m) * growth) + end.pull * mu
  std = float(path.prior_std(jnp.asarray(path.t_max)))
  expected = (scipy.stats.norm.logpdf(last, 0, std) + np.log(end.scale * growth)).sum(1)
  found = density(path, data, jnp.asarray(x), ode.Fixed(400), jnp.asarray(mu))
  np.testing.assert_allclose(found.nats, expected, rtol=1e-6, atol=1e-6)


def rotated(path, data):
  """A denoiser whose Jacobian is not diagonal: the data turned by 30 degrees."""
  c, s = np.cos(.5), np.sin(.5)
  turn = np.eye(DIM)
  turn[:2, :2], turn[2:, 2:] = [[c, -s], [s, c]], [[s, c], [-c, s]]
  turn = jnp.asarray(turn, jnp.float32)

  def turned(variables, path, x, t, mu):
    del path
    turn, upright = variables
    return upright.estimate(x @ turn, t, mu @ turn) @ turn.T

  return turn, Denoiser(path, (turn, analytic.denoiser(path, data)), turned)


def test_hutchinson(world):
  """Unbiased, with a standard error that tells how far off it is."""
  path, data = world.path('vp'), world.gaussian(DIM)
  turn, denoiser = rotated(path, data)
  x = jnp.tile(data.sample(jax.random.key(1), 1) @ turn.T, (300, 1))
  solver, mu = ode.Fixed(60), jnp.zeros((300, DIM))
  found = jax.jit(lambda x, keys: likelihood.log_density(
      denoiser, x, mu, solver, keys, 4))(x, world.keys(300))
  exact = jax.jit(lambda x: likelihood.log_density(
      denoiser, x, mu[:1], solver))(x[:1]).nats[0]
  nats, error = np.asarray(found.nats), np.asarray(found.standard_error)
  assert nats.std() > .1
  assert abs(nats.mean() - exact) < 4 * nats.std() / 300**.5
  # The mean square of the estimated errors is the variance between the images.
  assert abs((error**2).mean() / nats.var() - 1) < .35
  expected = data.log_density(x[:1] @ turn, path.sigma(jnp.asarray(path.t_min)))[0]
  np.testing.assert_allclose(exact, expected, atol=1e-3)


def test_images_of_any_rank(world):
  """[B, H, W, C] images; one at a time or together."""
  path, flat = world.path('vp'), world.gaussian(6)
  data = jax.tree.map(lambda a: a.reshape(1, 3, 2, 1) if a.ndim > 1 else a, flat)
  x = data.sample(jax.random.key(0), 3)
  whole = density(path, data, x, ode.Adaptive(1e-4, 1e-4))
  np.testing.assert_allclose(
      whole.nats, flat.log_density(x.reshape(3, 6), path.sigma(jnp.asarray(path.t_min))),
      atol=2e-3)
  alone = density(path, data, x[1:2], ode.Adaptive(1e-4, 1e-4))
  np.testing.assert_allclose(alone.nats[0], whole.nats[1], atol=1e-4)
  np.testing.assert_array_equal(alone.evaluations[0], whole.evaluations[1])


@pytest.mark.parametrize('num_probes', (0, 2))
def test_devices_do_not_matter(world, num_probes):
  """8 devices under shard_map give one device's densities."""
  path, data = world.path('vp'), world.gaussian(DIM)
  call = lambda data, x, keys: likelihood.log_density(
      analytic.denoiser(path, data), x, jnp.zeros_like(x), ode.Fixed(20), keys,
      num_probes)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  part = jax.sharding.PartitionSpec
  split = jax.jit(jax.shard_map(
      call, mesh=mesh, in_specs=(part(), part('data'), part('data')),
      out_specs=likelihood.LogDensity(part('data'), part('data'), part('data'))))
  x, keys = data.sample(jax.random.key(0), 8), world.keys(8)
  for found, expected in zip(split(data, x, keys), jax.jit(call)(data, x, keys)):
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bits_per_dimension(world):
  """Uniform noise over 8-bit levels: 8 bits; the density of its bins is uniform."""
  levels = 256
  grey = 2 * np.arange(levels) / (levels - 1) - 1
  # Dequantised levels fill [-1 - h, 1 + h] evenly, h half a bin.
  nats = -5 * np.log(2 + 2 / (levels - 1))
  bits = lambda nats, size, levels: bits_per_dimension(
      likelihood.log_probability(nats, size, levels), size)
  np.testing.assert_allclose(bits(nats, 5, levels), 8, rtol=1e-12)
  np.testing.assert_allclose(bits(0., 5, levels), np.log2(127.5), rtol=1e-12)
  np.testing.assert_allclose(bits(-np.log(8), 3, None), 1, rtol=1e-12)
  np.testing.assert_allclose(bits_per_dimension(-np.log(8), 3), 1, rtol=1e-12)
  x = jnp.asarray(np.tile(grey, (50, 1)), jnp.float32)
  moved = np.asarray(likelihood.dequantised(world.keys(50), x, levels))
  # Each stays in its bin; together they are uniform.
  assert np.abs(moved - x).max() <= 1 / 255 + 1e-6
  assert scipy.stats.kstest((moved - x).ravel() * 255, 'uniform', (-1, 2)).pvalue > 1e-3


def test_refusals():
  """Solvers name what is allowed."""
  with pytest.raises(UserError, match='order 3.*2 or 4'):
    ode.Fixed(10, 3)
  with pytest.raises(UserError, match='0 steps'):
    ode.Fixed(0)


def test_without_diffrax(world, monkeypatch):
  """The missing package is named, with what to install."""
  monkeypatch.setitem(__import__('sys').modules, 'diffrax', None)
  with pytest.raises(UserError, match=r"diffrax.*jdiffclust\[ode\]"):
    density(world.path('vp'), world.gaussian(2), jnp.zeros((1, 2)), ode.Adaptive())
