"""How long a fit will take: told before it, and corrected as it goes.

A fit is a row of stages, each of which `progress.Reporter` opens as a task. Their seconds
are estimated by what they compute (`stages_of`), with constants measured on two cores
(AMD EPYC, AVX2) and scaled by how fast this machine multiplies matrices now (`speed`),
so that other work on it counts, too. As stages end, what is left is corrected by how
long they took (`Clock`). Only of CPUs: of other devices nothing is told.

The constants were fitted to single runs of the digits and of 500 pictures; within a
factor of two is what they are meant for (docs/benchmarks.md).
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from jdiffclust import config as config_lib
from jdiffclust.clustering.starts.agreement import MOST_IMAGES, SIGN_IMAGES
from jdiffclust.clustering.starts.recognition import num_steps
from jdiffclust.evaluation.gallery import MAP_IMAGES
from jdiffclust.progress import in_words
from jdiffclust.registry import COMPARING_STARTS, NEIGHBOURHOODS, RECOGNISED
from jdiffclust.state import steps_until

# Products of matrices of SIDE on one thread, REPEATS at a time, their seconds on the
# reference, and its cores.
SIDE, REPEATS, REFERENCE, CORES = 768, 10, .073, 2
VISITS_OF_A_VIEW = 1e-4, 8.7e-7  # seconds of an image and set: fixed, and by its numbers
STEP_OF_RECOGNITION = .0187, 1.76e-4  # of 96 images: fixed, and by the pixel
STEP_OF_MODEL = 1.14e-8  # by image and by `size_of_network`
FORWARD = .33  # of a training step
COMPILED = {'recognition': 4., 'm_step': 14., 'e_step': 6., 'samples': 2., 'model': 3.}


class Stage(NamedTuple):
  """A part of a fit: the name of its task, what a person calls it, its seconds."""

  name: str
  what: str
  seconds: float


@functools.cache
def speed(times: int = 5) -> float:
  """How fast this machine is, in units of the reference; a process asks it once.

  Cores count by the root of their number: not all of a fit gains from more.
  """
  rows = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
  with threadpool_limits(1):  # several wait for each other where others work here, too
    ends = [time.perf_counter()]
    for _ in range(times):
      for _ in range(REPEATS):
        rows @ rows
      ends.append(time.perf_counter())
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (
      os.cpu_count() or 1)
  return REFERENCE / float(np.median(np.diff(ends))) * math.sqrt(cores / CORES)


def size_of_network(network, shape: Sequence[int]) -> float:
  """Pixels times channels^2 of a U-Net: its multiplications, but for a factor."""
  pixels, total = shape[0] * shape[1], 0.
  for level, multiple in enumerate(network.channel_multipliers):
    total += pixels / 4**level * (network.channels * multiple)**2
  return total * (2 * network.blocks_per_level + 1) / 3


def start_seconds(kind: str, config, count: int, shape: Sequence[int]) -> float:
  """Of a start of a kind.

  Args:
    kind: of `config.start.kind`.
    config: of the fit.
    count: images.
    shape: (H, W, C) that the start sees.
  """
  numbers, pixels = math.prod(shape), shape[0] * shape[1]
  if kind not in COMPARING_STARTS:
    return 1 + 1e-6 * count * numbers
  of_views = VISITS_OF_A_VIEW[0] + VISITS_OF_A_VIEW[1] * numbers * config.views.num / 64
  found = config.views.sets * count * of_views + 1 + .0018 * count
  if kind == RECOGNISED:
    options = config.recognition
    steps = num_steps(count, options)
    step = STEP_OF_RECOGNITION[0] + STEP_OF_RECOGNITION[1] * pixels
    found += COMPILED['recognition'] + options.networks * steps * step * (
        options.batch_size / 96 * (options.channels / 32)**1.5)
    of_looks = options.rounds * 3.5e-6 * pixels
    found += 1 + options.networks * count * (.001 + .0003 * options.rounds + of_looks)
  return found


def stages_of(config, count: int, image_shape: Sequence[int],
              seen_shape: Sequence[int],
              done: Container[str] = ()) -> list[Stage]:
  """The stages of a fit, with seconds on the reference machine.

  Args:
    config: of the fit, checked; an automatic number of clusters is taken for 8.
    count: images.
    image_shape: (H, W, C) that the model sees.
    seen_shape: that the start sees.
    done: what an earlier command has done of it: 'start', 'sign', 'agreement', 'model'.
  """
  found, options = [], config.start
  auto = config.num_clusters == config_lib.AUTO
  number = 8 if auto else config.num_clusters
  fitted = min(count, options.max_images)
  if auto and 'start' not in done:
    low, high = config.em.auto_clusters
    some = min(count, config_lib.CHOOSE_IMAGES)
    found.append(Stage('number of clusters', 'the number of clusters', (
        (config.em.auto_parts + 1) / 6 * (high - low + 1) / 19 * (5 + .014 * some))))
  kinds = options.candidates if options.kind == config_lib.BEST else (options.kind,)
  if options.repeats and number > 1 and 'sign' not in done:
    plain = config_lib.copied(config)
    plain.views.sets, some = 1, min(count, SIGN_IMAGES)
    halves = 2 * (1 + options.repeats / 2) * start_seconds(NEIGHBOURHOODS, plain, some,
                                                           seen_shape)
    found.append(Stage('sign of clusters', 'whether there are any', 2 + halves))
  if 'start' not in done:
    for kind in kinds:
      found.append(Stage(f'start ({kind})', 'the start',
                         COMPILED['model'] + start_seconds(kind, config, fitted,
                                                           seen_shape)))
  kind = config_lib.repeated_start(config)
  if kind and 'agreement' not in done:
    found.append(Stage('the start anew', 'which clusters come back', options.repeats * (
        start_seconds(kind, config, min(fitted, MOST_IMAGES) // 2, seen_shape))))
  samples = []
  if config.effort == config_lib.FULL and 'model' not in done:
    found += model_stages(config_lib.for_collection(config, count), count, number,
                          image_shape)
    samples = [samples_stage(config, number, image_shape)]
  some = min(count, MAP_IMAGES)
  return found + [
      Stage('baselines', 'results', 1 + 2e-7 * fitted * math.prod(image_shape)), *samples,
      Stage('reference for new images', 'results', 2.5 + .0003 * min(count, 5000)),
      Stage('features', 'results', 2 + .0005 * count),
      Stage('map', 'results', .5 + .002 * some)]


def model_stages(config, count: int, number: int,
                 image_shape: Sequence[int]) -> list[Stage]:
  """The stages of training; args as of `stages_of`, number the clusters."""
  image = STEP_OF_MODEL * size_of_network(config.network, image_shape)
  draw = FORWARD * image * (1 + .07 * number)
  rounds, found = config.em.max_iterations, []
  for k in range(1, rounds + 1):
    steps = steps_until(config.m_step, k) - steps_until(config.m_step, k - 1)
    first = k == 1
    found += [
        Stage(f'EM {k}/{rounds} M-step', 'the diffusion model',
              steps * config.m_step.batch_size * image + COMPILED['m_step'] * first),
        Stage(f'EM {k}/{rounds} E-step', 'the diffusion model',
              count * config.e_step.num_draws * draw + COMPILED['e_step'] * first)]
  return found


def samples_stage(config, number: int, image_shape: Sequence[int]) -> Stage:
  """That of the generated images of a fit's report; args as of `model_stages`."""
  image = STEP_OF_MODEL * size_of_network(config.network, image_shape)
  levels = config.sample.num_steps or config.diffusion.num_steps
  return Stage('samples', 'results', COMPILED['samples'] + (
      number * config.sample.num_images * levels * FORWARD * image * 1.3))


class Clock:
  """What is left of a fit, by its stages and how long those before took.

  Attributes:
    total: the seconds that were estimated at first.
    spent: seconds of each stage that has ended, by its name.
  """

  def __init__(self, stages: Sequence[Stage], machine: float,
               now: Callable[[], float] = time.perf_counter):
    """Starts with the first stage.

    Args:
      stages: of the fit.
      machine: see `speed`.
      now: seconds.
    """
    self._now, self._since = now, now()
    self._left = [stage._replace(seconds=stage.seconds / machine) for stage in stages]
    self.total = sum(stage.seconds for stage in self._left)
    self.spent: dict[str, float] = {}
    self._took = self._meant = 0.

  def plan(self) -> str:
    """What will be done and how long it takes, in one line."""
    parts: dict[str, float] = {}
    for stage in self._left:
      parts[stage.what] = parts.get(stage.what, 0.) + stage.seconds
    return (f'This will take about {in_words(self.total)}: ' + ', '.join(
        f'{what} {in_words(seconds)}' for what, seconds in parts.items()) + '.')

  @property
  def left(self) -> float:
    """Seconds that are left after this stage, corrected by those before."""
    factor = self._took / self._meant if self._meant else 1.
    return factor * sum(stage.seconds for stage in self._left[1:])

  def begins(self, name: str) -> None:
    """A task has begun: stages before it are over, or were not needed."""
    names = [stage.name for stage in self._left]
    if name in names:
      del self._left[:names.index(name)]

  def ends(self, name: str) -> bool:
    """A task has ended; returns whether it was a stage of some length."""
    if not self._left or self._left[0].name != name:
      return False
    now = self._now()
    took, stage = now - self._since, self._left.pop(0)
    self._since, self.spent[name] = now, took
    self._took, self._meant = self._took + took, self._meant + stage.seconds
    # The factor applies to what follows this stage, which is all that is left now.
    self._left.insert(0, Stage('', '', 0.))
    return took > .1 * self.total
