"""The images that a start is fitted to, and the start of the others."""

from __future__ import annotations

import math

import numpy as np

from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.partitions import Assign
from jdiffclust.data.dataset import ImageSource, embeddings_at, images_at
from jdiffclust.streams import integer_seed


FEWEST = 20000  # images that a start is fitted to whatever their size
MEMORY = 2**31  # bytes of floats beyond which it is fitted to no more than these


def most_images(max_images: int, image_shape) -> int:
  """How many images of a shape a start is fitted to, of at most max_images."""
  fits = MEMORY // (4 * math.prod(image_shape))
  return min(max_images, max(FEWEST, fits))


def sample_indices(num_images: int, max_images: int, seed: int) -> np.ndarray:
  """Indices of the images that starts and baselines are fitted to, rising, [n]."""
  if num_images <= max_images:
    return np.arange(num_images)
  rng = np.random.default_rng(integer_seed(seed, 'init_sample'))
  return np.sort(rng.choice(num_images, max_images, replace=False))


def flat_images(source: ImageSource, indices) -> np.ndarray:
  """Images of some indices, [n, D] float32 in [-1, 1]."""
  return images_at(source, indices).reshape(len(indices), -1)


def fit_sample(source: ImageSource, max_images: int, seed: int) -> np.ndarray:
  """Images to fit starts and baselines to, [n, D] float32 in [-1, 1]."""
  return flat_images(source, _fitted_to(source, max_images, seed))


def sample_embeddings(source: ImageSource, max_images: int,
                      seed: int) -> np.ndarray | None:
  """The embeddings of the images of `fit_sample`, float32 [n, E]; None: none."""
  return embeddings_at(source, _fitted_to(source, max_images, seed))


def _fitted_to(source, max_images, seed):
  """The `sample_indices` of images of this size."""
  most = most_images(max_images, source.image_shape)
  return sample_indices(source.num_images, most, seed)


def partition(assign: Assign, source: ImageSource, indices=None,
              chunk: int = 4096) -> np.ndarray:
  """Responsibilities by a fitted start, float32 [n, Q].

  Args:
    assign: the start.
    source: the images; with embeddings only if the start was fitted to such.
    indices: which of them; None: all.
    chunk: images read at once.
  """
  if indices is None:
    indices = np.arange(source.num_images)
  parts = []
  for begin in range(0, len(indices), chunk):
    rows = indices[begin:begin + chunk]
    vectors = embeddings_at(source, rows)
    parts.append(assign(flat_images(source, rows), rows,
                        *(() if vectors is None else (vectors,))))
  return np.concatenate(parts).astype(np.float32)


def start_of_all(source: ImageSource, config, name: str, known: np.ndarray,
                 assign: Assign | None = None) -> np.ndarray:
  """The start of all images, from that of those a run has looked at.

  Args:
    source: N images.
    config: the config.
    name: of the start.
    known: responsibilities of `tracked_images`, [n, Q].
    assign: the start, fitted; None: it is fitted again if n < N.

  Returns:
    [N, Q].
  """
  if len(known) == source.num_images:
    return known
  if assign is None:
    most, seed = config.start.max_images, config.seed
    assign = fit_start(name, fit_sample(source, most, seed), source.image_shape, config,
                       vectors=sample_embeddings(source, most, seed))
  return partition(assign, source)


def tracked_images(num_images: int, config) -> np.ndarray:
  """Indices of the images whose tau a run keeps, rising: all, or a sample if stepwise."""
  if config.em.schedule == 'stepwise':
    return sample_indices(num_images, config.start.max_images, config.seed)
  return np.arange(num_images)
