"""ClusterDDPM by the command: fit, predict, sample, evaluate, resume, mistakes."""

import csv
import json
import shutil
import socket
from unittest import mock

import numpy as np
import pytest

from jdiffclust import config as config_lib
from jdiffclust.clustering.method import Method
from jdiffclust.registry import METHODS
from jdiffclust.training.loop import Fitter
from tests.helpers import (
    check_error, done, metrics_of, restore, restored_rows, summary_of)
from tests.tiny import CLUSTER_DDPM, LATENT_CDDPM


def test_whole_fit(commands, tmp_path):
  """The real networks and the figures; every file; the latents' part of the summary."""
  outcome = commands.fit(tmp_path, *CLUSTER_DDPM, 'start.kind=latents',
                         'network.num_groups=4', whole=True)
  assert outcome.code == 0, outcome.err
  found = summary_of(tmp_path)
  assert found['method'] == 'cluster_ddpm' and found['num_em_iterations'] == 2
  assert set(found['latents']['neighbours']['latents']) == {'3', '5', '7', '9'}
  assert all(len(values) == 2 for values in found['latents']['terms'].values())
  page = (tmp_path / 'report.html').read_text()
  assert 'The latent space' in page
  for name in ('latent_map', 'reconstructions', 'latent_walk'):
    assert (tmp_path / 'figures' / f'{name}.png').is_file()
  # The first E-step makes the start: nothing has moved since.
  assert found['history'][0]['moved_fraction'] == 0
  assert found['init']['method'] == 'latents'


def test_history_has_the_terms(latent):
  """Figures of the latents, in the history and in metrics.jsonl."""
  last = summary_of(latent)['history'][-1]
  for name in ('latent_gaussian_kl', 'latent_categorical_kl', 'latent_log_likelihood',
               'latent_active_dimensions'):
    assert np.isfinite(last[name])
    assert any(name in line for line in metrics_of(latent))


def test_predict_sample_evaluate(commands, latent, tmp_path):
  """On a copy of the fit; predict repeats tau, which no draw decides."""
  run = shutil.copytree(latent, tmp_path / 'run')
  outcome = commands.small('--mode=predict', f'--workdir={run}')
  assert outcome.code == 0, outcome.err
  tau = np.load(run / 'responsibilities.npy')
  with open(run / 'predictions.csv', newline='', encoding='utf-8') as file:
    found = [int(row['cluster']) for row in csv.DictReader(file)]
  assert found == tau.argmax(axis=1).tolist()
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.clusters=0,2', '--config.sample.guidance=2')
  assert outcome.code == 0, outcome.err
  assert np.load(run / 'samples.npy').shape == (2, 2, 8, 8, 1)
  outcome = commands.small('--mode=evaluate', f'--workdir={run}')
  assert outcome.code == 0, outcome.err
  np.testing.assert_array_equal(np.load(run / 'responsibilities.npy'), tau)
  assert 'latents' in summary_of(run)['sample_quality']['features']


def test_interpolation_in_z(commands, latent, tmp_path):
  """The first and the last row are those of the clusters; an image does not depend on
  the batch it is drawn in."""
  run = shutil.copytree(latent, tmp_path / 'run')
  rows = {}
  for name, options in {
      'walk': ['interpolate=3'], 'plain': [], 'small': ['batch_size=1']}.items():
    outcome = commands.small('--mode=sample', f'--workdir={run}',
                             '--config.sample.clusters=0,2',
                             *(f'--config.sample.{option}' for option in options))
    assert outcome.code == 0, outcome.err
    rows[name] = np.load(run / 'samples.npy')
  np.testing.assert_allclose(rows['small'], rows['plain'], rtol=1e-2, atol=1e-3)
  assert rows['walk'].shape[0] == 3
  np.testing.assert_allclose(rows['walk'][0], rows['plain'][0], rtol=1e-2, atol=1e-3)


def test_devices_and_mixtures_agree(commands, latent, tmp_path):
  """8 devices with JAX's mixture find what one device with scikit-learn's does."""
  outcome = commands.fit(tmp_path, *CLUSTER_DDPM, 'num_devices=8', 'latent.mixture=jax')
  assert outcome.code == 0, outcome.err
  np.testing.assert_allclose(np.load(tmp_path / 'responsibilities.npy'),
                             np.load(latent / 'responsibilities.npy'), atol=2e-2)


def test_two_processes(commands, latent, tmp_path):
  """Two processes of one device, with JAX's mixture, find what one process does."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [commands.spawn(
      tmp_path / 'run', *CLUSTER_DDPM, 'num_devices=0', 'latent.mixture=jax',
      f'distributed.coordinator=localhost:{port}', 'distributed.num_processes=2',
      f'distributed.process_id={i}', log=tmp_path / f'log{i}') for i in range(2)]
  try:
    codes = [process.wait(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert codes == [0, 0], (tmp_path / 'log0').read_text()
  np.testing.assert_allclose(np.load(tmp_path / 'run' / 'responsibilities.npy'),
                             np.load(latent / 'responsibilities.npy'), atol=2e-2)


@pytest.mark.parametrize('place', ['m_phase', 'e_phase'])
def test_cut_off_and_resumed(place, commands, latent, tmp_path, monkeypatch):
  """Before the first gradient step, and before the first E-step: the same result."""
  def interrupt(*args):
    raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr(f'jdiffclust.training.loop.Fitter.{place}', interrupt)
    assert commands.fit(tmp_path, *CLUSTER_DDPM).code == 130
  outcome = commands.fit(tmp_path, *CLUSTER_DDPM)
  assert outcome.code == 0 and 'Resuming from checkpoint' in outcome.err
  for name in ('responsibilities.npy', 'assignments.csv'):
    assert (tmp_path / name).read_bytes() == (latent / name).read_bytes()
  assert metrics_of(tmp_path) == metrics_of(latent)


def test_anchor_keeps_the_start(commands, tmp_path):
  """With the moments of an anchored tau alone hardly an image leaves its start."""
  outcome = commands.fit(tmp_path, 'method=cluster_ddpm', 'latent.size=16',
                         'latent.mixture_iterations=0', 'm_step.num_steps=40',
                         'm_step.learning_rate=.003', 'm_step.ema_decay=.9')
  assert outcome.code == 0, outcome.err
  assert summary_of(tmp_path)['history'][-1]['moved_fraction'] < .35


@pytest.mark.parametrize('options,fragments', [
    (['em.schedule=stepwise', 'em.posterior=amortised'], ['stepwise', 'cluster_ddpm']),
    (['latent.weight=2.'], ['latent.weight = 2.0', '(0, 1]']),
    (['latent.size=0'], ['latent.size = 0']),
    (['start.kind=latents', 'em.posterior=amortised', 'posterior.anchor=1.'],
     ['posterior.anchor = 1.0', "'latents'"]),
    (['method=latent_cddpm', 'latent.iterations=2'],
     ['latent.iterations = 2', 'max_iterations = 2']),
    (['method=clusterddpm'], ['clusterddpm', "'cluster_ddpm'"])])
def test_wrong_options(options, fragments, commands, tmp_path):
  """One line that names the value and what is allowed."""
  check_error(commands.fit(tmp_path, *CLUSTER_DDPM, *options), *fragments)
  assert not (tmp_path / 'config.json').exists()


def test_latents_start_is_of_this_method(commands, tmp_path):
  """CDDPM has no latents to start from."""
  check_error(commands.fit(tmp_path, 'start.kind=latents'), 'start.kind', 'cluster_ddpm')


def test_weight_outside_of_the_advised_range_is_warned_of(commands, tmp_path,
                                                          cut_before_learning):
  """Allowed, with a warning that names the range."""
  outcome = commands.fit(tmp_path, *CLUSTER_DDPM, 'latent.weight=.5')
  assert outcome.code == 130 and cut_before_learning == [1]
  assert 'latent.weight = 0.5 lies outside of [0.001, 0.1]' in outcome.err


def test_no_densities(commands, latent, tmp_path):
  """predict.likelihood is refused: nothing is written."""
  run = shutil.copytree(latent, tmp_path / 'run')
  outcome = commands.small('--mode=predict', f'--workdir={run}',
                           '--config.predict.likelihood=True')
  check_error(outcome, 'predict.likelihood', 'cluster_ddpm')
  assert not (run / 'predictions.csv').exists()


def test_the_second_model_leaves_the_config_alone(taken_over):
  """What CDDPM of latents goes without, views above all, the run and its start have."""
  found = json.loads((taken_over / 'config.json').read_bytes())
  default = config_lib.default_config()
  assert found['views'] == {
      **default.views.to_dict(), 'num': found['views']['num'],
      'sets': found['views']['sets'], 'flip': 0., 'upside_down': 0., 'quarter_turns': 0.}
  assert found['posterior']['num_views'] == default.posterior.num_views > 0
  assert found['diffusion']['decoder'] == default.diffusion.decoder


def test_cddpm_takes_over_the_latents(taken_over):
  """From the second iteration on; its bound is that of the images, in parts."""
  found = summary_of(taken_over)
  assert found['method'] == 'latent_cddpm'
  history = found['history']
  assert 'latent_gaussian_kl' in history[0] and 'latent_gaussian_kl' not in history[1]
  for line in history:
    parts = sum(line[f'bound_{name}'] for name in ('prior', 'diffusion', 'decoder'))
    assert line['bound_nats'] == pytest.approx(parts, rel=.02)


def test_cut_off_after_the_takeover(commands, taken_over, tmp_path):
  """Resumed before the third M-step: the same tau, by which predict goes on, and on 2
  devices as good as that. (The steps before are ClusterDDPM's, which has such a test.)"""
  calls, original = [], Fitter.m_phase

  def interrupt(fitter, *args):
    calls.append(fitter)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return original(fitter, *args)

  one = tmp_path / 'one'
  with mock.patch.object(Fitter, 'm_phase', interrupt):
    assert commands.fit(one, *LATENT_CDDPM).code == 130
  two = shutil.copytree(one, tmp_path / 'two')
  assert commands.fit(one, *LATENT_CDDPM).code == 0
  wanted = np.load(taken_over / 'responsibilities.npy')
  np.testing.assert_array_equal(np.load(one / 'responsibilities.npy'), wanted)
  outcome = commands.small('--mode=predict', f'--workdir={one}')
  assert outcome.code == 0, outcome.err
  outcome = commands.fit(two, *LATENT_CDDPM, 'num_devices=2')
  assert outcome.code == 0, outcome.err
  assert len(summary_of(two)['devices']) == 2
  np.testing.assert_allclose(np.load(two / 'responsibilities.npy'), wanted, atol=1e-4)


@pytest.mark.usefixtures('promotion')
@pytest.mark.parametrize('method', ['latent', 'taken_over'])
def test_restore(method, commands, request, tmp_path):
  """By particles, whose columns are filled; their first draws are by gradients."""
  run = shutil.copytree(request.getfixturevalue(method), tmp_path / 'run')
  done(restore(commands, run, 'restore.operator=box', 'data.max_images=2',
               'restore.method=mcgdiff', 'restore.particles=4', 'restore.sigma=1'))
  found = np.load(run / 'restored.npy')
  assert found.shape == (2, 2, 8, 8, 1) and np.isfinite(found).all()
  for row in restored_rows(run):
    assert np.isfinite(float(row['log_evidence']))
    assert 1 <= float(row['effective_sample_size']) <= 4
  page = (run / 'restored.html').read_text(encoding='utf-8')
  assert 'Effective particles' in page


def test_methods_fill_one_interface():
  """Every method's name is an option, and its class owes nothing."""
  assert config_lib.OPTIONS['method'].allowed.count("'") == 2 * len(METHODS)
  for name, method in METHODS.items():
    assert config_lib.OPTIONS['method'].allows(name)
    assert issubclass(method, Method) and not method.__abstractmethods__
