"""A run that goes wrong stops, and says where and what."""

import json
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jdiffclust.clustering.method import Networks
from jdiffclust.config import default_config
from jdiffclust.state import step_size, steps_until
from jdiffclust.training.loop import Fitter, settled
from tests.helpers import summary_of


def checkpoint_numbers(workdir):
  """The numbers of the checkpoints, ascending."""
  return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


def changed(commands, name, change):
  """Wraps a step, 'm_step' or 'e_step', of the methods that are built."""
  def wrapped(built):
    setattr(built, name, change(getattr(built, name)))
    return built
  return mock.patch.object(commands, 'change', wrapped)


def test_diverging_training_stops(commands, tmp_path):
  """NaN from a huge learning rate: exit 1, step, term and last good checkpoint."""
  def poison(m_step):
    def step(state, *args):
      state, info = m_step(state, *args)
      bad = state.step == 8  # the 8th step, number 7 from 0
      loss = jnp.where(bad, jnp.nan, info.loss)
      return state._replace(nonfinite_step=jnp.where(
          bad, state.step - 1, state.nonfinite_step)), info._replace(loss=loss)
    return step
  with changed(commands, 'm_step', poison):
    outcome = commands.fit(tmp_path, 'seed=1')
  assert outcome.code == 1
  line = outcome.err.splitlines()[-1]
  assert line.startswith('error: M-step: the loss is not finite at gradient step 7')
  assert 'EM iteration 2' in line and 'The last good checkpoint is 7.' in line
  assert 'learning_rate' in line and 'Traceback' not in outcome.err
  assert checkpoint_numbers(tmp_path) == [4, 6, 7]
  assert not (tmp_path / 'summary.json').exists()


class Explosive(nn.Module):
  """A denoiser whose output overflows once its one weight has moved far."""

  @nn.compact
  def __call__(self, x, t, mu, dropout_keys=None):
    """x times exp(10 |w|)."""
    del t, mu, dropout_keys
    return x * jnp.exp(10 * jnp.abs(self.param('w', nn.initializers.ones, ())))


def test_real_divergence_is_noticed(commands, tmp_path):
  """Steps of size 10 overflow the loss by themselves; nothing is saved after."""
  outcome = commands.fit(
      tmp_path, 'm_step.learning_rate=10.', 'm_step.learning_rate_warmup=0',
      'm_step.gradient_clip=0.', networks=Networks(denoiser=lambda _: Explosive()))
  assert outcome.code == 1
  line = outcome.err.splitlines()[-1]
  assert 'M-step: the loss is not finite at gradient step ' in line
  assert 'The last good checkpoint is 0.' in line
  assert checkpoint_numbers(tmp_path) == [0]


@pytest.mark.parametrize('term', ['responsibilities', 'bound', 'entropy'])
def test_e_step_that_is_not_finite_stops(term, commands, tmp_path, monkeypatch):
  """The term and the image are named; no checkpoint follows."""
  def poison(e_step):
    def step(estimator, params, batch, key):
      tau, info = e_step(estimator, params, batch, key)
      bad = np.asarray(batch.indices) == 41
      if term == 'responsibilities':
        return np.where(bad[:, None], np.nan, tau), info
      return tau, info._replace(**{term: np.where(bad, -np.inf, getattr(info, term))})
    return step

  with changed(commands, 'e_step', poison):
    outcome = commands.fit(tmp_path, f'seed={100 + len(term)}')
  assert outcome.code == 1
  line = outcome.err.splitlines()[-1]
  assert line.startswith(f'error: E-step: the {term} of image 41 is not finite')
  assert 'EM iteration 1, after gradient step 6' in line
  assert 'The last good checkpoint is 6.' in line
  assert checkpoint_numbers(tmp_path) == [0, 4, 6]


def emptying(cluster):
  """An E-step that gives no image to a cluster."""
  def change(e_step):
    def step(*args):
      tau, info = e_step(*args)
      tau = np.array(tau) + np.float32(1e-3)
      tau[:, cluster] = 0
      return tau / tau.sum(1, keepdims=True), info
    return step
  return change


@pytest.mark.parametrize('reseed', [False, True])
def test_emptied_cluster(reseed, commands, tmp_path):
  """It is reported in warnings, metrics and summary, and re-seeded by option."""
  seen = []

  def watch(m_phase):
    def phase(fitter):
      seen.append(np.asarray(fitter.tau['current']).sum(axis=0))
      m_phase(fitter)
    return phase

  with (changed(commands, 'e_step', emptying(1)),
        mock.patch.object(Fitter, 'm_phase', watch(Fitter.m_phase))):
    outcome = commands.fit(tmp_path, f'em.reseed_empty={reseed}', 'seed=3')
  assert outcome.code == 0, outcome.err
  assert 'warning: EM 1: clusters [1] are empty' in outcome.err
  lines = [json.loads(line) for line in open(tmp_path / 'metrics.jsonl')]
  assert [line['empty_clusters'] for line in lines if 'bound_nats' in line] == [1, 1]
  summary = summary_of(tmp_path)
  empty = [line for line in summary['warnings'] if 'are empty' in line]
  assert len(empty) == 2 and '[1]' in empty[0]
  # 60 images, 3 clusters: a tenth of an average cluster is 2 images.
  assert seen[1][1] == pytest.approx(2 if reseed else 0, abs=.01)
  assert summary['cluster_sizes'][1] == 0  # the last iteration re-seeds nothing


def test_settled():
  """EM ends at the maximum, when the bound settles, or when the partition does."""
  class Options:
    max_iterations, bound_tolerance, partition_tolerance = 3, .01, .1

  def history(*pairs):
    return [{'bound_nats': b, 'changed_fraction': c} for b, c in pairs]

  assert settled(history((-100., 0.)), Options) == ''
  assert settled(history((-100., 1.), (-90., .5)), Options) == ''
  assert 'bound' in settled(history((-100., 1.), (-99.5, .5)), Options)
  assert 'partition' in settled(history((-100., 1.), (-90., .05)), Options)
  assert 'maximum' in settled(history((-9., 1.), (-5., 1.), (-1., 1.)), Options)
  Options.max_iterations = 4  # of three, the last decides
  assert settled(history((-100., 1.), (-90., .05), (-80., .5)), Options) == ''
  assert 'partition' in settled(history((-100., 1.), (-90., .5), (-80., .05)), Options)


def test_steps_until():
  """First iteration of its own length, by option."""
  class Options:
    num_steps, first_num_steps = 10, 0
  assert [steps_until(Options, k) for k in range(4)] == [0, 10, 20, 30]
  Options.first_num_steps = 25
  assert [steps_until(Options, k) for k in range(4)] == [0, 25, 35, 45]


@pytest.mark.parametrize('fall,expected', [
    (.5, [1, 1, 1, 1, 2 / 3, 1 / 3, 1, 1, 1, 1 / 2, 1, 1, 1, 1 / 2]),
    (0., [1] * 14), (1., [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 1, 3 / 4])])
def test_step_size_falls_at_the_end_of_an_iteration(fall, expected):
  """Six steps, then four of each further iteration; the rise comes once."""
  options = default_config().m_step
  options.update(num_steps=4, first_num_steps=6, learning_rate=.1,
                 learning_rate_warmup=0, learning_rate_fall=fall)
  found = [float(step_size(options, jnp.int32(step))) for step in range(len(expected))]
  np.testing.assert_allclose(found, .1 * np.array(expected), rtol=1e-6)
  options.learning_rate_warmup = 3
  rising = [float(step_size(options, jnp.int32(step))) for step in range(3)]
  np.testing.assert_allclose(np.divide(rising, found[:3]), [1 / 4, 2 / 4, 3 / 4],
                             rtol=1e-6)
