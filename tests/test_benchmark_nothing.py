"""From nothing: the window of noise levels, and the information between two answers."""

import jax.numpy as jnp
import numpy as np
from sklearn.metrics import mutual_info_score

from benchmarks.ideas.nothing import in_window
from benchmarks.ideas.views_alone import information


def test_draws_are_confined_to_the_window():
  # T = 10: of t = 1..10, .2 T to .5 T are 2..5, with shares 1, 2, 3, 4 of ten.
  proposal = np.array([0, 5, 1, 2, 3, 4, 7, 7, 7, 7, 7]) / 50
  found = in_window(jnp.asarray(proposal), (.2, .5))
  np.testing.assert_allclose(found, [0, 0, .1, .2, .3, .4, 0, 0, 0, 0, 0], atol=1e-6)


def test_information_is_that_of_a_table_of_counts():
  # Sure answers: both orders of every pair are counted.
  one, other = np.array([0, 0, 1, 2, 2, 2, 1, 0]), np.array([0, 1, 1, 2, 2, 0, 1, 0])
  expected = mutual_info_score(np.r_[one, other], np.r_[other, one])
  found = information(jnp.eye(3)[one], jnp.eye(3)[other])
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_information_is_at_most_log_q_and_none_without_agreement():
  q = jnp.eye(4)[np.arange(8) % 4]
  np.testing.assert_allclose(information(q, q), np.log(4), atol=1e-5)
  np.testing.assert_allclose(information(q, jnp.full((8, 4), .25)), 0, atol=1e-5)
