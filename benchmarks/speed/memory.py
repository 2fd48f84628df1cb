"""Peak memory of stepwise EM at N and at 10 N images.

  python -m benchmarks.speed.memory [--images=5000] [--out=DIR]

Question:  do memory and checkpoints grow with the number of images?
Time:      some 10 minutes on two cores.
Kept:      docs/benchmarks.md, Stepwise EM.

Random 8-bit images of 8x8 in 10 clusters, a small U-Net, `em.schedule=stepwise` with a
start on 1,000 images, read by Grain; each fit in a process of its own. Beside it `batch`,
which keeps a table of N x Q responsibilities. Also the size of a run's last checkpoint.
"""

from __future__ import annotations

import pathlib

import numpy as np

from benchmarks.common import fit, make_parser, markdown
from jdiffclust import files

OPTIONS = {
    'data.source': 'npz', 'data.pipeline': 'grain', 'num_devices': 1,
    'start.kind': 'kmeans', 'start.restarts': 1, 'start.max_images': 1000,
    'em.max_iterations': 1, 'network.channels': 8, 'network.channel_multipliers': '(1,)',
    'network.middle_attention': False, 'diffusion.num_steps': 50,
    'diffusion.beta_end': .01, 'e_step.num_draws': 4, 'e_step.batch_size': 1024,
    'posterior.num_views': 0, 'm_step.first_num_steps': 20, 'sample.num_images': 1}


def measure(schedule: str, count: int, out: pathlib.Path) -> tuple[float, float]:
  """Peak memory and the size of the last checkpoint of a fit, MiB.

  Args:
    schedule: 'stepwise' or 'batch'.
    count: images.
    out: the folder of images and fits.
  """
  images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
  path, workdir = out / f'{count}.npz', out / f'{schedule}-{count}'
  with files.replacing(path) as temporary:
    np.savez(temporary, images=images)
  summary = fit('digits', {**OPTIONS, 'data.path': path, 'em.schedule': schedule},
                workdir, apart=True)
  newest = max((workdir / 'checkpoints').iterdir(), key=lambda folder: int(folder.name))
  size = sum(file.stat().st_size for file in newest.rglob('*') if file.is_file())
  return summary['peak_memory_mib'], size / 2**20


def main() -> None:
  """Runs the four fits and prints the table."""
  parser = make_parser(__doc__, out='runs/memory')
  parser.add_argument('--images', type=int, default=5000)
  args = parser.parse_args()
  rows = []
  for schedule in ('stepwise', 'batch'):
    for count in (args.images, 10 * args.images):
      peak, checkpoint = measure(schedule, count, args.out)
      rows.append([schedule, f'{count:,}', f'{peak:,.0f}', f'{checkpoint:.1f}'])
  print(markdown(('schedule', 'images', 'peak memory, MiB', 'checkpoint, MiB'), rows))


if __name__ == '__main__':
  main()
