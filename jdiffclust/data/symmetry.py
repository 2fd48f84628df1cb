"""Which maps leave what images show as it is: mirroring, quarter turns; without labels.

Let T be a map that keeps distances, such as mirroring. If it is a *symmetry* of the
images, that is if x and T x are equally likely to be drawn, then nothing tells whether a
neighbour of x was drawn as y or as T y: |x - y| and |x - T y| can be exchanged, and one
is the smaller as often as the other. Where T x is no such image, |x - y| is smaller.

So each image is joined to its nearest neighbours by min(|x - y|, |x - T y|), which does
not ask which of both it was, and T x itself is no neighbour of x. Of these pairs (x, y)

  share = sum w [|x - T y| < |x - y|] / sum w,
  w = | |x - y|^2 - |x - T y|^2 | / (|x - y|^2 + |x - T y|^2),

a half under symmetry, of whatever images, as w can be exchanged too; an image that equals
its own mirror image counts for nothing, and one that almost does, for little. Pairs that
have no image in common are independent, and under symmetry even those with one are
uncorrelated: so the standard error is that of sums over pairs, the covariances of pairs
that share an image included (Fafchamps and Gubert, 2007).

*The rule.* T holds if the share exceeds LEAST = .4 by more standard errors than chance
exceeds in a share ALPHA = .01 of all samples: whatever the share of such images is, if it
is .4 or less (a fifth of the evidence or more comes from images without the symmetry),
T is taken for a symmetry with a probability of about 1% at most. In doubt, as with few
images, it is not.

T of order m > 2, as a quarter turn (m = 4), compares T y and T^-1 y with y, and finds
neighbours by the smallest distance over all its powers; the mean of both comparisons is a
half under symmetry, since the sum over the cycle y, T y, T^2 y, ... counts each of its
neighbouring pairs once in either direction.

Images that are copies, or frames of one film, speak against all maps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from threadpoolctl import threadpool_limits

from jdiffclust.data.preprocess import reduced
from jdiffclust.data.views import QUARTERS
from jdiffclust.streams import integer_seed

LEAST = .4
ALPHA = .01
NEIGHBOURS = 5
MOST_IMAGES = 2000
FEWEST_IMAGES = 20  # with fewer, standard errors are guesses
LONGEST = 32  # pixels a side that are compared


class Placing(NamedTuple):
  """An image mirrored left to right, if `mirrored`, and then turned by quarters."""

  mirrored: bool
  quarters: int

  def after(self, first: 'Placing') -> 'Placing':
    """Itself applied to what another one made: mirroring reverses turns."""
    turned = -first.quarters if self.mirrored else first.quarters
    return Placing(self.mirrored != first.mirrored, (self.quarters + turned) % 4)

  @property
  def matrix(self) -> np.ndarray:
    """From offsets (y, x) in the result to those in the image, [2, 2]."""
    return np.diag([1, -1 if self.mirrored else 1]) @ QUARTERS[self.quarters % 4]

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Of images [n, H, W, C]; square ones, if turned by one quarter or three."""
    images = images[:, :, ::-1] if self.mirrored else images
    return np.rot90(images, self.quarters, axes=(1, 2))


class Map(NamedTuple):
  """A map that may be a symmetry.

  Attributes:
    placing: what it does to images.
    order: m, how often it is applied until images are again what they were.
    views: the share of random views to which it is applied where it is a symmetry, so
      that all its powers are as likely.
    text: what it is called in a sentence.
  """

  placing: Placing
  order: int
  views: float
  text: str


# By the option of the section `views`.
MAPS: Mapping[str, Map] = {
    'flip': Map(Placing(True, 0), 2, .5, 'mirrored left to right'),
    'upside_down': Map(Placing(True, 2), 2, .5, 'upside down'),
    'quarter_turns': Map(Placing(False, 1), 4, .75, 'turned by quarters'),
}


class Symmetry(NamedTuple):
  """What speaks for a map.

  Attributes:
    share: of the evidence, for mapped neighbours; a half under symmetry.
    error: its standard error.
    nearer: the share of images that lie nearer to another one mapped than as they are.
    ratio: of the distances of nearest neighbours, mapped by as it is, median over images.
    holds: whether it is taken for a symmetry.
  """

  share: float
  error: float
  nearer: float
  ratio: float
  holds: bool


def squares_between(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Squared distances of rows [n, D] and [m, D], float32 [n, m]."""
  norms = np.sum(rows**2, axis=1)[:, None] + np.sum(others**2, axis=1)
  return np.maximum(norms - 2 * rows @ others.T, 0)


def orbit(images: np.ndarray, by: Map) -> list[np.ndarray]:
  """The images under all powers of a map, the 0th first: m arrays [n, H, W, C]."""
  powers = [images]
  while len(powers) < by.order:
    powers.append(by.placing(powers[-1]))
  return powers


def pairs_of(distances: np.ndarray, num: int) -> np.ndarray:
  """Pairs i < j of which one is among the other's nearest: int [2, E], each once.

  Args:
    distances: symmetric, [n, n]; the diagonal is not looked at.
    num: how many neighbours of each.
  """
  count = len(distances)
  apart = distances + np.where(np.eye(count, dtype=bool), np.inf, 0)
  near = np.argpartition(apart, num - 1, axis=1)[:, :num]
  ends = np.stack([np.repeat(np.arange(count), num), near.ravel()])
  codes = np.unique(ends.min(axis=0) * count + ends.max(axis=0))
  return np.stack([codes // count, codes % count])


def evidence(own: np.ndarray, mapped: np.ndarray, pairs: np.ndarray,
             count: int) -> tuple[float, float]:
  """The weighted share of comparisons that the mapped image wins, and its error.

  Args:
    own: squared distances of the pairs, [E].
    mapped: the same with one of each pair mapped, by T and by T^-1, [2, E].
    pairs: numbers of images, [2, E].
    count: of images.

  Returns:
    share and standard error; NaN and infinity if no pair tells anything.
  """
  total = own + mapped
  weights = np.abs(own - mapped) / np.where(total > 0, total, 1)
  weight = weights.sum(axis=0)
  if not weight.any():
    return float('nan'), float('inf')
  won = np.sum(weights * (mapped < own), axis=0)
  share = won.sum() / weight.sum()
  rest = won - share * weight
  of_images = sum(np.bincount(ends, rest, count) for ends in pairs)
  alone = np.sum(rest**2)
  variance = max(np.sum(of_images**2) - alone, alone)
  return float(share), float(variance**.5 / weight.sum())


def nearest(distances: np.ndarray) -> np.ndarray:
  """Of squared distances [n, n] the root of each row's smallest off the diagonal, [n]."""
  apart = distances + np.where(np.eye(len(distances), dtype=bool), np.inf, 0)
  return np.sqrt(apart.min(axis=1))


def judge(images: np.ndarray, by: Map) -> Symmetry:
  """What speaks for a map of images [n, H, W, C], n >= 2."""
  count = len(images)
  flat = lambda some: np.ascontiguousarray(some, np.float32).reshape(count, -1)
  rows = flat(images)
  powers = [flat(some) for some in orbit(images, by)]
  between = [squares_between(rows, some) for some in powers[:by.order // 2 + 1]]
  # |x - T^-k y| = |T^k x - y|
  smallest = np.minimum.reduce([np.minimum(some, some.T) for some in between])
  i, j = pairs = pairs_of(smallest, min(NEIGHBOURS, count - 1))
  # Anew, as differences: equal images are at a distance of exactly 0.
  exact = lambda some: np.asarray(
      np.sum((rows[i] - some[j])**2, axis=1, dtype=np.float64))
  share, error = evidence(exact(rows), np.stack([exact(powers[1]), exact(powers[-1])]),
                          pairs, count)
  as_is, mapped = nearest(between[0]), nearest(between[1])
  enough = share - scipy.stats.norm.isf(ALPHA) * error > LEAST
  return Symmetry(share, error, float(np.mean(mapped < as_is)),
                  float(np.median(mapped / np.maximum(as_is, 1e-6))),
                  bool(enough and count >= FEWEST_IMAGES))


def find(images: np.ndarray, names: Sequence[str] = tuple(MAPS),
         seed: int = 0) -> dict[str, Symmetry]:
  """Which maps are symmetries of images, as far as their shape allows to ask.

  Args:
    images: [n, H, W, C].
    names: of MAPS.
    seed: of the choice of at most MOST_IMAGES images.

  Returns:
    `Symmetry` by name; without quarter turns if the images are not square.
  """
  if len(images) > MOST_IMAGES:
    images = images[np.random.default_rng(seed).choice(len(images), MOST_IMAGES,
                                                       replace=False)]
  square = images.shape[1] == images.shape[2]
  images = reduced(np.asarray(images, np.float32), LONGEST)
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    return {name: judge(images, MAPS[name]) for name in names
            if len(images) > 1 and (square or name != 'quarter_turns')}


def as_dict(found: Mapping[str, Symmetry]) -> dict[str, dict]:
  """What was found, as JSON can hold it: a share of nothing is None."""
  return {name: {key: value if np.isfinite(value) else None
                 for key, value in one._asdict().items()}
          for name, one in found.items()}


def undecided(config) -> list[str]:
  """The maps of which the options say no number: they are to be found out."""
  return [name for name in MAPS if isinstance(config.views[name], str)]


def settled(config, sample: np.ndarray, image_shape) -> tuple:
  """A config that says of every map whether it is a symmetry.

  Args:
    config: its seed, and the section views.
    sample: images [n, D].
    image_shape: (H, W, C), of product D.

  Returns:
    The config with numbers in the place of 'auto', of its own, or itself if it had none;
    and what was found, `Symmetry` by name.
  """
  names = undecided(config)
  if not names:
    return config, {}
  found = find(sample.reshape(-1, *image_shape), names,
               integer_seed(config.seed, 'symmetries'))
  config = copy.deepcopy(config)
  for name in names:
    holds = name in found and found[name].holds
    config.views[name] = MAPS[name].views if holds else 0.
  return config, found


def group(views) -> tuple[Placing, ...]:
  """All products of the maps that random views make; without the identity.

  Args:
    views: the section of a config; maps of a share of 0 are none of them.

  Returns:
    None to seven.
  """
  made = [by.placing for name, by in MAPS.items()
          if getattr(views, name) > 0]
  found, identity = set(made), Placing(False, 0)
  while more := {one.after(other) for one in made for other in found} - found:
    found |= more
  return tuple(sorted(found - {identity}))


def in_words(found: Mapping[str, Symmetry]) -> str:
  """What was found, in half a sentence; '' if nothing was looked for."""
  return ', '.join(f"{MAPS[name].text} {'yes' if one.holds else 'no'} "
                   f'({one.share:.2f} ± {one.error:.2f})' for name, one in found.items())
