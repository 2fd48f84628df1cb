"""A choice between starting partitions by the model's own bound.

Every candidate gets the same short fit: the same first weights, minibatches, noise and
number of gradient steps; then the E-step's bound, from the same draws. So the bounds
differ by the partitions alone, and their difference has a paired standard error. No
label is looked at.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from jdiffclust.clustering.method import Method
from jdiffclust.clustering.starts.partitions import Assign
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.evaluation.diagnostics import paired_change
from jdiffclust.state import TrainState
from jdiffclust.streams import stream


class Trial(NamedTuple):
  """A candidate and how it fared.

  Attributes:
    name: of the start.
    responsibilities: its tau, [n, Q].
    bound: per image after the short fit, nats, [n].
    assign: the start, fitted.
  """

  name: str
  responsibilities: np.ndarray
  bound: np.ndarray
  assign: Assign


def short_fit(method: Method, pipeline, tracked, tau, make_table) -> TrainState:
  """The training state after `start.trial_steps` gradient steps from a start.

  Args:
    method: the model.
    pipeline: of the images.
    tracked: indices of the images of tau, [n].
    tau: the start on the devices, [n, Q].
    make_table: from tau to what the M-step looks up.

  Returns:
    A `TrainState`.
  """
  config = method.config
  state = method.before_m_step(method.init_state(), pipeline, tracked, tau)
  key = replicate_key(stream(config.seed, 'trial'), method.mesh)
  table = make_table(tau)
  for batch in itertools.islice(pipeline.training(0), config.start.trial_steps):
    state, info = method.m_step(state, batch, table, key)
    info.loss.block_until_ready()
  return state


def best(trials: list[Trial]) -> tuple[Trial, list[dict]]:
  """The candidate of the highest mean bound.

  Args:
    trials: of the same images.

  Returns:
    It, and for every candidate its name, bound_nats (mean per image), and what it lacks
    to the best one with the standard error of that difference.
  """
  winner = max(trials, key=lambda trial: trial.bound.mean(dtype=np.float64))
  table = []
  for trial in trials:
    lack, error = paired_change(trial.bound, winner.bound)
    table.append({'start': trial.name, 'lack': lack, 'lack_error': error,
                  'bound_nats': float(trial.bound.mean(dtype=np.float64))})
  return winner, table
