"""Generates images of a fitted model, batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

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


def conditions_of(machinery: Machinery, params, clusters, options) -> np.ndarray:
  """What images of clusters are generated from: mu, or latents of their own.

  Args:
    machinery: the model.
    params: fitted parameters (the averaged ones).
    clusters: k cluster numbers.
    options: as in `draw_samples`.

  Returns:
    [k, n, ...]; with interpolation k is `options.interpolate`, and the rows go in equal
    steps from those of the first of two clusters to those of the second.
  """
  rows = np.stack([
      machinery.conditions(params, int(q), options.num_images, options.seed)
      for q in clusters])
  if not options.interpolate:
    return rows
  first, last = rows
  shares = np.linspace(0, 1, options.interpolate, dtype=np.float32)
  return first + shares.reshape(-1, *[1] * first.ndim) * (last - first)


def image_draws(key, owners, count: int):
  """Typed keys [k, n] of the images 0..n - 1 of clusters: of no other clusters."""
  of = lambda q, n: jax.random.fold_in(jax.random.fold_in(key, q), n)
  grid = jax.jit(jax.vmap(jax.vmap(of, (None, 0)), (0, None)))
  return grid(np.asarray(owners, np.int32), np.arange(count, dtype=np.int32))


def draw_samples(machinery: Machinery, params, clusters, options, task=None) -> Samples:
  """Generates images of clusters.

  Args:
    machinery: the model.
    params: fitted parameters (the averaged ones).
    clusters: k cluster numbers.
    options: the `sample` section of a config: num_images n, batch_size (the images do
      not depend on it), seed, the sampler, guidance, trajectory, the states to keep, and
      interpolate m: see `conditions_of`; then k is m, and every row has the same noise.
    task: advanced by the images drawn, or None.

  Returns:
    `Samples`.

  Raises:
    UserError: see `sampler_of`; more states than the sampler has steps.
  """
  clusters = np.asarray(clusters)
  conditions = conditions_of(machinery, params, clusters, options)
  owners = (np.full(options.interpolate, clusters[0]) if options.interpolate
            else clusters)
  return draw_from(machinery, params, conditions, owners, options, task)


def draw_from(machinery: Machinery, params, conditions, owners, options,
              task=None) -> Samples:
  """Generates images from conditions.

  Args:
    machinery: the model.
    params: fitted parameters.
    conditions: [k, n, ...].
    owners: a number for each row, [k], that decides its noise.
    options, task: as in `draw_samples`.

  Returns:
    `Samples`, k rows of n.
  """
  mesh, (num_rows, count) = machinery.mesh, conditions.shape[:2]
  keys = np.asarray(jax.random.key_data(image_draws(
      stream(options.seed, 'sample'), owners, count)))
  conditions = conditions.reshape(-1, *conditions.shape[2:])
  keys = keys.reshape(-1, *keys.shape[2:])
  total = len(conditions)
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
    key_data, some = split_rows((keys[at][mine], conditions[at][mine]), mesh)
    drawn = to_host(machinery.draw(
        *common, params, jax.random.wrap_key_data(key_data), some, scale,
        options.guidance != 1, options.trajectory))
    if drawn.states is not None:
      drawn = drawn._replace(states=np.moveaxis(drawn.states, 0, 1))
    parts.append(jax.tree.map(lambda a: a[:total - start], drawn))
    if task is not None:
      task.advance(len(parts[-1].images))
  drawn = jax.tree.map(lambda *a: np.concatenate(a), *parts)
  shaped = lambda a: a.reshape(num_rows, count, *a.shape[1:])
  return Samples(shaped(drawn.images), float(drawn.evaluations.mean()),
                 None if drawn.states is None else shaped(drawn.states))
