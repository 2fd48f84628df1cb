"""EM's diagnostics on tables worked out by hand, and its advice on made-up histories."""

import math
import re

import numpy as np
import pytest

from jdiffclust import config as config_lib
from jdiffclust.evaluation import diagnostics as d

# Six images, three clusters. Image by image: 0 stays in 0, 1 and 2 go from 0 to 1,
# 3 stays in 1, 4 goes from 2 to 0, 5 stays in 2.
OLD = np.eye(3)[[0, 0, 0, 1, 2, 2]]
NEW = np.array([[.96, .04, 0], [.4, .6, 0], [0, 1, 0], [0, .8, .2], [1, 0, 0], [0, 0, 1]])


def test_flows_by_hand():
  """Rows are where from, columns where to."""
  assert d.flows(OLD, NEW).tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]


def test_overlaps_by_hand():
  """N = (2.36, 2.44, 1.2); shared masses 0.0384 + 0.24, 0.16 and 0."""
  expected = np.zeros((3, 3))
  expected[0, 1] = expected[1, 0] = .2784 / 2.36
  expected[1, 2] = expected[2, 1] = .16 / 1.2
  np.testing.assert_allclose(d.overlaps(NEW), expected, atol=1e-12)


def test_overlap_of_twins_and_of_an_empty_cluster():
  """Two clusters that share all their images overlap by half, an empty one by 0."""
  tau = np.tile([.5, .5, 0.], (7, 1))
  np.testing.assert_allclose(d.overlaps(tau)[0], [0, .5, 0])
  assert d.overlaps(tau)[2].tolist() == [0, 0, 0]


def test_effective_clusters_by_hand():
  """Equal: Q. One: 1. Shares 1/2, 1/4, 1/4: 2^1.5."""
  assert d.effective_clusters(np.eye(4)) == pytest.approx(4)
  assert d.effective_clusters(np.eye(4)[[2, 2, 2]]) == pytest.approx(1)
  assert d.effective_clusters(np.eye(3)[[0, 0, 1, 2]]) == pytest.approx(2**1.5)


def test_occupancy_by_hand():
  """Sizes 2, 3, 1, by weight 2.36, 2.44, 1.2; four of six above .95; two overlaps."""
  found = d.occupancy(NEW)
  shares = np.array([2.36, 2.44, 1.2]) / 6
  assert (found['smallest_cluster'], found['largest_cluster']) == (1, 3)
  assert found['effective_clusters'] == pytest.approx(
      math.prod(share**-share for share in shares))
  assert found['certain_fraction'] == pytest.approx(4 / 6)
  assert found['overlaps'] == [[1, 2, .1333], [0, 1, .118]]


def test_movement_by_hand():
  """Three of six change cluster; from a start of one cluster two stay in it."""
  start = np.tile([1., 0, 0], (6, 1))
  found = d.movement(OLD, NEW, start)
  assert found['changed_fraction'] == pytest.approx(3 / 6)
  assert found['moved_fraction'] == pytest.approx(4 / 6)
  assert found['effective_clusters_start'] == pytest.approx(1)
  assert found['shrunk'] == [2, 2, 1]  # half of itself; 0 keeps two of three, 1 grows
  assert found['flows'] == [[0, 1, 2], [2, 0, 1]]
  # 2 of the 3 images of 0; the single image that 2 lost is no split.
  assert found['splits'] == [[0, 1, .6667]]


def test_at_most_so_many_pairs():
  """The largest of a full matrix, without its diagonal."""
  matrix = np.arange(16).reshape(4, 4)
  assert d.largest_pairs(matrix) == [(3, 2), (3, 1), (3, 0), (2, 3), (2, 1)]


def test_paired_change_by_hand():
  """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), whatever the spread."""
  old = np.array([-1000., 5., 300.])
  change, error = d.paired_change(old, old + [1, 2, 3])
  assert change == pytest.approx(2) and error == pytest.approx(3**-.5)


HEALTHY = {
    'iteration': 1, 'mean_entropy': .2, 'uncertain_fraction': .03,
    'changed_fraction': .2, 'moved_fraction': .2, 'certain_fraction': .8,
    'smallest_cluster': 70., 'largest_cluster': 130., 'effective_clusters': 9.6,
    'effective_clusters_start': 9.8, 'shrunk': [4, 100., 80.], 'overlaps': [[1, 2, .04]],
    'flows': [[3, 8, 12]], 'splits': []}
SECOND = HEALTHY | {'iteration': 2, 'moved_fraction': .3, 'changed_fraction': .12,
                    'bound_change': 2., 'bound_change_error': .1}


def kinds(*history):
  return [kind for kind, _ in d.advice(list(history), 1000, 10)]


def test_no_advice_for_a_healthy_history():
  """Nor for one that converges far from its start, or falls within its error."""
  assert kinds(HEALTHY) == kinds(HEALTHY, SECOND) == []
  assert kinds(HEALTHY, SECOND, SECOND | {'changed_fraction': .001}) == []
  assert kinds(HEALTHY, SECOND | {'bound_change': -.2}) == []


FROZEN = {'changed_fraction': .01, 'moved_fraction': .02, 'certain_fraction': .99}


@pytest.mark.parametrize('kind,change,words', [
    ('frozen', FROZEN, '2.0% since the start'),
    ('collapsing', {'shrunk': [4, 60., 20.]}, 'cluster 4 shrank from 60 to 20 images'),
    ('collapsing', {'effective_clusters': 7.}, '9.8 effective clusters became 7.0'),
    ('collapsing', {'largest_cluster': 510.}, 'one cluster holds 51% of the images'),
    ('melting', {'mean_entropy': .8 * math.log(10)}, 'is 80% of log Q'),
    ('melting', {'mean_entropy': .8 * math.log(10)}, 'training that was too short'),
    ('noisy', {'uncertain_fraction': .17}, '17% of the assignments'),
    ('falling', {'bound_change': -1.5}, 'fell by 1.50 ± 0.10 nats')])
def test_advice(kind, change, words):
  """One thing amiss gives one remark, with its figure, and real options if any."""
  found = d.advice([HEALTHY, SECOND | change], 1000, 10)
  assert [advice.kind for advice in found] == [kind]
  text = found[0].text
  assert words in text
  options = re.findall(r'config\.([a-z_.]+[a-z_])', text)
  assert set(options) <= dict(config_lib.options()).keys()
  # Of what was tried, more draws and another start helped more often than not.
  assert bool(options) == ('Try' in text) == (kind in ('frozen', 'noisy'))


def test_advice_on_an_amortised_posterior():
  """Draws that only check it make no advice by their noise, but by contradiction."""
  of = lambda **change: [advice.kind for advice in d.advice(
      [HEALTHY | {'contradicted_fraction': .02} | change], 1000, 10, amortised=True)]
  assert of() == of(uncertain_fraction=.5) == []
  assert of(contradicted_fraction=.2) == ['contradicted']


def test_advice_on_latents():
  """Latents of which no dimension tells images apart, with the terms' figures."""
  terms = {'contradicted_fraction': 0., 'latent_divergence': .016,
           'latent_categorical_kl': .1, 'latent_gaussian_kl': 1.684}
  found = lambda active: d.advice(
      [HEALTHY | terms | {'latent_active_dimensions': active}], 1000, 10, amortised=True)
  assert found(1) == []
  (advice,) = found(0)
  assert advice.kind == 'latents' and '0.100 + 1.684' in advice.text


def test_a_learnt_start_is_meant_to_stay():
  """What EM keeps of a start by recognition is no sign of being stuck."""
  stuck = [HEALTHY, SECOND | FROZEN]
  assert [advice.kind for advice in d.advice(stuck, 1000, 10)] == ['frozen']
  assert d.advice(stuck, 1000, 10, recognised=True) == []


def test_advice_needs_evidence():
  """One still iteration is not frozen yet; after a reshuffle shrinking says nothing;
  a cluster halved to an average size is well; of two clusters one may hold most."""
  assert kinds(HEALTHY | FROZEN) == []
  assert kinds(HEALTHY | {'changed_fraction': .9, 'shrunk': [4, 100., 30.]}) == []
  assert kinds(HEALTHY | {'shrunk': [4, 300., 100.]}) == []
  two = HEALTHY | {'largest_cluster': 700., 'effective_clusters': 1.84,
                   'effective_clusters_start': 2.}
  assert d.advice([two], 1000, 2) == []
  assert d.advice([HEALTHY | {'mean_entropy': 0., 'largest_cluster': 1000.}],
                  1000, 1) == []


def test_shared_images_are_a_fact_and_no_advice():
  """However many two clusters share."""
  assert kinds(HEALTHY, SECOND | {'overlaps': [[3, 8, .45], [1, 2, .3]]}) == []


def test_splits_and_merges_in_words():
  """More than half of a cluster merges, more than a quarter splits."""
  record = SECOND | {'splits': [[5, 6, .7], [3, 8, .3]], 'overlaps': [[0, 1, .31]]}
  shared = ('0 and 1 run into each other (31% of the probability of the smaller one is '
            'given to the other)')
  assert d.splits_and_merges(record) == [
      '5 merges into 6 (70% of its images)', '3 splits (30% of its images go to 8)',
      shared]
  assert d.splits_and_merges(record | {'changed_fraction': .8}) == [shared]
  assert d.splits_and_merges(SECOND) == []


@pytest.mark.parametrize('clusters, others, expected', [
    ([0] * 9 + [1] * 9, [0] * 9 + [1] * 6 + [2] * 3, [[15, 16, 17]]),  # part of a larger
    ([0] * 9 + [1] * 3, [0] * 9 + [1] * 3, []),                        # the same here
    ([0] * 9 + [1] * 4, [0] * 9 + [2] * 3 + [0], []),                  # but for one
    ([0] * 9 + [1] * 5, [0] * 9 + [1] * 5, []),                        # not small
    ([0] * 9 + [1] * 9, [0] * 9 + [1] * 8 + [2], [])])                 # a single image
def test_small_groups(clusters, others, expected):
  """By hand: groups of 2 to 4 that make up less than half of a cluster here."""
  found = d.small_groups(np.array(clusters), np.array(others))
  assert [group.tolist() for group in found] == expected
