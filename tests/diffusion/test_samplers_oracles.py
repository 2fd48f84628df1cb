"""Each sampler against its paper's formulas, written out in x and t, and its tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.diffusion import analytic, grids, samplers, tables
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import from_process
from jdiffclust.errors import UserError
from jdiffclust.registry import SAMPLERS

PATHS = ('vp', 've', 'ddpm', 'cddpm')
NUM, DIM, STEPS = 5, 8, 7
TABLES = [name for name in SAMPLERS if name != 'adaptive']
OPTIONS = {'adaptive': dict(tolerance=1e-3)}  # those without a default


@functools.partial(jax.jit, static_argnums=0)
def draw(sampler, table, path, data, keys, mu):
  """Images by a perfect denoiser."""
  return samplers.run(sampler, table, analytic.denoiser(path, data), keys, mu)


posterior_mean = jax.jit(lambda data, y, sigma: data.posterior_mean(y, sigma))


class Reference:
  """The published loops in float64: functions of time, the score of x_t, the noise.

  Steps go from t to u < t. The pull is taken off first: z = x - b mu, whose score is
  that of x.
  """

  def __init__(self, path, data, keys, mu):
    self.path, self.data, self.keys, self.mu = path, data, keys, mu
    self.left = None  # numbers the noise: evaluations still to come

  def at(self, name, t):
    return float(getattr(self.path, name)(jnp.asarray(t, float)))

  def x0(self, z, t):
    return np.asarray(posterior_mean(
        self.data, z / self.at('scale', t), self.at('sigma', t)))

  def score(self, z, t):
    return (self.at('scale', t) * self.x0(z, t) - z) / self.at('std', t)**2

  def noise(self):
    return np.asarray(jax.vmap(lambda k: jax.random.normal(
        jax.random.fold_in(k, self.left), (DIM,)))(self.keys))

  def run(self, times, step, evaluations):
    self.left = evaluations
    t = jnp.asarray(times[0], float)
    z = float(self.path.prior_std(t)) * self.noise() - self.at('pull', t) * self.mu
    for t, u in zip(times, times[1:]):
      z = step(self, z, t, u)
    self.left -= 1
    assert self.left == 0
    return self.x0(z, times[-1])


def ddpm_of(variance):
  def step(r, z, t, u):
    """Ho et al. (2020), equations 6 and 7, between any two times."""
    r.left -= 1
    a, b = r.at('scale', t), r.at('scale', u)
    alpha = (a / b)**2
    beta = r.at('std', t)**2 - alpha * r.at('std', u)**2
    before, now = r.at('std', u)**2, r.at('std', t)**2
    mean = b * beta / now * r.x0(z, t) + alpha**.5 * before / now * z
    v = beta if variance == 'step' else before / now * beta
    return mean + v**.5 * r.noise()
  return step


def ddim_of(eta):
  def step(r, z, t, u):
    """Song et al. (2021), equations 12 and 16 (there abar + s^2 = 1)."""
    r.left -= 1
    a, b, s, q = r.at('scale', t), r.at('scale', u), r.at('std', t), r.at('std', u)
    noise = eta * q / s * (s**2 * b**2 / a**2 - q**2)**.5 * a / b
    x0 = r.x0(z, t)
    eps = (z - a * x0) / s
    return b * x0 + (q**2 - noise**2)**.5 * eps + noise * r.noise()
  return step


def sde(r, t):
  """f(z, t) / z and g^2 by differences of the marginals."""
  h = 1e-6
  alpha = (np.log(r.at('scale', t + h)) - np.log(r.at('scale', t - h))) / (2 * h)
  slope = (r.at('std', t + h)**2 - r.at('std', t - h)**2) / (2 * h)
  return alpha, slope - 2 * alpha * r.at('std', t)**2


def euler(r, z, t, u):
  """Song et al. (2021), equation 13: dz = (f - g^2 score / 2) dt."""
  r.left -= 1
  alpha, g2 = sde(r, t)
  return z + (u - t) * (alpha * z - .5 * g2 * r.score(z, t))


def euler_maruyama(r, z, t, u):
  """Their equation 6: dz = (f - g^2 score) dt + g dw."""
  r.left -= 1
  alpha, g2 = sde(r, t)
  return (z + (u - t) * (alpha * z - g2 * r.score(z, t))
          + (g2 * (t - u))**.5 * r.noise())


def reverse_diffusion(r, z, t, u):
  """Their equation 46 with z_t = z_u + f(z_u) + G noise the exact transition."""
  r.left -= 1
  root = r.at('scale', t) / r.at('scale', u)
  square = r.at('std', t)**2 - root**2 * r.at('std', u)**2
  return (z - (root - 1) * z + square * r.score(z, t) + square**.5 * r.noise())


def corrected(predictor, corrections, snr):
  def step(r, z, t, u):
    """Their algorithms 2 to 5; the norm of the noise is its root mean square."""
    z = predictor(r, z, t, u)
    for _ in range(corrections):
      r.left -= 1
      score = r.score(z, u)
      size = 2 * (snr * DIM**.5 / np.linalg.norm(score, axis=1, keepdims=True))**2
      size = np.minimum(size, r.at('std', u)**2)
      z = z + size * score + (2 * size)**.5 * r.noise()
    return z
  return step


def heun(r, z, t, u):
  """Karras et al. (2022), algorithm 1, in y = z / a and sigma."""
  r.left -= 2
  y, s, q = z / r.at('scale', t), r.at('sigma', t), r.at('sigma', u)
  d = (y - r.x0(z, t)) / s
  end = y + (q - s) * d
  d2 = (end - r.x0(r.at('scale', u) * end, u)) / q
  return r.at('scale', u) * (y + (q - s) * (d + d2) / 2)


class Multistep:
  """Lu et al. (2023), algorithm 2 (2M)."""

  def __init__(self):
    self.before = None

  def __call__(self, r, z, t, u):
    r.left -= 1
    log_snr = lambda t: np.log(r.at('scale', t) / r.at('std', t))
    h, x0 = log_snr(u) - log_snr(t), r.x0(z, t)
    d = x0
    if self.before is not None:
      last, h_last = self.before
      ratio = h_last / h
      d = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * last
    self.before = x0, h
    return (r.at('std', u) / r.at('std', t) * z
            - r.at('scale', u) * (np.exp(-h) - 1) * d)


CASES = {
    'ddpm': (ddpm_of('posterior'), {}),
    'ddpm step': (ddpm_of('step'), dict(variance='step')),
    'ddim': (ddim_of(0.), {}),
    'ddim .6': (ddim_of(.6), dict(eta=.6)),
    'euler': (euler, {}),
    'euler_maruyama': (euler_maruyama, {}),
    'reverse_diffusion': (reverse_diffusion, {}),
    'predictor_corrector': (corrected(reverse_diffusion, 1, .16), {}),
    'predictor_corrector 2 ddim': (
        corrected(ddim_of(0.), 2, .1), dict(predictor='ddim', corrections=2, snr=.1)),
    'predictor_corrector heun': (corrected(heun, 1, .16), dict(predictor='heun')),
    'heun': (heun, {}),
    'dpm_solver_pp_2m': (None, {}),
}


# A table's rows are of the path's levels alone: one without a pull and CDDPM's, which has
# one and knots, meet all samplers; the others those of each use of the levels.
@pytest.mark.parametrize('name,case', [
    *((name, case) for name in ('vp', 'cddpm') for case in CASES),
    *((name, case) for name in ('ve', 'ddpm')
      for case in ('ddpm', 'euler_maruyama', 'reverse_diffusion', 'heun'))])
def test_is_the_published_loop(x64, world, name, case):
  """The same noise gives the same images, on every path and with a curved denoiser."""
  step, options = CASES[case]
  path, data, keys = world.path(name), world.mixture(DIM), world.keys(NUM)
  mu = np.random.default_rng(2).normal(size=(NUM, DIM))
  # Off the knots of a table, where its slopes are two.
  times = grids.make_grid('karras', path, STEPS)
  if path.num_steps:
    times = np.clip(np.floor(times), 1, None)[1:] + np.linspace(.9, .1, STEPS - 1)
  table = tables.make_table(
      path, times, lambda *levels: SAMPLERS[case.split()[0]](*levels, **options))
  drawn = draw(samplers.TableSampler(), table, path, data, keys, jnp.asarray(mu))
  reference = Reference(path, data, keys, mu)
  expected = reference.run(times, step or Multistep(), int(drawn.evaluations[0]))
  np.testing.assert_allclose(drawn.images, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('variance', ('step', 'posterior'))
@pytest.mark.parametrize('pull', ('zero', 'one_minus_sqrt_abar', 'linear'))
def test_ddpm_on_all_steps_is_the_process(world, pull, variance):
  """Its rows, turned to x, are the a_x, a_0, a_mu and reverse variance of the process."""
  p = world.process(pull)
  _, table = samplers.make_sampler('ddpm', from_process(p), 50, variance=variance)
  rows, t = table.rows, np.arange(50, 0, -1)
  np.testing.assert_array_equal(rows.t, t)
  scale, pull = rows.scale[1:], rows.pull[1:]  # of t - 1, where the step leads
  c_y, now = rows.c_y[:-1], slice(0, -1)
  to_x = scale * c_y / rows.scale[now]
  np.testing.assert_allclose(to_x, p.a_x[t[now]], rtol=1e-9)
  np.testing.assert_allclose(scale * rows.c_0[now], p.a_0[t[now]], rtol=1e-9)
  np.testing.assert_allclose(pull - to_x * rows.pull[now], p.a_mu[t[now]], atol=1e-12)
  expected = p.delta_step if variance == 'step' else p.delta_posterior
  np.testing.assert_allclose((scale * rows.c_z[now])**2, expected[t[now]], rtol=1e-9)
  assert rows.c_y[-1] == rows.c_z[-1] == 0 and rows.c_0[-1] == 1


@pytest.mark.parametrize('name', PATHS)
def test_ddpm_on_a_part_is_bayes(world, name):
  """q(z_u | z_t, x_0) by multiplying q(z_u | x_0) and q(z_t | z_u), any two times."""
  path = world.path(name)
  rows = samplers.make_sampler('ddpm', path, 6, 'trailing')[1].rows
  levels = path.levels(rows.t)
  a, s = levels.scale, levels.scale * levels.sigma
  for i in range(5):
    slope = a[i] / a[i + 1]
    noise = s[i]**2 - slope**2 * s[i + 1]**2
    variance = 1 / (1 / s[i + 1]**2 + slope**2 / noise)
    np.testing.assert_allclose((a[i + 1] * rows.c_z[i])**2, variance, rtol=1e-9)
    np.testing.assert_allclose(a[i + 1] * rows.c_y[i] / a[i], variance * slope / noise,
                               rtol=1e-9)
    np.testing.assert_allclose(a[i + 1] * rows.c_0[i],
                               variance * a[i + 1] / s[i + 1]**2, rtol=1e-9)


@pytest.mark.parametrize('name', SAMPLERS)
def test_devices_and_neighbours_do_not_matter(world, name):
  """8 devices under shard_map give one device's images; so do 3 among 13 others."""
  path, data = world.path('cddpm'), world.mixture(DIM)
  sampler, table = samplers.make_sampler(name, path, 6, **OPTIONS.get(name, {}))
  keys = world.keys(16)
  mu = jnp.linspace(-1, 1, 16)[:, None] * jnp.ones((1, DIM))
  part = jax.sharding.PartitionSpec
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.jit(jax.shard_map(
      functools.partial(draw, sampler), mesh=mesh,
      in_specs=(part(), part(), part(), part('data'), part('data')),
      out_specs=part('data'), check_vma=sampler.checks_vma))
  assert sampler.checks_vma == (name != 'adaptive')
  whole = draw(sampler, table, path, data, keys, mu)
  spread = split(table, path, data, keys, mu)
  np.testing.assert_allclose(spread.images, whole.images, rtol=1e-5, atol=2e-5)
  np.testing.assert_array_equal(spread.evaluations, whole.evaluations)
  some, others = jnp.array([11, 0, 5]), world.keys(13, seed=1)
  mixed = draw(sampler, table, path, data, jnp.concatenate([keys[some], others]),
               jnp.concatenate([mu[some], mu[:13]]))  # as many: by the same program
  np.testing.assert_allclose(mixed.images[:3], whole.images[some], rtol=1e-5, atol=2e-5)
  assert len(np.unique(np.asarray(whole.images).round(4), axis=0)) == 16


def test_states(world):
  """Kept states are x_t at evenly spaced rows, as the denoiser sees them."""
  path, seen = world.path('cddpm'), []
  keys, mu = world.keys(3), jnp.ones((3, 2, 2, 1))

  def half(variables, path, x, t, mu):
    del variables
    jax.debug.callback(lambda x, t: seen.append((float(t[0]), np.asarray(x))), x, t,
                       ordered=True)
    return .5 * path.centred(x, t, mu)

  denoiser = Denoiser(path, None, half)
  sampler, table = samplers.make_sampler('ddpm', path, 9)
  drawn = jax.jit(lambda mu: samplers.run(sampler, table, denoiser, keys, mu, 4))(mu)
  jax.effects_barrier()
  assert [t for t, _ in seen] == table.rows.t.tolist()
  assert drawn.states.shape == (4, 3, 2, 2, 1)
  for state, row in zip(drawn.states, (0, 3, 6)):
    np.testing.assert_array_equal(state, seen[row][1])
  np.testing.assert_array_equal(drawn.states[-1], drawn.images)
  np.testing.assert_allclose(drawn.states[0], jax.vmap(lambda k: jax.random.normal(
      jax.random.fold_in(k, 9), (2, 2, 1)))(keys), atol=1e-6)
  every = samplers.run(sampler, table, denoiser, keys, mu, 10).states
  assert len(every) == 10
  for count in (1, 11):
    with pytest.raises(UserError, match=f'{count} states .* to 2..10'):
      samplers.run(sampler, table, denoiser, keys, mu, count)


@pytest.mark.parametrize('name,steps,evaluations', [
    ('ddpm', 9, 9), ('heun', 5, 9), ('predictor_corrector', 5, 9), ('adaptive', 1, None)])
def test_evaluations_are_counted(world, name, steps, evaluations):
  """The number reported is how often the denoiser ran."""
  path, data, calls = world.path('vp'), world.mixture(DIM), []

  def counted(perfect, path, x, t, mu):
    jax.debug.callback(lambda x: calls.append(len(x)), x)
    return perfect.estimate(x, t, mu)

  denoiser = Denoiser(path, analytic.denoiser(path, data), counted)
  sampler, table = samplers.make_sampler(name, path, steps, **OPTIONS.get(name, {}))
  drawn = jax.jit(lambda keys: samplers.run(
      sampler, table, denoiser, keys, jnp.zeros((1, DIM))))(world.keys(1))
  jax.effects_barrier()
  assert sum(calls) == int(drawn.evaluations[0])
  assert evaluations in (None, len(calls))


def test_grids(world):
  """25 steps in ten, by hand; ends and strides of the rest."""
  path = world.path('cddpm', 25)
  expected = {'uniform': [25, 22, 20, 17, 14, 12, 9, 6, 4, 1],  # 24 / 9 = 2.67 apart
              'leading': [19, 17, 15, 13, 11, 9, 7, 5, 3, 1],  # 25 // 10 = 2 apart
              'trailing': [25, 22, 20, 18, 15, 12, 10, 8, 5, 2]}  # 2.5, halves to even
  for name, times in expected.items():
    assert grids.make_grid(name, path, 10).tolist() == times
    np.testing.assert_array_equal(grids.make_grid(name, path, 25), np.arange(25, 0, -1))
    assert grids.make_grid(name, path, 1).tolist() == [1 if name == 'leading' else 25]
  vp = world.path('vp')
  np.testing.assert_allclose(grids.make_grid('uniform', vp, 3), [1, .5005, .001])
  np.testing.assert_allclose(grids.make_grid('leading', vp, 2), [.5005, .001])
  np.testing.assert_allclose(grids.make_grid('trailing', vp, 2), [1, .5005])
  for name in PATHS:
    path = world.path(name)
    times = grids.make_grid('karras', path, 9)
    np.testing.assert_allclose(times[[0, -1]], [path.t_max, path.t_min], rtol=1e-12)
    assert (times >= path.t_min).all() and (times <= path.t_max).all()
    roots = path.levels(times).sigma**(1 / 7)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 8, rtol=1e-6)


def test_refusals(world):
  """Names, options and values are checked, and the allowed ones named."""
  path = world.path('ddpm', 50)
  make = lambda name, *args, **options: samplers.make_sampler(
      name, path, *args, **options)
  for call, message in (
      (lambda: make('plms', 9), "sampler 'plms'.*ddpm.*dpm_solver_pp_2m"),
      (lambda: make('ddim', 9, 'cosine'), "grid 'cosine'.*uniform.*karras"),
      (lambda: make('ddim', 51), '51 sampling steps: set 1..50'),
      (lambda: make('ddim', 0), '0 sampling steps'),
      (lambda: samplers.make_sampler('ddim', world.path('vp'), 0), 'at least 1'),
      (lambda: make('ddim', 9, variance='step'), "option of ddim 'variance'.*eta"),
      (lambda: make('heun', 9, eta=1.), "option of heun 'eta': it has none"),
      (lambda: make('ddim', 9, eta=1.5), 'eta = 1.5'),
      (lambda: make('ddpm', 9, variance='large'), "'large'.*posterior, step"),
      (lambda: make('predictor_corrector', 9, predictor='dpm_solver_pp_2m'),
       'predictor.*reverse_diffusion'),
      (lambda: make('predictor_corrector', 9, snr=0.), 'snr = 0'),
      (lambda: make('adaptive', 9, rtol=0.), "option of adaptive 'rtol'.*tolerance"),
      (lambda: make('adaptive', 9, tolerance=0.), 'rtol = 0'),
      (lambda: samplers.run(*make('adaptive', 9, tolerance=.1),
                            analytic.denoiser(path, world.gaussian()), world.keys(1),
                            jnp.ones((1, 4)), 3), 'keeps no states')):
    with pytest.raises(UserError, match=message):
      call()
  assert samplers.sampler_options('ddim') == ['eta']
  assert samplers.sampler_options('adaptive') == ['tolerance']
  jax.tree.map(np.testing.assert_array_equal, make('ddim', 9)[1],
               make('ddim', 9, eta=0.)[1])


def test_one_step(world):
  """One evaluation: the denoiser of pure noise."""
  path = world.path('cddpm')
  denoiser = analytic.denoiser(path, world.gaussian())
  mu = jnp.ones((2, 4))
  for name in TABLES:
    x = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), (4,)))(
        world.keys(2))
    drawn = samplers.run(*samplers.make_sampler(name, path, 1), denoiser, world.keys(2),
                         mu)
    np.testing.assert_allclose(drawn.images, denoiser.estimate(x, jnp.full(2, 50.), mu),
                               rtol=1e-5)
