"""The start by a denoiser's features: training and features against closed forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from jdiffclust.clustering.starts import denoiser_features as lib, spaces
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.config import default_config
from jdiffclust.diffusion.process import process_from_config
from jdiffclust.errors import UserError

SHAPE = (4, 4, 1)


@pytest.fixture
def promoting():
  """Training needs it: optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'):
    yield


def config_of(**start):
  config = default_config()
  config.update(num_clusters=2, seed=3)
  config.views.update(flip=0., upside_down=0., quarter_turns=0.)
  config.network.update(channels=8, channel_multipliers=(1,), blocks_per_level=1,
                        middle_attention=False)
  config.diffusion.update(num_steps=20, betas='cosine')
  config.m_step.update(batch_size=16, learning_rate_warmup=0)
  config.start.update({'spaces': ('denoiser',), **start})
  return config


def blobs(count, seed=0):
  """Images around two patterns that differ in every pixel, and which one."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, count)
  pattern = np.where(np.indices(SHAPE).sum(axis=0) % 2, .6, -.6)
  images = np.where(labels == 0, 1, -1)[:, None, None, None] * pattern
  return (images + .1 * rng.normal(size=images.shape)).astype(np.float32), labels


class Linear(nn.Module):
  """eta = a x_t + b; shared are x_t + b and twice that."""

  def setup(self):
    self.a, self.b = (self.param(name, nn.initializers.zeros, ()) for name in 'ab')

  def __call__(self, centred, t, mu):
    return self.a * centred + self.b + 0 * mu

  def shared(self, centred, t, dropout_keys=None):
    del t, dropout_keys
    return centred + self.b, 2 * centred


class Bent(Linear):
  """Its shared part is the square of x_t, plus b."""

  def shared(self, centred, t, dropout_keys=None):
    del t, dropout_keys
    return centred**2 + self.b, centred


def test_features_of_the_identity():
  """Antithetic noise cancels: the mean of x_t is (1 - m_t) sqrt(abar_t) x_0."""
  config = config_of()
  images = np.random.default_rng(0).uniform(-1, 1, (5, *SHAPE)).astype(np.float32)
  variables = Linear().init(jax.random.key(0), images, None, images)
  process = process_from_config(config.diffusion)
  for noise, t in ((0., 1), (.05, 1), (.5, 10), (1., 20)):
    found = lib.describe(Linear(), variables, noise, SHAPE, config)(images)
    wanted = (1 - process.m[t]) * np.prod(1 - process.beta[:t + 1])**.5 * images
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_noise_is_in_four_antithetic_pairs():
  """Of a black image x_t^2 is delta_t times a mean of 4 squares, of variance 2 / 4."""
  config, shape = config_of(), (128, 128, 1)
  image = np.zeros((1, *shape), np.float32)
  variables = Bent().init(jax.random.key(0), image, None, image)
  found = lib.describe(Bent(), variables, .5, shape, config)(image)
  p = process_from_config(config.diffusion)
  abar = np.prod(1 - p.beta[:11])
  squares = found / (1 - abar - p.m[10]**2 * abar)
  assert squares.mean() == pytest.approx(1, abs=5 * (.5 / squares.size)**.5)
  assert squares.var() == pytest.approx(2 / 4, rel=.1)


def test_training_finds_the_best_linear_denoiser(promoting):
  """Of images that are one constant c, eta = a x_t + b by least squares over (t, eps)."""
  config = config_of(denoiser_steps=1500)
  config.m_step.update(batch_size=64, learning_rate=.02)
  constant = .5
  images = np.full((3, *SHAPE), constant, np.float32)
  found = lib.train(Linear(), images, config)['params']
  p = process_from_config(config.diffusion)
  abar = np.cumprod(1 - p.beta)[1:]
  mean = (1 - p.m[1:]) * abar**.5 * constant
  spread = 1 - abar - p.m[1:]**2 * abar  # of x_t
  root = (1 - abar)**.5
  # n_t = (x_t - sqrt(abar_t) c) / sqrt(1 - abar_t); moments over t, then over eps.
  target = (mean - abar**.5 * constant) / root
  covariance = np.mean(mean * target + spread / root) - mean.mean() * target.mean()
  a = covariance / (np.mean(mean**2 + spread) - mean.mean()**2)
  b = target.mean() - a * mean.mean()
  assert float(found['a']) == pytest.approx(a, abs=.02)
  assert float(found['b']) == pytest.approx(b, abs=.02)


@pytest.fixture(scope='module')
def untrained():
  """A U-Net of random weights, none of them zero, as features alone need no training."""
  config = config_of()
  network = lib.unconditional(config)
  one = jnp.zeros((1, *SHAPE))
  shapes = jax.eval_shape(network.init, jax.random.key(0), one, jnp.ones(1, jnp.int32),
                          one)
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda s: jnp.asarray(.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def test_features_are_of_the_image_alone(untrained):
  """However images are split into batches, and whatever is beside them."""
  images = np.random.default_rng(1).uniform(-1, 1, (lib.BATCH + 9, *SHAPE)).astype(
      np.float32)
  config = config_of()
  features = lib.describe(lib.unconditional(config), untrained, .2, SHAPE, config)
  whole = features(images)
  assert whole.shape == (len(images), 4, 4, 8) and np.ptp(whole) > .1
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  close(features(images[7:8]), whole[7:8])
  close(features(images[::-1]), whole[::-1])
  close(np.concatenate([features(images[:50]), features(images[50:])]), whole)


def test_noise_is_of_the_seed(untrained):
  """The same seed and draw give the same features, others others."""
  images, _ = blobs(4)
  config, other = config_of(), config_of()
  other.seed = 4
  one, two, *changed = (
      lib.describe(lib.unconditional(c), untrained, .5, SHAPE, c, draw)(images)
      for c, draw in ((config, 0), (config, 0), (other, 0), (config, 1)))
  np.testing.assert_array_equal(one, two)
  assert all(np.abs(one - three).max() > 1e-3 for three in changed)


def test_start_finds_what_differs_everywhere(promoting):
  """Two patterns, also of images outside the sample."""
  images, labels = blobs(150)
  config = config_of(denoiser_steps=20)
  config.views.sets = 2
  flat = images.reshape(150, -1)
  tau = fit_start('neighbours', flat[:120], SHAPE, config)(flat, None)
  assert tau.shape == (150, 2) and tau.dtype == np.float32
  np.testing.assert_allclose(tau.sum(axis=1), 1, atol=1e-5)
  assert adjusted_rand_score(labels, tau.argmax(axis=1)) == 1


def test_options_of_the_space(promoting):
  """Twice the same; other seeds or steps give others; sets of noise, no views."""
  images, _ = blobs(30)

  def features(seed=3, steps=3):
    config = config_of(denoiser_steps=steps)
    config.seed = seed
    config.views.sets = 2
    first, second = spaces.of_denoiser(images.reshape(30, 16), SHAPE, config, 0,
                                       lambda config: Bent())
    one, two = first.describe(images), second.describe(images)
    assert first.sets == second.sets == () and np.abs(one - two).max() > 1e-3
    return one

  first = features()
  np.testing.assert_array_equal(first, features())
  for changed in (features(seed=4), features(steps=9)):
    assert np.abs(first - changed).max() > 1e-3


def test_diverged_training_is_refused(promoting):
  """A step size that overflows: the option to change is named."""
  config = config_of(denoiser_steps=2)
  config.m_step.update(learning_rate=10, gradient_clip=0.)
  images = np.full((4, *SHAPE), np.float32(1e38))
  with pytest.raises(UserError, match='config.m_step.learning_rate below 10'):
    lib.train(Linear(), images, config)


class Broken(Linear):
  """One of two more weights is infinite from the first."""

  def setup(self):
    super().setup()
    self.c = self.param('c', lambda key: jnp.array([0., jnp.inf]))


def test_one_weight_that_is_not_finite_is_refused(promoting):
  """Though all others of its array are."""
  config = config_of(denoiser_steps=1)
  with pytest.raises(UserError, match='diverged'):
    lib.train(Broken(), np.zeros((4, *SHAPE), np.float32), config)
