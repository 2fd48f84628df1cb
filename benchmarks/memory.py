"""Peak memory of stepwise EM at N and at 10 N images.

  python -m benchmarks.memory [--images=5000] [--out=DIR]

Random 8-bit images of 8x8 in 10 clusters, a small U-Net, `em.schedule=stepwise` with a
start on 1,000 images, read by Grain; each fit in a process of its own. Beside it `batch`,
which keeps a table of N x Q responsibilities. Also the size of a run's last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

OPTIONS = (
    'data.source=npz', 'data.pipeline=grain', 'num_devices=1',
    'em.init=kmeans', 'em.init_restarts=1', 'em.init_max_images=1000',
    'em.max_iterations=1', 'network.channels=8', 'network.channel_multipliers=(1,)',
    'network.middle_attention=False', 'diffusion.num_steps=50', 'diffusion.beta_end=.01',
    'e_step.num_draws=4', 'e_step.batch_size=1024', 'posterior.num_views=0',
    'm_step.first_num_steps=20', 'sample.num_images=1')


def fit(schedule: str, count: int, out: pathlib.Path) -> dict:
  """Peak memory (MiB) and checkpoint size (MiB) of a fit of `count` images."""
  images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
  path, workdir = out / f'{count}.npz', out / f'{schedule}-{count}'
  np.savez(path, images=images)
  subprocess.run(
      [sys.executable, '-m', 'jdiffclust.main', '--config=configs/digits.py', '--quiet',
       f'--workdir={workdir}', f'--config.data.path={path}',
       f'--config.em.schedule={schedule}',
       *(f'--config.{option}' for option in OPTIONS)], check=True)
  newest = max((workdir / 'checkpoints').iterdir(), key=lambda folder: int(folder.name))
  size = sum(file.stat().st_size for file in newest.rglob('*') if file.is_file())
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  return {'peak': summary['peak_memory_mib'], 'checkpoint': size / 2**20}


def main():
  """Runs the four fits and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--images', type=int, default=5000)
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/memory'))
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  print('| schedule | images | peak memory, MiB | checkpoint, MiB |\n|---|---|---|---|')
  for schedule in ('stepwise', 'batch'):
    for count in (args.images, 10 * args.images):
      found = fit(schedule, count, args.out)
      print(f"| {schedule} | {count:,} | {found['peak']:,.0f} | "
            f"{found['checkpoint']:.1f} |", flush=True)


if __name__ == '__main__':
  main()
