"""A fit whose start is by recognition: it goes on telling the clusters of new images."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
from sklearn import datasets

import jdiffclust
from jdiffclust import exploring
from jdiffclust.clustering.starts import recognition
from jdiffclust.config import fitted_config
from jdiffclust.data.dataset import load_source
from jdiffclust.files import read_npz
from jdiffclust.progress import Reporter
from tests.helpers import check_error, predicted

OPTIONS = ('start.kind=recognition', 'recognition.channels=8', 'recognition.steps=60',
           'recognition.batch_size=16', 'views.num=4', 'views.sets=1')
CDDPM = 'em.posterior=amortised', 'posterior.channels=8'
OTHER = 'method=cluster_ddpm', 'latent.size=4'
FINER = *CDDPM, 'data.image_size=4'  # of which recognition sees 8x8
IMAGES = datasets.load_digits().images.astype(np.uint8)[:60]
KEPT = 'recogniser.npz'


pytestmark = pytest.mark.usefixtures('promotion')


@pytest.fixture(scope='module')
def options(tmp_path_factory):
  """Of a fit of 60 digits in a file."""
  path = tmp_path_factory.mktemp('data') / 'digits.npz'
  np.savez(path, images=IMAGES)
  return *OPTIONS, *CDDPM, 'data.source=npz', f'data.path={path}', 'data.max_images=0'


@pytest.fixture(scope='module')
def run(commands, options, tmp_path_factory):
  """The workdir of a fit."""
  path = tmp_path_factory.mktemp('recognised') / 'run'
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    outcome = commands.fit(path, *options)
  assert outcome.code == 0, outcome.err
  assert 'start (recognition): 100%' in outcome.err
  return path


@pytest.mark.parametrize('method', [(), OTHER, FINER])
def test_the_fits_images_keep_their_clusters(method, commands, run, options, tmp_path):
  """Given as new ones, by the library and by the command: at most one of 60 moves."""
  if method:
    run, options = tmp_path / 'run', [
        *(option for option in options if option not in CDDPM), *method]
    assert commands.fit(run, *options).code == 0
  else:
    run = shutil.copytree(run, tmp_path / 'run')
  fitted = jdiffclust.load(run, build=commands.build)
  assert fitted.recogniser.image_shape == (8, 8, 1)
  assert fitted.method.image_shape == ((4, 4, 1) if method == FINER else (8, 8, 1))
  again = fitted.assign(IMAGES).responsibilities.argmax(axis=1)
  assert (again == fitted.clusters).sum() >= 59
  outcome = commands.small('--mode=predict', f'--workdir={run}', *(
      f'--config.{option}' for option in options if option.startswith('data.')))
  assert outcome.code == 0, outcome.err
  np.testing.assert_array_equal(predicted(run), again)


def test_the_page_compares_by_the_features_of_the_fit(commands, run, monkeypatch):
  """Networks do not look at the images again, which are known by their bytes."""
  fitted = jdiffclust.load(run, build=commands.build)
  features = fitted.recogniser.features
  expected = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
  monkeypatch.setattr(recognition, 'describe', None)
  source = load_source(fitted_config(run).data)
  found = exploring.looks_of(fitted.recogniser, *2 * [np.zeros(0)], source,
                             Reporter(quiet=True))
  np.testing.assert_array_equal(found.features, read_npz(run / 'gallery.npz')['features'])
  np.testing.assert_allclose(found.features, expected.reshape(len(IMAGES), -1), 1e-6)


def test_in_memory_as_from_the_folder(commands, run):
  """`fit` and `load` give the same clusters of images that neither has seen."""
  fitted = jdiffclust.load(run, build=commands.build)
  new = datasets.load_digits().images.astype(np.uint8)[60:90]
  here = jdiffclust.fit(fitted_config(run), IMAGES, build=commands.build)
  np.testing.assert_array_equal(here.responsibilities, fitted.responsibilities)
  np.testing.assert_array_equal(*(one.assign(new).responsibilities
                                  for one in (here, fitted)))


@pytest.mark.parametrize('damage', [
    pathlib.Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:999]),
    lambda path: path.write_bytes(b'')])
def test_a_lost_recogniser(damage, commands, run, options, tmp_path):
  """One line that names it; the fit that goes on says so, too."""
  run = shutil.copytree(run, tmp_path / 'run')
  damage(run / KEPT)
  assert read_npz(run / KEPT) is None
  for flags in (['--mode=predict'], []):
    check_error(commands.fit(run, *options, flags=flags), KEPT, 'missing or damaged')


def test_a_resumed_run_keeps_it(commands, run, options, tmp_path):
  """Cut after the start: the same end, and the same file."""
  cut = shutil.copytree(run, tmp_path / 'run')
  numbers = sorted(int(path.name) for path in (cut / 'checkpoints').iterdir())
  shutil.rmtree(cut / 'checkpoints' / str(numbers[-1]))
  assert commands.fit(cut, *options).code == 0
  one, two = (jdiffclust.load(path, build=commands.build) for path in (run, cut))
  np.testing.assert_array_equal(one.responsibilities, two.responsibilities)
  assert (cut / KEPT).read_bytes() == (run / KEPT).read_bytes()


def test_one_cluster_has_no_recogniser(commands, options, tmp_path):
  """There is nothing to tell: the fit is loaded and assigns all the same."""
  run = tmp_path / 'run'
  outcome = commands.fit(run, *options, 'num_clusters=1', 'em.max_iterations=1')
  assert outcome.code == 0, outcome.err
  assert not (run / KEPT).exists()
  fitted = jdiffclust.load(run, build=commands.build)
  assert fitted.recogniser is None
  np.testing.assert_array_equal(fitted.assign(IMAGES).responsibilities, np.ones((60, 1)))
