"""Images restored by a fitted model: p(x | y) over clusters and images, batch by batch.

What an image is conditioned on (its cluster's mean, its latent) is not known when parts
of the image are not. It is guessed by whole images that y may be of: those of the fit
which look like it under the same damage (`damaged.py`); where the fit kept none, draws of
the model that knows of no cluster, so that an image is restored twice. Under conditions
that the guesses have the images are drawn (Gibbs sampling of condition and image, of one
round). Methods with particles give theirs conditions that are proposed by the guesses and
weighted by prior over proposal, so that particles carry conditions and the weights tell
which are right.

The responsibilities of y come with the guesses. Where these are draws, they are the means
of those of the restored draws: p(q | y) is the mean of p(q | x) over x of p(x | y).
`evidence_of_clusters` finds them by p(y | q) instead.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jdiffclust.batch import blocks
from jdiffclust.clustering.bound.draws import image_keys
from jdiffclust.clustering.generation import sample_from
from jdiffclust.clustering.method import Method
from jdiffclust.data.pipelines import replicate_key
from jdiffclust.diffusion.denoiser import Denoiser
from jdiffclust.diffusion.paths import from_process
from jdiffclust.errors import NonFiniteError, UserError
from jdiffclust.inverse import restorer as restoring
from jdiffclust.inverse.moments import Moments, measure
from jdiffclust.inverse.particles import Particles
from jdiffclust.inverse.problem import Problem, check_problem, is_spectral
from jdiffclust.inverse.restorer import Restorer, make_restorer, restorer_options
from jdiffclust.progress import Reporter
from jdiffclust.sharding import replicate, to_host
from jdiffclust.streams import stream

PRIOR_SHARE = .1  # of the particles' conditions, which follow their prior
NUM_MEASURED = 32  # images by which a model's moments are measured


class Guesses(NamedTuple):
  """Whole images that n observations may be of.

  Attributes:
    responsibilities: p(q | y), [n, Q].
    images: of which the guesses are, float32 [N, H, W, C] in [-1, 1].
    rows: D guesses of each observation, numbers of images, int [D, n].
  """

  responsibilities: np.ndarray
  images: np.ndarray
  rows: np.ndarray


class Restorations(NamedTuple):
  """Draws of n images, float32 in [-1, 1] up to what the network overshoots.

  Attributes:
    images: [n, D, H, W, C].
    responsibilities: p(q | y), [n, Q].
    log_evidence: log p(y) of the seen coordinates, nats, [n]; NaN where a method has no
      estimate.
    ess: effective sample size of the particles at last, [n]; NaN of other methods.
    least_ess: the least on the way, of its groups together, [n].
    evaluations: network evaluations an image took, first draws included.
  """

  images: np.ndarray
  responsibilities: np.ndarray
  log_evidence: np.ndarray
  ess: np.ndarray
  least_ess: np.ndarray
  evaluations: float


def restorer_of(options) -> Restorer:
  """The method that the `restore` section of a config describes.

  Args:
    options: method, num_draws, and the methods' own options by their names.

  Raises:
    UserError: see its class.
  """
  known = options.to_dict()
  return make_restorer(options.method, **{
      name: known[name] for name in restorer_options(options.method)})


def groups_of(options) -> int:
  """Groups of the particles of an image; 0 of methods without particles.

  Args:
    options: the `restore` section of a config.
  """
  chosen = restorer_of(options)
  return chosen.num_groups if isinstance(chosen, Particles) else 0


def first_method(restorer: Restorer, problem: Problem) -> Restorer:
  """What draws images while nothing is known of their conditions."""
  if not isinstance(restorer, Particles):
    return restorer
  known = is_spectral(problem.operator)
  return make_restorer('pigdm' if known or float(problem.noise) > 0 else 'dps')


def conditions_of_all(method: Method, params, options) -> np.ndarray:
  """Conditions of the clusters by their shares, [NUM_MEASURED, ...].

  Args:
    method: the model.
    params: fitted parameters.
    options: the `restore` section of a config: seed.
  """
  clusters = method.config.num_clusters
  shares = np.exp(to_host(params.log_proportions))
  counts = np.bincount(np.searchsorted(
      np.cumsum(shares / shares.sum()), (np.arange(NUM_MEASURED) + .5) / NUM_MEASURED),
      minlength=clusters)
  return np.concatenate([
      method.conditions(params, q, int(counts[q]), options.seed)
      for q in range(clusters) if counts[q]])[:NUM_MEASURED]


def moments_of(method: Method, denoiser: Denoiser, conditions, options) -> Moments:
  """The moments of a model, on its devices.

  Args:
    method: the model.
    denoiser: its own, or that which knows of no cluster.
    conditions: [NUM_MEASURED, ...].
    options: the `restore` section of a config: seed.
  """
  keys = replicate_key(jax.random.split(stream(options.seed, 'moments'), NUM_MEASURED),
                       method.mesh)
  found = measure(denoiser, from_process(method.process), keys, conditions)
  return replicate(to_host(found), method.mesh)


def steps_of(method: Method, options) -> int:
  """Network evaluations of a draw.

  Raises:
    UserError: more than the model has noise levels.
  """
  most = method.process.num_steps
  if options.num_steps > most:
    raise UserError(f'config.restore.num_steps = {options.num_steps} exceeds the '
                    f'{most} noise levels of the model: set it to 1..{most}, or 0 for '
                    'all.')
  return options.num_steps or most


def block_size(num_rows: int, batch_size: int, num_devices: int) -> int:
  """Images that are restored at once.

  It does not depend on their number, so that an image's result, to the bit, does not
  either; and the devices share the rows out evenly.

  Args:
    num_rows: draws or particles of an image.
    batch_size: rows that are wanted at once.
    num_devices: that share them.
  """
  step = num_devices // int(np.gcd(num_rows, num_devices))
  return max(1, batch_size // num_rows // step) * step


_keys_of = jax.jit(image_keys)


def check_room(num_images: int, options, num_rows: int, shape) -> None:
  """Checks, before long work, that what is asked for could be held in memory.

  Args:
    num_images: to be restored.
    options: the `restore` section of a config.
    num_rows: images of the method at once, for one image.
    shape: of an image.

  Raises:
    UserError: it could not.
  """
  for name, number in ((f'num_draws = {options.num_draws} of {num_images} images',
                        num_images * options.num_draws),
                       (f'particles = {options.particles}', num_rows)):
    try:
      np.empty((number, *shape), np.float32)  # the system gives no page before its use
    except (MemoryError, ValueError):
      size = 4 * number * np.prod(shape, dtype=float) / 1e9
      raise UserError(f'config.restore.{name} would take {size:,.0f} GB, more than there '
                      'is room for: ask for fewer, or for fewer images at once.'
                      ) from None


def restore_all(method: Method, params, problem: Problem, options, reporter: Reporter,
                guess: Callable[[], Guesses | None] = lambda: None) -> Restorations:
  """Draws images given what is seen of them.

  Args:
    method: the model.
    params: fitted parameters (the averaged ones).
    problem: n observations, in [-1, 1] as the model's images are, on the host.
    options: the `restore` section of a config.
    reporter: shows progress.
    guess: called once all is known to be right; guesses at the images of the
      observations, or None: they are drawn.

  Returns:
    `Restorations`.

  Raises:
    UserError: the problem is not one of its operator, or not of the method.
    NonFiniteError: a draw has numbers that are not finite, or all particles have died.
  """
  check_problem(problem)
  conditions = method.direct_conditions(params, problem)
  if conditions is not None:
    with _restoring(reporter, problem) as task:
      return _drawn_directly(method, params, conditions, options, task)
  chosen = restorer_of(options)
  first = first_method(chosen, problem)
  for each, name in ((chosen, options.method), (first, 'the first draws')):
    each.check(problem, name)
  draws, mesh = options.num_draws, method.mesh
  check_room(len(problem.observation), options, chosen.num_rows(draws),
             problem.operator.shape)
  path, steps = from_process(method.process), steps_of(method, options)
  blind, denoiser = method.reference(params), method.denoiser(params)
  like = conditions_of_all(method, params, options)
  moments = moments_of(method, denoiser, like, options)
  guesses = guess()
  if guesses is None:
    blind_moments = moments_of(method, blind, np.zeros_like(like), options)
  observations = np.asarray(problem.observation, np.float32)
  total, num_rows = len(observations), chosen.num_rows(draws)
  size = block_size(num_rows, options.batch_size, mesh.size)
  keys = np.asarray(jax.random.key_data(_keys_of(
      stream(options.seed, 'restore'), np.arange(total, dtype=np.int32))))
  nothing = np.zeros((first.num_rows(draws), size, *like.shape[1:]), like.dtype)
  weighted = isinstance(chosen, Particles)
  parts = []
  with _restoring(reporter, problem) as task:
    for rows, valid in blocks(total, size):
      some = problem._replace(observation=replicate(observations[rows], mesh))
      of = jax.random.wrap_key_data(replicate(keys[rows], mesh))
      one, two, three = (jax.vmap(jax.random.fold_in, (0, None))(of, n) for n in range(3))
      known = dict(path=path, problem=some, num_draws=draws, num_steps=steps,
                   mesh=mesh)
      if guesses is None:
        drawn = restoring.restore(
            first, denoiser=blind, keys=one, moments=blind_moments,
            condition=nothing, **known)
        images = drawn.images
        guessed = float(np.mean(drawn.evaluations)) * first.num_rows(draws)
      else:
        images = guesses.images[guesses.rows[:, rows]]
        images = replicate(images.reshape(-1, *images.shape[2:]), mesh)
        guessed = 0.
      proposal = method.propose_of_rows(params, images, two, num_rows,
                                        PRIOR_SHARE if weighted else 0.)
      found = restoring.restore(
          chosen, denoiser=denoiser, keys=three, moments=moments,
          condition=proposal.condition,
          log_weights=proposal.log_ratio if weighted else None, **known)
      result = to_host(found._replace(condition=None))
      evaluations = guessed + float(
          np.mean(result.evaluations)) * (1 if weighted else draws)
      shaped = lambda a: np.moveaxis(a.reshape(-1, size, *a.shape[1:]), 0, 1)[:valid]
      if guesses is None:
        tau = method.recognise_of_rows(params, found.images, two)
        tau = shaped(to_host(tau)).mean(axis=1)
      else:
        tau = guesses.responsibilities[rows[:valid]]
      part = Restorations(shaped(result.images), tau,
                          result.log_evidence[:valid], result.ess[:valid],
                          result.least_ess[:valid], evaluations)
      _check_finite(part, rows[:valid], options.method)
      parts.append(part)
      task.advance(valid)
  whole: Any = [np.concatenate([part[i] for part in parts]) for i in range(5)]
  return Restorations(*whole, parts[0].evaluations)  # type: ignore[call-arg]


def _restoring(reporter: Reporter, problem: Problem):
  """The task of a problem."""
  return reporter.task('restore', len(problem.observation), 'images')


def _drawn_directly(method, params, conditions, options, task) -> Restorations:
  """Draws of a model that was trained to draw from p(x | y)."""
  draws, clusters = options.num_draws, method.config.num_clusters
  chosen = copy.deepcopy(method.config.sample)
  with chosen.unlocked():
    chosen.update(sampler='ddim', eta=1., num_steps=steps_of(method, options),
                  grid='trailing', seed=options.seed, batch_size=options.batch_size,
                  guidance=1., trajectory=0)
  rows = np.repeat(conditions[:, None], draws, axis=1)
  found = sample_from(method, params, rows, np.arange(len(rows)), chosen, task, 'restore')
  unknown = np.full(len(rows), np.nan)
  return Restorations(found.images, np.full((len(rows), clusters), 1 / clusters),
                      unknown, unknown, unknown, found.evaluations * draws)


def _check_finite(part: Restorations, numbers, name: str) -> None:
  dead = np.isneginf(part.log_evidence)
  if dead.any():
    raise NonFiniteError(
        f'All particles of observation {int(numbers[np.argmax(dead)])} have died: what '
        'is seen is impossible under the model. Set a larger sigma, or more particles.')
  finite = np.isfinite(part.images).reshape(len(part.images), -1).all(axis=1)
  if not finite.all():
    raise NonFiniteError(
        f'Restoring observation {int(numbers[np.argmin(finite)])} by {name} gave numbers '
        'that are not finite: take more steps, or another method.')


def evidence_of_clusters(method: Method, params, problem: Problem, options,
                         task=None) -> np.ndarray:
  """log p(y | q) of the seen coordinates under every cluster, nats, [n, Q].

  Args:
    method: the model.
    params: fitted parameters.
    problem: as of `restore_all`.
    options: the `restore` section of a config; its method must have particles.
    task: advanced by the images, or None.

  Raises:
    UserError: the method has no particles; or as of `restore_all`.
  """
  chosen = restorer_of(options)
  if not isinstance(chosen, Particles):
    raise UserError(f'config.restore.method = {options.method!r} has no estimate of the '
                    'evidence: take mcgdiff or tds.')
  chosen = dataclasses.replace(chosen, groups=1)  # what has least variance
  check_problem(problem)
  chosen.check(problem, options.method)
  check_room(1, options, chosen.num_rows(options.num_draws), problem.operator.shape)
  clusters, mesh = method.config.num_clusters, method.mesh
  path, steps = from_process(method.process), steps_of(method, options)
  denoiser, number = method.denoiser(params), chosen.num_rows(options.num_draws)
  moments = moments_of(method, denoiser, conditions_of_all(method, params, options),
                       options)
  observations = np.asarray(problem.observation, np.float32)
  # A problem for each pair of image and cluster.
  conditions = np.stack([method.conditions(params, q, number, options.seed)
                         for q in range(clusters)], axis=1)  # [N, Q, ...]
  size = block_size(number, options.batch_size, mesh.size)
  pairs, found = np.arange(len(observations) * clusters), []
  for rows, valid in blocks(len(pairs), size):
    image, cluster = pairs[rows] // clusters, pairs[rows] % clusters
    keys = replicate_key(_keys_of(stream(options.seed, 'evidence'),
                                   pairs[rows].astype(np.int32)), mesh)
    out = restoring.restore(
        chosen, path, denoiser, problem._replace(
            observation=replicate(observations[image], mesh)), keys,
        conditions[:, cluster],
        moments, options.num_draws, steps, mesh=mesh)
    found.append(to_host(out.log_evidence)[:valid])
    if task is not None:
      task.advance(valid / clusters)
  return np.concatenate(found).reshape(-1, clusters)
