"""Labelled sets of images, drawn from a seed.

  python -m benchmarks.clustering.made [--seed=0] [--num=2500] [--out=DIR]

writes a picture of each, sets.json (how easy they are: nearest neighbours, K-means) and
the sets as npz.

strokes   10 figures of strokes, each as often as its mirror image: which of both is no
          part of the class.
textures  8 textures that have no way up: every image is turned by quarters and mirrored
          at random.
shapes    8 coloured shapes: 3 forms in 4 colours, so that some classes differ in colour
          alone and others in form alone.
letters   10 letters in 20 typefaces, shifted, sheared and noisy.
signs     12 signs such as chessmen and suits of cards, strongly distorted, each as often
          as its mirror image, from some of which a piece is cut.

No method was tuned to strokes and shapes; the joining of cells was chosen with the scores
of the textures seen, the rounds of recognition with those of letters and signs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from benchmarks.common import SCORES, make_parser, markdown, write_json
from benchmarks.starts.synthetic import SHAPES as OUTLINES
from benchmarks.starts.synthetic import Labelled, distance, rotation

SIDE = 28
NUM = 2500


def grid() -> np.ndarray:
  """The pixels' places (y, x) in [-1, 1]^2, [SIDE, SIDE, 2]."""
  places = (np.arange(SIDE) + .5) / SIDE * 2 - 1
  return np.stack(np.meshgrid(places, places, indexing='ij'), -1)


def smooth_step(distances, width: float = .05) -> np.ndarray:
  """1 for distances well below 0, 0 well above it, soft over `width`."""
  return 1 / (1 + np.exp(np.clip(np.asarray(distances) / width, -50, 50)))


def affine(rng: np.random.Generator, turn: float, scale: float, shear: float,
           shift: float) -> Callable[[np.ndarray], np.ndarray]:
  """A random affine map of places [..., 2].

  Args:
    rng: generator.
    turn, scale, shear, shift: standard deviations of the angle (radians), of the
      logarithm of each axis, of the shear and of the shift (half sides).

  Returns:
    The map.
  """
  angle, slant = turn * rng.normal(), shear * rng.normal()
  rotate = rotation(angle)
  matrix = rotate @ [[1, 0], [slant, 1]] * np.exp(scale * rng.normal(size=2))
  offset = shift * rng.normal(size=2)
  return lambda places: (places + offset) @ matrix.T


def bent(places: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
  """Places [..., 2] displaced by two random waves of about a period over the image."""
  for _ in range(2):
    wave, phase = rng.normal(scale=1.8, size=2), rng.uniform(0, 2 * np.pi)
    push = rng.normal(scale=amount, size=2)
    places = places + np.sin(places @ wave + phase)[..., None] * push
  return places


def field(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
  """Isotropic noise, `low` to `high` waves an image, variance 1, [SIDE, SIDE]."""
  waves = np.fft.fftfreq(SIDE, 1 / SIDE)
  radius = np.hypot(waves[:, None], waves[None])
  band = (radius >= low) & (radius <= high)
  found = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * band).real
  return found / found.std()


# ------------------------------------------------------------------------------- strokes

_arc = lambda y, x, r, begin, end: tuple(
    (y + r * np.sin(a), x + r * np.cos(a)) for a in np.linspace(begin, end, 7))
_path = lambda *points: tuple(zip(points, points[1:]))
# Strokes ((y, x), (y, x)) in [-1, 1]^2, y downwards.
FIGURES = {
    'hook': _path((-.8, .3), (.3, .3), *_arc(.3, -.1, .4, 0, np.pi)),
    'seven': _path((-.7, -.5), (-.7, .5), (.8, -.1)) + _path((.0, -.2), (.0, .45)),
    'bolt': _path((-.8, .2), (.1, -.45), (-.1, .45), (.8, -.2)),
    'flag': _path((.85, -.35), (-.8, -.35), (-.35, .55), (.1, -.35)),
    'chair': _path((-.8, -.4), (.8, -.4)) + _path((.1, -.4), (.1, .45), (.8, .45)),
    'key': _path((.85, -.4), (-.75, -.4), (-.75, .5)) + _path((-.1, -.4), (-.1, .3)),
    'snail': _path((.8, .7), (.8, -.3), *_arc(.15, -.1, .55, 2.2, 7.4)),
    'branch': _path((.85, 0.), (-.85, 0.)) + _path((.3, 0.), (-.3, .55)),
    'corner': _path((-.8, -.5), (.7, -.5), (.7, .6)),
    'tick': _path((.0, -.7), (.65, -.25), (-.7, .65)),
}


def draw_stroke(figure, rng: np.random.Generator) -> np.ndarray:
  """One image [SIDE, SIDE, 1] in [-1, 1] of a figure of FIGURES, mirrored or not."""
  places = grid() * [1, rng.choice([-1, 1])] * 1.15
  places = affine(rng, .16, .1, .12, .08)(bent(places, rng, .07)).reshape(-1, 2)
  away = np.min([distance(places, *stroke) for stroke in figure], axis=0)
  ink = smooth_step(away - rng.uniform(.08, .2)) * rng.uniform(.7, 1.)
  return (2 * ink - 1).reshape(SIDE, SIDE, 1) + .08 * rng.normal(size=(SIDE, SIDE, 1))


# ------------------------------------------------------------------------------ textures


def _grating(low, high, sharp, rng):
  """Stripes of `low` to `high` periods, nearly along one direction."""
  places = affine(rng, .1, .0, .0, .0)(grid())
  return np.tanh(sharp * np.cos(np.pi * rng.uniform(low, high) * places[..., 0]
                                + .6 * rng.normal()))


def _checker(rng):
  """Squares of two greys, two or three along a side."""
  places = affine(rng, .08, .05, .05, .0)(grid())
  waves = np.sin(np.pi * 1.5 * places + .4 * rng.normal(size=2))
  return np.tanh(4 * waves[..., 0] * waves[..., 1])


def _dots(rng):
  """Bright dots in a loose lattice."""
  places = bent(affine(rng, .06, .06, .0, .06)(grid()), rng, .04)
  near = np.abs((places * 1.5 + .5) % 1 - .5) / 1.5
  return 2 * smooth_step(np.hypot(near[..., 0], near[..., 1]) - rng.uniform(.14, .22)) - 1


def _ripples(rng):
  """Rings about a point near a corner."""
  centre = np.array([-.9, -.9]) + .12 * rng.normal(size=2)
  radius = np.linalg.norm(grid() - centre, axis=-1)
  return np.cos(2 * np.pi * rng.uniform(1.15, 1.4) * radius + .3 * rng.normal())


def _crack(rng):
  """A dark crack from one side to the other, with a branch, on bright ground."""
  ys, place = np.linspace(-1, 1, 6), .15 * rng.normal()
  xs = place + np.cumsum(.14 * rng.normal(size=6))
  trunk = list(zip(ys, xs))
  strokes = list(_path(*trunk)) + [(trunk[2], (trunk[2][0] + .6, trunk[2][1] + .7))]
  places = grid().reshape(-1, 2)
  away = np.min([distance(places, *stroke) for stroke in strokes], axis=0)
  return 1 - 2 * smooth_step(away.reshape(SIDE, SIDE) - rng.uniform(.05, .12))


def _blobs(rng):
  """Large spots of two greys."""
  return .9 * np.tanh(3 * field(rng, .5, 2.))


def _grain(rng):
  """Fine noise of little contrast."""
  return rng.uniform(.15, .3) * field(rng, 4., 12.)


TEXTURES = {
    'wide stripes': functools.partial(_grating, .9, 1.3, 1.5),
    'narrow stripes': functools.partial(_grating, 2.6, 3.2, 2.),
    'checker': _checker, 'dots': _dots, 'ripples': _ripples, 'crack': _crack,
    'blobs': _blobs, 'grain': _grain}


def draw_texture(texture: Callable, rng: np.random.Generator) -> np.ndarray:
  """One image [SIDE, SIDE, 1] in [-1, 1] of TEXTURES, turned and mirrored at random."""
  image = texture(rng) * rng.uniform(.6, .9) + .06 * rng.normal()
  image = np.rot90(image, rng.integers(4))
  image = image if rng.integers(2) else image[:, ::-1]
  return image[..., None] + .1 * rng.normal(size=(SIDE, SIDE, 1))


# -------------------------------------------------------------------------------- shapes

_HUES = {'red': (.8, .2, .2), 'green': (.25, .7, .25), 'blue': (.25, .35, .85),
         'yellow': (.8, .75, .2)}
COLOURED = tuple((form, hue) for form, hues in {
    'disc': ('red', 'green', 'blue'), 'square': ('red', 'green', 'yellow'),
    'triangle': ('blue', 'yellow')}.items() for hue in hues)


def _inside(form: str, places: np.ndarray) -> np.ndarray:
  """How far places [n, 2] lie outside a form, about; below 0 inside."""
  if form == 'disc':
    return np.linalg.norm(places, axis=1) - .75
  corners = [stroke[0] for stroke in OUTLINES[form]]
  sides = []
  for (begin, end), inner in zip(OUTLINES[form], [np.mean(corners, axis=0)] * 9):
    along = np.subtract(end, begin)
    normal = np.array([along[1], -along[0]]) / np.linalg.norm(along)
    outward = normal * np.sign((np.asarray(begin) - inner) @ normal)
    sides.append((places - begin) @ outward)
  return np.max(sides, axis=0)


def draw_shape(kind: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
  """One image [SIDE, SIDE, 3] in [-1, 1] of a form and colour of COLOURED."""
  form, hue = kind
  places = affine(rng, .15, .12, .08, .07)(grid() * 1.2).reshape(-1, 2)
  cover = smooth_step(_inside(form, places), .06).reshape(SIDE, SIDE, 1)
  light = 1 + .2 * (grid() @ rng.normal(scale=.5, size=2))[..., None]
  colour = np.clip(_HUES[hue] + .09 * rng.normal(size=3), 0, 1) * rng.uniform(.6, 1.1)
  ground = rng.uniform(.3, .6) + .04 * rng.normal(size=3)
  image = (cover * colour + (1 - cover) * ground) * light
  return 2 * image - 1 + .1 * rng.normal(size=image.shape)


# -------------------------------------------------------------------- letters and signs

LETTERS, SIGNS = tuple('abdeghmrsy'), tuple('♚♛♜♞♟♠♣♥☂☘☠♫')
TYPEFACES = (
    *(f'DejaVu{name}' for name in (
        'Sans', 'Sans-Bold', 'Sans-BoldOblique', 'Sans-Oblique', 'SansMono',
        'SansMono-Bold', 'SansMono-BoldOblique', 'SansMono-Oblique', 'Serif',
        'Serif-Bold', 'Serif-BoldItalic', 'Serif-Italic')),
    *(f'STIXGeneral{name}' for name in ('', 'Bol', 'BolIta', 'Italic')),
    'cmb10', 'cmr10', 'cmss10', 'cmtt10')
FINER = 4  # pixels a side that letters and signs are drawn with, for each of an image


@functools.cache
def _typeface(name: str, size: int):
  """A font that comes with matplotlib."""
  import matplotlib
  from PIL import ImageFont
  return ImageFont.truetype(
      f'{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf', size)


def _written(text: str, typeface: str, size: int, matrix, offset) -> np.ndarray:
  """A character, [SIDE, SIDE, 1] from 0 to 1.

  Args:
    text, typeface, size: what is written; the size in pixels of FINER.
    matrix: from offsets (x, y) from the centre to those of the character, [2, 2].
    offset: of the character, (x, y) in pixels of FINER.
  """
  from PIL import Image, ImageDraw
  side = FINER * SIDE
  image, centre = Image.new('L', (side, side)), np.full(2, side / 2)
  ImageDraw.Draw(image).text(tuple(centre + offset), text, fill=255, anchor='mm',
                             font=_typeface(typeface, size))
  shift = centre - matrix @ centre
  image = image.transform(
      (side, side), Image.Transform.AFFINE, resample=Image.Resampling.BILINEAR,
      data=(*matrix[0], shift[0], *matrix[1], shift[1]))
  small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
  return np.asarray(small, np.float32)[..., None] / 255


def draw_letter(letter: str, rng: np.random.Generator) -> np.ndarray:
  """One image [SIDE, SIDE, 1] in [-1, 1] of a letter."""
  typeface, size = TYPEFACES[rng.integers(len(TYPEFACES))], int(rng.integers(64, 96))
  angle, (slant, other) = .14 * rng.normal(), rng.normal(size=2) * [.15, .1]
  matrix = rotation(angle)
  ink = _written(letter, typeface, size, matrix @ [[1, slant], [other, 1]],
                 6 * rng.normal(size=2)) * rng.uniform(.6, 1)
  return 2 * ink - 1 + .06 * rng.normal(size=(SIDE, SIDE, 1))


def draw_sign(sign: str, rng: np.random.Generator) -> np.ndarray:
  """One image [SIDE, SIDE, 1] in [-1, 1] of a sign, mirrored or not."""
  angle, slant = rng.normal(size=2) * [.3, .25]
  matrix = rotation(angle)
  matrix = matrix @ [[1, slant], [0, 1]] * np.exp(.18 * rng.normal(size=2))
  ink = _written(sign, 'DejaVuSans', int(rng.integers(50, 80)),
                 matrix * [rng.choice([-1, 1]), 1], 7 * rng.normal(size=2)).copy()
  if rng.integers(2):
    y, x = rng.integers(4, SIDE - 4, 2)
    ink[y - 3:y + 3, x - 3:x + 3] = 0
  return 2 * np.clip((ink - .5) * rng.uniform(1, 4) + .5, 0, 1) - 1


# ---------------------------------------------------------------------------- all of them

# Name -> (kinds, which are the classes; from a kind and a generator to an image).
SETS = {'strokes': (tuple(FIGURES.values()), draw_stroke),
        'textures': (tuple(TEXTURES.values()), draw_texture),
        'shapes': (COLOURED, draw_shape),
        'letters': (LETTERS, draw_letter), 'signs': (SIGNS, draw_sign)}


def draw(name: str, seed: int, num: int = NUM) -> Labelled:
  """Draws a set; its classes are equally likely.

  Args:
    name: one of SETS.
    seed: of everything.
    num: n.

  Returns:
    `Labelled`: images [n, SIDE, SIDE, 1 or 3] and the number of each one's kind.
  """
  kinds, draw_one = SETS[name]
  rng = np.random.default_rng(seed)
  labels = rng.integers(len(kinds), size=num)
  images = np.stack([draw_one(kinds[label], rng) for label in labels])
  return Labelled(np.clip(images, -1, 1).astype(np.float32), labels)


def ease(images: Labelled, seed: int) -> dict:
  """How easy a set is: right answers of 9 nearest neighbours (cross-validated), K-means.

  Args:
    images: the set.
    seed: of K-means.
  """
  from sklearn.cluster import KMeans
  from sklearn.model_selection import cross_val_predict
  from sklearn.neighbors import KNeighborsClassifier

  from jdiffclust.evaluation.scores import clustering_scores
  rows, labels = images.images.reshape(len(images.images), -1), images.labels
  answers = cross_val_predict(KNeighborsClassifier(9), rows, labels, cv=5)
  clusters = KMeans(labels.max() + 1, n_init=10, random_state=seed).fit_predict(rows)
  return {'nearest_neighbours': float(np.mean(answers == labels)),
          **clustering_scores(labels, clusters)}


def stored(images: np.ndarray) -> np.ndarray:
  """Images in [-1, 1] as uint8, without a channel if they have one: grey."""
  levels = np.round((images + 1) * 127.5).astype(np.uint8)
  return levels[..., 0] if levels.shape[-1] == 1 else levels


def contact_sheet(images: Labelled, columns: int = 16) -> np.ndarray:
  """The first images of each class, a row a class: uint8 [H, W, 3]."""
  framed = np.pad(images.images, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = [np.concatenate(framed[images.labels == label][:columns], axis=1)
          for label in range(images.labels.max() + 1)]
  sheet = np.round((np.concatenate(rows) + 1) * 127.5).astype(np.uint8)
  return np.broadcast_to(sheet, (*sheet.shape[:2], 3))


def main() -> None:
  """Draws the sets, and says how easy they are."""
  from PIL import Image
  parser = make_parser(__doc__, out='runs/made')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--num', type=int, default=NUM)
  args = parser.parse_args()
  found = {}
  for name in SETS:
    images = draw(name, args.seed, args.num)
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez(args.out / f'{name}.npz', images=stored(images.images), labels=images.labels)
    Image.fromarray(contact_sheet(images)).save(args.out / f'{name}.png')
    found[name] = ease(images, args.seed)
  write_json(args.out / 'sets.json', found)
  head = ('set', '9 nearest neighbours', *(f'K-means {s.upper()}' for s in SCORES))
  print(markdown(head,
                 [[name, *(f'{row[key]:.3f}' for key in ('nearest_neighbours', *SCORES))]
                  for name, row in found.items()]))


if __name__ == '__main__':
  main()
