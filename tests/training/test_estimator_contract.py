"""All of scikit-learn's own checks of an estimator."""


import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.tiny import small


pytestmark = pytest.mark.usefixtures('as_of_a_user')


@parametrize_with_checks([small()], expected_failed_checks=lambda estimator: {},
                         xfail_strict=True)
def test_scikit_learns_checks(estimator, check):
  """None is left out, none may fail."""
  check(estimator)


@pytest.mark.parametrize('check', [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_global_set_output_transform_polars,
    estimator_checks.check_inplace_ensure_writeable],
    ids=lambda check: check.__name__)
def test_checks_of_scikit_learns_own_estimators(check):
  """Those that other packages are not asked for; some need pandas or polars."""
  check('Small', small())
