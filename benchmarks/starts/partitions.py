"""Is it the search or the model? Bounds of given partitions under one network budget.

  python -m benchmarks.starts.partitions [--dataset=digits|mnist5k|fashion5k]
      [--steps=600] [--seeds=0,1,2] [--partitions=neighbours,...] [--fashion=DIR]
      [--out=DIR]

Question:  does the bound prefer the true classes to the partitions that the starts find?
Time:      some 5 minutes a seed of the digits on two cores.
Kept:      docs/tau.md, Search, or model?

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

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.clustering.methods import our_config
from benchmarks.common import (
    DATASETS, STEPS, add_fashion, cell, data_options, kept, make_parser, markdown, names,
    prepared, trained)
from jdiffclust.clustering.bound.draws import Drawing, evaluate_draws
from jdiffclust.clustering.bound.tau import Scoring, summarise
from jdiffclust.clustering.starts.sample import start_of_all
from jdiffclust.data.dataset import load_source
from jdiffclust.data.passes import over_images
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.evaluation.diagnostics import paired_change
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.registry import STARTS
from jdiffclust.sharding import replicate
from jdiffclust.streams import stream

NUM_DRAWS = 32


def config_for(dataset: str, seed: int, steps: int, options: dict):
  """A config for training on a given partition.

  Args:
    dataset: one of DATASETS.
    seed: of the config.
    steps: gradient steps.
    options: of `data_options`.
  """
  return our_config(dataset, seed, further={
      **options, 'num_devices': 1, STEPS: steps, 'em.posterior': 'monte_carlo',
      'e_step.proposal': 'weight'})  # of the bound itself, not of its differences


def one_hot(clusters, config) -> np.ndarray:
  """Responsibilities [N, Q] of cluster numbers [N]."""
  return np.eye(config.num_clusters, dtype=np.float32)[clusters]


def scorer(method, seed: int):
  """A function (state, pipeline, one-hot tau [N, Q]) -> what the draws say of the images.

  Args:
    method: a `CDDPM`.
    seed: of the draws, the same for all partitions.

  Returns:
    The function; it returns the bound [N], and the clusters [N] that the draws prefer.
  """
  options = method.config.e_step
  key = replicate_key(stream(seed, 'partitions'), method.mesh)

  @jax.jit
  def of_batch(estimator, params, batch, tau, key):
    draws = evaluate_draws(
        method.model, estimator, params, batch, key,
        Drawing(NUM_DRAWS, antithetic=True,
                clusters_per_chunk=options.clusters_per_chunk))
    of = functools.partial(summarise, estimator, params, batch.images, draws,
                           Scoring(antithetic=True))
    log_q = jnp.where(tau[batch.indices] > 0, 0., -1e9)
    return of(log_q=log_q)[1].bound, jnp.argmax(of()[0], axis=1)

  def score(state, pipeline, tau):
    table = replicate(tau, method.mesh)
    return over_images(
        lambda batch: of_batch(method.e_estimator, state.ema, batch, table, key),
        pipeline, np.arange(len(tau)), options.batch_size)

  return score


def measure(dataset: str, partitions: list[str], steps: int, options: dict,
            seed: int) -> dict:
  """A row per partition: bound, what it has over the classes' one, scores."""
  config = config_for(dataset, seed, steps, options)
  source = load_source(config.data)
  method, pipeline = prepared(config, source)
  score, rows, of_classes = scorer(method, seed), {}, None
  for name in ('classes', *partitions):
    clusters = (source.labels if name == 'classes' else
                start_of_all(source, config, name, ()).argmax(axis=1))
    tau = one_hot(clusters, config)
    bound, preferred = score(trained(method, pipeline, tau), pipeline, tau)
    of_classes = bound if of_classes is None else of_classes
    change, error = paired_change(of_classes, bound)
    rows[name] = {
        'bound_nats': float(bound.mean(dtype=np.float64)), 'over_classes': change,
        'over_classes_error': error,
        'partition': clustering_scores(source.labels, clusters),
        'preferred': clustering_scores(source.labels, preferred)}
    print(seed, name, json.dumps(rows[name]), flush=True)
  return rows


def table(runs: list[dict]) -> str:
  """The Markdown table, mean and standard deviation over seeds."""
  rows = []
  for name in runs[0]:
    found = [run[name] for run in runs]
    rows.append([name, cell([row['partition']['acc'] for row in found]),
                 cell([row['bound_nats'] for row in found], '.2f'),
                 cell([row['over_classes'] for row in found], '.2f'),
                 cell([row['preferred']['acc'] for row in found])])
  return markdown(('partition', 'ACC', 'bound, nats an image', 'over the classes',
                   'ACC after one E-step'), rows)


def main() -> None:
  """Runs the seeds and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/partitions')
  parser.add_argument('--dataset', choices=list(DATASETS), default='digits')
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--partitions', type=names(STARTS),
                      default='neighbours,gaussian_mixture,kmeans',
                      help='starts to compare with the classes')
  add_fashion(parser)
  args = parser.parse_args()
  options = data_options(args.dataset, args.out, args.fashion)
  key = '-'.join([args.dataset, str(args.steps), *args.partitions])
  print(table(kept(args.out, key, args.seeds, functools.partial(
      measure, args.dataset, args.partitions, args.steps, options))))


if __name__ == '__main__':
  main()
