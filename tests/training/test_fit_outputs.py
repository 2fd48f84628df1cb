"""What a fit leaves in its workdir, and what it prints."""

import csv
import html
import json
import re
import shutil
import time

import matplotlib.image
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn import datasets, metrics

from jdiffclust import fitted as fitted_lib
from jdiffclust.evaluation import diagnostics
from tests.helpers import newest, summary_of

N, Q = 60, 3
DIGITS = datasets.load_digits().target


def read_csv(path):
  """The rows of a CSV file as dicts."""
  with open(path, newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def read_summary(workdir):
  """summary.json as an object."""
  return summary_of(workdir)


def best_accuracy(labels, clusters):
  """Share of images right under the best one-to-one matching."""
  table = metrics.cluster.contingency_matrix(labels, clusters)
  return table[linear_sum_assignment(-table)].sum() / len(labels)


def check_scores(row, labels, clusters):
  """Asserts the three scores of a summary, by scikit-learn and SciPy."""
  assert row['acc'] == pytest.approx(best_accuracy(labels, clusters))
  assert row['nmi'] == pytest.approx(
      metrics.normalized_mutual_info_score(labels, clusters))
  assert row['ari'] == pytest.approx(metrics.adjusted_rand_score(labels, clusters))


def test_every_file_is_there(fitted):
  """The files the README promises, and none that is temporary."""
  names = {path.name for path in fitted.iterdir()}
  assert names == {
      '.lock', 'config.json', 'images.json', 'metrics.jsonl', 'tensorboard',
      'checkpoints', 'figures', 'assignments.csv', 'responsibilities.npy',
      'summary.json', 'report.html', 'foreign.npz', 'symmetries.json', 'examples.npz',
      'results.csv', 'results.parquet', 'gallery.npz', 'clusters.csv', 'pinned.csv',
      'thumbnails.npz', 'command.txt', 'check.png', 'check.json'}
  checkpoints = {path.name for path in (fitted / 'checkpoints').iterdir()}
  assert checkpoints == {'9', '13', '14'}  # 8 + 1, 12 + 1 and 12 + 2, the last three


def test_seconds_are_those_of_the_run(commands, fitted, tmp_path):
  """A later fit of the same process does not count what came before it."""
  began = time.perf_counter()
  assert commands.fit(tmp_path).code == 0
  assert 0 < read_summary(tmp_path)['wall_seconds'] <= time.perf_counter() - began


def test_metrics(fitted):
  """A JSON object a line: losses every 2 steps, a bound per iteration."""
  lines = [json.loads(line) for line in open(fitted / 'metrics.jsonl')]
  assert [(line['step'], line['iteration']) for line in lines] == [
      (2, 0), (4, 0), (6, 0), (6, 1), (8, 1), (10, 1), (12, 1), (12, 2)]
  # Lists are pairs of clusters and their numbers, of some length.
  assert all(np.isfinite(number) for line in lines for value in line.values()
             for number in np.ravel(value))
  assert all(('loss' in line) != ('bound_nats' in line) for line in lines)


def test_metrics_of_an_iteration(fitted):
  """The terms add up to the bound, the bands to the diffusion term; the sizes and the
  rest are those of tau."""
  lines = [line for line in map(json.loads, open(fitted / 'metrics.jsonl'))
           if 'bound_nats' in line]
  for line in lines:
    bands = [line[f'bound_level_{k}'] for k in range(1, 9)]
    assert sum(bands) == pytest.approx(line['bound_diffusion'], rel=1e-5)
    assert len(line['flows']) <= 5 and line['moved_fraction'] >= 0
  assert 'bound_change' not in lines[0]
  assert lines[1]['bound_change'] == pytest.approx(
      lines[1]['bound_nats'] - lines[0]['bound_nats'], rel=1e-4)
  assert lines[1]['bound_change_error'] > 0
  tau = np.load(fitted / 'responsibilities.npy').astype(np.float64)
  sizes = tau.sum(axis=0)
  last = lines[-1]
  members = np.bincount(tau.argmax(axis=1), minlength=len(sizes))
  assert last['smallest_cluster'] == members.min()
  assert last['largest_cluster'] == members.max()
  assert last['effective_clusters'] == pytest.approx(
      np.exp(-(sizes / N * np.log(sizes / N)).sum()), rel=1e-5)
  assert last['certain_fraction'] == pytest.approx((tau.max(axis=1) > .95).mean())


def test_remarks_are_of_the_end(first_fit):
  """Each kind of advice: a warning on stderr, in the summary and in the report; what an
  iteration before said is a line of progress."""
  fitted, outcome = first_fit
  summary = read_summary(fitted)
  # The tiny U-Net of 12 steps and 4 draws knows nothing yet: most are close calls.
  assert 'noisy' in summary['advice']
  page = (fitted / 'report.html').read_text(encoding='utf-8')
  for kind, text in summary['advice'].items():
    assert outcome.err.count(f'warning: {text}') == 1
    assert text not in summary['warnings'] and page.count(html.escape(text)) == 1
  expected = diagnostics.advice(summary['history'], N, 3)
  assert [kind for kind, _ in expected] == list(summary['advice'])
  first = diagnostics.advice(summary['history'][:1], N, 3)
  assert first and all(outcome.err.count(f'EM 1, so far: {text}') == 1
                       for _, text in first)
  assert 'EM 2, so far' not in outcome.err and 'so far' not in page
  assert not any('advice' in record for record in summary['history'])


def test_bound_is_its_terms_in_bits(fitted):
  """Bits per dimension are -nats / (64 ln 2)."""
  for line in map(json.loads, open(fitted / 'metrics.jsonl')):
    if 'bound_nats' in line:
      assert line['bound_bits_per_dim'] == pytest.approx(
          -line['bound_nats'] / 64 / np.log(2), rel=1e-5)


def test_tensorboard_has_the_metrics(fitted, events):
  """Each loss of metrics.jsonl, at its step + iteration."""
  lines = [json.loads(line) for line in open(fitted / 'metrics.jsonl')]
  losses = [(event.step, value.simple_value) for event in events(fitted)
            for value in event.summary.value if value.tag == 'loss']
  wanted = [(line['step'] + line['iteration'], line['loss'])
            for line in lines if 'loss' in line]
  np.testing.assert_allclose(losses, wanted, rtol=1e-6)
  tags = {value.tag for event in events(fitted) for value in event.summary.value}
  assert tags >= {'bound_level_1', 'bound_level_8', 'effective_clusters', 'bound_change'}


def test_responsibilities_and_assignments(fitted):
  """float32 [N, Q] with rows of sum 1; the CSV has their maxima."""
  tau = np.load(fitted / 'responsibilities.npy')
  assert tau.dtype == np.float32 and tau.shape == (N, Q) and (tau >= 0).all()
  np.testing.assert_allclose(tau.sum(1), 1, atol=1e-5)
  rows = read_csv(fitted / 'assignments.csv')
  assert list(rows[0]) == ['index', 'id', 'cluster', 'probability', 'label']
  assert [row['index'] for row in rows] == [str(i) for i in range(N)]
  assert [int(row['cluster']) for row in rows] == tau.argmax(1).tolist()
  np.testing.assert_allclose([float(row['probability']) for row in rows], tau.max(1),
                             atol=1e-6)
  assert [row['label'] for row in rows] == [str(DIGITS[int(row['id'])]) for row in rows]


def test_summary(fitted):
  """The keys that are promised, and values that follow from the other files."""
  summary = read_summary(fitted)
  assert summary.keys() >= {
      'dataset', 'num_images', 'image_shape', 'method', 'num_clusters', 'seed', 'acc',
      'nmi', 'ari', 'init', 'baselines', 'bound_bits_per_dim', 'cluster_sizes',
      'mean_entropy', 'num_em_iterations', 'train_images_per_second',
      'e_step_evaluations_per_second', 'waiting_share', 'wall_seconds', 'devices',
      'versions'}
  tau = np.load(fitted / 'responsibilities.npy').astype(np.float64)
  clusters = tau.argmax(1)
  assert (summary['dataset'], summary['num_images'], summary['image_shape'],
          summary['method'], summary['num_clusters'], summary['seed']) == (
              'digits', N, [8, 8, 1], 'cddpm', Q, 0)
  assert summary['cluster_sizes'] == np.bincount(clusters, minlength=Q).tolist()
  entropy = -(tau * np.log(np.maximum(tau, 1e-300))).sum(1).mean()
  assert summary['mean_entropy'] == pytest.approx(entropy, abs=1e-5)
  assert summary['num_em_iterations'] == 2 and len(summary['devices']) == 1
  for rate in ('train_images_per_second', 'e_step_evaluations_per_second',
               'wall_seconds'):
    assert summary[rate] > 0
  assert summary['versions'].keys() >= {'python', 'jax', 'numpy'}


def test_scores_are_those_of_the_csv(fitted):
  """ACC, NMI and ARI by SciPy and scikit-learn."""
  rows = read_csv(fitted / 'assignments.csv')
  clusters = [int(row['cluster']) for row in rows]
  labels = np.array([DIGITS[int(row['id'])] for row in rows])
  check_scores(read_summary(fitted), labels, clusters)


def test_baselines_have_scores(fitted):
  """K-means and the mixture, scored alike; the start is the mixture here."""
  summary = read_summary(fitted)
  assert set(summary['baselines']) == {'kmeans', 'gaussian_mixture'}
  for row in (*summary['baselines'].values(), summary['init']):
    assert all(-.5 <= row[name] <= 1 for name in ('acc', 'nmi', 'ari'))
  start = {k: v for k, v in summary['init'].items() if k != 'method'}
  assert start == summary['baselines']['gaussian_mixture']
  assert summary['init']['method'] == 'gaussian_mixture'


def test_figures_and_page(fitted):
  """PNG files that can be read and are not blank, and a page that shows them."""
  page = (fitted / 'report.html').read_text(encoding='utf-8')
  assert '</html>' in page and 'digits' in page
  names = {path.stem for path in (fitted / 'figures').iterdir()}
  assert names == {'hero', 'cluster_gallery', 'sample_grid', 'history_curves',
                   'cluster_sizes', 'cluster_flows', 'bound_terms', 'confusion_matrix'}
  for path in (fitted / 'figures').iterdir():
    assert np.ptp(matplotlib.image.imread(path)[..., :3]) > .2


def test_lines_on_a_pipe_are_plain(first_fit):
  """No escape codes or carriage returns; stages are told on stderr."""
  outcome = first_fit[1]
  for text in (outcome.out, outcome.err):
    assert '\x1b' not in text and '\r' not in text
  for stage in ('start', 'M-step', 'E-step', 'EM 1:', 'EM 2:', 'baselines', 'samples'):
    assert stage in outcome.err
  for figure in ('bits/dim', 'entropy', 'changed cluster', 'sizes', 'uncertain'):
    assert figure in re.search(r'^EM 2: .*$', outcome.err, re.MULTILINE)[0]
  assert '60 images in 3 clusters' in outcome.out and 'report.html' in outcome.out


def data_files(folder):
  """The files of a checkpoint in which the large arrays lie, largest first."""
  files = [path for path in (folder / 'arrays').rglob('d/*') if path.is_file()]
  return sorted(files, key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize('rank', [0, 1, 2])
def test_any_cut_file_is_passed_over_without_a_traceback(rank, fitted, tmp_path, capfd):
  """Of arrays that Orbax keeps apart from its index, as those of a U-Net."""
  shutil.copytree(fitted, tmp_path / 'run')
  path = data_files(newest(tmp_path / 'run'))[rank]
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 3])
  found = fitted_lib.load(tmp_path / 'run')
  err = capfd.readouterr().err
  assert 'Traceback' not in err and 'Exception ignored' not in err
  assert found.progress['iteration'] == (1 if 'checkpoint 14 is damaged' in err else 2)


@pytest.fixture(scope='module')
def unlabelled(commands, tmp_path_factory):
  """(workdir, outcome) of a fit without labels."""
  workdir = tmp_path_factory.mktemp('unlabelled')
  return workdir, commands.fit(workdir, 'data.use_labels=False', whole=True)


def test_without_labels_scores_are_null(unlabelled, fitted):
  """All scores are null, no label column or confusion matrix, the same clusters."""
  workdir, outcome = unlabelled
  assert outcome.code == 0 and 'ACC' not in outcome.out
  summary = read_summary(workdir)
  for row in (summary, summary['init'], *summary['baselines'].values()):
    assert row['acc'] is row['nmi'] is row['ari'] is None
  assert list(read_csv(workdir / 'assignments.csv')[0])[-1] == 'probability'
  assert not (workdir / 'figures' / 'confusion_matrix.png').exists()
  np.testing.assert_array_equal(np.load(workdir / 'responsibilities.npy'),
                                np.load(fitted / 'responsibilities.npy'))


def test_quiet_leaves_stderr_empty(commands, fitted, tmp_path):
  """--quiet prints the result alone."""
  shutil.copytree(fitted, tmp_path / 'run')
  config = tmp_path / 'run' / 'config.json'
  outcome = commands.run('--mode=evaluate', '--quiet', f'--workdir={tmp_path}/run')
  assert config.exists() and outcome.code == 0
  assert outcome.err == '' and outcome.out.startswith('60 images in 3 clusters')
  assert (tmp_path / 'run' / 'figures' / 'nearest_training.png').is_file()


def test_one_cluster(commands, tmp_path):
  """Q = 1 is a plain DDPM: all responsibilities are 1 and entropy 0."""
  outcome = commands.fit(tmp_path, 'num_clusters=1', 'em.max_iterations=1')
  assert outcome.code == 0, outcome.err
  np.testing.assert_array_equal(np.load(tmp_path / 'responsibilities.npy'),
                                np.ones((N, 1), np.float32))
  assert read_summary(tmp_path)['mean_entropy'] == 0
