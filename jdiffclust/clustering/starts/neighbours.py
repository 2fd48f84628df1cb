"""A start from neighbourhoods: which images look alike, in more than one respect.

Pixel distances mistake a shifted stroke for another shape. Here the distance of two
images is the smallest one over random views of either (small rotations, shifts, ...):

  d(i, j)^2 = min_k min(norm2(T_k x_i - x_j), norm2(x_i - T_k x_j)),   T_0 = identity,

or one of what is described rather than of pixels: edges (`edges.py`), or the features of
a denoiser (`denoiser_features.py`), where T_0 may be the only view. Where mirroring or
quarter turns are symmetries of the images (`symmetry.py`), x_j is first placed so that it
is nearest to x_i.

The nearest neighbours by d make a graph, weighted by the self-tuning kernel
exp(-d_ij^2 / (s_i s_j)), s_i the distance of the last neighbour (Zelnik-Manor and
Perona, 2004), and graphs are cut by K-means on the leading eigenvectors of the
normalised adjacency, rows scaled to norm 1 (Ng, Jordan and Weiss, 2001).

How many neighbours, eigenvectors and cells a cut takes would be hyper-parameters that
only labels could choose, and which views are drawn is chance. None is chosen: several
sets of views are drawn, all combinations of a fixed set are cut in the graph of each,
and the *consensus* of all cuts is clustered. With H [N, M], the indicators of all M
cells of all cuts, images are alike as often as they share a cell, H W H^T, every space
having the same say: W divides 1 among the cuts of a space. The same spectral cut of that
graph (its eigenvectors are singular vectors of H W^1/2) is the partition. The
responsibility of cluster q for image i is the share of the cuts' cells that i has in
common with the members of q, normalised over q: where the cuts disagree, it is soft.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

from jdiffclust.batch import in_blocks
from jdiffclust.clustering.starts.candidates import Near, nearest
from jdiffclust.clustering.starts.partitions import (
    Assign, content_keys, fitted_kmeans, owners_of, rows_by_key)
from jdiffclust.data import symmetry
from jdiffclust.data.symmetry import Placing
from jdiffclust.data.views import AffineMaps, transform
from jdiffclust.errors import UserError
from jdiffclust.evaluation.interpolation import weighted
from jdiffclust.registry import EMBEDDINGS, SPACES

# The fixed set of cuts: neighbours, and eigenvectors and cells in multiples of Q.
NEIGHBOURS = (7, 10, 15, 25)
EIGENVECTORS = (1., 1.2, 1.5, 2.)
CELLS = (1., 1.5, 2.)
# Images by plain distance among which the neighbours by views are looked for.
CANDIDATES = 200
NEAREST = 10  # images of the sample that speak for a new one
FITTED = 20000  # rows that K-means is fitted to, at most
SORTED = 4096  # images whose neighbours are sorted at once
SMALL = 500  # up to this many images all eigenvectors are found at once


@jax.jit
def _distances_over_views(images, candidates, maps: AffineMaps):
  """min_k norm2(T_k x_b - y_bc), T_0 the identity: [B, C] of [B, H, W, C'], [B, C, D]."""
  views = jax.vmap(jax.vmap(transform, (None, 0)), (0, None))(images, maps)
  views = views.reshape(*views.shape[:2], -1)
  squares = (jnp.sum(views**2, axis=-1)[:, :, None]
             + jnp.sum(candidates**2, axis=-1)[:, None]
             - 2 * jnp.einsum('bkd,bcd->bkc', views, candidates))
  own = jnp.sum((images.reshape(len(images), 1, -1) - candidates)**2, axis=-1)
  return jnp.minimum(jnp.maximum(squares, 0).min(axis=1), own)


def squares_over_views(images, sample, maps: AffineMaps, near: Near,
                       placed: Sequence = ()) -> np.ndarray:
  """Squared distances of images to those near them, the smallest ones over views.

  Args:
    images: [n, H, W, C].
    sample: [m, H, W, C].
    maps: K views of each of `images`; the image itself is one more.
    near: images of the sample, [n, num], each compared as it was placed when it was near.
    placed: as of `nearest`, each of the shape of `sample`.

  Returns:
    float32 [n, num].
  """
  count = len(sample)
  sample = jnp.concatenate([jnp.asarray(some, jnp.float32).reshape(count, -1)
                            for some in (sample, *placed)])
  of_block = lambda rows: _distances_over_views(
      jnp.asarray(images[rows], jnp.float32),
      sample[near.which[rows].astype(np.int32) * count + near.found[rows]], maps)
  # On CPUs a block and its neighbours should fit into the cache: three times as fast.
  size = 8 if jax.default_backend() == 'cpu' else 64
  return in_blocks(of_block, len(images), size)


def nearest_by_views(images, sample, sets: Sequence[AffineMaps], num: int,
                     placed: Sequence = ()) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The nearest images of a sample, by the smallest distance over views.

  An image of the sample is compared as it is, or as one of `placed` that is nearer by
  plain distance.

  Args:
    images: [n, H, W, C].
    sample: [m, H, W, C].
    sets: of each, K views of each of `images`; the image itself is one more, and the
      only one if there are no sets.
    num: how many neighbours, at most m.
    placed: the sample mirrored or turned, as often as that is a symmetry: each of its
      shape.

  Yields:
    For each set, or once: indices in the sample [n, num], in no order, which are the
    `num` nearest by plain distance, and their squared distances over the views [n, num].
  """
  flat = lambda some: np.asarray(some, np.float32).reshape(len(some), -1)
  near = nearest(flat(images), flat(sample), num, [flat(some) for some in placed])
  if not sets:
    yield near.found, near.squares
  for maps in sets:
    yield near.found, squares_over_views(images, sample, maps, near, placed)


class NeighbourDistances:
  """The symmetric distances of a sample's images to those near them.

  Attributes:
    count: n.
    most: the neighbours that every image has at least.
  """

  def __init__(self, found: np.ndarray, squares: np.ndarray):
    """Takes the smaller distance of both directions, and sorts.

    Args:
      found: indices [n, C], as of `nearest_by_views`; an image itself is left out.
      squares: squared distances [n, C].
    """
    count, num = found.shape
    # Sparse matrices treat what they lack as zero: so not distances but closeness.
    closeness = 1 / (1 + squares.astype(np.float64))
    closeness[found == np.arange(count)[:, None]] = 0
    closeness = scipy.sparse.csr_array(
        (closeness.ravel(), found.ravel(), num * np.arange(count + 1)),
        shape=(count, count))
    closeness.eliminate_zeros()
    self._hold(closeness.maximum(closeness.T))

  def _hold(self, closeness):
    self._closeness, self.count = closeness, closeness.shape[0]
    lengths = np.diff(closeness.indptr)
    self.most = int(lengths.min())
    kept = min(self.most, max(NEIGHBOURS))
    self._columns = np.empty((self.count, kept), np.int32)
    self._squares = np.empty((self.count, kept))
    for start in range(0, self.count, SORTED):
      part = closeness[start:start + SORTED]
      rows = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
      order = np.lexsort((part.indices, -part.data, rows))
      places = order[part.indptr[:-1, None] + np.arange(kept)]
      self._columns[start:start + SORTED] = part.indices[places]
      self._squares[start:start + SORTED] = 1 / part.data[places] - 1

  def among(self, rows: np.ndarray) -> 'NeighbourDistances':
    """The same of some images alone: `rows` [m], ascending, are the images 0..m - 1."""
    part = copy.copy(self)
    part._hold(self._closeness[rows][:, rows])
    return part

  def graph(self, num: int):
    """The self-tuning graph of each image's nearest, sparse [n, n].

    Args:
      num: how many of each, at most `most` and the largest of NEIGHBOURS.
    """
    count = self.count
    columns, squares = self._columns[:, :num], self._squares[:, :num]
    tiny = np.finfo(np.float32).tiny
    scales = np.sqrt(np.maximum(squares[:, -1], tiny))  # images may be equal
    weights = np.exp(-squares / (scales[:, None] * scales[columns]))
    # An image whose neighbours all lie in a heap of equal ones is not cut off.
    weights = np.maximum(weights, 1e-8)
    graph = scipy.sparse.csr_array(
        (weights.ravel(), columns.ravel(), num * np.arange(count + 1)),
        shape=(count, count))
    return graph.maximum(graph.T)


def find_neighbours(images, sets: Sequence[AffineMaps] = (),
                    placed: Sequence = ()) -> Iterator[NeighbourDistances]:
  """The `NeighbourDistances` of images [n, H, W, C] among themselves, by their views.

  Args:
    images, sets, placed: as of `nearest_by_views`, the images being the sample.

  Yields:
    Those of each set of views, or once.
  """
  num = min(CANDIDATES + 1, len(images))
  for found, squares in nearest_by_views(images, images, sets, num, placed):
    yield NeighbourDistances(found, squares)


def unit_rows(matrix: np.ndarray) -> np.ndarray:
  """Rows scaled to norm 1; rows of zeros stay."""
  return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def k_means(rows: np.ndarray, num: int, restarts: int, seed: int) -> np.ndarray:
  """Cell numbers [n] of rows [n, D]: fewer than `num` if fewer rows are distinct.

  Of more than FITTED rows, the cells' means are those of as many drawn ones.
  """
  some = rows
  if len(rows) > FITTED:
    drawn = np.random.default_rng(seed).choice(len(rows), FITTED, replace=False)
    some = rows[np.sort(drawn)]
  model = fitted_kmeans(some, num, restarts, seed)
  return model.labels_ if some is rows else model.predict(rows)


def spectral_embedding(graph, num: int, seed: int) -> np.ndarray:
  """The leading eigenvectors of the normalised adjacency D^-1/2 W D^-1/2.

  Args:
    graph: W, symmetric [n, n], a sparse matrix or a `LinearOperator`, every row of a
      positive sum.
    num: how many, at most n - 1.
    seed: of the solver's first vector.

  Returns:
    [n, num], by falling eigenvalue.
  """
  graph = aslinearoperator(graph)
  count = graph.shape[0]
  scale = (graph @ np.ones(count))**-.5
  if count <= SMALL:
    matrix = scale[:, None] * (graph @ np.eye(count)) * scale
    return np.linalg.eigh((matrix + matrix.T) / 2)[1][:, ::-1][:, :num]
  scaled = LinearOperator(graph.shape, lambda v: scale * (graph @ (scale * v.ravel())),
                          dtype=np.float64)
  first = np.random.default_rng(seed).normal(size=count)
  values, vectors = eigsh(scaled, num, which='LA', v0=first)
  return vectors[:, np.argsort(-values)]


def graphs(neighbours: NeighbourDistances) -> list:
  """The graphs of all of NEIGHBOURS, as far as images have that many neighbours."""
  return [neighbours.graph(num)
          for num in sorted({min(num, neighbours.most) for num in NEIGHBOURS})]


def embeddings(graphs: list, num_clusters: int, seed: int) -> list[np.ndarray]:
  """As many eigenvectors of each graph as `cuts` takes for up to `num_clusters`."""
  most = round(EIGENVECTORS[-1] * num_clusters)
  return [spectral_embedding(graph, min(most, graph.shape[0] - 1), seed)
          for graph in graphs]


def cuts(embeddings: list[np.ndarray], num_clusters: int, seed: int,
         restarts: int = 3) -> list[np.ndarray]:
  """The partitions of all combinations of NEIGHBOURS, EIGENVECTORS and CELLS.

  Args:
    embeddings: of `embeddings`, [n, at least all that EIGENVECTORS asks for].
    num_clusters: Q <= n.
    seed: of K-means.
    restarts: of K-means.

  Returns:
    A list of cell numbers [n].
  """
  count, width = embeddings[0].shape
  times = lambda factors, most: sorted(
      {min(round(factor * num_clusters), most) for factor in factors})
  found = []
  for vectors, dimension, k in itertools.product(
      embeddings, times(EIGENVECTORS, width), times(CELLS, count)):
    rows = unit_rows(vectors[:, :dimension])
    found.append(k_means(rows, k, restarts, seed))
  return found


def consensus(partitions: list[np.ndarray], num_clusters: int, seed: int,
              weights: Sequence[float] | None = None) -> np.ndarray:
  """The partition that agrees with many, and how much they agree.

  Args:
    partitions: cell numbers [n] each.
    num_clusters: Q <= n.
    seed: of K-means.
    weights: positive, how much each partition counts; all the same with None.

  Returns:
    Responsibilities, float32 [n, Q].
  """
  count = len(partitions[0])
  weights = np.ones(len(partitions)) if weights is None else np.asarray(weights)
  indicators = scipy.sparse.hstack(
      [indicator_matrix(cells, cells.max() + 1) * np.sqrt(weight)
       for cells, weight in zip(partitions, weights, strict=True)]).tocsr()
  alike = aslinearoperator(indicators) @ aslinearoperator(indicators.T.tocsr())
  vectors = spectral_embedding(alike, min(num_clusters, count - 1), seed)
  members = k_means(unit_rows(vectors), num_clusters, 20, seed)
  sizes = np.bincount(members, minlength=num_clusters)
  sums = (indicator_matrix(members, num_clusters).T @ indicators).toarray()
  shared = indicators @ (sums / np.maximum(sizes, 1)[:, None]).T
  return (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32)


def indicator_matrix(cells: np.ndarray, num: int):
  """Cell numbers [n] in 0..num - 1 as a sparse matrix of zeros and ones, [n, num]."""
  count = len(cells)
  return scipy.sparse.csr_array((np.ones(count), (np.arange(count), cells)),
                                shape=(count, num))


class Description(NamedTuple):
  """One way to see images.

  Attributes:
    describe: from images [n, H, W, C] to what is compared in their place, [n, h, w, c].
    sets: views of what is compared, each set of which gives graphs of its own; without
      any, it is compared alone.
    placings: the images' symmetries, see `symmetry.group`.
    of_embeddings: whether it is the images' embeddings [n, D] that are described, in
      their place.
  """

  describe: Callable[[np.ndarray], np.ndarray]
  sets: Sequence[AffineMaps] = ()
  placings: Sequence[Placing] = ()
  of_embeddings: bool = False

  def compared(self, images: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
    """What is described of images [n, H, W, C] and their embeddings, [n, h, w, c]."""
    if self.of_embeddings:
      assert vectors is not None
      return self.describe(vectors)
    return self.describe(images)

  def placed(self, images: np.ndarray) -> list[np.ndarray]:
    """What is described of images under each of the symmetries, [n, h, w, c]."""
    return [self.describe(placing(images)) for placing in self.placings]


def cuts_of(images, space: Sequence[Description], num_clusters: int, seed: int,
            vectors: np.ndarray | None = None) -> list[np.ndarray]:
  """All cuts of the graphs of a space's descriptions of images: cell numbers [n] each."""
  found = []
  for description in space:
    for near in find_neighbours(description.compared(images, vectors), description.sets,
                                description.placed(images)):
      found += cuts(embeddings(graphs(near), num_clusters, seed), num_clusters, seed)
  return found


def consensus_of_spaces(found: Sequence[list[np.ndarray]], num_clusters: int,
                        seed: int) -> np.ndarray:
  """The `consensus` over the cuts of each space, all spaces having the same say."""
  return consensus([cells for own in found for cells in own], num_clusters, seed,
                   [1 / len(own) for own in found for _ in own])


def neighbourhoods(sample: np.ndarray, image_shape, num_clusters: int, seed: int,
                   spaces: Sequence[Sequence[Description]],
                   vectors: np.ndarray | None = None) -> Assign:
  """The start.

  Args:
    sample: images to fit to, [n, D] in [-1, 1], n >= Q.
    image_shape: (H, W, C), of product D.
    num_clusters: Q.
    seed: of K-means.
    spaces: the descriptions of each space; all of its cuts are taken together.
    vectors: embeddings of the images, [n, E]; None: they have none.

  Returns:
    `Assign`. An image of the sample has the responsibilities of the consensus. Another
    image has the means of those of its NEAREST ones of the sample, `weighted` by their
    distances, by the first space's first description.
  """
  # The sample's images are recognised by their bytes: no search for them.
  rows = rows_by_key(content_keys(sample, vectors))
  sample = sample.reshape(-1, *image_shape)
  count = len(sample)
  tau = np.ones((count, 1), np.float32)
  if num_clusters > 1:
    tau = consensus_of_spaces(
        [cuts_of(sample, space, num_clusters, seed, vectors) for space in spaces],
        num_clusters, seed)
  first = spaces[0][0]
  # All may be of the sample.
  described = functools.cache(lambda: (first.compared(sample, vectors),
                                       first.placed(sample)))

  def assign(images, indices, own=None):
    del indices
    owners = owners_of(images, rows, own)
    found, unknown = tau[owners], owners < 0
    if unknown.any():
      as_is, placed = described()
      near, squares = next(nearest_by_views(
          first.compared(images[unknown].reshape(-1, *image_shape),
                         None if own is None else own[unknown]),
          as_is, first.sets[:1], min(CANDIDATES, count), placed))
      order = np.argsort(squares, axis=1, kind='stable')[:, :NEAREST]
      take = functools.partial(np.take_along_axis, indices=order, axis=1)
      found[unknown] = weighted(np.sqrt(take(squares)), tau[take(near)])
    return found

  return assign


def spaces_of(sample, image_shape, config, seed: int,
              vectors: np.ndarray | None = None) -> list[list[Description]]:
  """The descriptions of each space that start.spaces names, in its order.

  Spaces in which these images cannot be compared are left out.

  Args:
    sample, image_shape, config, seed: of the functions of `registry.SPACES`.
    vectors: embeddings of the images, [n, E]; None: they have none.

  Raises:
    UserError: that is all of them.
  """
  config, _ = symmetry.settled(config, sample, image_shape)
  names = tuple(config.start.spaces)
  every = [SPACES[name](sample if name != EMBEDDINGS else vectors, image_shape, config,
                        seed) for name in names]
  found = [space for space in every if space]
  if not found:
    raise UserError(f'config.start.spaces = {names} compares nothing of these images, '
                    'which are grey: add pixels or edges.')
  return found


def of_neighbourhoods(sample, image_shape, config, seed: int,
                      vectors: np.ndarray | None = None) -> Assign:
  """`neighbourhoods` in the spaces of start.spaces."""
  return neighbourhoods(sample, image_shape, config.num_clusters, seed,
                        spaces_of(sample, image_shape, config, seed, vectors),
                        vectors)
