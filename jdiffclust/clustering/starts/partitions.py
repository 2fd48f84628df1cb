"""Starting partitions; also the baselines a result is set beside.

None of them looks at labels: restarts are chosen by the mixture's likelihood or by
the inertia of K-means; for the start from neighbourhoods see `neighbours.py`, for a
choice between starts by the model's own bound `jdiffclust.training.trial`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from jdiffclust.errors import UserError
from jdiffclust.evaluation.features import principal_components


# A function from images [n, D] and their indices [n] to responsibilities [n, Q]; of a
# start that was fitted to embeddings, also from images, indices and embeddings [n, E].
Assign = Callable[..., np.ndarray]
KEY = 16  # bytes that tell an image from all others


def content_keys(images: np.ndarray, vectors: np.ndarray | None = None) -> np.ndarray:
  """What tells images from others by their bytes.

  Args:
    images: [n, ...].
    vectors: embeddings of them, [n, E], whose bytes count too; None: they have none.

  Returns:
    uint8 [n, KEY].
  """
  keys = []
  for row, image in enumerate(images):
    key = hashlib.blake2b(image.tobytes(), digest_size=KEY)
    if vectors is not None:
      key.update(vectors[row].tobytes())
    keys.append(key.digest())
  return np.frombuffer(b''.join(keys), np.uint8).reshape(-1, KEY)


def rows_by_key(keys: np.ndarray) -> dict[bytes, int]:
  """The row of each of the `content_keys` [n, KEY]; of equal images the last one."""
  return {key.tobytes(): row for row, key in enumerate(keys)}


def owners_of(images: np.ndarray, rows: dict[bytes, int],
              vectors: np.ndarray | None = None) -> np.ndarray:
  """The rows [n] of images among those of `rows_by_key`; -1: none of them.

  Args:
    images, vectors: of `content_keys`.
    rows: of `rows_by_key`.
  """
  return np.array([rows.get(key.tobytes(), -1)
                   for key in content_keys(images, vectors)], int)


def fitted_kmeans(rows: np.ndarray, num: int, restarts: int, seed: int) -> KMeans:
  """scikit-learn's K-means of rows [n, D], the best of its restarts.

  Where fewer than `num` rows are distinct some cells stay empty, without a warning.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)  # which warns of just that
    return KMeans(num, n_init=restarts, random_state=seed).fit(rows)


def kmeans(sample: np.ndarray, num_clusters: int, restarts: int, seed: int) -> Assign:
  """K-means in pixel space.

  Args:
    sample: images to fit to, [n, D], n >= Q.
    num_clusters: Q.
    restarts: runs; the one of the least inertia is taken.
    seed: of the restarts.

  Returns:
    `Assign` of hard responsibilities.
  """
  model = fitted_kmeans(sample, num_clusters, restarts, seed)
  return lambda images, _: np.eye(num_clusters, dtype=np.float32)[model.predict(images)]


def gaussian_mixture(sample: np.ndarray, num_clusters: int, restarts: int, seed: int,
                     components: int, noise: float) -> Assign:
  """A mixture of full-covariance Gaussians on principal components.

  It is the mixture of *linear* denoisers at one noise level (whose variance is added to
  every covariance), fitted in seconds.

  Args:
    sample: images to fit to, [n, D] in [-1, 1], n >= Q.
    num_clusters: Q.
    restarts: fits, each from a K-means of its own; the most likely one is taken.
    seed: of the restarts.
    components: principal components kept, at most n - 1 and D; 0: those whose variance
      exceeds the average one (Kaiser, 1960).
    noise: variance added in every direction.

  Returns:
    `Assign` of posterior probabilities.
  """
  pca = principal_components(sample, components)
  model = GaussianMixture(num_clusters, reg_covar=noise, n_init=restarts,
                          max_iter=200, random_state=seed)
  model.fit(pca.transform(sample).astype(np.float64))
  return lambda images, _: model.predict_proba(
      pca.transform(images).astype(np.float64)).astype(np.float32)


def mixture_on_manifold(name: str, sample: np.ndarray, num_clusters: int, restarts: int,
                        seed: int) -> Assign:
  """A Gaussian mixture on a two-dimensional t-SNE or UMAP embedding.

  Args:
    name: 'tsne' (scikit-learn's) or 'umap' (umap-learn's, an optional extra), with the
      library's settings, on at most 50 principal components.
    sample: images to fit to, [n, D], n >= Q.
    num_clusters: Q.
    restarts: mixtures fitted; the most likely one is taken.
    seed: of the embedding and the restarts.

  Returns:
    `Assign` of posterior probabilities; images outside the sample take those of the
    nearest image of the sample.

  Raises:
    UserError: umap-learn is not installed.
  """
  scores = principal_components(sample, 50).transform(sample)
  if name == 'tsne':
    perplexity = min(30., (len(sample) - 1) / 3)
    points = TSNE(perplexity=perplexity, random_state=seed).fit_transform(scores)
  else:
    try:
      import umap  # optional, and slow to import
    except ImportError:
      raise UserError("config.start.kind = 'umap' needs umap-learn: pip install "
                      "'jdiffclust[umap]', or choose another start.") from None
    # A seed makes UMAP run on one thread, of which it warns.
    points = umap.UMAP(random_state=seed, n_jobs=1,
                       n_neighbors=min(15, len(sample) - 1)).fit_transform(scores)
  points = np.asarray(points, np.float64)
  model = GaussianMixture(num_clusters, n_init=restarts, random_state=seed).fit(points)
  tau = model.predict_proba(points).astype(np.float32)
  nearest = NearestNeighbors(n_neighbors=1).fit(sample)
  return lambda images, _: tau[nearest.kneighbors(images, return_distance=False)[:, 0]]


def random(num_clusters: int, seed: int) -> Assign:
  """Responsibilities drawn uniformly from the simplex, by image index."""
  def assign(images, indices):
    del images
    rows = [np.random.default_rng([seed, int(i)]).dirichlet(np.ones(num_clusters))
            for i in indices]
    return np.asarray(rows, np.float32)
  return assign


# The starts of `registry.STARTS`, with the settings of a config.


def of_kmeans(sample, image_shape, config, seed: int) -> Assign:
  """`kmeans` with start.restarts."""
  del image_shape
  return kmeans(sample, config.num_clusters, config.start.restarts, seed)


def of_gaussian_mixture(sample, image_shape, config, seed: int) -> Assign:
  """`gaussian_mixture` with start.restarts, components and noise."""
  del image_shape
  options = config.start
  return gaussian_mixture(sample, config.num_clusters, options.restarts, seed,
                          options.components, options.noise)


def of_tsne(sample, image_shape, config, seed: int) -> Assign:
  """`mixture_on_manifold` of t-SNE."""
  del image_shape
  return mixture_on_manifold('tsne', sample, config.num_clusters,
                             config.start.restarts, seed)


def of_umap(sample, image_shape, config, seed: int) -> Assign:
  """`mixture_on_manifold` of UMAP."""
  del image_shape
  return mixture_on_manifold('umap', sample, config.num_clusters,
                             config.start.restarts, seed)


def of_nothing(sample, image_shape, config, seed: int) -> Assign:
  """`random`, which looks at no image."""
  del sample, image_shape
  return random(config.num_clusters, seed)


def of_latents(sample, image_shape, config, seed: int) -> Assign:
  """All clusters alike: the first E-step makes the start, a mixture of the latents."""
  del sample, image_shape, seed
  number = config.num_clusters
  return lambda images, indices: np.full((len(indices), number), 1 / number, np.float32)
