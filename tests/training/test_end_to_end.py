"""The whole method clusters: the digits, and a set where only EM can have done it."""

import csv
import json

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jdiffclust.networks.inference import InferenceNetwork
from jdiffclust.training import trial
from tests.helpers import summary_of
from tests.tiny import TINY_NETWORKS


@pytest.mark.parametrize('posterior, most_lost', [('amortised', 0.), ('monte_carlo', .1)])
def test_digits(commands, tmp_path, posterior, most_lost):
  """450 digits in 10 clusters from K-means: the default's posterior adds to its start; by
  draws alone a short fit of a tiny network loses some of it (docs/benchmarks.md)."""
  outcome = commands.fit(
      tmp_path, 'num_clusters=10', 'data.max_images=450', 'start.kind=kmeans',
      f'em.posterior={posterior}', 'em.max_iterations=1', 'diffusion.num_steps=200',
      'diffusion.beta_end=.02', 'e_step.num_draws=8', 'e_step.batch_size=150',
      'm_step.batch_size=64', 'm_step.num_steps=150', 'm_step.learning_rate=.003',
      'log.every_steps=100', 'checkpoint.every_steps=1000',
      networks=TINY_NETWORKS._replace(inference=InferenceNetwork))
  assert outcome.code == 0, outcome.err
  found = summary_of(tmp_path)
  for score in ('acc', 'nmi'):
    assert found['init'][score] > .7
    assert found[score] > found['init'][score] - most_lost


def test_em_finds_two_kinds_of_images(commands, tmp_path):
  """Dark and bright blobs from random responsibilities: EM, not the start, sorts."""
  rng = np.random.default_rng(0)
  labels = np.arange(120) % 2
  y, x = np.mgrid[:8, :8] - 3.5
  blob = np.exp(-(x**2 + y**2) / 8)
  images = 128 + (2 * labels[:, None, None] - 1) * 90 * blob
  images = np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
  np.savez(tmp_path / 'blobs.npz', images=images, labels=labels)
  outcome = commands.fit(
      tmp_path / 'run', 'data.source=npz', f'data.path={tmp_path}/blobs.npz',
      'data.max_images=0', 'num_clusters=2', 'start.kind=random', 'em.max_iterations=6',
      'e_step.num_draws=8', 'e_step.batch_size=120', 'm_step.batch_size=40',
      'm_step.num_steps=100', 'm_step.learning_rate=.005', 'm_step.ema_decay=.95',
      'log.every_steps=100', 'checkpoint.every_steps=1000')
  assert outcome.code == 0, outcome.err
  found = summary_of(tmp_path / 'run')
  assert found['init']['acc'] < .7
  assert found['acc'] > .9


def test_stepwise_runs_on_a_sample_and_assigns_all(commands, tmp_path):
  """Its checkpoints hold tau of a sample only; its results are of every image."""
  outcome = commands.fit(tmp_path, 'em.posterior=amortised', 'em.schedule=stepwise',
                         'start.max_images=20', 'posterior.pool=0.',
                         'e_step.batch_size=20')
  assert outcome.code == 0, outcome.err
  assert np.load(tmp_path / 'responsibilities.npy').shape == (60, 3)
  arrays = tmp_path / 'checkpoints' / '14' / 'arrays'
  with ocp.StandardCheckpointer() as reader:
    tree = reader.metadata(arrays).item_metadata.tree
  assert tree['responsibilities']['current'].shape == (20, 3)
  tau = np.load(tmp_path / 'responsibilities.npy')
  again = commands.small('--mode=evaluate', f'--workdir={tmp_path}')
  assert again.code == 0, again.err
  np.testing.assert_allclose(np.load(tmp_path / 'responsibilities.npy'), tau, atol=1e-5)
  # The same images as new ones: the inference network knows them, by other views.
  new = commands.small('--mode=predict', f'--workdir={tmp_path}', commands.config,
                       '--config.data.max_images=60', '--config.num_devices=1')
  assert new.code == 0, new.err
  rows = list(csv.DictReader(open(tmp_path / 'predictions.csv', encoding='utf-8')))
  same = np.mean([int(row['cluster']) for row in rows] == tau.argmax(axis=1))
  assert len(rows) == 60 and same > .8


def test_all_of_the_pool_is_the_start(commands, tmp_path):
  """Of hard clusters, by the formula; `evaluate` finds the same, and has the inference
  network's hidden layer for one more feature map; options of its line count."""
  outcome = commands.fit(tmp_path, 'em.posterior=amortised', 'start.kind=kmeans',
                         'num_clusters=3', 'posterior.pool=1.', 'em.max_iterations=1')
  assert outcome.code == 0, outcome.err
  tau = np.load(tmp_path / 'responsibilities.npy')
  row = [.01 / 3, .01 / 3, .99 + .01 / 3]
  np.testing.assert_allclose(np.sort(tau, axis=1), [row] * 60, rtol=1e-4)
  assert summary_of(tmp_path)['init']['acc'] == summary_of(tmp_path)['acc']
  outcome = commands.small('--mode=evaluate', f'--workdir={tmp_path}',
                           '--config.quality.splits=1')
  assert outcome.code == 0, outcome.err
  np.testing.assert_allclose(np.load(tmp_path / 'responsibilities.npy'), tau, rtol=1e-6)
  found = summary_of(tmp_path)['sample_quality']
  assert found['features']['inference network'] == 4 * 32
  assert found['neighbours'] == 5 and found['splits'] == 1
  json.dumps(found, allow_nan=False)


@pytest.mark.parametrize('options,message', [
    (['em.schedule=stepwise'], "'stepwise' keeps no table"),
    (['em.schedule=stepwise', 'em.posterior=amortised', 'em.reseed_empty=True'],
     'em.reseed_empty = True changes the table'),
    (['em.posterior=amortised', 'start.kind=random'],
     'posterior.anchor = 1.0 would hold'),
    (['posterior.noise_range=(.5, .4)'], 'noise_range = (0.5, 0.4) is not allowed'),
    (['posterior.channels=12'], 'channels = 12 is not divisible by 8')])
def test_options_that_contradict(commands, tmp_path, options, message):
  """One clear message, exit code 2, nothing written."""
  outcome = commands.fit(tmp_path / 'run', *options)
  assert outcome.code == 2 and message in outcome.err
  assert not (tmp_path / 'run').exists()


def test_best_start_has_the_best_bound(commands, tmp_path):
  """The start taken is that of the highest bound; the trials are in the summary."""
  outcome = commands.fit(
      tmp_path, 'start.kind=best', "start.candidates=('kmeans', 'neighbours')",
      "start.spaces=('pixels', 'edges')", 'start.trial_steps=5', 'em.max_iterations=1')
  assert outcome.code == 0, outcome.err
  found = summary_of(tmp_path)
  trials = {row['start']: row for row in found['init_trials']}
  assert set(trials) == {'kmeans', 'neighbours'}
  best = max(trials, key=lambda name: trials[name]['bound_nats'])
  assert found['init']['method'] == best and trials[best]['lack'] == 0
  other, = set(trials) - {best}
  lack = trials[best]['bound_nats'] - trials[other]['bound_nats']
  assert abs(trials[other]['lack'] - lack) < 1e-3 * abs(trials[best]['bound_nats'])


def test_choice_by_hand():
  """Mean bounds 2 and 3: the second; the first lacks 1, with its paired error."""
  trials = [trial.Trial('a', None, np.array([1., 2., 3.]), None),
            trial.Trial('b', None, np.array([3., 2., 4.]), None)]
  winner, table = trial.best(trials)
  assert winner.name == 'b' and [row['bound_nats'] for row in table] == [2., 3.]
  assert table[0]['lack'] == 1 and table[1]['lack'] == 0
  np.testing.assert_allclose(table[0]['lack_error'], np.std([2, 0, 1], ddof=1) / 3**.5)
