"""Variational EM: the one loop.

Iteration k = 1, 2, ... is

  1. closed forms before the gradient (cddpm: pi <- the mean of tau; mu <- the
     tau-weighted mean images, unless by gradient)
  2. gradient steps on the networks                                   (M-step)
  3. closed forms after it (cluster_ddpm: the mixture of the latents), and tau <- the
     posterior                                                        (E-step)
  4. report emptied clusters, re-seed them by option; stop if settled

With `em.schedule = 'stepwise'` there is no table of tau: an inference network gives it
for each minibatch, pi and mu follow it from step to step (`m_step.follow`), and 3 and 4
look at a sample of at most `start.max_images` images, the one that the start was
fitted to.

A run can be cut anywhere: checkpoints are taken at regular gradient steps, or sooner
where these take long, before the E-step and after it; everything random follows from the
seed and the counters.
"""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.clustering.method import Method
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.recognition import Recognised, from_arrays
from jdiffclust.clustering.starts.sample import (
    fit_sample, partition, sample_embeddings, start_of_all, tracked_images)
from jdiffclust.clustering.table import SampleTable
from jdiffclust.config import BEST, QUICK
from jdiffclust.data.dataset import ImageSource
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.errors import NonFiniteError, UserError
from jdiffclust.evaluation import diagnostics
from jdiffclust.progress import PERCENT, Reporter
from jdiffclust.registry import LATE_STARTS, RECOGNISED
from jdiffclust.sharding import InFlight, replicate, to_host
from jdiffclust.state import TrainState, steps_until
from jdiffclust.streams import stream
from jdiffclust.training import trial
from jdiffclust.training.assignment import assign_all
from jdiffclust.training.checkpoints import Snapshot
from jdiffclust.training.empty import reseed_empty
from jdiffclust.training.record import iteration_record
from jdiffclust.training.storage import Store


# The least share of time for anything but the checkpoints of `checkpoint.every_seconds`.
WORK_SHARE = .98


class Fit(NamedTuple):
  """A finished fit.

  Attributes:
    state: the training state; `state.ema` are the parameters to use.
    responsibilities: tau of the last E-step, [N, Q].
    bound: per image, nats, [N]; NaN after the start alone.
    start: responsibilities of the starting partition, [N, Q].
    progress: counters, history and rates, see `new_progress`.
    recogniser: the start, if it was made by recognition; else None.
  """

  state: TrainState
  responsibilities: np.ndarray
  bound: np.ndarray
  start: np.ndarray
  progress: dict
  recogniser: Recognised | None


def settled(history: list[dict], options) -> str:
  """Why EM may stop: what it says of the last two iterations, or ''."""
  if len(history) >= options.max_iterations:
    return 'maximum of iterations'
  if len(history) < 2:
    return ''
  old, new = (line['bound_nats'] for line in history[-2:])
  if abs(new - old) < options.bound_tolerance * abs(old):
    return 'the bound has settled'
  if history[-1]['changed_fraction'] < options.partition_tolerance:
    return 'the partition has settled'
  return ''


def new_progress(source: ImageSource) -> dict:
  """The JSON part of a checkpoint, before the first step."""
  return {
      'iteration': 0,             # completed E-steps
      'stop_reason': '',          # not empty: EM has ended
      'history': [],              # an object per completed iteration
      'warnings': [],
      'start': '', 'starts': [],  # the starting partition; the trials it won
      'num_images': source.num_images,
      'image_shape': list(source.image_shape),
      'levels': source.levels,
      'rendering': source.rendering.to_json(),
      'dataset': source.name,
      'train_seconds': 0., 'train_images': 0,      # without compilation
      'e_step_evaluations_per_second': None,
      'wall_seconds': 0.,
  }


def template(method: Method):
  """A function from a checkpoint's progress to (state, tau) as they shall be restored."""
  def shaped(progress):
    state = method.abstract_state()
    like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32,
                             sharding=state.step.sharding)
    tracked = tracked_images(progress['num_images'], method.config)
    tau = like((len(tracked), method.config.num_clusters))
    return state, {'current': tau, 'start': tau, 'bound': like(tau.shape[:1])}
  return shaped


def recogniser_of(store: Store, progress: dict, config) -> Recognised | None:
  """The start that a run keeps for new images; None: it has another one.

  Args:
    store: of the run.
    progress: of the run.
    config: of the run.

  Raises:
    UserError: it cannot be read any more.
  """
  if progress['start'] != RECOGNISED or config.num_clusters == 1:
    return None
  arrays = store.recogniser()
  return from_arrays(arrays, config) if arrays else None


def e_step_key(config, iteration: int):
  """The typed key of the E-step of EM iteration 1, 2, ..."""
  return jax.random.fold_in(stream(config.seed, 'e_step'), iteration)


class Fitter:
  """One run of EM: its state, and where it stands."""

  def __init__(self, method: Method, source: ImageSource, pipeline, store: Store,
               reporter: Reporter):
    """Restores the newest state that the store has, or computes the start.

    Args:
      method: the model.
      source: the images.
      pipeline: the same on their way to the devices.
      store: where states and metrics are kept.
      reporter: shows progress.
    """
    self.method, self.config = method, method.config
    self.source, self.pipeline = source, pipeline
    self.tracked = tracked_images(source.num_images, self.config)
    self.store, self.reporter = store, reporter
    self._clock = store.started
    self._told: set[str] = set()
    restored = store.restore(template(method), reporter.warning)
    if restored is None:
      self.state = method.init_state()
      self.progress = new_progress(source)
      self.tau, self.recogniser = self._start()
    else:
      number, (self.state, self.tau, self.progress) = restored
      reporter.line(f'Resuming from checkpoint {number}: gradient step '
                    f"{int(self.state.step)}, {self.progress['iteration']} EM iterations "
                    'done.')
      self.recogniser = recogniser_of(store, self.progress, self.config)
    if self.progress['num_images'] != source.num_images:
      raise UserError(
          f"The data have {source.num_images} images now, but the workdir's run has "
          f"{self.progress['num_images']}: restore the data or choose another --workdir.")
    self._saved, self._save_seconds = time.perf_counter(), 0.
    if restored is None:
      self._save()
    self._start_alone = self.config.effort == QUICK
    if self._start_alone and self.step:
      self._start_alone = False
      reporter.warning(f'config.effort = {QUICK!r} has no effect: the diffusion model of '
                       'this run has begun to train, and goes on.')

  def _start(self):
    options = self.config.start
    best = options.kind == BEST
    names = options.candidates if best else (options.kind,)
    seen = self.source.seen
    sample = fit_sample(seen, options.max_images, self.config.seed)
    vectors = sample_embeddings(seen, options.max_images, self.config.seed)
    trials = []
    for name in names:
      with self.reporter.task(f'start ({name})', 100, PERCENT) as task:
        assign = fit_start(name, sample, seen.image_shape, self.config,
                           task.advance, vectors)
        tau = partition(assign, seen, self.tracked)
        task.finish()
      bound = self._trial_bound(name, tau) if best else np.zeros(len(tau), np.float32)
      trials.append(trial.Trial(name, tau, bound, assign))
    chosen, table = trial.best(trials)
    self.progress['start'] = chosen.name
    if best:
      self.progress['starts'] = table
      self.reporter.line('Starts by their bounds: ' + ', '.join(
          f"{row['start']} {row['bound_nats']:.2f}" for row in table)
          + f' nats an image; taking {chosen.name}')
    tau = chosen.responsibilities
    bound = np.zeros(len(tau), np.float32)
    recogniser = chosen.assign if isinstance(chosen.assign, Recognised) else None
    if recogniser is not None:
      self.store.keep_recogniser(recogniser.arrays())
    table = {'current': tau, 'start': tau, 'bound': bound}
    return replicate(table, self.method.mesh), recogniser

  def _trial_bound(self, name, tau):
    method = self.method
    tau = replicate(tau, method.mesh)
    state = trial.short_fit(method, self.pipeline, self.tracked, tau, self._table)
    state, _ = method.before_e_step(state, self.pipeline, self.tracked, tau, 1,
                                    self.reporter)
    return assign_all(method, state.ema, self.pipeline, e_step_key(self.config, 0),
                      self.reporter, f'trial of {name}', self.tracked,
                      self._table(tau)).info.bound

  def _table(self, tau):
    """What is looked up of an image, be it its tau or its start."""
    if self.config.em.schedule == 'batch':
      return tau
    return SampleTable(replicate(self.tracked.astype(np.int32), self.method.mesh), tau)

  @property
  def starting_clusters(self) -> np.ndarray:
    """The clusters of the tracked images by the start, int [n]."""
    return to_host(self.tau)['start'].argmax(axis=1)

  @property
  def step(self) -> int:
    """Gradient steps taken; waits for the devices."""
    return int(self.state.step)

  def _save(self):
    number = self.step + self.progress['iteration']
    self._tick()
    began = time.perf_counter()
    self.store.save(number, Snapshot(self.state, self.tau, self.progress))
    self._saved = time.perf_counter()
    self._save_seconds = self._saved - began

  def _save_overdue(self) -> bool:
    """Whether the newest checkpoint is too old; the clocks of processes would differ."""
    seconds = self.config.checkpoint.every_seconds
    if not seconds or jax.process_count() > 1:
      return False
    rest = self._save_seconds * WORK_SHARE / (1 - WORK_SHARE)
    return time.perf_counter() - self._saved > max(seconds, rest)

  def _tick(self):
    now = time.perf_counter()
    self.progress['wall_seconds'] += now - self._clock
    self._clock = now

  def _write(self, **values):
    self.store.write(self.step, self.progress['iteration'], **values)

  def run(self) -> Fit:
    """Runs EM to its end, or, with effort='quick', no further than the start.

    Returns:
      The `Fit`.

    Raises:
      NonFiniteError: the step, the term and the last good checkpoint are named.
    """
    while not (self.progress['stop_reason'] or self._start_alone):
      self.m_phase()
      try:
        self.e_phase()
      except NonFiniteError as error:
        raise NonFiniteError(
            f"{error} (EM iteration {self.progress['iteration'] + 1}, after gradient "
            f'step {self.step}). {self.store.last_good()} Try a smaller '
            'config.m_step.learning_rate in a new workdir.') from None
    self._tick()
    self.store.finish()
    host = to_host(self.tau)
    tau, bound = host['current'], host['bound']
    start = start_of_all(self.source.seen, self.config, self.progress['start'],
                         host['start'], self.recogniser)
    if self._start_alone:
      tau, bound = start, np.full(len(start), np.nan, np.float32)
    elif len(self.tracked) < self.source.num_images:
      found = assign_all(self.method, self.state.ema, self.pipeline,
                         e_step_key(self.config, self.progress['iteration']),
                         self.reporter, 'all images',
                         start=replicate(start, self.method.mesh))
      tau, bound = found.responsibilities, np.asarray(found.info.bound)
    return Fit(self.state, tau, bound, start, self.progress, self.recogniser)

  def m_phase(self):
    """Closed forms, then the gradient steps that this iteration still lacks."""
    config, method = self.config, self.method
    iteration = self.progress['iteration']
    begin = steps_until(config.m_step, iteration)
    end = steps_until(config.m_step, iteration + 1)
    step = self.step
    tau = self.tau['current']
    stepwise = config.em.schedule == 'stepwise'
    if step == begin and not (stepwise and step):
      self.state = method.before_m_step(self.state, self.pipeline, self.tracked, tau)
    key = replicate_key(stream(config.seed, 'm_step'), method.mesh)
    table = self._table(
        self.tau['current' if method.draws_decide else 'start'])
    batches = self.pipeline.training(step)
    with self.reporter.task(f'EM {iteration + 1}/{config.em.max_iterations} M-step',
                            (end - begin) * config.m_step.batch_size, 'images') as task:
      task.done = (step - begin) * config.m_step.batch_size
      unreported = 0
      in_flight = InFlight()
      while step < end:
        self.reporter.check_stopped()
        self.state, info = method.m_step(self.state, next(batches), table, key)
        step, unreported = step + 1, unreported + 1
        in_flight.add(info.loss)
        checkpoint_due = (step % config.checkpoint.every_steps == 0 or step == end
                          or self._save_overdue())
        if unreported == 1 and task.counted == 0 or checkpoint_due or (
            step % config.log.every_steps == 0):
          self._check_training(info)
          task.advance(unreported * config.m_step.batch_size,
                       f'loss {float(info.loss):.4f}{self._bound_note()}')
          unreported = 0
        if step % config.log.every_steps == 0 or step == end:
          self._write(loss=float(info.loss), gradient_norm=float(info.gradient_norm))
        if step == end:
          self.progress['train_seconds'] += task.seconds
          self.progress['train_images'] += task.counted
        if checkpoint_due:
          self._save()

  def _bound_note(self):
    history = self.progress['history']
    return f", bound {history[-1]['bound_bits_per_dim']:.3f} bits/dim" if history else ''

  def _check_training(self, info):
    bad = int(self.state.nonfinite_step)
    if bad >= 0:
      raise NonFiniteError(
          f'M-step: the loss is not finite at gradient step {bad} (EM iteration '
          f"{self.progress['iteration'] + 1}; {float(info.loss)}). "
          f'{self.store.last_good()} Try a smaller config.m_step.learning_rate in a new '
          'workdir.')

  def e_phase(self):
    """The E-step, its guards and its record."""
    config, method, progress = self.config, self.method, self.progress
    iteration = progress['iteration'] + 1
    self.state, figures = method.before_e_step(
        self.state, self.pipeline, self.tracked, self.tau['current'], iteration,
        self.reporter)
    result = assign_all(method, self.state.ema, self.pipeline,
                        e_step_key(config, iteration), self.reporter,
                        f'EM {iteration}/{config.em.max_iterations} E-step', self.tracked,
                        self._table(self.tau['start']))
    old = to_host(self.tau)
    tau, info = result.responsibilities, result.info
    if iteration == 1 and progress['start'] in LATE_STARTS:  # it is this one
      old = {**old, 'current': tau, 'start': tau}
    line = {**iteration_record(tau, info, method.image_shape), **figures,
            **diagnostics.movement(old['current'], tau, old['start'])}
    if iteration > 1:  # the start has no bound
      line['bound_change'], line['bound_change_error'] = diagnostics.paired_change(
          old['bound'], info.bound)
    tau, empty = self._guard_empty(tau, info, iteration)
    progress['iteration'] = iteration
    progress['history'].append({'iteration': iteration, **line, 'empty_clusters': empty})
    progress['e_step_evaluations_per_second'] = (
        result.evaluations_per_second or progress['e_step_evaluations_per_second'])
    reseeded = bool(empty) and config.em.reseed_empty
    reason = settled(progress['history'], config.em)
    # A re-seeded cluster has not been trained yet: only the maximum ends the run then.
    if not reseeded or len(progress['history']) >= config.em.max_iterations:
      progress['stop_reason'] = reason
    self.tau = replicate({'current': tau, 'start': old['start'], 'bound': info.bound},
                         method.mesh)
    self._write(**line, empty_clusters=len(empty))
    noise = (f", {line['uncertain_fraction']:.1%} uncertain" if method.draws_decide
             else '')  # where a network decides, the draws' noise says nothing of it
    self.reporter.line(
        f"EM {iteration}: bound {line['bound_bits_per_dim']:.4f} bits/dim, entropy "
        f"{line['mean_entropy']:.3f} nats, {line['changed_fraction']:.1%} changed "
        f"cluster, sizes {line['smallest_cluster']:,.0f} to "
        f"{line['largest_cluster']:,.0f}{noise}"
        + ''.join(f'; {event}' for event in diagnostics.splits_and_merges(line)))
    self._advise()
    self._save()

  def _advise(self):
    """Tells what is amiss so far, each kind once: only what stays is a finding."""
    progress = self.progress
    if progress['stop_reason']:  # then `Fitted.advice` says it
      return
    for kind, text in diagnostics.advice(progress['history'], len(self.tracked),
                                         self.config.num_clusters,
                                         not self.method.draws_decide,
                                         progress['start'] == RECOGNISED):
      if kind not in self._told:
        self._told.add(kind)
        self.reporter.line(f"EM {progress['iteration']}, so far: {text}")

  def _warn(self, text):
    self.progress['warnings'].append(text)
    self.reporter.warning(text)

  def _guard_empty(self, tau, info, iteration):
    config = self.config.em
    reseeded, empty = reseed_empty(tau, info.bound)
    if not empty:
      return tau, []
    last = iteration >= config.max_iterations
    what = 'left as they are' if not config.reseed_empty else (
        'not re-seeded after the last iteration' if last
        else 're-seeded from the worst-explained images')
    warning = f'EM {iteration}: clusters {empty} are empty; {what}.'
    if not config.reseed_empty:
      warning += ' --config.em.reseed_empty=True would re-seed them.'
    self._warn(warning)
    return (reseeded if config.reseed_empty and not last else tau), empty
