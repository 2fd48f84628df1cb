"""Which programs have sums that XLA merges with a product, as jaxlib 0.10 cannot.

  python -m benchmarks.faults merged [--methods=cddpm,monte_carlo,...] [--out=DIR]

Question:  does any program of a run have the form that jaxlib 0.10 gets wrong on CPUs?
Time:      five minutes a method, on two cores.
Kept:      docs/benchmarks.md, Faults.

The fault needs a product of matrices that sums over three numbers, merged by XLA with a
sum over the two or three rows of its result, and 32,769 to 43,520 columns. Small runs on
colour images, with three clusters and latents of three numbers, so that whatever may be
three is three, have XLA write down their compiled programs: fit, prediction, samples,
evaluation and restoration. Those parts of them that its library YNNPACK computes and that
have both a product and a sum are counted by the length of the product's sums.
"""

from __future__ import annotations

import collections
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

from benchmarks.common import ROOT, make_parser, markdown, names

FAULTY = 3  # numbers that the product sums over
SMALL = (
    'num_clusters=3', 'data.channels=3', 'data.image_size=8', 'network.channels=8',
    'network.channel_multipliers=(1,2)', 'network.blocks_per_level=1',
    'diffusion.num_steps=20', 'diffusion.beta_end=.01', 'em.max_iterations=3',
    'e_step.num_draws=4', 'e_step.batch_size=32', 'm_step.num_steps=6',
    'm_step.first_num_steps=6', 'm_step.batch_size=16', 'sample.num_images=2',
    'quality.num_images=12', 'quality.splits=2', 'posterior.channels=8',
    'recognition.channels=8', 'recognition.steps=4', 'recognition.batch_size=8',
    'programs.folder=')
LATENT = ('latent.size=3', 'latent.covariance=full')
METHODS = {
    'cddpm': (), 'monte_carlo': ('em.posterior=monte_carlo',),
    'cluster_ddpm': ('method=cluster_ddpm', *LATENT),
    'latent_cddpm': ('method=latent_cddpm', 'latent.iterations=1', *LATENT),
    'sr3': ('method=sr3', 'num_clusters=1', 'sr3.factor=2')}


def make_images(folder: pathlib.Path) -> None:
  """Writes 64 noisy images of three colours, and a mask."""
  rng = np.random.default_rng(0)
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  for i in range(64):
    image = rng.normal(size=(12, 12, 3)) * 30
    image[..., i % 3] += 200
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
        folder / 'images' / f'{i}.png')
  mask = np.zeros((8, 8), np.uint8)
  mask[:4] = 255
  Image.fromarray(mask).save(folder / 'mask.png')


def run(method: str, out: pathlib.Path) -> pathlib.Path:
  """Goes through the modes; returns the folder of what XLA wrote."""
  workdir, programs = out / 'runs' / method, out / 'programs' / method
  for folder in (workdir, programs):
    shutil.rmtree(folder, ignore_errors=True)
  flags = (f'{os.environ.get("XLA_FLAGS", "")} --xla_dump_to={programs} '
           '--xla_dump_hlo_as_text --xla_backend_optimization_level=0')
  images = ('--config=folder', f'--config.data.path={out}/images')
  modes = [
      (*images, *(f'--config.{option}' for option in (*SMALL, *METHODS[method]))),
      ('--mode=predict', *images), ('--mode=sample',), ('--mode=evaluate',)]
  if method != 'sr3':
    modes.append(('--mode=restore', *images, f'--config.restore.mask={out}/mask.png',
                  '--config.restore.num_steps=20'))
  for arguments in modes:
    subprocess.run([sys.executable, '-m', 'jdiffclust.main', f'--workdir={workdir}',
                    '--quiet', *arguments], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL, env={**os.environ, 'XLA_FLAGS': flags})
  return programs


def merged(program: str) -> list[int]:
  """The lengths of the sums of products that YNNPACK computes with another sum.

  Args:
    program: the text of a compiled one.
  """
  found = []
  for name, body in re.findall(r'^%([\w.-]+) \(.*?\{\n(.*?)^\}', program, re.S | re.M):
    shapes = {left: [int(n) for n in sizes.split(',') if n] for left, sizes in re.findall(
        r'%([\w.-]+) = \w+\[([\d,]*)\]', body)}
    products = re.findall(r' dot\(%?([\w.-]+),.*?lhs_contracting_dims=\{([\d,]*)\}', body)
    # What computes it: a call whose settings name the library.
    by_library = re.search(rf'calls=%{re.escape(name)}\b.*ynn', program)
    if by_library and products and ' reduce(' in body:
      found += [math.prod(shapes[left][int(axis)] for axis in axes.split(','))
                for left, axes in products]
  return found


def main() -> None:
  """Prints a row a method."""
  parser = make_parser(__doc__, out='runs/merged')
  parser.add_argument('--methods', type=names(METHODS), default=tuple(METHODS))
  args = parser.parse_args()
  make_images(args.out)
  rows = []
  for method in args.methods:
    texts = [path.read_text(encoding='utf-8') for path in
             run(method, args.out).glob('*cpu_after_optimizations.txt')]
    lengths = collections.Counter(length for text in texts for length in merged(text))
    rows.append((method, str(len(texts)), str(sum(lengths.values())), ', '.join(
        f'{length} ({count})' for length, count in sorted(lengths.items())),
                 str(lengths[FAULTY])))
  print(markdown(('method', 'programs', 'merged', 'summed over (how many)',
                  f'over {FAULTY}'), rows))


if __name__ == '__main__':
  main()
