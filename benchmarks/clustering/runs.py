"""A run: one method on one data set with one seed, in a process of its own."""

from __future__ import annotations

import argparse
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
    ALONE, METHODS, OURS, our_config, peer_settings, settings_of)
from benchmarks.common import (
    CLASSES, ROOT, SCORES, commit, data_options, fit, processor, read_json, write_json)
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


# Runs that share what is slow: whichever is asked for, the results of all are kept.
TOGETHER = ('recognition', 'network_kmeans')


def runs_with(run: Run) -> list[Run]:
  """The runs whose results one process makes, `run` among them."""
  return [run._replace(method=method)
          for method in (TOGETHER if run.method in TOGETHER else (run.method,))]


def fit_peer(run: Run, options: dict) -> dict[str, dict]:
  """The result of a method of METHODS, by its name."""
  config = config_lib.default_config()
  config.update_from_flattened_dict(options)
  source = load_source(config.data)
  images = images_at(source, range(source.num_images)).reshape(source.num_images, -1)
  num_clusters = CLASSES[run.dataset]
  settings = peer_settings(run.method, num_clusters)
  began, cpu_began = time.perf_counter(), time.process_time()
  clusters = METHODS[run.method].fit(images, num_clusters, run.seed, **settings)
  seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
  return {run.method: result_of(clusters, source, run, seconds, cpu_seconds)}


def fit_alone(run: Run, options: dict) -> dict[str, dict]:
  """The results of one of our starts alone, by name of ALONE."""
  from benchmarks.clustering.alone import FITS
  from jdiffclust.fitted import finest_of
  config = our_config(run.dataset, run.seed, run.method, options)
  source = load_source(config.data, finest=finest_of(config))
  return {method: result_of(found.clusters, source, run, found.seconds,
                            found.cpu_seconds)
          for method, found in FITS[run.method](source, config).items()}


def result_of(clusters, source, run: Run, seconds: float, cpu_seconds: float) -> dict:
  """The scores of clusters [N], the smallest one's size, and the times of the fit."""
  clusters = np.asarray(clusters)
  if clusters.shape != (source.num_images,) or not np.isfinite(clusters).all():
    raise ValueError(f'clusters of shape {clusters.shape}, or not finite')
  from jdiffclust.evaluation.scores import clustering_scores
  clusters = clusters.astype(np.int64)
  sizes = np.bincount(clusters, minlength=CLASSES[run.dataset])
  return {**clustering_scores(source.labels, clusters),
          'smallest_cluster': int(sizes.min()), 'num_found': int((sizes > 0).sum()),
          'seconds': float(seconds), 'cpu_seconds': float(cpu_seconds)}


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


def measure(run: Run, args: argparse.Namespace) -> dict[str, dict]:
  """Runs a method in this process, and those that share its work (`runs_with`).

  Returns:
    By method: acc, nmi, ari, smallest_cluster (images), num_found (clusters that are not
    empty), seconds and cpu_seconds (of the fit, with its compilation), and for our fits
    the scores of their start.
  """
  options = data_options(run.dataset, args.out, args.fashion, args.mnist)
  if run.method in OURS:
    return {run.method: fit_ours(run, options, args.out / 'fits' / run.name())}
  return (fit_alone if run.method in ALONE else fit_peer)(run, options)


def pinned(threads: int) -> dict[str, str]:
  """The environment in which all libraries use so many threads."""
  names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS',
           'NUMBA_NUM_THREADS', 'LOKY_MAX_CPU_COUNT',
           'NPROC')  # the size of XLA's pools of threads
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen="
  return {**os.environ, **dict.fromkeys(names, str(threads)),
          'XLA_FLAGS': flags + ('true' if threads > 1 else 'false')}


def run_here(run: Run, args: argparse.Namespace) -> None:
  """Runs a method in this process and writes its JSON file, as of `measure`."""
  # First: a config may be edited while it runs.
  abouts = {one.method: (one, describe(one, args.threads)) for one in runs_with(run)}
  for method, result in measure(run, args).items():
    one, about = abouts[method]
    write_result(one, args.out, about | result)


def run_apart(run: Run, args: argparse.Namespace) -> dict:
  """Runs a method in a process of its own; a failure is a result with an 'error'."""
  about = describe(run, args.threads)
  log = args.out / 'logs' / f'{run.name()}.txt'
  log.parent.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, '-m', 'benchmarks.clustering',
             f'--one={",".join(map(str, run))}', f'--out={args.out}',
             f'--fashion={args.fashion}', f'--mnist={args.mnist}',
             f'--threads={args.threads}']
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
