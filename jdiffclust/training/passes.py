"""Passes over all images, batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.clustering.e_step import EStepInfo
from jdiffclust.clustering.m_step import look_up
from jdiffclust.clustering.mixture import bits_per_dimension
from jdiffclust.clustering.proposals import NUM_IMAGES
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.errors import UserError
from jdiffclust.sharding import to_host
from jdiffclust.training.machinery import Machinery
from jdiffclust.training.progress import Reporter


_start_of = jax.jit(look_up)


class NonFiniteError(UserError):
  """A loss, bound or responsibility that is not a number stopped the run."""


class Assignment(NamedTuple):
  """An E-step over a data set, on the host.

  Attributes:
    responsibilities: tau, float32 [N, Q].
    info: `EStepInfo` of arrays [N, ...].
    evaluations_per_second: network evaluations, without compilation; None: unknown.
  """

  responsibilities: np.ndarray
  info: EStepInfo
  evaluations_per_second: float | None


def assign_all(machinery: Machinery, params, pipeline, key,
               reporter: Reporter, name: str = 'E-step', indices=None,
               start=None) -> Assignment:
  """Runs the E-step over the images.

  Args:
    machinery: the model.
    params: the parameters.
    pipeline: of the images.
    key: a typed key.
    reporter: shows progress.
    name: what the progress calls it.
    indices: of the images; None: all.
    start: a table of the starting partition for `look_up`, on the devices; None:
      unknown, as of new images.

  Returns:
    The `Assignment`, of n images.

  Raises:
    NonFiniteError: a bound or responsibility is not finite; the image is named.
  """
  options = machinery.config.e_step
  key = replicate_key(key, machinery.mesh)
  parts = []
  if indices is None:
    indices = np.arange(pipeline.num_images)
  with reporter.task(name, len(indices), 'images') as task:
    estimator = machinery.e_estimator
    if machinery.pilot is not None:  # from all over: files may be sorted by class
      some = indices[np.unique(np.linspace(0, len(indices) - 1, NUM_IMAGES, dtype=int))]
      batch, valid = next(pipeline.ordered(some, options.batch_size))
      estimator = machinery.pilot(estimator, params, batch, valid, key)
    for batch, valid in pipeline.ordered(indices, options.batch_size):
      if start is not None:
        batch = batch._replace(start=_start_of(start, batch.indices))
      tau, info = to_host(machinery.e_step(estimator, params, batch, key))
      parts.append(jax.tree.map(lambda a: a[:valid], (tau, info)))
      so_far = np.mean(np.concatenate([part[1].bound for part in parts]))
      task.advance(valid, f'bound {bits_per_dimension(so_far, machinery.image_shape):.3f}'
                   ' bits/dim')
    # The first batch compiles.
    evaluated = sum(int(info.evaluations.sum()) for _, info in parts[1:])
    rate = evaluated / task.seconds if evaluated else None
  tau, info = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
  for term, values in (('responsibilities', tau.sum(axis=1)), *info._asdict().items()):
    allowed = np.isfinite(values) | (np.isinf(values) if term == 'margin' else False)
    allowed = allowed.reshape(len(tau), -1).all(axis=1)
    if not allowed.all():
      image = int(indices[np.argmin(allowed)])
      raise NonFiniteError(f'E-step: the {term} of image {image} is not finite')
  return Assignment(tau, info, rate)


def weighted_means(pipeline, indices, responsibilities, batch_size: int) -> jax.Array:
  """mu_q, the responsibility-weighted mean image of each cluster.

  Args:
    pipeline: of the images.
    indices: of the images to average, [n].
    responsibilities: their tau on the devices, [n, Q].
    batch_size: images summed at once, at most.

  Returns:
    [Q, H, W, C]; an empty cluster gets the mean of all images.
  """
  @jax.jit
  def add(sums, batch, responsibilities, begin, valid):
    rows = jnp.arange(len(batch.indices))
    tau = responsibilities[jnp.minimum(begin + rows, len(responsibilities) - 1)]
    tau = jnp.where((rows < valid)[:, None], tau, 0)
    return sums + jnp.einsum('bq,bhwc->qhwc', tau, batch.images)

  sums, begin = 0., 0
  for batch, valid in pipeline.ordered(indices, batch_size):
    sums = add(sums, batch, responsibilities, begin, valid)
    begin += valid
  sizes = jnp.sum(responsibilities, axis=0)[:, None, None, None]
  overall = jnp.sum(sums, axis=0) / jnp.sum(sizes)
  return jnp.where(sizes > 1e-3, sums / jnp.maximum(sizes, 1e-3), overall)


def latents_of(machinery: Machinery, params, pipeline, reporter: Reporter,
               indices=None) -> tuple[np.ndarray, np.ndarray]:
  """The latents of images.

  Args:
    machinery: a method that has latents.
    params: its parameters.
    pipeline: of the images.
    reporter: shows progress.
    indices: of the images, [n]; None: all.

  Returns:
    Mean and log variance of z, float32 [n, J] each.

  Raises:
    NonFiniteError: one of them is not finite; the image is named.
  """
  if indices is None:
    indices = np.arange(pipeline.num_images)
  parts = []
  with reporter.task('latents', len(indices), 'images') as task:
    for batch, valid in pipeline.ordered(indices, machinery.config.e_step.batch_size):
      found = to_host(machinery.encode(params, batch.images))
      parts.append(jax.tree.map(lambda a: a[:valid], found))
      task.advance(valid)
  mean, log_variance = (np.concatenate(rows) for rows in zip(*parts))
  finite = np.isfinite(mean).all(axis=1) & np.isfinite(log_variance).all(axis=1)
  if not finite.all():
    image = int(indices[np.argmin(finite)])
    raise NonFiniteError(f'E-step: the latent of image {image} is not finite')
  return mean, log_variance
