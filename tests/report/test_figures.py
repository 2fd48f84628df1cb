"""What the figures hold, and that their pixels are the images' own."""

import errno

import numpy as np
from PIL import Image
import pytest

from jdiffclust.report import figures


def pixels(figure, path):
  figures.save_figure(figure, path)
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def flat_images(levels, size=8, channels=1):
  """One constant image per level in [-1, 1]."""
  levels = np.asarray(levels, np.float32)
  return np.broadcast_to(
      levels[..., None, None, None], (*levels.shape, size, size, channels))


def area(picture, level):
  """How many pixels have the colour of a constant image of this level."""
  return np.sum(np.all(picture == round(127.5 * level + 127.5), axis=-1))


def texts(figure):
  return [text.get_text() for text in figure.texts]


def gallery(num_clusters, k=2, **kwargs):
  members = {
      q: (flat_images([.3] * k), flat_images([-.3] * k)) for q in range(num_clusters)}
  return figures.cluster_gallery(
      flat_images([-.7] * num_clusters), members, np.arange(num_clusters) + 1,
      [.98] * num_clusters, **kwargs)


@pytest.mark.parametrize('seed', range(5))
def test_typical_and_uncertain_against_brute_force(seed):
  rng = np.random.default_rng(seed)
  # Few levels, so that there are ties for the bound to break.
  responsibilities = rng.integers(1, 4, (30, 4)) / 10
  responsibilities[:, 3] = 0
  bound = rng.normal(size=30)
  chosen = figures.typical_and_uncertain(responsibilities, bound, 5)
  assert sorted(chosen) == [0, 1, 2, 3]
  for cluster, (typical, uncertain) in chosen.items():
    ranked = sorted(
        (n for n in range(30) if responsibilities[n].argmax() == cluster),
        key=lambda n: (responsibilities[n].max(), bound[n]))
    assert typical.tolist() == ranked[::-1][:5]
    assert uncertain.tolist() == ranked[:5]
  assert not chosen[3][0].size


def test_typical_and_uncertain_checks_shapes():
  with pytest.raises(ValueError, match=r'\[N, Q\]'):
    figures.typical_and_uncertain(np.ones((3, 2)), np.ones(2), 1)


def test_gallery_shows_every_picture_without_resampling(tmp_path):
  figure = gallery(3)
  picture = pixels(figure, tmp_path / 'gallery.png')
  side = 128
  assert area(picture, -.7) == 3 * side ** 2
  assert area(picture, .3) == area(picture, -.3) == 3 * 2 * side ** 2
  assert 'cluster 1 · 2 images · mean certainty .98' in texts(figure)
  assert 'cluster 0 · 1 image · mean certainty .98' in texts(figure)
  assert {'mean', 'most typical', 'least certain'} <= set(texts(figure))


def test_gallery_caps_rows_at_the_largest(tmp_path):
  figure = gallery(8, max_rows=3)
  assert area(pixels(figure, tmp_path / 'x.png'), -.7) == 3 * 128 ** 2
  assert 'The largest 3 of 8 clusters' in texts(figure)
  assert any('cluster 7' in text for text in texts(figure))
  assert not any('cluster 4' in text for text in texts(figure))


def test_gallery_with_an_empty_cluster(tmp_path):
  none = np.zeros((0, 8, 8, 3))
  figure = figures.cluster_gallery(
      np.full((1, 8, 8, 3), np.nan), {0: (none, none)}, [0], [None])
  assert 'cluster 0 · empty' in texts(figure)
  assert area(pixels(figure, tmp_path / 'x.png'), 0) == 128 ** 2


@pytest.mark.parametrize('size, channels, side', [
    (8, 1, 128), (28, 1, 112), (32, 3, 128), (128, 3, 128), (300, 3, 128)])
def test_sample_grid(size, channels, side, tmp_path):
  samples = flat_images([[.5] * 4] * 3, size, channels)
  figure = figures.sample_grid(samples, clusters=[4, 7, 9])
  assert area(pixels(figure, tmp_path / 'x.png'), .5) == 12 * side ** 2
  assert {'4', '7', '9', 'generated images'} <= set(texts(figure))


def test_sample_grid_of_very_many(tmp_path):
  """The first ones are drawn, and it says so; a GIF may be 65,535 pixels wide."""
  samples = np.full((2, 600, 8, 8, 1), .5, np.float32)
  figure = figures.sample_grid(samples)
  assert 'generated images, the first 32 of 600' in texts(figure)
  assert area(pixels(figure, tmp_path / 'x.png'), .5) == 2 * 32 * 128**2
  figures.save_animation(samples[:, :, None], tmp_path / 'x.gif')
  with Image.open(tmp_path / 'x.gif') as film:
    assert film.size == (32 * 128, 2 * 128)


def test_pixels_are_the_images_own(tmp_path):
  image = np.linspace(-1, 1, 8 * 8 * 3, dtype=np.float32).reshape(1, 1, 8, 8, 3)
  picture = pixels(figures.sample_grid(image), tmp_path / 'x.png')
  expected = np.round(image[0, 0] * 127.5 + 127.5).repeat(16, 0).repeat(16, 1)
  windows = np.lib.stride_tricks.sliding_window_view(picture, (128, 128), (0, 1))
  corner = np.all(windows[..., 0, 0] == expected[0, 0], axis=-1)
  assert any(
      np.array_equal(picture[y:y + 128, x:x + 128], expected)
      for y, x in zip(*np.nonzero(corner)))


def test_nearest_training_stands_beside_the_generated(tmp_path):
  generated = [flat_images([.5] * 4), flat_images([.5] * 3), flat_images([.9])]
  training = [flat_images([-.5] * 4), flat_images([-.5] * 3), flat_images([.9])]
  distances = [np.array([.12, .2, .3, .4]), np.array([0, .1, .25]), np.array([1.])]
  figure = figures.nearest_training(generated, training, distances, max_rows=2)
  picture = pixels(figure, tmp_path / 'x.png')
  assert area(picture, .5) == area(picture, -.5) == 7 * 128 ** 2
  assert area(picture, .9) == 0
  assert {'cluster 0 · distances 0.12 to 0.40', 'The first 2 of 3 clusters',
          'cluster 1 · distances 0.00 to 0.25'} <= set(texts(figure))


def test_hero(tmp_path):
  members = {q: (flat_images([.3] * 9), flat_images([.9] * 9)) for q in range(4)}
  figure = figures.hero(
      flat_images([-.7] * 4), members, flat_images([[-.3] * 8] * 4), [1, 5, 2, 7],
      max_rows=2)
  picture = pixels(figure, tmp_path / 'hero.png')
  assert picture.shape[1] > 2 * picture.shape[0]
  assert area(picture, .3) == area(picture, -.3) == 2 * 6 * 128 ** 2
  assert area(picture, .9) == 0
  assert {'mean', 'members', 'generated', '1', '3'} <= set(texts(figure))


def test_images_of_other_channels_are_refused():
  with pytest.raises(ValueError, match='1 or 3'):
    figures.sample_grid(np.zeros((2, 2, 8, 8, 2)))


def record(iteration, **more):
  return {'iteration': iteration, 'bound_bits_per_dim': 3., 'mean_entropy': .1,
          'changed_fraction': None if iteration == 0 else .2, **more}


def test_history_curves(tmp_path):
  figure = figures.history_curves([record(i) for i in range(4)])
  assert [len(axes.get_lines()) for axes in figure.axes] == [1, 1, 1]
  assert pixels(figure, tmp_path / 'x.png').shape == (580, 1800, 3)
  figure = figures.history_curves([record(i, acc=.5) for i in range(4)])
  lines = figure.axes[2].get_lines()
  assert lines[1].get_label() == 'accuracy (not used by the fit)'
  assert lines[1].get_linewidth() < lines[0].get_linewidth()


@pytest.mark.parametrize('history', [[], [{'iteration': 0}], [record(0)]])
def test_history_curves_of_little(history, tmp_path):
  figure = figures.history_curves(history)
  pixels(figure, tmp_path / 'x.png')
  if history:  # iterations are whole numbers, even a single one
    ticks = np.concatenate([axes.get_xticks() for axes in figure.axes])
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_confusion_matrix_is_diagonal_after_matching(tmp_path):
  labels = np.array([0, 0, 1, 1, 1, 2])
  figure = figures.confusion_matrix(
      labels, np.array([3, 1, 0])[labels], ['a', 'b', 'c'], num_clusters=4)
  axes = figure.axes[0]
  shade = np.asarray(axes.images[0].get_array())
  np.testing.assert_array_equal(shade, np.eye(3, 4))
  assert [tick.get_text() for tick in axes.get_xticklabels()] == list('3102')
  assert sorted(text.get_text() for text in axes.texts) == ['1', '2', '3']
  assert [tick.get_text() for tick in axes.get_yticklabels()] == ['a', 'b', 'c']
  pixels(figure, tmp_path / 'x.png')


@pytest.mark.parametrize('name', ['$5_to_$10', '$$', r'$\alpha_x$', 'a_{b', '\u732b',
                                  '\U0001f600'])
def test_names_are_no_formulas(name, tmp_path, recwarn):
  """Whatever a folder is called, it is drawn as it is, and no library warns of it."""
  figure = figures.confusion_matrix(np.array([0, 1]), np.array([0, 1]), (name, 'b'))
  figures.save_figure(figure, tmp_path / 'x.png')
  label = figure.axes[0].get_yticklabels()[0]
  assert label.get_text() == name and not label.get_parse_math()
  assert not recwarn.list


def test_large_confusion_matrix_prints_no_counts():
  figure = figures.confusion_matrix(np.arange(60) % 30, np.arange(60))
  axes = figure.axes[0]
  assert not axes.texts and len(axes.get_xticks()) <= 40


def test_num_clusters(tmp_path):
  choice = {'numbers': [2, 3, 4], 'modularity': [.3, .6, .5], 'icl': [-3., -2., -4.],
            'stability': [1., .9, .2], 'votes': [1, 6, 1], 'chosen': 3}
  figure = figures.num_clusters(choice)
  kept, votes, stability, likelihood = figure.axes
  for axes, key in ((kept, 'modularity'), (stability, 'stability'), (likelihood, 'icl')):
    line, chosen = axes.get_lines()
    assert line.get_xydata().tolist() == [list(p) for p in zip([2, 3, 4], choice[key])]
    assert chosen.get_xdata() == [3, 3]
  assert [bar.get_height() for bar in votes.patches] == [1, 6, 1]
  assert np.ptp(pixels(figure, tmp_path / 'a.png')) > 100


def test_cluster_sizes(tmp_path):
  figure = figures.cluster_sizes([3, 0, 5], [2.5, .5, 5.])
  assert [bar.get_height() for bar in figure.axes[0].patches] == [3, 0, 5]
  pixels(figure, tmp_path / 'x.png')


def test_cluster_sizes_beside_those_of_the_start():
  axes = figures.cluster_sizes([3, 0, 5], [2.5, .5, 5.], [4, 4, 0]).axes[0]
  assert [bar.get_height() for bar in axes.patches] == [4, 4, 0, 3, 0, 5]


BANDS = [[2, 2], [3, 9], None]


def term_record(iteration, decoder, low, high, error=0.):
  return {'iteration': iteration, 'bound_prior': 0., 'bound_decoder': decoder,
          'bound_level_1': low, 'bound_level_2': high, 'bound_level_3': 0.,
          'bound_level_1_standard_error': error}


def test_bound_terms_by_hand(tmp_path):
  """With 1 / log 2 dimensions, bits are -nats; the empty band is left out."""
  figure = figures.bound_terms(
      [term_record(1, -2., -8., -3., 3.), term_record(2, -2., -6., -4., 4.)], BANDS,
      1 / np.log(2))
  last, change = figure.axes
  np.testing.assert_allclose([bar.get_height() for bar in last.patches], [2, 6, 4, 0])
  assert [tick.get_text() for tick in last.get_xticklabels()] == [
      'decoder', '2', '3–9', 'prior']
  np.testing.assert_allclose(change.lines[0].get_ydata(), [0, -2, 1, 0], atol=1e-12)
  # Errors over images are those of the last terms, not of their change.
  bars = np.asarray(last.collections[0].get_segments())[:, :, 1]
  np.testing.assert_allclose(bars, [[2, 2], [6 - 4, 6 + 4], [4, 4], [0, 0]])
  assert not change.collections
  pixels(figure, tmp_path / 'x.png')


def test_bound_terms_of_one_iteration(tmp_path):
  figure = figures.bound_terms([term_record(1, -2., -8., -3.)], BANDS, 64)
  assert len(figure.axes) == 1
  pixels(figure, tmp_path / 'x.png')


def test_cluster_flows(tmp_path):
  figure = figures.cluster_flows(
      np.array([[3, 1], [0, 0]]), np.array([[0, .25], [.25, 0]]))
  moves, shared = figure.axes
  np.testing.assert_allclose(moves.images[0].get_array(), [[.75, .25], [0, 0]])
  np.testing.assert_allclose(shared.images[0].get_array(), [[0, .5], [.5, 0]])
  assert [text.get_text() for text in moves.texts] == ['3', '1', '', '']
  assert [text.get_text() for text in shared.texts] == ['', '25%', '25%', '']
  pixels(figure, tmp_path / 'x.png')
  assert not figures.cluster_flows(np.eye(30), np.eye(30)).axes[0].texts


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'x.png'
  path.write_bytes(b'old')
  figure = figures.cluster_sizes([1, 2])

  def fail(temporary, **kwargs):
    temporary.write_bytes(b'half')
    raise OSError(errno.ENOSPC, 'disk full')

  monkeypatch.setattr(figure, 'savefig', fail)
  with pytest.raises(OSError, match='disk full'):
    figures.save_figure(figure, path)
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


def map_of(num_clusters, **kwargs):
  """A tight group of four points per cluster, on a circle."""
  clusters = np.repeat(np.arange(num_clusters), 4)
  angles = 2 * np.pi * clusters / num_clusters
  rng = np.random.default_rng(0)
  points = np.stack([np.cos(angles), np.sin(angles)], 1) + rng.uniform(0, .01, (
      len(clusters), 2))
  return points, clusters, figures.latent_map(points, clusters, **kwargs)


def test_latent_map_numbers_every_cluster_on_one_of_its_points(tmp_path):
  points, clusters, figure = map_of(23)
  (axes,) = figure.axes
  drawn = np.concatenate([part.get_offsets() for part in axes.collections])
  assert {tuple(p) for p in drawn} == {tuple(p) for p in points}
  assert [text.get_text() for text in axes.texts] == [str(q) for q in range(23)]
  for cluster, text in enumerate(axes.texts):
    assert text.get_position() in {tuple(p) for p in points[clusters == cluster]}
  looks = {(tuple(colour), turn) for turn, part in enumerate(axes.collections)
           for colour in part.get_facecolors()}
  assert len(looks) == 23  # colour and marker together
  pixels(figure, tmp_path / 'x.png')


def test_the_number_of_a_cluster_stands_in_its_own_part():
  """Not between its parts, and not where another cluster has more points."""
  near = lambda x, n: np.stack([x + np.linspace(0, .1, n), np.zeros(n)], 1)
  points = np.concatenate([near(0, 3), near(10, 5), near(5, 9), near(10, 9)])
  clusters = np.repeat([0, 0, 1, 1], [3, 5, 9, 9])
  texts = figures.latent_map(points, clusters).axes[0].texts
  assert texts[0].get_position()[0] < 1 and 5 <= texts[1].get_position()[0] < 6


def test_latent_map_with_mistakes(tmp_path):
  mistakes = np.array([5, 0, 9])
  points, _, figure = map_of(
      3, mistakes=mistakes, examples=flat_images([.3, -.3]),
      texts=['label 4\ncluster 1', r'label $\x$'])
  _, marked, first, second, *others = figure.axes
  everything, red = marked.collections
  assert len(everything.get_offsets()) == 12
  np.testing.assert_array_equal(red.get_offsets(), points[mistakes])
  assert [(text.get_text(), text.get_position()) for text in marked.texts] == [
      ('1', tuple(points[5])), ('2', tuple(points[0]))]
  assert marked.get_title('left') == 'Misclustered (3)'
  assert first.get_title('left') == '1. label 4\ncluster 1'
  for axes, level in ((first, .3), (second, -.3)):
    assert (axes.images[0].get_array() == round(127.5 * level + 127.5)).all()
  assert not any(axes.axison or axes.images for axes in others)
  pixels(figure, tmp_path / 'x.png')


def test_latent_map_without_a_single_mistake(tmp_path):
  figure = map_of(3, mistakes=np.array([], int), examples=np.zeros((0, 8, 8, 1)))[-1]
  assert len(figure.axes) == 2
  pixels(figure, tmp_path / 'x.png')


def test_reconstructions_stand_below_their_images(tmp_path):
  """In pairs of rows, the pairs further apart than their rows."""
  originals = np.linspace(.1, .9, 5)
  figure = figures.reconstructions(
      flat_images(originals), flat_images(-originals), columns=3)
  picture = pixels(figure, tmp_path / 'x.png')
  corner = lambda level: np.argwhere(
      np.all(picture == round(127.5 * level + 127.5), axis=-1)).min(axis=0)
  for level in originals:
    assert area(picture, level) == area(picture, -level) == 128 ** 2
  tops = [corner(level) for level in originals]
  below = [corner(-level) for level in originals]
  steps = np.subtract(below, tops)
  assert len({tuple(step) for step in steps}) == 1 and steps[0, 1] == 0
  assert steps[0, 0] < tops[3][0] - below[0][0]
  assert [top[0] == tops[0][0] for top in tops] == [True] * 3 + [False] * 2
  assert tops[0][1] == tops[3][1] < tops[1][1] == tops[4][1]


def test_latent_walk(tmp_path):
  figure = figures.latent_walk(flat_images([[.5] * 4] * 2), [(3, 0), (0, 1)])
  assert area(pixels(figure, tmp_path / 'x.png'), .5) == 8 * 128 ** 2
  assert {'3 → 0', '0 → 1'} <= set(texts(figure))


def test_latent_terms(tmp_path):
  terms = {'noise error': [3., 2., 1.], 'units': [None, 4, 5], 'a': [0, 0, 0],
           'b': [1, 1, 1]}
  figure = figures.latent_terms([1, 2, 5], terms)
  drawn = [axes for axes in figure.axes if axes.axison]
  assert [axes.get_title('left') for axes in drawn] == list(terms)
  lines = [axes.get_lines()[0].get_xydata() for axes in drawn]
  np.testing.assert_array_equal(lines[0], [[1, 3], [2, 2], [5, 1]])
  np.testing.assert_array_equal(lines[1], [[1, np.nan], [2, 4], [5, 5]])
  pixels(figure, tmp_path / 'x.png')


def test_names_of_clusters():
  """Numbers, with the names that were given, cut where they are long."""
  assert figures.named([2, 0, 1], ['', 'cats', 'x' * 30]) == [
      f"2 {'x' * 19}…", '0', '1 cats']
  assert figures.named([1], None) == ['1']
