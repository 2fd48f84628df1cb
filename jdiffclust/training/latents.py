"""What a fitted model makes of latents: reconstructions and walks, for the report."""

from __future__ import annotations

import numpy as np

from jdiffclust.evaluation import latents as latents_lib
from jdiffclust.evaluation.latents import LatentResults
from jdiffclust.streams import integer_seed
from jdiffclust.training.machinery import Machinery
from jdiffclust.training.passes import latents_of
from jdiffclust.training.sampling import draw_from

# Images that are reconstructed; walks and their steps.
NUM_RECONSTRUCTED, NUM_WALKS, NUM_STEPS = 12, 5, 8
# Of the history: what the report shows of the latents, by their names there.
TERMS = {
    'KL(q(c | x) || pi), nats': 'latent_categorical_kl',
    'KL(q(z | x) || p(z | c)), nats': 'latent_gaussian_kl',
    'Log-likelihood of the mixture, nats': 'latent_log_likelihood',
    'Dimensions of z in use': 'latent_active_dimensions',
    'Standard deviation of q(z | x)': 'latent_deviation'}


def reconstruct(machinery: Machinery, params, latents, options, task=None) -> np.ndarray:
  """Generates an image from each latent [n, J]: [n, H, W, C]."""
  return draw_from(machinery, params, latents[:, None], np.arange(len(latents)), options,
                   task).images[:, 0]


def walk(machinery: Machinery, params, first, last, options, task=None) -> np.ndarray:
  """Generates images on straight ways through the latent space.

  Args:
    machinery: a method with latents.
    params: its parameters.
    first: latents where the n ways begin, [n, J].
    last: where they end.
    options: the `sample` section of a config.
    task: advanced by the images drawn, or None.

  Returns:
    [n, NUM_STEPS, H, W, C]; all images of a way have the same noise.
  """
  shares = np.linspace(0, 1, NUM_STEPS, dtype=np.float32)[:, None, None]
  drawn = draw_from(machinery, params, first + shares * (last - first),
                    np.zeros(NUM_STEPS, int), options, task)
  return np.moveaxis(drawn.images, 1, 0)


def latent_results(machinery: Machinery, params, pipeline, responsibilities, labels,
                   images_at, history, options, reporter) -> LatentResults:
  """All that the report shows of latents.

  Args:
    machinery: a method with latents.
    params: fitted parameters.
    pipeline: of the N images.
    responsibilities: tau, [N, Q].
    labels: int [N], or None; they are scored only.
    images_at: from indices [n] to images [n, H, W, C] in [-1, 1].
    history: a dict per EM iteration.
    options: the `sample` section of a config.
    reporter: shows progress.

  Returns:
    `LatentResults`.
  """
  config = machinery.config
  means, _ = latents_of(machinery, params, pipeline, reporter)
  chosen = np.unique(np.linspace(0, len(means) - 1, NUM_RECONSTRUCTED, dtype=int))
  ways = [(q, q + 1) for q in range(min(NUM_WALKS, config.num_clusters - 1))]
  with reporter.task('images from latents', len(chosen) + NUM_STEPS * len(ways),
                     'images') as task:
    images = reconstruct(machinery, params, means[chosen], options, task)
    found = {'reconstructions': (images_at(chosen), images)}
    if ways:
      sizes = np.maximum(responsibilities.sum(axis=0), 1e-6)[:, None]
      centres = (responsibilities.T @ means / sizes).astype(np.float32)
      found['walk'] = (walk(machinery, params, *(centres[[way[end] for way in ways]]
                                                 for end in (0, 1)), options, task), ways)
  found['terms'] = {name: [line.get(key) for line in history]
                    for name, key in TERMS.items()}
  with reporter.task('map of the latents', 1, 'maps') as task:
    measured = latents_lib.measure(means, responsibilities, labels, images_at,
                                   integer_seed(config.seed, 'latent_map'))
    task.advance(1)
  return measured._replace(**found)
