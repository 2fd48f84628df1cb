"""Embeddings decide the clusters of images whose pixels say nothing."""

import jax
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from jdiffclust.clustering.starts import recognition
from jdiffclust.clustering.starts.choose import choose_number
from jdiffclust.clustering.starts.embedded import check_directions, comparison_of
from jdiffclust.clustering.starts.fit import fit_start
from jdiffclust.clustering.starts.neighbours import find_neighbours
from jdiffclust.config import default_config
from tests.helpers import refused

SHAPE, BESIDE = (8, 8, 1), ('pixels', 'embeddings')
RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
NOISE = RNG.normal(size=(90, 64)).astype(np.float32)
# Directions that differ by class, of any length: distances would not do.
VECTORS = np.eye(3)[LABELS] @ RNG.normal(size=(3, 20)) + .1 * RNG.normal(size=(90, 20))
VECTORS *= np.exp(2 * RNG.normal(size=(90, 1)))


@pytest.fixture(autouse=True)
def promoting():
  """What a user has."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def config_of(**start):
  config = default_config()
  config.update(num_clusters=3, seed=1)
  config.views.update(num=2, sets=1, flip=0., upside_down=0., quarter_turns=0.)
  config.recognition.update(channels=8, batch_size=16, steps=4)
  config.start.update({'spaces': ('embeddings',), **start})
  return config


def agreement(tau, labels=LABELS):
  return adjusted_rand_score(labels, tau.argmax(axis=1))


@pytest.fixture(scope='module')
def alone():
  """The start by recognition of noise, by embeddings alone."""
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    return fit_start('recognition', NOISE, SHAPE, config_of(), vectors=VECTORS)


@pytest.mark.parametrize('distance, metric', [('cosine', 'cosine'),
                                              ('euclidean', 'euclidean')])
def test_neighbours_are_those_of_scikit_learn(distance, metric):
  """Far from the origin, too, where squared lengths would swallow the differences."""
  rows = VECTORS + (1e4 if distance == 'euclidean' else 0)
  compare = comparison_of(rows, config_of(embeddings_distance=distance).start)
  found = next(find_neighbours(compare(rows)[:, None, None]))
  _, near = NearestNeighbors(n_neighbors=7, metric=metric).fit(VECTORS).kneighbors()
  assert (found.graph(7).toarray()[np.arange(90)[:, None], near] > 0).all()


def test_embeddings_alone_decide(alone):
  """Of pixels that say nothing, by an untrained network: the classes."""
  assert agreement(alone(NOISE, None, VECTORS)) == 1
  assert agreement(alone(NOISE, None)) == 1  # the fit's own images keep their clusters
  assert agreement(alone(-NOISE, None, VECTORS)) == 1  # pixels are not looked at
  tau = fit_start('neighbours', NOISE, SHAPE, config_of(), vectors=VECTORS)
  assert agreement(tau(NOISE, None, VECTORS)) == 1


def test_new_images_with_embeddings(alone):
  """They go where their nearest embeddings are, without embeddings where pixels say."""
  new = VECTORS[::-1] * 5  # other lengths, the same directions
  assert agreement(alone(NOISE, None, new), LABELS[::-1]) == 1
  assert agreement(alone(NOISE[::-1], None), LABELS[::-1]) == 1


def test_what_is_kept_tells_the_same(alone):
  again = recognition.from_arrays(alone.arrays(), config_of())
  for given in ((NOISE[:9] / 2, None), (NOISE[:9], None, VECTORS[::-1][:9])):
    np.testing.assert_array_equal(again(*given), alone(*given))
  assert again.known.alone and not recognition.from_arrays(
      alone.arrays(), config_of(spaces=BESIDE)).known.alone


def test_beside_features_both_have_a_say():
  """A new image has the mean of what its features and its embedding say."""
  config = config_of(spaces=BESIDE)
  start = fit_start('recognition', NOISE, SHAPE, config, vectors=VECTORS)
  by_pixels, both = start(NOISE, None), start(NOISE, None, VECTORS[::-1])
  only = recognition.Recognised(start.trained, start.features, start.tau, SHAPE, 32,
                                known=start.known._replace(alone=True))
  np.testing.assert_allclose(both, (by_pixels + only(NOISE, None, VECTORS[::-1])) / 2,
                             atol=1e-6)


def test_equal_pixels_with_other_embeddings():
  """Two images of the same pixels are two images."""
  start = fit_start('neighbours', np.zeros_like(NOISE), SHAPE, config_of(),
                    vectors=VECTORS)
  assert agreement(start(np.zeros_like(NOISE), None, VECTORS)) == 1


def test_the_number_of_clusters_that_embeddings_show():
  """Three, of noise."""
  config = config_of()
  config.em.auto_clusters, config.em.auto_parts = (2, 5), 1
  assert choose_number(NOISE, SHAPE, config, vectors=VECTORS).chosen == 3


def test_vectors_without_a_direction():
  """The image is named; distances can do with them."""
  damaged = VECTORS.copy()
  damaged[41] = 0
  ids = [f'{k}.png' for k in range(90)]
  message = refused(check_directions, damaged, ids, config_of().start, 16)
  assert "image 41 ('41.png')" in message and 'euclidean' in message
  check_directions(damaged, ids, config_of(embeddings_distance='euclidean').start)


@pytest.mark.parametrize('vectors', [
    np.arange(1., 91)[:, None] * np.array([[3., -1, 2]]), np.arange(1., 91)[:, None],
    np.arange(90.)[:, None] - 44.5])
def test_vectors_of_one_direction(vectors):
  """Have no clusters by angle; new images may well point the same way."""
  ids = [f'{k}.png' for k in range(90)]
  message = refused(check_directions, vectors, ids, config_of().start, 16)
  assert 'set euclidean' in message and '90 embeddings' in message
  check_directions(vectors, ids, config_of().start, for_fit=False)
  check_directions(vectors, ids, config_of(embeddings_distance='euclidean').start)


def test_angles_are_of_no_scale():
  """Down to numbers whose squares float32 does not have."""
  compare = comparison_of(VECTORS, config_of().start)
  for scale in (1e-30, 1e-10, 1e10):
    np.testing.assert_allclose(compare(VECTORS * scale), compare(VECTORS), atol=1e-5)
