"""A sign of clusters: is it seen where there are some, and not where there are none?

  python -m benchmarks.starts.sign [--sets=noise,fields,disc,shapes,glyphs,digits]
      [--seeds=0,1,2,3] [--out=DIR]

Question:  how far do halves of the images agree on clusters, beside images without any?
Time:      a minute and a half of two cores.
Kept:      docs/benchmarks.md, A sign of clusters.

Without clusters: noise; fields, smooth Gaussian ones of spectrum 1/f, scaled to the same
largest value; disc, one disc of varying place and size. With some: 4 shapes, 7 glyphs
(`benchmarks.starts.synthetic`), 800 of the digits. Without clusters 5 are asked for, else
as many as there are. Every seed draws the images anew.
"""

from __future__ import annotations

import functools

import numpy as np

from benchmarks.common import kept, make_parser, markdown, names
from benchmarks.starts.synthetic import GLYPHS, SHAPES, draw
from jdiffclust.clustering.starts.agreement import sign_of
from jdiffclust.config import default_config

SIDE, COUNT = 16, 400
SETS = {'noise': 5, 'fields': 5, 'disc': 5, 'shapes': 4, 'glyphs': 7, 'digits': 10}


def images_of(name: str, seed: int) -> np.ndarray:
  """Images in [-1, 1], [n, H, W, 1]."""
  rng = np.random.default_rng(seed)
  if name in ('shapes', 'glyphs'):
    return draw(SHAPES if name == 'shapes' else GLYPHS, COUNT, seed).images
  if name == 'digits':
    from sklearn.datasets import load_digits
    images = load_digits().images
    return images[rng.permutation(len(images))[:2 * COUNT]][..., None] / 8 - 1
  shape = COUNT, SIDE, SIDE
  if name == 'noise':
    found = rng.uniform(-1, 1, shape)
  elif name == 'fields':
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2))
    frequency[0, 0] = 1
    found = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / frequency))
    found /= np.abs(found).max(axis=(1, 2), keepdims=True)
  else:
    places = np.stack(np.mgrid[:SIDE, :SIDE], -1)
    centre = rng.normal(7.5, 1.2, (COUNT, 1, 1, 2))
    radius = rng.normal(4.5, .5, (COUNT, 1, 1))
    found = np.tanh(1.5 * (radius - np.linalg.norm(places - centre, axis=-1)))
    found = np.clip(found + rng.normal(0, .08, shape), -1, 1)
  return found[..., None]


def measure(name: str, seed: int) -> dict:
  """The `Sign` of a set, as a dict."""
  images = images_of(name, seed).astype(np.float32)
  config = default_config()
  config.num_clusters, config.seed = SETS[name], seed
  return sign_of(images.reshape(len(images), -1), images.shape[1:], config, 3).as_dict()


def row(name: str, found: list[dict]) -> list[str]:
  """The cells of a set."""
  mean = lambda key: (f'{np.mean([one[key] for one in found]):.2f} ± '
                      f'{np.std([one[key] for one in found]):.2f}')
  lead = [one['rand'] - one['without'] for one in found]
  return [f'{name} ({SETS[name]})', mean('rand'), mean('without'),
          f'{min(lead):.2f} to {max(lead):.2f}',
          f"{sum(not one['missing'] for one in found)} of {len(found)}"]


def main() -> None:
  """Measures all sets and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2,3', out='runs/sign')
  parser.add_argument('--sets', type=names(SETS), default=list(SETS))
  args = parser.parse_args()
  print(markdown(
      ('images (clusters asked for)', 'halves agree', 'of images without clusters',
       'lead', 'a sign'),
      [row(name, kept(args.out, name, args.seeds, functools.partial(measure, name)))
       for name in args.sets]))


if __name__ == '__main__':
  main()
