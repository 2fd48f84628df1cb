"""Advice at the end of a fit: is it right more often than not?

  python -m benchmarks.advice [--datasets=digits,mnist] [--seeds=0,1]

Question:  if the first change that a piece of advice names is made, does the NMI rise?
Time:      40 minutes of one CPU core for digits,mnist; programs are compiled mostly.
Kept:      docs/benchmarks.md, Advice.

Small fits (500 images, 8 channels) of several data sets, by good and by deliberately bad
settings. Each kind of advice that a fit gives at its end is followed to the letter: the
first change that it names, or named before this showed that it helps too seldom (then it
states a fact now), nothing else, the same seed; where it says so ('frozen'), the
run of the better bound is kept. Better: the NMI rises by more
than NOISE with every seed that gave the advice; worse: it falls by more with every one.
Labels are read by the scores alone. Every fit leaves one JSON file in DIR, and is not
repeated; programs that are compiled are kept there, too.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from benchmarks.common import add_fashion, kept, load_arrays, make_parser, markdown, names

IMAGES = 500
NOISE = .01
SMALL = {'num_clusters': 10, 'network.channels': 8, 'network.channel_multipliers': (1,),
         'network.blocks_per_level': 1, 'network.middle_attention': False,
         'diffusion.num_steps': 50, 'm_step.batch_size': 32, 'posterior.channels': 8,
         'm_step.first_num_steps': 200, 'm_step.num_steps': 60, 'em.max_iterations': 3,
         'e_step.num_draws': 8, 'start.kind': 'gaussian_mixture', 'start.restarts': 3,
         'num_devices': 1}
MONTE_CARLO = {'em.posterior': 'monte_carlo'}
LATENT = {'method': 'cluster_ddpm', 'latent.size': 8}
SETTINGS = {
    'default': {'start.kind': 'neighbours'}, 'mixture': {}, 'monte_carlo': MONTE_CARLO,
    'random': MONTE_CARLO | {'start.kind': 'random'},
    'few_steps': MONTE_CARLO | {'m_step.first_num_steps': 20, 'm_step.num_steps': 5},
    'few_draws': MONTE_CARLO | {'e_step.num_draws': 2},
    'many_clusters': MONTE_CARLO | {'num_clusters': 15},
    'fast': MONTE_CARLO | {'m_step.learning_rate': .03},
    'latents': LATENT | {'latent.weight': 1.},
}
# Kind of advice -> the option that it names first, and what becomes of its value.
FOLLOWED = {
    'frozen': ('start.kind', lambda kind: 'tsne' if kind == 'neighbours' else
               'neighbours'),
    'collapsing': ('num_clusters', lambda number: max(2, number * 3 // 4)),
    'melting': ('m_step.num_steps', lambda steps: 3 * steps),
    'contradicted': ('posterior.temper', lambda temper: temper / 3),
    'latents': ('latent.weight', lambda weight: weight / 10),
    'noisy': ('e_step.num_draws', lambda draws: 4 * draws),
    'falling': ('m_step.num_steps', lambda steps: 3 * steps),
}


def images_of(dataset: str, fashion: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """500 images uint8 and their labels: 8x8 of the digits, 14x14 of the others."""
  if dataset == 'digits':
    from sklearn.datasets import load_digits
    found = load_digits()
    images, labels = found.images.astype(np.uint8) * 15, found.target
  else:
    images, labels = load_arrays(f'{dataset}5k', fashion)
    images = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).round().astype(np.uint8)
  chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
  return images[chosen], labels[chosen]


def measure(dataset: str, changes: dict, fashion: pathlib.Path, seed: int) -> dict:
  """NMI of a fit, and the kinds of advice at its end.

  Args:
    dataset: its name.
    changes: values by option name, beside SMALL.
    fashion: the folder of Fashion-MNIST.
    seed: of the fit.
  """
  import jdiffclust
  from jdiffclust.evaluation.scores import clustering_scores
  config = jdiffclust.default_config()
  config.update_from_flattened_dict(SMALL | changes | {'seed': seed})
  images, labels = images_of(dataset, fashion)
  fitted = jdiffclust.fit(config, images)
  return {'nmi': clustering_scores(labels, fitted.clusters)['nmi'],
          'start': clustering_scores(labels, fitted.start.argmax(axis=1))['nmi'],
          'bound': float(np.mean(fitted.bound)),
          'advice': [advice.kind for advice in fitted.advice]}


def outcome(differences: list[float]) -> str:
  """'better', 'worse' or 'neither', by the changes of the NMI of one or more seeds."""
  if min(differences) > NOISE:
    return 'better'
  return 'worse' if max(differences) < -NOISE else 'neither'


def follow(dataset: str, name: str, args) -> list[tuple[str, list[float]]]:
  """What advice a setting gets, and the changes of the NMI where it is followed.

  Args:
    dataset: its name.
    name: of the setting.
    args: of the command line.
  """
  changes = SETTINGS[name]
  run = lambda key, options, seeds: kept(
      args.out, key, seeds, functools.partial(measure, dataset, options, args.fashion))
  first = run(f'{dataset}-{name}', changes, args.seeds)
  found = []
  for kind, (option, change) in FOLLOWED.items():
    seeds = [seed for seed, result in zip(args.seeds, first) if kind in result['advice']]
    if seeds:
      import jdiffclust
      config = jdiffclust.default_config()
      config.update_from_flattened_dict(SMALL | changes)
      section, *leaf = option.split('.')
      value = change(config[section][leaf[0]] if leaf else config[section])
      then = run(f'{dataset}-{name}-{kind}', changes | {option: value}, seeds)
      pairs = [(first[args.seeds.index(seed)], after) for seed, after in zip(seeds, then)]
      if kind == 'frozen':
        pairs = [(before, max(before, after, key=lambda run: run['bound']))
                 for before, after in pairs]
      found.append((kind, [after['nmi'] - before['nmi'] for before, after in pairs]))
  return found


def main() -> None:
  """Fits what is missing and prints the tables."""
  parser = make_parser(__doc__, seeds='0,1', out='runs/advice')
  parser.add_argument('--datasets', type=names(('digits', 'mnist', 'fashion')),
                      default='digits,mnist')
  parser.add_argument('--settings', type=names(SETTINGS), default=list(SETTINGS))
  add_fashion(parser)
  args = parser.parse_args()
  import jax
  jax.config.update('jax_compilation_cache_dir', str(args.out / 'programs'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  rows, totals = [], {kind: [] for kind in FOLLOWED}
  for dataset in args.datasets:
    for name in args.settings:
      for kind, differences in follow(dataset, name, args):
        totals[kind].append(outcome(differences))
        rows.append([kind, dataset, name, totals[kind][-1],
                     ', '.join(f'{value:+.3f}' for value in differences)])
  print(markdown(('advice', 'data', 'setting', 'followed', 'change of the NMI'),
                 sorted(rows)), end='\n\n')
  print(markdown(('advice', 'given and followed', 'better', 'neither', 'worse'),
                 [[kind, str(len(found)), *(str(found.count(what)) for what in (
                     'better', 'neither', 'worse'))] for kind, found in totals.items()]))


if __name__ == '__main__':
  main()
