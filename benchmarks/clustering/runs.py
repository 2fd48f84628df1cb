"""A run: one method on one data set with one seed, in a process of its own."""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

from benchmarks.clustering.methods import (
    METHODS, NUM_CLUSTERS, OURS, our_config, settings_of)
from benchmarks.common import (
    ROOT, SCORES, commit, data_options, fit, processor, read_json, write_json)
from jdiffclust import config as config_lib
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.report.results import versions

PACKAGES = ('jdiffclust', 'jax', 'numpy', 'scikit-learn', 'umap-learn', 'clustpy',
            'torch')


class Run(NamedTuple):
  """What is run: names of DATASETS and of METHODS or OWN, and the seed."""

  dataset: str
  method: str
  seed: int

  def name(self) -> str:
    """Of its files."""
    return f'{self.dataset}-{self.method}-{self.seed}'


def fit_peer(run: Run, options: dict):
  """A function that returns the clusters [N] of a method of METHODS, and the images."""
  config = config_lib.default_config()
  config.update_from_flattened_dict(options)
  source = load_source(config.data)
  images = images_at(source, range(source.num_images)).reshape(source.num_images, -1)
  method = METHODS[run.method]
  return functools.partial(method.fit, images, run.seed, **method.settings), source


def fit_neighbours(run: Run, options: dict):
  """A function that returns the clusters [N] of our start alone, and the images."""
  # What is slow to import is imported here: it is no part of the time of the fit.
  from jdiffclust.clustering.starts import spaces  # noqa: F401
  from jdiffclust.clustering.starts.sample import start_of_all
  config = our_config(run.dataset, run.seed, further=options)
  source = load_source(config.data)
  return lambda: start_of_all(source, config, 'neighbours', ()).argmax(axis=1), source


def fit_ours(run: Run, options: dict, workdir: pathlib.Path) -> dict:
  """The result of a fit by the command, continued if it was cut off."""
  name, changed = OURS[run.method][run.dataset]
  summary = fit(name, {**changed, **options, 'seed': run.seed}, workdir, apart=True)
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return {**{score: summary[score] for score in SCORES},
          'start': {score: summary['init'][score] for score in SCORES},
          'smallest_cluster': min(summary['cluster_sizes']),
          'seconds': summary['wall_seconds'],
          'cpu_seconds': used.ru_utime + used.ru_stime,
          'devices': summary['devices']}


def measure(run: Run, out: pathlib.Path, fashion: pathlib.Path) -> dict:
  """Runs a method in this process.

  Returns:
    acc, nmi, ari, smallest_cluster (images), seconds and cpu_seconds (of the fit, with
    its compilation), and for our fits the scores of their start.
  """
  options = data_options(run.dataset, out, fashion)
  if run.method in OURS:
    return fit_ours(run, options, out / 'fits' / run.name())
  prepare = fit_neighbours if run.method == 'neighbours' else fit_peer
  clusters_of, source = prepare(run, options)
  began, cpu_began = time.perf_counter(), time.process_time()
  clusters = np.asarray(clusters_of())
  seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
  if clusters.shape != (source.num_images,) or not np.isfinite(clusters).all():
    raise ValueError(f'clusters of shape {clusters.shape}, or not finite')
  from jdiffclust.evaluation.scores import clustering_scores
  clusters = clusters.astype(np.int64)
  sizes = np.bincount(clusters, minlength=NUM_CLUSTERS)
  return {**clustering_scores(source.labels, clusters),
          'smallest_cluster': int(sizes.min()), 'seconds': seconds,
          'cpu_seconds': cpu_seconds}


def pinned(threads: int) -> dict[str, str]:
  """The environment in which all libraries use so many threads."""
  names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS',
           'NUMBA_NUM_THREADS', 'LOKY_MAX_CPU_COUNT',
           'NPROC')  # the size of XLA's pools of threads
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen="
  return {**os.environ, **dict.fromkeys(names, str(threads)),
          'XLA_FLAGS': flags + ('true' if threads > 1 else 'false')}


def run_here(run: Run, args: argparse.Namespace) -> None:
  """Runs a method in this process and writes its one JSON file."""
  about = describe(run, args.threads)  # first: a config may be edited while it runs
  write_result(run, args.out, about | measure(run, args.out, args.fashion))


def run_apart(run: Run, args: argparse.Namespace) -> dict:
  """Runs a method in a process of its own; a failure is a result with an 'error'."""
  about = describe(run, args.threads)
  log = args.out / 'logs' / f'{run.name()}.txt'
  log.parent.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, '-m', 'benchmarks.clustering',
             f'--one={",".join(map(str, run))}', f'--out={args.out}',
             f'--fashion={args.fashion}', f'--threads={args.threads}']
  with open(log, 'w', encoding='utf-8') as file:
    process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT,
                               env=pinned(args.threads), start_new_session=True)
    try:
      code = process.wait(args.timeout)
      error = None if code == 0 else last_line(log) or f'exit code {code}'
    except subprocess.TimeoutExpired:
      error = f'time limit of {args.timeout:g} s'
    finally:  # also when we are stopped: its children go with it
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
  if error:
    write_result(run, args.out, about | {'error': error})
  return read_result(run, args.out)


def last_line(log: pathlib.Path) -> str:
  """The last line of a log that is not empty, of bounded length."""
  lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
  return next((line.strip()[:200] for line in reversed(lines) if line.strip()), '')


def describe(run: Run, threads: int) -> dict:
  """What a result belongs to."""
  return {**run._asdict(), 'threads': threads,
          'settings': settings_of(run.dataset, run.method),
          'versions': versions(PACKAGES), 'commit': commit(), 'processor': processor()}


def write_result(run: Run, out: pathlib.Path, result: dict) -> None:
  """Writes the file of a run."""
  write_json(out / 'runs' / f'{run.name()}.json', result)


def read_result(run: Run, out: pathlib.Path) -> dict | None:
  """What the file of a run says, or None."""
  return read_json(out / 'runs' / f'{run.name()}.json')


def cached(run: Run, out: pathlib.Path, threads: int) -> dict | None:
  """The result of a run if there is one with all of today's settings and threads.

  Options that came later count, too: nothing says what there was in their place.
  """
  found, about = read_result(run, out), describe(run, threads)
  return found if found and all(found[name] == about[name]
                                for name in ('threads', 'settings')) else None
