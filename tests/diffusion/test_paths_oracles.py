"""Paths against the closed forms of their SDEs, moment equations and process tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jdiffclust.diffusion import forward, paths

PATHS = ('vp', 've', 'ddpm', 'cddpm')


def inner_times(path, num=7):
  """Times off the knots of a table."""
  return np.linspace(path.t_min, path.t_max, num + 2)[1:-1] + .013 * (path.t_max > 1)


def test_variance_preserving(x64):
  """dx = -beta x / 2 dt + sqrt(beta) dw; a = exp(-1/2 int beta), a^2 + s^2 = 1."""
  low, high = .3, 17.
  path = paths.VariancePreserving(low, high)
  t = jnp.linspace(1e-3, 1, 9)
  beta = low + t * (high - low)
  x = jnp.linspace(-2, 3, 9)[:, None] * jnp.ones((1, 2))
  np.testing.assert_allclose(path.drift(x, t, x), -.5 * beta[:, None] * x, rtol=1e-12)
  np.testing.assert_allclose(path.diffusion(t), beta, rtol=1e-11)
  area = [scipy.integrate.quad(lambda u: low + u * (high - low), 0, v)[0] for v in t]
  np.testing.assert_allclose(path.scale(t), np.exp(-.5 * np.array(area)), rtol=1e-12)
  np.testing.assert_allclose(path.scale(t)**2 + path.std(t)**2, 1, rtol=1e-12)
  # The course's dx = -b x dt + sqrt(2 b) dw is that of beta = 2 b.
  course = paths.VariancePreserving(2 * low, 2 * high)
  np.testing.assert_allclose(course.drift(x, t, x), -beta[:, None] * x, rtol=1e-12)
  np.testing.assert_allclose(course.diffusion(t), 2 * beta, rtol=1e-11)


def test_constant_beta(x64):
  """beta_min = beta_max: an Ornstein-Uhlenbeck process, also in the inverse."""
  path = paths.VariancePreserving(4., 4.)
  t = jnp.array([.01, .5, 1.])
  np.testing.assert_allclose(path.std(t)**2, 1 - np.exp(-4 * t), rtol=1e-12)
  np.testing.assert_allclose(path.time(path.log_sigma(t)), t, rtol=1e-12)


def test_variance_exploding(x64):
  """dx = sigma sqrt(2 log(sigma_max / sigma_min)) dw, x_t ~ N(x_0, sigma^2)."""
  path = paths.VarianceExploding(.02, 40.)
  t = jnp.linspace(0, 1, 5)
  sigma = .02 * 2000**t
  x = jnp.ones((5, 3))
  np.testing.assert_allclose(path.drift(x, t, x), 0, atol=0)
  np.testing.assert_allclose(path.diffusion(t), sigma**2 * 2 * np.log(2000), rtol=1e-12)
  np.testing.assert_allclose(path.std(t), sigma, rtol=1e-12)
  np.testing.assert_allclose(path.scale(t), 1, atol=0)
  np.testing.assert_allclose(path.prior_std(jnp.array(1.)), 40, rtol=1e-12)


@pytest.mark.parametrize('name', PATHS)
def test_moment_equations(x64, world, name):
  """m' = f(m), V' = 2 (df/dx) V + g^2 lead from one marginal to the next."""
  path, x0, mu = world.path(name), .7, -.4
  drift = jax.jit(lambda x, t: path.drift(x[None], t[None], jnp.array([mu]))[0])
  slope = jax.jit(lambda t: path.drift(jnp.ones(1), t[None], jnp.zeros(1))[0])
  diffusion = jax.jit(path.diffusion)

  def field(t, state):
    t = jnp.asarray(t)
    return [drift(jnp.asarray(state[0]), t),
            2 * slope(t) * state[1] + diffusion(t)]

  def marginal(t):
    t = jnp.asarray(t)
    return np.array([path.scale(t) * x0 + path.pull(t) * mu, path.std(t)**2])

  times = (np.arange(10., 14.) if path.num_steps else
           path.t_min + (path.t_max - path.t_min) * np.array([.2, .3, .4]))
  for begin, end in zip(times, times[1:]):  # no knot of a table lies inside
    found = scipy.integrate.solve_ivp(field, (begin, end - 1e-9), marginal(begin),
                                      rtol=1e-9, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(found, marginal(end), rtol=1e-6)


@pytest.mark.parametrize('name', PATHS)
def test_drift_and_diffusion_by_differences(x64, world, name):
  """f = (a'/a) x + (b' - (a'/a) b) mu and g^2 = (s^2)' - 2 (a'/a) s^2."""
  path = world.path(name)
  t, h = jnp.asarray(inner_times(path)), 1e-6
  slope = lambda function: (function(t + h) - function(t - h)) / (2 * h)
  alpha = slope(path.scale) / path.scale(t)
  x, mu = jnp.linspace(-1, 2, len(t)), jnp.linspace(3, -1, len(t))
  np.testing.assert_allclose(
      path.drift(x, t, mu), alpha * x + (slope(path.pull) - alpha * path.pull(t)) * mu,
      rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(
      path.diffusion(t), slope(lambda u: path.std(u)**2) - 2 * alpha * path.std(t)**2,
      rtol=1e-5)


@pytest.mark.parametrize('name', PATHS)
def test_time_inverts_log_sigma(x64, world, name):
  """From t to log sigma and back, at the ends, on and off the knots."""
  path = world.path(name)
  t = np.concatenate([[path.t_min], inner_times(path), [path.t_max]])
  sigma = path.log_sigma(jnp.asarray(t))
  assert (np.diff(sigma) > 0).all()
  np.testing.assert_allclose(path.time(sigma), t, rtol=1e-9)


@pytest.mark.parametrize('pull', ('zero', 'one_minus_sqrt_abar', 'linear'))
@pytest.mark.parametrize('steps', (50, 1000))
def test_process_tables(x64, world, pull, steps):
  """At t = 1..T the path has the mean and variance of q(x_t | x_0, mu)."""
  process = world.process(pull, steps)
  path, t = paths.from_process(process), np.arange(1, steps + 1)
  assert (path.t_min, path.t_max, path.num_steps) == (1, steps, steps)
  x0, mu = (np.random.default_rng(0).normal(size=(2, steps, 3)))
  device = jax.tree.map(jnp.asarray, process)
  mean = path.noised(jnp.asarray(x0), jnp.asarray(t, float), jnp.asarray(mu), 0.)
  np.testing.assert_allclose(
      mean, forward.marginal_mean(device, jnp.asarray(x0), jnp.asarray(t),
                                  jnp.asarray(mu)), rtol=1e-11)
  np.testing.assert_allclose(path.std(jnp.asarray(t, float))**2, process.delta[1:],
                             rtol=1e-11)


@pytest.mark.parametrize('name', PATHS)
def test_jit_and_precision(world, name):
  """A path is an argument of a jitted function; float32 keeps 5 digits of float64."""
  path = world.path(name)
  t = inner_times(path).astype(np.float32)
  functions = ('scale', 'pull', 'sigma', 'std', 'diffusion')
  call = jax.jit(lambda path, t: [getattr(path, f)(t) for f in functions])
  actual = call(path, jnp.asarray(t))
  expected = paths.on_host(lambda t: [getattr(path, f)(t) for f in functions], t)
  for name, a, b in zip(functions, actual, expected):
    assert a.dtype == jnp.float32 and b.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=2e-5, err_msg=name)


def test_levels_within_jit(world):
  """Tables are found in float64 even while a function is traced."""
  path = world.path('cddpm')
  seen = []
  jax.jit(lambda x: seen.append(path.levels([50., 2., 1.])) or x)(jnp.ones(1))
  assert seen[0].sigma.dtype == np.float64
  p = world.process()
  sigma = np.sqrt(p.delta / p.alphas_cumprod) / (1 - p.m)
  np.testing.assert_allclose(seen[0].sigma, sigma[[50, 2, 1]], rtol=1e-12)


def test_centring_undoes_the_mean(x64, world):
  """(x_t - b mu) / a = x_0 + sigma eps, images of any rank."""
  path, rng = world.path('cddpm'), np.random.default_rng(1)
  x0, mu, eps = (jnp.asarray(v) for v in rng.normal(size=(3, 4, 2, 3, 1)))
  t = jnp.array([1., 20., 33.3, 50.])
  y = path.centred(path.noised(x0, t, mu, eps), t, mu)
  np.testing.assert_allclose(y, x0 + path.sigma(t)[:, None, None, None] * eps, rtol=1e-8)
