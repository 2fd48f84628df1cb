"""What a person, a notebook and the command line share: a fit, and what it can be asked.

    fitted = jdiffclust.fit(config, images)        # an array [N, H, W] or [N, H, W, C]
    fitted.clusters                                # the cluster of each image
    fitted.sample(num_images=4).images             # new ones, of each cluster
    fitted.assign(new_images).responsibilities     # of other images
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from jdiffclust import config as config_lib
from jdiffclust.clustering.cddpm.density import Densities
from jdiffclust.clustering.damaged import Examples, example_rows, learn
from jdiffclust.clustering.generation import Samples, denoiser_of, sample_clusters
from jdiffclust.clustering.method import Method, build
from jdiffclust.clustering.restoring import (
    Guesses, evidence_of_clusters, groups_of, restore_all)
from jdiffclust.clustering.starts.agreement import (
    FEWEST_IMAGES, MOST_IMAGES, SIGN_IMAGES, agree, sign_of)
from jdiffclust.clustering.starts.choose import Choice, choose_number
from jdiffclust.clustering.starts.embedded import check_directions
from jdiffclust.clustering.starts.recognition import Recognised
from jdiffclust.clustering.starts.sample import (
    fit_sample, flat_images, partition, sample_embeddings, sample_indices, start_of_all,
    tracked_images)
from jdiffclust.data import preprocess, symmetry
from jdiffclust.data.dataset import (
    ImageSource, array_source, embeddings_at, load_source, read_images, scale_to_model)
from jdiffclust.data.fingerprint import fingerprint, first_difference
from jdiffclust.data.masks import known_of, read_mask, read_npy, with_border
from jdiffclust.data.pipelines import make_pipeline
from jdiffclust.data.rendering import (
    FAINT, Rendering, from_json, look_scaled, unknown_range)
from jdiffclust.data.symmetry import Symmetry
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.samplers import sampler_options
from jdiffclust.errors import UserError
from jdiffclust.evaluation.diagnostics import Advice, advice
from jdiffclust.inverse import operators
from jdiffclust.inverse.operators import Operator, check_adjoint
from jdiffclust.inverse.problem import Problem, check_problem, residual_size
from jdiffclust.inverse.restorer import restorer_options
from jdiffclust.inverse.units import Units, is_told
from jdiffclust.processes import as_the_main_one_has_it
from jdiffclust.progress import PERCENT, Reporter
from jdiffclust.registry import RECOGNISED, RESTORERS, SAMPLERS
from jdiffclust.sharding import (
    check_batch_size, mesh_of, mesh_of_fit, replicate, to_host)
from jdiffclust.streams import stream
from jdiffclust.training.assignment import (
    Assignment, ByContent, assign_all, densities_of_all, tell_all)
from jdiffclust.training.checkpoints import Snapshot
from jdiffclust.training.loop import Fitter, e_step_key, recogniser_of, template
from jdiffclust.training.record import iteration_record
from jdiffclust.training.storage import Store
from jdiffclust.workdir import Workdir, images_of_run, restore_fit

Build = Callable[..., Method]

OF_A_SOURCE = ('embeddings are given beside an ImageSource: let `load_source` or '
               '`array_source` have them.')
NO_EXAMPLES = 'The fit was made by a version that kept none of its images'
HOLDING = ('ddrm', 'mcgdiff')  # methods that keep known pixels as they are
FAR = .1  # a residual beyond twice the noise, of pixels in [-1, 1], that is told of
UNEVEN = .05  # how far a kernel's sum may be from 1, or from 0
WAITS = .1  # a share of the time of gradient steps above which reading is slow
# Options of `restore` that describe the damage, and the operators that read each.
REDUCTIONS = ('averaging', 'subsampling', 'bicubic')
DAMAGE = {'operator': (), 'sigma': (), 'mask': ('mask',), 'box': ('box',),
          'share': ('random',), 'factor': REDUCTIONS, 'blur': ('blur',),
          'file': ('kernel', 'matrix')}


class Restored(NamedTuple):
  """Restored images, D draws of each of n.

  Attributes:
    images: draws, float32 [n, D, H, W, C], in the units of y.
    responsibilities: p(q | y), [n, Q].
    log_evidence: log p(y) of the seen coordinates, of pixels in [-1, 1], nats, [n]; NaN
      of methods without particles.
    ess: effective sample size of the particles, the least on the way, of all groups
      together, [n]; NaN of methods without.
    residual: root mean square of y - A x over the seen pixels, mean over draws, in
      the units of y, [n].
    evaluations: network evaluations that an image took.
  """

  images: np.ndarray
  responsibilities: np.ndarray
  log_evidence: np.ndarray
  ess: np.ndarray
  residual: np.ndarray
  evaluations: float

  @property
  def mean(self) -> np.ndarray:
    """The mean of the draws, the guess of least squared error, [n, H, W, C]."""
    return self.images.mean(axis=1)

  @property
  def std(self) -> np.ndarray:
    """Their standard deviation, pixel by pixel, [n, H, W, C]."""
    return self.images.std(axis=1)

  @property
  def clusters(self) -> np.ndarray:
    """The most probable cluster of each, int [n]."""
    return self.responsibilities.argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A fitted model.

  Attributes:
    method: the model, with its config and devices.
    params: the parameters, on the devices.
    responsibilities: tau of the fit's images, float32 [N, Q]; of a loaded fit with
      em.schedule = 'stepwise' of those that it kept.
    bound: the variational bound on log p(x) of these, nats, [N]; NaN where the fit ended
      with its start (effort='quick').
    start: responsibilities of the starting partition, [N, Q].
    progress: the run's counters and its history, a dict per EM iteration.
    choice: how the number of clusters was chosen; None: it was given.
    recogniser: tells the clusters of images, if the start was made by recognition.
    symmetries: which maps were found to leave the images' content alone, by the option
      of the section views: a dict each, see `symmetry.Symmetry`; None: all were given.
    agreement: whether there is a sign of clusters, and which came back when the start was
      made anew: dicts of `starts.agreement`, sign and clusters, None each where that was
      not asked; None: neither was.
    examples: some of the fit's images as they are stored, [n, H, W, C], by which damaged
      ones are known; None: of a fit of before.
  """

  method: Method
  params: Any
  responsibilities: np.ndarray
  bound: np.ndarray
  start: np.ndarray
  progress: dict
  choice: dict | None = None
  recogniser: Recognised | None = None
  symmetries: dict | None = None
  agreement: dict | None = None
  examples: np.ndarray | None = None
  # What was learnt of the last damage, by that: an image after the other takes it up.
  _learnt: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  @property
  def config(self):
    """The config of the fit, its number of clusters known."""
    return self.method.config

  @property
  def clusters(self) -> np.ndarray:
    """The most probable cluster of each of the fit's images, int [N]."""
    return self.responsibilities.argmax(axis=1)

  @property
  def start_alone(self) -> bool:
    """Whether the fit ended with its start: there is no diffusion model yet."""
    return not self.history

  @property
  def history(self) -> list[dict]:
    """What was recorded of each EM iteration."""
    return self.progress['history']

  @property
  def advice(self) -> list[Advice]:
    """What is amiss at the end of the fit; empty: nothing that can be told."""
    if self.start_alone:
      return []
    tracked = tracked_images(self.progress['num_images'], self.config)
    return advice(self.history, len(tracked), self.config.num_clusters,
                  not self.method.draws_decide, self.progress['start'] == RECOGNISED)

  @property
  def rendering(self) -> Rendering | None:
    """How the pixels of the fit's images were read; None: of a fit of before."""
    found = from_json(self.progress.get('rendering'))
    return found and dataclasses.replace(
        found, in_levels=self.progress['levels'] is not None)

  @property
  def finest(self) -> tuple[int, int] | int:
    """The size (height, width) that tells the clusters of images; 0: the model's own."""
    if self.recogniser is None:
      return 0
    own, size = self.recogniser.image_shape[:2], self.method.image_shape[:2]
    return 0 if own == size else own

  def _check_model(self) -> None:
    """Checks that there is a diffusion model."""
    if self.start_alone:
      raise UserError(
          "The fit ended with its start (config.effort = 'quick'): it tells clusters, of "
          'new images, too, but there is no diffusion model yet that could do this. Fit '
          'again in the same workdir with --config.effort=full: it goes on from there.')

  def denoiser(self, guidance: float = 1.) -> Denoiser:
    """E[x_0 | x_t, condition] of the model: for samplers, densities, restoration.

    Args:
      guidance: exaggerates what sets a condition apart; 1: not at all.

    Raises:
      UserError: guidance is not a number from 0 to 100; or there is no model yet.
    """
    self._check_model()
    self.with_options('sample', {'guidance': guidance})
    return denoiser_of(self.method, self.params, guidance)

  def assign(self, source, reporter: Reporter | None = None,
             embeddings=None) -> Assignment:
    """Assigns images to the clusters.

    Args:
      source: an array, see `dataset.array_source`, whose pixels are read by the rule of
        the fit's, and which is resized to their size; or an `ImageSource` of that size.
      reporter: shows progress; None: warnings only.
      embeddings: of the images of an array, [n, E], made as those of the fit; None: the
        network tells the clusters, by the pixels.

    Returns:
      `Assignment`: responsibilities [n, Q], and per image the bound and more.

    Raises:
      UserError: there are no images, or of a type that cannot be read like the fit's; or
        embeddings, but the fit had none like these.
    """
    self._check_model()
    return assign_all(  # type: ignore[call-arg]
        *self._asked(source, reporter, embeddings), 'predict')

  def tell(self, source, reporter: Reporter | None = None,
           embeddings=None) -> np.ndarray:
    """The responsibilities [n, Q] of `assign` alone, which takes far less time.

    Up to rounding; args and raises as of `assign`. Where the fit ended with its start,
    that alone tells them.
    """
    if self.start_alone:
      return self._told_by_the_start(source, reporter, embeddings)
    return tell_all(*self._asked(source, reporter, embeddings))

  def _asked(self, source, reporter, embeddings):
    """New images on their way to `assign_all` and `tell_all`: their arguments."""
    source = self._checked(source, reporter, embeddings)
    self._check_embeddings(source)
    start = None
    if self.recogniser is not None:
      start = replicate(partition(self.recogniser, source.seen), self.method.mesh)
    return (self.method, self.params,
            ByContent(pipeline_of(self.method, source), start),
            stream(self.config.seed, 'predict'), _quiet(reporter))

  def _told_by_the_start(self, source, reporter, embeddings) -> np.ndarray:
    """`tell` without a diffusion model."""
    if self.recogniser is None:
      kind = self.progress['start']
      raise UserError(f'The fit ended with its start, {kind!r}, which tells nothing of '
                      'new images: fit with --config.effort=full, or with '
                      f'--config.start.kind={RECOGNISED}, which does.')
    source = self._checked(source, reporter, embeddings)
    self._check_embeddings(source)
    return partition(self.recogniser, source.seen)

  def _check_embeddings(self, source: ImageSource) -> None:
    """Checks that images have embeddings like those of the fit, or none."""
    vectors = source.embeddings
    if vectors is None:
      return
    known: Any = self.recogniser and self.recogniser.known
    if known is None:
      why = ('which keeps none' if self.config.start.spaces == config_lib.EMBEDDED
             else 'which had none')
      raise UserError(
          f'{source.name} has embeddings, but they are compared with those of the fit, '
          f'{why} (config.start.kind = {self.config.start.kind!r}): leave them out.')
    if vectors.shape[1] != known.rows.shape[1]:
      raise UserError(
          f'{source.name} has embeddings of {vectors.shape[1]} numbers, but those of the '
          f'fit have {known.rows.shape[1]}: make them by the same network.')
    check_directions(vectors, source.ids, self.config.start, for_fit=False)

  def log_density(self, source, options=None,
                  reporter: Reporter | None = None) -> Densities:
    """Log densities of images by the probability-flow ODE, nats; of method cddpm only.

    Args:
      source: as of `assign`.
      options: the section `predict` of a config: ode_steps; None: the fit's.
      reporter: shows progress; None: warnings only.

    Returns:
      `Densities` of each cluster [n, Q] and of the mixture [n].

    Raises:
      UserError: the method has none, or as of `assign`.
    """
    self._check_model()
    return densities_of_all(
        self.method, self.params,
        pipeline_of(self.method, self._checked(source, reporter)),
        stream(self.config.seed, 'densities'),
        self.config.predict if options is None else options, _quiet(reporter))

  def sample(self, clusters=None, reporter: Reporter | None = None,
             **options) -> Samples:
    """Generates images of clusters.

    Args:
      clusters: a number, or k of them; None: all.
      reporter: shows progress; None: warnings only.
      **options: of the section `sample` of the config, as num_images, seed, sampler,
        num_steps, guidance.

    Returns:
      `Samples`: images [k, n, H, W, C], in [-1, 1] up to what the network overshoots.

    Raises:
      UserError: there is no such cluster or option, or its value is not allowed.
    """
    self._check_model()
    clusters = self._numbers_of(clusters)
    given = {'clusters': clusters} if options.get('interpolate') else {}
    config = self.with_options('sample', {**options, **given})
    rows = config.sample.interpolate or len(clusters)
    with _quiet(reporter).task('samples', rows * config.sample.num_images,
                               'images') as task:
      return sample_clusters(self.method, self.params, clusters, config.sample, task)

  def evidence(self, operator: Operator, y, sigma: float = 0.,
               reporter: Reporter | None = None, pixel_range=None,
               **options) -> np.ndarray:
    """log p(y | cluster) of observations by particles, nats, [n, Q].

    The density is that of the seen coordinates of pixels in [-1, 1].

    Args:
      operator, y, sigma, reporter, pixel_range: as of `restore`.
      **options: of the section `restore`; the method must be mcgdiff or tds.

    Raises:
      UserError: as of `restore`.
    """
    config, problem, _ = self._problem(operator, y, sigma, pixel_range, options)
    with _quiet(reporter).task('evidence', len(problem.observation), 'images') as task:
      return evidence_of_clusters(self.method, self.params, problem, config.restore, task)

  def _problem(self, operator, y, sigma, pixel_range, options):
    """The config with options of `restore`, the problem in the model's units, these."""
    self._check_model()
    for name in set(DAMAGE) & set(options):
      raise UserError(f'restore(operator, y, sigma) takes no {name}: what the images '
                      'have lost is the operator, of jdiffclust.inverse.operators.')
    config = self.with_options('restore', options)
    if not isinstance(operator, Operator):
      raise UserError(f'restore(operator, y): the operator is of type '
                      f'{type(operator).__name__}; make one by '
                      'jdiffclust.inverse.operators, such as inpainting(mask, shape).')
    if not (isinstance(sigma, (int, float, np.number)) and 0 <= sigma < np.inf):
      raise UserError(f'sigma = {sigma!r} is not allowed: it is the standard deviation '
                      'of the noise in y, 0 (none) or more.')
    if tuple(operator.shape) != self.method.image_shape:
      raise UserError(f'An operator of images of {operator.shape}, but the model was '
                      f'fitted to {self.method.image_shape}: make it for these.')
    check_adjoint(operator, stream(config.restore.seed, 'adjoint'))
    units = self.units if pixel_range is None else units_of(pixel_range)
    try:
      y = np.asarray(y, np.float64)
    except (TypeError, ValueError):
      raise UserError('Observations are no array of numbers: give [n, ...], as '
                      'operator.apply makes them.') from None
    seen = y[np.isfinite(y) & _is_told(operator, y)]
    if pixel_range is None and (seen % 1 != 0).any() and look_scaled(
        seen.min(), seen.max(), units):
      raise UserError(
          f'Observations from {seen.min():g} to {seen.max():g}, but the pixels of the '
          f'fit go from {units.low:g} to {units.high:g}: say what is black and white in '
          'yours, such as by pixel_range=(0, 1); if they are in these units, by '
          f'pixel_range=({units.low:g}, {units.high:g}).')
    return config, units.problem(operator, y, float(sigma)), units

  @property
  def units(self) -> Units:
    """Of the stored pixels of the fit's images, in which `restore` has all it is given.

    Raises:
      UserError: the fit does not tell what its pixels were.
    """
    levels, found = self.progress['levels'], self.rendering or Rendering()
    kind = 'real' if levels is None else 'wide' if 'wide' in found.ranges else 'byte'
    known = found.range_of(kind)
    if known is None:
      raise UserError('The fit was made by a version that did not keep the range of its '
                      'pixels: fit again, or give data.range.')
    if kind == 'byte' and levels != 256 and 'byte' not in found.ranges:
      known = (0, levels - 1)
    return Units(*known)

  def restore(self, operator: Operator, y, sigma: float = 0.,
              reporter: Reporter | None = None, pixel_range=None,
              **options) -> Restored:
    """Draws images given what is seen of them, y = A x + sigma n.

        from jdiffclust.inverse import operators
        seen = operators.inpainting(mask, (28, 28, 1))
        found = fitted.restore(seen, damaged)      # [n, 28, 28, 1]
        found.mean, found.std          # [n, 28, 28, 1], in the units of the images

    Args:
      operator: A, of `jdiffclust.inverse.operators`, for images [H, W, C] of the fit.
      y: n observations, [n, ...] as `operator.apply` makes them; in the units of the
        stored pixels of the fit's images, such as 0..255. Pixels that a mask hides may
        be anything.
      sigma: standard deviation of their noise, in the same units; 0: none.
      reporter: shows progress; None: warnings only.
      pixel_range: the numbers (low, high) that are black and white in y, sigma and the
        result; None: those of the fit.
      **options: of the section `restore` of the config: method, num_draws, num_steps,
        particles, seed and the methods' own.

    Returns:
      `Restored`.

    Raises:
      UserError: an option is wrong, or the observations are none of the operator, of the
        method or of the images' range.
      NonFiniteError: a method has failed.
    """
    config, problem, units = self._problem(operator, y, sigma, pixel_range, options)
    reporter = _quiet(reporter)
    for line in doubts(operator, float(sigma), units):
      reporter.warning(line)
    found = restore_all(self.method, self.params, problem, config.restore, reporter,
                        lambda: self._guesses(problem, config.restore, reporter))
    groups = groups_of(config.restore)
    # Each group has but one particle, in effect; of methods without NaN: never.
    lost = found.least_ess < groups + 1
    if lost.any():
      where, so = (('', 'their draws are alike') if groups == 1 else (
          f' in each of {groups} groups', 'they were chosen among next to none'))
      reporter.warning(
          f'{lost.sum()} of {len(lost)} images were left with in effect one particle of '
          f'{config.restore.particles // groups} on the way{where} '
          f'(restore.method={config.restore.method}): {so}. Set more '
          'config.restore.particles, or a larger sigma; pigdm does without.')
    draws = np.moveaxis(found.images, 1, 0)  # [D, n, ...]: rows as of the problem
    residual = jax.jit(residual_size)(problem, draws.reshape(-1, *operator.shape))
    residual = np.asarray(residual).reshape(draws.shape[:2]).mean(axis=0)
    far = residual > 2 * float(problem.noise) + FAR
    if far.any():
      others = [name for name in HOLDING if name != config.restore.method]
      reporter.warning(
          f'{far.sum()} of {len(far)} images are restored to what does not show what is '
          f'seen of them (residual {residual.max() / units.scale:.3g}, sigma {sigma:g}): '
          'take more config.restore.num_steps, another config.restore.method (what is '
          f"seen is held to by {' and '.join(others)}), or a larger sigma.")
    return Restored(
        units.stored(found.images), found.responsibilities,
        found.log_evidence, found.least_ess, residual / units.scale, found.evaluations)

  def assign_damaged(self, operator: Operator, y, sigma: float = 0.,
                     reporter: Reporter | None = None, pixel_range=None,
                     **options) -> np.ndarray:
    """Responsibilities of damaged images, p(cluster | y), without restoring them, [n, Q].

    Args:
      operator, y, sigma, reporter, pixel_range: as of `restore`.
      **options: of the section `restore`: seed.

    Raises:
      UserError: as of `restore`; or the fit kept none of its images.
    """
    config, problem, _ = self._problem(operator, y, sigma, pixel_range, options)
    check_problem(problem)
    if self.examples is None:
      raise UserError(f'{NO_EXAMPLES}: fit again, or take what `restore` says.')
    return self._learnt_of(problem, config.restore.seed, _quiet(reporter))[1](problem)

  def _guesses(self, problem: Problem, options, reporter: Reporter) -> Guesses | None:
    """Guesses at the images of a problem, by the fit's own; None: draws shall do."""
    if not options.by_examples:
      return None
    if self.examples is None:
      reporter.warning(f'{NO_EXAMPLES}: clusters of damaged images are told by draws, '
                       'which errs more often. Fit again to mend it.')
      return None
    known, learnt = self._learnt_of(problem, options.seed, reporter)
    tau = learnt(problem)
    return Guesses(tau, known.images, learnt.draw(problem, tau, options.num_draws,
                                                  options.seed))

  def _learnt_of(self, problem: Problem, seed: int, reporter: Reporter):
    """The examples, and what they teach of a damage."""
    leaves, kind = jax.tree.flatten((problem.operator, problem.noise))
    damage = kind, seed, *(np.asarray(leaf).tobytes() for leaf in leaves)
    if damage not in self._learnt:
      known = self._examples()
      with reporter.task('damage', 100, PERCENT) as task:
        found = learn(known, problem.operator, float(problem.noise), self.config,
                      seed, task.advance)
        task.finish()
      self._learnt.clear()
      self._learnt[damage] = known, found
    return self._learnt[damage]

  def _examples(self) -> Examples:
    """The kept images as the model sees them, and their responsibilities."""
    tracked = tracked_images(self.progress['num_images'], self.config)
    rows = example_rows(len(tracked), self.config.seed)
    if len(self.responsibilities) > len(tracked):
      rows = tracked[rows]
    return Examples(scale_to_model(np.asarray(self.examples), self.progress['levels']),
                    self.responsibilities[rows])

  def _numbers_of(self, clusters) -> tuple[int, ...]:
    """Clusters as a tuple; None: all. Raises UserError where there is no such cluster."""
    number = self.config.num_clusters
    if clusters is None:
      return tuple(range(number))
    found = np.atleast_1d(np.asarray(clusters))
    if found.ndim != 1 or not found.size or found.dtype.kind not in 'iu':
      raise UserError(f'clusters = {clusters!r} is not allowed: give a number of '
                      f'0..{number - 1}, a list of them, or None for all.')
    bad = [q for q in found if not 0 <= q < number]
    if bad:
      raise UserError(f'config.sample.clusters names cluster {bad[0]}, but the model has '
                      f'clusters 0..{number - 1}.')
    return tuple(int(q) for q in found)

  def with_options(self, section: str, changes: dict):
    """The config of the fit with options of a section changed, checked.

    Args:
      section: of the config, such as 'sample'.
      changes: values by the names of options.

    Returns:
      A config of its own.

    Raises:
      UserError: an option is unknown, or its value is not allowed.
    """
    config = config_lib.copied(self.config)
    # What the picture of the fit shows is nothing that another call has asked for.
    config.sample.update(clusters=(), interpolate=0, trajectory=0)
    for name, value in changes.items():
      if name not in config[section]:
        raise config_lib.unknown_option(f'{section}.{name}')
      # `check_config` says what is wrong with a value of another type.
      with config[section].ignore_type():
        config[section][name] = value
    config_lib.check_config(config)
    return config

  def rescored(self, source: ImageSource, reporter: Reporter | None = None) -> Fitted:
    """The same fit with tau recomputed from its parameters, on its own images.

    Args:
      source: the images of the fit, as of `assign`.
      reporter: shows progress; None: warnings only.

    Raises:
      UserError: there are more or fewer of them now; or there is no model yet.
    """
    self._check_model()
    if not isinstance(source, ImageSource):
      source = self.read(source, reporter)
    progress = copy.deepcopy(self.progress)
    if source.num_images != progress['num_images']:
      raise UserError(f"The data have {source.num_images} images now, but the fit had "
                      f"{progress['num_images']}: restore the data.")
    start = start_of_all(source.seen, self.config, progress['start'], self.start,
                         self.recogniser)
    found = assign_all(
        self.method, self.params, pipeline_of(self.method, source),
        e_step_key(self.config, progress['iteration']), _quiet(reporter),
        start=replicate(start, self.method.mesh))
    # The record of the iteration stays, but for what was recomputed.
    tracked = tracked_images(source.num_images, self.config)
    progress['history'][-1] |= iteration_record(  # type: ignore[call-arg]
        *jax.tree.map(lambda a: a[tracked], (found.responsibilities, found.info)),
        self.method.image_shape)
    return dataclasses.replace(self, responsibilities=found.responsibilities,
                               bound=np.asarray(found.info.bound), start=start,
                               progress=progress, _learnt={})

  def __repr__(self) -> str:
    """One line, without the parameters."""
    return (f'Fitted({self.config.method}, {self.config.num_clusters} clusters of '
            f"{self.progress['num_images']:,} images of {self.progress['dataset']}, "
            f"{self.progress['iteration']} EM iterations)")

  def read(self, images, reporter: Reporter | None = None,
           embeddings=None) -> ImageSource:
    """An array as images of the fit's size, read by the rule of the fit's.

    Args:
      images, reporter, embeddings: as of `assign`.

    Raises:
      UserError: the images are of a type that cannot be read like the fit's.
    """
    data = data_like_the_fit(self, self.config.data)
    data.max_images, data.embeddings = 0, ''
    source = array_source(images, data, for_fit=False, rendering=self.rendering,
                          finest=self.finest, embeddings=embeddings)
    tell_of(source, _quiet(reporter))
    return source

  def _checked(self, source, reporter, embeddings=None) -> ImageSource:
    """New images as a source of the fit's size and type."""
    if not isinstance(source, ImageSource):
      source = self.read(source, reporter, embeddings)
    elif embeddings is not None:
      raise UserError(OF_A_SOURCE)
    if not source.num_images:
      raise UserError(f'{source.name} has no images: give at least one.')
    check_like_the_fit(self, source, _quiet(reporter))
    return source


def _quiet(reporter: Reporter | None) -> Reporter:
  return Reporter(quiet=True) if reporter is None else reporter


def pipeline_of(method: Method, source: ImageSource):
  """The images on their way to the method's devices."""
  config = method.config
  return make_pipeline(source, config.data, config.m_step.batch_size, config.seed,
                       method.mesh)


def data_like_the_fit(fitted: Fitted, data):
  """Data options by which new images get the size and channels of a fit's.

  Args:
    fitted: the fit.
    data: the section `data` of a config, for the new images.

  Returns:
    A section of its own.
  """
  height, width, channels = fitted.method.image_shape
  data = copy.deepcopy(data)
  ours = fitted.config.data
  data.channels, data.padding = channels, ours.padding
  data.fit, data.ground = ours.fit, ours.ground
  data.image_size = (height - 2 * ours.padding, width - 2 * ours.padding)
  return data


def finest_of(config) -> int:
  """Pixels of the longer side at which the start of a config sees images; 0: no more."""
  start = config.start
  names = start.candidates if start.kind == config_lib.BEST else (start.kind,)
  return config.recognition.max_side if RECOGNISED in names else 0


def doubts(operator: Operator, sigma: float, units: Units) -> list[str]:
  """A line on each thing that is seldom meant in what `restore` is told of a damage.

  Args:
    operator, sigma: as of `restore`.
    units: of the pixels.
  """
  found = []
  if sigma >= units.high - units.low:
    found.append(f'sigma = {sigma:g} is as large as the whole range of the pixels, '
                 f'{units.low:g} to {units.high:g}: hardly anything of the images '
                 'counts. It must be in the units of these pixels.')
  if isinstance(operator, operators.Convolution):
    total = float(np.real(operator.spectrum[0, 0]))
    # Those that sum to 0 show edges.
    if abs(total - 1) > UNEVEN and abs(total) > UNEVEN:
      found.append(f'The numbers of the kernel sum to {total:.3g}: the images that it is '
                   f'said to have made are {total:.3g} times as bright as they were. If '
                   'it has only blurred them, divide it by its sum.')
  return found


def units_of(pixel_range) -> Units:
  """The units of pixels from low (black) to high (white).

  Raises:
    UserError: it is no such pair of numbers.
  """
  try:
    low, high = (float(value) for value in pixel_range)
  except (TypeError, ValueError):
    low = high = 0.
  if not -np.inf < low < high < np.inf:
    raise UserError(f'pixel_range = {pixel_range!r} is not allowed: give the numbers '
                    '(low, high) that are black and white, such as (0, 255).')
  return Units(low, high)


def operator_of(options, shape: tuple[int, int, int], padding: int,
                known: np.ndarray | None) -> Operator:
  """The operator that the `restore` section of a config describes.

  Args:
    options: operator, and what it needs.
    shape: of the model's images.
    padding: pixels of the border that the fit has added; they are known.
    known: of the operator 'mask', the pixels that it shows, bool [H, W, 1 or C].

  Raises:
    UserError: a file is missing or of another shape, or an option does not fit.
  """
  name = options.operator
  if padding and name in ('blur', 'kernel', *REDUCTIONS):
    raise UserError(f'config.restore.operator = {name!r} mixes pixels, and those of the '
                    f'fit have a border of config.data.padding = {padding}, which it '
                    'would mix in: fit without it.')
  if name == 'mask':
    return operators.inpainting(known, shape)
  if name in ('kernel', 'matrix'):
    if not options.file:
      raise UserError(f'config.restore.operator = {name!r} needs a file: name it by '
                      'config.restore.file.')
    values = read_npy(options.file)
    make = operators.convolution if name == 'kernel' else operators.matrix
    return make(values, shape)
  reduced = lambda make: lambda: make(options.factor, shape)
  inner = (shape[0] - 2 * padding, shape[1] - 2 * padding, shape[2])
  bordered = lambda hidden: operators.inpainting(
      with_border(np.asarray(hidden.mask), padding), shape)
  return {
      'box': lambda: bordered(operators.box(inner, *options.box)),
      'random': lambda: bordered(operators.random_pixels(inner, options.share,
                                                         options.seed)),
      'averaging': reduced(operators.averaging),
      'subsampling': reduced(operators.subsampling),
      'bicubic': reduced(operators.bicubic),
      'blur': lambda: operators.gaussian_blur(options.blur, shape),
      'grey': lambda: operators.grey(shape)}[name]()


def _is_told(operator: Operator, y: np.ndarray) -> np.ndarray:
  """As `is_told`, of observations, which may be of another shape than the operator's."""
  one = jax.eval_shape(operator.apply, jax.ShapeDtypeStruct((1, *operator.shape),
                                                            np.float32))
  if y.shape[1:] != one.shape[1:]:
    return np.ones(y.shape, bool)  # `Units.problem` refuses them
  return np.broadcast_to(is_told(operator, one.shape), y.shape)


def damaged_images(fitted: Fitted, data, options,
                   reporter: Reporter) -> tuple[Operator, ImageSource]:
  """The operator of `restore`, and the images of a config as it would have made them.

  Those of the fit, which are to be damaged by it, are whole.

  Args:
    fitted: the fit.
    data: the section `data` of a config.
    options: the section `restore`.
    reporter: tells of what was found.

  Raises:
    UserError: the images or the operator are not of the fit.
  """
  shape = fitted.method.image_shape
  for line in without_effect(options):
    reporter.warning(line)
  data = data_like_the_fit(fitted, data)
  data.embeddings = ''  # those of the fit, if any: damaged images have no others
  mask = (read_mask(options.mask, reporter.warning) if options.operator == 'mask'
          else None)
  fit = (fitted.rendering or Rendering()).fit_for(data.fit)
  known = None if mask is None else known_of(mask, shape, data.padding, fit)
  operator = operator_of(options, shape, data.padding, known)
  one = jax.ShapeDtypeStruct((1, *shape), np.float32)
  seen = jax.eval_shape(operator.apply, one).shape[1:]
  whole = are_of_the_fit(fitted, data)  # these are damaged by `write_restored`
  if len(seen) == 3 and not whole:
    data.channels = seen[2]
    if seen[:2] != shape[:2]:  # smaller ones
      data.image_size = seen[:2]
  rendering = fitted.rendering  # observations are not rounded
  source = load_source(data, for_fit=False, rendering=rendering and dataclasses.replace(
      rendering, in_levels=False, beyond=True))
  if not source.num_images:
    raise UserError(f'{source.name} has no images: give at least one.')
  if source.levels is None and fitted.progress['levels'] is not None and not data.range:
    low, high = source.rendering.range_of('real') or (0., 1.)
    raise UserError(unknown_range(
        f'{source.name} has floats', low, high, usual=fitted.units) + ', or give '
        'whole numbers in the units of the fit')
  tell_of(source, reporter)
  if mask is not None and known is not None and mask_is_resized(
      options.mask, mask.shape[:2], source, data.padding):
    left = known[..., 0]
    reporter.line(f'The mask is resized as the images are: {left.sum():,} of '
                  f'{left.size:,} pixels are known, those in which what is hidden '
                  'hardly shows.')
  elif source.resized and not whole:
    size = preprocess.size_of(data.image_size)
    height, width = size if size is not None else source.image_shape[:2]
    reporter.warning(
        f'{source.resized} were resized to {height}x{width}, which is what '
        f'config.restore.operator = {options.operator!r} leaves of an image of '
        f'{shape[0]}x{shape[1]}. Resizing is no part of the damage that is undone: give '
        'damaged images of that size where you can.')
  if known is not None and looks_turned(source, known):
    reporter.warning('Where the mask is white, which is known, all images are of about '
                     'one colour; where it is black they are not: is it the wrong way '
                     'round? What is lost must be black.')
  levels = fitted.progress['levels']
  # The fit's own images have more levels when they are resized.
  own = data.source == fitted.config.data.source and source.resized
  if source.levels != levels and not data.range and not own:
    low, high = fitted.units
    reporter.warning(
        f'{source.name} has {source.levels or "no"} grey levels, the images of the fit '
        f'{levels or "none"}. restore.sigma and restored.npy are in pixels of '
        f'{low:g} (black) to {high:g} (white); config.data.range sets those of yours.')
  return operator, source


# Options of data that say which images they are.
WHICH = ('source', 'name', 'split', 'image_key')


def are_of_the_fit(fitted: Fitted, data) -> bool:
  """Whether a config names the images of the fit.

  Args:
    fitted: the fit.
    data: the section `data` of the config.
  """
  ours = fitted.config.data
  place = lambda path: path and pathlib.Path(path).expanduser().resolve()
  return place(data.path) == place(ours.path) and all(
      data[name] == ours[name] for name in WHICH)


def looks_turned(source: ImageSource, known: np.ndarray) -> bool:
  """Whether images are of about one colour in all that a mask calls known, not beside it.

  Args:
    source: the images; some of them are looked at.
    known: of the mask, bool [H, W, 1 or C].
  """
  images = read_images(source, preprocess.spread(
      range(source.num_images), preprocess.LOOKED_AT)).astype(np.float32)
  known = np.broadcast_to(known, images.shape[1:])
  if known.all() or not known.any():
    return False  # refused elsewhere
  most = 2 if source.levels is None else source.levels - 1
  span = lambda which: float(np.ptp(images[:, which]))
  return span(known) <= FAINT * most and span(~known) > most / 2


def mask_is_resized(path: str, size: tuple[int, ...], source: ImageSource,
                    padding: int) -> bool:
  """Whether a mask is of the size that images had before they were resized.

  Args:
    path: of the mask, for errors.
    size: of the mask, (h, w).
    source: the images, as the model sees them.
    padding: of their border.

  Raises:
    UserError: it is of that size and the images were not, or of none of theirs.
  """
  seen = source.image_shape[:2]
  inner = tuple(side - 2 * padding for side in seen)
  if size in (seen, inner):
    return False
  told = f'The mask {path!r} is of {size[0]}x{size[1]} pixels, but '
  if source.stored is None:
    raise UserError(f'{told}the model sees images of {inner[0]}x{inner[1]}: make it of '
                    'that size.')
  others = np.flatnonzero((source.stored.sizes != size).any(axis=1))
  if others.size:
    height, width = source.stored.sizes[others[0]]
    raise UserError(f'{told}{source.ids[others[0]]} is of {height}x{width}: make it of '
                    'the size of all images, which must be the same then, or of '
                    f'{inner[0]}x{inner[1]}, which the model sees.')
  return True


def without_effect(options) -> list[str]:
  """A line for each option of `restore` that is set, but of another operator or method.

  Args:
    options: the section `restore` of a config.
  """
  found = []
  for name, value in options.items():
    methods = tuple(each for each in RESTORERS if name in restorer_options(each))
    for kind, readers in (('operator', DAMAGE.get(name, ())), ('method', methods)):
      if name != 'num_draws':
        found += _unread('restore', name, value, kind, options[kind], readers)
  return found


def unread_by_sampler(options) -> list[str]:
  """A line for each option of `sample` that is set, but of another sampler.

  Args:
    options: the section `sample` of a config.
  """
  found = []
  for name, value in options.items():
    readers = [each for each in SAMPLERS if name in sampler_options(each)]
    if name in ('num_steps', 'grid'):
      readers = [each for each in SAMPLERS if each != 'adaptive']
    found += _unread('sample', name, value, 'sampler', options.sampler, readers)
  return found


def _unread(section: str, name: str, value: Any, kind: str, chosen: str,
            readers: Sequence[str]) -> list[str]:
  """A line, if an option is set that what is chosen of a kind does not read, or none."""
  default = config_lib.all_options()[f'{section}.{name}'].default
  if not readers or chosen in readers or value == default:
    return []
  return [f'config.{section}.{name} = {value!r} has no effect: config.{section}.{kind} = '
          f"{chosen!r} does not read it ({', '.join(readers)} would)."]


def check_like_the_fit(fitted: Fitted, source: ImageSource, reporter: Reporter) -> None:
  """Checks that images are of the size and type that a model was fitted to.

  Raises:
    UserError: they are not.
  """
  if source.image_shape != fitted.method.image_shape:
    raise UserError(f'{source.name} has images of {source.image_shape}, but the model '
                    f'was fitted to {fitted.method.image_shape}: convert them.')
  levels = fitted.progress['levels']
  if source.levels is None and levels is not None:
    raise UserError(f'{source.name} has no grey levels, but the model was fitted to '
                    f'images of {levels}: give whole numbers in the range of those.')
  if source.levels is not None and levels is None:
    raise UserError(f'{source.name} has {source.levels} grey levels, but the model was '
                    'fitted to floats: give floats, in the range of those.')
  if source.levels != levels:
    reporter.warning(f'{source.name} has {source.levels} grey levels, the model was '
                     f'fitted to images of {levels}; both are scaled to [-1, 1].')


def prepare(config, source: ImageSource, build: Build = build) -> Method:
  """The method of a config for images, after all checks; nothing is compiled yet.

  Args:
    config: a config.
    source: the images.
    build: as `method.build`.

  Raises:
    UserError: an option is wrong, by itself, together with others, or for these images
      or devices.
  """
  config_lib.check_config(config)
  mesh = mesh_of(config)
  for name in ('e_step', 'm_step'):
    check_batch_size(f'{name}.batch_size', config[name].batch_size, mesh)
  vectors = source.embeddings
  config_lib.check_against_data(config, source.image_shape, source.num_images,
                                vectors is not None)
  if vectors is not None:
    check_directions(vectors, source.ids, config.start)
  return build(config_lib.for_collection(config, source.num_images), source.image_shape,
               source.levels, mesh)


@contextlib.contextmanager
def held_run(store: Workdir, config, load: Callable[[], ImageSource],
             reporter: Reporter, build: Build) -> Iterator[ImageSource]:
  """Holds the folder of a run for a fit, once all is known to be right.

  Args:
    store: the folder.
    config: of the fit; an automatic number of clusters is set to that of a run that goes
      on.
    load: gives the images; not called for a config that the folder refuses.
    reporter: tells of a left-over run.
    build: as `method.build`.

  Yields:
    The images, in the order that the run began with.

  Raises:
    UserError: the folder belongs to another config or other images, or is held; or as of
      `prepare`. Nothing has been written then.
  """
  asked = config_lib.flatten(config)
  store.check(config)
  for name in config_lib.RESIZED:
    kept = config_lib.flatten(config)[name]
    if kept != asked[name]:
      reporter.line(f'config.{name} = {kept!r}, as the run in {store.path} began with.')
  source = images_of_run(load(), store.path)
  prepare(config, source, build)
  check_processes(config, source)
  with store.held(reporter.warning):
    yield source


def check_processes(config, source: ImageSource) -> None:
  """Checks that all processes of a run were given the same: else they wait for ever.

  Args:
    config: of this process.
    source: its images.

  Raises:
    UserError: the main process has other options, or images; the first difference is
      named.
  """
  if jax.process_count() == 1:
    return
  own = fingerprint(source)
  of_main = json.loads(as_the_main_one_has_it(json.dumps(
      {'config': config_lib.to_json(config), 'images': own})))
  different = config_lib.differences(config_lib.from_json(of_main['config']), config)
  found = first_difference(of_main['images'], own)
  if different or found:
    raise UserError(
        f'Process {jax.process_index()} of this run was given other '
        f"{'options' if different else 'images'} than process 0: "
        f"{different[0] if different else found}. Give all of them the same.")


def fit(config, source=None, store: Store | str | os.PathLike | None = None,
        reporter: Reporter | None = None, build: Build = build,
        embeddings=None) -> Fitted:
  """Fits a model to images.

  Args:
    config: of `config.default_config`, changed; it is not changed here.
    source: an array of images, see `dataset.array_source`; an `ImageSource`; or None:
      what the section `data` of the config describes.
    store: a folder where the run is kept, and goes on from; or a `Store` that is held by
      the caller; None: nowhere.
    reporter: shows progress; None: warnings only.
    build: makes the method, as `method.build`.
    embeddings: vectors of the images that another network has made, an array [N, E] or a
      file, in the place of data.embeddings; None: that.

  Returns:
    `Fitted`.

  Raises:
    UserError: an option, the images or the embeddings are wrong.
    NonFiniteError: training diverged.
  """
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f'fit(config, images): config is of type {type(config).__name__}; it '
                    'must come from jdiffclust.default_config().')
  config_lib.check_config(config)
  config, reporter = config_lib.copied(config), _quiet(reporter)
  store = Store() if store is None else store
  if not isinstance(store, Store):
    folder, given = Workdir(store, config.checkpoint.keep), source
    with held_run(folder, config, lambda: _source_of(config, given, embeddings), reporter,
                  build) as source:
      return fit(config, source, folder, reporter, build)
  source = _source_of(config, source, embeddings)
  config.start.spaces = config_lib.spaces_for(config, source.embeddings is not None)
  method = prepare(config, source, build)
  for line in config_lib.cautions(config):
    reporter.warning(line)
  tell_of(source, reporter)
  settled, found = settle_for(config, source)
  if settled is not config:
    config, method = settled, prepare(settled, source, build)
  if found:
    reporter.line('Symmetries, by the share of the evidence for them (.5 if so): '
                  + symmetry.in_words(found))
  symmetries = symmetry.as_dict(found) if found else None
  if found or not store.resumes:
    store.keep_symmetries(symmetries)
  if config.num_clusters == config_lib.AUTO:
    choice = choose_for(config, source, reporter)
    store.keep_choice(choice.as_dict())
    config.num_clusters = choice.chosen
    method = prepare(config, source, build)
  elif not store.resumes:
    store.keep_choice(None)
  shape = 'x'.join(map(str, source.image_shape))
  reporter.line(f'{source.name}: {source.num_images:,} images of {shape}, '
                f'{config.num_clusters} clusters, {method.mesh.size} '
                f'{method.mesh.devices.flat[0].platform} device(s)')
  asked, steps = config.m_step.num_steps, method.config.m_step.num_steps
  if steps < asked:
    reporter.line(f'{source.num_images} images are few: {steps} gradient steps an EM '
                  f'iteration instead of {asked} (config.m_step.most_visits = '
                  f'{config.m_step.most_visits})')
  tracked = tracked_images(source.num_images, config)
  examples = read_images(source, tracked[example_rows(len(tracked), config.seed)])
  store.keep_examples(examples)
  store.keep_images(source)
  store.keep_config(config)
  pipeline = pipeline_of(method, source)
  agreement = (store.agreement() if store.resumes else None) or {
      'sign': sign_for(config, source, reporter), 'clusters': None}
  fitter = Fitter(method, source, pipeline, store, reporter)
  if not agreement['clusters']:
    agreement['clusters'] = agreement_for(config, source, fitter.starting_clusters,
                                          reporter)
  store.keep_agreement(agreement if any(agreement.values()) else None)
  done = fitter.run()
  waited = pipeline.waiting_share
  if waited is not None:
    done.progress['waiting_share'] = waited
    reporter.line(f'{waited:.1%} of the time of gradient steps went by in waiting for '
                  'images to be read'
                  + (': more config.data.workers may help' if waited > WAITS else ''))
  fitted = Fitted(method, done.state.ema, done.responsibilities, done.bound,
                  done.start, done.progress, store.choice(), done.recogniser,
                  symmetries or store.symmetries(), store.agreement(), examples)
  for _, text in fitted.advice:
    reporter.warning(text)
  return fitted


def _source_of(config, source, embeddings) -> ImageSource:
  """What `fit` is given, as a source of images."""
  if source is None:
    return load_source(config.data, finest=finest_of(config), embeddings=embeddings)
  if not isinstance(source, ImageSource):
    return array_source(source, config.data, finest=finest_of(config),
                        embeddings=embeddings)
  if embeddings is not None:
    raise UserError(OF_A_SOURCE)
  return source


def tell_of(source: ImageSource, reporter: Reporter) -> None:
  """Warns of what was found out while images were read."""
  if source.skipped:
    reporter.warning(f'{len(source.skipped)} unreadable files were skipped: '
                     f"{', '.join(source.skipped[:5])}"
                     + (' ...' if len(source.skipped) > 5 else ''))
  for note in source.notes:
    reporter.warning(note)


def settle_for(config, source: ImageSource) -> tuple[Any, dict[str, Symmetry]]:
  """The config with every map's share of the views known, and what was found for it.

  Args:
    config: a config.
    source: the images.

  Returns:
    A config; what was found: nothing if all were given, or the method makes no views.
  """
  read = config_lib.all_options()[config_lib.SYMMETRIES[0]].read_by(config.method)
  if not read or not symmetry.undecided(config):
    return config, {}
  sample = fit_sample(source, symmetry.MOST_IMAGES, config.seed)
  return symmetry.settled(config, sample, source.image_shape)


def sign_for(config, source: ImageSource, reporter: Reporter) -> dict | None:
  """Whether the images show a sign of clusters; None: that is not asked.

  Args:
    config: of the fit, settled.
    source: the images.
    reporter: shows progress, and warns where there is none.
  """
  repeats = config.start.repeats
  if (not repeats or config.num_clusters == 1 or config.method == 'sr3'
      or source.num_images < FEWEST_IMAGES):
    return None
  rows, seen = sample_indices(source.num_images, SIGN_IMAGES, config.seed), source.seen
  with reporter.task('sign of clusters', 2 + 2 * repeats, 'starts') as task:
    found = sign_of(flat_images(seen, rows), seen.image_shape, config, repeats,
                    lambda: task.advance(1), embeddings_at(seen, rows))
  (reporter.warning if found.missing else reporter.line)(found.in_words())
  return found.as_dict()


def agreement_for(config, source: ImageSource, clusters: np.ndarray,
                  reporter: Reporter) -> dict | None:
  """Which clusters come back when the start is made anew; None: that is not asked.

  Args:
    config: of the fit, settled.
    source: the images.
    clusters: of the `tracked_images`, by the start, [n].
    reporter: shows progress.
  """
  tracked, repeats = tracked_images(source.num_images, config), config.start.repeats
  kind = config_lib.repeated_start(config)
  if not kind or len(tracked) < FEWEST_IMAGES:
    return None
  chosen = sample_indices(len(tracked), MOST_IMAGES, config.seed)
  rows, seen = tracked[chosen], source.seen
  often = 'once' if repeats == 1 else f'{repeats} times'
  reporter.line(f'The start is made anew {often}, of halves of the images, to see which '
                'clusters come back (--config.start.repeats=0: it is not).')
  ended = itertools.count(1)
  with reporter.task('the start anew', 100 * repeats, PERCENT) as task:
    found = agree(flat_images(seen, rows), seen.image_shape, config, clusters[chosen],
                  repeats, kind,
                  lambda: task.advance(100 * next(ended) - task.done),
                  embeddings_at(seen, rows), task.advance)
  reporter.line(found.in_words())
  return found.as_dict()


def choose_for(config, source: ImageSource, reporter: Reporter) -> Choice:
  """How many clusters the images show, by the options em.auto_*."""
  options = config.em
  with reporter.task('number of clusters', 1 + options.auto_parts, 'parts') as task:
    sample = fit_sample(source, config_lib.CHOOSE_IMAGES, config.seed)
    vectors = sample_embeddings(source, config_lib.CHOOSE_IMAGES, config.seed)
    choice = choose_number(sample, source.image_shape, config, lambda: task.advance(1),
                           vectors)
  low, high = options.auto_clusters
  reporter.line(f'{choice.chosen} clusters chosen among {low}..{high}. Random parts of '
                f'the images vote: {choice.share(0):.0%} for {choice.chosen}, '
                f'{choice.share(1):.0%} for it or one more or less.')
  if choice.chosen == high or choice.chosen == low > 2:
    reporter.warning(f'{choice.chosen} clusters is an end of config.em.auto_clusters = '
                     f'({low}, {high}): a wider range may hold a better number.')
  return choice


def load(workdir, config=None, reporter: Reporter | None = None,
         build: Build = build) -> Fitted:
  """The fitted model of a workdir, by its newest checkpoint; nothing is written.

  Args and raises: as of `read`.

  Returns:
    `Fitted`.
  """
  return of_snapshot(*read(workdir, config, reporter, build), Workdir(workdir))


def read(workdir, config=None, reporter: Reporter | None = None,
         build: Build = build) -> tuple[Method, Snapshot]:
  """The model of a workdir, and its newest checkpoint; nothing is written.

  Args:
    workdir: the folder of a fit.
    config: that of the fit, perhaps with other E-step or sample options; None: that of
      the workdir.
    reporter: for warnings; None: they are printed all the same.
    build: makes the method, as `method.build`.

  Returns:
    The method, and the `Snapshot`.

  Raises:
    UserError: there is no checkpoint of a completed EM iteration, or the config is of
      another fit.
  """
  stored = config_lib.fitted_config(workdir)
  config = stored if config is None else config_lib.copied(config)
  config_lib.settle_like(stored, config)
  different = [line for line in config_lib.differences(stored, config)
               if not line.startswith('config.e_step.')]
  if different:
    raise UserError(f'The fit in {str(workdir)!r} is of another config: '
                    f"{'; '.join(different)}. Leave the config out to use its own.")
  mesh = mesh_of_fit(config, stored.num_devices, _quiet(reporter).warning)
  made: list[Method] = []

  def like(progress):
    if not made:
      made.append(build(config_lib.for_collection(config, progress['num_images']),
                        progress['image_shape'], progress['levels'], mesh))
    return template(made[0])(progress)

  _, snapshot = restore_fit(workdir, like, _quiet(reporter).warning,
                            stored.effort == config_lib.QUICK)
  return made[0], snapshot


def of_snapshot(method: Method, snapshot: Snapshot, kept: Store) -> Fitted:
  """The fitted model of a checkpoint.

  Args:
    method: the model.
    snapshot: on the devices.
    kept: where the rest of the fit is.

  Raises:
    UserError: that cannot be read any more.
  """
  tau = to_host(snapshot.responsibilities)
  bound = tau['bound'] if snapshot.progress['history'] else np.full_like(
      tau['bound'], np.nan)
  return Fitted(method, snapshot.state.ema, tau['current'], bound, tau['start'],
                snapshot.progress, kept.choice(),
                recogniser_of(kept, snapshot.progress, method.config),
                kept.symmetries(), kept.agreement(), kept.examples())
