"""New images of a fitted model, batch by batch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jdiffclust.batch import blocks
from jdiffclust.clustering.method import Method
from jdiffclust.diffusion.denoiser import Denoiser, guided
from jdiffclust.diffusion.paths import Tabulated, from_process
from jdiffclust.diffusion.samplers import (
    Generated, Sampler, make_sampler, run, sampler_options)
from jdiffclust.diffusion.tables import Table
from jdiffclust.errors import UserError
from jdiffclust.sharding import (
    DATA_AXIS, SPLIT, WHOLE, local_rows, replicate, split_rows, to_host)
from jdiffclust.streams import sample_keys, stream


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


def sampler_of(options, reverse_variance: str, path: Tabulated) -> tuple[Sampler, Table]:
  """The sampler that the `sample` section of a config describes, and its table.

  Args:
    options: sampler, num_steps, grid, and the samplers' own options by their names.
    reverse_variance: of the section `diffusion`: the variance of ddpm.
    path: of the model, float64 on the host.

  Raises:
    UserError: more steps than the path has.
  """
  if options.num_steps > path.num_steps:
    raise UserError(f'config.sample.num_steps = {options.num_steps} exceeds the '
                    f'{path.num_steps} noise levels of the model: set it to 1..'
                    f'{path.num_steps}, or 0 for all.')
  known = {**options.to_dict(), 'variance': reverse_variance}
  return make_sampler(options.sampler, path, options.num_steps or path.num_steps,
                      options.grid, **{name: known[name]
                                       for name in sampler_options(options.sampler)})


def denoiser_of(method: Method, params, guidance: float) -> Denoiser:
  """The denoiser of a fitted model.

  Args:
    method: the model.
    params: its parameters.
    guidance: see `guided`; 1: none.
  """
  if guidance == 1:
    return method.denoiser(params)
  return guided(method.denoiser(params), method.reference(params),
                replicate(np.float32(guidance), method.mesh))


@functools.partial(jax.jit, static_argnames=('mesh', 'sampler', 'num_states'))
def generate(table: Table, denoiser: Denoiser, keys, condition, *, mesh: Mesh,
             sampler: Sampler, num_states: int) -> Generated:
  """`samplers.run`, images spread over the devices; rows a multiple of their number."""
  parts: Any = (SPLIT, SPLIT, PartitionSpec(None, DATA_AXIS) if num_states else None)
  out = Generated(*parts)
  spread = jax.shard_map(
      lambda *given: run(sampler, *given, num_states),  # type: ignore[call-arg]
      mesh=mesh, in_specs=(WHOLE, WHOLE, SPLIT, SPLIT), out_specs=out,
      check_vma=sampler.checks_vma)
  return spread(table, denoiser, keys, condition)


def conditions_of(method: Method, params, clusters, options) -> np.ndarray:
  """What images of clusters are generated from: mu, or latents of their own.

  Args:
    method: the model.
    params: fitted parameters (the averaged ones).
    clusters: k cluster numbers.
    options: as in `sample_clusters`.

  Returns:
    [k, n, ...]; with interpolation k is `options.interpolate`, and the rows go in equal
    steps from those of the first of two clusters to those of the second.
  """
  rows = np.stack([
      method.conditions(params, int(q), options.num_images, options.seed)
      for q in clusters])
  if not options.interpolate:
    return rows
  first, last = rows
  shares = np.linspace(0, 1, options.interpolate, dtype=np.float32)
  return first + shares.reshape(-1, *[1] * first.ndim) * (last - first)


def sample_clusters(method: Method, params, clusters, options, task=None) -> Samples:
  """Generates images of clusters.

  Args:
    method: the model.
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
  conditions = conditions_of(method, params, clusters, options)
  owners = (np.full(options.interpolate, clusters[0]) if options.interpolate
            else clusters)
  return sample_from(method, params, conditions, owners, options, task)


def sample_from(method: Method, params, conditions, owners, options,
                task=None, purpose: str = 'sample') -> Samples:
  """Generates images from conditions.

  Args:
    method: the model.
    params: fitted parameters.
    conditions: [k, n, ...].
    owners: a number for each row, [k], that decides its noise.
    options, task: as in `sample_clusters`.
    purpose: of the noise: images and the latents that they come from have their own.

  Returns:
    `Samples`, k rows of n.
  """
  mesh, (num_rows, count) = method.mesh, conditions.shape[:2]
  keys = np.asarray(jax.random.key_data(sample_keys(
      stream(options.seed, purpose), owners, count)))
  conditions = conditions.reshape(-1, *conditions.shape[2:])
  keys = keys.reshape(-1, *keys.shape[2:])
  total = len(conditions)
  size = min(options.batch_size, total)
  size += -size % mesh.size
  mine = local_rows(size)
  sampler, table = sampler_of(options, method.config.diffusion.reverse_variance,
                              from_process(method.process))
  table = replicate(table, mesh)
  denoiser = denoiser_of(method, params, options.guidance)
  parts = []
  for rows, valid in blocks(total, size):
    key_data, some = split_rows((keys[rows][mine], conditions[rows][mine]), mesh)
    found = to_host(generate(
        table, denoiser, jax.random.wrap_key_data(key_data), some, mesh=mesh,
        sampler=sampler, num_states=options.trajectory))
    if found.states is not None:
      found = found._replace(states=np.moveaxis(found.states, 0, 1))
    parts.append(jax.tree.map(lambda a: a[:valid], found))
    if task is not None:
      task.advance(valid)
  found = jax.tree.map(lambda *a: np.concatenate(a), *parts)
  shaped = lambda a: a.reshape(num_rows, count, *a.shape[1:])
  return Samples(shaped(found.images), float(found.evaluations.mean()),
                 None if found.states is None else shaped(found.states))


# Steps of a walk from latent to latent.
NUM_STEPS = 8


def reconstruct(method: Method, params, latents, options, task=None) -> np.ndarray:
  """Generates an image from each latent [n, J]: [n, H, W, C]."""
  return sample_from(method, params, latents[:, None], np.arange(len(latents)), options,
                     task).images[:, 0]


def walk(method: Method, params, first, last, options, task=None) -> np.ndarray:
  """Generates images on straight ways through the latent space.

  Args:
    method: one with latents.
    params: its parameters.
    first: latents where the n ways begin, [n, J].
    last: where they end.
    options: the `sample` section of a config.
    task: advanced by the images drawn, or None.

  Returns:
    [n, NUM_STEPS, H, W, C]; all images of a way have the same noise.
  """
  shares = np.linspace(0, 1, NUM_STEPS, dtype=np.float32)[:, None, None]
  found = sample_from(method, params, first + shares * (last - first),
                      np.zeros(NUM_STEPS, int), options, task)
  return np.moveaxis(found.images, 1, 0)
