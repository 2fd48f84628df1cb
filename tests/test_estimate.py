"""The clock of a fit, by hand."""

import pytest

from jdiffclust import estimate
from jdiffclust.config import default_config


def test_a_clock_is_corrected_by_what_has_ended():
  """Stages of 10, 20 and 30 s on half a machine, the first of which takes 60."""
  time = [0.]
  stages = [estimate.Stage(name, what, seconds) for name, what, seconds in (
      ('a', 'one', 10.), ('b', 'one', 20.), ('c', 'two', 30.))]
  clock = estimate.Clock(stages, .5, lambda: time[0])
  assert clock.total == 120
  assert clock.plan() == 'This will take about 2 min: one 60 s, two 60 s.'
  clock.begins('a')
  assert clock.left == 100
  time[0] = 60.
  assert clock.ends('a') and clock.left == 3 * 100  # three times as long as was thought
  clock.begins('other')  # that is no stage
  assert not clock.ends('other') and clock.left == 300
  clock.begins('c')  # b was not needed
  assert clock.left == 0
  time[0] = 70.
  assert not clock.ends('c')  # of no length
  assert clock.left == 0 and clock.spent == {'a': 60., 'c': 10.}


@pytest.mark.parametrize('change, factor', [
    ({'m_step.num_steps': 600}, 2), ({'m_step.batch_size': 256}, 2),
    ({'network.channels': 64}, 4), ({'em.max_iterations': 8}, 2)])
def test_gradient_steps_cost_what_they_compute(change, factor):
  """Twice the steps or images take twice as long, twice the channels four times."""
  def seconds(changes):
    config = default_config()
    config.update_from_flattened_dict(changes)
    stages = estimate.model_stages(config, 10_000, 10, (16, 16, 1))
    return sum(stage.seconds for stage in stages if 'M-step' in stage.name) - (
        estimate.COMPILED['m_step'])
  assert seconds(change) == pytest.approx(factor * seconds({}))


def test_what_is_done_takes_no_time():
  """A fit that goes on from its start, and one that was given its number of clusters."""
  config = default_config()
  config.num_clusters, config.start.repeats, config.effort = 'auto', 3, 'quick'
  names = lambda done: [stage.name for stage in estimate.stages_of(
      config, 500, (16, 16, 3), (32, 32, 3), done)]
  results = ['baselines', 'reference for new images', 'features', 'map']
  assert names(()) == ['number of clusters', 'sign of clusters', 'start (recognition)',
                       *results]
  assert names({'start', 'sign'}) == results
  config.num_clusters, config.effort, config.em.max_iterations = 3, 'full', 1
  assert names({'start', 'sign'}) == ['the start anew', 'EM 1/1 M-step', 'EM 1/1 E-step',
                                      'baselines', 'samples', *results[1:]]
