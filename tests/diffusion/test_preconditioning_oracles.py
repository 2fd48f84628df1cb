"""The prediction 'residual' against Bayes' rule for Gaussian pixels."""

import numpy as np
import pytest

from jdiffclust.clustering.bound.terms import step_weights
from jdiffclust.diffusion.preconditioning import (
    MIDDLE, SPREAD, WIDTH, level_density, residual)


def posterior(p, t, z, mu):
  """Mean and standard deviation of x_0 ~ N(mu, SPREAD^2) given z, by precisions."""
  abar = np.cumprod(1 - p.beta)[t]
  a, variance = (1 - p.m[t]) * abar**.5, 1 - abar - p.m[t]**2 * abar
  precision = SPREAD**-2 + a**2 / variance
  return (mu / SPREAD**2 + a * z / variance) / precision, precision**-.5


@pytest.mark.parametrize('pull', ['one_minus_sqrt_abar', 'zero', 'linear'])
def test_silent_network_is_the_posterior_mean(world, pull):
  """F = 0 is E[x_0 | z] of such pixels, F = 1 a standard deviation more, at every t."""
  p = world.process(pull)
  abar, weights, z, mu = np.cumprod(1 - p.beta), residual(p), .7, -.4
  for t in range(1, p.num_steps + 1):
    x_t = z + p.m[t] * abar[t]**.5 * mu
    mean, deviation = posterior(p, t, z, mu)
    for output in (0., 1.):
      eta = (weights.centred[t] * z + weights.mu[t] * mu + weights.output[t] * output)
      x0 = (x_t - (1 - abar[t])**.5 * eta) / abar[t]**.5
      np.testing.assert_allclose(x0, mean + output * deviation, rtol=1e-7, atol=1e-9)
  assert all(row[0] == 0 for row in weights)


def test_levels_are_drawn_by_their_noise(world):
  """log sigma_t is normal where the process has the levels for it."""
  p = world.process(steps=4000)
  abar = np.cumprod(1 - p.beta)[1:]
  sigma = (1 - abar - p.m[1:]**2 * abar)**.5 / ((1 - p.m[1:]) * abar**.5)
  density = level_density(p)
  assert density[0] == 0 and density.sum() == pytest.approx(1)
  mean = (density[1:] * np.log(sigma)).sum()
  variance = (density[1:] * (np.log(sigma) - mean)**2).sum()
  assert mean == pytest.approx(np.log(MIDDLE), abs=.02)
  assert variance**.5 == pytest.approx(WIDTH, abs=.02)


def test_all_levels_count_equally(world):
  """weight / density times the error of eta is the error of F."""
  p = world.process()
  scale = step_weights(p, 'residual')[1:] / level_density(p)[1:]
  for t in (1, 7, p.num_steps):
    _, deviation = posterior(p, t, 0., 0.)
    abar = np.cumprod(1 - p.beta)[t]
    in_eta = (abar / (1 - abar))**.5 * deviation  # of an F of 1
    assert scale[t - 1] * in_eta**2 == pytest.approx(1, rel=1e-7)
