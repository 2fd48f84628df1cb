"""What is compared, and with which settings.

Every peer has one setting for all data sets, its library's default unless its line in
METHODS says otherwise; ours has a config file for each data set, in OURS. No method sees
a label; all but HDBSCAN, which finds a number of its own, are told the number of classes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import CHANNELS, CLASSES, DATASETS, config_of
from jdiffclust import config as config_lib

# What configs/latent_cddpm_digits.py adds to that of cluster_ddpm.
TAKEN_OVER = {'method': 'latent_cddpm', 'em.max_iterations': 5, 'em.bound_tolerance': 0.,
              'em.partition_tolerance': 0.}


def by_data_set(digits: str, larger: str, changed: dict) -> dict:
  """The configs of a method, and what is changed in that of the larger images."""
  return {dataset: (digits, {}) if dataset == 'digits' else (
      larger, {'data.channels': CHANNELS[dataset], 'num_clusters': CLASSES[dataset],
               **changed}) for dataset in DATASETS}


# Ours: the config of each data set, and what is changed in it, by method.
OURS = {
    'cddpm': by_data_set('digits', 'folder', {}),
    'cluster_ddpm': by_data_set('cluster_ddpm_digits', 'cluster_ddpm_mnist5k', {}),
    'latent_cddpm': by_data_set('latent_cddpm_digits', 'cluster_ddpm_mnist5k',
                                TAKEN_OVER),
}


def kmeans(images, num_clusters, seed, **settings):
  from sklearn.cluster import KMeans
  return KMeans(num_clusters, random_state=seed, **settings).fit_predict(images)


def ward(images, num_clusters, seed):
  from sklearn.cluster import AgglomerativeClustering
  del seed  # nothing in it is random
  return AgglomerativeClustering(num_clusters, linkage='ward').fit_predict(images)


def gaussian_mixture(images, num_clusters, seed, **settings):
  from jdiffclust.clustering.starts.partitions import gaussian_mixture
  assign = gaussian_mixture(images, num_clusters, seed=seed, **settings)
  return assign(images, None).argmax(axis=1)


def spectral(images, num_clusters, seed, **settings):
  from sklearn.cluster import SpectralClustering
  return SpectralClustering(num_clusters, random_state=seed,
                            **settings).fit_predict(images)


def most_likely_mixture(embedding, num_clusters, seed, n_init):
  """The clusters of the most likely of n_init full-covariance mixtures."""
  from sklearn.mixture import GaussianMixture
  model = GaussianMixture(num_clusters, n_init=n_init, random_state=seed)
  return model.fit_predict(np.asarray(embedding, np.float64))


def tsne_gmm(images, num_clusters, seed, components, n_init):
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE
  if images.shape[1] > components:
    images = PCA(components, random_state=seed).fit_transform(images)
  embedding = TSNE(random_state=seed).fit_transform(images)
  return most_likely_mixture(embedding, num_clusters, seed, n_init)


def embedded_by_umap(images, seed, **settings):
  """What UMAP makes of images, float [N, n_components]."""
  from umap import UMAP
  model = UMAP(random_state=seed, n_jobs=1, **settings)  # with a seed it takes one anyway
  return model.fit_transform(images)


def umap_gmm(images, num_clusters, seed, n_init, **settings):
  return most_likely_mixture(embedded_by_umap(images, seed, **settings), num_clusters,
                             seed, n_init)


def hdbscan_of_umap(images, seed, share, min_samples, **settings):
  """What UMAP makes of images, and their clusters by HDBSCAN, -1 of noise.

  Args:
    images: [N, D].
    seed: of UMAP; nothing in HDBSCAN is random.
    share: of the images that a cluster has at least; None for HDBSCAN's default.
    min_samples: HDBSCAN's.
    settings: UMAP's.
  """
  from sklearn.cluster import HDBSCAN
  rows = embedded_by_umap(images, seed, **settings)
  sizes = {} if share is None else {
      'min_cluster_size': max(2, round(share * len(rows)))}
  return rows, HDBSCAN(min_samples=min_samples, copy=True, **sizes).fit_predict(rows)


def with_noise(rows, found):
  """Clusters [N] in which noise, -1, has joined the nearest row's that is in one."""
  from sklearn.neighbors import KNeighborsClassifier
  clear = found >= 0
  if not clear.any():
    return np.zeros(len(rows), np.int64)
  return KNeighborsClassifier(1).fit(rows[clear], found[clear]).predict(rows)


def umap_hdbscan(images, num_clusters, seed, **settings):
  """HDBSCAN of what UMAP makes; noise goes to the cluster of the nearest other image."""
  del num_clusters  # it finds a number of its own
  return with_noise(*hdbscan_of_umap(images, seed, **settings))


def deep(name, images, num_clusters, seed, **settings):
  """A method of ClustPy, on pixels in [0, 1]: the range its VaDE insists on."""
  from clustpy import deep as clustpy_deep
  model = getattr(clustpy_deep, name)(num_clusters, device='cpu', random_state=seed,
                                      **settings)
  return model.fit(np.clip((images + 1) / 2, 0, 1)).labels_


def n2d(images, num_clusters, seed, manifold_params):
  from umap import UMAP
  return deep('N2D', images, num_clusters, seed, manifold_class=UMAP,
              manifold_params=manifold_params)


class Method(NamedTuple):
  """A peer.

  Attributes:
    provenance: where its settings are from, one line.
    fit: from images [N, D] in [-1, 1], the number of classes, the seed and the settings
      to clusters [N].
    settings: its settings, the same for all data sets; CLUSTERS in them stands for the
      number of classes.
  """

  provenance: str
  fit: Callable[..., np.ndarray]
  settings: dict[str, Any]


CLUSTERS = 'the number of classes'
OF_CLUSTERS = {'n_components': 10, 'n_neighbors': 30, 'min_dist': 0.}  # UMAP's
METHODS = {
    'kmeans': Method('scikit-learn, the best of 10 by inertia', kmeans, {'n_init': 10}),
    'ward': Method('scikit-learn', ward, {}),
    'gaussian_mixture': Method(
        "this project's start.kind=gaussian_mixture: principal components, the most "
        'likely of 10 restarts',
        gaussian_mixture, {'restarts': 10, 'components': 20, 'noise': .05}),
    'spectral': Method(
        'scikit-learn, with its graph of nearest neighbours rather than the RBF kernel',
        spectral, {'affinity': 'nearest_neighbors'}),
    'tsne_gmm': Method(
        "scikit-learn's defaults on 50 principal components, as van der Maaten and "
        'Hinton (2008) advise; the most likely of 10 mixtures',
        tsne_gmm, {'components': 50, 'n_init': 10}),
    'umap_gmm': Method(
        "umap-learn's defaults; the most likely of 10 mixtures", umap_gmm,
        {'n_init': 10}),
    'umap10_gmm': Method(
        "UMAP as umap-learn's documentation advises for clustering: more neighbours, no "
        'distance, more dimensions than two; the most likely of 10 mixtures',
        umap_gmm, {'n_init': 10, **OF_CLUSTERS}),
    'umap_hdbscan': Method(
        "the same UMAP; scikit-learn's HDBSCAN, as there of 10 samples, a cluster having "
        'a hundredth of the images at least; noise goes to the cluster of the nearest '
        'image that is in one. It is not told the number of classes', umap_hdbscan,
        {'share': .01, 'min_samples': 10, **OF_CLUSTERS}),
    **{name.lower(): Method("ClustPy's defaults, pixels in [0, 1]",
                            functools.partial(deep, name), {})
       for name in ('VaDE', 'IDEC', 'DEC')},
    'n2d': Method(
        "ClustPy's defaults, pixels in [0, 1], with the UMAP of the N2D paper: ClustPy's "
        'own t-SNE refuses more than 3 components', n2d,
        {'manifold_params': {'n_components': CLUSTERS, 'n_neighbors': 20,
                             'min_dist': 0.}}),
}
UNUSED = ('start.restarts', 'start.components', 'start.noise', 'start.candidates',
          'start.trial_steps', 'start.denoiser_', 'e_step.', 'latent.')
UNUSED_BY = {'cluster_ddpm': ('e_step.',), 'latent_cddpm': ('e_step.',)}
# Our starts alone: what is changed in the config of `cddpm`, and what is read of it.
ALONE = {
    'neighbours': {'start.kind': 'neighbours'},
    'recognition': {'start.kind': 'recognition'},
    'network': {'start.kind': 'recognition', 'recognition.cells': 1.,
                'recognition.rounds': 1},
    'network_kmeans': {'start.kind': 'recognition'},
}
READ = ('num_clusters', 'start.kind', 'start.spaces', 'start.max_images',
        'data.image_size', 'data.channels', 'views.')
OWN = {
    'neighbours': 'ours: the start from neighbourhoods alone',
    'recognition': "ours: the default start alone, neighbourhoods of a network's "
                   'features',
    'network': 'ours: the answer of such a network that has learnt as many cells as '
               'classes, mean over views',
    'network_kmeans': "ours: K-means, the best of 10 by inertia, of recognition's "
                      'features, standardised',
    'cddpm': 'ours: the whole fit',
    'cluster_ddpm': 'ours: ClusterDDPM',
    'latent_cddpm': "ours: CDDPM in ClusterDDPM's latent space",
}


def our_config(dataset: str, seed: int = 0, method: str = 'cddpm',
               further: Mapping[str, Any] | None = None):
  """The config of a data set by OURS.

  Args:
    dataset: one of DATASETS.
    seed: of the config.
    method: one of OURS or ALONE.
    further: values by option name, as of `common.data_options`; without those the
      config lacks the data themselves.
  """
  name, changed = OURS['cddpm' if method in ALONE else method][dataset]
  return config_of(name, {**changed, **ALONE.get(method, {}), 'seed': seed,
                          **(further or {})})


def peer_settings(method: str, num_clusters: int) -> dict:
  """The settings of one of METHODS, the number of classes filled in."""
  fill = lambda value: ({name: fill(inner) for name, inner in value.items()}
                        if isinstance(value, dict)
                        else num_clusters if value == CLUSTERS else value)
  return fill(METHODS[method].settings)


def settings_of(dataset: str, method: str) -> dict:
  """All that a result depends on, beside data and seed, as JSON gives it back."""
  if method in METHODS:
    found = peer_settings(method, CLASSES[dataset])
  else:
    known = dict(config_lib.options())
    found = {name: value
             for name, value in config_lib.flatten(our_config(dataset, 0, method)).items()
             if known[name].defines_run and name not in ('seed', 'data.source')}
    # Nothing enters the scores of other starts, nor of the draws: they only score tau.
    unused = (*UNUSED_BY.get(method, UNUSED), 'start.embeddings_')  # none are given
    found = {name: value for name, value in found.items() if not name.startswith(unused)}
    if method in ALONE:
      read = READ if method == 'neighbours' else (*READ, 'recognition.')
      found = {name: value for name, value in found.items() if name.startswith(read)}
  return json.loads(json.dumps(found))


def provenance(method: str) -> str:
  """Settings of a method and where they are from, one line."""
  if method in OWN:
    texts = []
    for dataset, (name, changed) in OURS.get(method, OURS['cddpm']).items():
      every = {**changed, **ALONE.get(method, {})}
      options = ''.join(f' {option}={value}' for option, value in every.items())
      texts.append(f'{dataset}: configs/{name}.py{options}')
    return f"{OWN[method]}; {', '.join(texts)}"
  peer = METHODS[method]
  return peer.provenance + (f'; {peer.settings}' if peer.settings else '')
