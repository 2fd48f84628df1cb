"""SR3 by the command: shipped configs, predict, sample, evaluate, resume, mistakes."""

import pathlib
import shutil

import numpy as np
import pytest
from sklearn import datasets

from tests.helpers import check_error, done, metrics_of, restore, summary_of
from tests.tiny import NO_PICTURES, TINY, TINY_NETWORKS

ROOT = pathlib.Path(__file__).parents[2]
METHOD = ('method=sr3', 'num_clusters=1', 'sr3.factor=2', 'sr3.noise=.1',
          'start.kind=random', 'em.posterior=amortised', 'em.partition_tolerance=0.',
          'em.bound_tolerance=0.')
# What makes a fit tiny but leaves alone what the shipped configs are about.
SMALL = [option for option in TINY if not option.startswith(
    ('--config.num_clusters', '--config.em.', '--config.start.'))]


@pytest.fixture(scope='module')
def low(commands, tmp_path_factory):
  """The workdir of a tiny fit, not to be changed."""
  return commands.new_workdir(tmp_path_factory, 'low', *METHOD)


@pytest.mark.parametrize('name, size, options', [
    ('sr3_digits', 8, {}),
    ('sr3_fashion_mnist', 28, {'networks': TINY_NETWORKS, 'parts': NO_PICTURES})])
def test_shipped_configs(name, size, options, commands, tmp_path):
  """All of their iterations, on images of their size; once with the real network and the
  figures, which show generated images of the one cluster."""
  images = np.random.default_rng(0).integers(0, 256, (60, size, size), np.uint8)
  np.savez(tmp_path / 'x.npz', images=images)
  outcome = commands.run(
      f'--config={ROOT}/configs/{name}.py', *SMALL, f'--workdir={tmp_path}/w',
      '--config.data.source=npz', f'--config.data.path={tmp_path}/x.npz',
      '--config.network.num_groups=4', **options)
  assert outcome.code == 0, outcome.err
  assert 'has no effect' not in outcome.err
  found = summary_of(tmp_path / 'w')
  assert found['method'] == 'sr3' and found['stop_reason'] == 'maximum of iterations'
  assert all(np.isfinite(line['bound_nats']) for line in found['history'])
  assert (np.load(tmp_path / 'w' / 'responsibilities.npy') == 1).all()
  assert (tmp_path / 'w' / 'report.html').is_file()
  assert (tmp_path / 'w' / 'figures' / 'sample_grid.png').is_file() == (options == {})


def test_predict_sample_evaluate(commands, low, tmp_path):
  """On a copy of the fit: bounds of images, images, their quality."""
  run = shutil.copytree(low, tmp_path / 'run')
  outcome = commands.small('--mode=predict', f'--workdir={run}')
  assert outcome.code == 0, outcome.err
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.num_images=70')
  assert outcome.code == 0, outcome.err
  images = np.load(run / 'samples.npy')
  assert images.shape == (1, 70, 8, 8, 1)
  # Of each low image there may be more than one image.
  assert len(np.unique(images[0].reshape(70, -1), axis=0)) == 70
  outcome = commands.small('--mode=evaluate', f'--workdir={run}')
  assert outcome.code == 0, outcome.err
  assert 'sample_quality' in summary_of(run)


def test_restore(commands, low, tmp_path):
  """Small images, of the reduction and noise that it was trained for."""
  run = shutil.copytree(low, tmp_path / 'run')
  small = datasets.load_digits().images[:3].reshape(3, 4, 2, 4, 2).mean(axis=(2, 4))
  np.savez(tmp_path / 'x.npz', images=np.round(small).astype(np.uint8))
  of = 'data.source=npz', f'data.path={tmp_path}/x.npz', 'restore.operator=averaging'
  outcome = restore(commands, run, *of)
  check_error(outcome, 'config.sr3.noise = 0.1', 'config.restore.sigma')
  check_error(restore(commands, run, 'restore.operator=box'), "'averaging'")
  assert not (run / 'restored.npy').exists()
  outcome = done(restore(commands, run, *of, 'restore.sigma=.8'))
  assert 'resized' not in outcome.err
  assert np.load(run / 'restored.npy').shape == (3, 2, 8, 8, 1)


@pytest.mark.parametrize('place', ['m_phase', 'e_phase'])
def test_cut_off_and_resumed(place, commands, low, tmp_path, monkeypatch):
  """Before the first gradient step, and before the first E-step: the same result."""
  def interrupt(*args):
    raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr(f'jdiffclust.training.loop.Fitter.{place}', interrupt)
    assert commands.fit(tmp_path, *METHOD).code == 130
  outcome = commands.fit(tmp_path, *METHOD)
  assert outcome.code == 0 and 'Resuming from checkpoint' in outcome.err
  assert metrics_of(tmp_path) == metrics_of(low)


def test_devices_agree(commands, low, tmp_path):
  """8 devices find the bounds that one device finds, up to the order of sums."""
  outcome = commands.fit(tmp_path, *METHOD, 'num_devices=8')
  assert outcome.code == 0, outcome.err
  for one, other in zip(summary_of(low)['history'], summary_of(tmp_path)['history']):
    assert other['bound_nats'] == pytest.approx(one['bound_nats'], rel=1e-4)


@pytest.mark.parametrize('options, fragments', [
    (['num_clusters=3'], ['num_clusters = 3', 'set num_clusters to 1']),
    (['num_clusters=auto'], ["num_clusters = 'auto'", 'set num_clusters to 1']),
    (['sr3.factor=3'], ['8x8', 'config.sr3.factor = 3', 'divisor']),
    (['sr3.factor=1'], ['sr3.factor = 1']),
    (['sr3.reduction=nearest'], ["'nearest'", 'averaging']),
    (['sr3.noise=-1.'], ['sr3.noise = -1.0']),
    (['sample.guidance=2.'], ['guidance = 2.0', 'set it to 1']),
    (['start.kind=latents'], ["'latents'", "'sr3'"]),
    (['em.schedule=stepwise'], ['stepwise', 'sr3'])])
def test_wrong_options(options, fragments, commands, tmp_path):
  """One line that names the value and what is allowed."""
  check_error(commands.fit(tmp_path, *METHOD, *options), *fragments)
  assert not (tmp_path / 'config.json').exists()


def test_what_it_does_not_read_is_told(commands, tmp_path, cut_before_learning):
  """And its own options are told of to others."""
  outcome = commands.fit(tmp_path / 'a', *METHOD, 'posterior.anchor=.5')
  assert outcome.code == 130 and cut_before_learning == [1]
  assert 'config.posterior.anchor = 0.5 has no effect' in outcome.err
  outcome = commands.fit(tmp_path / 'b', 'sr3.factor=2')
  assert outcome.code == 130 and cut_before_learning == [1, 1]
  assert 'config.sr3.factor = 2 has no effect' in outcome.err
