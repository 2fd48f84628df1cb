"""Ideas that were tried on the digits: what each brings, from one command.

  python -m benchmarks.ideas [--ideas=NAME,...] [--seeds=0,1,2] [--out=DIR]

Those of CHANGES and LATENTS (of ClusterDDPM) are fits by the command with some options
changed. The others of FITS are not part of the project, since they did not pay; they
stand here, so that it can be seen that they did not. Labels are read by the scores alone.
Every run leaves one JSON file in DIR, and is not repeated; the table is the mean and
standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import sys
import types
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from sklearn.cluster import KMeans

from benchmarks import partitions
from benchmarks.clustering.table import cell
from benchmarks.lambda_sweep import PAPER
from configs.digits import get_config
from jdiffclust import config as config_lib
from jdiffclust import files, main as jdiffclust_main
from jdiffclust.clustering import denoiser_features as features_lib, m_step
from jdiffclust.clustering.initialise import fit_start
from jdiffclust.data.dataset import load_source
from jdiffclust.data.pipelines import make_pipeline
from jdiffclust.evaluation.clustering import clustering_scores
from jdiffclust.evaluation.diagnostics import overlaps, paired_change
from jdiffclust.networks.unet import (
    ClusterHead, SharedTrunkUNet, Trunk, unet_from_config)
from jdiffclust.sharding import make_mesh, replicate
from jdiffclust.training import cddpm, loop, passes, trial
from jdiffclust.training.progress import Reporter

RANDOM = {'em.init': 'random', 'posterior.anchor': 0., 'posterior.temper': 0.,
          'posterior.balance': 1., 'posterior.warmup': 0}
NO_VIEWS = dict.fromkeys(
    ('views.rotation', 'views.scale', 'views.shear', 'views.shift'), 0.)
CHANGES = {
    'default': {},
    'random_start': RANDOM,
    'random_start_monte_carlo': {'em.init': 'random', 'em.posterior': 'monte_carlo'},
    'monte_carlo': {'em.posterior': 'monte_carlo'},
    'no_errors': {'posterior.warmup': 10**9},
    'no_anchor': {'posterior.anchor': 0.},
    'no_views': NO_VIEWS,
    'views_in_start_alone': {'posterior.num_views': 0},
    'low_noise': {'posterior.noise_low': .02, 'posterior.noise_high': .3},
    'high_noise': {'posterior.noise_low': .4, 'posterior.noise_high': .95},
    'errors_thrice': {'posterior.temper': 1 / 3},
    'concatenated': {'network.conditioning': 'concatenated'},
    'wider': {'network.channels': 32},
}
# Of ClusterDDPM, by configs/cluster_ddpm_digits.py, which has one E-step.
SEVEN = {'m_step.first_num_steps': 400, 'm_step.num_steps': 100, 'em.max_iterations': 7,
         'em.bound_tolerance': 0., 'em.partition_tolerance': 0.}
LATENTS = {
    'latents': {},
    'latents_paper': PAPER,
    'latents_no_views': {'latent.views': False},
    'latents_full': {'latent.covariance': 'full'},
    'latents_no_average': {'m_step.ema_decay': 0.},
    'latents_no_pool': {'posterior.pool': 0.},
    'latents_seven': SEVEN,
    'latents_seven_half_anchor': {**SEVEN, 'posterior.anchor': .5},
    'latents_one_look': {'posterior.num_views': 0},
    'latents_to_the_end': {'latent.mixture_iterations': 100},
    'latents_of_32': {'latent.size': 32},
    'latents_lambda_.01': {'latent.weight': .01},
}
# Options of the `posterior` section that change linearly from the first step to the last,
# and what else is changed.
COARSE_TO_FINE = {'noise_low': (.5, .1)}
SCHEDULES = {
    'coarse_to_fine': (COARSE_TO_FINE, {}),
    'coarse_to_fine_random_start': (COARSE_TO_FINE, RANDOM),
    'annealed_temper': ({'temper': (10., 1.)}, {}),
}
NUM_STEPS = 900  # of the fit by configs/digits.py


def scores_of(labels, clusters) -> dict:
  """ACC, NMI, ARI of cluster numbers [N]."""
  return clustering_scores(labels, np.asarray(clusters))


# ------------------------------------------------------------- fits by the command


def fit(changes: dict, seed: int, workdir: pathlib.Path, config: str = 'digits') -> dict:
  """Scores, start and bound of a fit by the command, unless it is there."""
  options = [f'--config.{name}={value}'
             for name, value in {**changes, 'seed': seed}.items()]
  if not (workdir / 'summary.json').exists():
    code = jdiffclust_main.run(['', f'--config=configs/{config}.py', '--quiet',
                                f'--workdir={workdir}', *options])
    if code:
      sys.exit(code)
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  keep = ('acc', 'nmi', 'ari', 'bound_bits_per_dim')
  return {'start': {k: v for k, v in summary['init'].items() if k in keep},
          **{k: v for k, v in summary.items() if k in keep}}


def load(changes: dict, seed: int):
  """Config, source and machinery of the digits, as `fit` has them."""
  config = get_config()
  config.update_from_flattened_dict({**changes, 'seed': seed, 'num_devices': 1})
  config_lib.check_config(config)
  source = load_source(config.data)
  return config, source


def train(config, source, tau, steps: int):
  """Machinery, pipeline and state after gradient steps on a fixed start tau [N, Q]."""
  config.em.init_trial_steps = steps
  mesh = make_mesh(1)
  machinery = cddpm.build(config, source.image_shape, source.levels, mesh)
  pipeline = make_pipeline(source, config.data, config.m_step.batch_size, config.seed,
                           mesh)
  state = trial.short_fit(machinery, pipeline, np.arange(source.num_images),
                          replicate(tau, mesh), lambda table: table)
  return machinery, pipeline, state


def e_step(machinery, pipeline, state):
  """The `Assignment` of all images."""
  return passes.assign_all(machinery, state.ema, pipeline,
                           loop.e_step_key(machinery.config, 1), Reporter(quiet=True))


def start(source, config) -> np.ndarray:
  """Responsibilities [N, Q] by `em.init` of a config."""
  sample = loop.fit_sample(source, config.em.init_max_images, config.seed)
  return loop.partition(fit_start(config.em.init, sample, source.image_shape, config),
                        source)


# ----------------------------------------------------------- too many, then merged


def merge(tau, num_clusters: int) -> np.ndarray:
  """Joins, one by one, the two clusters that overlap most, down to Q: numbers [N]."""
  tau = np.array(tau, np.float64)
  while tau.shape[1] > num_clusters:
    shared = np.array(overlaps(tau), np.float64)
    np.fill_diagonal(shared, -np.inf)
    p, q = sorted(np.unravel_index(np.argmax(shared), shared.shape))
    tau[:, p] += tau[:, q]
    tau = np.delete(tau, q, axis=1)
  return tau.argmax(axis=1)


def over_clustered(seed: int, workdir: pathlib.Path) -> dict:
  """20 clusters from the start to the end of the fit, then merged to 10."""
  config, source = load({'num_clusters': 20}, seed)
  tau = start(source, config)
  machinery, pipeline, state = train(config, source, tau, 900)
  found = e_step(machinery, pipeline, state)
  return {'start': scores_of(source.labels, merge(tau, 10)),
          **scores_of(source.labels, merge(found.responsibilities, 10))}


# ---------------------------------------------------------------- held-out E-steps


def held_out(seed: int, workdir: pathlib.Path) -> dict:
  """Monte Carlo tau of images that the network has not been trained on.

  Two networks, each on one half's start; then one E-step of 32 draws, at temperature 1,
  of its own half and of the other one.
  """
  config, source = load({'em.posterior': 'monte_carlo', 'e_step.num_draws': 32}, seed)
  tau, count = start(source, config), source.num_images
  half = np.random.default_rng(seed).permutation(count) < count // 2
  own, other = np.zeros(count, int), np.zeros(count, int)
  bounds = {'own': [], 'other': []}
  for trained in (half, ~half):
    part = dataclasses.replace(source, images=np.asarray(source.images)[trained],
                               labels=source.labels[trained],
                               ids=np.asarray(source.ids)[trained])
    machinery, _, state = train(config, part, tau[trained], 600)
    everything = make_pipeline(source, config.data, config.m_step.batch_size, seed,
                               make_mesh(1))
    found = e_step(machinery, everything, state)
    clusters = found.responsibilities.argmax(axis=1)
    own[trained], other[~trained] = clusters[trained], clusters[~trained]
    bounds['own'].append(found.info.bound[trained])
    bounds['other'].append(found.info.bound[~trained])
  begun = tau.argmax(axis=1)
  return {'start': scores_of(source.labels, begun),
          **scores_of(source.labels, other),
          'own half': scores_of(source.labels, own),
          'kept of start, other half': float(np.mean(other == begun)),
          'kept of start, own half': float(np.mean(own == begun)),
          'bound, other half': float(np.concatenate(bounds['other']).mean()),
          'bound, own half': float(np.concatenate(bounds['own']).mean())}


# --------------------------------------------------------- more and more clusters


def halves(images, seed: int) -> np.ndarray:
  """0 or 1 for each image [n, D], by 2-means."""
  return KMeans(2, n_init=10, random_state=seed).fit_predict(images)


def curriculum(seed: int, workdir: pathlib.Path) -> dict:
  """From 2 clusters to 4, 8 and 10: the largest are halved each time."""
  config, source = load({}, seed)
  images = loop.flat_images(source, np.arange(source.num_images))
  clusters = halves(images, seed)
  for number in (2, 4, 8, 10):
    while clusters.max() + 1 < number:
      largest = np.bincount(clusters).argmax()
      members = np.flatnonzero(clusters == largest)
      clusters[members[halves(images[members], seed) == 1]] = clusters.max() + 1
    before = clusters.copy()
    config, source = load({'num_clusters': number, 'posterior.anchor': .5,
                           'posterior.balance': .5}, seed)
    tau = np.eye(number, dtype=np.float32)[clusters]
    machinery, pipeline, state = train(config, source, tau, 600)
    clusters = e_step(machinery, pipeline, state).responsibilities.argmax(axis=1)
  return {'start': scores_of(source.labels, before),
          **scores_of(source.labels, clusters)}


# ------------------------------------------------------ split and merge, by the bound


def moves(seed: int, workdir: pathlib.Path) -> dict:
  """Splits and merges of a Gaussian mixture's partition, accepted if the bound rises.

  Each candidate joins one of the three pairs that overlap most and halves one of the two
  clusters of most variance; the denoiser is trained anew on it as `partitions` does.
  """
  config = partitions.config_of('digits', seed, 450)
  source = load_source(config.data)
  images = loop.flat_images(source, np.arange(source.num_images))
  tau = fit_start('gaussian_mixture', images, source.image_shape, config)(
      images, np.arange(len(images)))
  found = np.asarray(tau).argmax(axis=1)
  shared = np.triu(np.array(overlaps(tau), np.float64), 1)
  pairs = [np.unravel_index(i, shared.shape) for i in np.argsort(-shared, axis=None)[:3]]
  spread = [float(np.sum((images[found == q] - images[found == q].mean(axis=0))**2))
            for q in range(10)]
  wide = np.argsort(spread)[::-1][:3]
  candidates = {'none': found}
  for (p, q), split in itertools.product(pairs, wide):
    if split in (p, q):
      continue
    moved = np.where(found == q, p, found)
    members = np.flatnonzero(found == split)
    moved[members[halves(images[members], seed) == 1]] = q
    candidates[f'join {p} {q}, split {split}'] = moved
  rows, before = {}, None
  for name, clusters in candidates.items():
    one_hot = np.eye(10, dtype=np.float32)[clusters]
    machinery, pipeline, state = train(config, source, one_hot, 450)
    bound, _ = partitions.score(machinery, state, pipeline, one_hot, seed)
    before = bound if before is None else before
    change, error = paired_change(before, bound)
    rows[name] = {'bound_change': change, 'error': error,
                  **scores_of(source.labels, clusters)}
    print(name, rows[name], flush=True)
  best = max(rows.values(), key=lambda row: row['bound_change'])
  tried = list(rows.values())[1:]
  rank = scipy.stats.spearmanr([row['bound_change'] for row in tried],
                               [row['acc'] for row in tried]).statistic
  return {'start': {k: rows['none'][k] for k in ('acc', 'nmi', 'ari')},
          **{k: best[k] for k in ('acc', 'nmi', 'ari')}, 'moves': rows,
          'rank correlation of bound and ACC': float(rank)}


# ------------------------------------------- features of an unconditional denoiser


def denoiser_features(seed: int, workdir: pathlib.Path) -> dict:
  """Starts on features of a denoiser without clusters, beside the same on pixels."""
  config, source = load({**NO_VIEWS, 'views.num': 1, 'views.sets': 1,
                         'em.init_spaces': ('pixels',)}, seed)
  images = loop.flat_images(source, np.arange(source.num_images))
  images = images.reshape(-1, *source.image_shape)
  variables = features_lib.train(images, config)
  spaces = {'pixels': images}
  for share in (.05, .2, .5):
    spaces[f'features at {share:g} T'] = features_lib.describe(
        variables, share, source.image_shape, config)(images)
  rows = {}
  for space, values in spaces.items():
    flat = values.reshape(len(values), -1)
    flat = flat / np.std(flat)
    for name in ('kmeans', 'gaussian_mixture', 'neighbours'):
      tau = fit_start(name, flat, values.shape[1:], config)(flat, np.arange(len(flat)))
      rows[f'{space}, {name}'] = scores_of(source.labels, np.argmax(tau, axis=1))
      print(space, name, rows[f'{space}, {name}'], flush=True)
  return {**rows['features at 0.05 T, neighbours'],
          'start': rows['pixels, neighbours'], 'spaces': rows}


# ------------------------------------------------------- low-rank adapters a cluster


class AdaptedHead(ClusterHead):
  """The head, its features first changed by a matrix of low rank that mu generates."""

  rank: int = 4

  @nn.compact
  def __call__(self, features, t, mu, dropout_keys=None) -> jax.Array:
    """As `ClusterHead`, of h + B(mu) A(mu) h in place of each of the features h."""
    code = nn.silu(nn.Dense(64)(mu.reshape(len(mu), -1)))
    adapted = []
    for h in features:
      shape = (len(mu), self.rank, h.shape[-1])
      down = nn.Dense(shape[1] * shape[2])(code).reshape(shape)
      up = nn.Dense(shape[1] * shape[2],
                    kernel_init=nn.initializers.zeros)(code).reshape(shape)
      adapted.append(h + (h @ down.swapaxes(1, 2)[:, None]) @ up[:, None])
    return ClusterHead(self.channels, self.num_groups, self.dropout, self.dtype)(
        tuple(adapted), t, mu, dropout_keys)


class AdaptedUNet(SharedTrunkUNet):
  """A shared trunk with an `AdaptedHead`."""

  def setup(self):
    """Names the two parts."""
    body = self.body
    self.trunk = Trunk(body)
    self.head = AdaptedHead(body.channels * body.channel_multipliers[0], body.num_groups,
                            body.dropout, body.dtype)


def adapters(seed: int, workdir: pathlib.Path) -> dict:
  """The default fit with low-rank adapters in the head."""
  make = lambda network: AdaptedUNet(unet_from_config(network).body)
  with mock.patch.object(cddpm, 'unet_from_config', make):
    return fit({}, seed, workdir)


# ------------------------------------------------------- schedules of the posterior


def scheduled(values: dict, changes: dict, seed: int, workdir: pathlib.Path) -> dict:
  """A fit with one of SCHEDULES."""
  plain = m_step.posterior_losses

  def losses(posterior, *arguments):
    step = jnp.float32(arguments[-1])
    now = {name: first + jnp.minimum(step / NUM_STEPS, 1.) * (last - first)
           for name, (first, last) in values.items()}
    options = types.SimpleNamespace(**{**posterior.options.to_dict(), **now})
    return plain(dataclasses.replace(posterior, options=options), *arguments)

  with mock.patch.object(m_step, 'posterior_losses', losses):
    return fit(changes, seed, workdir)


FITS = {**{name: functools.partial(fit, changes) for name, changes in CHANGES.items()},
        **{name: functools.partial(fit, changes, config='cluster_ddpm_digits')
           for name, changes in LATENTS.items()},
        'over_clustered': over_clustered, 'held_out': held_out,
        'curriculum': curriculum, 'moves': moves,
        'denoiser_features': denoiser_features, 'adapters': adapters,
        **{name: functools.partial(scheduled, *what) for name, what in SCHEDULES.items()}}


# ----------------------------------------------------------------------- the table


def measure(idea: str, seed: int, out: pathlib.Path) -> dict:
  """The result of an idea, from its file if it is there."""
  path = out / f'{idea}-{seed}.json'
  if not path.exists():
    workdir = out / 'fits' / f'{idea}-{seed}'
    found = FITS[idea](seed, workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(found, indent=1) + '\n')
  return json.loads(path.read_text(encoding='utf-8'))


def table(results: dict[str, list[dict]]) -> str:
  """The Markdown table of results by idea, a list over seeds each."""
  lines = ['| idea | start ACC | start NMI | ACC | NMI | bits a dimension | seeds |',
           '|---|---|---|---|---|---|---|']
  for idea, runs in results.items():
    cells = [cell([run['start'][k] for run in runs]) for k in ('acc', 'nmi')]
    cells += [cell([run[k] for run in runs]) for k in ('acc', 'nmi')]
    bits = [run['bound_bits_per_dim'] for run in runs if 'bound_bits_per_dim' in run]
    cells += [cell(bits) if bits else '', str(len(runs))]
    lines.append(f"| {idea} | {' | '.join(cells)} |")
  return '\n'.join(lines)


def main() -> None:
  """Measures what is missing and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  known = list(FITS)
  parser.add_argument('--ideas', default=','.join(known))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/ideas'))
  args = parser.parse_args()
  ideas = args.ideas.split(',')
  for idea in ideas:
    if idea not in known:
      parser.error(f"{idea!r} is not one of {', '.join(known)}")
  seeds = [int(seed) for seed in args.seeds.split(',')]
  results = {idea: [measure(idea, seed, args.out) for seed in seeds] for idea in ideas}
  print(table(results))


if __name__ == '__main__':
  main()
