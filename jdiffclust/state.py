"""What is trained, whatever the method: the state, its optimiser, its running average."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def steps_until(options, iteration: int) -> int:
  """Gradient steps taken by the end of EM iteration 1, 2, ...; 0 for iteration 0."""
  first = options.first_num_steps or options.num_steps
  return 0 if iteration == 0 else first + (iteration - 1) * options.num_steps


class TrainState(NamedTuple):
  """What the M-step carries along, across EM iterations too.

  Attributes:
    step: gradient steps taken, int32 [].
    params: the parameters, of the method's own type.
    ema: their running average, which the E-step and the sampler use.
    optimizer: optax's state.
    error_scale: running mean square of the errors' differences between clusters, by
      which an amortised posterior measures them; 0 without one. float32 [].
    nonfinite_step: the first step whose loss was not finite; -1: none. int32 [].
  """

  step: jax.Array
  params: Any
  ema: Any
  optimizer: Any
  error_scale: jax.Array
  nonfinite_step: jax.Array


class MStepInfo(NamedTuple):
  """Diagnostics of one gradient step, float32 [].

  Attributes:
    loss: the minibatch's loss, per dimension.
    gradient_norm: before clipping.
  """

  loss: jax.Array
  gradient_norm: jax.Array


def step_size(options, step) -> jax.Array:
  """Adam's step size: it rises once, and falls at the end of every EM iteration.

  There the E-step and whoever generates images read the weights.

  Args:
    options: the `m_step` section.
    step: gradient steps taken before, [].

  Returns:
    learning_rate, times a share that rises linearly over the first learning_rate_warmup
    steps, and one that falls to 0 over the last share learning_rate_fall of the steps
    of an EM iteration.
  """
  step = jnp.asarray(step, jnp.float32)
  rise = jnp.minimum(1., (step + 1) / (options.learning_rate_warmup + 1))
  if not options.learning_rate_fall:
    return options.learning_rate * rise
  first, later = float(steps_until(options, 1)), float(options.num_steps)
  length = jnp.where(step < first, first, later)
  left = length - jnp.where(step < first, step, (step - first) % later)
  return options.learning_rate * rise * jnp.minimum(
      1., left / (options.learning_rate_fall * length))


def make_optimizer(options) -> optax.GradientTransformation:
  """Adam with clipped gradients and `step_size`, by the `m_step` options."""
  clip = (optax.clip_by_global_norm(options.gradient_clip)
          if options.gradient_clip else optax.identity())
  return optax.chain(clip, optax.adam(functools.partial(step_size, options)))


def init_state(params: Any, optimizer) -> TrainState:
  """The state before the first gradient step."""
  return TrainState(
      step=jnp.zeros((), jnp.int32), params=params,
      ema=jax.tree.map(jnp.copy, params), optimizer=optimizer.init(params),
      error_scale=jnp.zeros(()), nonfinite_step=jnp.full((), -1, jnp.int32))


def descend(optimizer, state: TrainState, loss, gradient, decay: float):
  """One step of the optimiser and of the running average.

  Args:
    optimizer: optax's.
    state: the state before.
    loss: of the minibatch, [].
    gradient: of the parameters.
    decay: see `average`.

  Returns:
    The new state and `MStepInfo`.
  """
  updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
  params = optax.apply_updates(state.params, updates)
  first_bad = (state.nonfinite_step < 0) & ~jnp.isfinite(loss)
  state = state._replace(
      step=state.step + 1, params=params, optimizer=optimizer_state,
      ema=average(state.ema, params, state.step, decay),
      nonfinite_step=jnp.where(first_bad, state.step, state.nonfinite_step))
  return state, MStepInfo(loss, optax.global_norm(gradient))


def average(ema: Any, params: Any, step, decay: float) -> Any:
  """The running average of the weights, of a decay that starts low.

  Args:
    ema: the average so far.
    params: the new parameters.
    step: gradient steps taken before, [].
    decay: the largest decay; at first it is (1 + step) / (10 + step).

  Returns:
    decay * ema + (1 - decay) * params.
  """
  step = step.astype(jnp.float32)
  rate = jnp.minimum(decay, (1. + step) / (10. + step))
  return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, ema, params)
