"""Clusters of damaged images against enumeration, SciPy and a posterior that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from threadpoolctl import threadpool_limits

from jdiffclust.clustering import damaged
from jdiffclust.clustering.damaged import Examples, Neighbours
from jdiffclust.config import default_config
from jdiffclust.inverse import operators
from jdiffclust.inverse.problem import Problem

SHAPE = 8, 8, 1
SIGMA = .5
HALF = operators.box(SHAPE, .5, 0, .5, 1)


@pytest.fixture(autouse=True)
def promoting():
  """Optax promotes implicitly."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    with threadpool_limits(1):
      yield


def config_of():
  """Few steps of small networks."""
  config = default_config()
  config.seed = 1
  config.views.update(flip=0., upside_down=0., quarter_turns=0., rotation=0., scale=0.,
                      shear=0., shift=0.)
  config.recognition.update(channels=4, batch_size=32, steps=60, most_visits=1000)
  return config


def two_means():
  """Two patterns [2, 8, 8, 1] that the upper half tells apart, but not well."""
  rows = np.arange(8)[None, :, None, None]
  pattern = np.where(rows % 4 < 2, .08, -.08) * np.ones((1, 1, 8, 1))
  return np.concatenate([pattern, -pattern]).astype(np.float32)


def images_of(count, seed):
  """Images of a mixture of two round Gaussians, and p(q | x) in closed form."""
  rng = np.random.default_rng(seed)
  means = two_means()
  which = (rng.random(count) < .3).astype(int)  # of weights .7, .3
  images = means[which] + .2 * rng.normal(size=(count, *SHAPE))
  return images.astype(np.float32), exact(images, np.ones(SHAPE), .2)


def exact(y, mask, spread):
  """p(q | y) of pixels that a mask shows, each with this standard deviation, [n, 2]."""
  logs = [np.log(weight) + np.sum(mask * stats.norm.logpdf(y, mean, spread), (1, 2, 3))
          for weight, mean in zip((.7, .3), two_means())]
  return special.softmax(np.stack(logs, axis=1), axis=1)


@pytest.fixture(scope='module')
def learnt():
  """Of the upper half of 600 images, in noise."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    images, tau = images_of(600, 0)
    return damaged.learn(Examples(images, tau), HALF, SIGMA, config_of(), 3)


@pytest.fixture(scope='module')
def problem():
  """Observations of 300 others."""
  images, _ = images_of(300, 1)
  y = np.asarray(HALF.apply(jnp.asarray(images)))
  y = y + SIGMA * np.random.default_rng(2).normal(size=y.shape)
  return Problem(HALF, y.astype(np.float32), jnp.float32(SIGMA))


def test_neighbours_are_the_kernel_estimate():
  """Of Nadaraya and Watson, by loops, with a little of the shares beside."""
  rng = np.random.default_rng(0)
  seen, tau, y = rng.normal(size=(7, 3)), rng.dirichlet(np.ones(4), 7), rng.normal(
      size=(2, 3))
  found = Neighbours(seen, tau, .8)(y)
  for row, ours in zip(y, found):
    weights = [np.exp(-sum((a - b)**2 for a, b in zip(row, x)) / 1.6) for x in seen]
    weights = np.array(weights) / max(weights)
    want = sum(w * t for w, t in zip(weights, tau)) + .01 * tau.mean(axis=0)
    np.testing.assert_allclose(ours, want / want.sum(), rtol=1e-10)


def test_the_width_tells_left_out_images_best():
  """By loops over images and widths."""
  rng = np.random.default_rng(1)
  which = rng.integers(0, 3, 30)
  seen = np.eye(3)[which] * 2 + rng.normal(size=(30, 3))
  tau = np.eye(3)[which] * .97 + .01
  found = damaged.make_neighbours(seen + .1, seen, tau)
  def loss(variance):
    terms = []
    for i in range(30):
      rest = np.arange(30) != i
      p = Neighbours(seen[rest], tau[rest], variance)(seen[i:i + 1] + .1)[0]
      terms.append(-np.sum(tau[i] * np.log(p)))
    return np.mean(terms)
  losses = [loss(found.variance * factor) for factor in (1, 1 / 4, 4)]
  # The shares beside differ a little where one image is left out of them.
  assert losses[0] < min(losses[1:]) - 1e-3, losses


def test_powers_are_the_least_of_a_grid():
  """The cross-entropy over a grid of powers is nowhere smaller."""
  rng = np.random.default_rng(2)
  tau = rng.dirichlet(np.ones(3) / 3, 200)
  logs = [np.log(special.softmax(2 * np.log(tau + .05) + rng.normal(size=tau.shape), 1)),
          np.log(special.softmax(np.log(tau + .2) + .3 * rng.normal(size=tau.shape), 1))]
  loss = lambda powers: -np.mean(np.sum(tau * np.log(damaged.pooled(logs, powers)), 1))
  found = damaged.best_powers(logs, tau)
  grid = [loss((a, b)) for a in np.linspace(0, 3, 31) for b in np.linspace(0, 3, 31)]
  assert loss(found) <= min(grid) + 1e-6


def test_what_knows_nothing_has_no_say():
  """Random answers get the power 0, calibrated ones 1, or nearly so."""
  rng = np.random.default_rng(3)
  said = rng.integers(0, 4, 5000)
  right = rng.random(5000) < .925  # as often as it says
  tau = np.eye(4)[np.where(right, said, (said + rng.integers(1, 4, 5000)) % 4)]
  good = np.log(.9 * np.eye(4)[said] + .025)
  noise = special.log_softmax(rng.normal(size=tau.shape), axis=1)
  a, b = damaged.best_powers([good, noise], tau)
  assert abs(a - 1) < .1 and b < .1, (a, b)


def test_the_posterior_of_a_mixture(learnt, problem):
  """p(q | y) of noisy halves is that of the closed form, and better than the shares."""
  seen = np.asarray(HALF.mask)
  want = exact(np.asarray(problem.observation), seen, np.hypot(.2, SIGMA))
  found = learnt(problem)
  np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
  error = np.mean(np.abs(found[:, 0] - want[:, 0]))
  shares = np.mean(np.abs(want[:, 0] - .7))
  assert error < .08 < .15 < shares, (error, shares)
  assert abs(found[:, 0].mean() - want[:, 0].mean()) < .04


def test_an_observation_alone(learnt, problem):
  """To the bit what it gets among others; what is hidden may be anything."""
  among = learnt(problem)
  y = np.array(problem.observation[7:9])
  y[:, 4:] = np.nan
  alone = learnt(problem._replace(observation=y))
  np.testing.assert_array_equal(alone, among[7:9])


def test_examples_are_drawn_by_cluster_and_likeness():
  """Shares of draws are p(q | y) times K within the cluster; clusters are in strata."""
  rng = np.random.default_rng(4)
  tau = np.eye(2)[[0, 0, 1, 1, 1]]
  seen = rng.normal(size=(5, 3))
  images = Problem(operators.matrix(np.eye(3), (1, 1, 3)),
                   rng.normal(size=(2, 3)).astype(np.float32), jnp.float32(0))
  found = damaged.Learnt(Neighbours(seen, tau, 1.), None, (1., 1.), 8)
  given, num = np.array([[.3, .7], [.9, .1]]), 4000
  rows = found.draw(images, given, num, 0)
  assert rows.shape == (num, 2)
  for column, (y, share) in enumerate(zip(np.asarray(images.observation), given)):
    kernel = np.exp(-np.sum((y - seen)**2, axis=1) / 2)
    within = kernel[:, None] * tau / (kernel @ tau)
    want = within @ share
    counts = np.bincount(rows[:, column], minlength=5)
    assert abs(counts[:2].sum() - num * share[0]) <= 1
    for members in (slice(0, 2), slice(2, 5)):
      expected = want[members] / want[members].sum() * counts[members].sum()
      assert stats.chisquare(counts[members], expected).pvalue > 1e-3


def test_large_images_are_shown_smaller():
  """The network sees 32 pixels a side at most, whatever the operator."""
  mask = operators.random_pixels((70, 40, 1), .5, 0)
  seen = damaged._shown(mask, jnp.ones((2, 70, 40, 1)), 32)
  assert seen.shape == (2, 24, 14, 1)


def test_of_few_examples_the_neighbours_tell():
  """Of four, none is left out to learn from: the nearest one's cluster."""
  rng, groups = np.random.default_rng(5), np.array([0, 1, 1, 0])
  images = (rng.normal(size=(2, *SHAPE))[groups]
            + .1 * rng.normal(size=(4, *SHAPE))).astype(np.float32)
  tau = np.eye(2)[groups]
  found = damaged.learn(Examples(images, tau), HALF, 0., config_of(), 0)
  problem = Problem(HALF, HALF.apply(images), jnp.float32(0))
  answer = found(problem)
  assert answer.shape == (4, 2) and answer.dtype == np.float32
  np.testing.assert_array_equal(answer.argmax(axis=1), groups)
  drawn = found.draw(problem, answer, 50, 0)
  assert set(drawn.ravel().tolist()) == {0, 1, 2, 3}


def test_one_cluster_is_certain():
  """And nothing is learnt for it."""
  images = np.random.default_rng(5).normal(size=(6, *SHAPE)).astype(np.float32)
  found = damaged.learn(Examples(images, np.ones((6, 1))), HALF, 0., config_of(), 0)
  assert found.trained is None
  answer = found(Problem(HALF, HALF.apply(images[:2]), jnp.float32(0)))
  np.testing.assert_array_equal(answer, 1)
