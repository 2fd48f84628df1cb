"""A run that chooses its number of clusters, and everything after it."""

import json

import matplotlib.image
import numpy as np
import pytest

from tests.helpers import summary_of

AUTO = ('num_clusters=auto', 'em.auto_clusters=(2,4)', 'em.auto_parts=1', 'views.num=4',
        'em.max_iterations=1')


@pytest.fixture(scope='module')
def chosen(commands, tmp_path_factory):
  """(workdir, outcome, choice) of a fit of num_clusters=auto."""
  workdir = tmp_path_factory.mktemp('auto') / 'run'
  outcome = commands.fit(workdir, *AUTO)
  assert outcome.code == 0, outcome.err
  return workdir, outcome, json.loads((workdir / 'num_clusters.json').read_bytes())


def test_files_of_a_choice(chosen):
  """The choice is told, written, drawn, and what everything else is made with."""
  workdir, outcome, choice = chosen
  number = choice['chosen']
  assert choice['numbers'] == [2, 3, 4] and sum(choice['votes']) == 4
  assert choice['confidence'] == choice['votes'][number - 2] / 4
  assert f'{number} clusters chosen among 2..4' in outcome.err
  assert ('a wider range' in outcome.err) == (number == 4)  # there is none below 2
  assert np.ptp(matplotlib.image.imread(workdir / 'num_clusters.png')[..., :3]) > .2
  assert json.loads((workdir / 'config.json').read_bytes())['num_clusters'] == number
  assert np.load(workdir / 'responsibilities.npy').shape == (60, number)
  summary = summary_of(workdir)
  assert summary['num_clusters'] == number and summary['num_clusters_choice'] == choice
  assert 'How sure is that?' in (workdir / 'report.html').read_text(encoding='utf-8')


def test_a_choice_with_the_default_posterior(commands, tmp_path):
  """The inference network is as wide as the number that was chosen."""
  outcome = commands.fit(tmp_path, *AUTO, 'em.posterior=amortised')
  assert outcome.code == 0, outcome.err
  number = json.loads((tmp_path / 'num_clusters.json').read_bytes())['chosen']
  assert np.load(tmp_path / 'responsibilities.npy').shape == (60, number)
  again = commands.fit(tmp_path, *AUTO, 'em.posterior=amortised')
  assert again.code == 0 and 'Resuming' in again.err, again.err


def test_resume_does_not_choose_again(chosen, commands):
  """With auto or with the number; other numbers and ranges are refused by name."""
  workdir, _, choice = chosen
  before = (workdir / 'num_clusters.json').stat()
  number = choice['chosen']
  for options in (AUTO, (f'num_clusters={number}', *AUTO[1:]),
                  (f'num_clusters={number}', *AUTO[3:])):
    outcome = commands.fit(workdir, *options)
    assert outcome.code == 0 and 'Resuming' in outcome.err
    assert 'chosen' not in outcome.err
  other = commands.fit(workdir, f'num_clusters={number + 1}', *AUTO[1:])
  assert other.code == 2
  assert f'config.num_clusters: {number} there, {number + 1} now' in other.err
  wider = commands.fit(workdir, AUTO[0], 'em.auto_clusters=(2,5)', *AUTO[2:])
  assert wider.code == 2 and 'em.auto_clusters: (2, 4) there, (2, 5) now' in wider.err
  assert (workdir / 'num_clusters.json').stat() == before


def test_a_given_number_is_not_replaced(plain, commands):
  """A workdir that was given its number is refused to auto."""
  outcome = commands.fit(plain, 'num_clusters=auto')
  assert outcome.code == 2 and "config.num_clusters: 3 there, 'auto' now" in outcome.err
  assert not (plain / 'num_clusters.json').exists()
  summary = summary_of(plain)
  assert summary['num_clusters_choice'] is None


def test_other_modes_read_the_number(chosen, commands):
  """Predict, sample and evaluate."""
  workdir, _, choice = chosen
  outcome = commands.small('--mode=sample', f'--workdir={workdir}')
  assert outcome.code == 0, outcome.err
  assert len(np.load(workdir / 'samples.npy')) == choice['chosen']
  outcome = commands.small('--mode=evaluate', f'--workdir={workdir}',
                           '--config.quality.num_images=0')
  assert outcome.code == 0, outcome.err
  summary = summary_of(workdir)
  assert summary['num_clusters_choice'] == choice
  outcome = commands.small('--mode=predict', commands.config, f'--workdir={workdir}',
                           '--config.num_clusters=auto', '--config.data.max_images=30')
  assert outcome.code == 0, outcome.err


def test_a_choice_left_over_is_forgotten(commands, tmp_path):
  """A run killed right after its choice, begun again with a given number."""
  (tmp_path / 'num_clusters.json').write_text('{"chosen": 4}')
  outcome = commands.fit(tmp_path, 'em.max_iterations=1')
  assert outcome.code == 0, outcome.err
  assert not (tmp_path / 'num_clusters.json').exists()
