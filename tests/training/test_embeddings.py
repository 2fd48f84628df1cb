"""A fit whose embeddings decide: what the command makes of them, from the fit on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jdiffclust
from jdiffclust.evaluation.scores import accuracy
from tests.helpers import check_error, predicted, summary_of
from tests.tiny import Small, build, small

COUNT = 60
LABELS = np.arange(COUNT) % 3
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (COUNT, 8, 8)).astype(np.uint8)
VECTORS = (np.eye(3)[LABELS] @ RNG.normal(size=(3, 6))
           + .1 * RNG.normal(size=(COUNT, 6))).astype(np.float32)


pytestmark = pytest.mark.usefixtures('promotion')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Noise and its embeddings, in files."""
  path = tmp_path_factory.mktemp('data')
  np.savez(path / 'noise.npz', images=NOISE, labels=LABELS)
  np.save(path / 'vectors.npy', VECTORS)
  return path


@pytest.fixture(scope='module')
def options(folder):
  return ('start.kind=recognition', 'recognition.channels=8', 'recognition.steps=4',
          'recognition.batch_size=16', 'em.posterior=amortised', 'posterior.channels=8',
          'em.max_iterations=1', 'data.source=npz', f'data.path={folder}/noise.npz',
          'data.max_images=0', 'views.flip=0', 'views.upside_down=0',
          'views.quarter_turns=0', f'data.embeddings={folder}/vectors.npy')


@pytest.fixture(scope='module')
def run(commands, options, tmp_path_factory):
  """The workdir of a fit."""
  return commands.new_workdir(tmp_path_factory, 'embedded', *options)


def test_the_clusters_are_those_of_the_embeddings(run):
  """Of noise; the config and the summary say by what."""
  summary = summary_of(run)
  assert summary['init']['acc'] == summary['acc'] == 1
  assert summary['baselines']['kmeans_of_embeddings']['acc'] == 1
  assert summary['baselines']['kmeans']['acc'] < .7
  assert summary['embeddings'] == {'size': 6, 'beside': [], 'distance': 'cosine'}
  config = json.loads((run / 'config.json').read_bytes())
  assert config['start']['spaces'] == ['embeddings']


def test_other_embeddings_do_not_go_on(commands, run, options, folder, tmp_path):
  """The first that differs is named; nor may they be missing."""
  *rest, _ = options
  changed = VECTORS.copy()
  changed[[7, 9]] += 1
  np.save(tmp_path / 'changed.npy', changed)
  before = sorted(run.rglob('*'))
  check_error(commands.fit(run, *rest, f'data.embeddings={tmp_path}/changed.npy'),
              "image 7 ('7')")
  check_error(commands.fit(run, *rest), 'have none now', 'data.embeddings')
  check_error(commands.fit(run, *options, "start.spaces=('pixels','embeddings')"),
              'start.spaces')
  assert sorted(run.rglob('*')) == before
  shutil.copy(folder / 'vectors.npy', tmp_path / 'moved.npy')
  assert commands.fit(run, *rest, f'data.embeddings={tmp_path}/moved.npy').code == 0


def test_images_nearest_to_a_file(commands, run, tmp_path):
  """A file has none of the embeddings that the fit had."""
  Image.fromarray(NOISE[8]).save(tmp_path / 'new.png')
  outcome = commands.small('--mode=similar', f'--workdir={run}',
                           f'--image={tmp_path}/new.png')
  assert outcome.code == 0, outcome.err
  assert outcome.out.splitlines()[2].split()[-1] == '8'


def test_predict(commands, run, folder, tmp_path):
  """By their own embeddings, or by the network: the command says which."""
  run = shutil.copytree(run, tmp_path / 'run')
  clusters = jdiffclust.load(run, build=build).clusters
  np.savez(tmp_path / 'new.npz', images=NOISE[::-1][:30])
  np.save(tmp_path / 'new.npy', VECTORS[:30])
  ask = lambda *more: commands.small('--mode=predict', f'--workdir={run}', *(
      f'--config.data.{option}' for option in (f'path={tmp_path}/new.npz', *more)))
  outcome = ask(f'embeddings={tmp_path}/new.npy')
  assert outcome.code == 0, outcome.err
  assert outcome.out.rstrip().endswith('\nThe clusters are told by embeddings, as in the '
                                       'fit.')
  np.testing.assert_array_equal(predicted(run), clusters[:30])
  outcome = ask()  # those of the fit are not those of other images
  assert outcome.code == 0, outcome.err
  assert 'told by a network' in outcome.out
  np.testing.assert_array_equal(predicted(run), clusters[::-1][:30])
  np.save(tmp_path / 'new.npy', VECTORS[:30, :5])
  check_error(ask(f'embeddings={tmp_path}/new.npy'), '5 numbers', 'the fit have 6')
  check_error(ask(f'embeddings={folder}/vectors.npy'), '60 vectors', '30 images')


def test_evaluate_and_more_images_than_the_start(commands, options, tmp_path):
  """Of 60 images the start is fitted to 30, by whose embeddings the others are told."""
  run = tmp_path / 'run'
  outcome = commands.fit(run, *options, 'em.schedule=stepwise', 'start.max_images=30')
  assert outcome.code == 0, outcome.err
  before = summary_of(run)
  assert before['init']['acc'] == 1
  outcome = commands.small('--mode=evaluate', f'--workdir={run}',
                           '--config.quality.num_images=0')
  assert outcome.code == 0, outcome.err
  assert summary_of(run)['init'] == before['init']


def test_starts_that_would_not_look(commands, options, tmp_path):
  """Nothing is written."""
  for more, fragment in (('start.kind=kmeans', 'kmeans'),
                         ('start.spaces=edges', "('edges',)"),
                         ('method=sr3', 'sr3')):
    number = ('num_clusters=1',) * (more == 'method=sr3')
    check_error(commands.fit(tmp_path / 'no', *options, more, *number),
                'would have no effect', fragment)
  *rest, _ = options
  check_error(commands.fit(tmp_path / 'no', *rest, "start.spaces=('embeddings',)"),
              'there are none', 'config.data.embeddings')
  assert not (tmp_path / 'no').exists()


def test_the_estimator_of_a_run(run):
  """Predicts by embeddings, or by the network; both of some of the fit's own images."""
  model = Small.load(run)
  found = model.predict_proba(NOISE[:4], embeddings=VECTORS[::-1][:4])
  np.testing.assert_array_equal(found.argmax(axis=1), model.labels_[::-1][:4])
  np.testing.assert_array_equal(model.predict(NOISE[:4]), model.labels_[:4])
  with pytest.raises(ValueError, match='4 images'):
    model.predict(NOISE[:4], embeddings=VECTORS[:5])


def test_fits_of_the_estimator(folder):
  """Of an array or a file; those that keep no neighbours ask for no embeddings."""
  for given in (VECTORS, folder / 'vectors.npy'):
    model = small(options={'start.kind': 'neighbours'})
    assert accuracy(LABELS, model.fit_predict(NOISE, embeddings=given)) == 1
  with pytest.raises(ValueError, match='keeps none'):
    model.predict(NOISE[:2], embeddings=VECTORS[:2])
