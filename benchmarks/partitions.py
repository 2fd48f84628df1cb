"""Is it the search or the model? Bounds of given partitions under one network budget.

  python -m benchmarks.partitions [--dataset=digits|npz:FILE] [--steps=600]
      [--seeds=0,1,2] [--partitions=neighbours,...] [--out=DIR]

For each seed and each partition (the true classes, the start from neighbourhoods, a
likely Gaussian mixture, K-means) the same denoiser, from the same first weights, with
the same minibatches and noise, is trained on that partition alone; then the exact bound
of that partition is estimated from the same draws for all, 32 a cluster. Labels are used
as one of the partitions, for this diagnosis, and to score what the bound prefers; they
choose nothing.

Where the classes have the better bound, searching harder can find them; where another
partition has, no search can: the bound must measure something else.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.clustering.table import cell
from configs.digits import get_config as digits_config
from configs.folder import get_config as folder_config
from jdiffclust import files
from jdiffclust.clustering.e_step import evaluate_draws, summarise
from jdiffclust.clustering.initialise import fit_start
from jdiffclust.data.dataset import load_source
from jdiffclust.data.pipelines import make_pipeline, replicate_key
from jdiffclust.evaluation.clustering import clustering_scores
from jdiffclust.evaluation.diagnostics import paired_change
from jdiffclust.sharding import make_mesh, replicate, to_host
from jdiffclust.streams import stream
from jdiffclust.training import loop, trial
from jdiffclust.training.methods import build

NUM_DRAWS = 32


def config_of(dataset: str, seed: int, steps: int):
  """The config of a data set, for training on a table of responsibilities."""
  if dataset == 'digits':
    config = digits_config()
  else:
    config = folder_config()
    config.num_clusters, config.data.channels = 10, 1
    config.data.source, config.data.path = 'npz', dataset.removeprefix('npz:')
  config.seed, config.num_devices = seed, 1
  config.em.posterior, config.em.init_trial_steps = 'monte_carlo', steps
  config.e_step.proposal = 'weight'  # of the bound itself, not of its differences
  return config


def partitions(source, config, names) -> dict[str, np.ndarray]:
  """One-hot responsibilities [N, Q] by name, the classes first."""
  images = loop.flat_images(source, np.arange(source.num_images))
  found = {'classes': source.labels}
  for name in names:
    assign = fit_start(name, images, source.image_shape, config)
    found[name] = assign(images, np.arange(len(images))).argmax(axis=1)
  return {name: np.eye(config.num_clusters, dtype=np.float32)[clusters]
          for name, clusters in found.items()}


def score(machinery, state, pipeline, tau, seed: int):
  """The bound [N] of one-hot responsibilities, and the clusters the draws prefer [N]."""
  options = machinery.config.e_step

  @jax.jit
  def bound(estimator, params, batch, log_q, key):
    draws = evaluate_draws(
        machinery.model, estimator, params, batch, key, num_draws=NUM_DRAWS,
        stratify=True, antithetic=True, share_draws=True,
        clusters_per_chunk=options.clusters_per_chunk, draws_per_chunk=1)
    decides = {'weighting': 'elbo', 'temperature': 1., 'antithetic': True}
    of = lambda **kw: summarise(estimator, params, batch.images, draws, **decides, **kw)
    return of(log_q=log_q)[1].bound, jnp.argmax(of()[0], axis=1)

  key = replicate_key(stream(seed, 'partitions'), machinery.mesh)
  parts = []
  for batch, valid in pipeline.ordered(np.arange(len(tau)), options.batch_size):
    log_q = jnp.where(jnp.asarray(tau)[batch.indices] > 0, 0., -1e9)
    parts.append([np.asarray(a)[:valid] for a in bound(
        machinery.e_estimator, state.ema, batch, log_q, key)])
  return [np.concatenate(part) for part in zip(*parts)]


def measure(dataset: str, seed: int, steps: int, names) -> dict:
  """A row per partition: bound, what it lacks to the classes, scores."""
  config = config_of(dataset, seed, steps)
  source = load_source(config.data)
  mesh = make_mesh(1)
  machinery = build(config, source.image_shape, source.levels, mesh)
  pipeline = make_pipeline(source, config.data, config.m_step.batch_size, seed, mesh)
  tracked, rows, of_classes = np.arange(source.num_images), {}, None
  for name, tau in partitions(source, config, names).items():
    state = trial.short_fit(machinery, pipeline, tracked, replicate(tau, mesh),
                            lambda table: table)
    bound, preferred = score(machinery, state, pipeline, tau, seed)
    of_classes = bound if of_classes is None else of_classes
    change, error = paired_change(of_classes, bound)
    rows[name] = {
        'bound_nats': float(bound.mean(dtype=np.float64)), 'over_classes': change,
        'over_classes_error': error,
        'partition': clustering_scores(source.labels, to_host(tau).argmax(axis=1)),
        'preferred': clustering_scores(source.labels, preferred)}
    print(seed, name, json.dumps(rows[name]), flush=True)
  return rows


def table(runs: list[dict]) -> str:
  """The Markdown table, mean and standard deviation over seeds."""
  lines = ['| partition | ACC | bound, nats an image | over the classes | ACC after one '
           'E-step |', '|---|---|---|---|---|']
  for name in runs[0]:
    rows = [run[name] for run in runs]
    lines.append(' | '.join([
        f'| {name}', cell([row['partition']['acc'] for row in rows]),
        cell([row['bound_nats'] for row in rows], '.2f'),
        cell([row['over_classes'] for row in rows], '.2f'),
        cell([row['preferred']['acc'] for row in rows]) + ' |']))
  return '\n'.join(lines)


def main():
  """Runs the seeds and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--dataset', default='digits')
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--partitions', default='neighbours,gaussian_mixture,kmeans',
                      help='starts to compare with the classes')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/partitions'))
  args = parser.parse_args()
  runs = [measure(args.dataset, int(seed), args.steps, args.partitions.split(','))
          for seed in args.seeds.split(',')]
  args.out.mkdir(parents=True, exist_ok=True)
  name = args.dataset if args.dataset == 'digits' else pathlib.Path(args.dataset).stem
  files.write_text(args.out / f'{name}.json', json.dumps(runs, indent=1) + '\n')
  print(table(runs))


if __name__ == '__main__':
  main()
