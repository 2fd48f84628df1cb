"""The E-step and its pilot, compiled for a mesh of devices."""

from __future__ import annotations

import functools

import jax
from jax.sharding import Mesh, NamedSharding

from jdiffclust.clustering.bound.draws import (
    drawing_of, evaluate_draws, image_keys, key_apart)
from jdiffclust.clustering.bound.pooling import log_posterior, pooled
from jdiffclust.clustering.bound.tau import scoring_of, summarise
from jdiffclust.clustering.bound.terms import ConditionalDDPM
from jdiffclust.clustering.cddpm.amortised import Posterior
from jdiffclust.clustering.cddpm.proposals import measured_estimator
from jdiffclust.clustering.cddpm.racing import run_race
from jdiffclust.sharding import SPLIT, WHOLE, over_rows


def make_e_step(model: ConditionalDDPM, options, mesh: Mesh,
                amortised: Posterior | None = None):
  """Compiles the E-step for a mesh of devices.

  Args:
    model: the static part of the model.
    options: the `e_step` section of the config.
    mesh: one-dimensional; images are spread over it.
    amortised: gives tau, pooled with the start of the batch if there is one; the draws
      then only score it. None: the draws give it.

  Returns:
    A jitted function (estimator, params, batch of B images, key) ->
    (tau float32 [B, Q], `EStepInfo`), pure; B a multiple of the device count.
  """
  drawing, scoring = drawing_of(options), scoring_of(options)

  def e_step(estimator, params, batch, key):
    draws = evaluate_draws(model, estimator, params, batch, key, drawing)
    counts, log_q = None, None
    if drawing.max_draws:
      draws, counts = run_race(model, estimator, params, batch, key, draws, drawing,
                               scoring)
    if amortised is not None:
      keys = image_keys(key_apart(key, 1), batch.numbers)
      log_q = log_posterior(functools.partial(amortised.infer, params.posterior),
                            batch.images, keys, amortised.views,
                            amortised.options.num_views)
      if batch.start is not None:
        log_q = pooled(log_q, batch.start,
                       amortised.options.pool * amortised.options.anchor)
    return summarise(estimator, params, batch.images, draws, scoring, counts, log_q)

  return over_rows(e_step, mesh, (WHOLE, WHOLE, SPLIT, WHOLE))


def make_pilot(model: ConditionalDDPM, options, mesh: Mesh):
  """Compiles what an E-step begins with.

  Args:
    model: the static part of the model.
    options: the `e_step` section of the config.
    mesh: as of `make_e_step`.

  Returns:
    A function (estimator, params, batch, its number of valid rows, key) -> the estimator
    to use, on all devices. The batch has `proposals.NUM_IMAGES` images at most, whatever
    the batches of the E-step.
  """
  whole = NamedSharding(mesh, WHOLE)

  @functools.partial(jax.jit, static_argnums=3, out_shardings=whole)
  def pilot(estimator, params, batch, valid, key):
    return measured_estimator(
        model, estimator, params, jax.tree.map(lambda a: a[:valid], batch),
        key_apart(key, 0), scoring_of(options))

  return pilot
