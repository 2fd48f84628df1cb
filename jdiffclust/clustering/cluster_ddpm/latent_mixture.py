"""ClusterDDPM's prior: a Gaussian mixture of latents, and its terms of the bound.

The latent z in R^J of an image x_0 has (Yan, Liu and Zhang; their equation numbers)

  p(c) = pi_c                                                        (9)
  p(z | c) = N(z; mu_c, Sigma_c), Sigma_c diagonal; here also full   (10)
  q(z | x_0) = N(z; m, diag(s^2)), the encoder's m and log s^2       (18), (19)
  z = m + s eps                                                      (20)

Every formula is one of a factor F_c of the precision, Sigma_c^-1 = F_c F_c^T, through
w_c(z) = F_c^T (z - mu_c), of which p(z | c) makes a standard normal:

  log p(z, c) = log pi_c + log |F_c| - J/2 log 2 pi - norm2(w_c(z)) / 2
  l_c = E_q(z|x_0) log p(z, c) = log p(m, c) - sum_j s_j^2 (F_c F_c^T)_jj / 2
  KL(q(z | x_0) || p(z | c)) = log pi_c - l_c - sum_j (1 + log 2 pi s_j^2) / 2

What the mixture adds to the bound under the mean field (17), q(z, c | x_0) =
q(z | x_0) w_c, is less the two divergences of (24) and (A.13):

  - KL(w || pi) - sum_c w_c KL(q(z | x_0) || p(z | c))
    = sum_c w_c (l_c - log w_c) + H(q(z | x_0))
    = log sum_c exp l_c - KL(w || softmax(l)) + H(q(z | x_0)).

So the best w is softmax(l), and with it the divergences are one, - log sum_c pi_c
exp(- KL_c). The paper has w_c = p(c | z) at the z that was drawn (22), since then the
divergence in (21) is 0; but w must not depend on z, and E_q(z|x_0) KL(w || p(c | z)) is 0
for no w unless p(c | z) is the same for all z. Both agree where the encoder is sure of z.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

# The encoder's log s^2 counts as the nearest number in here: s from 5e-5 to 150. exp of
# more would overflow, against precisions of up to 1 / latent_fit.MIN_VARIANCE, squared.
LOG_VARIANCE_RANGE = (-20., 10.)
# A dimension whose posterior means vary by less, as a share of the prior's variance,
# tells nothing of the image: Burda, Grosse and Salakhutdinov (2016), whose prior has
# variance 1.
ACTIVE_VARIANCE = .01
# Deviation of clusters whose means are the square root of 2 apart: 14 of them, and the
# divergence that pulls a new encoder's latents to their mean is 50 nats.
APART = .1

# Accelerators would else round to a few bits before they multiply.
_einsum = functools.partial(jnp.einsum, precision='highest')


class LatentMixture(NamedTuple):
  """The prior of latents.

  Attributes:
    log_proportions: log pi, [Q].
    means: mu, [Q, J].
    factors: F, of the precisions, as scikit-learn has them: of diagonal ones the square
      roots, > 0, [Q, J]; of full ones upper triangular, diagonal > 0, [Q, J, J].
  """

  log_proportions: jax.Array
  means: jax.Array
  factors: jax.Array


class PriorMatching(NamedTuple):
  """The prior-matching terms of the loss (24), without lambda, nats.

  Attributes:
    categorical: KL(q(c | x_0) || p(c)), [B].
    gaussian: sum_c w_c KL(q(z | x_0) || p(z | c)), [B].
  """

  categorical: jax.Array
  gaussian: jax.Array


class LatentMargins(NamedTuple):
  """How far a latent's best cluster leads the second, and how sure the encoder is of it.

  Attributes:
    clusters: the two of the largest l_c, int32 [B, 2].
    lead: the difference of their l_c >= 0, nats, [B]; inf if there is but one cluster.
    spread: standard deviation over q(z | x_0) of the difference of their log p(z, c),
      whose mean is `lead`, [B].
  """

  clusters: jax.Array
  lead: jax.Array
  spread: jax.Array


class Collapse(NamedTuple):
  """What the dimensions of z tell of images.

  Attributes:
    variance: of the posterior means over images, as a share of the prior's variance, [J].
    divergence: mean over images of KL(q(z_j | x_0) || N), nats, [J]; N has the mean and
      the variance of p(z_j) over all clusters.
    active: whether `variance` exceeds ACTIVE_VARIANCE, [J].
  """

  variance: jax.Array
  divergence: jax.Array
  active: jax.Array


# Diagonal or full: only the functions down to `draw_latents` know which.


def whiten(mixture: LatentMixture, z) -> jax.Array:
  """w_c(z) = F_c^T (z - mu_c) of latents [B, J]: [B, Q, J]."""
  shifted = z[:, None] - mixture.means[None]
  if mixture.factors.ndim == 2:
    return shifted * mixture.factors[None]
  return _einsum('bqj,qjk->bqk', shifted, mixture.factors)


def slopes(mixture: LatentMixture, z) -> jax.Array:
  """The gradient of log p(z | c) at latents [B, J], - F_c w_c(z): [B, Q, J]."""
  if mixture.factors.ndim == 2:
    return -whiten(mixture, z) * mixture.factors[None]
  return -_einsum('bqk,qjk->bqj', whiten(mixture, z), mixture.factors)


def log_determinants(mixture: LatentMixture) -> jax.Array:
  """log |F_c| = - log |Sigma_c| / 2, [Q]."""
  factors = mixture.factors
  if factors.ndim == 3:
    factors = jnp.diagonal(factors, axis1=1, axis2=2)
  return jnp.sum(jnp.log(factors), axis=1)


def precisions(mixture: LatentMixture) -> jax.Array:
  """Sigma_c^-1: [Q, J], or [Q, J, J]."""
  if mixture.factors.ndim == 2:
    return mixture.factors**2
  return _einsum('qjl,qkl->qjk', mixture.factors, mixture.factors)


def precision_diagonals(mixture: LatentMixture) -> jax.Array:
  """The diagonals of Sigma_c^-1, [Q, J]."""
  squares = mixture.factors**2
  return squares if squares.ndim == 2 else jnp.sum(squares, axis=2)


def inverses(factors) -> jax.Array:
  """R_c = F_c^-1, so that Sigma_c = R_c^T R_c; and F_c of R_c. [Q, J] or [Q, J, J]."""
  if factors.ndim == 2:
    return 1 / factors
  unit = jnp.eye(factors.shape[1], dtype=factors.dtype)
  # Not by vmap: LAPACK's batches wait for the threads that they keep, for ever if all
  # of them do, as on virtual devices (jaxlib 0.10).
  return jax.lax.map(lambda factor: solve_triangular(factor, unit), factors)


def variances(mixture: LatentMixture) -> jax.Array:
  """The diagonals of Sigma_c, [Q, J]."""
  squares = inverses(mixture.factors)**2
  return squares if squares.ndim == 2 else jnp.sum(squares, axis=1)


def _trace_of_square(matrix, variance) -> jax.Array:
  """tr((A S)^2) of a symmetric A, [J] or [J, J], and a diagonal S, [J]."""
  if matrix.ndim == 1:
    return jnp.sum((matrix * variance)**2)
  return _einsum('j,jk,k->', variance, matrix**2, variance)


def draw_latents(mixture: LatentMixture, clusters, keys) -> jax.Array:
  """Draws z ~ p(z | c): step 2 of the generative process.

  Args:
    mixture: of Q clusters.
    clusters: c, int [B].
    keys: typed keys [B].

  Returns:
    [B, J].
  """
  def draw(c, key):
    mean, root = mixture.means[c], roots[c]
    eps = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + (eps * root if root.ndim == 1 else _einsum('k,kj->j', eps, root))

  roots = inverses(mixture.factors)
  return jax.vmap(draw)(clusters, keys)


def standard_normal(num_clusters: int, size: int, covariance: str) -> LatentMixture:
  """The prior before the first E-step: equal proportions, and N(0, I) in every cluster.

  Args:
    num_clusters: Q.
    size: J.
    covariance: 'diagonal' or 'full', of the factors' shape.

  Returns:
    `LatentMixture`, float32.
  """
  shape = (num_clusters, size)
  factors = (jnp.ones(shape) if covariance == 'diagonal'
             else jnp.broadcast_to(jnp.eye(size), (*shape, size)))
  return LatentMixture(jnp.full(num_clusters, -math.log(num_clusters)),
                       jnp.zeros(shape), factors)


def separated(num_clusters: int, size: int, covariance: str, key) -> LatentMixture:
  """Equal clusters far apart: where latents gather first if images have a start.

  Args:
    num_clusters: Q.
    size: J.
    covariance: 'diagonal' or 'full', of the factors' shape.
    key: a typed key, which turns the means.

  Returns:
    `LatentMixture`, float32: orthonormal means (with Q > J their projections on J
    dimensions), and deviations of `APART`.
  """
  mixture = standard_normal(num_clusters, size, covariance)
  means = jax.random.orthogonal(key, max(num_clusters, size))[:num_clusters, :size]
  return mixture._replace(means=means, factors=mixture.factors / APART)


# The encoder's posterior.


@jax.custom_jvp
def clamp(log_variance) -> jax.Array:
  """log s^2 within LOG_VARIANCE_RANGE, any shape.

  Its gradient is that of the identity outside too, where the divergence (24) keeps a
  slope that leads back; that of a plain clip is 0 there, and nothing would.
  """
  return jnp.clip(log_variance, *LOG_VARIANCE_RANGE)


clamp.defjvps(lambda tangent, answer, log_variance: tangent)


def reparametrise(mean, log_variance, eps) -> jax.Array:
  """z = m + s eps (20), with s from the clamped log s^2; all of one shape."""
  return mean + jnp.exp(clamp(log_variance) / 2) * eps


# The bound.


def _expected_squares(mixture, mean, variance):
  """E norm2(w_c(z)) over z of a mean and variances [B, J]: [B, Q]."""
  return (jnp.sum(whiten(mixture, mean)**2, axis=2)
          + _einsum('bj,qj->bq', variance, precision_diagonals(mixture)))


def _log_joint_of_squares(mixture, squares):
  size = mixture.means.shape[1]
  constants = log_determinants(mixture) - size / 2 * math.log(2 * math.pi)
  return (mixture.log_proportions + constants)[None] - squares / 2


def log_joint(mixture: LatentMixture, z) -> jax.Array:
  """log p(z, c) of latents [B, J], (9) and (10), nats: [B, Q]."""
  return _log_joint_of_squares(mixture, jnp.sum(whiten(mixture, z)**2, axis=2))


def expected_log_joint(mixture: LatentMixture, mean, log_variance) -> jax.Array:
  """l_c = E_q(z|x_0) log p(z, c) of the encoder's m and log s^2 [B, J], nats: [B, Q]."""
  return _log_joint_of_squares(
      mixture, _expected_squares(mixture, mean, jnp.exp(clamp(log_variance))))


def expected_responsibilities(mixture: LatentMixture, mean, log_variance) -> jax.Array:
  """The q(c | x_0) of the largest bound, softmax(l), of m and log s^2 [B, J]: [B, Q]."""
  return jax.nn.softmax(expected_log_joint(mixture, mean, log_variance), axis=1)


def gaussian_kl(mixture: LatentMixture, mean, log_variance) -> jax.Array:
  """KL(q(z | x_0) || p(z | c)) of m and log s^2 [B, J], nats: [B, Q]."""
  log_variance = clamp(log_variance)
  squares = _expected_squares(mixture, mean, jnp.exp(log_variance))
  own = jnp.sum(1 + log_variance, axis=1)
  return (squares - own[:, None]) / 2 - log_determinants(mixture)[None]


def prior_matching(mixture: LatentMixture, mean, log_variance, w) -> PriorMatching:
  """The terms of the loss (24) that lambda multiplies, also (A.13) to (A.15).

  Args:
    mixture: of Q clusters.
    mean: the encoder's m, [B, J].
    log_variance: its log s^2, [B, J].
    w: q(c | x_0): softmax of `log_joint` (22) or `expected_responsibilities`, [B, Q].

  Returns:
    `PriorMatching`.
  """
  # At w = 0 too the gradient of w log w is finite.
  log_w = jnp.log(jnp.maximum(w, jnp.finfo(w.dtype).tiny))
  return PriorMatching(
      jnp.sum(w * (log_w - mixture.log_proportions[None]), axis=1),
      jnp.sum(w * gaussian_kl(mixture, mean, log_variance), axis=1))


# Diagnostics.


def margins(mixture: LatentMixture, mean, log_variance) -> LatentMargins:
  """Which images the encoder's own uncertainty leaves undecided.

  With A = Sigma_a^-1 - Sigma_b^-1 and g the difference of the gradients of log p(z | c)
  at m, log p(z, a) - log p(z, b) is a quadratic function of z, and its variance over
  q(z | x_0) is tr((A S)^2) / 2 + sum_j s_j^2 g_j^2, S = diag(s^2).

  Args:
    mixture: of Q clusters.
    mean: the encoder's m, [B, J].
    log_variance: its log s^2, [B, J].

  Returns:
    `LatentMargins`; where `lead` is not well above `spread`, another z of the same image
    may be in the other cluster.
  """
  if len(mixture.log_proportions) == 1:
    size = len(mean)
    return LatentMargins(jnp.zeros((size, 2), jnp.int32),
                         jnp.full(size, jnp.inf, mean.dtype), jnp.zeros(size, mean.dtype))
  joint, clusters = jax.lax.top_k(expected_log_joint(mixture, mean, log_variance), 2)
  of_both = jnp.take_along_axis(slopes(mixture, mean), clusters[:, :, None], axis=1)
  variance, matrices = jnp.exp(clamp(log_variance)), precisions(mixture)
  # One image after another: full matrices of all would be B J^2 numbers.
  curvature = jax.lax.map(
      lambda row: _trace_of_square(matrices[row[0][0]] - matrices[row[0][1]], row[1]),
      (clusters, variance))
  slope = jnp.sum(variance * (of_both[:, 0] - of_both[:, 1])**2, axis=1)
  return LatentMargins(clusters, joint[:, 0] - joint[:, 1],
                       jnp.sqrt(curvature / 2 + slope))


def collapse(mixture: LatentMixture, means, log_variances) -> Collapse:
  """Whether the encoder's posteriors have become the prior, dimension by dimension.

  Args:
    mixture: of Q clusters.
    means: m of N images, [N, J].
    log_variances: log s^2, [N, J].

  Returns:
    `Collapse`.
  """
  log_variances = clamp(log_variances)
  pi = jnp.exp(mixture.log_proportions)[:, None]
  centre = jnp.sum(pi * mixture.means, axis=0)
  prior = jnp.sum(pi * (variances(mixture) + (mixture.means - centre[None])**2), axis=0)
  share = jnp.var(means, axis=0) / prior
  ratio = jnp.exp(log_variances) / prior[None]
  distance = (means - centre[None])**2 / prior[None]
  divergence = jnp.mean(ratio + distance - 1 - jnp.log(ratio), axis=0) / 2
  return Collapse(share, divergence, share > ACTIVE_VARIANCE)
