"""Starting partitions; also the baselines a result is set beside.

None of them looks at labels: restarts are chosen by the mixture's likelihood or by
the inertia of K-means; for the start from neighbourhoods see `neighbours.py`, for a
choice between starts by the model's own bound `jdiffclust.training.trial`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from jdiffclust.clustering import denoiser_features, edges
from jdiffclust.clustering.neighbours import Look, neighbours, pixels
from jdiffclust.errors import UserError
from jdiffclust.streams import integer_seed

# A function from images [n, D] and their indices [n] to responsibilities [n, Q].
Assign = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kmeans(sample: np.ndarray, num_clusters: int, restarts: int, seed: int) -> Assign:
  """K-means in pixel space.

  Args:
    sample: images to fit to, [n, D], n >= Q.
    num_clusters: Q.
    restarts: the best of so many by inertia.
    seed: of the restarts.

  Returns:
    `Assign` of hard responsibilities.
  """
  model = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(sample)
  return lambda images, _: np.eye(num_clusters, dtype=np.float32)[model.predict(images)]


def gaussian_mixture(sample: np.ndarray, num_clusters: int, restarts: int, seed: int,
                     components: int, noise: float) -> Assign:
  """A mixture of full-covariance Gaussians on principal components.

  It is the mixture of *linear* denoisers at one noise level (whose variance is added to
  every covariance), fitted in seconds.

  Args:
    sample: images to fit to, [n, D] in [-1, 1], n >= Q.
    num_clusters: Q.
    restarts: the most likely of so many, each started from its own K-means.
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


def principal_components(sample: np.ndarray, components: int) -> PCA:
  """The leading principal components of a sample [n, D]; 0: see `gaussian_mixture`."""
  most = min(len(sample) - 1, sample.shape[1])
  if not components:
    variances = PCA(most, svd_solver='full').fit(sample).explained_variance_
    components = max(1, int(np.sum(variances > variances.mean())))
  return PCA(min(components, most), svd_solver='full').fit(sample)


def mixture_on_manifold(name: str, sample: np.ndarray, num_clusters: int, restarts: int,
                        seed: int) -> Assign:
  """A Gaussian mixture on a two-dimensional t-SNE or UMAP embedding.

  Args:
    name: 'tsne' (scikit-learn's) or 'umap' (umap-learn's, an optional extra), with the
      library's settings, on at most 50 principal components.
    sample: images to fit to, [n, D], n >= Q.
    num_clusters: Q.
    restarts: the most likely of so many mixtures.
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
      raise UserError("config.em.init = 'umap' needs umap-learn: pip install "
                      "'jdiffclust[umap]', or choose another start.") from None
    # A seed makes UMAP run on one thread, of which it warns.
    points = umap.UMAP(random_state=seed, n_jobs=1,
                       n_neighbors=min(15, len(sample) - 1)).fit_transform(scores)
  points = np.asarray(points, np.float64)
  model = GaussianMixture(num_clusters, n_init=restarts, random_state=seed).fit(points)
  tau = model.predict_proba(points).astype(np.float32)
  nearest = NearestNeighbors(n_neighbors=1).fit(sample)
  return lambda images, _: tau[nearest.kneighbors(images, return_distance=False)[:, 0]]


def looks(sample: np.ndarray, image_shape, seed: int, config) -> list[list[Look]]:
  """The spaces of em.init_spaces, in the order of the option.

  Args:
    sample: images that a denoiser is trained with, [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    seed: of the views of pixels.
    config: the section em (init_spaces, init_denoiser_noise), views, and as of
      `denoiser_features.train`.

  Returns:
    For pixels one `Look` for each set of views, for a denoiser's features one for each
    draw of its noise, views.sets both; for edges one.
  """
  def of_denoiser():
    variables = denoiser_features.train(sample.reshape(-1, *image_shape), config)
    return [Look(denoiser_features.describe(variables, config.em.init_denoiser_noise,
                                            image_shape, config, draw))
            for draw in range(config.views.sets)]

  known = {'pixels': lambda: pixels(config.views, seed),
           'edges': lambda: [Look(edges.describe)],
           'denoiser': of_denoiser}
  return [known[name]() for name in config.em.init_spaces]


def random(num_clusters: int, seed: int) -> Assign:
  """Responsibilities drawn uniformly from the simplex, by image index."""
  def assign(images, indices):
    del images
    rows = [np.random.default_rng([seed, int(i)]).dirichlet(np.ones(num_clusters))
            for i in indices]
    return np.asarray(rows, np.float32)
  return assign


def fit_start(name: str, sample: np.ndarray, image_shape, config) -> Assign:
  """Fits a start to images, with the settings of a config.

  Args:
    name: a choice of `em.init`.
    sample: images to fit to, [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: its num_clusters, seed, and the sections em (init_restarts, init_components,
      init_noise), views, and as of `looks`.

  Returns:
    `Assign`.
  """
  num_clusters, options = config.num_clusters, config.em
  seed = integer_seed(config.seed, 'init')
  # On one thread, since sums over several differ in the last bits from run to run.
  with threadpool_limits(1):
    if name == 'random':
      return random(num_clusters, seed)
    if name == 'kmeans':
      return kmeans(sample, num_clusters, options.init_restarts, seed)
    if name in ('tsne', 'umap'):
      return mixture_on_manifold(name, sample, num_clusters, options.init_restarts, seed)
    if name == 'neighbours':
      return neighbours(sample, image_shape, num_clusters, seed,
                        looks(sample, image_shape, seed, config))
    return gaussian_mixture(sample, num_clusters, options.init_restarts, seed,
                            options.init_components, options.init_noise)


def reseed_empty(responsibilities: np.ndarray, bound: np.ndarray,
                 min_size: float) -> tuple[np.ndarray, list[int]]:
  """Gives emptied clusters the images that the mixture explains worst.

  Args:
    responsibilities: [N, Q].
    bound: the bound of each image in nats, [N].
    min_size: clusters of a smaller sum of responsibilities are empty.

  Returns:
    New responsibilities and the emptied clusters. Each gets a tenth of an average
    cluster, at least 2 images and `min_size`, no image twice, none of an emptied
    cluster, and none whose leaving would empty another one.
  """
  sizes = responsibilities.sum(axis=0, dtype=np.float64)
  empty = [int(q) for q in np.flatnonzero(sizes < min_size)]
  num_images, num_clusters = responsibilities.shape
  share = max(2, int(np.ceil(min_size)), num_images // (10 * num_clusters))
  alive = np.setdiff1d(np.arange(num_clusters), empty)
  result = responsibilities.copy()
  worst_first = iter(np.argsort(bound, kind='stable'))
  for q in empty:
    given = 0
    for i in worst_first:
      left = sizes[alive] - responsibilities[i, alive]
      owned = responsibilities[i].argmax() in alive
      if not owned or (left < max(min_size, 1)).any():
        continue
      sizes[alive] = left
      result[i] = np.eye(num_clusters, dtype=result.dtype)[q]
      given += 1
      if given == share:
        break
  return result, empty
