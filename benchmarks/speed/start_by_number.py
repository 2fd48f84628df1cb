"""What the start costs by the number of images, part by part.

  python -m benchmarks.speed.start_by_number [--numbers=5000,20000,70000,200000]
      [--kinds=neighbours,recognition] [--searches=default,exact,graph] [--fashion=DIR]
      [--out=DIR]

Question:  how do seconds and memory of the start grow, which part is the dearest, and
           does the graph that is searched beyond 20,000 images change what is found?
Time:      CPU minutes of one core, neighbours: half a one at 5,000 images, 2 at 20,000;
           recognition: 4 at 5,000. Larger runs have not been timed whole.
Kept:      docs/benchmarks.md, The start by number.

Images of Fashion-MNIST, 28x28, as many as are asked for, drawn at random; beyond the
70,000 that there are, random views of them (the section `views`). The default start, and
`start.kind=neighbours`, each in a process of its own; as it is, with each image compared
with each (`exact`), or with the graph throughout (`graph`). Reported: CPU seconds of all
threads, whole and by part; peak memory; ACC and NMI; and the NMI of the clusters with
those of the exact search. Each run leaves files in DIR and is not repeated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import itertools
import pathlib
import pkgutil
import resource
import subprocess
import sys
import time
from unittest import mock

import numpy as np

from benchmarks.common import (
    add_fashion, commit, config_of, folder, integers, load_arrays, make_parser, markdown,
    names, processor, read_json, write_json)
from jdiffclust.evaluation.scores import clustering_scores

KINDS = ('neighbours', 'recognition')
# Images up to which each is compared with each; the default's: None.
SEARCHES = {'default': None, 'exact': 10**9, 'graph': 0}
MODULES = 'jdiffclust.clustering.starts'
PARTS = {
    'near images': f'{MODULES}.neighbours.nearest',
    'views': f'{MODULES}.neighbours.squares_over_views',
    'distances': f'{MODULES}.neighbours.NeighbourDistances.__init__',
    'eigenvectors': f'{MODULES}.neighbours.spectral_embedding',
    'K-means': f'{MODULES}.neighbours.k_means',
    'training': f'{MODULES}.recognition.train',
    'features': f'{MODULES}.recognition.over_views',
}
COPIED = 1000  # images of which views are drawn at once


def timed(function, name: str, seconds: collections.Counter):
  """A function that adds the CPU seconds it takes to those of a name."""
  @functools.wraps(function)
  def call(*args, **kwargs):
    began = time.process_time()
    try:
      return function(*args, **kwargs)
    finally:
      seconds[name] += time.process_time() - began
  return call


def drawn(number: int, fashion: pathlib.Path, views) -> tuple[np.ndarray, np.ndarray]:
  """Images float32 [number, 28, 28, 1] in [-1, 1], and their labels.

  Args:
    number: of images.
    fashion: the folder of the four files of Fashion-MNIST.
    views: the section of a config, of the copies.
  """
  import jax

  from jdiffclust.data.views import random_views
  images, labels = load_arrays('fashion', fashion)
  rng = np.random.default_rng(0)
  rows = rng.permutation(len(images))[:number]
  images = images[..., None] / np.float32(127.5) - 1
  copied = rng.integers(len(images), size=number - len(rows))
  found = np.empty((number, *images.shape[1:]), np.float32)
  found[:len(rows)] = images[rows]
  draw = jax.jit(lambda images, keys: random_views(images, keys, views))
  for start in range(0, len(copied), COPIED):
    of = copied[start:start + COPIED]
    keys = jax.random.split(jax.random.key(start), len(of))
    found[len(rows) + start:][:len(of)] = draw(images[of], keys)
  return found, labels[np.concatenate([rows, copied])]


def measure(number: int, kind: str, search: str, fashion: pathlib.Path) -> dict:
  """One start: its clusters, CPU and other seconds, peak memory, scores."""
  from jdiffclust.clustering.starts import candidates
  from jdiffclust.clustering.starts.fit import fit_start
  from jdiffclust.config import SYMMETRIES
  config = config_of('folder', {'num_clusters': 10})
  still = config_of('folder', dict.fromkeys(SYMMETRIES, 0.))  # copies are not mirrored
  images, labels = drawn(number, fashion, still.views)
  flat, seconds = images.reshape(number, -1), collections.Counter()
  with contextlib.ExitStack() as stack:
    for name, place in PARTS.items():
      stack.enter_context(mock.patch(
          place, timed(pkgutil.resolve_name(place), name, seconds)))
    if SEARCHES[search] is not None:
      stack.enter_context(mock.patch.object(candidates, 'EXACT', SEARCHES[search]))
    began, worked = time.perf_counter(), time.process_time()
    tau = fit_start(kind, flat, images.shape[1:], config)(flat, np.arange(number))
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
  clusters = tau.argmax(axis=1)
  scores = clustering_scores(labels, clusters)
  return {'cpu_seconds': cpu, 'seconds': wall, 'parts': dict(seconds),
          'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
          'acc': scores['acc'], 'nmi': scores['nmi'], 'commit': commit(),
          'processor': processor(), 'clusters': clusters.tolist()}


def result(path: pathlib.Path, case: tuple, fashion: pathlib.Path) -> dict:
  """What is in a file of a run, which a process of its own makes if it is not there."""
  if not path.exists():
    subprocess.run(
        [sys.executable, '-m', 'benchmarks.speed.start_by_number',
         f"--child={','.join(map(str, case))}", f'--file={path}', f'--fashion={fashion}'],
        check=True)
  return read_json(path)


def main() -> None:
  """Runs what is missing, each run in a process of its own; prints the tables."""
  parser = make_parser(__doc__, out='runs/start_by_number')
  parser.add_argument('--numbers', type=integers, default='5000,20000,70000,200000')
  parser.add_argument('--kinds', type=names(KINDS), default=','.join(KINDS))
  parser.add_argument('--searches', type=names(SEARCHES), default='default')
  add_fashion(parser)
  parser.add_argument('--child', help=argparse.SUPPRESS)
  parser.add_argument('--file', type=folder, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    number, kind, search = args.child.split(',')
    write_json(args.file, measure(int(number), kind, search, args.fashion))
    return
  rows = []
  for kind, number, search in itertools.product(args.kinds, args.numbers, args.searches):
    path = args.out / f'{kind}-{number}-{search}.json'
    run = result(path, (number, kind, search), args.fashion)
    exact = read_json(args.out / f'{kind}-{number}-exact.json')
    same = '' if exact is None or search == 'exact' else (
        f"{clustering_scores(exact['clusters'], run['clusters'])['nmi']:.4f}")
    parts = [run['parts'].get(name, 0.) for name in PARTS]
    rows.append([kind, f'{number:,}', search, f"{run['cpu_seconds']:,.0f}",
                 *(f'{part:,.0f}' for part in (*parts, run['cpu_seconds'] - sum(parts))),
                 f"{run['peak_mib']:,.0f}", f"{run['acc']:.3f} / {run['nmi']:.3f}", same])
  print(markdown(('start', 'images', 'search', 'CPU s', *PARTS, 'rest', 'peak MiB',
                  'ACC / NMI', 'NMI with exact'), rows))


if __name__ == '__main__':
  main()
