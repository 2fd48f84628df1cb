"""Images of another kind than those of a fit, found without labels or a second data set.

A likelihood does not find them: plain images have high ones, though nothing like them was
seen (Nalisnick et al., 2019; Serra et al., 2020). What gives them away differs from kind
to kind, so `SCORES` of an image, seven numbers, are compared with those of the fit's
images:

  residual   mean squared difference from its projection on the principal components
  neighbour  distance to its k-th nearest image in these components, over the mean of the
             same distances of those k images (as in Breunig et al., 2000)
  edges      distance to its k-th nearest image by the histograms of its edges
  texture    Mahalanobis distance of the features of a random convolutional network
  detail     mean square of the differences of adjacent pixels
  flatness   their geometric mean, which tells a few sharp edges from many faint ones
  colours    the mean of 1 / density of its pixels' colours (geometric); none of grey ones

all as logarithms; and the Mahalanobis distance of all seven from those of fitted images,
since each may be common where all together are not. With the upper tail of a score's
values c_1..c_m made smooth,

  T(s) = -log p,  p = (1 + #{c_j >= s}) / (m + 1)           up to the quantile q of .9
         -log .1 + (s - q) / (mean of c_j - q over c_j > q)  beyond, as of an exponential

a score surprises by T(s), or where too little is as suspicious as too much by the larger
of the T of both sides, less log 2. An image's surprise S is the sum of their squares: one
large one is enough, and several smaller ones add up.

The images are halved at random. Each half in turn is the reference of the components,
neighbours and features; the other half's surprises S_i, with those of the new image by
the same reference, give its p-value, as in cross-conformal prediction (Vovk, 2015):

  p = (1 + #{i: S_i >= S by the half that i is not in}) / (n + 1).

For one half p would be uniform for a new image of the same kind, whatever the scores are;
the mean of two such p-values is below alpha with probability 2 alpha at most, and with
about alpha in practice. What is not exact is that the tails T are fitted to the c_j that
they rank. p is at least 1 / (n + 1): from fewer than 1 / alpha - 1 images nothing can be
told at the false alarm rate alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist

from jdiffclust import files
from jdiffclust.evaluation.features import FeatureMap

# Images of a reference, and numbers in the principal components of a half at most.
FEWEST_IMAGES, MOST_IMAGES, MOST_NUMBERS = 4, 3000, 2**18
MOST_COMPONENTS = 64
NEIGHBOURS = 5
# Larger images are averaged over blocks until no side is longer.
LONGEST = 32
# Where a tail is taken to be exponential: the share of the values that are in it. Its
# mean excess is FAINTEST at least: where all values are equal, rounding says nothing.
TAIL, FAINTEST = .1, 1e-3
# Added before a logarithm: a mean square of differences of pixels in [-1, 1] that no eye
# sees; and a difference of about two of 256 grey levels.
UNSEEN, FAINT = 1e-6, 4 / 255
# Of the mean variance of features, added to each.
RIDGE = 1e-3
# Cells of the histogram of colours at most, and of each channel.
MOST_COLOURS, MOST_SHADES = 2000, 16
# The same of the scores, which are standardised first.
SCORES_RIDGE = 1e-2
BLOCK = 512  # images compared with a reference at once

# Score -> what is said of an image where it is low, and where it is high. None: low is no
# surprise.
SCORES = {
    'residual': ('too plain', 'poorly explained'),
    'neighbour': (None, 'far from all'),
    'edges': (None, 'far from all'),
    'texture': (None, 'far from all'),
    'detail': ('too plain', 'too rough'),
    'flatness': ('too plain', 'too rough'),
    'colours': (None, 'strange colours'),
}
TEXTS = (*SCORES.values(), (None, 'unusual as a whole'))  # the last of all scores jointly
MAPS = ('edges', 'texture')  # the features that are asked for


class Half(NamedTuple):
  """Half of the images as what images are compared with; arrays of float32.

  Attributes:
    mean: of the pixels, [D].
    components: principal components, [K, D].
    places: of the m images in the components, [m, K].
    reaches: the distance of each to its k-th nearest other one there, [m].
    edges: features of the m images, [m, E].
    centre: of the features 'texture', [F].
    whitening: [F, F]; features minus centre, times it, have about unit covariance.
    rarities: -log of the share of the pixels that have a colour, [cells]; [1]: grey.
    others: `SCORES` of the images of the other half, [n - m, 7].
    witness: features 'texture' of the mean image, [1, F]: what makes them must stay.
  """

  mean: np.ndarray
  components: np.ndarray
  places: np.ndarray
  reaches: np.ndarray
  edges: np.ndarray
  centre: np.ndarray
  whitening: np.ndarray
  rarities: np.ndarray
  others: np.ndarray
  witness: np.ndarray


class Verdict(NamedTuple):
  """What is found of images.

  Attributes:
    p_values: [n]; of new images of the fit's kind about uniform, small for others.
    reasons: what sets each image apart the most, n texts.
  """

  p_values: np.ndarray
  reasons: list[str]


# ------------------------------------------------------------------------- statistics


def tail(reference, values) -> np.ndarray:
  """T of the module's docstring: -log of the share of a reference at or above a value.

  Args:
    reference: c, [m], m > 0.
    values: s, [n].

  Returns:
    [n], at least 0, rising with s.
  """
  reference = np.sort(np.asarray(reference, np.float64))
  values = np.asarray(values, np.float64)
  quantile = np.quantile(reference, 1 - TAIL)
  beyond = reference[reference > quantile] - quantile
  excess = max(FAINTEST, beyond.mean() if len(beyond) else 0.)
  return np.where(values > quantile, (values - quantile) / excess - np.log(TAIL),
                  -np.log(p_values(reference, values)))


def joint_distances(base, values) -> np.ndarray:
  """log Mahalanobis distances of scores from those of a base, squared, [n].

  Args:
    base: scores of m images, [m, 7], m > 1.
    values: scores of others, [n, 7].
  """
  centre, scale = base.mean(axis=0), base.std(axis=0) + FAINTEST
  known, new = (base - centre) / scale, (values - centre) / scale
  covariance = np.cov(known, rowvar=False) + SCORES_RIDGE * np.eye(known.shape[1])
  return np.log(np.sum(new * np.linalg.solve(covariance, new.T).T, axis=1) + UNSEEN)


def surprises(reference, values, base) -> tuple[np.ndarray, np.ndarray]:
  """How far each of `SCORES`, and last all jointly, lie in the tails of a reference.

  Args:
    reference: scores of m images, [m, 7].
    values: scores of new images, [n, 7].
    base: scores of other images than these, which say how scores go together; images of
      the reference would be nearer to their own mean than new ones.

  Returns:
    Surprises [n, 8], at least 0, and whether the score is too low, bool [n, 8].
  """
  reference, values, base = (np.asarray(array, np.float64)
                             for array in (reference, values, base))
  found, low = (np.zeros((len(values), len(TEXTS)), kind) for kind in (float, bool))
  for k, (if_low, _) in enumerate(SCORES.values()):
    found[:, k] = tail(reference[:, k], values[:, k])
    if if_low:
      other = tail(-reference[:, k], -values[:, k])
      low[:, k] = other > found[:, k]
      found[:, k] = np.maximum(0, np.maximum(found[:, k], other) - np.log(2))
  found[:, -1] = tail(joint_distances(base, reference), joint_distances(base, values))
  return found, low


def at_least(reference, values) -> np.ndarray:
  """How many of a reference [m] are at least as large as each of values [n], int [n]."""
  return len(reference) - np.searchsorted(np.sort(reference), values, 'left')


def p_values(reference, values) -> np.ndarray:
  """Ranks of values [n] from the top of a reference [m]: (1 + #{c_j >= s}) / (m + 1)."""
  return (1 + at_least(reference, values)) / (len(reference) + 1)


# ------------------------------------------------------------------------------ scores


def smaller(images, longest: int = LONGEST) -> np.ndarray:
  """Images averaged over square blocks, so that no side exceeds `longest`.

  Args:
    images: [n, H, W, C]; what is left of the blocks at the lower and right edge is cut.
    longest: pixels.

  Returns:
    float32 [n, h, w, C].
  """
  images = np.asarray(images, np.float32)
  factor = -(-max(images.shape[1:3]) // longest)
  height, width = (max(1, side // factor) for side in images.shape[1:3])
  cut = images[:, :height * factor, :width * factor]
  rows, columns = (min(factor, side) for side in images.shape[1:3])
  return cut.reshape(len(cut), height, rows, width, columns, -1).mean(axis=(2, 4))


def kth_neighbours(places, points, k: int) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest of m places to each point.

  Args:
    places: [m, K].
    points: [n, K].
    k: from 1 to m.

  Returns:
    The distance to the k-th nearest [n], and the indices of all k [n, k], in no order.
  """
  distances, nearest = np.zeros(len(points)), np.zeros((len(points), k), int)
  for begin in range(0, len(points), BLOCK):
    rows = slice(begin, begin + BLOCK)
    between = cdist(points[rows], places)
    nearest[rows] = np.argpartition(between, k - 1, axis=1)[:, :k]
    distances[rows] = np.take_along_axis(between, nearest[rows], axis=1).max(axis=1)
  return distances, nearest


def subspace(pixels) -> tuple[np.ndarray, np.ndarray]:
  """The mean and the principal components whose variance exceeds the average one.

  Args:
    pixels: [m, D], m > 1.

  Returns:
    [D], and [K, D] of orthonormal rows, 1 <= K <= `MOST_COMPONENTS`.
  """
  mean = pixels.mean(axis=0)
  centred = pixels - mean
  few = len(pixels) < pixels.shape[1]  # the smaller of the two Gram matrices
  gram = centred @ centred.T if few else centred.T @ centred
  most = min(MOST_COMPONENTS, len(gram))
  values, vectors = scipy.linalg.eigh(
      gram, subset_by_index=(len(gram) - most, len(gram) - 1))
  values, vectors = values[::-1], vectors[:, ::-1]
  average = np.trace(gram) / min(len(pixels) - 1, pixels.shape[1])
  count = min(max(1, int(np.sum(values > average * (1 + 1e-9)))),
              max(1, MOST_NUMBERS // pixels.shape[1]))
  components = vectors[:, :count].T
  if few:
    components = components @ centred
    components /= np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-12)
  return mean, components


def whitening(features) -> tuple[np.ndarray, np.ndarray]:
  """The mean of features [m, F], [F], and what makes their covariance unity, [F, F]."""
  covariance = np.atleast_2d(np.cov(features, rowvar=False))
  ridge = RIDGE * np.trace(covariance) / len(covariance) + 1e-12
  inverse = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
  return features.mean(axis=0), np.linalg.cholesky((inverse + inverse.T) / 2)


def steps(images) -> np.ndarray:
  """Differences of pixels with those on their right and below, [n, ...]; 0: a pixel."""
  flat = [np.diff(images, axis=axis).reshape(len(images), -1) for axis in (2, 1)]
  flat = np.concatenate(flat, axis=1)
  return flat if flat.shape[1] else np.zeros((len(images), 1))


def colours(images) -> tuple[np.ndarray, int]:
  """The cell of the histogram of colours that each pixel falls in.

  Args:
    images: [n, h, w, C] in [-1, 1].

  Returns:
    int [n, h w], and how many cells there are: 1 if C is 1.
  """
  channels = images.shape[-1]
  shades = 1 if channels == 1 else min(MOST_SHADES, int(MOST_COLOURS**(1 / channels)))
  cells = np.clip(((images + 1) / 2 * shades).astype(int), 0, shades - 1)
  return (cells @ shades**np.arange(channels)).reshape(len(images), -1), shades**channels


def rarities(images) -> np.ndarray:
  """-log of the share of all pixels in each cell of `colours`, half a pixel more each."""
  cells, count = colours(images)
  counts = np.bincount(cells.ravel(), minlength=count) + .5
  return -np.log(counts / counts.sum())


def scores(half: Half, images, maps: Mapping[str, FeatureMap]) -> np.ndarray:
  """`SCORES` of images against half of a fit's images.

  Args:
    half: that half; its `others` are not looked at.
    images: [n, h, w, C], of `smaller`.
    maps: features by the names of `MAPS`.

  Returns:
    float64 [n, 7].
  """
  pixels = images.reshape(len(images), -1).astype(np.float64)
  size, k = pixels.shape[1], min(NEIGHBOURS, len(half.places))
  places = (pixels - half.mean) @ half.components.T
  residual = pixels - half.mean - places @ half.components
  distance, nearest = kth_neighbours(half.places, places, k)
  log_distance = lambda d: np.log(d**2 / size + UNSEEN) / 2
  of_edges, _ = kth_neighbours(half.edges, maps['edges'](images), k)
  texture = (maps['texture'](images) - half.centre) @ half.whitening
  step = steps(images.astype(np.float64))
  return np.stack([
      np.log(np.mean(residual**2, axis=1) + UNSEEN),
      log_distance(distance) - log_distance(half.reaches[nearest].mean(axis=1)),
      np.log(of_edges + UNSEEN),
      np.log(np.mean(texture**2, axis=1) + UNSEEN),
      np.log(np.mean(step**2, axis=1) + UNSEEN),
      np.mean(np.log(np.abs(step) + FAINT), axis=1),
      np.mean(half.rarities[colours(images)[0]], axis=1)], axis=1)


# --------------------------------------------------------------------------- reference


def make_half(images, others, maps: Mapping[str, FeatureMap]) -> Half:
  """Half of the images, with the scores of the others against it.

  Args:
    images: [m, h, w, C], m > 1.
    others: [n - m, h, w, C].
    maps: features by the names of `MAPS`.
  """
  pixels = images.reshape(len(images), -1).astype(np.float64)
  mean, components = subspace(pixels)
  places = (pixels - mean) @ components.T
  # The nearest of all is the image itself.
  reaches, _ = kth_neighbours(places, places, min(NEIGHBOURS + 1, len(places)))
  half = Half(mean, components, places, reaches, maps['edges'](images),
              *whitening(maps['texture'](images)), rarities(images),
              np.zeros((0, len(SCORES))), _mean_texture(mean, maps, images.shape[1:]))
  half = Half(*(np.asarray(array, np.float32) for array in half))
  return half._replace(others=scores(half, others, maps).astype(np.float32))


def halves(count: int, seed: int) -> list[np.ndarray]:
  """The rows of each half of a reference, rising."""
  order = np.random.default_rng(seed).permutation(count)
  return [np.sort(rows) for rows in np.array_split(order, 2)]


def make_reference(images, maps: Mapping[str, FeatureMap],
                   seed: int) -> tuple[Half, Half]:
  """What images are compared with later, of the images of a fit.

  Args:
    images: [n, h, w, C] in [-1, 1], of `smaller`; `FEWEST_IMAGES` to `MOST_IMAGES`.
    maps: features by the names of `MAPS`: functions of images to arrays [n, ...].
    seed: of the halves.
  """
  first, second = (images[rows] for rows in halves(len(images), seed))
  return make_half(first, second, maps), make_half(second, first, maps)


def judge(reference: tuple[Half, Half], images,
          maps: Mapping[str, FeatureMap]) -> Verdict:
  """How unusual images are beside those of a reference.

  Args:
    reference: of `make_reference`.
    images: [n, h, w, C] in [-1, 1], of `smaller`.
    maps: those of the reference.

  Returns:
    `Verdict`.
  """
  count, as_unusual, mean, low = 0, 0, 0., 0
  for half, other in zip(reference, reference[::-1]):
    new = scores(half, images, maps).astype(np.float32)
    known, _ = surprises(half.others, half.others, other.others)
    found, too_low = surprises(half.others, new, other.others)
    as_unusual = as_unusual + at_least(np.sum(known**2, axis=1),
                                       np.sum(found**2, axis=1))
    count, mean, low = count + len(known), mean + found, low + too_low
  return Verdict(np.asarray((1 + as_unusual) / (count + 1)),
                 _reasons(np.asarray(mean), np.asarray(low == len(reference))))


def judge_members(reference: tuple[Half, Half]) -> Verdict:
  """How unusual the images of a reference are among themselves.

  Each is compared with the half that it is not in, and ranked among its own half:
  whatever the images are, a share p of them has a p-value of at most p.

  Args:
    reference: of `make_reference`, of n images.

  Returns:
    `Verdict` of the n images, in the order that `halves` gives.
  """
  found = []
  for half, other in zip(reference, reference[::-1]):
    known, low = surprises(half.others, half.others, other.others)
    size = np.sum(known**2, axis=1)
    found.append((at_least(size, size) / len(size), _reasons(known, low)))
  (second, of_second), (first, of_first) = found  # each half holds the other's scores
  return Verdict(np.concatenate([first, second]), [*of_first, *of_second])


def _reasons(found: np.ndarray, low: np.ndarray) -> list[str]:
  """What is said of images of such surprises [n, 8], too low or not."""
  return [TEXTS[k][not low[i, k]] for i, k in enumerate(np.argmax(found, axis=1))]


def _mean_texture(mean, maps, shape) -> np.ndarray:
  return np.asarray(maps['texture'](mean.reshape(1, *shape).astype(np.float32)))


def is_of(reference: tuple[Half, Half], maps: Mapping[str, FeatureMap],
          shape: tuple[int, ...]) -> bool:
  """Whether a reference is of these features: another version may draw other ones.

  Args:
    reference: of `make_reference`.
    maps: features by the names of `MAPS`.
    shape: of an image, (h, w, C).
  """
  return all(
      half.mean.size == np.prod(shape) and np.allclose(
          _mean_texture(half.mean, maps, shape), half.witness, rtol=1e-2,
          atol=1e-3 * max(1e-6, float(np.abs(half.witness).max())))
      for half in reference)


def write_reference(path, reference: tuple[Half, Half]) -> None:
  """Writes a reference as an .npz file, atomically."""
  arrays = {f'{name}_{k}': array for k, half in enumerate(reference)
            for name, array in half._asdict().items()}
  files.write_npz(path, arrays)


def read_reference(path) -> tuple[Half, Half] | None:
  """What `write_reference` wrote; None if there is no such file, or a damaged one."""
  arrays = files.read_npz(path)
  if arrays is None or not all(
      f'{name}_{k}' in arrays for name in Half._fields for k in range(2)):
    return None
  first, second = (Half(*(arrays[f'{name}_{k}'] for name in Half._fields))
                   for k in range(2))
  return first, second
