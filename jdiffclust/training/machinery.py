"""What a method gives the loop and the commands: its compiled steps and their data.

`training.methods` has the methods; each is a file with a function `build` that returns a
`Machinery`. The loop, checkpoints, samplers, metrics and the report ask for no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdiffclust.clustering.e_step import NUM_BANDS, Estimator, make_estimator
from jdiffclust.clustering.m_step import TrainState
from jdiffclust.diffusion.process import Process
from jdiffclust.errors import UserError
from jdiffclust.sharding import replicate, to_host


@dataclasses.dataclass(frozen=True)
class Machinery:
  """A method for images of one shape, on a mesh of devices.

  Parameters are of the method's own type; all have `log_proportions`, log pi [Q].

  Attributes:
    config: the config.
    image_shape: (H, W, C).
    mesh: the devices.
    model: the static part of the model.
    levels: grey levels of the decoder; None: a Gaussian one.
    process: the diffusion, float64 on the host.
    e_estimator: what the E-step draws from, on the devices.
    m_estimator: what the M-step draws from, on the devices.
    new_state: a traceable function of nothing: the state before the first step.
    m_step: the compiled gradient step (state, estimator, batch, table, key) -> (state,
      `MStepInfo`), which donates the state's buffers.
    e_step: the compiled E-step (estimator, params, batch, key) -> (tau [B, Q],
      `EStepInfo`).
    pilot: what an E-step begins with, see `assign.make_pilot`; None: nothing.
    before_m_step: closed forms before the gradient steps of an EM iteration (machinery,
      state, pipeline, indices of n images, tau [n, Q]) -> state; None: nothing.
    before_e_step: closed forms after them, (machinery, state, pipeline, indices, tau,
      iteration, reporter) -> (state, figures for the history); None: nothing.
    conditions: what images of a cluster are made from, (params, cluster, their number n,
      seed) -> NumPy [n, ...].
    draw: the compiled generation of images (sampler, path, params, keys, conditions,
      guidance, guided, num_states) -> `samplers.Drawn`, see `generate.make_draw`.
    means: the mean images of the clusters, params -> [Q, H, W, C]; None: the model has
      none.
    features: what the model has learned to see, from params on the host to a dict of
      `features.FeatureMap` by name.
    density: the compiled densities, see `density.make_density`; None: not to be had.
    encode: the compiled latents (params, images [B, H, W, C]) -> their means and log
      variances, [B, J]; None: there are none.
  """

  config: Any
  image_shape: tuple[int, int, int]
  mesh: Mesh
  model: Any
  levels: int | None
  process: Process
  e_estimator: Estimator
  m_estimator: Estimator
  new_state: Callable
  m_step: Callable
  e_step: Callable
  pilot: Callable | None
  before_m_step: Callable | None
  before_e_step: Callable | None
  conditions: Callable
  draw: Callable
  means: Callable | None = None
  features: Callable = lambda params: {}
  density: Callable | None = None
  encode: Callable | None = None

  def noise_bands(self) -> list[list[int] | None]:
    """[first, last] step of each band of `EStepInfo.levels`; None: an empty band."""
    of_step = np.asarray(self.e_estimator.bands)
    bands = (np.flatnonzero(of_step == band) for band in range(NUM_BANDS))
    return [[int(t[0]), int(t[-1])] if t.size else None for t in bands]

  def init_state(self) -> TrainState:
    """The state before the first step, by the config's seed."""
    # Run once: on a CPU, compiling it with care takes four times as long as without.
    options = ({'xla_backend_optimization_level': 0}
               if jax.default_backend() == 'cpu' else None)
    return replicate(to_host(jax.jit(self.new_state, compiler_options=options)()),
                     self.mesh)

  def abstract_state(self) -> TrainState:
    """The shapes, types and places of the state, without computing it."""
    sharding = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        jax.eval_shape(self.new_state))


def decoder_levels(config, levels: int | None) -> int | None:
  """Grey levels of the decoder that a config asks for; None: the Gaussian one.

  Raises:
    UserError: a discretized decoder for images without levels.
  """
  decoder = config.diffusion.decoder
  if decoder == 'discretized' and levels is None:
    raise UserError(
        "config.diffusion.decoder = 'discretized', but the images are real-valued: "
        'set it to gaussian (or auto), or give 8-bit images.')
  return None if decoder == 'gaussian' else levels


def estimators(process: Process, e_options, m_options, mesh: Mesh):
  """The estimators of the E-step and of the M-step, on the devices.

  Args:
    process: the diffusion.
    e_options: the `e_step` section of the config, its proposal not 'auto'.
    m_options: the `m_step` section.
    mesh: the devices.
  """
  weighting = m_options.weighting
  made = (make_estimator(process, e_options.weighting, e_options.proposal),
          make_estimator(process, weighting,
                         'weight' if weighting == 'elbo' else 'uniform'))
  return replicate(to_host(made), mesh)
