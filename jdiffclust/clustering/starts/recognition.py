"""Clusters by recognition: which images networks see alike that have learnt from views.

The start from neighbourhoods (`neighbours.py`) compares pixels and edges. It finds the
cells of a partition; what the images of a cell have in common it cannot tell. A network
can: it learns, from random views of the images, to name the cell of each,

  minimise  -mean_i sum_k r_ik log q_phi(k | T x_i),   T a random map,

where r are the start's responsibilities for K = `recognition.cells` times as many cells
as there shall be clusters, so that a class that the start has joined to another one may
have a cell of its own; fewer where a cell would have less than a handful of images
(`num_cells`). A network cannot learn by heart what a few steps show it, each
time differently: it learns what cells have in common, and not where the start errs.
`recognition.networks` of them learn the same cells, each from a first draw, views and an
order of its own: what one of them happens to see, the others need not.

What they have learnt shows where the start's cells are wrong. So after half of their
steps they are asked for cells of their own, by the neighbourhoods of their features. If
many more neighbours stay together in these, they learn to name both, with an answer for
each, in the other half (`recognition.rounds`). The start's cells are kept, since where
pixels tell more than features do, cells of features alone are worse.

Their last features before the answers, averaged over an image and some mild views of it
(mirrored or turned where that is a symmetry of the images) and standardised, are then
asked what pixels were asked: which images are neighbours, by the same cuts and the same
consensus, in which each network has the same say. That is the partition (`cut`).

An image that was not fitted has the responsibilities of its nearest fitted images by
the features of all networks, weighted by the inverse of the squared distance. The fitted
ones are known by their bytes, and have their own.

Where images come with embeddings (`embedded.py`), start.spaces says who decides. Alone,
the embeddings are cut in the features' place: networks learn their cells so that new
images, of which there may be no embeddings, are recognised. Beside other spaces they have
the same say as the features. An image is then known by its bytes and its embedding's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

from jdiffclust.batch import in_blocks
from jdiffclust.clustering.starts.choose import TOLERANCE, modularity
from jdiffclust.clustering.starts.embedded import COSINE, Comparison, comparison_of
from jdiffclust.clustering.starts.joining import joined
from jdiffclust.clustering.starts.neighbours import (
    NEAREST, consensus, cuts, embeddings, find_neighbours, graphs, of_neighbourhoods,
    unit_rows)
from jdiffclust.clustering.starts.partitions import (
    KEY, content_keys, owners_of, rows_by_key)
from jdiffclust.data import symmetry
from jdiffclust.data.preprocess import reduced
from jdiffclust.data.views import (
    AffineMaps, draw_small_maps, random_views, transform)
from jdiffclust.errors import UserError
from jdiffclust.evaluation.interpolation import weighted
from jdiffclust.networks.recogniser import RecognitionNetwork
from jdiffclust.registry import EMBEDDINGS
from jdiffclust.sharding import (
    SPLIT, WHOLE, InFlight, local_mesh, over_rows, to_host)
from jdiffclust.streams import integer_seed, stream

MILD = .5  # the size of the views that features are averaged over, of those of training
WEIGHT_DECAY = .01
RISE = .25  # the share of the steps over which the step size rises
FINER = 2  # times as many cells, to be joined
CELL = 20  # images of a cell, on average, from which networks learn what these share
BETTER = .1  # modularity by which own cells are better than those that were learnt
BATCH = 256  # images described at once
PASSES = 3  # a gradient step takes three times as long as to look at its images
TINY = 1e-6  # features that vary less are the same for all


class Trained(NamedTuple):
  """Recognition networks that have learnt the same cells.

  Attributes:
    network: the module, of all of them.
    variables: the parameters and running means of each of the R networks.
    maps: the views over which features are averaged, the image itself the first.
    num_devices: the most devices that describe images, each by networks of its own; 0:
      all of this process.
  """

  network: RecognitionNetwork
  variables: tuple[Any, ...]
  maps: Any
  num_devices: int = 0


def scaled_views(options, factor: float):
  """The section `views`, its maps `factor` times as large."""
  options = copy.deepcopy(options)  # ConfigDict(options) would share its fields
  for name in ('rotation', 'scale', 'shear', 'shift'):
    options[name] = factor * options[name]
  return options


def num_steps(count: int, options, asked: float | None = None) -> int:
  """Gradient steps of each network for a number of images.

  Args:
    count: n.
    options: the section `recognition`: steps for 5,000 images, for others by the square
      root of their number; but an image is seen `most_visits` times at most.
    asked: steps, in place of these.
  """
  if asked is None:
    asked = options.steps * (count / 5000)**.5
  return max(1, round(min(asked, options.most_visits * count / options.batch_size)))


def train(images: np.ndarray, cells: np.ndarray, config,
          advance: Callable[[int], None] = lambda percent: None,
          shown: Callable = jax.tree_util.Partial(lambda images, key: images),
          steps: float | None = None,
          renewed: Callable[[Trained], np.ndarray] | None = None) -> Trained:
  """Trains recognition networks.

  Where there are several devices, as many networks are trained at once, each on one.

  Args:
    images: [n, H, W, C] in [-1, 1].
    cells: responsibilities [n, K]; or of A partitions, each with an answer of its own,
      [n, A, K].
    config: its seed, num_devices, and the sections recognition and views.
    advance: called with the percents of the steps that are done.
    shown: what the network sees, of views [B, H, W, C] and a typed key; a
      `jax.tree_util.Partial`, whose arrays are arguments of the step.
    steps: `asked` of `num_steps`, of all rounds together.
    renewed: what the networks of a round learn in the next one, as `cells`; None: there
      is one round. Each is a cycle of step sizes.

  Returns:
    `Trained`, on answers that are A K numbers.

  Raises:
    UserError: the weights of a network are not finite.
  """
  options, count = config.recognition, len(images)
  rounds = 1 if renewed is None else options.rounds
  steps, size = num_steps(count, options, steps), options.batch_size
  steps = max(1, round(steps / rounds))
  network = RecognitionNetwork(math.prod(cells.shape[1:]), options.channels,
                               options.dropout)
  example = np.zeros(jax.eval_shape(
      shown, jnp.zeros((1, *images.shape[1:])), jax.random.key(0)).shape, np.float32)
  optimizer = optax.adamw(
      optax.cosine_onecycle_schedule(steps, options.learning_rate, pct_start=RISE),
      weight_decay=WEIGHT_DECAY)
  begin_memory = jax.jit(jax.vmap(optimizer.init))
  mesh = local_mesh(options.networks, config.num_devices)
  parted, everywhere = (NamedSharding(mesh, how) for how in (SPLIT, WHOLE))
  step = _step_of(network, optimizer, scaled_views(config.views, options.view_size), mesh)
  seen, shown = jax.device_put((np.asarray(images, np.float32), shown),
                               everywhere)
  seeds = [seed_of(config.seed, number) for number in range(options.networks)]
  batches = [minibatches(count, size, rounds * steps, integer_seed(seed, 'recognition'))
             for seed in seeds]
  trained: Any = None  # of the round before
  taken, done = 0, 0
  for past in range(0, rounds * steps, steps):
    if trained is not None and renewed is not None:
      cells = renewed(trained)
    told = jax.device_put(np.asarray(cells), everywhere)
    found = []
    for begin in range(0, len(seeds), mesh.size):
      group = slice(begin, begin + mesh.size)
      keys, drawn = (jnp.stack([stream(seed, name) for seed in seeds[group]])
                     for name in ('recognition', 'recognition_network'))
      first = (_first(network, drawn, example) if trained is None else
               stacked(trained.variables[group]))
      state, keys = jax.device_put(((first, begin_memory(first['params'])), keys), parted)
      in_flight = InFlight()
      for number in range(past, past + steps):
        rows = np.stack([next(own) for own in batches[group]])
        state = step(state, rows, keys, number, seen, told, shown)
        in_flight.add(state[0]['batch_stats'])
        taken += mesh.size
        percent = 100 * taken // (len(seeds) * rounds * steps)
        if percent > done:
          advance(percent - done)
          done = percent
      variables = to_host(state[0])
      found += [jax.tree.map(lambda a, k=k: jnp.asarray(a[k]), variables)
                for k in range(mesh.size)]
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
      raise UserError('A recognition network diverged: try a '
                      'config.recognition.learning_rate below '
                      f'{options.learning_rate:g}.')
    trained = Trained(network, tuple(found), mild_views(config), config.num_devices)
  return trained


def stacked(trees):
  """One tree of the leaves of several, side by side."""
  return jax.tree.map(lambda *a: np.stack(a), *trees)


def _step_of(network: RecognitionNetwork, optimizer, views, mesh: Mesh):
  """Compiles a gradient step of as many networks as there are devices, each on one.

  Args:
    network, optimizer: of all.
    views: the section `views` of what they learn from.
    mesh: of k devices.

  Returns:
    A function (state of k networks, rows [k, B] of a minibatch, keys [k], step number,
    images, cells, shown) -> state.
  """
  def step(state, rows, key, number, images, cells, shown):
    variables, memory, rows, key = jax.tree.map(lambda a: a[0], (*state, rows, key))
    of_views, of_dropout = jax.random.split(jax.random.fold_in(key, number))
    size = len(rows)
    seen = random_views(images[rows], jax.random.split(of_views, size), views)
    seen = shown(seen, jax.random.fold_in(of_views, size))

    def loss(params):
      (logits, _), new = network.apply({**variables, 'params': params}, seen, of_dropout,
                                       mutable=['batch_stats'])
      told = cells[rows]
      return optax.softmax_cross_entropy(logits.reshape(told.shape), told).mean(), new

    gradient, new = jax.grad(loss, has_aux=True)(variables['params'])
    updates, memory = optimizer.update(gradient, memory, variables['params'])
    variables = {'params': optax.apply_updates(variables['params'], updates), **new}
    return jax.tree.map(lambda a: a[None], (variables, memory))

  return over_rows(step, mesh, (*[SPLIT] * 3, *[WHOLE] * 4))


def seed_of(seed: int, number: int) -> int:
  """The seed of network 0, 1, ...; the first has the fit's own."""
  return integer_seed(seed, f'recognition_network_{number}') if number else seed


@jax.jit(static_argnums=0)
def _first(network, keys, example):
  return jax.vmap(lambda key: network.init(key, example))(keys)


def mild_views(config) -> AffineMaps:
  """The views over which features are averaged, the same ones for all images.

  Mild maps, the first of which is none; with each of the images' symmetries equally
  often, so that the features of an image and of its mirror image are much the same.

  Args:
    config: its seed, and the sections recognition and views, settled.
  """
  options = config.recognition
  placings = (symmetry.Placing(False, 0), *symmetry.group(config.views))
  count = -(-(1 + options.num_views) // len(placings)) * len(placings)
  mild = draw_small_maps(stream(config.seed, 'recognition_views'), count,
                         scaled_views(config.views, MILD * options.view_size))
  matrix = mild.matrix.at[0].set(jnp.eye(2))
  placed = jnp.asarray([placings[k % len(placings)].matrix for k in range(count)])
  return AffineMaps(jnp.einsum('kij,kjl->kil', matrix, placed), mild.shift.at[0].set(0.))


def minibatches(count: int, size: int, number: int, seed: int) -> Iterator[np.ndarray]:
  """Yields rows int32 [size], `number` times: all images in turn, in a new order each."""
  rng, left = np.random.default_rng(seed), np.zeros(0, np.int32)
  for _ in range(number):
    while len(left) < size:
      left = np.concatenate([left, rng.permutation(count).astype(np.int32)])
    rows, left = left[:size], left[size:]
    yield rows


@jax.jit(static_argnums=(0, 1))
def _over_views(network, mesh, variables, images, maps):
  """Logits [R, B, K] and features [R, B, D] by R networks, each on a device of a mesh."""
  def by_one(variables, images, maps):
    seen = jax.vmap(lambda m: jax.vmap(transform, (0, None))(images, m))(maps)
    found = network.apply(jax.tree.map(lambda a: a[0], variables),
                          seen.reshape(-1, *images.shape[1:]))
    return jax.tree.map(
        lambda a: a.reshape(1, len(seen), len(images), -1).mean(axis=1), found)

  return jax.shard_map(by_one, mesh=mesh, in_specs=(SPLIT, WHOLE, WHOLE),
                       out_specs=SPLIT)(variables, images, maps)


def over_views(trained: Trained, images: np.ndarray,
               advance: Callable[[int], None] = lambda images: None
               ) -> tuple[np.ndarray, np.ndarray]:
  """Logits [n, K] and features [n, R, D] of images [n, H, W, C].

  Both are means over the views, logits over the networks, too. `advance` is called with
  the number of images of each block.
  """
  variables = trained.variables
  mesh = local_mesh(len(variables), trained.num_devices)
  together = [
      jax.device_put(stacked(variables[begin:begin + mesh.size]),
                     NamedSharding(mesh, SPLIT))
      for begin in range(0, len(variables), mesh.size)]

  def of_block(rows):
    seen = np.asarray(images[rows], np.float32)
    logits, features = (np.concatenate(parts) for parts in zip(*(
        _over_views(trained.network, mesh, own, seen, trained.maps)
        for own in together)))
    advance(len(np.unique(rows)))  # the last block is filled up
    return logits.mean(axis=0), np.moveaxis(features, 0, 1)

  return in_blocks(of_block, len(images), BATCH)


def describe(trained: Trained, images: np.ndarray,
             advance: Callable[[int], None] = lambda images: None) -> np.ndarray:
  """The features of `over_views`, [n, R, D]."""
  return over_views(trained, images, advance)[1]


class Embedded(NamedTuple):
  """The embeddings of fitted images.

  Attributes:
    rows: as they are compared, float32 [n, E].
    compare: what makes such rows of embeddings.
    alone: whether they decide alone, not beside the network's features.
  """

  rows: np.ndarray
  compare: Comparison
  alone: bool


def alone(options) -> bool:
  """Whether embeddings decide alone, by the section `start` of a config."""
  return tuple(options.spaces) == (EMBEDDINGS,)


def embedded(vectors: np.ndarray | None, options) -> Embedded | None:
  """The `Embedded` of the embeddings of fitted images [n, E]; None of None.

  Args:
    vectors: the embeddings.
    options: the section `start` of the config.
  """
  if vectors is None:
    return None
  compare = comparison_of(vectors, options)
  return Embedded(compare(vectors), compare, alone(options))


class Recognised:
  """Responsibilities of images, fitted or not; see the module's text."""

  def __init__(self, trained: Trained, features: np.ndarray, tau: np.ndarray,
               image_shape, longest: int, keys: np.ndarray | None = None,
               known: Embedded | None = None):
    """Prepares the search for neighbours.

    Args:
      trained: the networks.
      features: of the n images fitted, as of `describe`, [n, R, D].
      tau: their responsibilities [n, Q].
      image_shape: (H, W, C) of the images that it is asked of.
      longest: pixels of the longer side that the network sees.
      keys: the `content_keys` of the images fitted, and of their embeddings; None: they
        are not known again, but are their own nearest neighbours.
      known: embeddings of the images fitted; None: they have none.
    """
    self.keys = np.zeros((0, KEY), np.uint8) if keys is None else keys
    self._rows = rows_by_key(self.keys)
    self.trained, self.features, self.tau = trained, features, tau
    self.image_shape, self._longest = tuple(image_shape), longest
    self.known = known
    index_of = NearestNeighbors(n_neighbors=min(NEAREST, len(tau))).fit
    self._index = index_of(in_a_row(standardised(features, features)))
    self._embedded = known and clone(self._index).fit(known.rows)

  def __call__(self, images: np.ndarray, indices, vectors=None) -> np.ndarray:
    """Responsibilities [n, Q] of images [n, D], and of their embeddings; an `Assign`.

    Embeddings decide as in the fit; without them the features do.
    """
    del indices
    owners = owners_of(images, self._rows, vectors)
    found, unknown = self.tau[owners].astype(np.float32), owners < 0
    if unknown.any():
      found[unknown] = self._of_new(images[unknown],
                                    None if vectors is None else vectors[unknown])
    return found

  def _of_new(self, images, vectors):
    told = []
    known: Any = self.known  # there is one if there are vectors
    if vectors is not None:
      told.append(self._told(self._embedded, known.compare(vectors)))
    if vectors is None or not known.alone:
      told.append(self._told(self._index, self.described(images)))
    return np.mean(told, axis=0, dtype=np.float32)

  def _told(self, index: NearestNeighbors, rows: np.ndarray) -> np.ndarray:
    """Responsibilities [n, Q] by the nearest fitted images of an index."""
    away, near = index.kneighbors(rows)
    return weighted(away, self.tau[near])

  def described(self, images: np.ndarray) -> np.ndarray:
    """The features of images [n, H W C] by which neighbours are found, standardised.

    Fitted images are known by their bytes, unless embeddings came with them; networks
    look at the others.

    Returns:
      Those of all networks, [n, R D].
    """
    owners = owners_of(images, self._rows)
    features, unknown = self.features[owners], owners < 0
    if unknown.any():
      features[unknown] = describe(self.trained, reduced(
          images[unknown].reshape(-1, *self.image_shape), self._longest))
    return in_a_row(standardised(features, self.features))

  def arrays(self) -> dict[str, np.ndarray]:
    """What `from_arrays` makes the same of."""
    networks = {str(number): variables
                for number, variables in enumerate(self.trained.variables)}
    variables = flatten_dict(jax.tree.map(np.asarray, networks), sep='/')
    known = {} if self.known is None else {
        'embeddings': self.known.rows, 'embeddings_centre': self.known.compare.centre}
    return {'features': self.features, 'tau': self.tau, 'keys': self.keys,
            'image_shape': np.array(self.image_shape), **known, **variables}


def from_arrays(arrays: dict[str, np.ndarray], config) -> Recognised:
  """The `Recognised` of its `arrays`.

  Args:
    arrays: of `Recognised.arrays`.
    config: that of the fit.
  """
  rest = {name: jnp.asarray(array) for name, array in arrays.items() if '/' in name}
  networks = unflatten_dict(rest, sep='/')
  if 'params' in networks:  # of before, of one network
    networks = {'0': networks}
  variables = tuple(networks[str(number)] for number in range(len(networks)))
  options, count = config.recognition, len(arrays['tau'])
  answer = variables[0]['params']['Dense_0']['bias']
  network = RecognitionNetwork(len(answer), options.channels, options.dropout)
  known, rows = None, arrays.get('embeddings')
  if rows is not None:
    compare = Comparison(arrays['embeddings_centre'],
                         config.start.embeddings_distance == COSINE)
    known = Embedded(rows, compare, alone(config.start))
  return Recognised(Trained(network, variables, mild_views(config), config.num_devices),
                    arrays['features'].reshape(count, len(variables), -1), arrays['tau'],
                    [int(side) for side in arrays['image_shape']], options.max_side,
                    arrays.get('keys'), known)  # runs of before have no keys


def standardised(features, of) -> np.ndarray:
  """Features [m, ...] in units of the mean and standard deviation of others, [n, ...].
  """
  return (features - of.mean(axis=0)) / np.maximum(of.std(axis=0), TINY)


def in_a_row(features):
  """The features of all networks, [n, R, D], as one row an image, [n, R D]."""
  return features.reshape(len(features), -1)


def ways_to_compare(features) -> list[list[np.ndarray]]:
  """Rows [n, D] of each of R networks to compare by distance, and by angle.

  Args:
    features: [n, R, D].
  """
  rows = standardised(features, features).astype(np.float32)
  distances = list(np.moveaxis(rows, 1, 0))
  return [distances, [unit_rows(rows) for rows in distances]]


def graphs_of(rows: np.ndarray) -> list:
  """The graphs of nearest neighbours of rows [n, D]."""
  return graphs(next(find_neighbours(rows[:, None, None])))


def cut(features: np.ndarray | None, num_clusters: int, seed: int,
        known: Embedded | None = None) -> np.ndarray:
  """The partition that the neighbourhoods of features, or of embeddings, show.

  Each network's features are compared for themselves: what is near for one of them only
  is outvoted. Whether they are compared by distance or by angle, or both have a say, is
  decided by the modularity of what comes of it, mean over the graphs of all: where a
  class is cut in two and others are joined, fewer neighbours stay together. What comes of
  FINER times as many cells, joined again (`joining.py`), takes the place of these where
  one neighbour in a hundred more stays with it.

  Args:
    features: of R networks, [n, R, D]; not looked at where embeddings decide alone.
    num_clusters: Q <= n.
    seed: of K-means.
    known: embeddings, which are compared in one way only; None: there are none.

  Returns:
    Responsibilities, float32 [n, Q].
  """
  compared = [] if known is None else [[known.rows]]
  if known is None or not known.alone:
    compared = [*ways_to_compare(features), *compared]
  every, fine, found = [], [], []
  finer = min(FINER * num_clusters, len(compared[0][0]))
  for spaces in compared:
    cells = []
    for rows in spaces:
      own = graphs_of(rows)
      every += own
      vectors = embeddings(own, finer, seed)
      cells += cuts(vectors, num_clusters, seed)
      fine += cuts(vectors, finer, seed)
    found.append(cells)
  if len(found) > 1:
    found.append(sum(found, []))
  ways = [consensus(cells, num_clusters, seed) for cells in found]
  ways.append(rejoined(consensus(fine, finer, seed), sum(every), num_clusters,
                       np.concatenate(compared[0], axis=1)))
  scores = np.array([np.mean([modularity(graph, tau.argmax(axis=1)) for graph in every])
                     for tau in ways])
  scores[-1] -= TOLERANCE
  return ways[int(np.argmax(scores))]


def rejoined(tau: np.ndarray, graph, num_clusters: int,
             features: np.ndarray | None = None) -> np.ndarray:
  """The responsibilities of clusters that fine cells are joined to.

  Args:
    tau: of the cells, [n, K].
    graph, num_clusters, features: see `joined`.

  Returns:
    float32 [n, Q].
  """
  members = tau.argmax(axis=1)
  names, cells = np.unique(members, return_inverse=True)
  owners = np.full(tau.shape[1], num_clusters)  # of cells without members: no cluster
  owners[names] = joined(cells, graph, num_clusters, features)
  found = tau @ np.eye(num_clusters + 1, dtype=np.float32)[owners][:, :num_clusters]
  return found / found.sum(axis=1, keepdims=True)


def whole(advance: Callable[[int], None]) -> Callable[[float], None]:
  """A function that adds up shares of a percent and calls `advance` with whole ones."""
  told, left = 0, 0.

  def add(percent: float) -> None:
    nonlocal told, left
    left += percent
    if int(left) > told:
      advance(int(left) - told)
      told = int(left)

  return add


def num_cells(count: int, num_clusters: int, multiple: float) -> int:
  """How many cells networks learn to name: `multiple` times as many as clusters.

  But of CELL images each on average, or as many as clusters: of a class of ten images
  that is cut in two, neither half shows what they share.

  Args:
    count: of images, n.
    num_clusters: Q <= n.
    multiple: `recognition.cells`, >= 1.
  """
  return min(round(num_clusters * multiple), max(num_clusters, count // CELL))


def cells_of(images: np.ndarray, config, seed: int,
             vectors: np.ndarray | None = None) -> np.ndarray:
  """The cells that networks learn to name, by the start 'neighbours'.

  Args:
    images: as the networks see them, [n, H, W, C] in [-1, 1].
    config: as of `of_recognition`, settled.
    seed, vectors: of `of_recognition`.

  Returns:
    Responsibilities [n, K].
  """
  finer, flat = copy.deepcopy(config), images.reshape(len(images), -1)
  finer.num_clusters = num_cells(len(images), config.num_clusters,
                                 config.recognition.cells)
  return of_neighbourhoods(flat, images.shape[1:], finer, seed, vectors)(
      flat, None, vectors)


def better_cells(features: np.ndarray, cells: np.ndarray, seed: int) -> np.ndarray:
  """The cells that features have by their neighbourhoods, by angle, if these are better.

  Where as many neighbours stay together in the cells that were learnt, these are right,
  or what is wrong with them has been learnt, too: then own ones tell nothing new, and
  would be less sure.

  Args:
    features: of R networks, [n, R, D].
    cells: the responsibilities that they have learnt, [n, K].
    seed: of K-means.

  Returns:
    Responsibilities, float32 [n, K]: `cells`, unless the own ones have a modularity, mean
    over all graphs, that is larger by BETTER or more.
  """
  every, found, number = [], [], cells.shape[1]
  for rows in ways_to_compare(features)[1]:
    own = graphs_of(rows)
    every += own
    # There are many of them: one start of K-means each.
    found += cuts(embeddings(own, number, seed), number, seed, restarts=1)
  new = consensus(found, number, seed)
  before, after = (np.mean([modularity(graph, tau.argmax(axis=1)) for graph in every])
                   for tau in (cells, new))
  return new if after - before >= BETTER else cells


def recogniser(sample, image_shape, config, seed: int,
               advance: Callable[[int], None] = lambda percent: None,
               vectors: np.ndarray | None = None) -> Trained:
  """The networks that have learnt the cells of the start 'neighbours', and better ones.

  They have two answers. In the first round both are the start's cells; in each further
  one the second is the `better_cells` of their features after the round before.

  Args:
    sample, image_shape, config, seed, advance, vectors: of `of_recognition`.
  """
  config, _ = symmetry.settled(config, sample, image_shape)
  images = reduced(sample.reshape(-1, *image_shape), config.recognition.max_side)
  cells = cells_of(images, config, seed, vectors)
  given = vectors is not None and alone(config.start)  # say which cells there are
  if given or config.recognition.rounds == 1:
    return train(images, cells, config, advance)

  def renewed(trained: Trained) -> np.ndarray:
    own = better_cells(describe(trained, images), cells, seed)
    return np.stack([cells, own], axis=1)

  return train(images, np.stack([cells, cells], axis=1), config, advance,
               renewed=renewed)


def of_recognition(
    sample, image_shape, config, seed: int,
    advance: Callable[[int], None] = lambda percent: None,
    vectors: np.ndarray | None = None) -> Recognised | Callable:
  """The start 'recognition'.

  Args:
    sample: images to fit to, [n, D] in [-1, 1], n >= Q.
    image_shape: (H, W, C), of product D.
    config: num_clusters, seed, and the sections recognition, start and views.
    seed: of the cuts.
    advance: see `train`.
    vectors: embeddings of the images, [n, E]; None: they have none.
  """
  number = config.num_clusters
  if number == 1:
    return of_neighbourhoods(sample, image_shape, config, seed, vectors)
  options, count = config.recognition, len(sample)
  learn = PASSES * num_steps(count, options) * options.batch_size
  look = count * (1 + options.num_views)
  percents, longest = whole(advance), options.max_side
  trained = recogniser(sample, image_shape, config, seed,
                       lambda percent: percents(percent * learn / (learn + look)),
                       vectors)
  features = describe(
      trained, reduced(sample.reshape(-1, *image_shape), longest),
      lambda images: percents(100 * images / count * look / (learn + look)))
  known = embedded(vectors, config.start)
  return Recognised(trained, features, cut(features, number, seed, known), image_shape,
                    longest, content_keys(sample, vectors), known)
