"""The notebooks of colab/ run, with sizes and networks as small as they can be.

Their cells run one after the other in this process. The cell that is tagged `parameters`
is followed by other sizes; networks are those of `tests.tiny`. Figures are drawn, but not
shown. What is stored with them, outputs of real runs, is looked at here, too.
"""

import functools
import json
import pathlib
import re
import types
from unittest import mock

import jax
import matplotlib
import pytest

import jdiffclust
from jdiffclust import main
from tests.tiny import NO_FIGURES, SHARED, SMALL, TINY, TINY_NETWORKS

COLAB = pathlib.Path(__file__).parents[1] / 'colab'
NOTEBOOKS = sorted(path.stem for path in COLAB.glob('*.ipynb'))
BUILD = functools.partial(SHARED, TINY_NETWORKS)
# As many levels as the longest way of a sampler in them.
OPTIONS = [*(option for option in TINY
             if 'every' not in option and 'diffusion' not in option),
           '--config.diffusion.num_steps=50']
# By batches that the new pictures fill as well.
OF_FOLDER = [*(option for option in OPTIONS
               if 'num_clusters' not in option and 'e_step.batch_size' not in option),
             '--config.em.auto_parts=1', '--config.views.num=4', '--config.views.sets=1',
             '--config.e_step.batch_size=8']
SHORT = {
    'digits': {'options': OPTIONS},
    'samplers': {'options': OPTIONS, 'num_points': 50, 'steps': (4,)},
    'folder': {'options': OF_FOLDER, 'num_drawings': 24},
    'restoring': {'options': SMALL | {'start.kind': 'kmeans', 'num_clusters': 3},
                  'num_fitted': 60, 'num_damaged': 8, 'num_draws': 2, 'num_steps': 2,
                  'particles': 2},
    'tau': {'num_repeats': 10, 'num_noises': 1, 'seeds': range(1)},
    'devices': {'num_images': 32, 'num_steps': 2, 'by_processes': False}}


def cells_of(name):
  """The cells of a notebook."""
  return json.loads((COLAB / f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


def program_of(name):
  """Its code, with other parameters, without the commands of IPython."""
  parts = []
  for cell in cells_of(name):
    if cell['cell_type'] == 'code':
      parts.append(re.sub(r'^( *)%.*$', r'\1pass', ''.join(cell['source']), flags=re.M))
      if 'parameters' in cell['metadata'].get('tags', ()):
        parts += [f'{key} = SHORT[{key!r}]' for key in SHORT[name]]
  return '\n'.join(parts)


def quick(name, function, **more):
  """A function of the library that makes tiny networks."""
  return mock.patch.object(*name, functools.partial(function, build=BUILD, **more),
                           create=True)


@pytest.mark.usefixtures('few_cuts')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_runs(name, tmp_path, monkeypatch):
  """To its end, and each figure is drawn."""
  pyplot = pytest.importorskip('matplotlib.pyplot')
  pytest.importorskip('IPython')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(matplotlib, 'use', lambda *given: None)
  monkeypatch.setattr(pyplot, 'show', lambda: (pyplot.gcf().canvas.draw(),
                                               pyplot.close('all')))
  with (jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'),
        quick((main, 'run'), main.run, parts=NO_FIGURES),
        quick((jdiffclust, 'fit'), jdiffclust.fit),
        quick((jdiffclust, 'load'), jdiffclust.load)):
    exec(compile(program_of(name), f'{name}.ipynb', 'exec'),
         vars(types.ModuleType('notebook')) | {'SHORT': SHORT[name]})


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_outputs_are_of_one_run(name):
  """All cells in their order, or none; no error; small enough for a repository."""
  code = [cell for cell in cells_of(name) if cell['cell_type'] == 'code']
  counts = [cell['execution_count'] for cell in code]
  outputs = [output for cell in code for output in cell['outputs']]
  assert counts in (list(range(1, len(code) + 1)), [None] * len(code))
  assert bool(outputs) == (counts[0] is not None)
  assert 'error' not in {output['output_type'] for output in outputs}
  assert (COLAB / f'{name}.ipynb').stat().st_size < 2**20
