"""Views against SciPy's affine transform."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jdiffclust.data.views import AffineMaps, draw_maps, draw_small_maps, transform

OPTIONS = dict(rotation=.3, scale=.2, shear=.2, shift=.1, flip=.5,
               upside_down=.5, quarter_turns=.5)


def options(**changes):
  """The `views` section."""
  return SimpleNamespace(**OPTIONS | changes)


def by_scipy(image, matrix, shift):
  """The same view by `scipy.ndimage.affine_transform`."""
  size = np.asarray(image.shape[:2])
  centre = (size - 1) / 2
  offset = centre + shift * size - matrix @ centre
  return np.stack([scipy.ndimage.affine_transform(channel, matrix, offset, order=1,
                                                  mode='nearest')
                   for channel in np.moveaxis(image, -1, 0)], axis=-1)


@pytest.mark.parametrize('shape', [(8, 8, 1), (7, 12, 3), (1, 5, 1)])
def test_views_are_scipys(shape):
  """Random maps of random images, colour and not square too."""
  image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
  maps = draw_maps(jax.random.key(1), 5, options())
  views = jax.vmap(transform, (None, 0))(jnp.asarray(image), maps)
  for view, matrix, shift in zip(views, np.asarray(maps.matrix, np.float64),
                                 np.asarray(maps.shift, np.float64)):
    np.testing.assert_allclose(view, by_scipy(image, matrix, shift), atol=1e-4)


def test_no_change_and_a_whole_pixel():
  """The identity returns the image; a shift of a pixel repeats the edge."""
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 4, 1)), jnp.float32)
  same = AffineMaps(jnp.eye(2), jnp.zeros(2))
  np.testing.assert_allclose(transform(image, same), image, atol=1e-6)
  down = transform(image, AffineMaps(jnp.eye(2), jnp.asarray([.25, 0.])))
  np.testing.assert_allclose(down, np.concatenate([image[1:], image[-1:]]), atol=1e-6)


def test_all_zero_options_change_nothing():
  """Standard deviations of 0 give identities."""
  maps = draw_maps(jax.random.key(0), 3, options(**dict.fromkeys(OPTIONS, 0.)))
  np.testing.assert_array_equal(maps.matrix, np.broadcast_to(np.eye(2), (3, 2, 2)))
  np.testing.assert_array_equal(maps.shift, np.zeros((3, 2)))


@pytest.mark.parametrize('name, recover', [
    ('rotation', lambda m: np.arctan2(m.matrix[:, 1, 0], m.matrix[:, 0, 0])),
    ('scale', lambda m: np.log(m.matrix[:, 0, 0])),
    ('shear', lambda m: m.matrix[:, 1, 0]),
    ('shift', lambda m: m.shift[:, 0])])
def test_spread_is_the_options(name, recover):
  """Alone, each has mean 0 and the standard deviation asked for (4 standard errors)."""
  num = 4000
  alone = options(**{other: 0. for other in OPTIONS if other != name})
  values = np.asarray(recover(draw_maps(jax.random.key(2), num, alone)))
  sigma = OPTIONS[name]
  assert abs(values.mean()) < 4 * sigma / num**.5
  assert abs(values.std() - sigma) < 4 * sigma / (2 * num)**.5


def test_shear_leaves_one_axis_alone():
  """The matrix of a slant: ones and a zero, but for one number."""
  maps = draw_maps(jax.random.key(2), 5, options(**{
      name: 0. for name in OPTIONS if name != 'shear'}))
  matrix = np.asarray(maps.matrix)
  np.testing.assert_array_equal(matrix[:, 0], np.broadcast_to([1., 0.], (5, 2)))
  np.testing.assert_array_equal(matrix[:, 1, 1], np.ones(5))
  assert len(set(matrix[:, 1, 0])) == 5


def test_all_parts_are_independent():
  """Rotation, both scales, shear and both shifts, told from the maps: correlations of 0
  (4 standard errors), and the spreads asked for."""
  num = 4000
  maps = draw_small_maps(jax.random.key(5), num, options())
  matrix = np.asarray(maps.matrix, np.float64)
  angle = np.arctan2(-matrix[:, 0, 1], matrix[:, 1, 1])
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
  rest = turn @ matrix  # [[a, 0], [shear a, b]]
  np.testing.assert_allclose(rest[:, 0, 1], 0, atol=1e-6)
  parts = np.stack([angle, np.log(rest[:, 0, 0]), np.log(rest[:, 1, 1]),
                    rest[:, 1, 0] / rest[:, 0, 0], *np.asarray(maps.shift).T])
  correlation = np.corrcoef(parts)[np.triu_indices(6, 1)]
  assert np.abs(correlation).max() < 4 / num**.5
  spread = [OPTIONS[name] for name in ('rotation', 'scale', 'scale', 'shear', 'shift',
                                       'shift')]
  np.testing.assert_allclose(parts.std(axis=1), spread, rtol=4 / (2 * num)**.5)


@pytest.mark.parametrize('name, axis', [('flip', 1), ('upside_down', 0)])
def test_exchanges(name, axis):
  """Alone and at 1 every view is NumPy's mirror image; at .3 that share is."""
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, 8, 3)), jnp.float32)
  alone = dict.fromkeys(OPTIONS, 0.)
  maps = draw_maps(jax.random.key(3), 4, options(**alone | {name: 1.}))
  for view in jax.vmap(transform, (None, 0))(image, maps):
    np.testing.assert_allclose(view, np.flip(image, axis=axis), atol=1e-6)
  num = 4000
  maps = draw_maps(jax.random.key(4), num, options(**alone | {name: .3}))
  share = float(np.mean(np.asarray(maps.matrix)[:, axis, axis] < 0))
  assert abs(share - .3) < 4 * (.3 * .7 / num)**.5


def test_quarter_turns():
  """One, two and three are NumPy's, each as often; at .6 that share is turned at all."""
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 6, 3)), jnp.float32)
  num = 3000
  maps = draw_maps(jax.random.key(3), num, options(
      **dict.fromkeys(OPTIONS, 0.) | {'quarter_turns': .6}))
  views = np.asarray(jax.vmap(transform, (None, 0))(image, maps))
  turned = np.stack([np.rot90(image, quarters) for quarters in range(4)])
  away = np.abs(views[:, None] - turned).max(axis=(2, 3, 4))
  np.testing.assert_allclose(away.min(axis=1), 0, atol=1e-5)
  for found, share in zip(np.bincount(away.argmin(axis=1)) / num, (.4, .2, .2, .2)):
    assert abs(found - share) < 4 * (share * (1 - share) / num)**.5


def test_views_are_mirrored_and_turned_at_last():
  """The small map of the same key, then the exchange of left and right, then a turn."""
  image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 6, 1)), jnp.float32)
  both = options(flip=1., upside_down=0., quarter_turns=1.)
  small = draw_small_maps(jax.random.key(3), 9, both)
  maps = draw_maps(jax.random.key(3), 9, both)
  np.testing.assert_array_equal(maps.shift, small.shift)
  for number in range(9):
    view = transform(image, jax.tree.map(lambda a: a[number], maps))
    one = jax.tree.map(lambda a: a[number], small)
    mirrored = np.asarray(transform(image, one))[:, ::-1]
    assert min(np.abs(view - np.rot90(mirrored, quarters)).max()
               for quarters in (1, 2, 3)) < 1e-4
