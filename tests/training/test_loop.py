"""What the loop hands to the steps of a method: tables, starts, and which weights."""

import functools
import types

import jax
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust
from jdiffclust.clustering.bound.tau import EStepInfo
from jdiffclust.clustering.cddpm.method import CDDPM
from jdiffclust.clustering.cluster_ddpm.method import ClusterDDPM
from jdiffclust.config import default_config
from jdiffclust.progress import Task
from jdiffclust.training.record import iteration_record
from jdiffclust.training.storage import Store
from tests import tiny

IMAGES = datasets.load_digits().images.astype(np.uint8)[:60]
BUILD = functools.partial(tiny.Shared(), tiny.TINY_NETWORKS)  # equal fits share programs


@pytest.fixture
def watched(monkeypatch):
  """A function from a class of methods and options to a fit, and what its steps saw.

  Of each gradient step: the table, and the average of the weights after it, without what
  closed forms make; of each batch of an E-step: its start, and these weights.
  """
  def run(owner, **changes):
    config = default_config()
    config.update_from_flattened_dict({
        'num_devices': 1, 'num_clusters': 3, 'latent.size': 4, 'posterior.channels': 8,
        'diffusion.num_steps': 20, 'diffusion.beta_end': .01, 'em.max_iterations': 2,
        'em.bound_tolerance': 0., 'em.partition_tolerance': 0.,
        'start.kind': 'gaussian_mixture', 'start.restarts': 1, 'e_step.num_draws': 4,
        'e_step.batch_size': 60, 'm_step.num_steps': 3, 'm_step.first_num_steps': 0,
        'm_step.learning_rate_warmup': 0, 'm_step.batch_size': 16, **changes})
    host = lambda tree: jax.tree.map(np.asarray, tree)
    learned = lambda params: [np.asarray(leaf) for leaf in jax.tree.leaves(
        params.network if owner is CDDPM else (params.encoder, params.denoiser))]
    m_step, e_step = owner.m_step, owner.e_step

    def watched_m_step(self, state, batch, table, key):
      tables.append(host(table))
      state, info = m_step(self, state, batch, table, key)
      averages.append((learned(state.ema), learned(state.params)))
      return state, info

    def watched_e_step(self, estimator, params, batch, key):
      starts.append(host(batch.start))
      used.append(learned(params))
      tau, info = e_step(self, estimator, params, batch, key)
      taus.append(host(tau))
      return tau, info

    tables, averages, starts, used, taus = [], [], [], [], []
    monkeypatch.setattr(owner, 'm_step', watched_m_step)
    monkeypatch.setattr(owner, 'e_step', watched_e_step)
    fit = jdiffclust.fit(config, IMAGES, build=BUILD)
    assert len(tables) == 6 and len(starts) == 2
    return fit, tables, averages, starts, used, taus, learned

  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield run


def same(one, other):
  """Whether all arrays are equal."""
  return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('owner, changes', [
    (CDDPM, {}), (ClusterDDPM, {'method': 'cluster_ddpm'}),
    (CDDPM, {'em.posterior': 'monte_carlo'})])
def test_steps_see_the_start_or_the_table_and_the_average(owner, changes, watched):
  """An amortised tau is held to the start in every iteration; draws' tau is of the last
  E-step. E-steps, and who uses the fit, have the averaged weights, not the last ones."""
  fit, tables, averages, starts, used, taus, learned = watched(owner, **changes)
  assert np.abs(taus[0] - fit.start).max() > 1e-3
  later = taus[0] if changes.get('em.posterior') else fit.start
  for table in tables[:3]:
    np.testing.assert_array_equal(table, fit.start)
  for table in tables[3:]:
    np.testing.assert_array_equal(table, later)
  for start in starts:
    np.testing.assert_array_equal(start, fit.start)
  for (average, last), own in zip(averages[2::3], used, strict=True):
    assert same(own, average) and not same(own, last)
  assert same(learned(fit.params), averages[-1][0])


def test_images_and_seconds_are_counted(watched, monkeypatch):
  """2 of the 3 steps of 16 images in each of 2 iterations: the first one compiles. The
  seconds of a run are all there are, those of its last save too."""
  now = [100.]

  def save(*_):
    now[0] += 7

  for module in ('loop', 'storage'):
    monkeypatch.setattr(f'jdiffclust.training.{module}.time',
                        types.SimpleNamespace(perf_counter=lambda: now[0]))
  monkeypatch.setattr(Store, 'save', save)
  fit, *_ = watched(CDDPM)
  assert fit.progress['train_images'] == 2 * 2 * 16
  assert fit.progress['train_seconds'] > 0
  assert now[0] == 100 + 7 * 5  # at the start, after both M-steps and both E-steps
  assert fit.progress['wall_seconds'] == 7 * 5


def test_work_is_done_when_it_ends(watched, monkeypatch):
  """Of all that is reported, as many parts as there are, E- and M-step and mixtures."""
  tasks, begin = [], Task.__init__

  def noting(task, *args):
    begin(task, *args)
    tasks.append(task)

  monkeypatch.setattr(Task, '__init__', noting)
  watched(ClusterDDPM, method='cluster_ddpm')
  names = [task.name for task in tasks]
  assert names.count('mixture of the latents') == 2
  assert {'EM 1/2 M-step', 'EM 2/2 E-step', 'start (gaussian_mixture)'} <= {*names}
  assert [task.done for task in tasks] == [task.total for task in tasks]


def test_images_that_are_unsure_or_contradicted_are_told_apart():
  """By two standard errors of 1: of margins -3, -1, 1 and 3 two are unsure, one lags."""
  zero, margin = np.zeros(4), np.array([-3., -1., 1., 3.])
  info = EStepInfo(**{name: zero for name in EStepInfo._fields} | {
      'levels': np.zeros((4, 8)), 'margin': margin, 'margin_error': np.ones(4)})
  found = iteration_record(np.full((4, 2), .5), info, (2, 2, 1))
  assert found['uncertain_fraction'] == .5 and found['contradicted_fraction'] == .25
