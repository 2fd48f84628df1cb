"""Densities by the probability-flow ODE (Song et al., 2021, section 4.3).

Along dy / du = y - x_0^(y), u = log sigma, the density of y = x_0 + sigma eps changes by
d log p / du = -div(y - x_0^) (Chen et al., 2018), so that

  log p(y_min) = log p(y_max) + integral over u of (D - trace of d x_0^ / d y),

with p(y_max) that of the prior. The path of y is found in the coordinates of
`jdiffclust.diffusion.ode`. It is the density of the data *with the noise of t_min*: the
image given is taken for that y.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.diffusion import ode
from jdiffclust.diffusion.denoiser import Denoiser


class LogDensity(NamedTuple):
  """Densities of B images.

  Attributes:
    nats: log p, [B].
    standard_error: of the trace's estimate, in nats, [B]; 0 where exact, NaN with one
      probe.
    evaluations: of the network and its derivative along all probes, int [B].
  """

  nats: jax.Array
  standard_error: jax.Array
  evaluations: jax.Array


def log_density(denoiser: Denoiser, x0, condition, solver: ode.Fixed | ode.Adaptive,
                keys=None, num_probes: int = 0) -> LogDensity:
  """log p(x_0 | condition) of the probability-flow ODE.

  Args:
    denoiser: the model.
    x0: images [B, ...].
    condition: a tree of rows [B, ...].
    solver: `ode.Fixed` or `ode.Adaptive`.
    keys: typed keys [B] of the probes; not used with the exact trace.
    num_probes: K signs a pixel of Hutchinson's estimate (1990), drawn once for all u; 0:
      the exact trace, whose K = D probes are the axes.

  Returns:
    `LogDensity`; the nats are unbiased by the estimate.
  """
  path, shape, size = denoiser.path, x0.shape[1:], x0[0].size
  times = jnp.asarray([path.t_min, path.t_max], x0.dtype)
  start, end = path.log_sigma(times)
  first, last = ode.shrinkage(start), ode.shrinkage(end)

  def one(y, condition, probes):
    zero = 0 * y[(0,) * y.ndim]  # under shard_map it varies as y does; axes do not

    def field(u, state):
      z = state[0]
      x0, along = jax.linearize(
          lambda y: ode.estimate(denoiser, ode.shrinkage(u) * y, u, condition),
          z / ode.shrinkage(u))
      traces = jax.lax.map(lambda e: jnp.sum(e * along(e + zero)), probes)
      return ode.flow(u, z, x0), traces

    begin = first * y, jnp.full(len(probes), zero)
    (z, traces), evaluations = solver.solve(field, begin, start, end)
    t = times[1]
    mu = denoiser.centre(ode.as_row(condition))[0]
    x = path.scale(t) / last * z + path.pull(t) * mu
    std = path.prior_std(t)
    # p(y) = a^D p(x).
    prior = jnp.sum(path.log_scale(t) - .5 * jnp.log(2 * jnp.pi * std**2)
                    - .5 * (x / std)**2)
    return prior + size * (end - start), traces, evaluations

  if num_probes:
    probes = jax.vmap(lambda k: jax.random.rademacher(
        k, (num_probes, *shape), x0.dtype))(keys)
    flows, traces, evaluations = jax.vmap(one)(x0, condition, probes)
    trace = jnp.mean(traces, axis=1)
    error = jnp.std(traces, axis=1, ddof=1) / np.sqrt(num_probes)
  else:
    axes = jnp.eye(size, dtype=x0.dtype).reshape(size, *shape)
    flows, traces, evaluations = jax.vmap(one, (0, 0, None))(x0, condition, axes)
    trace = jnp.sum(traces, axis=1)
    error = jnp.zeros_like(trace)
  return LogDensity(flows - trace, error, evaluations)


def dequantised(keys, x0, levels: int) -> jax.Array:
  """Grey levels spread evenly over their bins (Theis et al., 2016).

  Args:
    keys: typed keys [B].
    x0: images [B, ...] on the levels 2 k / (levels - 1) - 1.
    levels: number of grey levels, at least 2.
  """
  half = 1 / (levels - 1)
  noise = jax.vmap(lambda k: jax.random.uniform(
      k, x0.shape[1:], x0.dtype, -half, half))(keys)
  return x0 + noise


def log_probability(nats, size: int, levels: int | None):
  """Log densities of dequantised images as log probabilities of grey levels.

  The density times the width of the bins, 2 / (levels - 1): by Jensen's inequality a
  lower bound of the log probability on average (Theis et al., 2016).

  Args:
    nats: log densities on images in [-1, 1], of any shape.
    size: D, numbers an image.
    levels: grey levels of the images; None: they have none, and the density stays.

  Returns:
    nats, of the same shape.
  """
  return nats if levels is None else nats + size * np.log(2 / (levels - 1))
