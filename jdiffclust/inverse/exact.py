"""p(x | y) in closed form, where x is of a mixture of round Gaussians.

In the coordinates of the operator a round Gaussian is as round as before, and y~ = c +
tau n is seen of each coordinate by itself: what the methods are judged by.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdiffclust.diffusion.analytic import GaussianMixture
from jdiffclust.errors import UserError
from jdiffclust.inverse.operators import Spectral
from jdiffclust.inverse.problem import Problem, coordinates, spectral
from jdiffclust.inverse.twist import log_normal


class Posterior(NamedTuple):
  """p(x | y) of one observation.

  Attributes:
    mixture: of the coordinates V^T x, [K, H, W, C]; variances are 0 where x is known.
    log_evidence: log p(U^T y) of the seen coordinates, nats, [].
    log_joint: of each component, before it is normalised, [K].
    operator: of the problem.
  """

  mixture: GaussianMixture
  log_evidence: jax.Array
  log_joint: jax.Array
  operator: Spectral

  def sample(self, key, num: int) -> jax.Array:
    """Draws [num, H, W, C]."""
    return self.operator.back(self.mixture.sample(key, num))

  def mean(self) -> jax.Array:
    """E[x | y], [H, W, C]."""
    shares = jnp.exp(self.mixture.log_weights)
    return self.operator.back(
        jnp.einsum('k,k...->...', shares, self.mixture.means)[None])[0]


def posterior(mixture: GaussianMixture, problem: Problem) -> Posterior:
  """The posterior of a mixture.

  Args:
    mixture: of images [K, H, W, C]; the variance of a component is the same for all
      pixels: variances [1, 1, 1, 1] or [K, 1, 1, 1].
    problem: with one observation and a `Spectral` operator.

  Raises:
    UserError: variances of another shape, or more observations than one.
  """
  if any(n != 1 for n in jnp.shape(mixture.variances)[1:]) or (
      len(problem.observation) != 1):
    raise UserError(f'A posterior of variances of shape {jnp.shape(mixture.variances)} '
                    f'and {len(problem.observation)} observations: variances must be [K '
                    'or 1, 1, 1, 1], and there must be one observation.')
  known = coordinates(problem, 1)
  means, before = spectral(problem).into(mixture.means), mixture.variances
  tau2 = jnp.where(known.seen, known.tau, 0.)**2
  gain = jnp.where(known.seen, before / (before + tau2), 0.)
  logs = jnp.where(known.seen, log_normal(known.value, means, before + tau2), 0.)
  joint = mixture.log_weights + jnp.sum(logs, axis=(1, 2, 3)) - known.log_scale
  evidence = jax.nn.logsumexp(joint)
  found = GaussianMixture(joint - evidence, means + gain * (known.value - means),
                          (1 - gain) * before)
  return Posterior(found, evidence, joint, spectral(problem))
