"""What the results pick for the figures."""

import types

import numpy as np
import pytest

from jdiffclust.evaluation.latent_space import LatentResults
from jdiffclust.evaluation.sample_quality import Quality
from jdiffclust.report import results


def test_closest_samples_come_with_their_own_neighbours():
  """By rising distance within each cluster; images, neighbours and distances agree."""
  rng = np.random.default_rng(0)
  distances = rng.uniform(size=(3, 7))
  nearest = rng.integers(0, 20, (3, 7))
  images = distances[..., None, None, None] * np.ones((2, 2, 1))
  images_at = lambda indices: 1. * np.asarray(indices)[:, None, None, None]
  found = results.closest(Quality({}, images, nearest, distances), images_at, 4)
  for q, (generated, training, closest) in enumerate(zip(*found)):
    rows = sorted(range(7), key=lambda n: distances[q, n])[:4]
    np.testing.assert_array_equal(closest, distances[q, rows])
    np.testing.assert_array_equal(generated[:, 0, 0, 0], distances[q, rows])
    np.testing.assert_array_equal(training[:, 0, 0, 0], nearest[q, rows])


CLUSTERS = np.array([0, 0, 1, 1, 2, 0])
LABELS = np.array([0, 1, 1, 1, 1, -1])  # cluster 1 goes with label 1, 2 with none


def results_with(latents, num_iterations=2):
  """A fit of six images, in three clusters."""
  tau = np.eye(3)[CLUSTERS]
  history = [{'iteration': i + 1, 'bound_bits_per_dim': 3., 'bound_prior': 1.,
              'bound_diffusion': 1., 'bound_decoder': 1., 'uncertain_fraction': 0.}
             for i in range(num_iterations)]
  return results.Results(tau, tau, {}, np.zeros(6), np.zeros((3, 2, 2, 1)),
                         np.zeros((3, 1, 2, 2, 1)), history, [],
                         {'init_method': 'latents'}, latents=latents)


LATENTS = LatentResults(
    np.random.default_rng(0).normal(size=(4, 2)), np.array([0, 1, 3, 4]), None,
    np.array([4, 1]), (np.zeros((2, 2, 2, 1)), np.ones((2, 2, 2, 1))),
    (np.zeros((1, 3, 2, 2, 1)), [(0, 2)]), {'noise error': [2., 1.]})


def images_at(indices):
  """Images of one shade, that of their index."""
  return np.broadcast_to(np.asarray(indices)[:, None, None, None] / 10., (
      len(indices), 2, 2, 1))


def test_drawn_latents():
  """Each image's picture and text, at its own point of the map."""
  drawn = results.latent_drawings(results_with(LATENTS), images_at, LABELS,
                                  ['a', 'b' * 30])
  assert list(drawn) == ['latent_map', 'reconstructions', 'latent_walk', 'latent_terms']
  _, marked, *pictures = drawn['latent_map']().axes
  assert [text.get_position() for text in marked.texts] == [
      tuple(LATENTS.points[3]), tuple(LATENTS.points[1])]
  name = 'b' * 12 + '…'
  assert [axes.get_title('left') for axes in pictures[:2]] == [
      f'1. label {name}\ncluster 2\npaired with none',
      f'2. label {name}\ncluster 0\npaired with a']
  shades = [axes.images[0].get_array()[0, 0, 0] for axes in pictures[:2]]
  assert shades == [round(127.5 * 1.4), round(127.5 * 1.1)]


def test_mistakes_that_are_not_on_the_map():
  drawn = results.latent_drawings(
      results_with(LATENTS._replace(indices=np.array([0, 1, 2, 3]))), images_at, LABELS,
      None)['latent_map']()
  assert [axes.get_title('left') for axes in drawn.axes[2:3]] == [
      '1. label 1\ncluster 0\npaired with 0']


def test_little_is_drawn_of_little():
  """Without labels, pictures and a history."""
  bare = LatentResults(LATENTS.points, LATENTS.indices, terms={'error': [1.]})
  drawn = results.latent_drawings(results_with(bare, 1), None, None, None)
  assert list(drawn) == ['latent_map'] and len(drawn['latent_map']().axes) == 1


def test_a_figure_that_fails_costs_nothing_else(tmp_path):
  """A warning of each; the tables and the other figures are there."""
  broken = results_with(LATENTS)._replace(samples=np.zeros((3, 1, 2, 2, 7)))
  broken.facts.update(warnings=[], wall_seconds=0., dataset='x', num_images=6,
                      num_clusters=3, seed=0, method='cddpm', image_shape=[2, 2, 1])
  told = []
  source = types.SimpleNamespace(ids=tuple('abcdef'), label_names=('$5_to_$10', '<b>'))
  (tmp_path / 'figures').mkdir()
  for name in ('sample_grid', 'num_clusters', 'restored'):
    (tmp_path / 'figures' / f'{name}.png').write_text('of an earlier command')
  results.write_results(tmp_path, broken, source, images_at, LABELS, told.append)
  assert len(told) == 2 and all('could not be drawn' in line for line in told)
  assert {line.split()[2] for line in told} == {'hero', 'sample_grid'}
  for name in ('sample_grid', 'num_clusters'):  # which --mode=decide would show again
    assert not (tmp_path / 'figures' / f'{name}.png').exists()
  assert (tmp_path / 'figures' / 'restored.png').exists()
  for name in ('assignments.csv', 'responsibilities.npy', 'summary.json',
               'figures/confusion_matrix.png', 'figures/latent_map.png'):
    assert (tmp_path / name).stat().st_size, name


@pytest.mark.parametrize('latents', [None, LATENTS])
def test_summary_of_latents(latents):
  found = results.summarise(results_with(latents), LABELS)['latents']
  assert found == (latents and latents.summary)
