"""Which maps leave the images' content alone: how often the rule errs, what views gain.

  python -m benchmarks.starts.symmetries [--sets=digits,mnist5k,fashion5k,strokes,...]
      [--sizes=100,200,400,1000] [--seeds=0,1,...,19] [--gain] [--fashion=DIR] [--out=DIR]

Question:  how often are mirroring, turning upside down and quarter turns taken for
           symmetries where they are none, or not where they are; and what are they, and
           colours, worth to the start?
Time:      5 minutes of one core; with --gain (the first two seeds) 5 more.
Kept:      docs/benchmarks.md, Symmetries.

Every seed takes other images out of a set, or draws the set anew (`clustering.made`).
That a map is no symmetry of digits, letters or clothes is our knowledge, as are the
symmetries of the sets that are made here; the rule sees neither these nor labels.
"""

from __future__ import annotations

import argparse
import collections
import functools
import time

import numpy as np

from benchmarks.clustering import made
from benchmarks.common import (
    add_fashion, cell, data_options, integers, kept, make_parser, markdown, names)
from benchmarks.starts.synthetic import Labelled
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.config import default_config
from jdiffclust.data import symmetry
from jdiffclust.data.dataset import array_source, images_at, load_source
from jdiffclust.evaluation.scores import clustering_scores

# The maps that are symmetries of each set.
TRUTH = {'digits': (), 'mnist5k': (), 'fashion5k': (), 'strokes': ('flip',),
         'textures': tuple(symmetry.MAPS), 'shapes': ('flip',)}
GAIN_IMAGES, GAIN_SEEDS, GAIN_SIDE = 1500, 2, 16
# What the start is tried with: views, spaces.
NONE = dict.fromkeys(symmetry.MAPS, 0.)
VARIANTS = {'no symmetry, without colours': (NONE, ('pixels', 'edges')),
            'found, without colours': ({}, ('pixels', 'edges')),
            'found, with colours': ({}, ('pixels', 'edges', 'colours'))}


def images_of(name: str, options: dict, seed: int) -> Labelled:
  """A set in an order of the seed.

  Args:
    name: one of TRUTH.
    options: of `data_options`, for those that are not made here.
    seed: of the order, or of the set.
  """
  if name in made.SETS:
    return made.draw(name, seed)
  config = default_config()
  config.update_from_flattened_dict(options)
  source = load_source(config.data)
  order = np.random.default_rng(seed).permutation(source.num_images)
  return Labelled(images_at(source, order), source.labels[order])


def measure(name: str, sizes: list[int], options: dict, seed: int) -> dict:
  """What is found, by number of images (0: all) and by map; and CPU seconds for all."""
  images = images_of(name, options, seed).images
  began = time.process_time()
  found = {0: symmetry.as_dict(symmetry.find(images))}
  seconds = time.process_time() - began
  found |= {size: symmetry.as_dict(symmetry.find(images[:size])) for size in sizes}
  return {'found': found, 'cpu_seconds': seconds}


def gain(name: str, options: dict, seed: int) -> dict:
  """Scores of the start by the VARIANTS, on 1,500 images at 16x16."""
  images, labels = images_of(name, options, seed)
  images, labels = images[:GAIN_IMAGES], labels[:GAIN_IMAGES]
  data = default_config().data
  if images.shape[1] > GAIN_SIDE:
    data.image_size = GAIN_SIDE
    images = images_at(array_source(made.stored(images), data), range(len(images)))
  rows = images.reshape(len(images), -1)
  scores = {}
  for variant, (views, spaces) in VARIANTS.items():
    config = default_config()
    config.update(num_clusters=int(labels.max()) + 1, seed=seed)
    config.views.update(views)
    config.start.spaces = spaces
    assign = fit_start('neighbours', rows, images.shape[1:], config)
    scores[variant] = clustering_scores(labels, assign(rows, None).argmax(axis=1))
  return scores


def errors(results: dict[str, list[dict]], size: int) -> list[str]:
  """The cells of a number of images: errors of either kind, and where the first occur."""
  found = [(f'{name} {by}', by in TRUTH[name], one['holds'])
           for name, runs in results.items() for run in runs
           for by, one in run['found'][str(size)].items()]
  false = collections.Counter(what for what, truth, holds in found if holds > truth)
  missed = collections.Counter(what for what, truth, holds in found if holds < truth)
  true = sum(truth for _, truth, _ in found)
  texts = [', '.join(f'{what} ({times}x)' for what, times in some.items()) or '–'
           for some in (false, missed)]
  return [f'{size:,}' if size else 'all, at most 2,000',
          f'{false.total()} of {len(found) - true}', f'{missed.total()} of {true}',
          *texts]


def statistics_of(name: str, by: str, runs: list[dict]) -> list[str]:
  """The cells of a map on all images of a set: mean ± standard deviation over seeds."""
  found = [one['found']['0'][by] for one in runs if by in one['found']['0']]
  return [name, symmetry.MAPS[by].text,
          *(cell([one[key] for one in found]) for key in ('ratio', 'nearer', 'share')),
          cell([one['error'] for one in found][:1]),
          f"{sum(one['holds'] for one in found)} of {len(found)}"]


def main() -> None:
  """Runs what is missing, prints the tables."""
  parser = make_parser(__doc__, seeds=','.join(map(str, range(20))),
                       out='runs/symmetries')
  parser.add_argument('--sets', type=names(TRUTH), default=list(TRUTH))
  parser.add_argument('--sizes', type=integers, default=[50, 100, 200, 400, 1000])
  parser.add_argument('--gain', action=argparse.BooleanOptionalAction, default=False)
  add_fashion(parser)
  args = parser.parse_args()
  options = {name: {} if name in made.SETS else data_options(
      name, args.out, args.fashion) for name in args.sets}
  results = {name: kept(args.out, '-'.join([name, *map(str, args.sizes)]), args.seeds,
                        functools.partial(measure, name, args.sizes, options[name]))
             for name in args.sets}
  print(markdown(('images', 'map', 'ratio', 'nearer', 'share', 'its error', 'taken for'),
                 [statistics_of(name, by, runs) for name, runs in results.items()
                  for by in symmetry.MAPS]))
  head = ('images', 'falsely found', 'missed', 'where falsely', 'where missed')
  print('\n' + markdown(head, [errors(results, size) for size in (*args.sizes, 0)]))
  if args.gain:
    rows = []
    for name in args.sets:
      runs = kept(args.out, f'gain-{name}', args.seeds[:GAIN_SEEDS],
                  functools.partial(gain, name, options[name]))
      rows += [[name, variant, *(cell([run[variant][score] for run in runs])
                                 for score in ('acc', 'nmi'))] for variant in VARIANTS]
    print('\n' + markdown(('images', 'the start', 'ACC', 'NMI'), rows))


if __name__ == '__main__':
  main()
