"""Do views that a diffusion model makes, or its latents, help the start by recognition?

  python -m benchmarks.starts.turned [--datasets=digits,strokes] [--seeds=0,1,2]
      [--ways=affine,turned,...] [--fashion=DIR] [--out=DIR]

Question:  what is a network worth that learns of images noised and denoised again
           (U-turns) by a DDPM of the same images, beside or in the place of small maps?
           And what are ClusterDDPM's latents worth beside the network's features?
Time:      digits 4 minutes of one core a seed, the others some 15.
Kept:      docs/tau.md, What the diffusion model adds to the clusters.

The denoiser is that of a mixture of one cluster, which knows of no cells. An image y =
x_0 + sigma eps is denoised in the rows of ddim (eta 1) below each sigma of SIGMAS; the
networks then learn of the images and their U-turns as of one collection, in as many
steps as without. Images are those of the fit (16x16 but for the digits), to networks,
too. Labels are read by the scores alone. Each data set, way and seed leaves one JSON
file in DIR and is not repeated.
"""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

import jdiffclust
from benchmarks.clustering.methods import our_config
from benchmarks.common import (
    DATASETS, SCORES, add_fashion, cell, make_parser, markdown, names, runs_of)
from jdiffclust.batch import in_blocks
from jdiffclust.clustering.starts import spaces  # noqa: F401  # slow to import
from jdiffclust.clustering.starts.recognition import (
    cells_of, cut, describe, num_steps, train)
from jdiffclust.data import symmetry
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.diffusion.samplers import Walk, make_sampler
from jdiffclust.evaluation.scores import clustering_scores
from jdiffclust.fitted import finest_of
from jdiffclust.streams import integer_seed, stream

SIGMAS = .3, .6, 1.  # noise of the U-turns, in units of half the range of pixels
STEPS = 50  # of ddim, over all noise levels
BATCH = 250
WAYS = {
    'affine': 'small maps of the images',
    'turned': 'small maps of the images and their U-turns',
    'turned alone': 'the images and their U-turns as they are',
    'latents': "small maps of the images; ClusterDDPM's latents as one more network",
}


@functools.partial(jax.jit, static_argnums=0)
def u_turned(sampler, rows, denoiser, images, keys, condition):
  """Images [B, H, W, C] noised to the level of the first row and denoised again."""
  noise = jax.vmap(lambda key: jax.random.normal(
      jax.random.fold_in(key, 2**30), images.shape[1:]))(keys)
  y = images + rows.sigma[0] * noise
  state, _ = jax.lax.scan(
      lambda state, row: (sampler.step(state, row, denoiser, keys, condition), None),
      Walk(y, y, y), rows)
  return state.y


def u_turns(fitted, images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
  """`u_turned` from the first of STEPS noise levels at or below sigma.

  Args:
    fitted: a mixture of one cluster.
    images: [n, H, W, C].
    sigma: the noise level.
    seed: of the noise.
  """
  denoiser = fitted.denoiser()
  sampler, table = make_sampler('ddim', fitted.method.path, STEPS, eta=1.)
  first = int(np.argmax(table.rows.sigma <= sigma))
  rows = jax.tree.map(lambda a: jnp.asarray(a[first:], jnp.float32), table.rows)
  rows = rows._replace(left=jnp.arange(len(rows.t), dtype=jnp.int32)[::-1])
  key = stream(seed, f'turned_{sigma}')

  def of(places):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(places))
    mu = jnp.broadcast_to(fitted.params.means[0], (len(places), *images.shape[1:]))
    return u_turned(sampler, rows, denoiser, jnp.asarray(images[places]), keys, mu)

  return np.clip(in_blocks(of, len(images), BATCH), -1, 1)


def measure(dataset: str, way: str, options: dict, seed: int) -> dict:
  """Scores of the start of one way to learn."""
  config = our_config(dataset, seed, further=options)
  source = load_source(config.data, finest=finest_of(config))
  images = np.asarray(images_at(source, range(source.num_images)), np.float32)
  flat, number = images.reshape(len(images), -1), config.num_clusters
  config, _ = symmetry.settled(config, flat, images.shape[1:])
  cut_seed = integer_seed(config.seed, 'init')
  with threadpool_limits(1):
    cells = cells_of(images, config, cut_seed)
  learnt = copy.deepcopy(config)
  shown, told = images, cells
  if way.startswith('turned'):
    one = copy.deepcopy(config)
    one.num_clusters, one.start.kind, one.em.max_iterations = 1, 'kmeans', 1
    fitted = jdiffclust.fit(one, source)
    turns = [u_turns(fitted, images, sigma, seed) for sigma in SIGMAS]
    shown = np.concatenate([images, *turns])
    told = np.tile(cells, (1 + len(turns), 1))
  if way == 'turned alone':
    learnt.recognition.view_size = 0.
  trained = train(shown, told, learnt, steps=num_steps(len(images), config.recognition))
  features = describe(trained, images)
  if way == 'latents':
    other = our_config(dataset, seed, method='cluster_ddpm',
                       further={**options, 'start.kind': 'neighbours'})
    fitted = jdiffclust.fit(other, source)
    latents = in_blocks(
        lambda rows: fitted.method.encode(fitted.params, jnp.asarray(images[rows]))[0],
        len(images), BATCH)
    room = ((0, 0), (0, features.shape[2] - latents.shape[1]))
    features = np.concatenate(  # what is the same for all tells nothing
        [features, np.pad(latents, room)[:, None]], axis=1)
  with threadpool_limits(1):
    tau = cut(features, number, cut_seed)
  scores = clustering_scores(source.labels, tau.argmax(axis=1))
  return {name: scores[name] for name in SCORES}


def main() -> None:
  """Runs what is missing, prints the table."""
  parser = make_parser(__doc__, seeds='0', out='runs/turned')
  parser.add_argument('--datasets', type=names(DATASETS), default='digits,strokes')
  parser.add_argument('--ways', type=names(WAYS), default=','.join(WAYS))
  add_fashion(parser)
  args = parser.parse_args()
  rows = [[dataset, WAYS[way], *(cell([run[score] for run in runs]) for score in SCORES)]
          for dataset, way, runs in runs_of(args, args.ways, measure)]
  print(markdown(('data', 'the networks see', 'ACC', 'NMI', 'ARI'), rows))


if __name__ == '__main__':
  main()
