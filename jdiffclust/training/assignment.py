"""What a fitted model says of all images: the E-step, and densities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.batch import Batch
from jdiffclust.clustering.bound.draws import image_keys
from jdiffclust.clustering.bound.tau import EStepInfo
from jdiffclust.clustering.cddpm.density import Densities
from jdiffclust.clustering.method import Method
from jdiffclust.clustering.table import responsibilities_of
from jdiffclust.data.passes import over_images
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.errors import NonFiniteError
from jdiffclust.evaluation.diagnostics import bits_per_dimension
from jdiffclust.progress import Reporter

PROBES = 4  # of the trace in the probability-flow ODE, an image and cluster

_start_of = jax.jit(responsibilities_of)


@jax.jit
def content_numbers(images) -> jax.Array:
  """A number of each image's pixels, int32 [B] >= 0, of float32 [B, H, W, C].

  The bits of a pixel and its place go through the last steps of MurmurHash3 (Appleby,
  2011), the sum over pixels is taken modulo 2^32.
  """
  number = jnp.uint32
  flat = images.reshape(len(images), -1) + 0.  # -0 is 0
  bits = jax.lax.bitcast_convert_type(flat, number)
  h = bits + jnp.arange(1, flat.shape[1] + 1, dtype=number)[None] * number(0x9e3779b9)
  for shift, factor in ((16, 0x85ebca6b), (13, 0xc2b2ae35)):
    h = (h ^ (h >> number(shift))) * number(factor)
  h = jnp.sum(h ^ (h >> number(16)), axis=1, dtype=number)
  return (h >> number(1)).astype(jnp.int32)


class ByContent:
  """New images on their way: an image's draws follow from its pixels, not its place.

  So what is said of an image does not depend on which others are asked about with it.
  """

  def __init__(self, pipeline, start=None):
    """Looks nothing up yet.

    Args:
      pipeline: of the images.
      start: a table of their starting partition (`clustering.table`), on the devices;
        None: unknown.
    """
    self.num_images = pipeline.num_images
    self._pipeline, self._start = pipeline, start

  def ordered(self, indices, batch_size: int) -> Iterator[tuple[Batch, int]]:
    """The images of some indices once, in their order."""
    for batch, valid in self._pipeline.ordered(indices, batch_size):
      start = (None if self._start is None else _start_of(self._start, batch.indices))
      # Laid out as the fit's indices are: by the same programs.
      numbers = jax.device_put(content_numbers(batch.images), batch.indices.sharding)
      yield Batch(batch.images, numbers, start), valid


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


def assign_all(method: Method, params, pipeline, key,
               reporter: Reporter, name: str = 'E-step', indices=None,
               start=None) -> Assignment:
  """Runs the E-step over the images.

  Args:
    method: the model.
    params: the parameters.
    pipeline: of the images.
    key: a typed key.
    reporter: shows progress.
    name: what the progress calls it.
    indices: of the images; None: all.
    start: a table of the starting partition (`clustering.table`), on the devices; None:
      unknown, as of new images.

  Returns:
    The `Assignment`, of n images.

  Raises:
    NonFiniteError: a bound or responsibility is not finite; the image is named.
  """
  key = replicate_key(key, method.mesh)
  size = np.prod(method.image_shape)
  if indices is None:
    indices = np.arange(pipeline.num_images)
  evaluated = []
  with reporter.task(name, len(indices), 'images') as task:
    estimator = method.pilot(params, pipeline, indices, key)

    def score(batch):
      if start is not None:
        batch = batch._replace(start=_start_of(start, batch.indices))
      return method.e_step(estimator, params, batch, key)

    def report(parts):
      infos = [info for _, info in parts]
      evaluated.append(int(infos[-1].evaluations.sum()))
      so_far = np.mean(np.concatenate([info.bound for info in infos]))
      task.advance(len(infos[-1].bound),
                   f'bound {bits_per_dimension(so_far, size):.3f} bits/dim')

    tau, info = over_images(score, pipeline, indices, method.config.e_step.batch_size,
                            report)
    # The first batch compiles.
    rate = sum(evaluated[1:]) / task.seconds if sum(evaluated[1:]) else None
  for term, values in (('responsibilities', tau.sum(axis=1)), *info._asdict().items()):
    allowed = np.isfinite(values) | (np.isinf(values) if term == 'margin' else False)
    allowed = allowed.reshape(len(tau), -1).all(axis=1)
    if not allowed.all():
      image = int(indices[np.argmin(allowed)])
      raise NonFiniteError(f'E-step: the {term} of image {image} is not finite')
  return Assignment(tau, info, rate)


def tell_all(method: Method, params, pipeline, key, reporter: Reporter) -> np.ndarray:
  """The responsibilities of `assign_all` alone, [N, Q], which takes far less time.

  Args:
    method, params, pipeline, key, reporter: as of `assign_all`.

  Raises:
    NonFiniteError: one is not finite; the image is named.
  """
  key, indices = replicate_key(key, method.mesh), np.arange(pipeline.num_images)
  with reporter.task('predict', len(indices), 'images') as task:
    estimator = method.pilot(params, pipeline, indices, key)
    tau = over_images(lambda batch: method.tell(estimator, params, batch, key), pipeline,
                      indices, method.config.e_step.batch_size,
                      lambda parts: task.advance(len(parts[-1])))
  finite = np.isfinite(tau).all(axis=1)
  if not finite.all():
    raise NonFiniteError(
        f'E-step: the responsibilities of image {np.argmin(finite)} are not finite')
  return tau


def densities_of_all(method: Method, params, pipeline, key, options,
                     reporter: Reporter) -> Densities:
  """Log densities of every image under every cluster and the mixture.

  Args:
    method: the model.
    params: fitted parameters.
    pipeline: of N images.
    key: a typed key.
    options: the `predict` section of a config: ode_steps.
    reporter: shows progress.

  Returns:
    `Densities` of NumPy arrays, in nats.

  Raises:
    UserError: the method has no densities.
  """
  of_batch = lambda batch: method.densities(
      params, batch.images, image_keys(key, batch.numbers), options.ode_steps, PROBES)
  with reporter.task('densities', pipeline.num_images, 'images') as task:
    return over_images(of_batch, pipeline, np.arange(pipeline.num_images),
                       method.config.e_step.batch_size,
                       lambda parts: task.advance(len(parts[-1].mixture)))
