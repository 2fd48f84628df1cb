"""The E-step and its pilot, compiled for a mesh of devices."""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdiffclust.clustering.amortised import Posterior, log_posterior, pooled
from jdiffclust.clustering.e_step import evaluate_draws, image_keys, summarise
from jdiffclust.clustering.mixture import Mixture
from jdiffclust.clustering.proposals import measured_estimator
from jdiffclust.clustering.racing import run_race
from jdiffclust.sharding import DATA_AXIS


def make_e_step(mixture: Mixture, options, mesh: Mesh,
                amortised: Posterior | None = None):
  """Compiles the E-step for a mesh of devices.

  Args:
    mixture: the model.
    options: the `e_step` section of the config.
    mesh: one-dimensional; images are spread over it.
    amortised: gives tau, pooled with the start of the batch if there is one; the draws
      then only score it. None: the draws give it.

  Returns:
    A jitted function (estimator, params, batch of B images, key) ->
    (tau float32 [B, Q], `EStepInfo`), pure; B a multiple of the device count.
  """
  antithetic = options.noise == 'antithetic'
  decides = {'weighting': options.weighting, 'temperature': options.temperature,
             'antithetic': antithetic}

  def e_step(estimator, params, batch, key):
    draws, counts = evaluate_draws(
        mixture, estimator, params, batch, key, num_draws=options.num_draws,
        stratify=options.stratify, antithetic=antithetic,
        share_draws=options.share_draws,
        clusters_per_chunk=options.clusters_per_chunk,
        draws_per_chunk=options.draws_per_chunk), None
    if options.max_draws:
      draws, counts = run_race(
          mixture, estimator, params, batch, key, draws, max_draws=options.max_draws,
          error_rate=options.race_error, stratify=options.stratify, **decides)
    log_q = None
    if amortised is not None:
      keys = image_keys(jax.random.fold_in(key, 1), batch.indices)
      log_q = log_posterior(functools.partial(amortised.infer, params.posterior),
                            batch.images, keys, amortised.views,
                            amortised.options.num_views)
      if batch.start is not None:
        log_q = pooled(log_q, batch.start,
                       amortised.options.pool * amortised.options.anchor)
    return summarise(estimator, params, batch.images, draws, counts=counts, log_q=log_q,
                     **decides)

  replicated, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
  return jax.jit(jax.shard_map(
      e_step, mesh=mesh, in_specs=(replicated, replicated, split, replicated),
      out_specs=split))


def make_pilot(mixture: Mixture, options, mesh: Mesh):
  """Compiles what an E-step begins with.

  Args:
    mixture: the model.
    options: the `e_step` section of the config.
    mesh: as of `make_e_step`.

  Returns:
    A function (estimator, params, batch, its number of valid rows, key) -> the estimator
    to use, on all devices; None unless `options.proposal` is 'spread': then there is
    nothing to measure. The batch has `proposals.NUM_IMAGES` images at most, whatever the
    batches of the E-step.
  """
  if options.proposal != 'spread':
    return None
  whole = NamedSharding(mesh, PartitionSpec())

  @functools.partial(jax.jit, static_argnums=3, out_shardings=whole)
  def pilot(estimator, params, batch, valid, key):
    # Apart from the draws of the E-step: indices of images never reach 2^32 - 1.
    return measured_estimator(
        mixture, estimator, params, jax.tree.map(lambda a: a[:valid], batch),
        jax.random.fold_in(key, np.uint32(2**32 - 1)), weighting=options.weighting,
        antithetic=options.noise == 'antithetic')

  return pilot
