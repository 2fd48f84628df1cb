"""Fits as small as they can be: options, networks, results without pictures."""

import copy
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jdiffclust
from jdiffclust import config as config_lib
from jdiffclust import outputs
from jdiffclust.clustering import method
from jdiffclust.sharding import replicate, to_host

# 60 digits in 3 clusters: 2 EM iterations of 6 gradient steps and 2 E-step calls.
TINY = tuple(f'--config.{option}' for option in (
    'num_devices=1', 'num_clusters=3', 'data.max_images=60', 'network.channels=8',
    'network.channel_multipliers=(1,)', 'network.blocks_per_level=1',
    'network.middle_attention=False', 'diffusion.num_steps=20',
    'diffusion.beta_end=.01', 'em.max_iterations=2',
    'start.kind=gaussian_mixture', 'start.restarts=1', 'em.posterior=monte_carlo',
    'e_step.num_draws=4', 'e_step.batch_size=32', 'm_step.num_steps=6',
    'm_step.first_num_steps=0', 'm_step.batch_size=16', 'log.every_steps=2',
    'checkpoint.every_steps=4', 'checkpoint.every_seconds=0', 'sample.num_images=2',
    'quality.num_images=12', 'quality.splits=2'))

# ClusterDDPM. Without views in the E-step no draw decides tau. So few iterations of the
# mixture that scikit-learn, which looks whether it has settled, does not stop before JAX.
CLUSTER_DDPM = ('method=cluster_ddpm', 'latent.size=4', 'posterior.anchor=0.',
                'posterior.num_views=0', 'latent.mixture_iterations=20')
# CDDPM on its latents from the second iteration on.
LATENT_CDDPM = ('method=latent_cddpm', 'latent.size=4', 'latent.iterations=1',
                'em.posterior=amortised', 'posterior.channels=8', 'em.max_iterations=3',
                'em.partition_tolerance=0.', 'em.bound_tolerance=0.')


class TinyDenoiser(nn.Module):
  """Two convolutions in the place of the U-Net: compiled in no time."""

  @nn.compact
  def __call__(self, x, t, mu, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    del dropout_keys
    hidden = nn.Conv(8, (3, 3))(jnp.concatenate([x, mu], axis=-1))
    time = nn.Dense(8)(t.astype(jnp.float32)[:, None] / 20)
    return nn.Conv(x.shape[-1], (3, 3))(nn.silu(hidden + time[:, None, None]))


class TinyEncoder(nn.Module):
  """Two linear maps in the place of the encoder."""

  size: int

  @nn.compact
  def __call__(self, images, dropout_keys=None):
    """Mean and log variance of z, [B, J]."""
    del dropout_keys
    flat = images.reshape(len(images), -1)
    return nn.Dense(self.size)(flat), nn.Dense(self.size)(flat) - 3


class TinyInference(nn.Module):
  """Two linear maps in the place of the inference network."""

  num_clusters: int
  channels: int

  @nn.compact
  def __call__(self, images):
    """Logits [B, Q], zero before training."""
    h = nn.relu(nn.Dense(4 * self.channels)(images.reshape(len(images), -1)))
    self.sow('intermediates', 'features', h)
    return nn.Dense(self.num_clusters, kernel_init=nn.initializers.zeros)(h)


class TinyContext(TinyDenoiser):
  """The tiny denoiser, which sees a picture of z beside x."""

  @nn.compact
  def __call__(self, x, t, z, visible=None, dropout_keys=None):
    """The noise in x, [B, H, W, C]."""
    if visible is not None:
      z = jnp.where(visible[:, None], z, 0)
    picture = nn.Dense(x[0].size)(z).reshape(x.shape)
    return TinyDenoiser()(x, t, picture, dropout_keys)


def tiny_networks(config):
  """In the place of `clusterddpm_networks`."""
  return TinyEncoder(config.latent.size), TinyContext()


def no_samples(fitted, count, reporter, name):
  """In the place of `outputs.generate`, which takes seconds."""
  del reporter, name
  return np.zeros((fitted.config.num_clusters, count, *fitted.method.image_shape),
                  np.float32)


def no_map(features, seed):
  """In the place of `gallery.spread`, which takes a tenth of a second."""
  del seed
  return np.zeros((len(features), 2), np.float32)


TINY_NETWORKS = method.Networks(denoiser=lambda _: TinyDenoiser(), latent=tiny_networks,
                                inference=TinyInference)
# Results without figures, which take seconds too; and without generated images.
NO_FIGURES = outputs.Parts(draw_check=lambda *args: None,
                           draw_figures=lambda *args: {}, spread=no_map)
NO_PICTURES = NO_FIGURES._replace(generate=no_samples)


build = functools.partial(method.build, networks=TINY_NETWORKS)


class Shared:
  """`method.build`, but what is compiled is shared between equal methods."""

  def __init__(self):
    """Starts with no method."""
    self._built, self._states = {}, {}

  def __call__(self, networks, config, image_shape, levels, mesh):
    """A method of its own, of a config that need not be equal where it is not read."""
    sections = ('method', 'num_clusters', 'network', 'diffusion', 'e_step', 'm_step',
                'em.posterior')
    if config.method != 'cddpm':
      sections += 'latent', 'sr3', 'start.kind', 'seed'
    if config.method != 'cddpm' or config.em.posterior != 'monte_carlo':
      sections += 'em.schedule', 'posterior', 'views'  # of the inference network
    compiled_for = {name: value for name, value in config_lib.flatten(config).items()
                    if name.startswith(sections)
                    and ('num_steps' not in name or config.method != 'cddpm')}
    compiled_for['T'] = config.diffusion.num_steps
    key = repr(compiled_for), tuple(image_shape), levels, mesh, networks
    if key not in self._built:
      self._built[key] = method.build(config, image_shape, levels, mesh, networks)
      assert self._built[key].tell  # is made once for all copies
    built = copy.copy(self._built[key])
    built.config = config
    if config.seed != self._built[key].config.seed:  # on which the first weights hang
      built._new_state = self._states.setdefault(
          (key, config.seed), jax.jit(built.new_state))
    return built


class Options(dict):
  """A dict that names of tests can hold."""

  __repr__ = lambda self: 'SMALL'


# One EM iteration of four steps, without views.
SMALL = Options({
    'network.channels': 8, 'network.channel_multipliers': (1,), 'num_devices': 1,
    'network.blocks_per_level': 1, 'network.middle_attention': False,
    'diffusion.num_steps': 20, 'diffusion.beta_end': .01, 'em.max_iterations': 1,
    'e_step.num_draws': 2, 'm_step.num_steps': 4, 'm_step.batch_size': 16,
    'e_step.batch_size': 4,  # so that batches of any number of images have 4
    'posterior.channels': 8, 'posterior.num_views': 0, 'views.num': 4, 'views.sets': 1,
    'start.kind': 'kmeans', 'start.restarts': 1, 'recognition.channels': 8,
    'recognition.steps': 4, 'recognition.batch_size': 8, **{
        f'views.{name}': 0. for name in (
            'rotation', 'scale', 'shear', 'shift', 'flip', 'upside_down',
            'quarter_turns')}})
SHARED = Shared()
ROWS = 160  # images of a small fit, at most


def first_state(built, key, known={}):
  """What `built.init_state` gives, on the host; of all that it hangs on once."""
  if key not in known:
    known[key] = to_host(method.Method.init_state(built))
  return known[key]


class Small(jdiffclust.DiffusionClustering):
  """The estimator with a tiny network; fits share their programs, whatever N."""

  @staticmethod
  def _build(*given):
    built = SHARED(TINY_NETWORKS, *given)
    first = functools.partial(first_state, built, repr(given))
    built.init_state = lambda: replicate(first(), built.mesh)
    if hasattr(built, 'gradient_step'):
      step = built.gradient_step  # looks rows up in a table [N, Q]

      def padded(state, estimator, batch, table, key):
        if isinstance(table, jax.Array):
          table = jnp.pad(table, ((0, ROWS - len(table)), (0, 0)))
        return step(state, estimator, batch, table, key)

      built.gradient_step = padded
    return built


def small(n_clusters=3, **arguments):
  """A `Small` of the options SMALL and those given."""
  more = arguments.pop('options', {})
  return Small(n_clusters, config=SMALL | more if more else SMALL, **arguments)
