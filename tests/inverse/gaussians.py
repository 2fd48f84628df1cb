"""Images whose posterior is known, by dense algebra in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, special, stats

from jdiffclust.diffusion import analytic, paths
from jdiffclust.inverse import moments, restorer
from jdiffclust.inverse import operators as op
from jdiffclust.inverse.problem import Problem

SHAPE, SIZE = (2, 2, 2), 8
PATH = paths.VariancePreserving(.1, 20.)
MASK = op.inpainting([[1, 0], [1, 0]], SHAPE)


def matrix_of(operator) -> np.ndarray:
  """A, [M, D]."""
  images = jnp.eye(SIZE).reshape(SIZE, *operator.shape)
  return np.asarray(operator.apply(images).reshape(SIZE, -1), np.float64).T


def matrix(values) -> op.Matrix:
  """A general matrix of four rows with these singular values."""
  rng = np.random.default_rng(3)
  left, right = (linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, SIZE))
  return op.matrix(left * np.array(values) @ right[:4], SHAPE)


# By name, the operator and sigma_y. One coordinate of 'noisy matrix' is noisier (tau 200)
# than the first noise level, and one of 'noiseless matrix' is not seen.
SETTINGS = {
    'noiseless mask': (MASK, 0.), 'noisy mask': (MASK, .3),
    'noisy matrix': (matrix([2., 1., .5, .002]), .4),
    'noiseless matrix': (matrix([2., 1., .5, 0.]), 0.)}
MEAN = np.random.default_rng(1).normal(size=SIZE) * .6
# Weights, means and variance of a mixture of three.
MIXTURE = (np.array([.5, .3, .2]),
           np.random.default_rng(2).normal(size=(3, SIZE)) * .4, .25)


def mixture_of(weights, means, variance) -> analytic.GaussianMixture:
  """The package's, of round Gaussians."""
  return analytic.GaussianMixture(
      jnp.asarray(np.log(weights), jnp.float32),
      jnp.asarray(means, jnp.float32).reshape(-1, *SHAPE),
      jnp.full((1, 1, 1, 1), variance, jnp.float32))


def gaussian(variance, mean=MEAN) -> analytic.GaussianMixture:
  """One round Gaussian."""
  return mixture_of(np.ones(1), mean[None], variance)


def observe(operator, noise, weights, means, variance, number, seed=0) -> Problem:
  """A problem of that many images, each of another draw of the mixture."""
  rng = np.random.default_rng(seed)
  x = means[rng.choice(len(weights), number, p=weights)]
  x = x + np.sqrt(variance) * rng.normal(size=x.shape)
  y = x @ matrix_of(operator).T
  y = y + noise * rng.normal(size=y.shape)
  shape = operator.apply(jnp.zeros((1, *operator.shape))).shape[1:]
  return Problem(operator, jnp.asarray(y.reshape(number, *shape), jnp.float32),
                 jnp.float32(noise))


def dense(problem: Problem, mean, covariance):
  """Of x ~ N(mean, covariance): E[x | y] [P, D], Cov(x | y), log p(y) [P].

  The density is that of y's part in the range of A, where A has any noise or none.
  """
  a = matrix_of(problem.operator)
  left, s, _ = linalg.svd(a)
  basis = left[:, :len(s)][:, s > 1e-5]
  a, y = basis.T @ a, np.asarray(problem.observation, np.float64)
  y = y.reshape(len(y), -1) @ basis
  total = a @ covariance @ a.T + float(problem.noise)**2 * np.eye(len(a))
  gain = covariance @ a.T @ linalg.inv(total)
  evidence = stats.multivariate_normal(a @ mean, total).logpdf(y)
  return (mean + (y - a @ mean) @ gain.T, covariance - gain @ a @ covariance,
          np.atleast_1d(evidence))


def dense_mixture(problem: Problem, weights, means, variance):
  """Of a mixture: p(k | y) [P, K], E[x | y, k] [P, K, D], Cov(x | y, k), log p(y) [P]."""
  each = [dense(problem, mean, variance * np.eye(SIZE)) for mean in means]
  joint = np.log(weights) + np.stack([evidence for _, _, evidence in each], 1)
  evidence = special.logsumexp(joint, axis=1)
  return (np.exp(joint - evidence[:, None]), np.stack([m for m, _, _ in each], 1),
          each[0][1], evidence)


def standardised(draws, mean, covariance):
  """Draws [n, D] where they may vary, uncorrelated, and where they may not.

  Returns:
    (x - mean) in the covariance's own directions, divided by its standard deviations
    there, [n, k]; and the rest, [n, D - k], which should be 0.
  """
  values, vectors = linalg.eigh(covariance)
  free = values > 1e-6
  turned = (draws - mean) @ vectors
  return turned[..., free] / np.sqrt(values[free]), turned[..., ~free]


def moments_of(mixture) -> moments.Moments:
  """Those of its one Gaussian, spread about zero as the images are."""
  variance = float(mixture.variances.ravel()[0])
  return moments.of_gaussian(variance**.5)._replace(
      spread=jnp.sqrt(variance + jnp.mean(mixture.means**2)))


def keys(number, seed=7):
  """Typed keys."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed),
                                                 jnp.arange(number))


def run(name, problem, mixture, num_draws=64, num_steps=100, found=None, seed=7,
        **options):
  """A restoration under a mixture; `found` are its moments, those of one Gaussian."""
  method = restorer.make_restorer(name, **options)
  number = len(problem.observation)
  condition = jnp.zeros((method.num_rows(num_draws), number, *SHAPE))
  if found is None:
    found = moments_of(mixture)
  return restorer.restore(
      method, PATH, analytic.denoiser(PATH, mixture), problem, keys(number, seed),
      condition, found, num_draws, num_steps)


def images_of(result) -> np.ndarray:
  """Images [R, D] in float64."""
  return np.asarray(result.images, np.float64).reshape(-1, SIZE)
