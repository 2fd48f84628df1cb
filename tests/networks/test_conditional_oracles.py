"""The networks of ClusterDDPM: what they see, their formulas and their sizes."""

import math
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.clustering.method import build
from jdiffclust.networks.conditional import ContextUNet, clusterddpm_networks
from jdiffclust.networks.encoder import Encoder
from jdiffclust.networks.layers import Context, ResidualBlock
from jdiffclust.networks.unet import Output, UNetBody
from jdiffclust.sharding import make_mesh

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
TINY = dict(channels=4, channel_multipliers=(1, 2), blocks_per_level=1, num_heads=2,
            num_groups=2)
FLAT = TINY | dict(channel_multipliers=(1,), middle_attention=False)
LATENT = 3


def inputs(rows=4, size=4, channels=1):
  """x, t and z."""
  rng = np.random.default_rng(0)
  return (jnp.asarray(rng.normal(size=(rows, size, size, channels)), jnp.float32),
          jnp.asarray(rng.integers(1, 50, rows), jnp.int32),
          jnp.asarray(rng.normal(size=(rows, LATENT)), jnp.float32))


def randomised(module, *arguments):
  """Variables with random parameters: layers that start at zero would hide much."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
  rng = np.random.default_rng(1)
  return jax.tree.map(
      lambda s: jnp.asarray(.3 * rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope='module')
def denoiser():
  """A small denoiser with dropout, its random parameters, and its compiled form."""
  network = ContextUNet(UNetBody(**FLAT | dict(dropout=.3)))
  return network, randomised(network, *inputs()), jax.jit(network.apply)


class WithoutLatent(nn.Module):
  """The same U-Net, which never hears of z; its layers have the same names."""

  body: UNetBody

  @nn.compact
  def __call__(self, x_t, t):
    return Output(x_t.shape[-1], self.body.num_groups, self.body.dtype)(self.body(x_t, t))


@pytest.mark.parametrize('kind', (bool, np.float32))
def test_hidden_latents_do_not_matter(denoiser, kind):
  """Exactly; such rows are those of a U-Net without latents. The others see theirs."""
  network, variables, apply = denoiser
  x, t, z = inputs()
  visible = np.array([1, 0, 1, 0])
  base, other = (np.asarray(apply(variables, x, t, latent,
                                  jnp.asarray(visible.astype(kind))))
                 for latent in (z, 2 * z + 1))
  np.testing.assert_array_equal(base[visible == 0], other[visible == 0])
  assert (np.abs(base - other).max(axis=(1, 2, 3))[visible == 1] > 1e-3).all()
  everywhere = np.asarray(apply(variables, x, t, z))
  np.testing.assert_allclose(base[visible == 1], everywhere[visible == 1], rtol=1e-5,
                             atol=1e-5)
  plain = jax.jit(WithoutLatent(network.body).apply)(variables, x, t)
  np.testing.assert_allclose(base[visible == 0], plain[visible == 0], rtol=1e-5,
                             atol=1e-5)


def test_inputs_matter(denoiser):
  """The output depends on x_t, t and z; times may be real numbers."""
  _, variables, apply = denoiser
  x, t, z = inputs()
  base = np.asarray(apply(variables, x, t, z))
  for other in ((x + 1, t, z), (x, t + 1, z), (x, t, z + 1)):
    changed = np.asarray(apply(variables, *other))
    assert (np.abs(changed - base).max(axis=(1, 2, 3)) > 1e-3).all()
  np.testing.assert_allclose(apply(variables, x, t.astype(jnp.float32), z), base,
                             rtol=1e-5, atol=1e-5)


def test_rows_do_not_mix(denoiser):
  """Reordered or alone in a batch an example keeps its result, its dropout included."""
  _, variables, apply = denoiser
  x, t, z = inputs()
  keys = jax.random.split(jax.random.key(1), 4)
  visible = jnp.asarray([True, False, True, True])
  encoder = Encoder(UNetBody(**FLAT | dict(dropout=.3)), LATENT)
  weights = randomised(encoder, x)
  for function in (lambda *rows: apply(variables, *rows),
                   lambda x, *rows: jnp.stack(
                       jax.jit(encoder.apply)(weights, x, rows[-1]), axis=1)):
    whole = np.asarray(function(x, t, z, visible, keys))
    order = np.array([2, 0])
    some = function(*(rows[order] for rows in (x, t, z, visible, keys)))
    np.testing.assert_allclose(some, whole[order], rtol=1e-4, atol=1e-5)
    dropped = np.asarray(function(x, t, z, visible, keys[::-1]))
    assert np.abs(dropped - whole).max() > 1e-3


@pytest.mark.parametrize('conditions', ['tz', 't', 'z', ''])
def test_residual_block_by_numpy(conditions):
  """(1 + s_z) ((1 + s_t) norm(h) + b_t) + b_z between two convolutions, in float64."""
  groups, width, rows = 2, 4, 2
  rng = np.random.default_rng(2)
  x, t, z = (rng.normal(size=shape).astype(np.float32)
             for shape in ((rows, 3, 4, width), (rows, 5), (rows, 6)))
  visible = np.array([1., .5], np.float32)
  block = ResidualBlock(width, groups, 0., jnp.float32)
  arguments = (jnp.asarray(x), jnp.asarray(t) if 't' in conditions else None, None,
               Context(jnp.asarray(z), jnp.asarray(visible)) if 'z' in conditions
               else None)
  variables = randomised(block, *arguments)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables['params'])

  def silu(h):
    return h / (1 + np.exp(-h))

  def convolution(h, layer):
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return layer['bias'] + sum(
        padded[:, i:i + 3, j:j + 4] @ layer['kernel'][i, j]
        for i in range(3) for j in range(3))

  def normalised(h):
    grouped = h.reshape(rows, 12, groups, width // groups)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(h.shape)

  def halves(given, layer, factor):
    numbers = (silu(given) @ layer['kernel'] + layer['bias']) * factor
    return numbers[:, None, None, :width], numbers[:, None, None, width:]

  first = params['GroupNorm_0']
  h = convolution(silu(normalised(x) * first['scale'] + first['bias']), params['Conv_0'])
  h = normalised(h)
  if 't' in conditions:
    scale, shift = halves(t, params['Dense_0'], 1)
    h = (1 + scale) * h + shift
  if 'z' in conditions:
    scale, shift = halves(z, params['context'], visible[:, None])
    h = (1 + scale) * h + shift
  if not conditions:
    h = h * params['GroupNorm_1']['scale'] + params['GroupNorm_1']['bias']
  expected = x + convolution(silu(h), params['Conv_1'])
  np.testing.assert_allclose(block.apply(variables, *arguments), expected, rtol=1e-4,
                             atol=1e-5)
  assert len(params) == 3 + max(1, len(conditions))  # nothing else is learned


def shapes_of(module, *arguments):
  """{path: shape} of a module's parameters."""
  tree = jax.eval_shape(module.init, jax.random.key(0), *arguments)['params']
  return {tuple(entry.key for entry in path): leaf.shape
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('options', [
    TINY, FLAT, TINY | dict(channel_multipliers=(1, 1, 2), blocks_per_level=2,
                            attention_levels=(0, 2))])
def test_encoder_has_the_shape_of_the_first_half(options):
  """The same convolutions and attention as the U-Net's way down and middle; no others."""
  body = UNetBody(**options)
  x, t, z = inputs()
  unet = {path[1:]: shape for path, shape in shapes_of(ContextUNet(body), x, t, z).items()
          if path[0] == 'body'}
  conditions = {'TimeEmbedding_0', 'context'}
  encoder = {path: shape for path, shape in shapes_of(Encoder(body, LATENT), x).items()
             if path[0] not in ('mean', 'log_variance', 'GroupNorm_0')}
  convolutions = {path: shape for path, shape in encoder.items()
                  if path[0].startswith(('Conv', 'Downsample', 'SelfAttention'))
                  or path[1].startswith('Conv')}
  assert convolutions == {path: unet[path] for path in convolutions}
  assert not any(conditions & set(path) for path in encoder)
  levels, blocks = len(options['channel_multipliers']), options['blocks_per_level']
  count = lambda kind: len({p[0] for p in encoder if p[0].startswith(kind)})
  assert count('ResidualBlock') == levels * blocks + 2
  assert count('Downsample') == levels - 1
  assert count('SelfAttention') == (
      len(options.get('attention_levels', ())) * blocks
      + options.get('middle_attention', True))


def test_context_only_adds_layers():
  """Without it the U-Net has the same layers, of the same names; each block has one."""
  body = UNetBody(**TINY)
  x, t, z = inputs()
  with_context = shapes_of(ContextUNet(body), x, t, z)
  plain = shapes_of(WithoutLatent(body), x, t)
  added = {path for path in with_context if path not in plain}
  assert all(with_context[path] == shape for path, shape in plain.items())
  blocks = {path[1] for path in added if path[0] == 'body'}
  assert blocks == {f'ResidualBlock_{i}' for i in range(2 * 1 + 2 + 2 * 2)}
  embedding = {path for path in added if path[0] != 'body'}
  assert sorted(with_context[path] for path in embedding) == [
      (LATENT, 16), (16,), (16,), (16, 16)]
  assert all('context' in path for path in added - embedding)


@pytest.mark.parametrize('size,channels,changes', [
    (4, 1, dict()), (4, 3, dict(dtype='bfloat16')),
    (5, 1, dict(channel_multipliers=(1,))),
    (8, 3, dict(channel_multipliers=(1, 2, 3), attention_levels=(0, 2)))])
def test_shapes_and_types(size, channels, changes):
  """Two [B, J] and an image, float32, parameters too, whatever the compute type."""
  body = UNetBody(**TINY | changes)
  x, t, z = inputs(2, size, channels)
  for network, arguments, expected in (
      (Encoder(body, LATENT), (x,), (z.shape, z.shape)),
      (ContextUNet(body), (x, t, z), (x.shape,))):
    out, variables = jax.eval_shape(network.init_with_output, jax.random.key(0),
                                    *arguments)
    assert tuple(leaf.shape for leaf in jax.tree.leaves(out)) == expected
    leaves = jax.tree.leaves((out, variables))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


def test_latents_before_training():
  """Means that tell images apart; one variance, small enough to let that be seen."""
  x, _, _ = inputs(16)
  # As Flax starts a Dense: not zero, as in the layers that start as nothing.
  encoder = Encoder(UNetBody(**FLAT), 8)
  (mean, log_variance), variables = jax.jit(
      lambda key: encoder.init_with_output(key, x))(jax.random.key(0))
  deviation = np.exp(.5 * np.asarray(log_variance))
  assert np.ptp(deviation) == 0
  spread = np.asarray(mean).std(axis=0)
  assert .2 < np.median(spread) / deviation[0, 0] < 20
  kernel = np.asarray(variables['params']['mean']['kernel'])
  assert kernel.std() == pytest.approx(FLAT['channels'] ** -.5, rel=.5)


def test_latents_by_numpy():
  """New residual blocks do nothing: normalisation, silu, mean over pixels, Dense."""
  encoder = Encoder(UNetBody(**FLAT), LATENT)
  x, _, _ = inputs(2)
  variables = jax.device_get(jax.jit(encoder.init)(jax.random.key(0), x))
  params = variables['params']
  h = nn.Conv(4, (3, 3)).apply({'params': params['Conv_0']}, x)
  grouped = np.asarray(h, np.float64).reshape(2, 16, 2, 2)
  h = (grouped - grouped.mean((1, 3), keepdims=True)) / np.sqrt(
      grouped.var((1, 3), keepdims=True) + 1e-6)
  pooled = (h / (1 + np.exp(-h))).mean(1).reshape(2, 4)
  mean, _ = encoder.apply(variables, x)
  np.testing.assert_allclose(mean, pooled @ params['mean']['kernel'], atol=1e-5)


def test_bfloat16_is_near_float32():
  """The same parameters in bfloat16: the same functions up to its 8 bits."""
  x, t, z = inputs()
  networks = lambda **options: (Encoder(UNetBody(**FLAT | options), LATENT),
                                ContextUNet(UNetBody(**FLAT | options)))
  for full, half, arguments in zip(networks(), networks(dtype='bfloat16'),
                                   ((x,), (x, t, z))):
    variables = randomised(full, *arguments)
    for exact, rough in zip(*(jax.tree.leaves(jax.jit(network.apply)(
        variables, *arguments)) for network in (full, half))):
      exact, rough = np.asarray(exact), np.asarray(rough)
      assert 0 < np.abs(rough - exact).max() / np.abs(exact).max() < .1


# Table 1, section 4.1 and appendix B of the ClusterDDPM paper.
PUBLISHED = {  # name: J, lambda, parameters in millions, images, shape, clusters
    'mnist': (32, .1, 2., 70_000, (28, 28, 1), 10),
    'fashion_mnist': (64, .001, 2.01, 70_000, (28, 28, 1), 10),
    'cifar10': (512, .01, 46.2, 60_000, (32, 32, 3), 10),
    'coil20': (10, .05, 11.14, 1_440, (128, 128, 1), 20),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_settings(name):
  """The configs' latents, weights, sizes, schedules and numbers of epochs."""
  size, weight, millions, images, shape, clusters = PUBLISHED[name]
  config = runpy.run_path(CONFIGS / f'cluster_ddpm_{name}.py')['get_config']()
  assert config.method == 'cluster_ddpm'
  assert (config.latent.size, config.latent.weight, config.num_clusters) == (
      size, weight, clusters)
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  z = jax.ShapeDtypeStruct((1, size), jnp.float32)
  t = jax.ShapeDtypeStruct((1,), jnp.int32)
  encoder, denoiser = clusterddpm_networks(config)
  leaves = [*shapes_of(encoder, x).values(), *shapes_of(denoiser, x, t, z).values()]
  assert sum(map(math.prod, leaves)) == pytest.approx(millions * 1e6, rel=.05)
  process = build(config, shape, 256, make_mesh(1)).process
  np.testing.assert_allclose(process.alphas_cumprod[-1],
                             np.prod(1 - np.linspace(1e-4, .02, 400)), rtol=1e-6)
  np.testing.assert_array_equal(process.m, 0)
  first, later = config.m_step.first_num_steps, config.m_step.num_steps
  epoch = images // config.m_step.batch_size  # what does not fill a batch waits
  assert (first, later) == (10 * epoch, epoch)
  assert config.em.max_iterations == 1 + 570
