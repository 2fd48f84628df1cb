"""Images of a known number of clusters: shapes (4) and glyphs (7), drawn by numpy.

Every image is a figure of strokes seen through a random affine map, with a random width
of the stroke and contrast, and pixel noise; the clusters' sizes are unequal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 12
# Strokes ((y, x), (y, x)) in [-1, 1]^2.
_CORNERS = ((-.7, -.7), (-.7, .7), (.7, .7), (.7, -.7))
_CIRCLE = tuple((.75 * np.sin(a), .75 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 17))
_closed = lambda points: tuple(zip(points, (*points[1:], points[0])))
SHAPES = {
    'ring': tuple(zip(_CIRCLE, _CIRCLE[1:])),
    'square': _closed(_CORNERS),
    'triangle': _closed(((-.7, 0.), (.6, .75), (.6, -.75))),
    'cross': (((-.8, 0.), (.8, 0.)), ((0., -.8), (0., .8))),
}
GLYPHS = {
    'L': (((-.8, -.5), (.8, -.5)), ((.8, -.5), (.8, .6))),
    'T': (((-.8, -.7), (-.8, .7)), ((-.8, 0.), (.8, 0.))),
    'X': (((-.8, -.6), (.8, .6)), ((-.8, .6), (.8, -.6))),
    'H': (((-.8, -.6), (.8, -.6)), ((-.8, .6), (.8, .6)), ((0., -.6), (0., .6))),
    'N': (((-.8, -.6), (.8, -.6)), ((-.8, .6), (.8, .6)), ((-.8, -.6), (.8, .6))),
    'Z': (((-.8, -.6), (-.8, .6)), ((-.8, .6), (.8, -.6)), ((.8, -.6), (.8, .6))),
    'U': (((-.8, -.6), (.8, -.6)), ((.8, -.6), (.8, .6)), ((.8, .6), (-.8, .6))),
}


class Labelled(NamedTuple):
  """Images and the clusters they were drawn from.

  Attributes:
    images: float32 in [-1, 1], [n, H, W, C].
    labels: [n].
  """

  images: np.ndarray
  labels: np.ndarray


def rotation(angle: float) -> np.ndarray:
  """The matrix [2, 2] that turns by an angle in radians."""
  return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def distance(points, start, end):
  """Distance of points [n, 2] to the segment from `start` to `end`, [n]."""
  start, along = np.asarray(start), np.subtract(end, start)
  share = np.clip((points - start) @ along / (along @ along), 0, 1)
  return np.linalg.norm(points - start - share[:, None] * along, axis=1)


def draw(figures, num: int, seed: int, jitter: float = .12,
         noise: float = .2) -> Labelled:
  """Draws images; figure k (from 0) is drawn in proportion to 1 / (k + 2).

  Args:
    figures: {name: strokes}, SHAPES or GLYPHS.
    num: n.
    seed: of everything.
    jitter: standard deviation of rotation (radians), shear, log scale (each axis) and
      shift (half sides).
    noise: standard deviation of the pixels' noise.

  Returns:
    `Labelled`.
  """
  rng = np.random.default_rng(seed)
  shares = 1 / np.arange(2, len(figures) + 2)
  labels = rng.choice(len(figures), num, p=shares / shares.sum())
  strokes = list(figures.values())
  places = np.linspace(-1.1, 1.1, SIDE)
  grid = np.stack(np.meshgrid(places, places, indexing='ij'), -1).reshape(-1, 2)
  images = []
  for label in labels:
    angle, shear, *rest = jitter * rng.normal(size=6)
    turn = rotation(angle)
    points = (grid + rest[:2]) @ (turn @ [[1, 0], [shear, 1]] * np.exp(rest[2:])).T
    away = np.min([distance(points, *stroke) for stroke in strokes[label]], axis=0)
    width, contrast = rng.uniform(.15, .25), rng.uniform(.7, 1.)
    ink = contrast / (1 + np.exp((away - width) / .06))
    images.append(2 * ink - 1 + noise * rng.normal(size=len(ink)))
  images = np.clip(images, -1, 1).astype(np.float32)
  return Labelled(images.reshape(num, SIDE, SIDE, 1), labels)
