"""The denoising U-Net's shapes, types, dropout, features and attention."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jdiffclust.clustering.cddpm import method as cddpm
from jdiffclust.config import check_config, default_config
from jdiffclust.diffusion import forward
from jdiffclust.diffusion.process import as_float32, process_from_config
from jdiffclust.errors import UserError
from jdiffclust.networks import layers
from jdiffclust.networks.unet import (
    ConcatenatedUNet, SharedTrunkUNet, UNetBody, unet_from_config)


def UNet(**options):
  return ConcatenatedUNet(UNetBody(**options))


TINY = dict(channels=4, channel_multipliers=(1, 2), blocks_per_level=1, num_heads=2,
            num_groups=2)


def inputs(rows=3, size=4, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  x, mu = (jnp.asarray(rng.normal(size=(rows, size, size, channels)), jnp.float32)
           for _ in range(2))
  return x, jnp.asarray(rng.integers(1, 50, rows), jnp.int32), mu


def randomised(module, *arguments):
  """Variables with random parameters: the zero output layer would hide everything."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda s: jnp.asarray(.3 * rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope='module')
def dropping():
  """A small U-Net with dropout, its random parameters, and its compiled form."""
  network = UNet(**TINY | dict(channel_multipliers=(1,), middle_attention=False,
                               dropout=.3))
  variables = randomised(network, *inputs())
  return network, variables, jax.jit(network.apply)


SHAPES = [
    (4, 1, dict()),
    (4, 3, dict(dtype='bfloat16')),
    (5, 1, dict(channel_multipliers=(1,), channels=3, num_groups=3, num_heads=1)),
    (8, 3, dict(channel_multipliers=(1, 2, 3), attention_levels=(0, 2))),
    (4, 1, dict(channels=9, num_groups=3, num_heads=3, middle_attention=False)),
    (4, 1, dict(channel_multipliers=(1, 1), blocks_per_level=2)),
]


@pytest.mark.parametrize('size,channels,changes', SHAPES)
def test_shapes_and_types(size, channels, changes):
  """Output like x_t and float32, parameters float32, whatever the compute type."""
  network = UNet(**TINY | changes)
  x, t, mu = inputs(2, size, channels)
  out, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), x, t, mu)
  assert out.shape == x.shape and out.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16'))
def test_zero_at_the_start(dtype):
  """A new network predicts zero, exactly; in either type."""
  network = UNet(**TINY | dict(channel_multipliers=(1,), middle_attention=False,
                               dtype=dtype))
  # Unoptimised, since XLA takes most of a minute to optimise the random initialisers.
  start = jax.jit(lambda *arguments: network.init_with_output(*arguments),
                  compiler_options={'xla_backend_optimization_level': 0})
  out, _ = start(jax.random.key(0), *inputs(2, 4, 3))
  assert (out == 0).all() and out.dtype == jnp.float32


@pytest.mark.parametrize('channels,multipliers,conditioning', [
    (8, (2, 2), 'shared_trunk'), (8, (1, 2), 'concatenated'),
    (16, (3, 1), 'shared_trunk')])
def test_whatever_the_config_allows_can_be_built(channels, multipliers, conditioning):
  """A config that check_config accepts gives a U-Net that runs."""
  config = default_config()
  config.network.update(conditioning=conditioning, channels=channels,
                        channel_multipliers=multipliers, blocks_per_level=1,
                        num_groups=8, num_heads=1)
  check_config(config)
  network = unet_from_config(config.network)
  x, t, mu = inputs(1)
  shape = jax.eval_shape(
      lambda *args: network.init_with_output(jax.random.key(0), *args)[0], x, t, mu)
  assert shape.shape == x.shape


@pytest.mark.parametrize('channels,multipliers', [(4, (2, 2)), (2, (4,))])
def test_groups_must_divide_the_first_channels(channels, multipliers):
  """The first convolution's channels are normalised too: refused with the option."""
  config = default_config()
  config.network.update(channels=channels, channel_multipliers=multipliers,
                        blocks_per_level=1, num_groups=8, num_heads=1)
  with pytest.raises(UserError, match='num_groups = 8 does not divide'):
    check_config(config)


def in_stages(small=False, **options):
  body = UNetBody(**TINY | dict(channel_multipliers=(1,)) | options)
  return SharedTrunkUNet(body, small)


@pytest.mark.parametrize('size,dtype', [(5, 'float32'), (1, 'float32'), (4, 'bfloat16')])
def test_head_halves_images_of_any_size(size, dtype):
  """Also of odd ones, and in either type; the output is float32."""
  x, t, mu = inputs(2, size)
  out, variables = jax.eval_shape(in_stages(dtype=dtype).init_with_output,
                                  jax.random.key(0), x, t, mu)
  assert out.shape == x.shape and out.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('small', [False, True])
def test_shared_trunk_sees_mu_in_its_head_only(small):
  """What is shared does not depend on mu, the output on everything; rows do not mix."""
  network = in_stages(small)
  x, t, mu = inputs()
  variables = randomised(network, x, t, mu)
  shared = jax.jit(lambda *args: network.apply(*args, method='shared'))
  head = jax.jit(lambda *args: network.apply(*args, method='of_cluster'))
  base = np.asarray(head(variables, shared(variables, x, t), t, mu))
  whole = jax.jit(network.apply)(variables, x, t, mu)
  np.testing.assert_allclose(base, whole, rtol=1e-4, atol=1e-5)
  for other in ((x + 1, t, mu), (x, t + 1, mu), (x, t, mu + 1)):
    changed = head(variables, shared(variables, *other[:2]), *other[1:])
    assert np.abs(np.asarray(changed) - base).max() > 1e-3
  order = np.array([2, 0])
  some = head(variables, shared(variables, x[order], t[order]), t[order], mu[order])
  np.testing.assert_allclose(some, base[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('small', [False, True])
def test_one_mean_for_all_images(small):
  """A mean [1, H, W, C] gives what as many copies of it as images give."""
  network = in_stages(small)
  x, t, mu = inputs()
  variables = randomised(network, x, t, mu)
  apply = jax.jit(network.apply)
  copies = jnp.broadcast_to(mu[1:2], mu.shape)
  np.testing.assert_allclose(apply(variables, x, t, mu[1:2]),
                             apply(variables, x, t, copies), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('prediction', ['noise', 'residual'])
def test_two_stages_are_the_whole_denoiser(prediction):
  """x_t - m_t sqrt(abar_t) mu is what x_t would be with a mean of zero, for every mu."""
  process = process_from_config(default_config().diffusion)
  network = in_stages()
  x0, t, mu = inputs()
  variables = randomised(network, x0, t, mu)
  model = cddpm.conditional_ddpm(network, process, None, prediction)
  eps = jnp.asarray(np.random.default_rng(3).normal(size=x0.shape), jnp.float32)
  device = as_float32(process)
  for mean in (mu, mu + .5):
    x_t = forward.noised(device, x0, t, mean, eps)
    centred = forward.noised(device, x0, t, jnp.zeros_like(mu), eps)
    shared = model.stages.shared(variables, centred, t)
    np.testing.assert_allclose(model.denoise(variables, x_t, t, mean),
                               model.stages.of_cluster(variables, shared, t, mean),
                               rtol=1e-3, atol=1e-4)


def test_inputs_matter():
  """Off its zero start the output depends on x_t, on t and on mu."""
  network = UNet(**TINY | dict(channel_multipliers=(1,)))
  x, t, mu = inputs()
  variables = randomised(network, x, t, mu)
  apply = jax.jit(network.apply)
  base = np.asarray(apply(variables, x, t, mu))
  for other in ((x + 1, t, mu), (x, t + 1, mu), (x, t, mu + 1)):
    assert np.abs(np.asarray(apply(variables, *other)) - base).max() > 1e-3
  # Images do not see one another.
  order = np.array([2, 0])
  some = apply(variables, x[order], t[order], mu[order])
  np.testing.assert_allclose(some, base[order], rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32():
  """The same parameters in bfloat16: the same function up to its 8 bits."""
  x, t, mu = inputs()
  kwargs = TINY | dict(channel_multipliers=(1,))
  variables = randomised(UNet(**kwargs), x, t, mu)
  exact = np.asarray(jax.jit(UNet(**kwargs).apply)(variables, x, t, mu))
  half = UNet(**kwargs, dtype='bfloat16')
  rough = np.asarray(jax.jit(half.apply)(variables, x, t, mu))
  error = np.abs(rough - exact).max() / np.abs(exact).max()
  assert 0 < error < .1


def test_dropout_is_off_without_keys(dropping):
  """No keys: as with rate 0; keys: something else."""
  network, variables, apply = dropping
  x, t, mu = inputs()
  plain = UNet(**TINY | dict(channel_multipliers=(1,), middle_attention=False))
  np.testing.assert_allclose(apply(variables, x, t, mu),
                             jax.jit(plain.apply)(variables, x, t, mu), atol=1e-6)
  keys = jax.random.split(jax.random.key(1), 3)
  dropped = np.asarray(apply(variables, x, t, mu, keys))
  assert np.abs(dropped - apply(variables, x, t, mu)).max() > 1e-3


def test_dropout_depends_on_the_examples_key_only(dropping):
  """Reordered or alone in a batch an example keeps its masks; another key does not."""
  _, variables, apply = dropping
  x, t, mu = inputs()
  keys = jax.random.split(jax.random.key(1), 3)
  whole = np.asarray(apply(variables, x, t, mu, keys))
  order = np.array([2, 0, 2])
  again = apply(variables, x[order], t[order], mu[order], keys[order])
  np.testing.assert_allclose(again, whole[order], rtol=1e-4, atol=1e-5)
  other = apply(variables, x, t, mu, keys[order])
  assert np.abs(np.asarray(other)[0] - whole[0]).max() > 1e-3


class TwoDropouts(nn.Module):
  """The same input through two dropout layers."""

  rate: float

  @nn.compact
  def __call__(self, x, keys):
    return (layers.ExampleDropout(self.rate)(x, keys),
            layers.ExampleDropout(self.rate)(x, keys))


def test_dropout_layer():
  """Features are 0 or x / (1 - rate), in the right shares; layers have own masks."""
  x = jnp.full((400, 5, 5, 2), 3.)
  keys = jax.random.split(jax.random.key(2), 400)
  one, two = (np.asarray(v) for v in TwoDropouts(.25).apply({}, x, keys))
  np.testing.assert_allclose(np.unique(one.round(5)), [0, 4], atol=1e-5)
  zeros = (one == 0).mean()
  assert abs(zeros - .25) < 4 * (.25 * .75 / one.size)**.5
  assert abs(one.mean() - 3) < 4 * (16 * .25 * .75 / one.size)**.5  # unbiased
  both = ((one == 0) & (two == 0)).mean()
  assert abs(both - .0625) < .01  # independent layers
  masks = one.reshape(400, -1) == 0
  assert len(np.unique(masks, axis=0)) == 400  # and independent examples


class TimeFeatures(chex.TestCase):
  """Sinusoidal features, with and without compilation."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_values(self):
    """sin and cos of t times 10000^(-k / (half - 1)), in float64 NumPy."""
    t = np.array([1, 7, 250, 1000])
    for size in (2, 6, 32):
      half = size // 2
      function = self.variant(layers.time_features, static_argnums=1)
      features = function(jnp.asarray(t, jnp.int32), size)
      self.assertEqual(features.dtype, jnp.float32)
      for i, step in enumerate(t):
        for k in range(half):
          angle = step * 10000. ** (-k / max(half - 1, 1))
          np.testing.assert_allclose(features[i, k], np.sin(angle), atol=2e-4)
          np.testing.assert_allclose(features[i, half + k], np.cos(angle), atol=2e-4)


def group_norm(x, groups):
  """Of x [H, W, C]: channels in consecutive groups, epsilon 1e-6."""
  out = np.zeros_like(x)
  width = x.shape[-1] // groups
  for g in range(groups):
    part = x[..., g * width:(g + 1) * width]
    out[..., g * width:(g + 1) * width] = (
        (part - part.mean()) / (part.var() + 1e-6)**.5)
  return out


def test_attention_by_loops():
  """Every pixel's softmax-weighted sum over pixels, head by head, in NumPy."""
  heads, channels = 2, 4
  layer = layers.SelfAttention(num_heads=heads, num_groups=2, dtype=jnp.float32)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 2, 3, channels)), jnp.float32)
  variables = randomised(layer, x)
  out = np.asarray(layer.apply(variables, x))
  flat = {'/'.join(str(p.key) for p in path): np.asarray(leaf, np.float64)
          for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params'])}
  norm = [k.split('/')[0] for k in flat if k.endswith('scale')][0]
  first, last = sorted(k.split('/')[0] for k in flat if k.endswith('kernel'))
  for image in range(2):
    h = group_norm(np.asarray(x[image], np.float64), 2)
    h = (h * flat[f'{norm}/scale'] + flat[f'{norm}/bias']).reshape(6, channels)
    qkv = h @ flat[f'{first}/kernel'] + flat[f'{first}/bias']
    # One row of 3 x (channels / heads) per head: query, key, value.
    width = channels // heads
    result = np.zeros((6, channels))
    for head in range(heads):
      q, k, v = np.split(qkv[:, head * 3 * width:(head + 1) * 3 * width], 3, axis=1)
      for pixel in range(6):
        weight = scipy.special.softmax(k @ q[pixel] / width**.5)
        result[pixel, head * width:(head + 1) * width] = weight @ v
    expected = result @ flat[f'{last}/kernel'] + flat[f'{last}/bias']
    np.testing.assert_allclose(out[image], x[image] + expected.reshape(2, 3, channels),
                               rtol=1e-4, atol=1e-5)


def test_group_norm_by_numpy():
  """Moments over pixels and a group's channels; scale and shift per example."""
  rng = np.random.default_rng(1)
  x = (rng.normal(size=(3, 4, 5, 6)) * 2 + 5).astype(np.float32)
  scale, shift = rng.normal(size=(2, 3, 6)).astype(np.float32)
  layer = layers.GroupNorm(3, jnp.float32, learned=False)
  out = layer.apply({}, jnp.asarray(x), jnp.asarray(scale), jnp.asarray(shift))
  for i in range(3):
    expected = group_norm(x[i].astype(np.float64), 3) * scale[i] + shift[i]
    np.testing.assert_allclose(out[i], expected, atol=2e-5)
