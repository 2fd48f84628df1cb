"""Densities of all images of a pipeline, batch by batch."""

from __future__ import annotations

import jax
import numpy as np

from jdiffclust.clustering.density import Densities
from jdiffclust.clustering.e_step import image_keys
from jdiffclust.diffusion.paths import from_process
from jdiffclust.errors import UserError
from jdiffclust.sharding import replicate, to_host
from jdiffclust.training.machinery import Machinery
from jdiffclust.training.progress import Reporter


def densities_of_all(machinery: Machinery, params, pipeline, key, options,
                     reporter: Reporter) -> Densities:
  """Log densities of every image under every cluster and the mixture.

  Args:
    machinery: the model.
    params: fitted parameters.
    pipeline: of N images.
    key: a typed key.
    options: the `predict` section of a config: ode_steps and probes.
    reporter: shows progress.

  Returns:
    `Densities` of NumPy arrays, in nats.

  Raises:
    UserError: the method has no densities.
  """
  if machinery.density is None:
    raise UserError(f'config.predict.likelihood = True, but config.method = '
                    f'{machinery.config.method!r} has no densities by the '
                    'probability-flow ODE: leave it at False; the bound is given.')
  path = replicate(from_process(machinery.process), machinery.mesh)
  batch_size, parts = machinery.config.e_step.batch_size, []
  with reporter.task('densities', pipeline.num_images, 'images') as task:
    for batch, valid in pipeline.ordered(np.arange(pipeline.num_images), batch_size):
      found = to_host(machinery.density(
          path, params, batch.images, image_keys(key, batch.indices), options.ode_steps,
          options.probes))
      parts.append(jax.tree.map(lambda a: a[:valid], found))
      task.advance(valid)
  return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
