"""ClusterDDPM's E-step: the Gaussian mixture (9), (10) of all images' latents.

Maximum likelihood by EM, from a start: with r_ic = p(c | z_i) (22) and N_c = sum_i r_ic,

  pi_c = N_c / N,  mu_c = sum_i r_ic z_i / N_c,
  Sigma_c = sum_i r_ic (z_i - mu_c)(z_i - mu_c)^T / N_c + MIN_VARIANCE I

(of which a diagonal mixture keeps the diagonal), until the mean log-likelihood changes by
less than TOLERANCE. `fit_scikit` leaves that to scikit-learn, in float64 on one host;
`fit_jax` does the same over a mesh of devices, in float32 and so on centred latents.

A component of less than one image has no variance of its own, and at last no mean. It
keeps the mean it had, with the mean covariance of the others, so that it stays a
Gaussian which images may come back to: `fit_jax` does so at every step, `fit_scikit`
when scikit-learn is done, whose likelihood it reports.
"""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.cluster_ddpm.latent_mixture import (
    LatentMixture, inverses, log_joint)
from jdiffclust.sharding import (
    DATA_AXIS, SPLIT, WHOLE, local_rows, replicate, split_rows, to_host)

MIN_VARIANCE = 1e-6  # added to all variances
TOLERANCE = 1e-3  # of the mean log-likelihood, nats; scikit-learn's
# A component of fewer images is empty: one, but for rounding.
ONE_IMAGE = .999
# What an empty component counts for at least, in images.
LEAST_SIZE = .01
# 'auto' leaves latents of at most this many numbers, N J, to scikit-learn.
SCIKIT_MOST = 2**20
# The most images that K-means, which starts `fit_jax`, sees.
START_IMAGES = 20000


class FitInfo(NamedTuple):
  """How a fit went.

  Attributes:
    log_likelihood: of the mixture, mean over images, nats.
    iterations: of EM.
    converged: whether the last one changed it by less than TOLERANCE.
    empty: components of less than one image.
  """

  log_likelihood: float
  iterations: int
  converged: bool
  empty: list[int]


def triangular_root(rows) -> jax.Array:
  """The upper triangular R of R^T R = rows^T rows, its diagonal >= 0.

  Args:
    rows: [n, J], n >= J.

  Returns:
    [J, J].
  """
  upper = jnp.linalg.qr(rows, mode='r')
  return upper * jnp.where(jnp.diagonal(upper) < 0, -1., 1.).astype(rows.dtype)[:, None]


def pooled_factor(factors, weights) -> jax.Array:
  """F of the covariance sum_c weights_c Sigma_c.

  Args:
    factors: of Q components, [Q, J] or [Q, J, J].
    weights: [Q].

  Returns:
    [J] or [J, J].
  """
  if factors.ndim == 2:
    return jax.lax.rsqrt(jnp.sum(weights[:, None] * inverses(factors)**2, axis=0))
  rows = jnp.sqrt(weights)[:, None, None] * inverses(factors)
  return inverses(triangular_root(rows.reshape(-1, rows.shape[2]))[None])[0]


def restore_empty(mixture: LatentMixture, sizes, old_means) -> LatentMixture:
  """Gives empty components their old mean, the pooled covariance and a tiny share.

  Args:
    mixture: whose proportions are not looked at.
    sizes: N_c, images of each component, one of them at least ONE_IMAGE, [Q].
    old_means: [Q, J].

  Returns:
    The mixture; its proportions follow from the sizes.
  """
  alive = sizes >= ONE_IMAGE
  across = lambda a: alive.reshape(-1, *[1] * (a.ndim - 1))
  own = jnp.where(alive, sizes, 0)
  pooled = pooled_factor(mixture.factors, own / jnp.sum(own))
  shares = jnp.maximum(sizes, LEAST_SIZE)
  return LatentMixture(
      jnp.log(shares / jnp.sum(shares)),
      jnp.where(across(mixture.means), mixture.means, old_means),
      jnp.where(across(mixture.factors), mixture.factors, pooled[None]))


def _moved(mixture: LatentMixture, by) -> LatentMixture:
  return mixture._replace(means=mixture.means + by[None])


def _total(values):
  return jax.lax.psum(values, DATA_AXIS)


def _gathered(rows):
  """The rows of all D devices, [Q, n, J]: [Q, D n, J]."""
  # A sum, since shard_map takes what all_gather returns to differ between devices.
  slots = jnp.arange(jax.lax.axis_size(DATA_AXIS)) == jax.lax.axis_index(DATA_AXIS)
  parts = _total(jnp.where(slots[None, :, None, None], rows[:, None], 0))
  return parts.reshape(len(rows), -1, rows.shape[2])


def _m_step(z, responsibilities, old_means, min_variance,
            diagonal: bool) -> LatentMixture:
  """The M-step above, within `shard_map`.

  Args:
    z: this device's latents, [n, J].
    responsibilities: theirs; 0 for rows that do not count, [Q, n].
    old_means: for empty components, [Q, J].
    min_variance: added to all variances.
    diagonal: whether covariances are.

  Returns:
    The mixture.
  """
  sizes = _total(jnp.sum(responsibilities, axis=1))
  shares = responsibilities / jnp.maximum(sizes, LEAST_SIZE)[:, None]
  means = _total(jnp.einsum('qn,nj->qj', shares, z, precision='highest'))

  def spread(component):
    # About the mean: E z^2 - mean^2 would lose a small variance in float32. And full
    # ones by the triangle of the rows: a covariance has the square of its condition.
    mean, share = component
    rows = jnp.sqrt(share)[:, None] * (z - mean[None])
    return jnp.sum(rows**2, axis=0) if diagonal else jnp.linalg.qr(rows, mode='r')

  # One component after another: all of them would be n Q J numbers.
  spreads = jax.lax.map(spread, (means, shares))
  if diagonal:
    factors = jax.lax.rsqrt(_total(spreads) + min_variance)
  else:
    least = jnp.sqrt(min_variance) * jnp.eye(z.shape[1], dtype=z.dtype)
    factors = inverses(jax.lax.map(
        lambda rows: triangular_root(jnp.concatenate([rows, least])), _gathered(spreads)))
  return restore_empty(LatentMixture(sizes, means, factors), sizes, old_means)


def _centred(z, valid):
  """Latents less their mean, 0 where not valid; that mean [J]; their number."""
  count = _total(jnp.sum(valid, dtype=z.dtype))
  centre = _total(jnp.sum(jnp.where(valid[:, None], z, 0), axis=0)) / count
  return jnp.where(valid[:, None], z - centre[None], 0), centre, count


def _e_step(mixture, z, valid, count):
  """Responsibilities [Q, n], 0 where not valid, and the mean log-likelihood."""
  one = lambda component: log_joint(
      jax.tree.map(lambda a: a[None], component), z)[:, 0]
  joint = jax.lax.map(one, mixture)
  evidence = jax.nn.logsumexp(joint, axis=0)
  return (jnp.where(valid[None], jnp.exp(joint - evidence[None]), 0),
          _total(jnp.sum(jnp.where(valid, evidence, 0))) / count)


@functools.partial(jax.jit, static_argnames='mesh')
def _em(z, valid, start, min_variance, iterations, mesh):
  """EM: the mixture, its mean log-likelihood, iterations taken, whether converged."""
  def em(z, valid, start, min_variance, iterations):
    z, centre, count = _centred(z, valid)

    def body(state):
      mixture, before, _, iteration = state
      responsibilities, likelihood = _e_step(mixture, z, valid, count)
      mixture = _m_step(z, responsibilities, mixture.means, min_variance,
                        mixture.factors.ndim == 2)
      converged = jnp.abs(likelihood - before) < TOLERANCE
      return mixture, likelihood, converged, iteration + 1

    mixture, _, converged, iteration = jax.lax.while_loop(
        lambda state: ~state[2] & (state[3] < iterations), body,
        (_moved(start, -centre), jnp.full((), -jnp.inf, z.dtype), False, 0))
    _, likelihood = _e_step(mixture, z, valid, count)
    return _moved(mixture, centre), likelihood, iteration, converged

  return jax.shard_map(em, mesh=mesh, in_specs=(SPLIT, SPLIT, WHOLE, WHOLE, WHOLE),
                       out_specs=WHOLE)(z, valid, start, min_variance, iterations)


@functools.partial(jax.jit, static_argnames=('diagonal', 'mesh'))
def _one_m_step(z, valid, responsibilities, min_variance, diagonal, mesh):
  """The mixture of given responsibilities [N, Q]; empty components at the mean of all."""
  def first(z, valid, responsibilities, min_variance):
    z, centre, _ = _centred(z, valid)
    origin = jnp.zeros((responsibilities.shape[1], z.shape[1]), z.dtype)
    mixture = _m_step(z, jnp.where(valid[:, None], responsibilities, 0).T, origin,
                      min_variance, diagonal)
    return _moved(mixture, centre)

  return jax.shard_map(first, mesh=mesh, in_specs=(SPLIT, SPLIT, SPLIT, WHOLE),
                       out_specs=WHOLE)(z, valid, responsibilities, min_variance)


def _empty(mixture: LatentMixture, count: int) -> list[int]:
  sizes = count * np.exp(np.asarray(mixture.log_proportions, np.float64))
  return [int(q) for q in np.flatnonzero(sizes < ONE_IMAGE)]


# Linear algebra on one thread: sums over several differ in the last bits from run to run,
# and those of several devices on one host get in each other's way.
one_thread = threadpool_limits.wrap(limits=1)


@one_thread
def fit_scikit(z: np.ndarray, start, options, seed: int = 0,
               restarts: int = 1) -> tuple[LatentMixture, FitInfo]:
  """Fits the mixture by scikit-learn, on this host.

  Args:
    z: latents [N, J], N >= 2 and >= Q.
    start: a `LatentMixture`; responsibilities [N, Q], of which an M-step makes one; or
      Q, to start from K-means.
    options: the `latent` section of the config: covariance and mixture_iterations.
    seed: of K-means.
    restarts: fits, each from a K-means of its own; the most likely one is taken.

  Returns:
    The mixture, float32 on the host, and `FitInfo`.
  """
  centre = np.mean(z, axis=0, dtype=np.float64)
  centred = z - centre
  diagonal = options.covariance == 'diagonal'
  if isinstance(start, int):
    choices = {'n_components': start, 'n_init': restarts, 'random_state': seed}
  else:
    if not isinstance(start, LatentMixture):
      here = Mesh(np.array(jax.local_devices()[:1]), (DATA_AXIS,),
                  axis_types=(AxisType.Auto,))
      start = _one_m_step(
          np.asarray(z, np.float32), np.ones(len(z), bool), np.asarray(start, np.float32),
          np.float32(MIN_VARIANCE), diagonal=diagonal, mesh=here)
    log_weights, means, factors = (np.asarray(a, np.float64) for a in start)
    choices = {
        'n_components': len(means), 'weights_init': softmax(log_weights),
        'means_init': means - centre,
        'precisions_init': factors**2 if diagonal else factors @ factors.mT}
  model = GaussianMixture(
      covariance_type='diag' if diagonal else 'full', tol=TOLERANCE,
      reg_covar=MIN_VARIANCE, max_iter=max(1, options.mixture_iterations),
      **choices)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)  # FitInfo tells
    model.fit(centred)
  old_means = choices.get('means_init', model.means_)
  sizes, means, factors, old_means, centre = (jnp.asarray(a, jnp.float32) for a in (
      len(z) * model.weights_, model.means_, model.precisions_cholesky_, old_means,
      centre))
  mixture = restore_empty(LatentMixture(sizes, means, factors), sizes, old_means)
  mixture = to_host(_moved(mixture, centre))
  return mixture, FitInfo(float(model.score(centred)), model.n_iter_, model.converged_,
                          _empty(mixture, len(z)))


@one_thread
def fit_jax(z, valid, start, options, mesh: Mesh, seed: int = 0,
            restarts: int = 1) -> tuple[LatentMixture, FitInfo]:
  """Fits the mixture on all devices, by scikit-learn's algorithm and conventions.

  Args:
    z: latents over the devices of the mesh, float32 [N, J]; N a multiple of their number.
    valid: which rows count, bool [N], spread likewise.
    start: as of `fit_scikit`; responsibilities are [N, Q], spread likewise; K-means sees
      a random START_IMAGES of the latents, and so does the fit that starts from it.
    options: as of `fit_scikit`.
    mesh: one-dimensional.
    seed: of K-means and its sample.
    restarts: as of `fit_scikit`, on that sample.

  Returns:
    The mixture, float32 on every host, and `FitInfo`.
  """
  here = to_host(valid)
  count = int(here.sum())
  diagonal = options.covariance == 'diagonal'
  min_variance = np.float32(MIN_VARIANCE)
  if isinstance(start, int):
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(here))[:START_IMAGES]
    whole = NamedSharding(mesh, WHOLE)
    pick = jax.jit(lambda z, rows: z[rows], out_shardings=whole)
    start, _ = fit_scikit(to_host(pick(z, np.sort(chosen))), start, options, seed,
                          restarts)
  elif not isinstance(start, LatentMixture):
    start = _one_m_step(z, valid, start, min_variance, diagonal=diagonal, mesh=mesh)
  mixture, likelihood, iterations, converged = to_host(_em(
      z, valid, replicate(to_host(start), mesh), min_variance,
      options.mixture_iterations, mesh=mesh))
  return mixture, FitInfo(float(likelihood), int(iterations), bool(converged),
                          _empty(mixture, count))


def fit(z: np.ndarray, start, options, mesh: Mesh, seed: int = 0,
        restarts: int = 1) -> tuple[LatentMixture, FitInfo]:
  """Fits the mixture as `latent.mixture` says; auto: by the size of the data.

  With `latent.mixture_iterations` of 0 it is that of the start: an M-step, which leaves
  scikit-learn nothing to do.

  Args:
    z: latents of all images, complete in every process, [N, J].
    start: as of `fit_scikit`.
    options: the `latent` section of the config.
    mesh: the devices.
    seed: as of `fit_jax`.
    restarts: as of `fit_scikit`.

  Returns:
    The mixture, float32 on the host, and `FitInfo`.
  """
  scikit = options.mixture == 'scikit' or (
      options.mixture == 'auto' and z.size <= SCIKIT_MOST and jax.process_count() == 1)
  if scikit and options.mixture_iterations:
    return fit_scikit(z, start, options, seed, restarts)
  size = len(z) + (-len(z)) % mesh.size
  spread = lambda a: split_rows(
      np.pad(a, [(0, size - len(z))] + [(0, 0)] * (a.ndim - 1))[local_rows(size)], mesh)
  if not isinstance(start, (int, LatentMixture)):
    start = spread(np.asarray(start, np.float32))
  return fit_jax(spread(np.asarray(z, np.float32)), spread(np.ones(len(z), bool)), start,
                 options, mesh, seed, restarts)
