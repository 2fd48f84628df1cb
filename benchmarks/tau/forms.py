"""The two forms of the network: what the shared trunk saves, and what it costs the bound.

  python -m benchmarks.tau.forms speed [--rounds=5] [--clusters 10 50 200]
  python -m benchmarks.tau.forms quality [--steps=450] [--seeds=0] [--clusters 10 50 200]
      [--posterior=amortised|monte_carlo] [--out=DIR]

Question:  how much faster is an E-step by a shared trunk with heads, and does the bound
           suffer?
Time:      speed some 3 minutes; quality some 5 minutes at 10 clusters, an hour at 200.
Kept:      docs/benchmarks.md, Forms of the network.

The digits, the config of configs/digits.py. `speed`: E-steps of 16 images with random
parameters, the forms in turn. `quality`: the bound of 448 images after the same steps on
the same minibatches from the same start, by the same draws; a step of the posterior
`amortised` scores all clusters. Fits in DIR already are not repeated.
"""

from __future__ import annotations

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import (
    STEPS, config_of, kept, make_parser, markdown, median_seconds, prepared, trained)
from jdiffclust.batch import Batch
from jdiffclust.clustering.starts.sample import start_of_all
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.progress import Reporter
from jdiffclust.streams import stream
from jdiffclust.training.assignment import assign_all

FORMS = ('concatenated', 'shared_trunk')


def digits_config(form: str, num_clusters: int = 10, seed: int = 0, steps: int = 1,
                  posterior: str = 'amortised'):
  """configs/digits.py with a form of the network, for training on a given partition."""
  return config_of('digits', {
      'network.conditioning': form, 'num_clusters': num_clusters, 'seed': seed,
      STEPS: steps, 'em.posterior': posterior, 'num_devices': 1})


def bound_of(form: str, num_clusters: int, steps: int, posterior: str, seed: int) -> dict:
  """The bound of images after some gradient steps on the start, and their seconds."""
  config = digits_config(form, num_clusters, seed, steps, posterior)
  source = load_source(config.data)
  began = time.perf_counter()
  method, pipeline = prepared(config, source)
  tau = start_of_all(source, config, 'neighbours', ())
  params = trained(method, pipeline, tau).ema
  seconds = time.perf_counter() - began
  chosen = np.arange(0, source.num_images, 4)[:448]
  bound = assign_all(method, params, pipeline, stream(seed, 'e_step'),
                     Reporter(quiet=True), indices=chosen).info.bound
  row = {'bound': float(bound.mean()), 'error': float(bound.std() / len(bound)**.5),
         'train_seconds': seconds}
  print(form, num_clusters, seed, json.dumps(row), flush=True)
  return row


def measure_quality(args) -> None:
  """Prints the bounds; mean over the seeds, with the error over images."""
  rows = []
  for number in args.clusters:
    cells = [str(number)]
    for form in FORMS:
      found = kept(args.out, f'{form}-{number}-{args.steps}-{args.posterior}', args.seeds,
                   functools.partial(bound_of, form, number, args.steps, args.posterior))
      mean = lambda key: np.mean([row[key] for row in found])
      cells.append(f"{mean('bound'):.2f} ± {mean('error'):.2f}")
    rows.append(cells)
  print(markdown(('Q', *FORMS), rows))


def measure_speed(args) -> None:
  """Prints the times of E-steps of random networks, and their ratio."""
  rows = []
  for number in args.clusters:
    calls = {}
    for form in FORMS:
      config = digits_config(form, number)
      source = load_source(config.data)
      method, _ = prepared(config, source)
      params = method.init_state().ema
      batch = Batch(jnp.asarray(images_at(source, range(16))),
                    jnp.arange(16, dtype=jnp.int32))
      calls[form] = lambda m=method, p=params, b=batch: jax.block_until_ready(
          m.e_step(m.e_estimator, p, b, jax.random.key(0)))
    seconds = median_seconds(calls, args.rounds)
    rows.append([str(number), *(f'{seconds[form]:.3f}' for form in FORMS),
                 f"{seconds['concatenated'] / seconds['shared_trunk']:.1f}"])
  print(markdown(('Q', *(f'{form}, s' for form in FORMS), 'ratio'), rows))


def main() -> None:
  """Runs one part."""
  parser = make_parser(__doc__, seeds='0', out='runs/forms')
  parser.add_argument('part', choices=('speed', 'quality'))
  parser.add_argument('--steps', type=int, default=450)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--posterior', choices=('amortised', 'monte_carlo'),
                      default='amortised')
  parser.add_argument('--clusters', type=int, nargs='+', default=[10, 50, 200])
  args = parser.parse_args()
  {'speed': measure_speed, 'quality': measure_quality}[args.part](args)


if __name__ == '__main__':
  main()
