"""ClusterDDPM's loss and bound, of linear networks, against closed forms."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import make_estimator
from jdiffclust.clustering.cluster_ddpm import model as cluster_ddpm
from jdiffclust.clustering.cluster_ddpm.latent_mixture import LatentMixture
from jdiffclust.clustering.cluster_ddpm.model import Model, Parameters
from jdiffclust.clustering.generation import denoiser_of, generate, walk
from jdiffclust.clustering.method import Networks, build
from jdiffclust.config import default_config
from jdiffclust.diffusion import samplers
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.sharding import make_mesh, replicate, split_rows, to_host
from jdiffclust.state import TrainState

STEPS, Q, J = 8, 3, 2
PIXELS = 4


def encode(variables, images, dropout_keys):
  """m = x W, log s^2 = x V + b."""
  flat = images.reshape(len(images), -1)
  return (flat @ variables['W'],
          flat @ variables['V'] + jnp.broadcast_to(variables['b'], (len(images), J)))


def denoise(variables, x_t, t, z, visible, dropout_keys):
  """eps = g_t x_t + c_t . z in every pixel, without the latter if hidden."""
  seen = jnp.sum(variables['c'][t] * z, axis=1)
  if visible is not None:
    seen = jnp.where(visible, seen, 0)
  return variables['g'][t][:, None, None, None] * x_t + seen[:, None, None, None]


def model(anchor=0., **changes):
  options = default_config().latent.to_dict() | {'size': J, 'views': False, **changes}
  return Model(encode, denoise, (2, 2, 1), None, types.SimpleNamespace(**options), anchor)


def parameters(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return Parameters(
      {'W': draw(PIXELS, J), 'V': .3 * draw(PIXELS, J), 'b': draw(J) - 1},
      {'g': .6 + .2 * draw(STEPS + 1), 'c': .4 * draw(STEPS + 1, J)},
      LatentMixture(jnp.log(jnp.asarray([.5, .3, .2], jnp.float32)), draw(Q, J),
                    jnp.exp(.3 * draw(Q, J))))


def process():
  options = default_config().diffusion
  options.update(num_steps=STEPS, betas='cosine', pull='zero')
  return process_from_config(options)


def batch_of(rows=3, seed=1):
  images = np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 2, 1))
  return Batch(jnp.asarray(images, jnp.float32), jnp.arange(rows, dtype=jnp.int32))


def posterior_of(params, images):
  """The encoder's m and s^2, float64 [B, J]."""
  mean, log_variance = encode(params.encoder, images, None)
  return np.asarray(mean, np.float64), np.exp(np.asarray(log_variance, np.float64))


def expected_errors(p, params, images, hidden=0.):
  """E norm2(eps - eps_theta) over eps, z and what is hidden: [B, T + 1]."""
  abar = np.cumprod(1 - p.beta)
  g, c = (np.asarray(params.denoiser[name], np.float64) for name in 'gc')
  mean, variance = posterior_of(params, images)
  x0 = np.asarray(images, np.float64).reshape(len(images), -1)
  constant = g[None, :, None] * np.sqrt(abar)[None, :, None] * x0[:, None]  # [B, T+1, D]
  noise = PIXELS * (1 - g * np.sqrt(1 - abar))**2
  seen, spread = mean @ c.T, variance @ (c**2).T
  with_z = ((constant + seen[:, :, None])**2).sum(axis=2) + PIXELS * spread + noise
  return (1 - hidden) * with_z + hidden * ((constant**2).sum(axis=2) + noise)


def divergences(params, images, w=None):
  """KL(w || pi) and sum_c w_c KL(q(z | x) || p(z | c)) by SciPy; w: the best one."""
  prior = jax.tree.map(lambda a: np.asarray(a, np.float64), params.mixture)
  mean, variance = posterior_of(params, images)
  sd, deviations = np.sqrt(variance), 1 / prior.factors
  kl = np.zeros((len(images), Q))
  for c in range(Q):
    for j in range(J):
      ratio = sd[:, j] / deviations[c, j]
      distance = (mean[:, j] - prior.means[c, j]) / deviations[c, j]
      kl[:, c] += -np.log(ratio) + (ratio**2 + distance**2 - 1) / 2
  if w is None:
    w = scipy.special.softmax(prior.log_proportions - kl, axis=1)
  categorical = [scipy.stats.entropy(row, np.exp(prior.log_proportions)) for row in w]
  return np.array(categorical), (w * kl).sum(axis=1), w


def many(function, key, number):
  """The mean of function(key) over keys, and its standard error."""
  values = np.asarray(jax.jit(jax.vmap(function))(jax.random.split(key, number)),
                      np.float64)
  return values.mean(axis=0), values.std(axis=0) / np.sqrt(number)


def assert_within(found, wanted):
  """A mean with its standard error against the expected value."""
  mean, error = found
  assert (np.abs(mean - wanted) < 5 * error + 1e-4).all(), (mean, error, wanted)


def one_draw(static, params, batch, start, weighting, process_):
  """A function from a key to the terms of a draw."""
  estimator = make_estimator(process_, weighting,
                             'weight' if weighting == 'elbo' else 'uniform')
  return lambda key: cluster_ddpm.loss_terms(static, estimator, params, batch, start, key,
                                             weighting)


@pytest.mark.parametrize('hidden', [0., .4])
def test_noise_term(hidden, key):
  """The mean over t, eps, z and hidden latents, in closed form."""
  p, params, batch = process(), parameters(), batch_of()
  draw = one_draw(model(context_dropout=hidden), params, batch, jnp.ones((3, Q)) / Q,
                  'uniform', p)
  wanted = expected_errors(p, params, batch.images, hidden)[:, 1:].mean(axis=1) / PIXELS
  assert_within(many(lambda k: draw(k).noise, key, 20000), wanted)


@pytest.fixture
def key():
  """A typed key."""
  return jax.random.key(7)


def test_prior_matching_of_the_best_w(key):
  """'expected': both divergences do not depend on the draw, and are SciPy's."""
  p, params, batch = process(), parameters(), batch_of()
  static = model(responsibilities='expected')
  terms = one_draw(static, params, batch, jnp.ones((3, Q)) / Q, 'uniform', p)(key)
  categorical, gaussian, _ = divergences(params, batch.images)
  np.testing.assert_allclose(terms.categorical, categorical, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(terms.gaussian, gaussian, rtol=1e-4)


def test_prior_matching_of_sampled_w(key):
  """'sampled': over z, the means of those of p(c | z) by SciPy and quadrature."""
  p, params, batch = process(), parameters(), batch_of(rows=1)
  draw = one_draw(model(), params, batch, jnp.ones((1, Q)) / Q, 'uniform', p)
  nodes, weights = np.polynomial.hermite_e.hermegauss(40)
  mean, variance = posterior_of(params, batch.images)
  prior = jax.tree.map(lambda a: np.asarray(a, np.float64), params.mixture)
  wanted = np.zeros(2)
  for (a, wa), (b, wb) in ((one, two) for one in zip(nodes, weights)
                           for two in zip(nodes, weights)):
    z = mean[0] + np.sqrt(variance[0]) * [a, b]
    joint = prior.log_proportions + scipy.stats.norm.logpdf(
        z, prior.means, 1 / prior.factors).sum(axis=1)
    categorical, gaussian, _ = divergences(params, batch.images,
                                           scipy.special.softmax(joint)[None])
    wanted += wa * wb / weights.sum()**2 * np.array([categorical[0], gaussian[0]])
  found = many(lambda k: jnp.stack([draw(k).categorical[0], draw(k).gaussian[0]]), key,
               8000)
  assert_within(found, wanted)


@pytest.mark.parametrize('anchor', [.3, 1.])
def test_anchor_pools_the_start(anchor, key):
  """w is the geometric mean of the best one and the start (1% in doubt), by `anchor`, and
  its prior that of pi and the start; divergences by SciPy."""
  p, params, batch = process(), parameters(), batch_of()
  start = np.array([[.98, .01, .01], [.2, .5, .3], [0., 0., 1.]], np.float32)
  terms = one_draw(model(anchor, responsibilities='expected'), params, batch,
                   jnp.asarray(start), 'uniform', p)(key)
  pool = lambda own: own**(1 - anchor) * (.99 * start + .01 / Q)**anchor
  w = pool(divergences(params, batch.images)[2])
  w /= w.sum(axis=1, keepdims=True)
  prior = pool(np.exp(np.asarray(params.mixture.log_proportions, np.float64))[None])
  wanted = [scipy.stats.entropy(*rows) for rows in zip(w, prior)]  # it normalises
  np.testing.assert_allclose(terms.categorical, wanted, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(terms.gaussian, divergences(params, batch.images, w)[1],
                             rtol=1e-3)


def flips(share):
  """Views that are the mirror image with some probability."""
  return types.SimpleNamespace(**default_config().views.to_dict() | dict.fromkeys(
      ('rotation', 'scale', 'shear', 'shift'), 0.) | {
          'flip': share, 'upside_down': 0., 'quarter_turns': 0.})


def test_the_encoder_sees_views(key):
  """With views the encoder's input is a map of the image, the denoiser's the image."""
  p, params, batch = process(), parameters(), batch_of()
  mirrored = Batch(batch.images[:, :, ::-1], batch.indices)
  static = dataclasses.replace(model(views=True, responsibilities='expected'),
                               views=flips(1.))
  terms = one_draw(static, params, batch, jnp.ones((3, Q)) / Q, 'uniform', p)(key)
  categorical, gaussian, _ = divergences(params, mirrored.images)
  np.testing.assert_allclose(terms.gaussian, gaussian, rtol=1e-4)
  np.testing.assert_allclose(terms.categorical, categorical, rtol=1e-4, atol=1e-5)


def exact_bound(p, params, images):
  """The variational bound of each image, in closed form, nats."""
  abar = np.cumprod(1 - p.beta)
  errors = expected_errors(p, params, images)
  x0 = np.asarray(images, np.float64).reshape(len(images), -1)
  prior = .5 * (abar[-1] * x0**2 - abar[-1] - np.log(1 - abar[-1])).sum(axis=1)
  total = prior
  for t in range(2, STEPS + 1):
    beta = p.beta[t]
    posterior = beta * (1 - abar[t - 1]) / (1 - abar[t])
    weight = beta**2 / (1 - beta) / (1 - abar[t]) / (2 * beta)  # sigma_t^2 = beta_t
    total = total + weight * errors[:, t] + PIXELS / 2 * (
        posterior / beta - 1 - np.log(posterior / beta))
  variance = (1 - abar[1]) / abar[1]
  decoder = ((1 - abar[1]) / abar[1] * errors[:, 1] / (2 * variance)
             + PIXELS / 2 * np.log(2 * np.pi * variance))
  categorical, gaussian, _ = divergences(params, images)
  return -(total + decoder + categorical + gaussian)


def test_loss_of_lambda_1_is_the_bound(key):
  """Weighted by the bound, the three terms add up to the negative bound."""
  p, params, batch = process(), parameters(), batch_of()
  draw = one_draw(model(responsibilities='expected', context_dropout=0.), params, batch,
                  jnp.ones((3, Q)) / Q, 'elbo', p)

  def total(k):
    terms = draw(k)
    return PIXELS * terms.noise + terms.categorical + terms.gaussian

  assert_within(many(total, key, 16000), -exact_bound(p, params, batch.images))


def e_step_options(**changes):
  return types.SimpleNamespace(**default_config().e_step.to_dict() | changes)


def test_e_step_reports_the_bound():
  """tau is the optimum; the bound's mean over draws is exact; margins are SciPy's."""
  p, params, batch = process(), parameters(), batch_of(rows=8)
  mesh = make_mesh(8)
  e_step = cluster_ddpm.make_e_step(model(), e_step_options(num_draws=16), mesh)
  estimator = replicate(to_host(make_estimator(p, 'elbo', 'weight')), mesh)
  on_devices = Batch(*split_rows(to_host(tuple(batch)), mesh))
  placed = replicate(to_host(params), mesh)
  infos = []
  for n in range(144):
    key = replicate(jax.random.key_data(jax.random.key(n)), mesh)
    tau, info = e_step(estimator, placed, on_devices, jax.random.wrap_key_data(key))
    infos.append(to_host(info))
  wanted = exact_bound(p, params, batch.images)
  bounds = np.stack([info.bound for info in infos]).astype(np.float64)
  assert_within((bounds.mean(axis=0), bounds.std(axis=0) / 12), wanted)
  parts = np.stack([info.prior + info.diffusion + info.decoder for info in infos])
  # The parts add up to the bound: tau's entropy is in KL(w || pi).
  np.testing.assert_allclose(parts, bounds, rtol=1e-3, atol=1e-3)
  _, _, w = divergences(params, batch.images)
  np.testing.assert_allclose(tau, w, atol=1e-4)
  np.testing.assert_allclose(infos[0].entropy, [scipy.stats.entropy(row) for row in w],
                             atol=1e-3)
  best = np.sort(np.log(w), axis=1)
  np.testing.assert_allclose(infos[0].margin, best[:, -1] - best[:, -2], rtol=1e-3,
                             atol=1e-3)


@pytest.mark.parametrize('weight', [.5, 1.])
def test_e_step_pools_the_start(weight):
  """tau is the geometric mean of the best w and the start (1% in doubt); the bound is
  lower by what SciPy's divergences of the two differ by."""
  p, params, batch = process(), parameters(), batch_of()
  start = np.array([[.98, .01, .01], [.2, .5, .3], [0., 0., 1.]], np.float32)
  static = dataclasses.replace(model(1.), pool=weight)
  e_step = cluster_ddpm.make_e_step(static, e_step_options(num_draws=4), make_mesh(1))
  call = lambda batch: e_step(make_estimator(p, 'elbo', 'weight'), params, batch,
                              jax.random.key(5))
  (_, plain), (tau, info) = call(batch), call(batch._replace(start=jnp.asarray(start)))
  best = divergences(params, batch.images)
  pool = best[2]**(1 - weight) * (.99 * start + .01 / Q)**weight
  pool /= pool.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(tau, pool, atol=1e-4)
  np.testing.assert_allclose(info.entropy, [scipy.stats.entropy(row) for row in pool],
                             atol=1e-3)
  loss = sum(divergences(params, batch.images, pool)[:2]) - sum(best[:2])
  assert (loss > .01).any()
  np.testing.assert_allclose(plain.bound - info.bound, loss, rtol=1e-3, atol=1e-3)


def test_e_step_at_a_temperature():
  """tau is the best w to the power 1 / temperature, normalised; the bound is lower by
  what SciPy's divergences of the two differ by."""
  p, params, batch = process(), parameters(), batch_of()
  call = lambda of: cluster_ddpm.make_e_step(
      model(), e_step_options(num_draws=4, temperature=of), make_mesh(1))(
          make_estimator(p, 'elbo', 'weight'), params, batch, jax.random.key(5))
  _, plain = call(1.)
  best = divergences(params, batch.images)
  for temperature in (.5, 3.):
    tau, info = call(temperature)
    wanted = best[2]**(1 / temperature)
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tau, wanted, atol=1e-4)
    loss = sum(divergences(params, batch.images, wanted)[:2]) - sum(best[:2])
    assert (loss > .01).any()
    np.testing.assert_allclose(plain.bound - info.bound, loss, rtol=1e-3, atol=1e-3)


def test_e_step_averages_views():
  """Of three views some are mirrored: log tau is the mean of the two best log w, by their
  numbers, which differ between images; the bound is still that of the image itself."""
  p, params, batch = process(), parameters(), batch_of(rows=8)
  static = dataclasses.replace(model(), views=flips(.5), num_views=3)
  call = lambda static: cluster_ddpm.make_e_step(
      static, e_step_options(num_draws=4), make_mesh(1))(
          make_estimator(p, 'elbo', 'weight'), params, batch, jax.random.key(5))
  (_, plain), (tau, info) = call(model()), call(static)
  one, other = (np.log(divergences(params, images)[2])
                for images in (batch.images, batch.images[:, :, ::-1]))
  means = np.stack([scipy.special.softmax((3 - k) / 3 * one + k / 3 * other, axis=1)
                    for k in range(4)])
  distance = np.abs(means - np.asarray(tau)).max(axis=2)
  assert (distance.min(axis=0) < 1e-4).all() and len(set(distance.argmin(axis=0))) > 2
  loss = (sum(divergences(params, batch.images, np.asarray(tau, np.float64))[:2])
          - sum(divergences(params, batch.images)[:2]))
  np.testing.assert_allclose(plain.bound - info.bound, loss, rtol=1e-3, atol=1e-3)


def test_before_the_mixture_w_is_the_start(key):
  """The divergences are those of p_i, which is the start, 1% in doubt."""
  p, params, batch = process(), parameters(), batch_of()
  start = np.array([[.98, .01, .01], [.2, .5, .3], [0., 0., 1.]], np.float32)
  terms = cluster_ddpm.loss_terms(
      model(1.), make_estimator(p, 'uniform', 'uniform'), params, batch,
      jnp.asarray(start), key, 'uniform', jnp.array(False))
  _, gaussian, _ = divergences(params, batch.images, .99 * start + .01 / Q)
  np.testing.assert_allclose(terms.categorical, np.zeros(3), atol=1e-5)
  np.testing.assert_allclose(terms.gaussian, gaussian, rtol=1e-4)


@pytest.mark.parametrize('anchor', [0., .5])
def test_what_counts_before_the_first_e_step(anchor, monkeypatch, key):
  """Without a start the noise error alone; else, and then, lambda times the rest."""
  monkeypatch.setattr(cluster_ddpm, 'loss_terms', lambda *_: cluster_ddpm.Terms(
      jnp.ones(2), jnp.full(2, 3.), jnp.ones(2)))
  monkeypatch.setattr(cluster_ddpm, 'descend', lambda optimizer, state, loss, *_: loss)
  options = default_config().m_step
  options.update(first_num_steps=7, num_steps=5)
  m_step = cluster_ddpm.make_m_step(model(anchor, weight=.2), options, make_mesh(1))
  of = lambda step: float(m_step(
      TrainState(jnp.int32(step), parameters(), (), (), jnp.zeros(()), jnp.int32(-1)),
      make_estimator(process(), 'uniform', 'uniform'), batch_of(2), jnp.eye(Q), key))
  assert [of(6), of(7)] == pytest.approx([1.2 if anchor else 1., 1.2])


@pytest.mark.parametrize('responsibilities', ['sampled', 'expected'])
def test_gradient_by_differences(responsibilities, x64):
  """Of the whole loss, over encoder and denoiser; the mixture is a constant."""
  p, params, batch = process(), parameters(), batch_of()
  wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float64)
                                   if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
  params, batch = wide(params), wide(batch)
  start = jnp.asarray([[.9, .05, .05]] * 3)
  estimator = wide(make_estimator(p, 'uniform', 'uniform'))
  static = model(.5, responsibilities=responsibilities, context_dropout=0.)

  def loss(networks):
    encoder, denoiser = networks
    terms = cluster_ddpm.loss_terms(
        static, estimator, params._replace(encoder=encoder, denoiser=denoiser), batch,
        start, jax.random.key(3), 'uniform')
    return jnp.mean(terms.noise + .1 * (terms.categorical + terms.gaussian))

  networks = (params.encoder, params.denoiser)
  gradient = jax.grad(loss)(networks)
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), networks)
    along = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient),
                                               jax.tree.leaves(direction)))
    moved = lambda h: loss(jax.tree.map(lambda a, d: a + h * d, networks, direction))
    np.testing.assert_allclose(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-5)
  whole = jax.grad(lambda q: jnp.mean(cluster_ddpm.loss_terms(
      static, estimator, q, batch, start, jax.random.key(3), 'uniform').gaussian))(params)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(whole.mixture))


@pytest.mark.parametrize('views', [True, False])
def test_the_method_s_model_is_that_of_the_options(views):
  """The start's share in the prior and in tau (pool times anchor), and views."""
  config = default_config()
  config.method = 'cluster_ddpm'
  config.posterior.update(anchor=.3, pool=.5, num_views=7)
  config.latent.views = views
  made = build(config, (4, 4, 1), None, make_mesh(1)).model
  assert (made.anchor, made.pool) == pytest.approx((.3, .15))
  assert made.num_views == (7 if views else 0)


@pytest.mark.parametrize('proposal', ['auto', 'spread', 'weight', 'uniform'])
def test_draws_are_by_the_weight_unless_uniform(proposal):
  """There is nothing to measure a spread of: all clusters share the draws."""
  config = default_config()
  config.method = 'cluster_ddpm'
  config.e_step.proposal = proposal
  made = build(config, (4, 4, 1), None, make_mesh(1)).e_estimator
  weights = np.asarray(made.weights, np.float64)
  wanted = weights > 0 if proposal == 'uniform' else weights
  np.testing.assert_allclose(made.proposal, wanted / wanted.sum(), rtol=1e-5)
  assert config.e_step.proposal == proposal


def knowing(p, devices):
  """A method whose denoiser knows x_0 from z: z_1 in every pixel; and its config."""
  abar = jnp.asarray(np.cumprod(1 - p.beta), jnp.float32)

  def knows(variables, x_t, t, z, visible, dropout_keys):
    x0 = jnp.broadcast_to(z[:, :1, None, None], x_t.shape)
    if visible is not None:
      x0 = jnp.where(visible[:, None, None, None], x0, 0.)
    root = jnp.interp(t.astype(jnp.float32), jnp.arange(STEPS + 1.), abar)
    root = jnp.sqrt(root)[:, None, None, None]
    return (x_t - root * x0) / jnp.sqrt(1 - root**2)

  apply = lambda function: types.SimpleNamespace(apply=function)
  config = default_config()
  config.method = 'cluster_ddpm'
  config.diffusion.update(num_steps=STEPS, betas='cosine')
  method = build(config, (2, 2, 1), None, make_mesh(devices),
                 Networks(latent=lambda config: (apply(encode), apply(knows))))
  return method, config


def test_images_from_latents(key):
  """DDIM of a denoiser that knows x_0 from z gives that x_0; guidance scales it."""
  p = process()
  method, _ = knowing(p, 2)
  mesh = method.mesh
  sampler, table = samplers.make_sampler('ddim', from_process(p), STEPS, 'trailing',
                                         eta=0.)
  z = np.array([[.5, 0.], [-.25, 1.]], np.float32)
  keys = np.asarray(jax.random.key_data(jax.random.split(key, 2)))
  key_data, latents = split_rows((keys, z), mesh)
  placed, params = replicate(to_host((table, parameters())), mesh)
  for scale in (1., 3.):
    found = generate(placed, denoiser_of(method, params, scale),
                     jax.random.wrap_key_data(key_data), latents, mesh=mesh,
                     sampler=sampler, num_states=0)
    wanted = scale * z[:, :1, None, None] * np.ones((2, 2, 2, 1))
    np.testing.assert_allclose(found.images, wanted, atol=1e-4)


def test_walk_is_straight():
  """Of the same denoiser: a row a way, from its first latent's image to its last's."""
  method, config = knowing(process(), 1)
  config.sample.update(sampler='ddim', eta=0., num_steps=STEPS)
  first, last = np.array([[[.5, 0.], [-.25, 1.], [0., 0.]],
                          [[-.5, 0.], [.75, 1.], [.125, 2.]]], np.float32)
  found = walk(method, replicate(to_host(parameters()), method.mesh), first, last,
               config.sample)
  wanted = np.linspace(first[:, 0], last[:, 0], 8, axis=1)
  np.testing.assert_allclose(found, wanted[:, :, None, None, None] * np.ones((2, 2, 1)),
                             atol=1e-4)
