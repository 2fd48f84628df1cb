"""Generates images of a fitted model, batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jdiffclust.clustering.mixture import Parameters
from jdiffclust.diffusion.paths import from_process
from jdiffclust.diffusion.samplers import Continuous, Table, make_sampler
from jdiffclust.errors import UserError
from jdiffclust.sharding import local_rows, replicate, split_rows, to_host
from jdiffclust.streams import stream
from jdiffclust.training.machinery import Machinery


class Samples(NamedTuple):
  """Generated images: k rows of n.

  Attributes:
    images: float32 [k, n, H, W, C], in [-1, 1] up to what the network overshoots.
    evaluations: network evaluations an image took, mean.
    states: None, or the way from noise to image, [k, n, states, H, W, C].
  """

  images: np.ndarray
  evaluations: float
  states: np.ndarray | None


def sampler_of(options, diffusion, process) -> Table | Continuous:
  """The sampler that the `sample` section of a config describes.

  Args:
    options: sampler, num_steps, grid, eta, predictor, snr, corrections, tolerance.
    diffusion: the section `diffusion`: ddpm takes its reverse_variance.
    process: the diffusion, float64 on the host.

  Raises:
    UserError: more steps than the process has.
  """
  path = from_process(process)
  if options.num_steps > path.num_steps:
    raise UserError(f'config.sample.num_steps = {options.num_steps} exceeds the '
                    f'{path.num_steps} noise levels of the model: set it to 1..'
                    f'{path.num_steps}, or 0 for all.')
  own = {
      'ddpm': {'variance': diffusion.reverse_variance},
      'ddim': {'eta': options.eta},
      'predictor_corrector': {'predictor': options.predictor, 'snr': options.snr,
                              'corrections': options.corrections},
      'adaptive': {'rtol': options.tolerance, 'atol': options.tolerance}}
  return make_sampler(options.sampler, path, options.num_steps or path.num_steps,
                      options.grid, **own.get(options.sampler, {}))


def draw_samples(machinery: Machinery, params: Parameters, clusters, options,
                 task=None) -> Samples:
  """Generates images of clusters.

  Args:
    machinery: the model.
    params: fitted parameters (the averaged ones).
    clusters: k cluster numbers.
    options: the `sample` section of a config: num_images n, batch_size (the images do
      not depend on it), seed, the sampler, guidance, trajectory, the states to keep, and
      interpolate m: then k is m, the rows go in equal steps from the mean of the first
      of two clusters to that of the second, and every row has the same noise.
    task: advanced by the images drawn, or None.

  Returns:
    `Samples`.

  Raises:
    UserError: see `sampler_of`; more states than the sampler has steps.
  """
  clusters, mesh = np.asarray(clusters), machinery.mesh
  means = to_host(params.means)
  if options.interpolate:
    first, last = means[clusters]
    shares = np.linspace(0, 1, options.interpolate, dtype=np.float32)
    rows = first + shares[:, None, None, None] * (last - first)
    owners = np.full(options.interpolate, clusters[0])
  else:
    rows, owners = means[clusters], clusters
  # An image's key follows from its cluster and place, not from the other clusters.
  count = options.num_images
  mu, owners = np.repeat(rows, count, axis=0), np.repeat(owners, count)
  numbers = np.tile(np.arange(count), len(rows))
  make_keys = jax.jit(jax.vmap(
      lambda key, q, n: jax.random.fold_in(jax.random.fold_in(key, q), n),
      in_axes=(None, 0, 0)))
  keys = np.asarray(jax.random.key_data(make_keys(
      stream(options.seed, 'sample'), owners.astype(np.int32), numbers.astype(np.int32))))

  total = len(mu)
  size = min(options.batch_size, total)
  size += -size % mesh.size
  mine = local_rows(size)
  common = replicate(to_host((
      sampler_of(options, machinery.config.diffusion, machinery.process),
      from_process(machinery.process))), mesh)
  scale = replicate(np.float32(options.guidance), mesh)
  parts = []
  for start in range(0, total, size):
    at = np.minimum(np.arange(start, start + size), total - 1)
    key_data, some = split_rows((keys[at][mine], mu[at][mine]), mesh)
    drawn = to_host(machinery.draw(
        *common, params, jax.random.wrap_key_data(key_data), some, scale,
        options.guidance != 1, options.trajectory))
    if drawn.states is not None:
      drawn = drawn._replace(states=np.moveaxis(drawn.states, 0, 1))
    parts.append(jax.tree.map(lambda a: a[:total - start], drawn))
    if task is not None:
      task.advance(len(parts[-1].images))
  drawn = jax.tree.map(lambda *a: np.concatenate(a), *parts)
  shaped = lambda a: a.reshape(len(rows), count, *a.shape[1:])
  return Samples(shaped(drawn.images), float(drawn.evaluations.mean()),
                 None if drawn.states is None else shaped(drawn.states))
