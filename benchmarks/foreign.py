"""Images of another kind among new ones: how many are found, and how many false alarms.

  python -m benchmarks.foreign [--datasets=digits,...] [--seeds=0,1,2] [--bounds]

Question:  which kinds of images does `foreign` of predict see, and does it keep its false
           alarm rate?
Time:      3 minutes on two cores; with --bounds 5 to 20 minutes a data set and seed more.
Kept:      docs/benchmarks.md, Foreign images.

A random part of each data set, as large as SETS says, is the fit's, the rest are new
images of the same kind; both are drawn anew by every seed. `foreign` asks the fit's
images, not its model, so no model is fitted. With --bounds one is, and a column shows
whom its bound alone would call foreign: those below 99% of the fitted images' bounds.

Photographs are squares of the photographs that scikit-learn and matplotlib bring along,
shrunk to a half and a third; letters are of matplotlib's fonts DejaVu.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import add_fashion, kept, load_arrays, make_parser, markdown, names
from jdiffclust import deciding, outputs
from jdiffclust.evaluation import foreign

RATE = .01
# Name -> the images, their side, channels, and how many of them are the fit's.
SETS = {'digits': ('digits', 8, 1, 1000), 'mnist16': ('mnist', 16, 1, 2000),
        'mnist28': ('mnist', 28, 1, 2000), 'fashion16': ('fashion', 16, 1, 2000),
        'fashion28': ('fashion', 28, 1, 2000), 'photos16': ('photos', 16, 3, 700),
        'photos32': ('photos', 32, 3, 600)}
MOST = 2000  # new images of the same kind
OTHERS = 300  # images of each other kind
LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
KINDS = {'held out': 'same kind (false alarms)', 'flat': 'one grey level',
         'one colour': 'one colour', 'inverted': 'inverted', 'turned': 'turned by 90°',
         'noise': 'noise', 'digits': 'digits', 'mnist': 'MNIST',
         'fashion': 'Fashion-MNIST', 'photos': 'photographs', 'letters': 'letters, white',
         'dark letters': 'letters, black'}


# -------------------------------------------------------------------------------- images


def resized(images, side: int, channels: int) -> np.ndarray:
  """uint8 images [n, H, W(, C)] as [n, side, side, channels]."""
  mode = 'RGB' if channels == 3 else 'L'
  filtering = Image.BOX if side < images.shape[1] else Image.BILINEAR
  done = [np.asarray(Image.fromarray(image).convert(mode).resize((side, side), filtering))
          for image in images]
  return np.stack(done).reshape(len(done), side, side, channels)


def photographs(side: int, channels: int) -> np.ndarray:
  """Squares of three photographs, side by side."""
  import matplotlib
  from sklearn.datasets import load_sample_images
  portrait = pathlib.Path(matplotlib.get_data_path()) / 'sample_data/grace_hopper.jpg'
  found = []
  for pixels in [*load_sample_images().images, np.asarray(Image.open(portrait))]:
    for divisor in (1, 2) if side > 16 else (2, 3):
      image = Image.fromarray(pixels).convert('RGB' if channels == 3 else 'L')
      image = np.asarray(image.resize((image.width // divisor, image.height // divisor),
                                      Image.BOX))
      found += [image[y:y + side, x:x + side]
                for y in range(0, image.shape[0] - side + 1, side)
                for x in range(0, image.shape[1] - side + 1, side)]
  return np.stack(found).reshape(len(found), side, side, channels)


def letters(count: int, side: int, channels: int, rng) -> np.ndarray:
  """White letters on black."""
  import matplotlib
  folder = pathlib.Path(matplotlib.get_data_path()) / 'fonts/ttf'
  # The Display fonts have no letters.
  fonts = [path for path in sorted(folder.glob('DejaVu*.ttf'))
           if 'Display' not in path.name]
  found = []
  for letter, font in zip(rng.choice(list(LETTERS), count), rng.choice(fonts, count)):
    image = Image.new('L', (64, 64))
    ImageDraw.Draw(image).text((32, 32), letter, 255,
                               ImageFont.truetype(str(font), 52), 'mm')
    found.append(np.asarray(image))
  return resized(np.stack(found), side, channels)


def of_kind(kind: str, side: int, channels: int, fashion: pathlib.Path) -> np.ndarray:
  """All images of a data set, [n, side, side, channels] uint8."""
  if kind == 'photos':
    return photographs(side, channels)
  if kind == 'digits':
    from sklearn.datasets import load_digits
    images = np.round(load_digits().images * 255 / 16).astype(np.uint8)
  else:
    images, _ = load_arrays(f'{kind}5k', fashion)
  return images[..., None] if images.shape[1] == side else resized(images, side, channels)


def new_images(name: str, held: np.ndarray, fashion: pathlib.Path,
               rng) -> dict[str, np.ndarray]:
  """New images by kind, float32 in [-1, 1].

  Args:
    name: of SETS.
    held: images of the same kind, uint8 [n, side, side, channels].
    fashion: the folder of Fashion-MNIST.
    rng: draws them.
  """
  own, side, channels, _ = SETS[name]
  shape = side, side, channels
  grey = np.linspace(0, 255, 16).round()[:, None, None, None]
  found = {'held out': held, 'flat': np.broadcast_to(grey, (16, *shape))}
  if channels == 3:
    full = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255),
                     (255, 0, 255)])
    found['one colour'] = np.broadcast_to(full[:, None, None], (6, *shape))
  found |= {'inverted': 255 - held, 'turned': np.rot90(held, axes=(1, 2)),
            'noise': rng.integers(0, 256, (OTHERS, *shape))}
  for kind in ('digits', 'mnist', 'fashion', 'photos'):
    if kind != own and not (kind == 'digits' and own == 'mnist') and not (
        kind == 'mnist' and own == 'digits'):  # these are of one kind
      found[kind] = rng.permutation(of_kind(kind, side, channels, fashion))[:OTHERS]
  found['letters'] = letters(OTHERS, side, channels, rng)
  if own == 'photos':
    found['dark letters'] = 255 - found['letters']
  return {kind: as_model(images) for kind, images in found.items()}


def as_model(images) -> np.ndarray:
  """Grey levels 0..255 as float32 in [-1, 1]."""
  return np.asarray(images, np.float32) / 127.5 - 1


# ---------------------------------------------------------------------------- measurement


def bounds_of(known: np.ndarray, new: dict[str, np.ndarray], seed: int) -> dict:
  """The share of new images below 99% of the bounds of a small fit, by kind.

  Args:
    known: the fit's images, uint8.
    new: new images by kind, in [-1, 1].
    seed: of the fit.
  """
  import jdiffclust
  config = jdiffclust.default_config()
  config.update_from_flattened_dict({
      'num_clusters': 10, 'seed': seed, 'start.kind': 'gaussian_mixture',
      'network.channels': 16, 'network.blocks_per_level': 1,
      'network.channel_multipliers': (1, 2) if known.shape[1] < 16 else (1, 2, 2),
      'em.max_iterations': 2, 'e_step.num_draws': 8, 'm_step.first_num_steps': 600,
      'm_step.num_steps': 100, 'm_step.batch_size': 64})
  fitted = jdiffclust.fit(config, known)
  found = {}
  for kind, images in new.items():
    grey = np.round((images[:400] + 1) * 127.5).astype(np.uint8)  # as the fit's are
    found[kind] = float(np.mean(
        deciding.share_below(fitted.assign(grey).info.bound, fitted.bound) < RATE))
  return found


def measure(name: str, fashion: pathlib.Path, bounds: bool, seed: int) -> dict:
  """The share of new images called foreign, by kind.

  Args:
    name: of SETS.
    fashion: the folder of Fashion-MNIST.
    bounds: whether a fit's bound is asked, too.
    seed: of the parts, and of all that is drawn.
  """
  rng = np.random.default_rng(seed)
  own, side, channels, count = SETS[name]
  images = rng.permutation(of_kind(own, side, channels, fashion))
  known, held = images[:count], images[count:count + MOST]
  new = new_images(name, held, fashion, rng)
  maps = outputs.maps_of((side, side, channels))
  reference = foreign.make_reference(as_model(known), maps, seed)
  found = {'fit': len(known), 'numbers': {kind: len(rows) for kind, rows in new.items()},
           'share': {kind: float(np.mean(foreign.judge(reference, rows, maps).p_values
                                         <= RATE)) for kind, rows in new.items()}}
  if bounds:
    found['bound'] = bounds_of(known[:1000], new, seed)
  return found


def table(results: dict[str, list[dict]]) -> str:
  """Shares by kind, of each data set: the mean over seeds."""
  columns = [(name, runs, what) for name, runs in results.items()
             for what in ('share', 'bound') if what in runs[0]]
  head = ['new images', *(name + ', by the bound alone' * (what == 'bound')
                          for name, _, what in columns)]
  rows = [['*the fit\'s*', *(str(runs[0]['fit']) for _, runs, _ in columns)]]
  for kind, text in KINDS.items():
    rows.append([text, *(
        f"{np.mean([run[what][kind] for run in runs]):.1%}" if kind in runs[0][what]
        else '–' for _, runs, what in columns)])
  return markdown(head, rows)


def main() -> None:
  """Measures what is missing and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/foreign')
  parser.add_argument('--datasets', type=names(SETS), default=list(SETS))
  parser.add_argument('--bounds', action='store_true', help='fit a model to each, too')
  add_fashion(parser)
  args = parser.parse_args()
  print(table({name: kept(args.out, f'{name}{"-bound" * args.bounds}', args.seeds,
                          functools.partial(measure, name, args.fashion, args.bounds))
               for name in args.datasets}))


if __name__ == '__main__':
  main()
