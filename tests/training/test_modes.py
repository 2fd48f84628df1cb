"""predict, sample and evaluate on a fitted workdir; what they refuse."""

import csv
import json
import shutil

import hypothesis
import jax
from hypothesis import strategies as st
import matplotlib.image
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import jdiffclust
from jdiffclust.clustering.cddpm.density import Densities
from jdiffclust.fitted import Fitted
from jdiffclust.deciding import share_below
from tests.helpers import check_error, summary_of


@pytest.fixture
def run(plain, tmp_path):
  """A copy of a fitted workdir."""
  return shutil.copytree(plain, tmp_path / 'run')


def read_predictions(workdir):
  """The rows of predictions.csv."""
  with open(workdir / 'predictions.csv', newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_predict_agrees_with_the_fit(commands, run):
  """The fit's own images, by other draws: mostly the clusters of the fit."""
  tau = np.load(run / 'responsibilities.npy')
  outcome = commands.fit(run, 'predict.num_draws=64', flags=['--mode=predict'])
  assert outcome.code == 0, outcome.err
  rows = read_predictions(run)
  assert [row['index'] for row in rows] == [str(i) for i in range(60)]
  digits = datasets.load_digits().target
  assert [row['label'] for row in rows] == [str(digits[int(row['id'])]) for row in rows]
  sure = tau.max(1) >= np.quantile(tau.max(1), .6)
  found = np.array([int(row['cluster']) for row in rows])
  assert sure.sum() > 10
  assert (found == tau.argmax(1))[sure].mean() > .8


def test_predict_new_images(commands, run, tmp_path):
  """Images from a file, of a number that no batch (30, as of the fit's 60) divides;
  deterministic."""
  images = datasets.load_digits().images[60:119].astype(np.uint8)
  found = []
  for _ in range(2):
    np.savez(tmp_path / 'new.npz', images=images * 15)
    outcome = commands.fit(run, 'data.source=npz', f'data.path={tmp_path}/new.npz',
                           'data.range=(0,255)', flags=['--mode=predict'])
    assert outcome.code == 0, outcome.err
    assert '256 grey levels' in outcome.err  # not the 17 of the digits
    found.append(read_predictions(run))
  assert len(found[0]) == 59 and found[0] == found[1]


def test_predict_marks_images_that_belong_nowhere(commands, run, tmp_path):
  """Noise and flat images are foreign, with a reason; the fit's own are not."""
  noise = np.random.default_rng(0).integers(0, 17, (30, 8, 8)).astype(np.uint8)
  noise[20:] = np.linspace(0, 16, 10, dtype=np.uint8)[:, None, None]
  np.savez(tmp_path / 'noise.npz', images=noise)
  found = {}
  for name, options in {'own': [], 'noise': [
      'data.source=npz', f'data.path={tmp_path}/noise.npz', 'data.range=(0,16)']}.items():
    outcome = commands.fit(run, 'predict.foreign_share=.05', *options,
                           flags=['--mode=predict'])
    assert outcome.code == 0, outcome.err
    assert 'warning' not in outcome.err
    found[name] = read_predictions(run)
    count = sum(row['foreign'] == 'yes' for row in found[name])
    assert f'{count} of them foreign to all clusters' in outcome.out
    assert all((row['foreign'] == 'yes') == bool(row['why']) for row in found[name])
  assert [row['foreign'] for row in found['noise']] == ['yes'] * 30
  assert {row['why'] for row in found['noise'][20:]} == {'too plain'}
  # 3 on average; more than 8 once in a thousand.
  assert sum(row['foreign'] == 'yes' for row in found['own']) <= 8


def test_typicality_is_a_rank(commands, tmp_path):
  """It is about uniform on the fit's own images, and lower on noise."""
  noise = np.random.default_rng(0).integers(0, 17, (60, 8, 8)).astype(np.uint8)
  np.savez(tmp_path / 'noise.npz', images=noise)
  run, found = tmp_path / 'run', {}
  longer = 'm_step.num_steps=150', 'em.max_iterations=1'
  assert commands.fit(run, *longer).code == 0
  for name, options in {'own': [], 'noise': ['data.source=npz',
                                             f'data.path={tmp_path}/noise.npz']}.items():
    outcome = commands.fit(run, *longer, *options, flags=['--mode=predict'])
    assert outcome.code == 0, outcome.err
    found[name] = np.mean([float(row['typicality']) for row in read_predictions(run)])
  # 60 independent uniform numbers have a mean of .5 +- .04. The network is too small,
  # and trained too little, to tell noise with certainty.
  assert abs(found['own'] - .5) < .15 and found['noise'] < found['own'] - .1


def test_predict_by_an_older_workdir(commands, run):
  """Without a reference the bound decides, as one line says; evaluate writes it."""
  before = dict(np.load(run / 'foreign.npz'))
  (run / 'foreign.npz').unlink()
  share = 'predict.foreign_share=.2'
  outcome = commands.fit(run, share, flags=['--mode=predict'])
  assert outcome.err.count('has no foreign.npz') == 1
  for row in read_predictions(run):
    below = round(float(row['typicality']) * 60)
    # An image of the fit may be its own equal, or not, by the draws.
    assert (row['foreign'] == 'yes') in {(1 + k) / 61 <= .2 for k in (below, below + 1)}
    assert row['why'] == ('unlikely' if row['foreign'] == 'yes' else '')
  outcome = commands.small('--mode=evaluate', f'--workdir={run}',
                           '--config.quality.num_images=0')
  assert outcome.code == 0, outcome.err
  for name, array in np.load(run / 'foreign.npz').items():
    np.testing.assert_array_equal(array, before[name])


def test_a_false_alarm_rate_that_needs_more_images(commands, run):
  """By 60 images nothing is rarer than 1 in 61: one line says so, nothing is foreign."""
  outcome = commands.fit(run, flags=['--mode=predict'])
  assert 'foreign_share = 0.01' in outcome.err and '0.016' in outcome.err
  assert {row['foreign'] for row in read_predictions(run)} == {'no'}


def test_predict_with_likelihood(commands, run):
  """Two more columns; they do not depend on the batches; the mean is told in bits."""
  found = {}
  for name, options in {'a': [], 'b': ['e_step.batch_size=10']}.items():
    outcome = commands.small(
        '--mode=predict', f'--workdir={run}', '--config.data.max_images=30',
        '--config.predict.likelihood=True', '--config.predict.ode_steps=6',
        *(f'--config.{option}' for option in options))
    assert outcome.code == 0, outcome.err
    found[name] = np.array([[float(row['log_likelihood']),
                             float(row['log_likelihood_error'])]
                            for row in read_predictions(run)])
  assert found['a'].shape == (30, 2) and np.isfinite(found['a']).all()
  np.testing.assert_allclose(found['a'], found['b'], atol=.02)
  assert (found['a'][:, 1] > 0).all()
  bits = -found['a'][:, 0].mean() / (64 * np.log(2))
  assert f'{bits:.3f} by the probability-flow ODE' in outcome.out


def test_the_likelihood_of_an_image_is_that_of_its_grey_levels(commands, run,
                                                               monkeypatch):
  """The log density and, for each of 64 pixels, the width of 17 bins: log 2/16."""
  density = np.linspace(-50, 50, 30)
  monkeypatch.setattr(Fitted, 'log_density', lambda *_, **__: Densities(
      np.zeros((30, 3)), density, np.full(30, .5)))
  outcome = commands.small(
      '--mode=predict', f'--workdir={run}', '--config.data.max_images=30',
      '--config.predict.likelihood=True')
  assert outcome.code == 0, outcome.err
  rows = read_predictions(run)
  np.testing.assert_allclose([float(row['log_likelihood']) for row in rows],
                             density + 64 * np.log(2 / 16), atol=.006)
  assert {row['log_likelihood_error'] for row in rows} == {'0.50'}


@hypothesis.given(st.lists(st.integers(-5, 5)), st.lists(st.integers(-5, 5), min_size=1))
def test_share_below_is_counted(values, reference):
  """Against counting one by one, ties included."""
  found = share_below(np.asarray(values, float), np.asarray(reference, float))
  expected = [sum(r < v for r in reference) / len(reference) for v in values]
  np.testing.assert_allclose(found, expected)


def test_predict_refuses_other_types_of_images(commands, run, tmp_path):
  """Real-valued images for a model of 17 levels."""
  images = np.random.default_rng(0).uniform(-1, 1, (30, 8, 8)).astype(np.float32)
  np.savez(tmp_path / 'new.npz', images=images)
  outcome = commands.fit(run, 'data.source=npz', f'data.path={tmp_path}/new.npz',
                         flags=['--mode=predict'])
  check_error(outcome, 'whole numbers', '0 to 16', 'config.data.range="(-1,1)"')
  assert not (run / 'predictions.csv').exists()
  outcome = commands.fit(run, 'data.source=npz', f'data.path={tmp_path}/new.npz',
                         'data.range=(-1,1)', flags=['--mode=predict'])
  assert outcome.code == 0, outcome.err
  assert len(read_predictions(run)) == 30


@pytest.mark.parametrize('mode, option, before', [
    ('predict', 'num_clusters=9', '3'), ('sample', 'num_clusters=9', '3'),
    ('predict', 'data.image_size=4', '0'), ('sample', 'data.max_images=9', '60'),
    ('evaluate', 'e_step.num_draws=8', '4'), ('sample', 'predict.num_draws=8', '0')])
@pytest.mark.parametrize('with_config', [False, True])
def test_options_that_a_mode_cannot_use_are_refused(mode, option, before, with_config,
                                                    commands, run):
  """Naming the value, that of the fit, and what the mode reads."""
  config = ['--config=configs/digits.py'] if with_config else []
  outcome = commands.small(f'--mode={mode}', f'--workdir={run}', *config,
                           f'--config.{option}')
  name, _, value = option.partition('=')
  check_error(outcome, f'config.{name} = {value}', f'has {before}.',
              'config.num_devices', '--mode=' + mode)


def test_another_method_than_that_of_the_fit(commands, plain):
  """It cannot be used: what else it would need is no help."""
  outcome = commands.small('--mode=predict', f'--workdir={plain}',
                           '--config.method=sr3')
  check_error(outcome, "cannot use config.method = 'sr3'", "has 'cddpm'. Leave it out")
  assert 'num_clusters to 1' not in outcome.err


def test_undo_is_of_no_images(commands, plain, tmp_path):
  """Whoever names some means something else than the last ones."""
  np.save(tmp_path / 'x.npy', np.zeros((3, 8, 8), np.uint8))
  outcome = commands.small(tmp_path / 'x.npy', '--mode=add', '--undo',
                           f'--workdir={plain}')
  check_error(outcome, 'added last', "x.npy' out")


def test_images_that_are_not_square(commands, tmp_path):
  """A height and a width of the fit's; new images of other sizes become these."""
  rng = np.random.default_rng(0)
  np.savez(tmp_path / 'x.npz', images=rng.integers(0, 256, (60, 10, 14), np.uint8))
  np.savez(tmp_path / 'new.npz', images=rng.integers(0, 256, (30, 20, 20), np.uint8))
  options = ['data.source=npz', f'data.path={tmp_path}/x.npz', 'data.image_size=(6,8)',
             'data.fit=squash']
  assert commands.fit(tmp_path / 'run', *options).code == 0
  assert np.load(tmp_path / 'run' / 'responsibilities.npy').shape == (60, 3)
  outcome = commands.fit(tmp_path / 'run', 'data.source=npz',
                         f'data.path={tmp_path}/new.npz', flags=['--mode=predict'])
  assert outcome.code == 0 and len(read_predictions(tmp_path / 'run')) == 30
  assert 'images of 20x20 are resized to 6x8' in outcome.err
  assert 'fit=squash' in outcome.err
  outcome = commands.small('--mode=sample', f'--workdir={tmp_path}/run')
  assert outcome.code == 0
  assert np.load(tmp_path / 'run' / 'samples.npy').shape == (3, 2, 6, 8, 1)


def test_predict_without_config(commands, run):
  """Without --config the data of the fit are meant."""
  outcome = commands.small('--mode=predict', f'--workdir={run}',
                           '--config.data.max_images=30')
  assert outcome.code == 0, outcome.err
  assert len(read_predictions(run)) == 30


def test_sample_is_deterministic(commands, run):
  """[k, n, H, W, C] float32, the same from any batch size; another seed differs."""
  found = {}
  for name, options in {'a': [], 'b': [], 'small batch': ['sample.batch_size=4'],
                        'seed': ['sample.seed=1'],
                        'two': ['sample.clusters=(0,2)']}.items():
    flags = [f'--config.{option}' for option in ['sample.num_images=3', *options]]
    outcome = commands.small('--mode=sample', f'--workdir={run}', *flags)
    assert outcome.code == 0 and outcome.err.count('error') == 0, outcome.err
    found[name] = np.load(run / 'samples.npy')
  assert found['a'].shape == (3, 3, 8, 8, 1) and found['a'].dtype == np.float32
  assert np.isfinite(found['a']).all() and np.ptp(found['a']) > 0
  np.testing.assert_array_equal(found['a'], found['b'])
  np.testing.assert_allclose(found['a'], found['small batch'], atol=1e-5)
  assert np.abs(found['a'] - found['seed']).max() > .1
  np.testing.assert_allclose(found['two'], found['a'][[0, 2]], atol=1e-5)
  assert matplotlib.image.imread(run / 'samples.png').ndim == 3


@pytest.mark.parametrize('clusters', ['(3,)', '(0,3)'])
def test_sample_of_a_cluster_that_is_not_there(clusters, commands, run):
  """It is named, with what there is; with the config of the fit or of digits.py."""
  for config in ([], [commands.config]):
    outcome = commands.small('--mode=sample', f'--workdir={run}', *config,
                             f'--config.sample.clusters={clusters}')
    check_error(outcome, 'cluster 3', '0..2')
  assert not (run / 'samples.npy').exists()


@pytest.mark.parametrize('options', [
    ['sampler=ddim', 'num_steps=5', 'eta=.5'],
    ['sampler=heun', 'num_steps=4', 'grid=karras'],
    ['sampler=predictor_corrector', 'num_steps=4', 'snr=.1', 'corrections=2'],
    ['guidance=2', 'num_steps=5']], ids=' '.join)
def test_other_samplers(options, commands, run):
  """Images of the usual shape, finite, and not those of the default."""
  of = lambda *more: commands.small(
      '--mode=sample', f'--workdir={run}', '--config.sample.num_images=2',
      *(f'--config.sample.{option}' for option in more))
  assert of().code == 0
  default = np.load(run / 'samples.npy')
  outcome = of(*options)
  assert outcome.code == 0, outcome.err
  found = np.load(run / 'samples.npy')
  assert found.shape == default.shape and np.isfinite(found).all()
  assert np.abs(found - default).max() > .01


@pytest.mark.parametrize('options, unread', [
    (['eta=.5', 'num_steps=5'], ['eta = 0.5']),
    (['sampler=heun', 'num_steps=4', 'snr=.1', 'predictor=euler_maruyama'],
     ['predictor =', 'snr = 0.1']),
    (['sampler=ddim', 'num_steps=5', 'eta=.5'], [])], ids=' '.join)
def test_options_of_another_sampler(options, unread, commands, run):
  """Each is told, with the samplers that read it."""
  outcome = commands.small(
      '--mode=sample', f'--workdir={run}', '--config.sample.num_images=1',
      *(f'--config.sample.{option}' for option in options))
  assert outcome.code == 0, outcome.err
  lines = [line for line in outcome.err.splitlines() if 'has no effect' in line]
  assert len(lines) == len(unread)
  for line, fragment in zip(lines, unread):
    assert fragment in line and 'would' in line


def test_the_picture_of_a_fit_does_not_bind_other_calls(commands, run):
  """A fit whose samples lead from one cluster to another draws and restores the rest."""
  kept = json.loads((run / 'config.json').read_bytes())
  kept['sample'] |= {'interpolate': 4, 'clusters': [0, 1], 'trajectory': 3}
  (run / 'config.json').write_text(json.dumps(kept))
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    fitted = jdiffclust.load(run, build=commands.build)
  assert fitted.sample((0, 1), num_images=1).images.shape[0] == 2
  config = fitted.with_options('restore', {})
  assert config.sample.interpolate == config.sample.trajectory == 0


def test_number_of_evaluations_is_told(commands, run):
  """Heun's method takes two a step, but for the last one; a film of before is gone."""
  (run / 'trajectory.gif').write_bytes(b'of other samples')
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.sampler=heun', '--config.sample.num_steps=4')
  assert 'by heun in 7 network evaluations each' in outcome.out
  assert not (run / 'trajectory.gif').exists()


def test_interpolation_goes_from_one_cluster_to_the_other(commands, run):
  """Its first row is the first cluster's own images; then they change bit by bit."""
  commands.small('--mode=sample', f'--workdir={run}', '--config.sample.num_images=2')
  own = np.load(run / 'samples.npy')
  outcome = commands.small(
      '--mode=sample', f'--workdir={run}', '--config.sample.num_images=2',
      '--config.sample.clusters=2,0', '--config.sample.interpolate=4')
  assert outcome.code == 0, outcome.err
  rows = np.load(run / 'samples.npy')
  assert rows.shape == (4, *own.shape[1:])
  np.testing.assert_allclose(rows[0], own[2], atol=1e-5)
  steps = np.abs(np.diff(rows, axis=0)).max(axis=(1, 2, 3, 4))
  assert (steps > 0).all() and steps.max() < np.abs(rows[-1] - rows[0]).max() + 1e-6


def test_trajectory(commands, run):
  """A film strip and a GIF of as many frames, beside the usual images."""
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.num_images=2', '--config.sample.trajectory=5')
  assert outcome.code == 0, outcome.err
  assert matplotlib.image.imread(run / 'trajectory.png').ndim == 3
  with Image.open(run / 'trajectory.gif') as film:
    assert film.n_frames == 5 and film.info['loop'] == 0
    film.seek(4)
    last = np.asarray(film.convert('L'), float)
  # The last frame shows the images: 3 rows of 2, 16 pixels each of the GIF's a pixel.
  images = np.load(run / 'samples.npy')[..., 0]
  sheet = np.concatenate([np.concatenate(row, axis=1) for row in images])
  shown = last.reshape(24, 16, 16, 16).mean(axis=(1, 3))
  np.testing.assert_allclose(shown, np.clip(sheet * 127.5 + 127.5, 0, 255), atol=4)


@pytest.mark.parametrize('options, fragments', [
    (['num_steps=21'], ['21', '20']),
    (['trajectory=22'], ['config.sample.trajectory', '2..21']),
    (['interpolate=3'], ['interpolate', 'not 0']),
    (['interpolate=1'], ['interpolate = 1', '0']),
    (['interpolate=3', 'clusters=0,1,2'], ['interpolate', 'not 3']),
    (['trajectory=99'], ['99', '2..21']),
    (['sampler=adaptive', 'trajectory=3'], ['adaptive', 'trajectory']),
    (['sampler=nonsense'], ['nonsense', 'ddim']),
    (['eta=2'], ['eta', '1'])], ids=lambda v: ' '.join(v))
def test_sampling_options_that_make_no_sense(options, fragments, commands, run):
  """One line, and nothing is written."""
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           *(f'--config.sample.{option}' for option in options))
  check_error(outcome, *fragments)
  assert not (run / 'samples.npy').exists()


def test_evaluate_reproduces_the_fit(commands, run):
  """The same responsibilities, bit for bit, and the same scores."""
  tau = (run / 'responsibilities.npy').read_bytes()
  rows = (run / 'assignments.csv').read_bytes()
  for name in ('responsibilities.npy', 'assignments.csv', 'summary.json'):
    (run / name).unlink()
  outcome = commands.small('--mode=evaluate', f'--workdir={run}')
  assert outcome.code == 0, outcome.err
  assert (run / 'responsibilities.npy').read_bytes() == tau
  assert (run / 'assignments.csv').read_bytes() == rows
  assert (run / 'summary.json').exists()


def test_evaluate_measures_the_samples(commands, run):
  """The measures of equal numbers of images are in the summary; a fit's has none."""
  assert summary_of(run)['sample_quality'] is None
  outcome = commands.small('--mode=evaluate', f'--workdir={run}')
  assert outcome.code == 0 and 'sample quality: 3/3' in outcome.err
  found = summary_of(run)['sample_quality']
  assert found['targets'] == 'labels' and len(found['clusters']) == 3
  # 12 of the largest cluster, fewer of the others: all of 60 / 2 would be too many.
  assert 12 < found['overall']['num_images'] <= 30
  assert set(found['features']) == {'random encoder', 'pca'}
  for name in found['features']:
    trained, noise = (found['overall'][kind][name]['frechet']['mean']
                      for kind in ('real', 'noise'))
    assert trained < noise
  report = (run / 'report.html').read_text(encoding='utf-8')
  assert 'How good are the generated images?' in report
  assert report.count('real, held out') == 2 + 4  # feature maps; all, and each cluster


def test_evaluate_without_the_samples(commands, run, tmp_path):
  """config.quality.num_images = 0; what does not fit of a table is told."""
  (tmp_path / 'known.csv').write_text('file,a\n4,1\nzz,2\n')
  outcome = commands.small('--mode=evaluate', f'--workdir={run}',
                           '--config.quality.num_images=0',
                           f'--config.data.metadata={tmp_path}/known.csv')
  assert "1 rows are of no image here (such as 'zz')" in outcome.err
  assert outcome.code == 0 and 'sample quality' not in outcome.err
  assert summary_of(run)['sample_quality'] is None


def test_more_than_the_memory_holds(commands, run):
  """One line."""
  outcome = commands.small('--mode=sample', f'--workdir={run}',
                           '--config.sample.num_images=2000000000')
  check_error(outcome, 'more than there is room for', 'TiB', 'for less at once')
  assert not (run / 'samples.npy').exists()


@pytest.mark.parametrize('options,message', [
    (['quality.num_images=5'], 'config.quality.num_images = 5 must exceed 5'),
    (['quality.num_images=-1'], 'config.quality.num_images = -1 is not allowed'),
    (['quality.splits=0'], 'config.quality.splits = 0 is not allowed')])
def test_options_of_the_quality(commands, run, options, message):
  """One clear message, before any work."""
  before = (run / 'summary.json').read_bytes()
  outcome = commands.small('--mode=evaluate', f'--workdir={run}',
                           *(f'--config.{option}' for option in options))
  check_error(outcome, message)
  assert (run / 'summary.json').read_bytes() == before


def test_evaluate_in_another_folder(commands, run, tmp_path, monkeypatch):
  """A run can be moved, and started from anywhere."""
  tau = (run / 'responsibilities.npy').read_bytes()
  moved = run.rename(tmp_path / 'moved')
  monkeypatch.chdir(tmp_path)
  assert commands.small('--mode=evaluate', '--workdir=moved').code == 0
  assert (moved / 'responsibilities.npy').read_bytes() == tau


def test_changed_config_is_refused(commands, run):
  """Another seed for the same workdir."""
  before = (run / 'config.json').read_bytes()
  check_error(commands.fit(run, 'seed=9'), 'config.seed: 0 there, 9 now')
  assert (run / 'config.json').read_bytes() == before


@pytest.mark.parametrize('mode', ['predict', 'sample', 'evaluate'])
def test_modes_do_not_touch_the_fit(mode, commands, run):
  """Config and checkpoints stay as they are."""
  def content():
    return {path: path.read_bytes() for path in
            (run / 'config.json', *(run / 'checkpoints').rglob('*')) if path.is_file()}
  before = content()
  assert commands.small(f'--mode={mode}', f'--workdir={run}').code == 0
  assert content() == before
