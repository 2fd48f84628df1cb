"""Memory and waiting of stepwise EM on images that stay on disk, at N and at 10 N.

  python -m benchmarks.speed.stepwise [--images=100000] [--steps=40] [--out=DIR]

Question:  does the memory of gradient steps grow with the number of images, and how long
           do they wait for images to be read?
Time:      2 minutes of one core.
Kept:      docs/benchmarks.md, Stepwise EM.

Random 8-bit images of 16x16 in an IDX file, in 10 clusters; a small U-Net,
`em.schedule=stepwise`, read by Grain, tau of 1,000 images known; each in a process of its
own, to the end of the gradient steps. Peaks of memory with the file's pages, which the
kernel takes back when it needs them, and without. (A whole fit ends with the results of
all images, which grow with their number: `benchmarks.speed.memory`.)
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import psutil

from benchmarks.common import config_of, make_parser, markdown, prepared
from jdiffclust import files

SIDE, TRACKED, BLOCK = 16, 1000, 10000
OPTIONS = {
    'num_clusters': 10, 'data.source': 'idx', 'data.image_size': 0,
    'data.pipeline': 'grain', 'num_devices': 1, 'em.schedule': 'stepwise',
    'start.max_images': TRACKED, 'network.channels': 8, 'posterior.channels': 8,
    'network.channel_multipliers': (1, 2), 'network.middle_attention': False,
    'm_step.batch_size': 64}


def write(path: pathlib.Path, count: int) -> None:
  """Writes random images as an IDX file, block by block."""
  rng = np.random.default_rng(0)
  with files.replacing(path) as temporary, open(temporary, 'wb') as file:
    file.write(b'\0\0\x08\x03' + np.array([count, SIDE, SIDE], '>u4').tobytes())
    for start in range(0, count, BLOCK):
      file.write(rng.bytes(min(BLOCK, count - start) * SIDE**2))


class Memory(threading.Thread):
  """Looks at the memory of this process until it is stopped.

  Attributes:
    whole: the most that was resident, MiB.
    own: the same without pages of files.
  """

  def __init__(self):
    """Starts to look."""
    super().__init__(daemon=True)
    self.whole = self.own = 0.
    self._ended = threading.Event()
    self.start()

  def run(self):
    """Looks, twenty times a second."""
    process = psutil.Process()
    while not self._ended.wait(.05):
      found = process.memory_info()
      self.whole = max(self.whole, found.rss / 2**20)
      self.own = max(self.own, (found.rss - found.shared) / 2**20)

  def stop(self):
    """Looks no more."""
    self._ended.set()
    self.join()


def measure(path: pathlib.Path, steps: int) -> dict[str, float]:
  """Reads, trains, and tells what it took."""
  import jax

  from jdiffclust.clustering.starts.sample import tracked_images
  from jdiffclust.clustering.table import SampleTable
  from jdiffclust.config import SYMMETRIES
  from jdiffclust.data.dataset import load_source
  from jdiffclust.data.fingerprint import fingerprint
  memory = Memory()
  config = config_of('folder', {**OPTIONS, 'data.path': str(path),
                                **dict.fromkeys(SYMMETRIES, 0.)})
  source = load_source(config.data)
  fingerprint(source)  # as a run does when it begins
  method, pipeline = prepared(config, source)
  tracked = tracked_images(source.num_images, config).astype(np.int32)
  tau = np.full((len(tracked), config.num_clusters), 1 / config.num_clusters, np.float32)
  state = method.before_m_step(method.init_state(), pipeline, tracked, tau)
  table, key = SampleTable(tracked, tau), jax.random.key(0)
  began = None
  for batch in itertools.islice(pipeline.training(0), steps + 1):
    state, info = method.m_step(state, batch, table, key)
    if began is None:  # it was compiled
      info.loss.block_until_ready()
      began = time.perf_counter()
  info.loss.block_until_ready()
  seconds = time.perf_counter() - began
  memory.stop()
  return {'whole': memory.whole, 'own': memory.own, 'waited': pipeline.waiting_share,
          'rate': steps * config.m_step.batch_size / seconds}


def main() -> None:
  """Measures N and 10 N images, prints the table."""
  parser = make_parser(__doc__, out='runs/stepwise')
  parser.add_argument('--images', type=int, default=100000)
  parser.add_argument('--steps', type=int, default=40)
  parser.add_argument('--child', type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    print(json.dumps(measure(args.child, args.steps)))
    return
  rows = []
  for count in (args.images, 10 * args.images):
    path = args.out / f'{count}-images-idx3-ubyte'
    if not path.exists():
      write(path, count)
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.speed.stepwise', f'--child={path}',
         f'--steps={args.steps}'], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rows.append([f'{count:,}', f"{path.stat().st_size / 2**20:,.0f}",
                 f"{found['own']:,.0f}", f"{found['whole']:,.0f}",
                 f"{found['rate']:,.0f}", f"{found['waited']:.1%}"])
  print(markdown(('images', 'file, MiB', 'peak memory without pages of files, MiB',
                  'with them', 'images/s', 'waited for reading'), rows))


if __name__ == '__main__':
  main()
