"""Near copies: how many images are called so wrongly, and which copies are found.

  python -m benchmarks.copies [--datasets=digits,...] [--seeds=0,1,2]

Question:  whom does `duplicate_of` of results.csv call a copy?
Time:      a minute on two cores.
Kept:      docs/results.md, Copies.

The rule of `jdiffclust.evaluation.gallery` was chosen with the figures of all of these
sets seen, so they flatter it. Whoever is called a near copy in a set that nobody put
copies in counts as a false alarm (Fashion-MNIST has some true ones). Then copies of 200
random images, each changed by CHANGES, are asked about as new images.
"""

from __future__ import annotations

import functools
import io
import pathlib

import numpy as np
from PIL import Image

from benchmarks.common import add_fashion, kept, load_arrays, make_parser, markdown, names
from benchmarks.foreign import photographs
from jdiffclust.evaluation import gallery
from jdiffclust.evaluation.gallery import Gallery

SETS = ('digits', 'strokes', 'shapes', 'photos', 'mnist5k', 'fashion5k', 'textures')
COPIED = 200


def images_of(name: str, fashion: pathlib.Path) -> np.ndarray:
  """All images of a set, uint8 [n, H, W, C]."""
  if name == 'digits':
    from sklearn.datasets import load_digits
    images = np.round(load_digits().images * 255 / 16).astype(np.uint8)
  elif name == 'photos':
    images = photographs(32, 3)
  else:
    images, _ = load_arrays(name, fashion)
  return images if images.ndim == 4 else images[..., None]


def as_file(image: np.ndarray) -> Image.Image:
  """An image [H, W, C] as Pillow has it."""
  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def saved(image: np.ndarray, quality: int) -> np.ndarray:
  """An image as JPEG and back."""
  file = io.BytesIO()
  as_file(image).save(file, 'jpeg', quality=quality)
  return np.asarray(Image.open(file)).reshape(image.shape)


def resized(image: np.ndarray, share: float, cut: float = 0.) -> np.ndarray:
  """An image smaller by a share and back to its size, without its border."""
  height, width = image.shape[:2]
  box = cut * width, cut * height, (1 - cut) * width, (1 - cut) * height
  small = as_file(image).resize((round(share * width), round(share * height)),
                                Image.LANCZOS, box=box)
  return np.asarray(small.resize((width, height), Image.LANCZOS)).reshape(image.shape)


CHANGES = {
    'the same': lambda image, rng: image,
    'JPEG, quality 75': lambda image, rng: saved(image, 75),
    'brighter (x 1.2 + 10)': lambda image, rng: np.clip(
        image * 1.2 + 10, 0, 255).astype(np.uint8),
    'noise, sd 4 of 255': lambda image, rng: np.clip(
        image + 4 * rng.normal(size=image.shape), 0, 255).astype(np.uint8),
    'at 80 % size and back': lambda image, rng: resized(image, .8),
    'at half size and back': lambda image, rng: resized(image, .5),
    '3 % of each side cut off': lambda image, rng: resized(image, 1., .03),
    'shifted by a pixel': lambda image, rng: np.roll(image, 1, axis=1)}


def measure(name: str, fashion: pathlib.Path, seed: int) -> dict:
  """The share of images called near copies, and of true copies that are found.

  Args:
    name: of the set.
    fashion: the folder of Fashion-MNIST.
    seed: of the images that are copied.
  """
  images = images_of(name, fashion)
  model = lambda levels: np.asarray(levels, np.float32) / 127.5 - 1
  looks = lambda some: (gallery.signatures(model(some)), gallery.digests(some))
  marks, pixels = looks(images)
  found = gallery.copies_among(marks, pixels)
  known = Gallery(np.arange(len(images)), None, None, marks, pixels, None, None)
  rng = np.random.default_rng(seed)
  rows = rng.choice(len(images), COPIED, replace=False)
  right = {}
  for change, apply in CHANGES.items():
    later = gallery.copies_of(*looks(np.stack([apply(images[row], rng) for row in rows])),
                              known)
    right[change] = float(np.mean(later.of == rows))
  return {'images': len(images), 'exact': int(found.exact.sum()),
          'wrong': float(np.mean((found.of >= 0) & ~found.exact)), 'found': right}


def main() -> None:
  """Measures what is missing and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/copies')
  parser.add_argument('--datasets', type=names(SETS), default=list(SETS))
  add_fashion(parser)
  args = parser.parse_args()
  results = {name: kept(args.out, name, args.seeds,
                        functools.partial(measure, name, args.fashion))
             for name in args.datasets}
  rows = [['*images*', *(f'{runs[0]["images"]:,}' for runs in results.values())],
          ['*called near copies*', *(f'{runs[0]["wrong"]:.2%}'
                                     for runs in results.values())]]
  for change in CHANGES:
    rows.append([change, *(
        '{:.0%} ± {:.0%}'.format(np.mean(shares), np.std(shares, ddof=len(shares) > 1))
        for shares in ([run['found'][change] for run in runs]
                       for runs in results.values()))])
  print(markdown(['', *results], rows))


if __name__ == '__main__':
  main()
