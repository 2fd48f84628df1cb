"""Which clusters come back, and whether there is a sign of any, where that is known."""

import numpy as np
import pytest

from jdiffclust.clustering.starts import agreement
from jdiffclust.config import default_config


def config_of(number):
  """Few views, and as many clusters."""
  config = default_config()
  config.num_clusters, config.views.num = number, 2
  for name in ('rotation', 'scale', 'shear', 'shift', 'flip', 'upside_down',
               'quarter_turns'):
    field = config.views
    with field.ignore_type():
      field[name] = 0.
  return config


def groups(number, each, spread, seed=0):
  """Images 4x4 around `number` random ones, flat, and their groups."""
  rng = np.random.default_rng(seed)
  centres = rng.uniform(-.8, .8, (number, 16))
  labels = np.repeat(np.arange(number), each)
  rows = centres[labels] + spread * rng.normal(size=(number * each, 16))
  return np.clip(rows, -1, 1).astype(np.float32), labels


def test_jaccards_by_hand():
  """The Jaccard indices of four small clusters, the last of which is empty."""
  clusters = np.array([0, 0, 0, 0, 1, 1, 2, 2])
  others = np.array([1, 1, 1, 0, 0, 0, 2, 1])
  found = agreement.jaccards(clusters, others, 4)
  # {0..3} and {0, 1, 2, 7}; {4, 5} and {3, 4, 5}; {6, 7} and {6}.
  np.testing.assert_allclose(found, [3 / 5, 2 / 3, 1 / 2, 0])


def test_true_clusters_come_back_and_a_random_one_does_not():
  """Two groups that are cut at random are not found again; the third is."""
  sample, labels = groups(3, 100, .05)
  mixed = np.where(labels < 2, np.random.default_rng(1).integers(0, 2, len(labels)), 2)
  found = agreement.agree(sample, (4, 4, 1), config_of(3), labels, 2, 'neighbours')
  assert found.came_back == [2, 2, 2] and found.rand == [1, 1]
  found = agreement.agree(sample, (4, 4, 1), config_of(3), mixed, 2, 'neighbours')
  assert found.came_back == [0, 0, 2] and max(found.rand) < .8
  assert '2 in 2 of 2; 0, 1 in 0 of 2' in found.in_words()


def test_an_empty_cluster_neither_comes_back_nor_stays_away():
  """Nobody of it could be asked about."""
  sample, labels = groups(3, 20, .05)
  found = agreement.agree(sample, (4, 4, 1), config_of(4), labels, 2, 'neighbours')
  assert found.asked == [2, 2, 2, 0] and found.overlap[3] is None
  assert 0 <= min(found.overlap[:3]) and max(found.came_back[:3]) <= 2
  words = agreement.Agreement('neighbours', 3, [3, 3, 2, 0], [3, 0, 2, 0],
                              [.9, .1, .8, None], [1., 1., 1.]).in_words()
  assert words.endswith(
      ': 0 in 3 of 3; 2 in 2 of 2; 1 in 0 of 3; 3 had no image to ask about.')


def test_images_without_clusters_have_the_moments():
  """Of many draws, up to their Monte Carlo error."""
  rows = groups(2, 2000, .2)[0][:, :3]
  drawn = agreement.without_clusters(rows, 0)
  np.testing.assert_allclose(drawn.mean(axis=0), rows.mean(axis=0), atol=.05)
  np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=.05)


def test_a_sign_that_cannot_be_seen():
  """Images without clusters agree so well that none could lead by what is asked for."""
  words = lambda *figures: agreement.Sign(*figures).in_words()
  assert words(1., .81).startswith('Whether there is a sign of clusters cannot be told')
  assert words(.3, .2).startswith('There is no sign')
  assert words(.9, .2).startswith('There is a sign')


@pytest.mark.parametrize('kind', ['groups', 'noise', 'gaussian'])
def test_a_sign_of_clusters(kind):
  """Of groups there is one; of noise, and of one elongated Gaussian, none."""
  rng = np.random.default_rng(0)
  sample = {'groups': groups(4, 30, .1)[0], 'noise': rng.uniform(-1, 1, (120, 16)),
            'gaussian': rng.normal(size=(120, 16)) * .3 / np.arange(1, 17)}[kind]
  found = agreement.sign_of(sample.astype(np.float32), (4, 4, 1), config_of(4), 2)
  assert found.missing == (kind != 'groups'), found
  assert found.in_words().startswith('There is no sign') == found.missing
