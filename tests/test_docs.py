"""The Python examples of docs/ and the README run as they stand."""

import pathlib
import re

import jax
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))
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


def tiny_config():
  """In the place of `default_config`, which is meant for minutes."""
  config = jdiffclust.default_config()
  config.update_from_flattened_dict({
      'network.channels': 8, 'network.channel_multipliers': (1,),
      'network.blocks_per_level': 1, 'network.middle_attention': False,
      'diffusion.num_steps': 20, 'diffusion.beta_end': .01, 'em.max_iterations': 1,
      'e_step.num_draws': 2, 'm_step.num_steps': 4, 'm_step.batch_size': 16,
      'posterior.channels': 8, 'posterior.num_views': 1, 'views.num': 4, 'views.sets': 1,
      'start.kind': 'kmeans', 'num_devices': 1})
  return config


def test_the_library_in_the_readme():
  """At most six lines each: an array in, clusters and new images out."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  estimator, code = re.findall(r'```python\n(.*?)```', text, re.S)
  for lines in (estimator, code):
    assert len(lines.strip().splitlines()) <= 6
  names = {'images': datasets.load_digits().images[:40], 'tiny_config': tiny_config}
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    exec(estimator.replace('n_clusters=3', 'n_clusters=3, config=tiny_config()'), names)
    assert names['how_sure'].shape == (5, 3) and names['new_images'].shape == (4, 8, 8)
    labels = names['clusters']
    exec(code.replace('jdiffclust.default_config()', 'tiny_config()'), names)
  np.testing.assert_array_equal(names['clusters'], labels)
  assert names['clusters'].shape == (40,) and set(names['clusters']) <= {0, 1, 2}
  assert names['new_images'].shape == (3, 4, 8, 8, 1)
  assert np.isfinite(names['new_images']).all()
