"""All of scikit-learn's own checks of an estimator."""

import warnings

import jax
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.tiny import small


@pytest.fixture(autouse=True)
def as_of_a_user(compiled):
  """Optax promotes implicitly; what a tiny fit warns of is not looked at."""
  del compiled
  with (jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'),
        warnings.catch_warnings()):
    warnings.simplefilter('ignore')
    yield


@parametrize_with_checks([small()], expected_failed_checks=lambda estimator: {},
                         xfail_strict=True)
def test_scikit_learns_checks(estimator, check):
  """None is left out, none may fail."""
  check(estimator)
