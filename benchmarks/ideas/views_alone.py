"""From nothing by views and balance alone: what the denoising errors are compared with.

The inference network of cddpm sees two views of each image, and there is no denoiser. It
maximises the mutual information of its two answers (Ji, Henriques and Vedaldi, 2019),
whose optimum is a sure answer, the same for both views, and clusters of equal sizes.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.common import SCORES
from benchmarks.ideas.search import digits
from jdiffclust.clustering.bound.pooling import log_posterior
from jdiffclust.clustering.starts.recognition import minibatches
from jdiffclust.data.dataset import images_at
from jdiffclust.data.symmetry import settled
from jdiffclust.data.views import random_views
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.state import make_optimizer

STEPS = 2400
SPREAD = .05  # of the last layer's first weights: at 0 both answers know nothing


def information(q, other) -> jax.Array:
  """I(z; z') of the answers to two views, nats.

  Args:
    q, other: q_phi of the one and of the other view, [B, Q].

  Returns:
    [].
  """
  joint = jnp.einsum('np,nq->pq', q, other) / len(q)
  joint = (joint + joint.T) / 2
  log = lambda p: jnp.log(p + 1e-9)
  return jnp.sum(joint * log(joint)) - 2 * jnp.sum(joint.sum(axis=0)
                                                   * log(joint.sum(axis=0)))


def views_alone(seed: int, workdir: pathlib.Path) -> dict:
  """Scores of the inference network before and after STEPS gradient steps.

  Args:
    seed: of everything.
    workdir: not used.
  """
  del workdir
  config, source = digits({}, seed)
  images = images_at(source, np.arange(source.num_images))
  config, _ = settled(config, images.reshape(len(images), -1), source.image_shape)
  network = InferenceNetwork(config.num_clusters, config.posterior.channels)
  key = jax.random.key(seed)
  images = jnp.asarray(images, jnp.float32)
  params = network.init(key, images[:1])
  last = params['params']['Dense_1']
  last['kernel'] = SPREAD * jax.random.normal(key, last['kernel'].shape)
  optimizer = make_optimizer(config.m_step)

  @jax.jit
  def step(params, memory, rows, key, images):
    seen = random_views(jnp.concatenate([images[rows]] * 2),
                        jax.random.split(key, 2 * len(rows)), config.views)

    def loss(params):
      q = jax.nn.softmax(network.apply(params, seen))
      return -information(*jnp.split(q, 2))

    updates, memory = optimizer.update(jax.grad(loss)(params), memory, params)
    return optax.apply_updates(params, updates), memory

  def scores(params):
    keys = jax.random.split(key, len(images))
    tau = log_posterior(lambda x: network.apply(params, x), images, keys, config.views,
                        config.posterior.num_views)
    found = clustering_scores(source.labels, np.asarray(tau).argmax(axis=1))
    return {name: found[name] for name in SCORES}

  start, memory = scores(params), optimizer.init(params)
  batches = minibatches(len(images), config.m_step.batch_size, STEPS, seed)
  for number, rows in enumerate(batches):
    params, memory = step(params, memory, rows, jax.random.fold_in(key, number), images)
    if number % 8 == 0:
      jax.block_until_ready(params)
  return {'start': start, **scores(params)}
