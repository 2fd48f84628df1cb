"""The table of clustering methods: its arithmetic, its cache, and a run for real."""

import argparse
import gzip
import json
import statistics

import jax
import numpy as np
import pytest
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from benchmarks.clustering import __main__ as command
from benchmarks.clustering import made, methods, runs, table
from benchmarks.common import CHANNELS, CLASSES, MADE, data_options
from jdiffclust import config as config_lib
from jdiffclust.config import check_config
from jdiffclust.data.dataset import images_at, load_source


def keep(out, run, threads=1, **result):
  """Puts a result into the cache."""
  runs.write_result(run, out, runs.describe(run, threads) | result)


def scored(acc, nmi=.5, ari=.4, smallest=10, seconds=1., **more):
  return {'acc': acc, 'nmi': nmi, 'ari': ari, 'smallest_cluster': smallest,
          'seconds': seconds, 'cpu_seconds': 2 * seconds, **more}


@pytest.fixture
def filled(tmp_path):
  """K-means with three seeds done; Ward with one done, one failed, one to do; ours."""
  accs, starts = [.5, .7, .9], [.4, .7, .7]
  for seed, (acc, start) in enumerate(zip(accs, starts)):
    keep(tmp_path, runs.Run('digits', 'kmeans', seed),
         **scored(acc, smallest=10 * seed, seconds=[1., 2., 9.][seed]))
    keep(tmp_path, runs.Run('digits', 'cddpm', seed),
         **scored(acc, start={'acc': start, 'nmi': .5, 'ari': .4}))
  keep(tmp_path, runs.Run('digits', 'ward', 0), **scored(.8))
  keep(tmp_path, runs.Run('digits', 'ward', 1), error='no memory')
  return tmp_path


def rendered(out, capsys, *options):
  command.main([f'--out={out}', '--datasets=digits', '--methods=kmeans,ward,cddpm',
                '--seeds=0,1,2', '--table-only', *options])
  found = json.loads((out / 'table.json').read_text())['digits']
  text = (out / 'table.md').read_text()
  assert capsys.readouterr().out == text
  return found, text


def test_means_and_deviations(filled, capsys):
  found, text = rendered(filled, capsys)
  assert found['kmeans']['acc'] == pytest.approx({'mean': .7, 'sd': .2})
  assert found['kmeans']['seconds'] == 2 and found['kmeans']['cpu_seconds'] == 4
  assert found['kmeans']['smallest_cluster'] == 10
  assert ('| kmeans | 0.700 ± 0.200 | 0.500 ± 0.000 | 0.400 ± 0.000 | 2 | 4 | 10 '
          '| 3 of 3 |') in text
  # The gain is paired by seed: .1, 0, .2, not the difference of two spreads.
  assert found['cddpm']['gain']['acc'] == pytest.approx({'mean': .1, 'sd': .1})
  starts = [.4, .7, .7]
  assert found['cddpm']['start']['acc'] == pytest.approx(
      {'mean': statistics.mean(starts), 'sd': statistics.stdev(starts)})
  assert '| cddpm | 0.600 ± 0.173 | 0.700 ± 0.200 | +0.100 ± 0.100 |' in text


def test_failed_and_missing_runs_are_shown(filled, capsys):
  found, text = rendered(filled, capsys)
  assert found['ward']['acc'] == {'mean': .8, 'sd': None}  # a single run has none
  assert found['ward']['failed'] == {'1': 'no memory'} and found['ward']['not_run'] == [2]
  assert '| ward | 0.800 | 0.500 | 0.400 | 1 | 2 | 10 | 1 of 3 |' in text
  assert '- ward failed, seed 1: no memory' in text
  assert '- ward not run yet, seed 2' in text


def test_results_of_other_settings_do_not_count(filled, capsys):
  about = runs.describe(runs.Run('digits', 'kmeans', 1), 1) | {'settings': {'n_init': 1}}
  runs.write_result(runs.Run('digits', 'kmeans', 1), filled, about | scored(.1))
  assert rendered(filled, capsys)[0]['kmeans']['seeds'] == [0, 2]
  assert rendered(filled, capsys, '--threads=2')[0]['kmeans']['seeds'] == []


def test_an_option_that_came_later_counts(filled, capsys):
  """A result that does not tell it is not today's; it is shown if that is asked for."""
  run = runs.Run('digits', 'cddpm', 1)
  about = runs.describe(run, 1)
  assert 'commit' in about and about['processor']
  del about['settings']['m_step.num_steps']
  runs.write_result(run, filled, about | scored(.7, start=scored(.5)))
  assert rendered(filled, capsys)[0]['cddpm']['seeds'] == [0, 2]
  found, text = rendered(filled, capsys, '--any-settings')
  assert found['cddpm']['seeds'] == [0, 1, 2]
  assert found['cddpm']['other_settings'] == [1] and not found['ward']['other_settings']
  assert "- cddpm of other settings than today's, seed 1" in text


def test_bars_are_the_means(filled, capsys):
  found, _ = rendered(filled, capsys)
  axes = table.draw({'digits': found}).axes[0]
  assert sorted(bar.get_width() for bar in axes.patches) == pytest.approx(
      [.5, .5, .5, .7, .7, .8])
  assert (filled / 'table.png').stat().st_size > 0


def test_a_run_fails_stays_and_is_repeated(tmp_path, capsys):
  options = [f'--out={tmp_path}', '--datasets=digits', '--methods=kmeans', '--seeds=3']
  run = runs.Run('digits', 'kmeans', 3)
  command.main([*options, '--timeout=.01'])
  assert 'time limit' in runs.read_result(run, tmp_path)['error']
  command.main(options)
  assert 'time limit of 0.01 s' in capsys.readouterr().out.split('###')[-1]
  command.main([*options, '--retry'])
  result = runs.read_result(run, tmp_path)
  digits = datasets.load_digits()
  expected = KMeans(10, n_init=10, random_state=3).fit_predict(digits.data / 8 - 1)
  assert result['nmi'] == pytest.approx(
      normalized_mutual_info_score(digits.target, expected), abs=.01)
  command.main([*options, '--timeout=.01', '--retry'])  # a success is not repeated
  assert runs.read_result(run, tmp_path) == result


def test_data_that_are_not_there_are_a_failure(tmp_path, capsys):
  command.main([f'--out={tmp_path}', '--datasets=fashion5k', '--methods=kmeans',
                '--seeds=0', f'--fashion={tmp_path}/nowhere'])
  assert 'nowhere' in runs.read_result(
      runs.Run('fashion5k', 'kmeans', 0), tmp_path)['error']
  assert '| 0 of 1 |' in capsys.readouterr().out


@pytest.mark.parametrize('method', methods.OURS)
@pytest.mark.parametrize('dataset', methods.DATASETS)
def test_our_settings_are_configs(dataset, method):
  config = methods.our_config(dataset, 4, method)
  check_config(config)
  assert config.method == method and config.num_clusters == CLASSES[dataset]


def test_settings_that_a_start_reads():
  """The network's count for those that train one; a peer knows its number of classes."""
  for method, cells in (('recognition', 2.), ('network_kmeans', 2.), ('network', 1.)):
    settings = methods.settings_of('shapes', method)
    assert settings['recognition.cells'] == cells and settings['num_clusters'] == 8
    assert settings['start.kind'] == 'recognition' and settings['data.channels'] == 3
  settings = methods.settings_of('digits', 'neighbours')
  assert settings['start.kind'] == 'neighbours' and 'start.spaces' in settings
  assert not any(name.startswith('recognition.') for name in settings)
  assert 'recognition.cells' in methods.settings_of('digits', 'cddpm')
  for dataset, number in (('digits', 10), ('textures', 8)):
    settings = methods.settings_of(dataset, 'n2d')['manifold_params']
    assert settings['n_components'] == number


@pytest.mark.parametrize('name', MADE)
def test_made_sets_are_read(name, tmp_path, monkeypatch):
  """As drawn, with their true numbers of classes."""
  monkeypatch.setattr(made, 'NUM', 50)
  monkeypatch.setattr(made.draw, '__defaults__', (50,))
  config = config_lib.default_config()
  config.update_from_flattened_dict(data_options(name, tmp_path))
  source, drawn = load_source(config.data), made.draw(name, 0)
  assert source.image_shape == (28, 28, CHANNELS[name])
  np.testing.assert_allclose(images_at(source, range(50)), drawn.images, atol=.005)
  np.testing.assert_array_equal(source.labels, drawn.labels)
  assert CLASSES[name] == len(made.SETS[name][0])


def test_the_whole_of_mnist(tmp_path):
  """Both parts of its four files, one after the other."""
  def write(name, array):
    header = bytes([0, 0, 8, array.ndim]) + b''.join(
        size.to_bytes(4, 'big') for size in array.shape)
    (tmp_path / name).write_bytes(gzip.compress(header + array.tobytes()))
  rng, everything = np.random.default_rng(0), []
  for part, count in (('train', 6), ('t10k', 3)):
    images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    write(f'{part}-images-idx3-ubyte.gz', images)
    write(f'{part}-labels-idx1-ubyte.gz', labels)
    everything.append((images, labels))
  options = data_options('mnist', tmp_path / 'out', mnist=tmp_path)
  with np.load(options['data.path']) as found:
    for name, parts in zip(('images', 'labels'), zip(*everything)):
      np.testing.assert_array_equal(found[name], np.concatenate(parts))


def test_one_training_leaves_two_results(tmp_path, monkeypatch):
  run = runs.Run('digits', 'network_kmeans', 2)
  monkeypatch.setattr(runs, 'measure', lambda run, args: {
      method: scored(acc) for method, acc in zip(runs.TOGETHER, (.5, .25))})
  runs.run_here(run, argparse.Namespace(out=tmp_path, threads=1))
  for method, acc in zip(runs.TOGETHER, (.5, .25)):
    found = runs.cached(run._replace(method=method), tmp_path, 1)
    assert found['method'] == method and found['acc'] == acc


@pytest.mark.usefixtures('few_cuts')
def test_our_starts_alone():
  """The partition is that of the package; the others tell well-known images apart."""
  from benchmarks.clustering import alone
  from jdiffclust.clustering.starts.sample import start_of_all
  from jdiffclust.evaluation.scores import accuracy
  config = methods.our_config('digits', 1, 'recognition', {
      'data.source': 'digits', 'data.max_images': 150, 'views.num': 8, 'views.sets': 1,
      'start.spaces': ('pixels',),
      'recognition.channels': 8, 'recognition.batch_size': 32,
      'recognition.steps': 200})
  source = load_source(config.data)
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    found = alone.recognition(source, config)
    expected = start_of_all(source, config, 'recognition', ()).argmax(axis=1)
    found |= alone.neighbours(source, config)
    config.recognition.update(cells=1., rounds=1)
    found |= alone.network(source, config)
  np.testing.assert_array_equal(found['recognition'].clusters, expected)
  assert set(found) == set(methods.ALONE)
  assert found['network'].clusters.max() < config.num_clusters  # one answer
  changed = methods.our_config('digits', 1, 'network', {'data.source': 'digits'})
  assert (changed.recognition.cells, changed.recognition.rounds) == (1, 1)
  for one in found.values():
    assert one.clusters.shape == (150,) and one.seconds > 0 and one.cpu_seconds > 0
    assert accuracy(source.labels, one.clusters) > .6


def test_noise_of_hdbscan_goes_to_the_nearest_cluster(monkeypatch):
  """Two clusters and an image beside each; asked for another number, it finds its own."""
  rng = np.random.default_rng(0)
  rows = np.concatenate([rng.normal(size=(60, 2)), 20 + rng.normal(size=(60, 2)),
                         [[6., 6.], [13., 13.]]])
  monkeypatch.setattr(methods, 'embedded_by_umap', lambda images, seed: images)
  found = methods.umap_hdbscan(rows, 9, 0, share=.1, min_samples=10)
  truth = np.repeat([0, 1], 60).tolist() + [0, 1]
  assert abs(np.corrcoef(found, truth)[0, 1]) == pytest.approx(1)
  spread_out = 1e3 * np.arange(8.)[:, None]**3
  found = methods.umap_hdbscan(spread_out, 9, 0, share=.9, min_samples=2)
  assert found.tolist() == [0] * 8  # noise alone is one cluster
  line = np.array([[0.], [1.], [10.], [11.], [4.], [7.]])
  found = methods.with_noise(line, np.array([0, 0, 1, 1, -1, -1]))
  assert found.tolist() == [0, 0, 1, 1, 0, 1]
  five_each = np.add.outer(1e3 * np.arange(3.), np.arange(5.)).reshape(-1, 1)
  _, found = methods.hdbscan_of_umap(five_each, 0, share=None, min_samples=None)
  assert np.bincount(found).tolist() == [5] * 3  # scikit-learn's least size is five
