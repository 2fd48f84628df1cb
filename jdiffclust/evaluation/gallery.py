"""The images of a run as what others are compared with: nearest ones, copies, a map.

Distances are Euclidean, of features that the caller brings. Beyond `EXACT` images the
nearest are looked for in a graph (`graph_search.py`): no part of this grows as the square
of their number. The map is t-SNE of at most `MAP_IMAGES` images; the others, and new
images, lie at the mean of the `ANCHORS` images of these that are nearest to them,
weighted by the inverse of the squared distance.

An image is an *exact* copy of one whose pixels are the same, as the run reads them. It is
a *near* copy by its signature s: averaged over blocks to `SIGNATURE` pixels a side at
most, without its mean, scaled to norm 1; so brightness and contrast do not count. With
|s_i - s_j|^2 = 2 - 2 r, r their correlation, i and j are near copies if

  r >= `ALIKE`   and   |s_i - s_j| <= `CLOSER` |s_i - s_k|   and the same for j,

k the `NEAREST`-th nearest image of each by signature: the pair must be far closer than
others of their surroundings, which the most common images would not be otherwise. How
many are called so wrongly, and which copies are found: benchmarks/copies.py.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from jdiffclust import files, graph_search
from jdiffclust.evaluation import foreign, latent_space
from jdiffclust.evaluation.interpolation import weighted

FILE = 'gallery.npz'  # in the folder of a run
NEAREST = 10  # neighbours of an image that are told, and by which copies are judged
MAP_IMAGES = 3000  # t-SNE of as many takes some ten seconds
ANCHORS = 3
SIGNATURE = 16
ALIKE, CLOSER = .99, .4
TINY = 1e-12  # distances of features below are none
BLOCK = 1024  # images compared at once
EXACT = 50_000  # images up to which comparing each with each takes no longer


class Gallery(NamedTuple):
  """The N images of a run.

  Attributes:
    ids: N texts.
    features: float32 [N, D].
    points: places on the map, float32 [N, 2].
    signatures: float16 [N, S].
    digests: of the pixels, uint64 [N].
    mean, components: of the principal components that the features are, [P], [D, P];
      empty where a network gives the features.
  """

  ids: np.ndarray
  features: np.ndarray
  points: np.ndarray
  signatures: np.ndarray
  digests: np.ndarray
  mean: np.ndarray
  components: np.ndarray


class Copies(NamedTuple):
  """Which images repeat others.

  Attributes:
    of: the row of the image that each repeats, int [n]; -1: none.
    exact: whether it does so to the pixel, bool [n].
  """

  of: np.ndarray
  exact: np.ndarray


def nearest(rows: np.ndarray, known: np.ndarray, count: int,
            own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of known rows to each row.

  Args:
    rows: [n, D].
    known: [m, D].
    count: k, cut to m, or to m - 1 with `own`.
    own: the place of each row among the known ones, int [n], which is left out; None: it
      is none of them.

  Returns:
    Their places int [n, k] and distances float64 [n, k], rising.
  """
  rows, known = (np.asarray(a, np.float32) for a in (rows, known))
  count = min(count, len(known) - (own is not None))
  found, away = np.zeros((len(rows), count), int), np.zeros((len(rows), count))
  if not count or not len(rows):
    return found, away
  # A graph is worth its making for many that ask, among many.
  look = _by_graph if min(len(rows), len(known)) > EXACT else _by_all
  near = look(rows, known, count, own)
  for begin in range(0, len(rows), BLOCK):
    here = slice(begin, begin + BLOCK)
    # Exactly, of the few: differences of large numbers would leave nothing of small ones.
    exact = np.sqrt(np.sum((known[near[here]].astype(np.float64)
                            - rows[here, None].astype(np.float64))**2, axis=-1))
    order = np.lexsort((near[here], exact))
    found[here] = np.take_along_axis(near[here], order, axis=1)
    away[here] = np.take_along_axis(exact, order, axis=1)
  return found, away


def _by_all(rows, known, count, own):
  """The places [n, k] of the nearest, in no order: each is compared with each."""
  found = np.zeros((len(rows), count), int)
  norms = np.einsum('md,md->m', known, known)
  for begin in range(0, len(rows), BLOCK):
    here = slice(begin, begin + BLOCK)
    between = norms - 2 * rows[here] @ known.T  # but for the norm of the row itself
    if own is not None:
      between[np.arange(len(between)), own[here]] = np.inf
    found[here] = np.argpartition(between, count - 1, axis=1)[:, :count]
  return found


def _by_graph(rows, known, count, own):
  """The same by a graph; a few of them may be missed for others that are near."""
  near = graph_search.search(rows, known, count + (own is not None))[1]
  short = np.flatnonzero((near < 0).any(axis=1))
  if own is not None:
    # Itself goes last, and off; else the farthest does.
    order = np.argsort(near == own[:, None], axis=1, kind='stable')
    near = np.take_along_axis(near, order, axis=1)[:, :count]
  if len(short):
    near[short] = _by_all(rows[short], known, count,
                          None if own is None else own[short])
  return near


def spread(features: np.ndarray, seed: int, most: int = MAP_IMAGES) -> np.ndarray:
  """A map of images, float32 [N, 2]; see the module's text.

  Args:
    features: [N, D].
    seed: of the map and of the choice of images.
    most: images of which t-SNE is made.
  """
  if len(features) < 4:  # t-SNE has nothing to arrange
    return np.stack([np.arange(len(features)), np.zeros(len(features))], 1).astype('f4')
  points, indices = latent_space.embed(features, seed, most)
  found = placed(features, features[indices], points)
  found[indices] = points
  return found


def placed(features: np.ndarray, known: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Places [n, 2] of images on a map of others, float32.

  Args:
    features: [n, D].
    known: of m images, [m, D].
    points: their places, [m, 2].
  """
  near, away = nearest(features, known, ANCHORS)
  return weighted(away, points[near], TINY)


def signatures(images: np.ndarray) -> np.ndarray:
  """What near copies are known by, float16 [n, S]; 0 of images of one level.

  Args:
    images: [n, H, W, C].
  """
  flat = foreign.smaller(images, SIGNATURE).reshape(len(images), -1).astype(np.float64)
  flat -= flat.mean(axis=1, keepdims=True)
  norms = np.linalg.norm(flat, axis=1, keepdims=True)
  return (flat / np.where(norms > 1e-6, norms, np.inf)).astype(np.float16)


def digests(images: np.ndarray) -> np.ndarray:
  """A number of each image's pixels, uint64 [n], of [n, H, W, C] of one type."""
  return np.array([int.from_bytes(hashlib.blake2b(
      np.ascontiguousarray(image).tobytes(), digest_size=8).digest(), 'little')
                   for image in images], np.uint64)


def _alike(away: np.ndarray, reach: np.ndarray) -> np.ndarray:
  """Whether distances of signatures are those of near copies, each reaching so far."""
  return (away <= np.sqrt(2 - 2 * ALIKE)) & (away <= CLOSER * reach)


def copies_among(marks: np.ndarray, pixels: np.ndarray) -> Copies:
  """Which images of a collection repeat an earlier one.

  Args:
    marks: signatures [N, S].
    pixels: digests [N].

  Returns:
    `Copies`: of the first that has the same pixels, or else of the first of all those
    that are linked as near copies.
  """
  of = first_alike(pixels)
  exact = of != np.arange(len(of))
  singles = np.flatnonzero(~exact)
  if NEAREST < len(singles):
    owner = np.arange(len(of))

    def root(row):
      while owner[row] != row:
        row = owner[row] = owner[owner[row]]
      return row

    rows = marks[singles]
    near, away = nearest(rows, rows, NEAREST, np.arange(len(rows)))
    reach = away[:, -1:]
    seen = np.any(np.asarray(rows, np.float32) != 0, axis=1)  # not of one level
    linked = (_alike(away, reach) & _alike(away, reach[near, 0]) & seen[:, None]
              & seen[near])
    for row, k in zip(*np.nonzero(linked)):
      one, other = sorted((root(singles[row]), root(singles[near[row, k]])))
      owner[other] = one
    of[singles] = [root(row) for row in singles]
  return Copies(np.where(of == np.arange(len(of)), -1, of), exact)


def first_alike(pixels: np.ndarray) -> np.ndarray:
  """The first row of the same digest, of each of N, int [N]."""
  _, first, group = np.unique(pixels, return_index=True, return_inverse=True)
  return first[group.reshape(-1)]


def copies_of(marks: np.ndarray, pixels: np.ndarray, known: Gallery) -> Copies:
  """Which new images repeat one of a run.

  Args:
    marks: signatures of the new images [n, S].
    pixels: their digests [n].
    known: the images of the run.
  """
  different, singles = np.unique(known.digests, return_index=True)
  place = np.minimum(np.searchsorted(different, pixels), len(different) - 1)
  exact = different[place] == pixels
  of = np.where(exact, singles[place], -1)
  # Among images that differ: ten that are the same would hide how far others are.
  singles.sort()
  rivals = known.signatures[singles]
  if NEAREST < len(rivals):
    near, away = nearest(marks, rivals, NEAREST)
    seen = np.any(np.asarray(marks, np.float32) != 0, axis=1)
    rows = np.flatnonzero(_alike(away[:, 0], away[:, -1]) & seen & ~exact)
    one = near[rows, 0]
    _, around = nearest(rivals[one], rivals, NEAREST, one)
    close = _alike(away[rows, 0], around[:, -1])
    of[rows[close]] = singles[one[close]]
  return Copies(of, exact)


def write(path, gallery: Gallery) -> None:
  """Writes a gallery as an .npz file, atomically."""
  files.write_npz(path, gallery._asdict())


def read(path) -> Gallery | None:
  """What `write` wrote; None if there is no such file, or a damaged one."""
  arrays = files.read_npz(path)
  if arrays is None or not set(Gallery._fields) <= set(arrays):
    return None
  return Gallery(*(arrays[name] for name in Gallery._fields))
