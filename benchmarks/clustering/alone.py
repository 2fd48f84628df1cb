"""Our starts alone: partitions of images, and what else a recognition network says."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts import spaces  # noqa: F401  # slow to import
from jdiffclust.clustering.starts.recognition import (
    Recognised, Trained, cut, describe, in_a_row, over_views, recogniser, standardised)
from jdiffclust.clustering.starts.sample import fit_sample, partition, start_of_all
from jdiffclust.data.dataset import ImageSource, images_at
from jdiffclust.data.preprocess import reduced
from jdiffclust.streams import integer_seed


class Found(NamedTuple):
  """Clusters [N], and the seconds of the clock and of the processor that they took."""

  clusters: np.ndarray
  seconds: float
  cpu_seconds: float


def now() -> np.ndarray:
  """The seconds of the clock and of this process, float [2]; differences count."""
  return np.array([time.perf_counter(), time.process_time()])


def neighbours(source: ImageSource, config) -> dict[str, Found]:
  """The start 'neighbours'."""
  began = now()
  clusters = start_of_all(source, config, 'neighbours', ()).argmax(axis=1)
  return {'neighbours': Found(clusters, *(now() - began))}


def learnt(source: ImageSource, config) -> tuple[np.ndarray, Trained]:
  """The images that networks learn of, as they see them [n, H, W, C], and the networks.
  """
  sample = fit_sample(source, config.start.max_images, config.seed)
  trained = recogniser(sample, source.image_shape, config,
                       integer_seed(config.seed, 'init'))
  images = sample.reshape(-1, *source.image_shape)
  return reduced(images, config.recognition.max_side), trained


def recognition(source: ImageSource, config) -> dict[str, Found]:
  """The start 'recognition', and K-means of the features of the same networks."""
  source = source.seen
  with threadpool_limits(1):  # as for every start
    began = now()
    images, trained = learnt(source, config)
    features = describe(trained, images)
    training = now() - began

    began = now()
    tau = cut(features, config.num_clusters, integer_seed(config.seed, 'init'))
    start = Recognised(trained, features, tau, source.image_shape,
                       config.recognition.max_side)
    clusters = partition(start, source).argmax(axis=1)
    ours = Found(clusters, *(training + now() - began))

    began = now()
    if len(features) < source.num_images:
      features = describe(trained, every(source, config))
    model = KMeans(config.num_clusters, n_init=10, random_state=config.seed)
    clusters = model.fit_predict(in_a_row(standardised(features, features)))
    return {'recognition': ours,
            'network_kmeans': Found(clusters, *(training + now() - began))}


def network(source: ImageSource, config) -> dict[str, Found]:
  """The likeliest cells by networks of as many cells as clusters, means over views."""
  source = source.seen
  with threadpool_limits(1):
    began = now()
    logits, _ = over_views(learnt(source, config)[1], every(source, config))
    return {'network': Found(logits.argmax(axis=1), *(now() - began))}


def every(source: ImageSource, config) -> np.ndarray:
  """All images as the network sees them, [N, H, W, C] in [-1, 1]."""
  return reduced(images_at(source, range(source.num_images)), config.recognition.max_side)


FITS = {'neighbours': neighbours, 'recognition': recognition,
        'network_kmeans': recognition, 'network': network}
