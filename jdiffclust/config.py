"""Every option: its default, its check and its one-line meaning, in one place.

A config file (`configs/NAME.py`) starts from `default_config()` and changes
what differs. `check_config` is called once, before anything is read or
written; whatever needs the data as well (Q against N, the U-Net's depth
against the image) is checked by `check_against_data`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from jdiffclust.errors import UserError


@dataclasses.dataclass(frozen=True)
class Option:
  """One option of the configuration.

  Attributes:
    default: its default value; its type is the option's type.
    allowed: what is allowed, in words, for the error message.
    check: true for an allowed value.
    meaning: one line for `--help`.
    defines_run: whether a fitted workdir belongs to this value. Resuming with
      another one is refused.
    word: a text allowed beside values of that type, or ''.
  """

  default: Any
  allowed: str
  check: Callable[[Any], bool]
  meaning: str
  defines_run: bool = True
  word: str = ''

  def allows(self, value) -> bool:
    """Whether `value` has the type and passes the check, or is the word."""
    if self.word and isinstance(value, str):
      return value == self.word
    kind = type(self.default)
    kinds = (int, float) if kind is float else kind
    # True is an integer to Python, not to us.
    right_type = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
    return right_type and self.check(value)


def _integer(default, low, meaning, high=None, **kwargs):
  allowed = f'an integer >= {low}' if high is None else f'an integer {low}..{high}'
  return Option(default, allowed,
                lambda v: v >= low and (high is None or v <= high), meaning, **kwargs)


def _real(default, low, high, meaning, open_low=False, **kwargs):
  bracket = '(' if open_low else '['
  return Option(default, f'a number in {bracket}{low:g}, {high:g}]',
                lambda v: (low < v if open_low else low <= v) and v <= high,
                meaning, **kwargs)


def _choice(default, choices, meaning, **kwargs):
  return Option(default, 'one of ' + ', '.join(map(repr, choices)),
                lambda v: v in choices, meaning, **kwargs)


def _text(default, meaning, **kwargs):
  return Option(default, 'text', lambda v: True, meaning, **kwargs)


def _flag(default, meaning, **kwargs):
  return Option(default, 'True or False', lambda v: True, meaning, **kwargs)


def _integers(default, low, meaning, allow_empty=False, **kwargs):
  return Option(
      default, f'integers >= {low}, as in (1, 2)',
      lambda v: (allow_empty or len(v) > 0)
      and all(type(n) is int and n >= low for n in v), meaning, **kwargs)


# Starting partitions that are fitted to the images, see `clustering.initialise`.
STARTS = ('neighbours', 'gaussian_mixture', 'kmeans', 'tsne', 'umap')
SPACES = ('pixels', 'edges', 'denoiser')  # in which neighbours are looked for
AUTO = 'auto'  # the num_clusters to be chosen
METHODS = ('cddpm', 'cluster_ddpm', 'latent_cddpm')
LATENTS = 'latents'  # the start of cluster_ddpm's own paper
ADVISED_WEIGHT = (.001, .1)  # its lambda, by the paper's section 4.4

OPTIONS: Mapping[str, Any] = {
    'method': _choice('cddpm', METHODS, 'the model: a mixture of conditional DDPMs, or a '
                      'DDPM conditioned on latents that a Gaussian mixture describes '
                      '(ClusterDDPM), or that a mixture of conditional DDPMs does'),
    'num_clusters': Option(10, "an integer >= 1, or 'auto'", lambda v: v >= 1,
                           'Q, the number of clusters; auto: chosen from the images, see '
                           'em.auto_clusters', word=AUTO),
    'seed': _integer(0, 0, 'every random number follows from it', high=2**31 - 1),
    'num_devices': _integer(
        0, 0, 'devices to spread minibatches over; 0 takes all', defines_run=False),
    'data': {
        'source': _choice('digits', ('digits', 'idx', 'npz', 'folder', 'tfds'),
                          'where images come from'),
        'path': _text('', 'file (idx, npz) or folder (folder, tfds data_dir)'),
        'labels_path': _text('', 'idx: the labels file; empty: guessed from its name'),
        'name': _text('', 'tfds: the name of the data set'),
        'split': _text('train', 'tfds: the split'),
        'image_key': _text('', 'npz, tfds: name of the images; empty: the usual ones'),
        'label_key': _text('', 'npz, tfds: name of the labels; empty: the usual ones'),
        'image_size': _integer(0, 0, 'pixels a side after resizing; 0: as found'),
        'channels': _choice(0, (0, 1, 3), '1 grey, 3 colour, 0 as found'),
        'padding': _integer(0, 0, 'pixels added on every side'),
        'use_labels': _flag(True, 'read labels where there are any; only ever used '
                            'to score the result (folder: names of sub-folders)'),
        'unreadable': _choice('refuse', ('refuse', 'skip'),
                              'what to do about files that are not readable images'),
        'max_images': Option(0, '0 (all) or an integer >= 2', lambda v: v == 0 or v >= 2,
                             'use at most so many images; 0: all'),
        'pipeline': _choice('auto', ('auto', 'memory', 'grain'),
                            'images in device memory, or read by Grain; auto: by size'),
        'memory_limit_mb': _integer(
            2048, 1, 'auto: larger data sets are read by Grain'),
        'workers': _integer(8, 0, 'grain: reading threads', defines_run=False),
    },
    'diffusion': {
        'num_steps': _integer(200, 2, 'T, the number of noise levels'),
        'betas': _choice('linear', ('linear', 'cosine', 'sigmoid'),
                         'the noise schedule beta_t'),
        'beta_start': _real(1e-4, 0, 1, 'first beta (linear, sigmoid)', open_low=True),
        'beta_end': _real(.02, 0, 1, 'last beta (linear, sigmoid)', open_low=True),
        'rescale_betas': _flag(True, 'betas are those of T = 1000, times 1000 / T'),
        'pull': _choice('one_minus_sqrt_abar',
                        ('one_minus_sqrt_abar', 'cdiffuse', 'linear', 'zero'),
                        'm_t, the pull of the forward process to the cluster mean; '
                        'cluster_ddpm has none'),
        'reverse_variance': _choice('step', ('step', 'posterior'),
                                    'variance of p(x_{t-1} | x_t): of the forward step, '
                                    'or of its posterior given x_0'),
        'decoder': _choice('auto', ('auto', 'gaussian', 'discretized'),
                           'p(x_0 | x_1); auto: discretized where pixels have levels'),
    },
    'network': {
        'conditioning': _choice('shared_trunk', ('shared_trunk', 'concatenated'),
                                'how the U-Net sees the cluster mean: in a small head '
                                'on features that all clusters share, or beside x_t'),
        'channels': _integer(32, 1, "the U-Net's channels at the first level"),
        'channel_multipliers': _integers((1, 2), 1, 'channels per level, in multiples'),
        'blocks_per_level': _integer(2, 1, 'residual blocks per level'),
        'attention_levels': _integers(
            (), 0, 'levels (0: full resolution) with self-attention', allow_empty=True),
        'middle_attention': _flag(True, 'self-attention at the bottleneck'),
        'num_heads': _integer(4, 1, 'attention heads'),
        'num_groups': _integer(8, 1, 'groups of the group normalisation'),
        'dropout': _real(0., 0, .9, 'dropout rate in the residual blocks'),
        'dtype': _choice('float32', ('float32', 'bfloat16'),
                         'compute type; parameters stay float32'),
    },
    'em': {
        'init': _choice('neighbours',
                        (*STARTS, 'random', 'best', LATENTS),
                        'the starting partition; umap is an optional extra; best: that '
                        'of init_candidates with the best bound; latents (cluster_ddpm): '
                        'a Gaussian mixture of the first latents'),
        'init_spaces': Option(
            ('pixels', 'edges'),
            f"names out of {SPACES}, each once, as in ('edges', 'denoiser')",
            lambda v: 0 < len(v) == len(set(v)) and all(name in SPACES for name in v),
            'what neighbours compares, by consensus: pixels (over views), edges '
            '(histograms of their directions), features of a denoiser trained for it'),
        'init_candidates': Option(
            ('neighbours', 'gaussian_mixture', 'kmeans'), f'names out of {STARTS}',
            lambda v: len(v) > 0 and all(name in STARTS for name in v),
            'starts that best tries'),
        'init_trial_steps': _integer(200, 1, 'gradient steps that best tries one for'),
        'posterior': _choice('amortised', ('amortised', 'monte_carlo'),
                             'tau: by an inference network trained beside the denoiser, '
                             "or a table from the E-step's draws"),
        'schedule': _choice('batch', ('batch', 'stepwise'),
                            'pi and mu from all of tau once an iteration, or following '
                            'the minibatches without a table of tau (amortised only)'),
        'init_restarts': _integer(10, 1, 'restarts of the start; the best by its '
                                  'own likelihood or inertia is kept'),
        'init_components': _integer(0, 0, 'principal components for the mixture; 0: all '
                                    'of more than the average variance'),
        'init_noise': _real(.05, 0, 10, 'variance added to the mixture in [-1, 1] units',
                            open_low=True),
        'init_denoiser_steps': _integer(1500, 1, 'gradient steps of the denoiser whose '
                                        'features are compared (init_spaces)'),
        'init_denoiser_noise': _real(.05, 0, 1, 'the noise level of these features '
                                     '(share of T)'),
        'init_max_images': _integer(20000, 1, 'fit the start on at most so many images'),
        'auto_clusters': Option(
            (2, 20), 'two integers (LOW, HIGH) with 2 <= LOW < HIGH',
            lambda v: len(v) == 2 and all(type(n) is int for n in v) and 2 <= v[0] < v[1],
            'num_clusters=auto: the least and the greatest number tried'),
        'auto_parts': _integer(5, 1, 'num_clusters=auto: random parts of the images '
                                'that vote for a number'),
        'auto_max_images': _integer(5000, 8, 'num_clusters=auto: choose on at most so '
                                    'many images'),
        'max_iterations': _integer(4, 1, 'EM iterations at most'),
        'bound_tolerance': _real(1e-4, 0, 1, 'stop when the bound changes relatively '
                                 'by less'),
        'partition_tolerance': _real(1e-3, 0, 1, 'stop when a smaller share of the '
                                     'images changes cluster'),
        'min_cluster_size': _real(1., 0, 1e9, 'a cluster with fewer images is empty'),
        'reseed_empty': _flag(False, 're-seed an emptied cluster from the '
                              'worst-explained images'),
    },
    'views': {
        'num': _integer(64, 1, 'random views of an image that neighbours compares'),
        'sets': _integer(5, 1, 'so many sets of them (of noise, for a denoiser); the '
                         'consensus is over all'),
        'rotation': _real(.1, 0, 10, 'their rotation, standard deviation in radians'),
        'scale': _real(.07, 0, 1, 'their scale, of the logarithm; 0: left alone'),
        'shear': _real(.07, 0, 1, 'their shear'),
        'shift': _real(.05, 0, 1, 'their shift, share of the side'),
        'flip': _real(0., 0, 1, 'share of them that are mirrored, left to right'),
    },
    'posterior': {
        'channels': _integer(32, 8, 'amortised: first channels of the inference network'),
        'num_views': _integer(8, 0, 'views of an image over which it is averaged; 0: the '
                              'image itself'),
        'temper': _real(1., 0, 1e9, 'weight of its divergence from the prior'),
        'anchor': _real(1., 0, 1, 'share of the starting partition in the prior; the '
                        "rest is the clusters' proportions (of latents: in q(c | x) of "
                        'training too; the rest is p(c | z))'),
        'pool': _real(.5, 0, 1, "share of the start in the fitted images' tau, times "
                      'anchor; the rest is the inference network (or latents), which '
                      'new images have alone'),
        'balance': _real(0., 0, 1e9, 'weight of a prior for clusters of equal sizes'),
        'warmup': _integer(600, 0, 'steps over which the errors come to count'),
        'noise_low': _real(.1, 0, 1, 'errors count from this noise level (share of T)'),
        'noise_high': _real(.8, 0, 1, 'and up to this one'),
        'transform_denoised': _flag(False, 'the denoiser sees views too, not the images'),
    },
    'latent': {
        'size': _integer(10, 1, 'cluster_ddpm: J, the numbers of a latent z'),
        'weight': _real(.1, 0, 1, 'lambda, weight of the prior-matching terms against '
                        'the noise error summed over pixels; .001 to .1 advised',
                        open_low=True),
        'responsibilities': _choice('sampled', ('sampled', 'expected'),
                                    'what q(c | x) of training pools with the start '
                                    '(see posterior.anchor): p(c | z) of a sampled z, or '
                                    "the bound's optimum exp(E log p(z, c)), normalised"),
        'covariance': _choice('diagonal', ('diagonal', 'full'),
                              'of the Gaussians of the latents'),
        'min_variance': _real(1e-6, 0, 1, 'added to their variances', open_low=True),
        'mixture': _choice('auto', ('auto', 'scikit', 'jax'),
                           'what fits them: scikit-learn on one host, or JAX on all '
                           'devices; auto: by the size'),
        'mixture_iterations': _integer(0, 0, 'EM iterations of that fit at most; 0: '
                                       'only the moments by the responsibilities so far'),
        'iterations': _integer(1, 1, 'latent_cddpm: EM iterations of cluster_ddpm before '
                               'CDDPM takes over its latents'),
        'views': _flag(True, 'the encoder learns from random views (see views) of the '
                       'images that the denoiser restores'),
        'context_dropout': _real(.1, 0, .9, 'share of training images whose z is hidden '
                                 'from the denoiser'),
    },
    'e_step': {
        'num_draws': _integer(32, 2, 'draws (t, eps) per image, an even number'),
        'max_draws': _integer(0, 0, 'clusters that have not lost an image by num_draws '
                              'draws get up to so many, a multiple; 0: no more'),
        'race_error': _real(.01, 0, .5, 'with max_draws: probability that an image '
                            "loses its best cluster early; 0: no cluster loses"),
        'weighting': _choice('elbo', ('elbo', 'uniform'),
                             'weights of the noise levels: the exact bound, or equal'),
        'proposal': _choice('auto', ('auto', 'spread', 'weight', 'uniform'),
                            'how t is drawn: in proportion to how clusters differ there '
                            '(a pilot measures it), best where the draws decide tau; or '
                            'to its weight, best where they score it; uniformly'),
        'noise': _choice('independent', ('independent', 'antithetic'),
                         'eps of the draws; antithetic: in pairs of opposite sign'),
        'share_draws': _flag(True, 'all clusters of an image see the same (t, eps)'),
        'stratify': _flag(True, 'draw t from strata rather than independently'),
        'temperature': _real(1., 0, 1e9, 'tau is proportional to the posterior to the '
                             'power 1 / temperature', open_low=True),
        'batch_size': _integer(256, 1, 'images per E-step call'),
        'clusters_per_chunk': _integer(10, 1, 'clusters evaluated at once'),
        'draws_per_chunk': _integer(1, 1, 'draws evaluated at once'),
    },
    'm_step': {
        'num_steps': _integer(300, 1, 'gradient steps per EM iteration'),
        'first_num_steps': _integer(0, 0, 'gradient steps of the first iteration; '
                                    '0: the same'),
        'batch_size': _integer(128, 1, 'images per gradient step'),
        'assignment': _choice('sampled', ('sampled', 'summed', 'per_cluster'),
                              'q ~ tau_i; sum over q; or one q a step weighted by tau '
                              '(Algorithm 1)'),
        'weighting': _choice('uniform', ('uniform', 'elbo'),
                             'weights of the noise levels'),
        'means': _choice('weighted', ('weighted', 'gradient'),
                         'mu_q: responsibility-weighted mean, or by gradient'),
        'learning_rate': _real(1e-3, 0, 10, "Adam's step size", open_low=True),
        'learning_rate_warmup': _integer(50, 0, 'steps over which the step size rises'),
        'gradient_clip': _real(1., 0, 1e9, 'largest gradient norm; 0: no limit'),
        'ema_decay': _real(.995, 0, .999999, 'decay of the averaged weights'),
    },
    'checkpoint': {
        'every_steps': _integer(200, 1, 'gradient steps between checkpoints',
                                defines_run=False),
        'keep': _integer(3, 1, 'checkpoints kept', defines_run=False),
    },
    'log': {
        'every_steps': _integer(50, 1, 'gradient steps between lines of metrics.jsonl',
                                defines_run=False),
    },
    'sample': {
        'clusters': _integers((), 0, 'clusters to draw from; empty: all',
                              allow_empty=True, defines_run=False),
        'num_images': _integer(8, 1, 'images drawn per cluster', defines_run=False),
        'batch_size': _integer(80, 1, 'images drawn at once', defines_run=False),
        'seed': _integer(0, 0, 'another seed draws other images', high=2**31 - 1,
                         defines_run=False),
        'sampler': _choice('ddpm', (
            'ddpm', 'ddim', 'euler', 'euler_maruyama', 'reverse_diffusion', 'heun',
            'dpm_solver_pp_2m', 'predictor_corrector', 'adaptive'),
                           'how images are drawn; the last with pip install '
                           "'jdiffclust[ode]'", defines_run=False),
        'num_steps': _integer(0, 0, 'noise levels it visits; 0: all of the model',
                              defines_run=False),
        'grid': _choice('trailing', ('uniform', 'leading', 'trailing', 'karras'),
                        'which ones', defines_run=False),
        'eta': _real(0., 0, 1, "ddim's noise: 0 none, 1 as ddpm", defines_run=False),
        'predictor': _choice('reverse_diffusion', (
            'ddpm', 'ddim', 'euler', 'euler_maruyama', 'reverse_diffusion', 'heun'),
                             'of predictor_corrector', defines_run=False),
        'snr': _real(.16, 0, 10, 'signal-to-noise ratio of its Langevin steps',
                     open_low=True, defines_run=False),
        'corrections': _integer(1, 1, 'Langevin steps after each of its steps',
                                defines_run=False),
        'tolerance': _real(1e-3, 0, 1, "adaptive's error of a step, in units of pixels",
                           open_low=True, defines_run=False),
        'guidance': _real(1., 0, 100, 'exaggerates what sets a cluster apart from the '
                          'mixture; 1: not at all', defines_run=False),
        'interpolate': _integer(0, 0, 'rows of images from the first of two clusters to '
                                'the second; 0: none', defines_run=False),
        'trajectory': _integer(0, 0, 'pictures to keep on the way from noise to image; '
                               '0: none', defines_run=False),
    },
    'quality': {
        'num_images': _integer(100, 0, 'evaluate: generated images per cluster that are '
                               'compared with real ones; 0: none', defines_run=False),
        'max_images': _integer(5000, 4, 'real images that they are compared with, at '
                               'most', defines_run=False),
        'neighbours': _integer(5, 1, 'k of precision, recall, density and coverage',
                               defines_run=False),
        'splits': _integer(5, 1, 'random halvings of the real images, for means and '
                           'standard deviations', defines_run=False),
    },
    'predict': {
        'num_draws': _integer(0, 0, 'draws per image, an even number; 0: as in the fit',
                              defines_run=False),
        'likelihood': _flag(False, 'also the log-likelihood by the probability-flow ODE: '
                            'hundreds of evaluations an image and cluster',
                            defines_run=False),
        'ode_steps': _integer(25, 1, 'its Runge-Kutta steps, of 4 evaluations each',
                              defines_run=False),
        'probes': _integer(4, 0, 'its probes of the trace; 0: the exact trace, a probe '
                           'for each number of an image', defines_run=False),
        'foreign_share': _real(.01, 0, 1, 'an image is foreign to all clusters if '
                               'its bound is below that of all but this share of the '
                               'fitted images',
                               defines_run=False),
    },
    'distributed': {
        'coordinator': _text('', 'host:port of process 0; empty: one process',
                             defines_run=False),
        'num_processes': _integer(1, 1, 'processes in all', defines_run=False),
        'process_id': _integer(0, 0, 'the number of this one', defines_run=False),
    },
}


def options(tree: Mapping = OPTIONS, prefix: str = '') -> Iterator[tuple[str, Option]]:
  """Yields (dotted name, `Option`) of every option, in the order of definition."""
  for name, node in tree.items():
    if isinstance(node, Option):
      yield prefix + name, node
    else:
      yield from options(node, f'{prefix}{name}.')


def default_config() -> ml_collections.ConfigDict:
  """Returns a new, locked ConfigDict with the default of every option."""
  config = ml_collections.ConfigDict()
  for name, option in options():
    *sections, leaf = name.split('.')
    node = config
    for section in sections:
      if section not in node:
        node[section] = ml_collections.ConfigDict()
      node = node[section]
    node[leaf] = (ml_collections.FieldReference(option.default, field_type=object)
                  if option.word else option.default)
  return config.lock()


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {dotted name: value} of a config, tuples as tuples."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f'{name}.{key}': leaf for key, leaf in flatten(value).items()}
    else:
      flat[name] = tuple(value) if isinstance(value, (tuple, list)) else value
  return flat


def nearest(name: str, names) -> str:
  """Returns ' Did you mean ...?' for the name most like `name`, or ''."""
  close = difflib.get_close_matches(name, list(names), n=1, cutoff=.5)
  return f' Did you mean {close[0]!r}?' if close else ''


def unknown_option(name: str) -> UserError:
  """Returns the error for an option nobody defined, with the nearest valid name."""
  known = [known for known, _ in options()]
  hint = nearest(name, known) or nearest(name.split('.')[-1],
                                         [k.split('.')[-1] for k in known])
  shown = name if name.isprintable() else repr(name)[1:-1]  # the message is one line
  return UserError(f'Unknown option config.{shown}.{hint} '
                   '`python -m jdiffclust.main --help` lists them all.')


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks every option of a config by itself and against the others.

  Args:
    config: a ConfigDict made by `default_config` and changed.

  Raises:
    UserError: an option is unknown, missing, of another type or out of range.
  """
  known = dict(options())
  flat = flatten(config)
  for name, value in flat.items():
    if name not in known:
      raise unknown_option(name)
    option = known[name]
    if not option.allows(value):
      raise UserError(
          f'config.{name} = {value!r} is not allowed: it must be {option.allowed} '
          f'({option.meaning}).')
  missing = sorted(set(known) - set(flat))
  if missing:
    raise UserError(f'The config lacks {missing[0]!r}: start config files from '
                    'jdiffclust.config.default_config().')
  _check_together(config)


def _check_together(config) -> None:
  for name in ('e_step', 'predict'):
    if config[name].num_draws % 2:
      raise UserError(
          f'config.{name}.num_draws = {config[name].num_draws} is odd: the E-step '
          'compares two halves, so it must be even.')
  if config.posterior.channels % 8:
    raise UserError(f'config.posterior.channels = {config.posterior.channels} is not '
                    'divisible by 8, the groups of its normalisation: choose a multiple.')
  low, high = config.posterior.noise_low, config.posterior.noise_high
  if low >= high:
    raise UserError(f'config.posterior.noise_low = {low} must be below noise_high = '
                    f'{high}.')
  if config.em.schedule == 'stepwise' and config.em.posterior != 'amortised':
    raise UserError(
        f"config.em.schedule = 'stepwise' keeps no table of tau, as config.em.posterior "
        f'= {config.em.posterior!r} needs: set config.em.posterior=amortised.')
  if config.em.schedule == 'stepwise' and config.em.reseed_empty:
    raise UserError('config.em.reseed_empty = True changes the table of tau that '
                    "config.em.schedule = 'stepwise' has not got: set one of them back.")
  without = {'random': ' (and config.posterior.temper=0, config.posterior.balance=1)',
             LATENTS: ''}
  if (config.em.posterior == 'amortised' and config.em.init in without
      and config.posterior.anchor):
    raise UserError(
        f'config.posterior.anchor = {config.posterior.anchor} would hold the posterior '
        f'to a start that knows nothing, config.em.init = {config.em.init!r}: set it to 0'
        f'{without[config.em.init]}, or take another start.')
  if config.method != 'cddpm' and config.em.schedule == 'stepwise':
    raise UserError("config.em.schedule = 'stepwise' is of method=cddpm: the mixture of "
                    f'{config.method} is fitted to all latents. Set it to batch.')
  if config.method == 'cddpm' and config.em.init == LATENTS:
    raise UserError(f'config.em.init = {LATENTS!r} needs the latents of '
                    "method=cluster_ddpm, not of 'cddpm': take another start.")
  if (config.method == 'latent_cddpm'
      and config.em.max_iterations <= config.latent.iterations):
    raise UserError(
        f'config.latent.iterations = {config.latent.iterations} leaves CDDPM no EM '
        f'iteration of config.em.max_iterations = {config.em.max_iterations}: lower the '
        'one or raise the other.')
  e_step = config.e_step
  for name in ('e_step', 'predict'):
    if e_step.noise == 'antithetic' and config[name].num_draws % 4:
      raise UserError(
          f'config.{name}.num_draws = {config[name].num_draws} is not a multiple of 4, '
          "as config.e_step.noise = 'antithetic' needs: two halves of pairs.")
  if e_step.max_draws and (e_step.max_draws % e_step.num_draws
                           or e_step.max_draws == e_step.num_draws):
    raise UserError(
        f'config.e_step.max_draws = {e_step.max_draws} is not a multiple of '
        f'config.e_step.num_draws = {e_step.num_draws}: set it to 0 (no race) or to '
        f'{2 * e_step.num_draws}, {4 * e_step.num_draws}, ...')
  if e_step.max_draws and not e_step.share_draws:
    raise UserError('config.e_step.share_draws = False, but clusters can only race '
                    '(config.e_step.max_draws) on draws that they share: set one of '
                    'them back.')
  if config.diffusion.beta_start > config.diffusion.beta_end:
    raise UserError(
        f'config.diffusion.beta_start = {config.diffusion.beta_start} exceeds '
        f'beta_end = {config.diffusion.beta_end}: betas must not fall.')
  multipliers = config.network.channel_multipliers
  if config.network.channels % config.network.num_groups:
    raise UserError(f'config.network.num_groups = {config.network.num_groups} does not '
                    f'divide config.network.channels = {config.network.channels}: choose '
                    'a divisor.')
  for level, multiple in enumerate(multipliers):
    channels = config.network.channels * multiple
    attends = level in config.network.attention_levels or (
        config.network.middle_attention and level == len(multipliers) - 1)
    if attends and channels % config.network.num_heads:
      raise UserError(
          f'config.network.num_heads = {config.network.num_heads} does not divide the '
          f'{channels} channels of level {level}: choose a divisor.')
  too_deep = [k for k in config.network.attention_levels if k >= len(multipliers)]
  if too_deep:
    raise UserError(
        f'config.network.attention_levels names level {too_deep[0]}, but the U-Net '
        f'has levels 0..{len(multipliers) - 1} (channel_multipliers = '
        f'{tuple(multipliers)}).')
  chosen = config.num_clusters != AUTO
  bad = [q for q in config.sample.clusters if chosen and q >= config.num_clusters]
  if bad:
    raise UserError(f'config.sample.clusters names cluster {bad[0]}, but there are '
                    f'clusters 0..{config.num_clusters - 1}.')
  for name in ('interpolate', 'trajectory'):
    if config.sample[name] == 1:
      raise UserError(f'config.sample.{name} = 1: set it to 0 for none, or to 2 or more, '
                      'the first and the last included.')
  if config.sample.interpolate and len(config.sample.clusters) != 2:
    raise UserError(
        f'config.sample.interpolate = {config.sample.interpolate} goes from one cluster '
        f'to another: name two, not {len(config.sample.clusters)}, such as '
        '--config.sample.clusters=0,3.')
  if config.sample.trajectory and config.sample.sampler == 'adaptive':
    raise UserError("config.sample.sampler = 'adaptive' keeps no pictures on the way: "
                    'set config.sample.trajectory to 0, or take another sampler.')
  quality = config.quality
  if 0 < quality.num_images <= quality.neighbours:
    raise UserError(
        f'config.quality.num_images = {quality.num_images} must exceed '
        f'config.quality.neighbours = {quality.neighbours} (or be 0: no comparison).')
  if quality.num_images and quality.max_images // 2 <= quality.neighbours:
    raise UserError(
        f'config.quality.neighbours = {quality.neighbours} asks for more neighbours than '
        f'half of config.quality.max_images = {quality.max_images} images have: raise '
        f'max_images to {2 * quality.neighbours + 2} or more, or lower neighbours.')
  d = config.distributed
  if d.process_id >= d.num_processes:
    raise UserError(f'config.distributed.process_id = {d.process_id} must be below '
                    f'num_processes = {d.num_processes}.')
  if d.num_processes > 1 and not d.coordinator:
    raise UserError('config.distributed.coordinator is empty: several processes need '
                    'the host:port of process 0.')


def cautions(config) -> list[str]:
  """What is allowed but known to go wrong, a line each."""
  low, high = ADVISED_WEIGHT
  weight = config.latent.weight
  if config.method != 'cddpm' and not low <= weight <= high:
    return [f'config.latent.weight = {weight} lies outside of [{low}, {high}], where '
            'ClusterDDPM was found to be stable: latents that ignore the mixture below '
            'it, or the images above it.']
  return []


def check_against_data(config, image_shape, num_images: int) -> None:
  """Checks the options that depend on the images.

  Args:
    config: a checked config.
    image_shape: (H, W, C) after resizing and padding.
    num_images: N.

  Raises:
    UserError: more clusters than images, or a U-Net too deep for the images.
  """
  half = min(num_images, config.em.auto_max_images) // 2
  if config.num_clusters == AUTO and config.em.auto_clusters[1] >= half:
    raise UserError(
        f'config.em.auto_clusters = {tuple(config.em.auto_clusters)} asks for more '
        f'clusters than half of the images can show: HIGH must be below {half}'
        + (f', or config.em.auto_max_images = {config.em.auto_max_images} larger.'
           if num_images > config.em.auto_max_images else '.'))
  if config.num_clusters != AUTO and config.num_clusters > num_images:
    raise UserError(
        f'config.num_clusters = {config.num_clusters} exceeds the {num_images} images: '
        f'it must be in 1..{num_images}.')
  levels = len(config.network.channel_multipliers)
  factor = 2 ** (levels - 1)
  height, width, _ = image_shape
  if min(height, width) < factor:
    raise UserError(
        f'The U-Net is too deep for images of {height}x{width}: its {levels} levels '
        f'(config.network.channel_multipliers) halve them {levels - 1} times. '
        f'Take fewer levels, or larger images by config.data.image_size.')
  if height % factor or width % factor:
    hint = f'set --config.data.image_size to a multiple of {factor}, or take fewer levels'
    if height == width:
      more = (-height % factor)
      if more % 2 == 0:
        hint = (f'set --config.data.padding={config.data.padding + more // 2}, or '
                + hint)
    raise UserError(
        f"Images of {height}x{width} are not divisible by {factor}, as the U-Net's "
        f'{levels} levels need: {hint}.')


def to_json(config) -> str:
  """Returns the config as JSON text, one nested object."""
  return json.dumps(config.to_dict(), indent=2) + '\n'


def from_json(text: str | bytes) -> ml_collections.ConfigDict:
  """Returns the config that `to_json` wrote.

  Raises:
    UserError: not JSON, not a config, with unknown options or wrong values.
  """
  mend = 'restore it, or fit into a new workdir.'
  try:
    stored = json.loads(text)
  except ValueError as error:  # also bytes that are no text
    raise UserError(f'config.json of the workdir is damaged ({error}): {mend}') from None
  flat = _flat_json(stored)
  config = default_config()
  for name, option in options():
    # An option that came later and does not define the run has its default.
    if name not in flat and option.defines_run:
      raise UserError('config.json of the workdir is damaged, or of another version of '
                      f'jdiffclust (it lacks {name}): {mend}')
  for name, value in flat.items():
    *sections, leaf = name.split('.')
    node = config
    for section in sections:
      node = node[section] if section in node else {}
    if leaf not in node or isinstance(node[leaf], ml_collections.ConfigDict):
      raise unknown_option(name)
    try:
      node[leaf] = value
    except TypeError as error:
      raise UserError(f'config.json of the workdir is damaged ({name}: {error}): '
                      f'{mend}') from None
  check_config(config)
  return config


def _flat_json(node, prefix='') -> dict[str, Any]:
  """Returns {dotted name: value} of nested JSON objects; lists as tuples."""
  if not isinstance(node, dict):
    return {prefix.rstrip('.'): tuple(node) if isinstance(node, list) else node}
  return {name: value for key, child in node.items()
          for name, value in _flat_json(child, f'{prefix}{key}.').items()}


def differences(fitted, wanted) -> list[str]:
  """Returns a line per option that defines a run and differs between two configs."""
  known = dict(options())
  old, new = flatten(fitted), flatten(wanted)
  return [f'config.{name}: {old[name]!r} there, {new[name]!r} now'
          for name in known if known[name].defines_run and old[name] != new[name]]
