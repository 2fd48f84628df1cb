"""The Python examples of docs/ run as they stand."""

import pathlib
import re

import jax
import pytest

DOCS = sorted((pathlib.Path(__file__).parents[1] / 'docs').glob('*.md'))
EXAMPLES = [(path.name, number, code) for path in DOCS for number, code in enumerate(
    re.findall(r'```python\n(.*?)```', path.read_text(encoding='utf-8'), re.S))]


@pytest.mark.parametrize('name, number, code', EXAMPLES,
                         ids=[f'{name}-{number}' for name, number, _ in EXAMPLES])
def test_example_runs(name, number, code):
  """With what a user has: promotion of ranks allowed."""
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    exec(compile(code, f'{name}, example {number}', 'exec'), {})


def test_there_are_examples():
  """The pattern finds some."""
  assert EXAMPLES
