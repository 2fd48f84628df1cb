"""SR3's parts: low images, what the U-Net sees of them, the loss, the bound."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jdiffclust.batch import Batch
from jdiffclust.clustering import method as method_lib
from jdiffclust.clustering import sr3
from jdiffclust.clustering.bound.losses import draw_noise
from jdiffclust.clustering.generation import sample_from
from jdiffclust.config import default_config
from jdiffclust.data.dataset import array_source, images_at
from jdiffclust.fitted import pipeline_of
from jdiffclust.sharding import make_mesh
from jdiffclust.streams import stream
from tests import tiny
from tests.helpers import refused

SHAPE, FACTOR, ROWS = (8, 12, 2), 4, 5


def built(shape=SHAPE, networks=tiny.TINY_NETWORKS, **changes):
  """A method for images of a shape."""
  config = default_config()
  config.update_from_flattened_dict({
      'method': 'sr3', 'num_clusters': 1, 'diffusion.num_steps': 20,
      'diffusion.beta_end': .01, 'e_step.num_draws': 4, 'em.posterior': 'amortised',
      'start.kind': 'random', **changes})
  return method_lib.build(config, shape, None, make_mesh(1), networks)


@pytest.fixture
def images():
  """Random ones, [ROWS, *SHAPE]."""
  return np.random.default_rng(0).uniform(-1, 1, (ROWS, *SHAPE)).astype(np.float32)


@pytest.fixture
def batch(images):
  """The same, with numbers."""
  return Batch(jnp.asarray(images), jnp.arange(10, 10 + ROWS, dtype=jnp.int32))


@pytest.fixture
def promoting():
  """Optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def by_pillow(images, height, width):
  """Images [B, H, W, C] resized by another library, one channel at a time."""
  one = lambda channel: np.asarray(
      Image.fromarray(channel, mode='F').resize((width, height), Image.BICUBIC))
  return np.stack([np.stack([one(np.ascontiguousarray(image[..., c]))
                             for c in range(image.shape[-1])], axis=-1)
                   for image in images])


def means_of_blocks(images):
  """By reshaping, [B, H / FACTOR, W / FACTOR, C]."""
  b, h, w, c = images.shape
  return images.reshape(b, h // FACTOR, FACTOR, w // FACTOR, FACTOR, c).mean(axis=(2, 4))


@pytest.mark.parametrize('reduction', sr3.REDUCTIONS)
def test_low_images_and_what_the_network_sees_of_them(reduction, images, batch):
  """The means of blocks, or Pillow's reduction; Pillow's interpolation back."""
  made = built(**{'sr3.reduction': reduction})
  y = made._observe(batch, jax.random.key(0))
  low = SHAPE[0] // FACTOR, SHAPE[1] // FACTOR
  wanted = means_of_blocks(images) if reduction == 'averaging' else by_pillow(
      images, *low)
  np.testing.assert_allclose(y, wanted, atol=2e-6)
  np.testing.assert_allclose(made.condition_of(y), by_pillow(wanted, *SHAPE[:2]),
                             atol=5e-6)


def test_noise_of_low_images(batch):
  """Normal, of the option's size, of an image's number and the key alone."""
  made, s = built(**{'sr3.noise': .3}), .3
  many = Batch(jnp.zeros((500, *SHAPE)), jnp.arange(500, dtype=jnp.int32))
  noise = np.asarray(made._observe(many, jax.random.key(1)))
  assert stats.kstest(noise.ravel() / s, 'norm').pvalue > .01
  assert len(np.unique(noise)) > .99 * noise.size
  part = np.asarray(made._observe(batch, jax.random.key(1)))
  np.testing.assert_allclose(part - means_of_blocks(np.asarray(batch.images)),
                             noise[10:10 + ROWS], atol=1e-6)
  other = np.asarray(made._observe(batch, jax.random.key(2)))
  assert np.abs(other - part).max() > .1


@pytest.mark.parametrize('noise', [0., .2])
def test_loss_by_hand(noise, batch, promoting):
  """The mean squared error of the noise, x_t and U y made here; no pull, no table."""
  made = built(**{'sr3.noise': noise, 'diffusion.pull': 'cdiffuse'})
  state, key = made.init_state(), stream(3, 'm_step')
  params = jax.tree.map(np.asarray, state.params)
  of_step = jax.random.fold_in(key, 0)
  drawn = draw_noise(made.m_estimator, batch, of_step)
  apart = jax.random.fold_in(of_step, np.uint32(2**32 - 2))
  n = np.stack([jax.random.normal(jax.random.fold_in(apart, i), (2, 3, 2))
                for i in batch.indices])
  y = means_of_blocks(np.asarray(batch.images)) + noise * n
  abar = np.cumprod(1 - np.asarray(made.process.beta, np.float64))[drawn.t]
  wide = abar[:, None, None, None]
  x_t = wide**.5 * batch.images + (1 - wide)**.5 * drawn.eps
  eps = made.network.apply(params.network, jnp.asarray(x_t, jnp.float32), drawn.t,
                           by_pillow(y.astype(np.float32), *SHAPE[:2]))
  wanted = np.mean((np.asarray(drawn.eps) - np.asarray(eps))**2)
  state, info = made.m_step(state, batch, None, key)
  np.testing.assert_allclose(info.loss, wanted, rtol=1e-4)
  assert int(state.step) == 1 and info.gradient_norm > 0
  np.testing.assert_array_equal(state.params.low, params.low)
  np.testing.assert_array_equal(state.params.log_proportions, 0)


def knowing(x0, process):
  """A network that finds the noise of x_t from x_0, if it is shown x_0's low image."""
  abar = jnp.asarray(np.cumprod(1 - process.beta), jnp.float32)
  low = by_pillow(means_of_blocks(x0), *SHAPE[:2])

  def denoise(variables, x_t, t, condition, dropout_keys):
    del variables, dropout_keys
    distance = jnp.sum((condition[:, None] - low[None])**2, axis=(2, 3, 4))
    own = jnp.asarray(x0)[jnp.argmin(distance, axis=1)]
    root = jnp.sqrt(abar[t])[:, None, None, None]
    return (x_t - root * own) / jnp.sqrt(1 - root**2)

  return denoise


def test_bound_of_a_network_that_knows(images, batch, oracle):
  """No error at any noise level: what is left has a closed form."""
  # Uniform strata, one of them for each of the 20 noise levels.
  made = built(**{'diffusion.decoder': 'gaussian', 'e_step.proposal': 'uniform',
                  'e_step.num_draws': 40})
  model = sr3.Model(knowing(images, made.process), made.model.operator, 0., None)
  score = sr3.make_e_step(model, made.config.e_step, made.mesh)
  params = sr3.Parameters({}, jnp.zeros((1, 2, 3, 2)), jnp.zeros(1))
  tau, info = score(made.e_estimator, params, batch, jax.random.key(0))
  np.testing.assert_array_equal(tau, np.ones((ROWS, 1)))
  p, size = made.process, np.prod(SHAPE)
  abar = np.cumprod(1 - p.beta)
  assert np.abs(p.m).max() == 0
  # KL(q(x_T | x_0) || N(0, I)), the variances' part, and the decoder at its mean.
  prior = np.array([oracle.prior(p, image, np.zeros(SHAPE)) for image in images])
  posterior = p.beta[2:] * (1 - abar[1:-1]) / (1 - abar[2:])
  ratio = posterior / p.beta[2:]
  levels = size / 2 * np.sum(ratio - 1 - np.log(ratio))
  decoder = size / 2 * np.log(2 * np.pi * (1 - abar[1]) / abar[1])
  np.testing.assert_allclose(info.bound, -(prior + levels + decoder), rtol=1e-4)
  # Shown other low images, it finds other noise.
  swapped = Batch(batch.images[::-1] + .5, batch.indices)
  assert (score(made.e_estimator, params, swapped, jax.random.key(0))[1].bound
          < info.bound.min()).all()


@pytest.mark.parametrize('number', [3, 200])
def test_low_images_that_are_kept(number, promoting):
  """From all over the images, few or many, once; generation takes some from all over."""
  made = built((8, 8, 1))
  images = np.random.default_rng(1).uniform(-1, 1, (number, 8, 8, 1)).astype(np.float32)
  source = array_source(images, made.config.data)
  images, pipeline = images_at(source, np.arange(number)), pipeline_of(made, source)
  state = made.before_m_step(made.init_state(), pipeline, np.arange(number), None)
  means = means_of_blocks(images)
  low = np.asarray(state.ema.low)
  np.testing.assert_array_equal(state.params.low, low)
  of = [int(np.argmin(np.abs(means - one).sum(axis=(1, 2, 3)))) for one in low]
  np.testing.assert_allclose(low, means[of], atol=1e-6)
  assert len(low) == sr3.NUM_LOW and of == sorted(of)
  assert of[0] == 0 and of[-1] == number - 1 and len(set(of)) == min(number, sr3.NUM_LOW)
  later = state._replace(step=state.step + 1)
  assert made.before_m_step(later, None, None, None) is later
  for count in (1, 4, 100):
    found = made.conditions(state.ema, 0, count, 0)
    assert found.shape == (count, 8, 8, 1)
    np.testing.assert_allclose(found[0], made.condition_of(low[:1])[0], atol=1e-6)
    if count > 1:
      np.testing.assert_allclose(found[-1], made.condition_of(low[-1:])[0], atol=1e-6)


def test_denoiser_sees_the_condition():
  """E[x_0 | x_t, y] of the network's noise, by Tweedie's formula; its centre is 0."""
  made = built((8, 8, 1))
  params = made.new_state().params
  rng = np.random.default_rng(2)
  x, condition = (rng.normal(size=(3, 8, 8, 1)).astype(np.float32) for _ in range(2))
  t = np.array([1., 7., 20.], np.float32)
  found = made.denoiser(params).estimate(x, t, condition)
  eps = made.network.apply(params.network, x, t, condition)
  abar = np.cumprod(1 - made.process.beta)[t.astype(int)][:, None, None, None]
  np.testing.assert_allclose(found, (x - (1 - abar)**.5 * eps) / abar**.5, rtol=2e-4,
                             atol=2e-4)
  np.testing.assert_array_equal(made.denoiser(params).centre(condition), 0)


class LinearDenoiser(nn.Module):
  """The noise by an estimate of x_0 that is linear in what is seen of the low image.

  Attributes:
    abar: of each step, T + 1 numbers.
  """

  abar: tuple[float, ...]

  @nn.compact
  def __call__(self, x, t, seen, dropout_keys=None):
    """eps, [B, H, W, C]."""
    del dropout_keys
    flat = nn.Dense(x[0].size, use_bias=False)(seen.reshape(len(seen), -1))
    steps = jnp.arange(len(self.abar), dtype=jnp.float32)
    abar = jnp.interp(t.astype(jnp.float32), steps, jnp.asarray(self.abar))
    abar = abar[:, None, None, None]
    return (x - jnp.sqrt(abar) * flat.reshape(x.shape)) / jnp.sqrt(1 - abar)


def test_images_that_a_low_image_determines(promoting):
  """Blocks of one value: training finds them out, and samples are they; interpolation is
  not."""
  abar = np.cumprod(1 - built((4, 4, 1)).process.beta)
  made = built(
      (4, 4, 1), networks=method_lib.Networks(
          denoiser=lambda _: LinearDenoiser(tuple(map(float, abar)))),
      **{'sr3.factor': 2, 'm_step.learning_rate': .02, 'm_step.ema_decay': .9})
  rng = np.random.default_rng(3)
  draw = lambda count: np.kron(rng.uniform(-1, 1, (count, 2, 2, 1)),
                               np.ones((1, 2, 2, 1))).astype(np.float32)
  state, key = made.init_state(), stream(0, 'm_step')
  for step in range(500):
    some = Batch(draw(32), np.arange(32, dtype=np.int32) + 32 * step)
    state, _ = made.m_step(state, some, None, key)
  truth = draw(64)
  condition = np.asarray(made.condition_of(made.model.operator.apply(truth)))
  options = default_config().sample
  options.sampler, options.num_steps = 'ddim', 10
  found = sample_from(made, state.ema, condition[:, None], np.arange(64), options)
  error = lambda images: float(np.sqrt(np.mean((images - truth)**2)))
  assert error(condition) > .15 and error(found.images[:, 0]) < .03


def test_mistakes():
  """One line each."""
  made = built((8, 8, 1))
  assert '[B, 2, 2, 1]' in refused(made.condition_of, np.zeros((3, 4, 4, 1)))
  assert 'sr3.factor = 4' in refused(made.condition_of, np.zeros((2, 2, 1)))
  assert 'config.sample.guidance' in refused(made.reference, None)
  assert 'latents' in refused(functools.partial(made.encode, None), None)
