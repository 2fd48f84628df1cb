"""What is compared, and with which settings.

Every peer has one setting for all data sets, its library's default unless its line in
METHODS says otherwise; ours has a config file for each data set, in OURS. No method sees
a label; all are told the number of classes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import DATASETS, config_of
from jdiffclust import config as config_lib

NUM_CLUSTERS = 10  # the true number of classes of all four data sets
# Ours: the config of each data set, and what is changed in it, by method.
SMALL = {'data.channels': 1, 'num_clusters': NUM_CLUSTERS}
# What configs/latent_cddpm_digits.py adds to that of cluster_ddpm.
TAKEN_OVER = {'method': 'latent_cddpm', 'em.max_iterations': 5, 'em.bound_tolerance': 0.,
              'em.partition_tolerance': 0.}


def by_data_set(digits: str, larger: str, changed: dict) -> dict:
  """The configs of a method, and what is changed in that of the larger images."""
  return {dataset: (digits, {}) if dataset == 'digits' else (larger, changed)
          for dataset in DATASETS}


OURS = {
    'cddpm': by_data_set('digits', 'folder', SMALL),
    'cluster_ddpm': by_data_set('cluster_ddpm_digits', 'cluster_ddpm_mnist5k', {}),
    'latent_cddpm': by_data_set('latent_cddpm_digits', 'cluster_ddpm_mnist5k',
                                TAKEN_OVER),
}


def kmeans(images, seed, **settings):
  from sklearn.cluster import KMeans
  return KMeans(NUM_CLUSTERS, random_state=seed, **settings).fit_predict(images)


def ward(images, seed):
  from sklearn.cluster import AgglomerativeClustering
  del seed  # nothing in it is random
  return AgglomerativeClustering(NUM_CLUSTERS, linkage='ward').fit_predict(images)


def gaussian_mixture(images, seed, **settings):
  from jdiffclust.clustering.starts.partitions import gaussian_mixture
  assign = gaussian_mixture(images, NUM_CLUSTERS, seed=seed, **settings)
  return assign(images, None).argmax(axis=1)


def spectral(images, seed, **settings):
  from sklearn.cluster import SpectralClustering
  return SpectralClustering(NUM_CLUSTERS, random_state=seed,
                            **settings).fit_predict(images)


def most_likely_mixture(embedding, seed, n_init):
  """The clusters of the most likely of n_init full-covariance mixtures."""
  from sklearn.mixture import GaussianMixture
  model = GaussianMixture(NUM_CLUSTERS, n_init=n_init, random_state=seed)
  return model.fit_predict(np.asarray(embedding, np.float64))


def tsne_gmm(images, seed, components, n_init):
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE
  if images.shape[1] > components:
    images = PCA(components, random_state=seed).fit_transform(images)
  return most_likely_mixture(TSNE(random_state=seed).fit_transform(images), seed, n_init)


def umap_gmm(images, seed, n_init):
  from umap import UMAP
  model = UMAP(random_state=seed, n_jobs=1)  # with a seed it takes one anyway
  return most_likely_mixture(model.fit_transform(images), seed, n_init)


def deep(name, images, seed, **settings):
  """A method of ClustPy, on pixels in [0, 1]: the range its VaDE insists on."""
  from clustpy import deep as clustpy_deep
  model = getattr(clustpy_deep, name)(NUM_CLUSTERS, device='cpu', random_state=seed,
                                      **settings)
  return model.fit(np.clip((images + 1) / 2, 0, 1)).labels_


def n2d(images, seed, manifold_params):
  from umap import UMAP
  return deep('N2D', images, seed, manifold_class=UMAP, manifold_params=manifold_params)


class Method(NamedTuple):
  """A peer.

  Attributes:
    provenance: where its settings are from, one line.
    fit: from images [N, D] in [-1, 1], the seed and the settings to clusters [N].
    settings: its settings, the same for all data sets.
  """

  provenance: str
  fit: Callable[..., np.ndarray]
  settings: dict[str, Any]


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
    **{name.lower(): Method("ClustPy's defaults, pixels in [0, 1]",
                            functools.partial(deep, name), {})
       for name in ('VaDE', 'IDEC', 'DEC')},
    'n2d': Method(
        "ClustPy's defaults, pixels in [0, 1], with the UMAP of the N2D paper: ClustPy's "
        'own t-SNE refuses more than 3 components', n2d,
        {'manifold_params': {'n_components': NUM_CLUSTERS, 'n_neighbors': 20,
                             'min_dist': 0.}}),
}
UNUSED = ('start.restarts', 'start.components', 'start.noise', 'start.candidates',
          'start.trial_steps', 'start.denoiser_', 'e_step.', 'latent.')
UNUSED_BY = {'cluster_ddpm': ('e_step.',), 'latent_cddpm': ('e_step.',)}
OWN = {
    'neighbours': 'ours: the start from neighbourhoods alone',
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
    method: one of OURS.
    further: values by option name, as of `common.data_options`; without those the
      config lacks the data themselves.
  """
  name, changed = OURS[method][dataset]
  return config_of(name, {**changed, 'seed': seed, **(further or {})})


def settings_of(dataset: str, method: str) -> dict:
  """All that a result depends on, beside data and seed, as JSON gives it back."""
  if method in METHODS:
    found = METHODS[method].settings
  else:
    known, fit = dict(config_lib.options()), method if method in OURS else 'cddpm'
    found = {name: value
             for name, value in config_lib.flatten(our_config(dataset, 0, fit)).items()
             if known[name].defines_run and name not in ('seed', 'data.source')}
    # Nothing enters the scores of other starts, nor of the draws: they only score tau.
    unused = UNUSED_BY.get(method, UNUSED)
    found = {name: value for name, value in found.items() if not name.startswith(unused)}
    if method == 'neighbours':
      read = ('num_clusters', 'start.spaces', 'start.max_images', 'data.image_size',
              'views.')
      found = {name: value for name, value in found.items() if name.startswith(read)}
  return json.loads(json.dumps(found))


def provenance(method: str) -> str:
  """Settings of a method and where they are from, one line."""
  if method in OWN:
    texts = []
    for dataset, (name, changed) in OURS.get(method, OURS['cddpm']).items():
      options = ''.join(f' {option}={value}' for option, value in changed.items())
      texts.append(f'{dataset}: configs/{name}.py{options}')
    return f"{OWN[method]}; {', '.join(texts)}"
  peer = METHODS[method]
  return peer.provenance + (f'; {peer.settings}' if peer.settings else '')
