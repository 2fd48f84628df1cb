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
look at a sample of at most `em.init_max_images` images, the one that the start was
fitted to.

A run can be cut anywhere: checkpoints are taken every so many gradient steps, before
the E-step and after it; everything random follows from the seed and the counters.
"""

from __future__ import annotations

import collections
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdiffclust.clustering.e_step import EStepInfo
from jdiffclust.clustering.initialise import Assign, fit_start, reseed_empty
from jdiffclust.clustering.m_step import SampleTable, TrainState
from jdiffclust.clustering.mixture import bits_per_dimension
from jdiffclust.config import LATENTS
from jdiffclust.data.dataset import ImageSource, read_images, scale_to_model
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.errors import UserError
from jdiffclust.evaluation import diagnostics
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import integer_seed, stream
from jdiffclust.training import trial
from jdiffclust.training.checkpoints import Checkpoints, Snapshot
from jdiffclust.training.machinery import Machinery
from jdiffclust.training.passes import NonFiniteError, assign_all
from jdiffclust.training.progress import Reporter
from jdiffclust.training.writers import MetricsWriter


# Gradient steps dispatched ahead: enough to keep a device busy. More only queue up, and
# on many virtual CPU devices they can starve each other's collectives until XLA gives up.
MAX_IN_FLIGHT = 4


class Fit(NamedTuple):
  """A finished fit.

  Attributes:
    state: the training state; `state.ema` are the parameters to use.
    responsibilities: tau of the last E-step, [N, Q].
    bound: per image, nats, [N].
    start: responsibilities of the starting partition, [N, Q].
    progress: counters, history and rates, see `new_progress`.
  """

  state: TrainState
  responsibilities: np.ndarray
  bound: np.ndarray
  start: np.ndarray
  progress: dict


def sample_indices(num_images: int, max_images: int, seed: int) -> np.ndarray:
  """Indices of the images that starts and baselines are fitted to, rising, [n]."""
  if num_images <= max_images:
    return np.arange(num_images)
  rng = np.random.default_rng(integer_seed(seed, 'init_sample'))
  return np.sort(rng.choice(num_images, max_images, replace=False))


def flat_images(source: ImageSource, indices) -> np.ndarray:
  """Images of some indices, [n, D] float32 in [-1, 1]."""
  images = scale_to_model(read_images(source, indices), source.levels)
  return np.asarray(images).reshape(len(indices), -1)


def fit_sample(source: ImageSource, max_images: int, seed: int) -> np.ndarray:
  """Images to fit starts and baselines to, [n, D] float32 in [-1, 1]."""
  return flat_images(source, sample_indices(source.num_images, max_images, seed))


def partition(assign: Assign, source: ImageSource, indices=None,
              chunk: int = 4096) -> np.ndarray:
  """Responsibilities by a fitted start, float32 [n, Q].

  Args:
    assign: the start.
    source: the images.
    indices: which of them; None: all.
    chunk: images read at once.
  """
  if indices is None:
    indices = np.arange(source.num_images)
  parts = [assign(flat_images(source, indices[begin:begin + chunk]),
                  indices[begin:begin + chunk])
           for begin in range(0, len(indices), chunk)]
  return np.concatenate(parts).astype(np.float32)


def start_of_all(source: ImageSource, config, name: str,
                 known: np.ndarray) -> np.ndarray:
  """The start of all images, from that of those a run has looked at.

  Args:
    source: N images.
    config: the config.
    name: of the start.
    known: responsibilities of `tracked_images`, [n, Q].

  Returns:
    [N, Q]; fitted again if n < N.
  """
  if len(known) == source.num_images:
    return known
  sample = fit_sample(source, config.em.init_max_images, config.seed)
  return partition(fit_start(name, sample, source.image_shape, config), source)


def tracked_images(num_images: int, config) -> np.ndarray:
  """Indices of the images whose tau a run keeps, rising: all, or a sample if stepwise."""
  if config.em.schedule == 'stepwise':
    return sample_indices(num_images, config.em.init_max_images, config.seed)
  return np.arange(num_images)


def steps_until(options, iteration: int) -> int:
  """Gradient steps taken by the end of EM iteration 1, 2, ...; 0 for iteration 0."""
  first = options.first_num_steps or options.num_steps
  return 0 if iteration == 0 else first + (iteration - 1) * options.num_steps


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
      'dataset': source.name,
      'train_seconds': 0., 'train_images': 0,      # without compilation
      'e_step_evaluations_per_second': None,
      'wall_seconds': 0.,
  }


def template(machinery: Machinery):
  """A function from a checkpoint's progress to (state, tau) as they shall be restored."""
  def shaped(progress):
    state = machinery.abstract_state()
    like = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32,
                             sharding=state.step.sharding)
    tracked = tracked_images(progress['num_images'], machinery.config)
    tau = like((len(tracked), machinery.config.num_clusters))
    return state, {'current': tau, 'start': tau, 'bound': like(tau.shape[:1])}
  return shaped


def e_step_key(config, iteration: int):
  """The typed key of the E-step of EM iteration 1, 2, ..."""
  return jax.random.fold_in(stream(config.seed, 'e_step'), iteration)


class Fitter:
  """One run of EM: its state, and where it stands."""

  def __init__(self, machinery: Machinery, source: ImageSource, pipeline,
               checkpoints: Checkpoints, reporter: Reporter, workdir,
               started: float):
    """Restores the newest checkpoint of the workdir, or computes the start.

    Args:
      machinery: the model.
      source: the images.
      pipeline: the same on their way to the devices.
      checkpoints: of the workdir.
      reporter: shows progress.
      workdir: where metrics go.
      started: `time.perf_counter()` when the run began.
    """
    self.machinery, self.config = machinery, machinery.config
    self.source, self.pipeline = source, pipeline
    self.tracked = tracked_images(source.num_images, self.config)
    self.checkpoints, self.reporter = checkpoints, reporter
    self._clock = started
    restored = checkpoints.restore_newest(template(machinery), reporter.warning,
                                          pipeline.iterator)
    if restored is None:
      number = 0
      self.state = machinery.init_state()
      self.progress = new_progress(source)
      self.tau = self._start()
    else:
      number, (self.state, self.tau, self.progress) = restored
      reporter.line(f'Resuming from checkpoint {number}: gradient step '
                    f"{int(self.state.step)}, {self.progress['iteration']} EM iterations "
                    'done.')
    if self.progress['num_images'] != source.num_images:
      raise UserError(
          f"The data have {source.num_images} images now, but the workdir's run has "
          f"{self.progress['num_images']}: restore the data or choose another --workdir.")
    self.writer = (MetricsWriter(workdir, number) if jax.process_index() == 0 else None)
    if restored is None:
      self._save()

  def _start(self):
    options, machinery = self.config.em, self.machinery
    best = options.init == 'best'
    names = options.init_candidates if best else (options.init,)
    sample = fit_sample(self.source, options.init_max_images, self.config.seed)
    trials = []
    for name in names:
      if name == LATENTS:  # the first E-step makes it
        tau = np.full((len(self.tracked), self.config.num_clusters),
                      1 / self.config.num_clusters, np.float32)
        trials.append(trial.Trial(name, tau, np.zeros(len(tau), np.float32)))
        continue
      with self.reporter.task(f'start ({name})', 1, 'starts') as task:
        assign = fit_start(name, sample, self.source.image_shape, self.config)
        tau = partition(assign, self.source, self.tracked)
        task.advance(1)
      bound = self._trial_bound(name, tau) if best else np.zeros(len(tau), np.float32)
      trials.append(trial.Trial(name, tau, bound))
    chosen, table = trial.best(trials)
    self.progress['start'] = chosen.name
    if best:
      self.progress['starts'] = table
      self.reporter.line('Starts by their bounds: ' + ', '.join(
          f"{row['start']} {row['bound_nats']:.2f}" for row in table)
          + f' nats an image; taking {chosen.name}')
    tau = chosen.responsibilities
    bound = np.zeros(len(tau), np.float32)
    return replicate({'current': tau, 'start': tau, 'bound': bound}, machinery.mesh)

  def _trial_bound(self, name, tau):
    machinery = self.machinery
    tau = replicate(tau, machinery.mesh)
    state = trial.short_fit(machinery, self.pipeline, self.tracked, tau, self._table)
    if machinery.before_e_step is not None:
      state, _ = machinery.before_e_step(machinery, state, self.pipeline, self.tracked,
                                         tau, 1, self.reporter)
    return assign_all(machinery, state.ema, self.pipeline, e_step_key(self.config, 0),
                      self.reporter, f'trial of {name}', self.tracked,
                      self._table(tau)).info.bound

  def _table(self, tau):
    """What is looked up of an image, be it its tau or its start."""
    if self.config.em.schedule == 'batch':
      return tau
    return SampleTable(replicate(self.tracked.astype(np.int32), self.machinery.mesh), tau)

  @property
  def step(self) -> int:
    """Gradient steps taken; waits for the devices."""
    return int(self.state.step)

  def _save(self):
    self._tick()
    number = self.step + self.progress['iteration']
    self.checkpoints.save(number, Snapshot(self.state, self.tau, self.progress),
                          self.pipeline.iterator)

  def _tick(self):
    now = time.perf_counter()
    self.progress['wall_seconds'] += now - self._clock
    self._clock = now

  def _write(self, **values):
    if self.writer is not None:
      self.writer.write(self.step, self.progress['iteration'], **values)

  def _last_good(self) -> str:
    self.checkpoints.wait()
    numbers = self.checkpoints.numbers()
    return (f'The last good checkpoint is {numbers[0]}.' if numbers
            else 'There is no checkpoint yet.')

  def run(self) -> Fit:
    """Runs EM to its end.

    Returns:
      The `Fit`.

    Raises:
      NonFiniteError: the step, the term and the last good checkpoint are named.
    """
    while not self.progress['stop_reason']:
      self.m_phase()
      try:
        self.e_phase()
      except NonFiniteError as error:
        raise NonFiniteError(
            f"{error} (EM iteration {self.progress['iteration'] + 1}, after gradient "
            f'step {self.step}). {self._last_good()} Try a smaller '
            'config.m_step.learning_rate in a new workdir.') from None
    self._tick()
    if self.writer is not None:
      self.writer.close()
    self.checkpoints.wait()
    host = to_host(self.tau)
    tau, bound = host['current'], host['bound']
    start = start_of_all(self.source, self.config, self.progress['start'], host['start'])
    if len(self.tracked) < self.source.num_images:
      found = assign_all(self.machinery, self.state.ema, self.pipeline,
                         e_step_key(self.config, self.progress['iteration']),
                         self.reporter, 'all images',
                         start=replicate(start, self.machinery.mesh))
      tau, bound = found.responsibilities, found.info.bound
    return Fit(self.state, tau, bound, start, self.progress)

  def m_phase(self):
    """Closed forms, then the gradient steps that this iteration still lacks."""
    config, machinery = self.config, self.machinery
    iteration = self.progress['iteration']
    begin = steps_until(config.m_step, iteration)
    end = steps_until(config.m_step, iteration + 1)
    step = self.step
    tau = self.tau['current']
    stepwise = config.em.schedule == 'stepwise'
    begins = step == begin and not (stepwise and step)
    if begins and machinery.before_m_step is not None:
      self.state = machinery.before_m_step(machinery, self.state, self.pipeline,
                                           self.tracked, tau)
    key = replicate_key(stream(config.seed, 'm_step'), machinery.mesh)
    table = self._table(
        self.tau['start' if config.em.posterior == 'amortised' else 'current'])
    batches = self.pipeline.training(step)
    with self.reporter.task(f'EM {iteration + 1}/{config.em.max_iterations} M-step',
                            (end - begin) * config.m_step.batch_size, 'images') as task:
      task.done = (step - begin) * config.m_step.batch_size
      unreported = 0
      in_flight = collections.deque()
      while step < end:
        self.reporter.check_stopped()
        self.state, info = machinery.m_step(self.state, machinery.m_estimator,
                                            next(batches), table, key)
        step, unreported = step + 1, unreported + 1
        in_flight.append(info.loss)
        if len(in_flight) > MAX_IN_FLIGHT:
          in_flight.popleft().block_until_ready()
        checkpoint_due = step % config.checkpoint.every_steps == 0 or step == end
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
          f"{self.progress['iteration'] + 1}; {float(info.loss)}). {self._last_good()} "
          'Try a smaller config.m_step.learning_rate in a new workdir.')

  def e_phase(self):
    """The E-step, its guards and its record."""
    config, machinery, progress = self.config, self.machinery, self.progress
    iteration, figures = progress['iteration'] + 1, {}
    if machinery.before_e_step is not None:
      self.state, figures = machinery.before_e_step(
          machinery, self.state, self.pipeline, self.tracked, self.tau['current'],
          iteration, self.reporter)
    result = assign_all(machinery, self.state.ema, self.pipeline,
                        e_step_key(config, iteration), self.reporter,
                        f'EM {iteration}/{config.em.max_iterations} E-step', self.tracked,
                        self._table(self.tau['start']))
    old = to_host(self.tau)
    tau, info = result.responsibilities, result.info
    if iteration == 1 and progress['start'] == LATENTS:
      old = {**old, 'current': tau, 'start': tau}
    line = {**iteration_record(tau, info, machinery.image_shape), **figures,
            **diagnostics.movement(old['current'], tau, old['start'])}
    if iteration > 1:  # the start has no bound
      line['bound_change'], line['bound_change_error'] = diagnostics.paired_change(
          old['bound'], info.bound)
    tau, empty = self._guard_empty(tau, info, iteration)
    progress['iteration'] = iteration
    progress['history'].append({'iteration': iteration, **line, 'empty_clusters': empty,
                                'advice': {}})
    progress['e_step_evaluations_per_second'] = (
        result.evaluations_per_second or progress['e_step_evaluations_per_second'])
    reseeded = bool(empty) and config.em.reseed_empty
    reason = settled(progress['history'], config.em)
    # A re-seeded cluster has not been trained yet: only the maximum ends the run then.
    if not reseeded or len(progress['history']) >= config.em.max_iterations:
      progress['stop_reason'] = reason
    self.tau = replicate({'current': tau, 'start': old['start'], 'bound': info.bound},
                         machinery.mesh)
    self._write(**line, empty_clusters=len(empty))
    self.reporter.line(
        f"EM {iteration}: bound {line['bound_bits_per_dim']:.4f} bits/dim, entropy "
        f"{line['mean_entropy']:.3f} nats, {line['changed_fraction']:.1%} changed "
        f"cluster, sizes {line['smallest_cluster']:,.0f} to "
        f"{line['largest_cluster']:,.0f}, {line['uncertain_fraction']:.1%} uncertain"
        + ''.join(f'; {event}' for event in diagnostics.splits_and_merges(line)))
    self._advise()
    self._save()

  def _advise(self):
    """Tells what is amiss, each kind once in a run."""
    progress, history = self.progress, self.progress['history']
    machinery = self.machinery
    told = {kind for line in history for kind in line.get('advice', ())}
    for kind, text in diagnostics.advice(history, progress['num_images'],
                                         self.config.num_clusters,
                                         machinery.encode is not None
                                         or self.config.em.posterior == 'amortised'):
      if kind not in told:
        history[-1]['advice'][kind] = text
        self._warn(f"EM {progress['iteration']}: {text}")

  def _warn(self, text):
    self.progress['warnings'].append(text)
    self.reporter.warning(text)

  def _guard_empty(self, tau, info, iteration):
    config = self.config.em
    reseeded, empty = reseed_empty(tau, info.bound, config.min_cluster_size)
    if not empty:
      return tau, []
    last = iteration >= config.max_iterations
    what = 'left as they are' if not config.reseed_empty else (
        'not re-seeded after the last iteration' if last
        else 're-seeded from the worst-explained images')
    warning = f'EM {iteration}: clusters {empty} are empty; {what}.'
    if not config.reseed_empty:
      warning += ' Try --config.em.reseed_empty=True or fewer clusters.'
    self._warn(warning)
    return (reseeded if config.reseed_empty and not last else tau), empty


def iteration_record(tau, info: EStepInfo, image_shape) -> dict:
  """What the history keeps of an E-step; plain floats.

  Args:
    tau: responsibilities, [N, Q].
    info: of the E-step, arrays [N, ...].
    image_shape: (H, W, C).

  Returns:
    bound_nats (mean per image) and its standard error over images, its three terms,
    bits per dimension, mean entropy (nats), uncertain_fraction: images whose cluster
    leads, or lags, by less than two standard errors; contradicted_fraction: those whose
    cluster lags by more (an amortised one only); evaluations_per_image of the network;
    bound_level_1, 2, ...: the diffusion term by bands of noise levels, rising, each
    with its standard error over images; and `diagnostics.occupancy`.
  """
  bound = float(np.mean(info.bound, dtype=np.float64))
  levels = {}
  for k, level in enumerate(np.asarray(info.levels, np.float64).T, 1):
    levels |= {f'bound_level_{k}': float(level.mean()),
               f'bound_level_{k}_standard_error': float(level.std() / len(tau)**.5)}
  return {
      'bound_nats': bound,
      'bound_standard_error': float(np.std(info.bound) / np.sqrt(len(tau))),
      'bound_bits_per_dim': float(bits_per_dimension(bound, image_shape)),
      'bound_prior': float(np.mean(info.prior)),
      'bound_diffusion': float(np.mean(info.diffusion)),
      'bound_decoder': float(np.mean(info.decoder)),
      'mean_entropy': float(np.mean(info.entropy)),
      'uncertain_fraction': float(np.mean(np.abs(info.margin) < 2 * info.margin_error)),
      'contradicted_fraction': float(np.mean(info.margin < -2 * info.margin_error)),
      'evaluations_per_image': float(np.mean(info.evaluations)),
      **levels, **diagnostics.occupancy(tau),
  }
