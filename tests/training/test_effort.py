"""A fit that ends with its start, and goes on from there."""

import csv
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from jdiffclust.outputs import draw_check
from jdiffclust.data.sources.folder import listed
from tests.helpers import check_error, refused, summary_of
from tests.tiny import NO_FIGURES, TINY, TINY_NETWORKS, Small

# The recognition network is as small as it can be.
RECOGNISED = ('start.kind=recognition', 'recognition.channels=8', 'recognition.steps=2',
              'recognition.batch_size=8', 'views.num=2', 'views.sets=1',
              'recognition.num_views=1')


@pytest.fixture(scope='module')
def quick(commands, tmp_path_factory):
  """The workdir of a fit of effort=quick, not to be changed."""
  return commands.new_workdir(tmp_path_factory, 'quick', *RECOGNISED, 'effort=quick')


def rows_of(path):
  """A CSV file as dicts."""
  with open(path, newline='', encoding='utf-8-sig') as file:
    return list(csv.DictReader(file))


def test_what_quick_leaves(quick):
  """All that tells clusters; nothing that only a diffusion model could say."""
  tau, summary = np.load(quick / 'responsibilities.npy'), summary_of(quick)
  np.testing.assert_allclose(tau.sum(axis=1), 1, rtol=1e-5)
  assert summary['effort'] == 'quick' and summary['bought'] is None
  assert summary['history'] == [] and summary['bound_bits_per_dim'] is None
  assert sum(summary['cluster_sizes']) == 60
  table = rows_of(quick / 'results.csv')
  assert [int(row['cluster']) for row in table] == tau.argmax(axis=1).tolist()
  assert {row['bound'] for row in table} == {row['typicality'] for row in table} == {''}
  page = (quick / 'report.html').read_text(encoding='utf-8')
  assert '--config.effort=full' in page


@pytest.mark.parametrize('mode', ['sample', 'restore', 'evaluate'])
def test_what_needs_a_diffusion_model_says_so(mode, quick, commands):
  """In one line, which names the remedy."""
  outcome = commands.small(f'--mode={mode}', f'--workdir={quick}',
                           *['--config.restore.operator=box'] * (mode == 'restore'))
  check_error(outcome, 'no diffusion model', '--config.effort=full')


def test_the_estimator_needs_one_too(quick):
  """It is told what is lacking, not that the run has not ended."""
  assert '--config.effort=full' in refused(Small.load, quick)


def test_predict_by_the_start(quick, commands):
  """The fit's own images keep their clusters; there is no bound."""
  outcome = commands.small('--mode=predict', f'--workdir={quick}')
  assert outcome.code == 0, outcome.err
  told, known = rows_of(quick / 'predictions.csv'), rows_of(quick / 'assignments.csv')
  assert [row['cluster'] for row in told] == [row['cluster'] for row in known]
  assert {row['bound'] for row in told} == {''}


def test_full_goes_on_as_if_it_had_been_full(quick, commands, tmp_path):
  """The start is not made again, and every byte of tau is that of a full fit."""
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  assert commands.fit(whole, *RECOGNISED).code == 0
  shutil.copytree(quick, parts)
  outcome = commands.fit(parts, *RECOGNISED, 'effort=full')
  assert outcome.code == 0 and 'start (recognition)' not in outcome.err
  for name in ('responsibilities.npy', 'assignments.csv'):
    assert (parts / name).read_bytes() == (whole / name).read_bytes()
  summary = summary_of(parts)
  moved = np.sum(np.load(parts / 'responsibilities.npy').argmax(axis=1)
                 != np.load(quick / 'responsibilities.npy').argmax(axis=1))
  assert summary['effort'] == 'full' and summary['bought']['moved_images'] == moved
  again = commands.fit(parts, *RECOGNISED, 'effort=quick')
  assert again.code == 0 and 'has no effect' in again.err
  assert summary_of(parts)['effort'] == 'full'
  assert 'effort=full' in (parts / 'command.txt').read_text()


def test_images_named_as_arguments(commands, tmp_path):
  """Several files become a run, which another command goes on with; one is asked."""
  rng, paths = np.random.default_rng(0), [tmp_path / f'{k}.png' for k in range(12)]
  for path in paths:
    Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(path)
  workdir = tmp_path / 'run'
  asked = (*TINY, '--config.data.max_images=0',
           '--config.e_step.batch_size=1',  # one program for any number of images
           f'--workdir={workdir}')
  outcome = commands.run(*paths, *asked, networks=TINY_NETWORKS,
                         parts=NO_FIGURES._replace(draw_check=draw_check))
  assert outcome.code == 0, outcome.err
  for text in ('12 image files', 'The whole command', 'Nothing odd', 'This will take'):
    assert text in outcome.err, text
  assert '--config.effort=full' in outcome.out.splitlines()[-1]
  assert f'--mode=decide --workdir={workdir}' in outcome.out  # what comes next
  sample = commands.small('--mode=sample', f'--workdir={workdir}')
  check_error(sample, outcome.out.splitlines()[-1])  # the same command
  assert listed(str(workdir / 'files.json')) == (tmp_path, [path.name for path in paths])
  assert 'effort=quick' in (workdir / 'command.txt').read_text()
  check = json.loads((workdir / 'check.json').read_bytes())
  assert check == summary_of(workdir)['input'] and check['num_images'] == 12
  with Image.open(workdir / 'check.png') as image:
    assert min(image.size) > 100
  table = rows_of(workdir / 'results.csv')
  assert [row['file'] for row in table] == [path.name for path in paths]
  again = commands.small(*paths, *asked, '--config.effort=full')
  assert again.code == 0 and 'Resuming' in again.err and 'Nothing odd' not in again.err
  assert 'What the diffusion model has added' in again.out
  for asked in (paths[:1], paths[2:0:-1]):  # in their order
    outcome = commands.small(*asked, '--mode=predict', f'--workdir={workdir}')
    assert outcome.code == 0, outcome.err
    told = rows_of(workdir / 'predictions.csv')
    assert [row['id'].endswith(path.name) for row, path in zip(told, asked)] == (
        [True] * len(asked))
    for row, line in zip(told, outcome.out.splitlines()):
      assert f"cluster {row['cluster']} " in line and line.endswith(row['id'])


@pytest.mark.parametrize('options, fragment', [
    (('start.kind=random', 'posterior.anchor=0.'), "'random' knows nothing"),
    (('method=sr3', 'num_clusters=1'), 'no clusters')])
def test_a_start_that_says_nothing(options, fragment, commands, tmp_path):
  """Quick is refused where there would be nothing to show."""
  outcome = commands.fit(tmp_path / 'w', *options, 'effort=quick')
  check_error(outcome, fragment, 'full')
  assert not (tmp_path / 'w').exists()
