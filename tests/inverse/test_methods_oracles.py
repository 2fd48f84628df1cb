"""Methods of restoration against posteriors and evidences in closed form.

Steps are as few as do: 60 for tds, 30 for mcgdiff, whose potentials are exact after any
number of steps where the model's centre and spread are those of the images.

Masks and matrices are programs of their own, each dear to compile; what is seen by either
enters a method in the operator's coordinates alone. So each method meets both, with noise
and without, but one of them in whole runs and the other step by step, or in a mixture.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.config import default_config
from jdiffclust.diffusion import analytic, paths, samplers
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.inverse import moments, repaint, restorer
from jdiffclust.inverse import operators as op
from jdiffclust.inverse.problem import Problem
from jdiffclust.registry import RESTORERS
from jdiffclust.sharding import make_mesh
from tests.helpers import refused
from tests.inverse.gaussians import (
    MASK, MEAN, MIXTURE, PATH, SETTINGS, SHAPE, SIZE, dense, dense_mixture, gaussian,
    images_of, keys, matrix_of, mixture_of, moments_of, observe, run, standardised)

PARTICLES = ('mcgdiff', 'tds')
QUICK = {'repaint': {'jump': 5, 'repeats': 3}}
# Images of variance 1, and narrower ones.
IMAGES = [('noiseless matrix', 1.), ('noisy matrix', 1.), ('noisy matrix', .25)]


def observed(setting, variance, number, seed=0):
  """A problem of Gaussian images."""
  return observe(*SETTINGS[setting], np.ones(1), MEAN[None], variance, number, seed)


@pytest.fixture
def optimised(monkeypatch):
  """Of code that is hardly optimised, as in these tests, random numbers are six times as
  dear: where there are many of them, better code saves more than it costs."""
  monkeypatch.setattr(restorer, '_restore', OPTIMISED)


OPTIMISED = jax.jit(restorer._restore.__wrapped__, static_argnums=(0, 1, 2),
                    compiler_options={'xla_backend_optimization_level': 1})


def outcome(name, setting, variance, num_steps, problems=256, draws=64, seed=7):
  """A method's draws, standardised by the truth, and its evidence over the truth."""
  problem = observed(setting, variance, problems, seed)
  options = {'particles': draws} if name in PARTICLES else QUICK.get(name, {})
  result = run(name, problem, gaussian(variance), draws, num_steps, seed=seed, **options)
  mean, covariance, evidence = dense(problem, MEAN, variance * np.eye(SIZE))
  draws = images_of(result).reshape(draws, problems, SIZE)
  free, fixed = standardised(draws, mean, covariance)
  ratio = np.exp(np.asarray(result.log_evidence, np.float64) - evidence)
  print(f'{name:8} {setting:16} variance {variance} steps {num_steps}: '
        f'mean {np.round(free.mean((0, 1)), 3)} variance {np.round(free.var((0, 1)), 2)} '
        f'(standardised: 0 and 1), known within {np.abs(fixed).max(initial=0):.1g}, '
        f'evidence over the truth {ratio.mean():.3f} +- {ratio.std():.3f}')
  return free.reshape(-1, free.shape[-1]), fixed, ratio, result


# ------------------------------------------------------------- exact methods


@pytest.mark.usefixtures('optimised')
@pytest.mark.parametrize('name,num_steps', [('mcgdiff', 30), ('tds', 60)])
@pytest.mark.parametrize('setting,variance', IMAGES)
def test_draws_of_the_posterior(name, num_steps, setting, variance):
  """Mean, covariance, what is known, and the evidence, each image of its own y."""
  # Draws of a problem share ancestors: of 256, these variances have an error of .03, all
  # others of .015.
  times = 4 if name == 'tds' and setting.startswith('noiseless') else 1
  found = [outcome(name, setting, variance, num_steps, seed=seed)
           for seed in range(times)]
  free, fixed, ratio = (np.concatenate(each) for each in list(zip(*found))[:3])
  np.testing.assert_allclose(free.mean(0), 0, atol=.05)
  covariance = free.T @ free / len(free)
  np.testing.assert_allclose(np.diag(covariance), 1, atol=.05)
  np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=.06)
  np.testing.assert_allclose(fixed, 0, atol=1e-5)
  np.testing.assert_allclose(ratio.mean(), 1, atol=.03)
  result = found[0][3]
  assert (result.evaluations == num_steps * 64).all()
  assert (1 <= result.ess).all() and (result.ess <= 64.01).all()
  assert (result.least_ess <= result.ess + 1e-3).all()
  assert result.log_weights.shape == (64, 256)
  np.testing.assert_allclose(np.exp(result.log_weights).sum(0), 1, rtol=1e-5)
  np.testing.assert_allclose(
      result.ess, 1 / np.exp(2 * result.log_weights).sum(0), rtol=1e-4)


@pytest.mark.parametrize('setting,num_steps', [
    *((setting, 4) for setting in SETTINGS),
    ('noisy matrix', 1), ('noiseless matrix', 1)])
def test_mcgdiff_in_few_steps(setting, num_steps):
  """Where centre and spread are true, particles are draws, and each evidence is true."""
  problem = observed(setting, .25, 256)
  condition = jnp.broadcast_to(
      jnp.asarray(MEAN.reshape(SHAPE), jnp.float32), (64, 256, *SHAPE))
  method = restorer.make_restorer('mcgdiff', particles=64)
  result = restorer.restore(
      method, PATH, analytic.denoiser(PATH, gaussian(.25)), problem, keys(256),
      condition, moments.of_gaussian(.5), 64, num_steps)
  mean, covariance, evidence = dense(problem, MEAN, .25 * np.eye(SIZE))
  # One coordinate of 'noisy matrix' has no potential, and its likelihood hardly varies.
  np.testing.assert_allclose(result.log_evidence, evidence, atol=2e-3)
  assert (result.least_ess > 63.9).all()
  if num_steps > 1:  # else images without noise are the mean of the last row
    free, fixed = standardised(images_of(result).reshape(64, 256, SIZE), mean, covariance)
    free = free.reshape(-1, free.shape[-1])
    np.testing.assert_allclose(free.mean(0), 0, atol=.03)
    np.testing.assert_allclose(np.cov(free.T), np.eye(free.shape[1]), atol=.04)
    np.testing.assert_allclose(fixed, 0, atol=1e-5)


@pytest.mark.usefixtures('optimised')
@pytest.mark.parametrize('name,setting', [
    ('tds', 'noiseless mask'), ('tds', 'noisy mask'), ('mcgdiff', 'noiseless matrix'),
    ('mcgdiff', 'noisy matrix')])
def test_a_mixture(name, setting):
  """Evidence, mean and covariance over both; and that multinomial resampling does it."""
  weights, means, variance = MIXTURE
  problem = observe(*SETTINGS[setting], weights, means, variance, 256)
  kind = 'multinomial' if name == 'mcgdiff' else 'systematic'
  steps = 80 if name == 'tds' else 60
  result = run(name, problem, mixture_of(*MIXTURE), 64, steps, found=of_mixture(),
               particles=64, resampling=kind)
  shares, centres, covariance, evidence = dense_mixture(problem, *MIXTURE)
  ratio = np.exp(np.asarray(result.log_evidence, np.float64) - evidence)
  np.testing.assert_allclose(ratio.mean(), 1, atol=.03)
  mean = np.einsum('pk,pkd->pd', shares, centres)
  apart = centres - mean[:, None]
  wanted = covariance + np.einsum('pk,pkd,pke->de', shares, apart, apart) / 256
  away = images_of(result).reshape(64, 256, SIZE) - mean
  scale = np.sqrt(np.diag(wanted).max())
  np.testing.assert_allclose(away.mean((0, 1)), 0, atol=.05 * scale)
  np.testing.assert_allclose(np.einsum('npd,npe->de', away, away) / (64 * 256), wanted,
                             atol=.06 * scale**2)


@functools.cache
def of_mixture():
  """Moments of the mixture, measured."""
  return moments.measure(analytic.denoiser(PATH, mixture_of(*MIXTURE)), PATH,
                         keys(256, 3), jnp.zeros((256, *SHAPE)))


@pytest.mark.usefixtures('optimised')
@pytest.mark.parametrize('name', PARTICLES)
def test_error_falls_with_the_root_of_the_particles(name):
  """The standard deviation of the evidence, of 16 and of 512 particles.

  Of normal evidences their ratio is known within sqrt(1/512 + 1/256) = .077, the slope
  within .077 / log 32 = .022.
  """
  weights, means, variance = MIXTURE
  one = observe(*SETTINGS['noisy mask'], weights, means, variance, 1)
  counts, spreads = (16, 512), []
  for count, problems in zip(counts, (256, 128)):
    problem = one._replace(observation=jnp.tile(one.observation, (problems, 1, 1, 1)))
    result = run(name, problem, mixture_of(*MIXTURE), 1, 10, found=of_mixture(),
                 particles=count)
    ratio = np.exp(np.asarray(result.log_evidence, np.float64))
    spreads.append(ratio.std() / ratio.mean())
  slope = np.polyfit(np.log(counts), np.log(spreads), 1)[0]
  print(f'{name}: {np.round(spreads, 4)} with {counts} particles, slope {slope:.2f}')
  assert abs(slope + .5) < .1


# ------------------------------------------------------------- other methods


@pytest.mark.usefixtures('optimised')
@pytest.mark.parametrize('setting,variance', IMAGES)
def test_pigdm_in_the_limit(setting, variance):
  """Exact for round Gaussians, the closer the more steps."""
  few, fixed, _, result = outcome('pigdm', setting, variance, 100, 128, 32)
  np.testing.assert_allclose(few.mean(0), 0, atol=.05)
  np.testing.assert_allclose(few.var(0), 1, atol=.15)
  np.testing.assert_allclose(fixed, 0, atol=1e-5)
  assert np.isnan(result.log_evidence).all() and np.isnan(result.ess).all()
  assert (result.evaluations == 100).all() and result.log_weights is None
  if setting == 'noisy matrix' and variance == 1:
    many, *_ = outcome('pigdm', setting, variance, 400, 128, 32)
    np.testing.assert_allclose(many.mean(0), 0, atol=.05)
    np.testing.assert_allclose(many.var(0), 1, atol=.06)


@pytest.mark.usefixtures('optimised')
@pytest.mark.parametrize('setting,variance', [
    ('noiseless matrix', 1.), ('noiseless matrix', .25)])
def test_repaint_without_noise(setting, variance):
  """What is not seen of a round Gaussian knows nothing of what is: repaint is right."""
  free, fixed, _, result = outcome('repaint', setting, variance, 30, 128, 32)
  np.testing.assert_allclose(free.mean(0), 0, atol=.05)
  np.testing.assert_allclose(np.cov(free.T), np.eye(free.shape[1]), atol=.06)
  np.testing.assert_allclose(fixed, 0, atol=1e-5)
  assert (result.evaluations == 5 + 25 * 3).all()


@pytest.mark.parametrize('setting,variance', IMAGES)
def test_bias_of_ddrm(setting, variance):
  """What is not seen varies too little; what is seen without noise is right."""
  free, fixed, *_ = outcome('ddrm', setting, variance, 60, 128, 32)
  np.testing.assert_allclose(fixed, 0, atol=1e-5)
  unseen = free[:, 4:] if setting.startswith('noisy') else free
  np.testing.assert_allclose(unseen.mean(0), 0, atol=.05)
  assert (unseen.var(0) < .8).all() and (unseen.var(0) > .6).all()


@pytest.mark.parametrize('setting,variance', [
    ('noiseless mask', 1.), ('noiseless mask', .25), ('noisy mask', 1.)])
def test_bias_of_dps(setting, variance):
  """What is not seen is right; what is seen without noise is met, but not well."""
  free, fixed, *_ = outcome('dps', setting, variance, 60, 128, 32)
  unseen = free[:, 4:] if setting.startswith('noisy') else free
  np.testing.assert_allclose(unseen.mean(0), 0, atol=.05)
  np.testing.assert_allclose(unseen.var(0), 1, atol=.08)
  if setting == 'noiseless mask':
    assert .05 < fixed.std() < .5


# ------------------------------------------------------------- steps by hand


def row_of(number, num_steps=12):
  """A row of the table, as it is and in float64."""
  row = jax.tree.map(lambda a: jnp.asarray(a[number]),
                     restorer.table_of(PATH, num_steps, 1.).rows)
  return row, float(row.sigma), float(row.sigma_next)


@pytest.fixture
def drawn(monkeypatch):
  """What is drawn is known: z by its number, [R, D]."""
  z = np.random.default_rng(8).normal(size=(3, 4, SIZE))
  monkeypatch.setattr(restorer, 'noise', lambda keys, row, number, like: (
      jnp.asarray(z[number].reshape(like.shape), like.dtype)))
  return z


def images(values):
  """[R, D] as images."""
  return jnp.asarray(np.asarray(values).reshape(-1, *SHAPE), jnp.float32)


def bridged(u, x0, sigma, after, variance):
  """Mean and variance of u' given u and x_0 ~ N(x0, variance), by Gaussian algebra.

  u' = x_0 + after e and u = u' + sqrt(sigma^2 - after^2) f, jointly Gaussian.
  """
  # Given x_0: u' is between x_0 and u; then x_0 varies.
  precision = 1 / after**2 + 1 / (sigma**2 - after**2) if after else np.inf
  to_x0 = 1 / after**2 / precision if after else 1.
  return (to_x0 * x0 + (1 - to_x0) * u, 1 / precision + to_x0**2 * variance)


def world(setting, variance=.25):
  """Two problems of two rows each, with u at random, and what hand-made steps need."""
  problem = observed(setting, variance, 2)
  mixture = gaussian(variance)
  given = restorer.Given(problem, jnp.zeros((4, *SHAPE)),
                         moments.of_gaussian(variance**.5), jnp.zeros(4))
  u = np.random.default_rng(9).normal(size=(4, SIZE))
  a = matrix_of(problem.operator)
  y = np.asarray(problem.observation, np.float64).reshape(2, -1)[np.arange(4) % 2]
  return given, analytic.denoiser(PATH, mixture), u, a, y


@pytest.mark.parametrize('number', [0, 5, 8, 11])
@pytest.mark.parametrize('setting', ['noisy matrix', 'noiseless mask'])
def test_a_step_of_dps(drawn, number, setting):
  """Down the gradient by x of the norm of each image's residual, of its own."""
  given, denoiser, u, a, y = world(setting)
  row, sigma, after = row_of(number)
  u = MEAN + sigma * u
  found = restorer.make_restorer('dps', scale=.7).advance(
      images(u), row, denoiser, None, given)
  root = np.sqrt(1 + sigma**2)
  estimate = lambda u: MEAN + .25 / (.25 + sigma**2) * (u - MEAN)
  norm = lambda x, y: np.linalg.norm(y - a @ estimate(root * x))
  for r in range(4):
    x, step = u[r] / root, 1e-5 * np.eye(SIZE)
    slopes = [(norm(x + e, y[r]) - norm(x - e, y[r])) / 2e-5 for e in step]
    mean, variance = bridged(u[r], estimate(u[r]), sigma, after,
                             .25 * sigma**2 / (.25 + sigma**2))
    wanted = mean + (np.sqrt(variance) * drawn[1, r] if after else 0.)
    wanted = wanted - .7 * np.sqrt(1 + after**2) * np.array(slopes)
    np.testing.assert_allclose(images_of_rows(found)[r], wanted, rtol=2e-4,
                               atol=2e-4 * (1 + sigma))


def images_of_rows(rows):
  """Images as vectors in float64."""
  return np.asarray(rows, np.float64).reshape(-1, SIZE)


def test_dps_where_y_is_met():
  """A residual of zero has no direction: the step is that of ddpm."""
  given, denoiser, *_ = world('noiseless mask')
  row, _, _ = row_of(11)
  u = images(np.tile(MEAN, (4, 1)))
  given = given._replace(problem=given.problem._replace(
      observation=MASK.apply(u[:2])))
  found = restorer.make_restorer('dps').advance(u, row, denoiser, keys(4), given)
  np.testing.assert_allclose(images_of_rows(found), np.tile(MEAN, (4, 1)), atol=1e-5)


@pytest.mark.parametrize('number', [2, 8, 11])
@pytest.mark.parametrize('setting', SETTINGS)
def test_a_step_of_pigdm(drawn, number, setting):
  """A step of ddpm by E[x_0 | u, y], which is exact here."""
  given, denoiser, u, _, _ = world(setting)
  row, sigma, after = row_of(number)
  u = MEAN + sigma * u
  found = restorer.make_restorer('pigdm').advance(images(u), row, denoiser, None, given)
  left = .25 * sigma**2 / (.25 + sigma**2)
  for r in range(4):
    prior = MEAN + .25 / (.25 + sigma**2) * (u[r] - MEAN)
    one = given.problem._replace(observation=given.problem.observation[r % 2:r % 2 + 1])
    x0 = dense(one, prior, left * np.eye(SIZE))[0][0]
    mean, variance = bridged(u[r], x0, sigma, after, left)
    wanted = mean + (np.sqrt(variance) * drawn[1, r] if after else 0.)
    np.testing.assert_allclose(images_of_rows(found)[r], wanted, rtol=1e-3,
                               atol=3e-4 * (1 + after))


@pytest.mark.parametrize('number', [1, 6, 9, 11])
@pytest.mark.parametrize('setting', SETTINGS)
def test_a_step_of_ddrm(drawn, number, setting):
  """Equations 7 and 8, coordinate by coordinate."""
  given, denoiser, u, a, y = world(setting)
  row, sigma, after = row_of(number)
  u, eta, eta_b = MEAN + sigma * u, .6, .7
  found = images_of_rows(restorer.make_restorer('ddrm', eta=eta, eta_b=eta_b).advance(
      images(u), row, denoiser, None, given))
  operator, noise = given.problem.operator, float(given.problem.noise)
  v = images_of_rows(operator.back(jnp.eye(SIZE).reshape(SIZE, *SHAPE))).T
  x0 = MEAN + .25 / (.25 + sigma**2) * (u - MEAN)
  for r in range(4):
    for j in range(SIZE):
      s, c0, z = np.linalg.norm(a @ v[:, j]), v[:, j] @ x0[r], drawn[0, r, j]
      if s < 1e-5:
        wanted = (c0 + np.sqrt(1 - eta**2) * after * (v[:, j] @ u[r] - c0) / sigma
                  + eta * after * z)
      else:
        seen, tau = v[:, j] @ a.T @ y[r] / s**2, noise / s
        if after < tau:
          wanted = (c0 + np.sqrt(1 - eta**2) * after * (seen - c0) / tau
                    + eta * after * z)
        else:
          wanted = ((1 - eta_b) * c0 + eta_b * seen
                    + np.sqrt(after**2 - tau**2 * eta_b**2) * z)
      np.testing.assert_allclose(v[:, j] @ found[r], wanted, rtol=1e-3,
                                 atol=2e-4 * (1 + after))


@pytest.mark.parametrize('number,before', [(3, 3), (3, 8), (11, 11), (8, 12)])
def test_a_step_of_repaint(drawn, number, before):
  """Noise of the difference where the way went back, ddpm, and what is known."""
  given, denoiser, u, _, y = world('noiseless mask')
  row, sigma, after = row_of(number)
  now = 0. if before == 12 else row_of(before)[1]
  draws = restorer.Draws(images(u), given.condition, jnp.zeros(2))
  method = restorer.make_restorer('repaint')
  found = method.step(repaint.Level(draws, jnp.float32(now)), row, denoiser, None, given)
  assert float(found.sigma) == np.float32(after)
  u = u + np.sqrt(sigma**2 - now**2) * drawn[0]
  x0 = MEAN + .25 / (.25 + sigma**2) * (u - MEAN)
  mean, variance = bridged(u, x0, sigma, after, .25 * sigma**2 / (.25 + sigma**2))
  wanted = mean + (np.sqrt(variance) * drawn[1] if after else 0.)
  seen = np.diag(matrix_of(MASK)) > 0
  wanted = np.where(seen, y + after * drawn[2], wanted)
  np.testing.assert_allclose(images_of_rows(found.draws.u), wanted, rtol=1e-3,
                             atol=1e-4 * (1 + sigma))


def of_the_paper(num_steps, jump, repeats):
  """RePaint's loop: T falls to 0; at some of its values it goes up again."""
  jumps = {t: repeats - 1 for t in range(0, num_steps - jump, jump)}
  t, steps = num_steps, []
  while t >= 1:
    steps.append(num_steps - t)  # the step from t to t - 1
    t -= 1
    if jumps.get(t, 0) > 0:
      jumps[t] -= 1
      t += jump
  return steps


@pytest.mark.parametrize('num_steps,jump,repeats', [
    (20, 5, 3), (23, 5, 3), (20, 1, 2), (4, 10, 10), (10, 10, 4), (11, 10, 4),
    (7, 3, 1), (1, 1, 5)])
def test_schedule_of_repaint(num_steps, jump, repeats):
  """The steps in the order of the paper's loop; the table's rows are those steps."""
  order = of_the_paper(num_steps, jump, repeats)
  np.testing.assert_array_equal(repaint.schedule(num_steps, jump, repeats), order)
  plain = restorer.table_of(PATH, num_steps, 1.)
  method = restorer.make_restorer('repaint', jump=jump, repeats=repeats)
  table = method.table(PATH, num_steps, 1.)
  for field in ('t', 'scale', 'sigma', 'sigma_next'):
    np.testing.assert_array_equal(getattr(table.rows, field),
                                  getattr(plain.rows, field)[order])
  np.testing.assert_array_equal(table.rows.left, np.arange(len(order))[::-1])


def test_the_way_begins_where_noise_drowns_the_images():
  """At 100 spreads, or at the path's end; levels fall to the path's lowest, then to 0."""
  high = float(PATH.sigma(jnp.float32(PATH.t_max)))
  for spread, first in ((.05, 5.), (.5, 50.), (1e3, high)):
    table = restorer.table_of(PATH, 7, spread)
    sigma = table.rows.sigma
    np.testing.assert_allclose(sigma[0], first, rtol=1e-3)
    np.testing.assert_allclose(sigma[-1], float(PATH.sigma(jnp.float32(PATH.t_min))),
                               rtol=1e-3)
    assert (np.diff(sigma) < 0).all()
    np.testing.assert_allclose(table.rows.sigma_next, [*sigma[1:], 0.])
    if first < high:
      np.testing.assert_allclose(table.start_noise, np.hypot(first, spread))
      assert table.start_mu == 1
  assert 'at least 1' in refused(restorer.table_of, PATH, 0, 1.)


def test_noise_is_new_each_time():
  """By row of the table, draw in it, and key; at the start, too: unrelated normals."""
  like, row_keys = jnp.zeros((2000, *SHAPE)), keys(2000)
  rows = [row_of(number)[0] for number in (3, 4)]
  drawn = [restorer.noise(row_keys, row, number, like)
           for row in rows for number in (0, 1, 2)]
  drawn += [restorer.start_noise(row_keys, like),
            restorer.noise(keys(2000, 8), rows[0], 0, like)]
  flat = np.stack([np.asarray(z).ravel() for z in drawn])
  np.testing.assert_allclose(np.cov(flat), np.eye(len(flat)), atol=.05)
  within = np.corrcoef(images_of_rows(drawn[0]).T)
  np.testing.assert_allclose(within, np.eye(SIZE), atol=.1)
  again = restorer.noise(row_keys[7:9], rows[0], 0, like[:2])
  np.testing.assert_array_equal(again, drawn[0][7:9])


# ------------------------------------------------------------- conditions


CLUSTERS = (np.array([.5, .3, .2]), MIXTURE[1], .25)


def pulled_path():
  """CDDPM's: it pulls images to mu."""
  options = default_config().diffusion
  options.update(num_steps=100, pull='one_minus_sqrt_abar')
  return paths.from_process(process_from_config(options))


def about_mu(variables, path, x, t, mu):
  """The denoiser of a round Gaussian about its condition."""
  sigma = path.sigma(t).reshape(-1, 1, 1, 1)
  gain = variables / (variables + sigma**2)
  return mu + gain * (path.centred(x, t, mu) - mu)


def with_conditions(name, problem, which, log_weights=None, **options):
  """A restoration by particles of these clusters, [N]."""
  path = pulled_path()
  number = len(problem.observation)
  condition = jnp.asarray(CLUSTERS[1][which].reshape(-1, 1, *SHAPE), jnp.float32)
  condition = jnp.broadcast_to(condition, (len(which), number, *SHAPE))
  denoiser = Denoiser(path, jnp.float32(CLUSTERS[2]), about_mu)
  method = restorer.make_restorer(name, particles=len(which), **options)
  if log_weights is not None:
    log_weights = jnp.asarray(np.tile(log_weights[:, None], (1, number)), jnp.float32)
  return restorer.restore(method, path, denoiser, problem, keys(number), condition,
                          moments.of_gaussian(CLUSTERS[2]**.5), 1,
                          20 if name == 'mcgdiff' else 40, log_weights)


@functools.cache
def of_clusters():
  """A problem of 32 images of clusters, p(q | y) and log p(y)."""
  problem = observe(*SETTINGS['noisy mask'], *CLUSTERS, 32, seed=4)
  shares, _, _, evidence = dense_mixture(problem, *CLUSTERS)
  assert (shares.max(1) < .9).sum() > 5
  return problem, shares, evidence


NUMBER = 210  # of particles
PROPOSALS = {'even': np.ones(3) / 3, 'uneven': np.array([.2, .2, .6])}


@pytest.mark.parametrize('name', PARTICLES)
@pytest.mark.parametrize('proposal', PROPOSALS)
def test_shares_of_conditions(name, proposal):
  """p(q | y) by the weights of particles that are never resampled, and p(y)."""
  problem, shares, evidence = of_clusters()
  proposed = PROPOSALS[proposal]
  which = np.repeat(np.arange(3), np.rint(proposed * NUMBER).astype(int))
  logs = np.log(CLUSTERS[0][which] / proposed[which])
  result = with_conditions(name, problem, which, logs, threshold=0.)
  weights = np.exp(np.asarray(result.log_weights, np.float64))
  found = np.stack([weights[which == k].sum(0) for k in range(3)], 1)
  np.testing.assert_allclose(found.mean(0), shares.mean(0), atol=.01)
  ratio = np.exp(np.asarray(result.log_evidence, np.float64) - evidence)
  # mcgdiff's potential is exact here: so is each of its weights.
  error, each = (.01, .03) if name == 'mcgdiff' else (.02, .25)
  assert np.abs(found - shares).mean() < error
  np.testing.assert_allclose(ratio, 1, atol=each)
  np.testing.assert_allclose(ratio.mean(), 1, atol=.03)


@pytest.mark.parametrize('name', PARTICLES)
def test_evidence_of_each_condition(name):
  """p(q | y) by the evidences of particles of one cluster each."""
  problem, shares, _ = of_clusters()
  logs = [np.asarray(with_conditions(name, problem, np.full(NUMBER, k)).log_evidence)
          for k in range(3)]
  joint = np.log(CLUSTERS[0]) + np.stack(logs, 1)
  found = np.exp(joint - joint.max(1, keepdims=True))
  found = found / found.sum(1, keepdims=True)
  np.testing.assert_allclose(found.mean(0), shares.mean(0), atol=.01)
  assert np.abs(found - shares).mean() < .01


@pytest.mark.parametrize('name', PARTICLES)
def test_conditions_go_with_their_particles(name):
  """Resampled, shares of those drawn are p(q | y), and images are of their condition."""
  problem, shares, _ = of_clusters()
  # In order, weights would repeat, and so would what systematic resampling takes.
  which = np.random.default_rng(0).permutation(np.arange(NUMBER) % 3)
  result = with_conditions(name, problem, which, np.log(3 * CLUSTERS[0][which]))
  drawn = images_of(result._replace(images=result.condition)).reshape(NUMBER, 32, SIZE)
  distance = np.abs(drawn[:, :, None] - CLUSTERS[1]).max(-1)
  assert distance.min(-1).max() < 1e-6
  cluster = distance.argmin(-1)
  found = (cluster[..., None] == np.arange(3)).mean(0)
  np.testing.assert_allclose(found.mean(0), shares.mean(0), atol=.015)
  assert np.abs(found - shares).mean() < .05
  each = [dense(problem, mean, CLUSTERS[2] * np.eye(SIZE)) for mean in CLUSTERS[1]]
  centres = np.stack([mean for mean, _, _ in each], 1)
  apart = images_of(result).reshape(NUMBER, 32, SIZE) - centres[np.arange(32), cluster]
  np.testing.assert_allclose(apart.mean((0, 1)), 0, atol=.03)
  np.testing.assert_allclose(apart.var((0, 1)), np.diag(each[0][1]), rtol=.08)


# ------------------------------------------------------------- rows and programs


def small(name, problem, row_keys, mesh=None, count=8):
  """A short run of any method."""
  options = {'particles': count} if name in PARTICLES else {}
  options = {'jump': 2, 'repeats': 2} if name == 'repaint' else options
  number = len(problem.observation)
  condition = jnp.zeros((count, number, *SHAPE))
  return restorer.restore(
      restorer.make_restorer(name, **options), PATH,
      analytic.denoiser(PATH, mixture_of(*MIXTURE)), problem, row_keys, condition,
      moments_of(gaussian(.5)), count, 6, mesh=mesh)


def small_problem(name):
  """Four images; repaint's without noise."""
  setting = 'noiseless matrix' if name == 'repaint' else 'noisy matrix'
  return observe(*SETTINGS[setting], *MIXTURE, 4)


def by_problem(result):
  """What a result has of each problem, in order: images first."""
  number = len(result.log_evidence)
  rows = lambda a: np.asarray(a).reshape(-1, number, *np.shape(a)[1:])
  found = [rows(result.images), rows(result.condition), rows(result.evaluations),
           *(np.asarray(a)[None] for a in
             (result.log_evidence, result.ess, result.least_ess))]
  return found + ([] if result.log_weights is None else [np.asarray(result.log_weights)])


@pytest.mark.parametrize('name', RESTORERS)
def test_problems_know_nothing_of_each_other(name):
  """Bit for bit: others are swapped, or all change places with their keys."""
  problem = small_problem(name)
  whole = by_problem(small(name, problem, keys(4)))
  assert all(np.isfinite(whole[0]).ravel())
  y = np.array(problem.observation)
  y[[0, 2, 3]] = y[[3, 0, 2]] + 1
  other = by_problem(small(name, problem._replace(observation=jnp.asarray(y)), keys(4)))
  assert not np.array_equal(whole[0][:, 0], other[0][:, 0])
  order = np.array([2, 0, 3, 1])
  turned = by_problem(small(
      name, problem._replace(observation=problem.observation[order]), keys(4)[order]))
  for a, b, c in zip(whole, other, turned):
    np.testing.assert_array_equal(a[:, 1], b[:, 1])
    np.testing.assert_array_equal(a[:, order], c)


@pytest.mark.parametrize('name', PARTICLES)
def test_groups_know_nothing_of_each_other(name):
  """Draws 0 and 2 are of group 0: its weights change them, and no other group's draws."""
  problem = small_problem(name)
  method = restorer.make_restorer(name, particles=8, groups=2, num_draws=4, threshold=1.)

  def drawn(log_weights):
    return images_of(restorer.restore(
        method, PATH, analytic.denoiser(PATH, mixture_of(*MIXTURE)), problem, keys(4),
        jnp.zeros((8, 4, *SHAPE)), moments_of(gaussian(.5)), 4, 6,
        log_weights=jnp.asarray(log_weights, jnp.float32))).reshape(4, 4, -1)

  none = np.zeros((8, 4))
  one = np.array(none)
  one[0] = 30.  # of group 0, that of particles 0, 2, 4 and 6
  before, after = drawn(none), drawn(one)
  np.testing.assert_array_equal(before[1::2], after[1::2])
  assert (before[::2] != after[::2]).any(axis=(0, 2)).all()


def test_groups_draw_of_the_posterior():
  """Where potentials are exact: mean, covariance and evidence, by groups of eight."""
  problem = observed('noisy matrix', .25, 256)
  result = run('mcgdiff', problem, gaussian(.25), 64, 8, particles=64, groups=8)
  mean, covariance, evidence = dense(problem, MEAN, .25 * np.eye(SIZE))
  free, _ = standardised(images_of(result).reshape(64, 256, SIZE), mean, covariance)
  free = free.reshape(-1, free.shape[-1])
  np.testing.assert_allclose(free.mean(0), 0, atol=.05)
  np.testing.assert_allclose(np.cov(free.T), np.eye(free.shape[1]), atol=.06)
  ratio = np.exp(np.asarray(result.log_evidence, np.float64) - evidence)
  np.testing.assert_allclose(ratio.mean(), 1, atol=.03)


# Rows of their own, rows with a level, and particles.
@pytest.mark.parametrize('name', ['ddrm', 'repaint', 'tds'])
def test_step_by_step(name):
  """A call for each row, keys and rows laid out by hand: as the scan of `restore`."""
  problem = small_problem(name)
  whole = small(name, problem, keys(4))
  options = {'particles': 8} if name in PARTICLES else {}
  options = {'jump': 2, 'repeats': 2} if name == 'repaint' else options
  method, found = restorer.make_restorer(name, **options), moments_of(gaussian(.5))
  row_keys = jnp.stack([jax.random.fold_in(key, n) for n in range(8) for key in keys(4)])
  given = restorer.Given(problem, jnp.zeros((32, *SHAPE)), found, jnp.zeros(32))
  steps = samplers.run(method, method.table(PATH, 6, float(found.spread)),
                       analytic.denoiser(PATH, mixture_of(*MIXTURE)), row_keys, given,
                       scan=False)
  for a, b in zip(by_problem(whole), by_problem(steps)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# Rows of their own, with gradients; rows with a level; and particles.
@pytest.mark.parametrize('name', ['dps', 'repaint', 'mcgdiff'])
def test_rows_over_eight_devices(name):
  """As on one, up to rounding."""
  problem = small_problem(name)
  spread = small(name, problem, keys(4), mesh=make_mesh())
  for a, b in zip(by_problem(small(name, problem, keys(4))), by_problem(spread)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------- other operators


def left_half(x):
  """What the mask of `MASK` shows, its A A^T the identity."""
  return x[:, :, 0]


@pytest.mark.parametrize('name', RESTORERS)
def test_hidden_pixels_may_be_any_number(name):
  """What y has where a mask hides it changes nothing."""
  problem = observed('noiseless mask' if name == 'repaint' else 'noisy mask', 1., 4)
  hidden = 1 - matrix_of(MASK).diagonal().reshape(SHAPE)
  other = problem._replace(
      observation=problem.observation + jnp.asarray(99 * hidden[None], jnp.float32))
  first, second = (run(name, each, gaussian(1.), 8, 10, **(
      {'particles': 8} if name in PARTICLES else {})) for each in (problem, other))
  for a, b in zip(by_problem(first), by_problem(second)):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('name', ['dps', 'pigdm'])
def test_functions_are_as_good_as_masks(name):
  """Methods that need no spectrum do the same, number by number, as with it."""
  problem = observed('noisy mask', 1., 4)
  other = Problem(op.Function(left_half, SHAPE), problem.observation[:, :, 0],
                  problem.noise)
  draw = lambda problem: images_of(run(name, problem, gaussian(1.), 8, 10))
  np.testing.assert_allclose(draw(problem), draw(other), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures('optimised')
def test_tds_of_a_function():
  """Evidence and mean; the last image is without noise."""
  problem = observed('noisy mask', 1., 256)
  other = Problem(op.Function(left_half, SHAPE), problem.observation[:, :, 0],
                  problem.noise)
  result = run('tds', other, gaussian(1.), 64, 60, particles=64)
  mean, covariance, evidence = dense(problem, MEAN, np.eye(SIZE))
  ratio = np.exp(np.asarray(result.log_evidence, np.float64) - evidence)
  np.testing.assert_allclose(ratio.mean(), 1, atol=.03)
  free, _ = standardised(images_of(result).reshape(64, 256, SIZE), mean, covariance)
  np.testing.assert_allclose(free.mean((0, 1)), 0, atol=.05)
  np.testing.assert_allclose(free.var((0, 1)), 1, atol=.06)


def test_refusals():
  """What a method cannot do is refused, by a line that names another."""
  quiet, loud = (observed(f'{kind} mask', 1., 2) for kind in ('noiseless', 'noisy'))
  function = op.Function(left_half, SHAPE)
  unknown = loud._replace(operator=function, observation=loud.observation[:, :, 0])
  refuse = lambda name, problem: refused(run, name, problem, gaussian(1.), 2, 2)
  for name in ('mcgdiff', 'ddrm', 'repaint'):
    message = refuse(name, unknown)
    assert f'method {name} needs the singular value' in message
    assert 'Function' in message and 'dps or pigdm or tds' in message
  silent = unknown._replace(noise=jnp.float32(0))
  for name in ('pigdm', 'tds'):
    message = refuse(name, silent)
    assert f'method {name} needs noise' in message and 'above 0' in message
  assert 'method repaint takes what is seen for exact' in refuse('repaint', loud)
  assert 'Observations of shape' in refuse(
      'dps', quiet._replace(observation=quiet.observation[:, :1]))
  assert 'both must be 1' in refused(run, 'repaint', quiet, gaussian(1.), 2, 2, jump=0)
  assert 'both must be 1' in refused(run, 'repaint', quiet, gaussian(1.), 2, 2, repeats=0)
  assert 'at least 1' in refused(run, 'dps', quiet, gaussian(1.), 2, 0)
  allowed = {name: RESTORERS[name].needs_spectrum for name in RESTORERS}
  assert allowed == {'dps': False, 'pigdm': False, 'repaint': True, 'ddrm': True,
                     'mcgdiff': True, 'tds': False}
  for name in ('dps', 'ddrm', 'mcgdiff', 'tds', 'pigdm', 'repaint'):
    restorer.make_restorer(name).check(quiet, name)
