"""What a fitted model says of all images: the E-step, and densities."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

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
      params, batch.images, image_keys(key, batch.indices), options.ode_steps, PROBES)
  with reporter.task('densities', pipeline.num_images, 'images') as task:
    return over_images(of_batch, pipeline, np.arange(pipeline.num_images),
                       method.config.e_step.batch_size,
                       lambda parts: task.advance(len(parts[-1].mixture)))
