"""A run that finds out which maps leave its images' content alone, from end to end."""

import json

import numpy as np
import pytest

from jdiffclust.workdir import Workdir
from tests.helpers import check_error, summary_of

FOUND = ('views.flip=auto', 'views.upside_down=auto', 'views.quarter_turns=auto')
NAMES = ('flip', 'upside_down', 'quarter_turns')


@pytest.fixture(scope='module')
def mirrored(tmp_path_factory):
  """An npz of 200 images of three patterns, mirrored left to right at random."""
  rng = np.random.default_rng(0)
  patterns = np.random.default_rng(9).normal(size=(3, 8, 8))
  labels = rng.integers(3, size=200)
  images = patterns[labels] + .3 * rng.normal(size=(200, 8, 8))
  which = rng.integers(2, size=200).astype(bool)
  images[which] = images[which][:, :, ::-1]
  path = tmp_path_factory.mktemp('images') / 'mirrored.npz'
  stored = np.clip(32 * images + 128, 0, 255).astype(np.uint8)
  np.savez(path, images=stored, labels=labels)
  return path


@pytest.fixture(scope='module')
def options(mirrored):
  """Of a tiny fit to them."""
  return ('data.source=npz', f'data.path={mirrored}', 'data.max_images=0',
          'em.max_iterations=1', *FOUND)


@pytest.fixture(scope='module')
def found(commands, options, tmp_path_factory):
  """(workdir, outcome) of a fit that finds its symmetries; not to be changed."""
  workdir = tmp_path_factory.mktemp('symmetries') / 'run'
  outcome = commands.fit(workdir, *options)
  assert outcome.code == 0, outcome.err
  return workdir, outcome


def test_what_was_found_is_told_and_kept(found):
  """In a line, as numbers in config.json, as statistics in the summary, in the report."""
  workdir, outcome = found
  assert 'mirrored left to right yes' in outcome.err
  assert 'upside down no' in outcome.err and 'turned by quarters no' in outcome.err
  views = json.loads((workdir / 'config.json').read_bytes())['views']
  assert [views[name] for name in NAMES] == [.5, 0., 0.]
  kept = json.loads((workdir / 'symmetries.json').read_bytes())
  assert summary_of(workdir)['symmetries'] == kept and set(kept) == set(NAMES)
  assert [kept[name]['holds'] for name in NAMES] == [True, False, False]
  page = (workdir / 'report.html').read_text(encoding='utf-8')
  assert f"mirrored left to right: yes ({kept['flip']['share']:.2f}" in page


def test_a_run_that_goes_on_does_not_ask_again(found, commands, options):
  """By the same command, or by the numbers; another number is refused by name."""
  workdir, _ = found
  given = ('views.flip=.5', 'views.upside_down=0', 'views.quarter_turns=0')
  for further in ((), given):
    outcome = commands.fit(workdir, *options, *further)
    assert outcome.code == 0 and 'Resuming' in outcome.err, outcome.err
    assert 'Symmetries' not in outcome.err
  check_error(commands.fit(workdir, *options, 'views.flip=.2'),
              'config.views.flip: 0.5 there, 0.2 now')
  assert summary_of(workdir)['symmetries']['flip']['holds']


def test_other_modes_know_it(found, commands):
  """predict, sample and evaluate go by the numbers of the run."""
  workdir, _ = found
  for mode in ('sample', 'evaluate', 'predict'):
    without = ['--config.quality.num_images=0'] * (mode == 'evaluate')
    outcome = commands.small(f'--mode={mode}', f'--workdir={workdir}', *without)
    assert outcome.code == 0, outcome.err
  assert summary_of(workdir)['symmetries']['flip']['holds']
  assert Workdir(workdir).symmetries()['flip']['holds']


def test_what_is_given_is_not_looked_for(commands, options, tmp_path):
  """Nothing is found, and what an earlier run has left is forgotten."""
  (tmp_path / 'symmetries.json').write_text('{}')
  outcome = commands.fit(tmp_path, *options, 'views.flip=.1', 'views.upside_down=0',
                         'views.quarter_turns=0')
  assert outcome.code == 0 and 'Symmetries' not in outcome.err, outcome.err
  assert summary_of(tmp_path)['symmetries'] is None
  assert not (tmp_path / 'symmetries.json').exists()


def test_labels_are_not_looked_at(found, commands, options, mirrored, tmp_path):
  """The same without them, to the last bit."""
  outcome = commands.fit(tmp_path, *options, 'data.use_labels=False')
  assert outcome.code == 0, outcome.err
  assert (tmp_path / 'symmetries.json').read_bytes() == (
      found[0] / 'symmetries.json').read_bytes()


def test_turned_images_must_be_square(commands, options, tmp_path):
  """Quarter turns that are asked for are refused before anything is written."""
  outcome = commands.fit(tmp_path / 'run', *options, 'data.image_size=(8,6)',
                         'views.quarter_turns=.5')
  check_error(outcome, 'config.views.quarter_turns = 0.5', '8x6')
  assert not (tmp_path / 'run').exists()
