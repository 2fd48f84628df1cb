"""A run and its images: they may move, but not change; new ones are read as they were."""

import csv
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from tests.helpers import check_error, summary_of

FOLDER = ('data.source=folder', 'data.max_images=0')


@pytest.fixture
def pictures(tmp_path):
  """A folder of 24 pictures in three kinds, 8x8."""
  rng = np.random.default_rng(0)
  (tmp_path / 'in').mkdir()
  for k in range(24):
    image = rng.integers(0, 60, (8, 8)) + 190 * np.eye(3)[k % 3].repeat(3)[:8]
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / 'in' / f'{k:02d}.png')
  return tmp_path / 'in'


def assignments(workdir):
  """{id: cluster}."""
  with open(workdir / 'assignments.csv', newline='', encoding='utf-8') as file:
    return {row['id']: row['cluster'] for row in csv.DictReader(file)}


def test_images_may_move_but_not_change(commands, pictures, tmp_path, monkeypatch):
  """Other spellings of the path and a moved folder; then a renamed and a changed file."""
  monkeypatch.chdir(tmp_path)
  fit = lambda path, *flags: commands.fit('w', *FOLDER, f'data.path={path}', flags=flags)
  assert fit('in').code == 0
  before = assignments(tmp_path / 'w')
  assert fit('in/').code == fit(pictures).code == 0
  moved = pictures.rename(tmp_path / 'moved')
  assert fit('moved').code == 0 and assignments(tmp_path / 'w') == before
  outcome = commands.small('--mode=evaluate', '--workdir=w', '--config.data.path=moved',
                           '--config.quality.num_images=0')
  assert outcome.code == 0, outcome.err
  (moved / '00.png').rename(moved / 'zz.png')
  check_error(fit('moved'), "'00.png' is missing", "'zz.png' is new")
  assert assignments(tmp_path / 'w') == before
  (moved / 'zz.png').rename(moved / '00.png')
  Image.open(moved / '05.png').transpose(Image.Transpose.ROTATE_90).save(moved / '05.png')
  check_error(fit('moved'), "'05.png'")
  check_error(fit('moved', '--mode=evaluate'), "'05.png'")


def test_a_workdir_within_the_folder_of_images(commands, pictures, tmp_path, monkeypatch):
  """Neither the run itself nor another one sees its pictures."""
  monkeypatch.chdir(tmp_path)
  for run in ('in/run', 'in/run', 'in/second'):
    outcome = commands.fit(run, *FOLDER, 'data.path=in')
    assert outcome.code == 0, outcome.err
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(pictures / 'run' / 'figures.png')
  assert len(assignments(pictures / 'second')) == 24
  assert 'run/' in ' '.join(summary_of(pictures / 'second')['warnings'])


def test_a_run_of_before_max_images_was_a_random_subset(commands, plain, tmp_path):
  """It is refused where that chooses other images, since nothing says which it had."""
  run = shutil.copytree(plain, tmp_path / 'run')
  (run / 'images.json').unlink()
  check_error(commands.fit(run), 'config.data.max_images = 60', 'earlier version')
  check_error(commands.fit(run, flags=['--mode=evaluate']), 'earlier version')


def test_a_run_cut_off_before_it_began_binds_no_images(commands, plain, tmp_path,
                                                       cut_before_learning):
  """images.json is written before config.json, by which a run has begun."""
  run = shutil.copytree(plain, tmp_path / 'run')
  (run / 'config.json').unlink()
  shutil.rmtree(run / 'checkpoints')
  outcome = commands.fit(run, 'data.max_images=50')
  assert outcome.code == 130 and cut_before_learning == [1], outcome.err
  assert len(json.loads((run / 'images.json').read_bytes())['ids']) == 50


def test_faint_new_images_keep_their_cluster(commands, tmp_path, monkeypatch):
  """Alone they are as faint as among the bright ones."""
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  bright = np.arange(60) % 2 == 1
  images = np.where(bright[:, None, None], 1., .2) * rng.uniform(.9, 1, (60, 8, 8))
  np.save('all.npy', images)
  np.save('faint.npy', images[~bright])
  options = 'data.source=npz', 'num_clusters=2', 'm_step.num_steps=30'
  outcome = commands.fit('w', *options, 'data.path=all.npy')
  assert outcome.code == 0, outcome.err
  fitted = np.load('w/responsibilities.npy').argmax(axis=1)
  outcome = commands.fit('w', *options, 'data.path=faint.npy', flags=['--mode=predict'])
  assert outcome.code == 0, outcome.err
  with open('w/predictions.csv', newline='', encoding='utf-8') as file:
    found = [int(row['cluster']) for row in csv.DictReader(file)]
  assert np.mean(found == fitted[~bright]) > .9
