"""The sets of images that a seed makes for the benchmarks."""

import numpy as np
import pytest

from benchmarks.clustering import made
from jdiffclust.data.symmetry import MAPS, find

# The maps that each set is made symmetric by.
SYMMETRIC = {'strokes': {'flip'}, 'textures': set(MAPS), 'shapes': {'flip'},
             'letters': set(), 'signs': {'flip'}}


@pytest.mark.parametrize('name', made.SETS)
def test_sets_are_as_they_say(name):
  """Of the seed alone; float32 in [-1, 1]; every class about as often."""
  kinds, _ = made.SETS[name]
  images, labels = made.draw(name, 3, 400)
  channels = 3 if name == 'shapes' else 1
  assert images.shape == (400, made.SIDE, made.SIDE, channels)
  assert images.dtype == np.float32 and np.abs(images).max() <= 1
  share = 1 / len(kinds)
  counts = np.bincount(labels, minlength=len(kinds)) / 400
  assert np.abs(counts - share).max() < 4 * (share * (1 - share) / 400)**.5
  again, other = made.draw(name, 3, 400), made.draw(name, 4, 400)
  np.testing.assert_array_equal(images, again.images)
  np.testing.assert_array_equal(labels, again.labels)
  assert np.abs(images - other.images).max() > .5


@pytest.mark.parametrize('name', made.SETS)
def test_sets_have_their_symmetries(name):
  """As the rule finds them: all that the set was made with, and no other."""
  found = find(made.draw(name, 0, 600).images)
  assert {by for by, one in found.items() if one.holds} == SYMMETRIC[name]


def test_forms_and_colours_alone():
  """Some shapes differ in colour alone, others in form alone."""
  forms, hues = zip(*made.COLOURED)
  assert len(set(made.COLOURED)) == 8
  assert all(forms.count(form) > 1 for form in forms)
  assert all(hues.count(hue) > 1 for hue in hues)


def test_stored_images():
  """Grey without a channel, colour with three; a picture of both."""
  for name, shape in (('strokes', (60, 28, 28)), ('shapes', (60, 28, 28, 3))):
    images = made.draw(name, 0, 60)
    found = made.stored(images.images)
    assert found.shape == shape and found.dtype == np.uint8
    np.testing.assert_allclose(found.reshape(images.images.shape) / 127.5 - 1,
                               images.images, atol=1 / 255 + 1e-6)
    sheet = made.contact_sheet(images, 2)
    assert sheet.shape == ((images.labels.max() + 1) * 30, 60, 3)
