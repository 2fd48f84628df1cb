"""The report page: well formed, self-contained, escaped, whole."""

import re

import numpy as np
import pytest

from jdiffclust.evaluation import scores as clustering
from jdiffclust.report import figures, page
from tests.helpers import refused
from tests.report.pages import SCORES, SUMMARY, TABLE, outline


def write(folder, summary=SUMMARY, pictures=(), config=(), table=TABLE):
  path = folder / 'report.html'
  page.write_report(path, summary, dict(pictures), dict(config), table)
  return outline(path)


def test_full_page(tmp_path):
  figures.save_figure(figures.cluster_sizes([2, 1, 0]), tmp_path / 'sizes.png')
  result = write(
      tmp_path, {**SUMMARY, 'warnings': ['two files skipped']},
      {'mine': tmp_path / 'sizes.png', 'cluster_sizes': tmp_path / 'sizes.png',
       'confusion_matrix': None},
      {'em': {'num_clusters': 3}})
  images = [attrs for tag, attrs in result.tags if tag == 'img']
  assert [image['alt'] for image in images] == ['Mine', 'Cluster sizes']
  for expected in (
      'digits', '1,797', '8 × 8 grey', '0.932', 'Start of the fit (kmeans)',
      'Gaussian mixture', '3.2500 bits per dimension', '1 h 7 min', '2 × cpu',
      'jax 0.7', 'settled', 'two files skipped', '"num_clusters": 3',
      '1 cluster is empty', '73.3 %'):
    assert expected in result.text, expected


@pytest.mark.parametrize('share', [.4, .8])
def test_how_sure_the_number_of_clusters_is(share, tmp_path):
  choice = {'chosen': 3, 'numbers': [2, 3, 4, 5], 'confidence': share, 'within_one': .9}
  text = write(tmp_path, {**SUMMARY, 'num_clusters_choice': choice}).text
  assert ('3 was chosen among 2 to 5. How sure is that? '
          f'{100 * share:.1f} % of the votes of random parts of the images are for 3, '
          '90.0 % for it or one more') in text
  assert ('another number may do as well' in text) == (share < .5)
  assert 'was chosen' not in write(tmp_path).text


def test_page_needs_nothing_from_elsewhere(tmp_path):
  figures.save_figure(figures.cluster_sizes([2, 1]), tmp_path / 'sizes.png')
  result = write(tmp_path, pictures={'cluster_sizes': tmp_path / 'sizes.png'})
  assert not {'script', 'link', 'iframe'} & {tag for tag, _ in result.tags}
  for _, attrs in result.tags:
    assert attrs.get('src', 'data:').startswith('data:')
    assert attrs.get('href', '#').startswith('#')
  source = (tmp_path / 'report.html').read_text()
  assert not re.search(r'https?://|@import|url\(', source)


def test_links_lead_somewhere(tmp_path):
  """Every part that is named on top is there."""
  tags = write(tmp_path, {**SUMMARY, 'history': [RECORD]}).tags
  ids = {attrs.get('id') for _, attrs in tags}
  links = [attrs['href'] for tag, attrs in tags if tag == 'a']
  assert len(links) > 3 and {link[1:] for link in links} <= ids


def test_the_command_is_told(tmp_path):
  """As it was given, or that it is not known."""
  command = "jdiffclust --config=digits '--workdir=my runs/<b>'"
  assert command in write(tmp_path, {**SUMMARY, 'command': command}).text
  assert 'It is not known' in write(tmp_path).text


def test_markup_is_escaped(tmp_path):
  nasty = '</title></pre><b onclick="x">&'
  result = write(
      tmp_path,
      {**SUMMARY, 'dataset': nasty, 'warnings': [nasty], 'method': nasty,
       'baselines': {nasty: SCORES}, 'versions': {nasty: nasty}},
      config={'path': nasty})
  assert not [tag for tag, _ in result.tags if tag == 'b']
  assert result.text.count('<b onclick=') >= 6


@pytest.mark.parametrize('none', [None, {}])
def test_without_labels_there_is_no_score_table(none, tmp_path):
  missing = dict.fromkeys(SCORES)
  result = write(
      tmp_path, {**SUMMARY, **missing, 'init': none, 'baselines': none})
  assert 'NMI' not in result.text
  assert 'NMI' in write(tmp_path).text


@pytest.mark.parametrize('summary', [{}, dict.fromkeys(SUMMARY)])
def test_missing_facts_are_dashes(summary, tmp_path):
  result = write(tmp_path, summary, table=[])
  assert 'None' not in result.text
  assert result.text.count('–') >= 15


def test_nan_is_a_dash(tmp_path):
  result = write(tmp_path, {**SUMMARY, 'bound_bits_per_dim': float('nan')})
  assert 'Bound–' in result.text


RECORD = {
    'iteration': 2, 'bound_bits_per_dim': 2.5, 'bound_change': 1.25,
    'bound_change_error': .5, 'mean_entropy': .1, 'certain_fraction': .75,
    'uncertain_fraction': .125, 'changed_fraction': .25, 'moved_fraction': .375,
    'smallest_cluster': 100., 'largest_cluster': 1200., 'effective_clusters': 2.5,
    'flows': [[0, 1, 1012], [1, 0, 7]], 'splits': [[0, 1, .4]], 'overlaps': []}


def test_em_section(tmp_path):
  """A row per iteration, in numbers and words; no remark where nothing is amiss."""
  result = write(tmp_path, {**SUMMARY, 'history': [RECORD]})
  assert ('2 2.5000 +1.25 ± 0.50 0.100 75.0 % 12.5 % 25.0 % 37.5 % 100 to 1,200 2.50 '
          '0 → 1: 1,012, 1 → 0: 7; 0 splits (40% of its images go to 1)') in result.text
  assert 'Nothing was amiss' in result.text and 'Please note' not in result.text
  assert 'How EM went' not in write(tmp_path).text


def test_advice_is_shown_once(tmp_path):
  """In the note on top, beside other warnings."""
  result = write(tmp_path, {**SUMMARY, 'history': [RECORD],
                            'advice': {'noisy': 'draw <more>'},
                            'warnings': ['two files skipped']})
  assert result.text.count('draw <more>') == 1
  assert 'Nothing was amiss' not in result.text
  assert 'Please note two files skipped draw <more>' in result.text


def test_a_history_of_little(tmp_path):
  """What an iteration does not say is a dash."""
  assert '7 – – – – – – – – to – – –' in write(
      tmp_path, {**SUMMARY, 'history': [{'iteration': 7}]}).text


def quality_of(num_clusters=2):
  """A summary of samples: three times the same, a cluster too small to compare."""
  number = lambda mean, std=.125: {'mean': mean, 'std': std}
  images = {
      'pixels': {'frechet': number(.5), 'precision': number(.75), 'recall': number(.625),
                 'density': number(1.25), 'coverage': number(.875, None)},
      'label_accuracy': number(.9), 'nearest_distance': .3, 'nearest_ratio': 1.5,
      'near_copies': .05}
  group = {'num_images': 1234, **dict.fromkeys(('generated', 'real', 'noise'), images)}
  few = {**images, 'pixels': None, 'label_accuracy': None, 'near_copies': None}
  small = {'num_images': 2, **dict.fromkeys(('generated', 'real', 'noise'), few)}
  return {'features': {'pixels': 64}, 'neighbours': 5, 'splits': 3, 'targets': 'labels',
          'classifier_accuracy': number(.96), 'definitions': {'recall': 'of <what>'},
          'overall': group, 'clusters': [{'cluster': q, **small}
                                         for q in range(num_clusters)]}


def test_quality_section(tmp_path):
  """Rows of generated, real and noise images, overall and by cluster; dashes."""
  figures.save_figure(figures.cluster_sizes([2, 1]), tmp_path / 'nearest.png')
  result = write(tmp_path, {**SUMMARY, 'sample_quality': quality_of()},
                 {'nearest_training': tmp_path / 'nearest.png'})
  assert ('pixels (64)generated 0.500 ± 0.125 0.75 ± 0.12 0.62 ± 0.12 1.25 ± 0.12 0.88 '
          'real, held out 0.500') in result.text
  assert ('All 1,234generated 0.500 0.75 0.62 1.25 0.88 90.0 % 1.50 5.0 %'
          in result.text)
  assert '1 2generated – – – – – – 1.50 – real, held out' in result.text
  assert '96.0 % right' in result.text and 'recall: of <what>' in result.text
  assert [attrs['alt'] for tag, attrs in result.tags if tag == 'img'] == ['Copies?']
  assert 'All 21 clusters' in write(
      tmp_path, {**SUMMARY, 'sample_quality': quality_of(21)}).text
  assert 'generated images?' not in write(tmp_path).text


LATENTS = {
    'map_images': 2000, 'misclustered': 7,
    'neighbours': {'num_images': 1797, 'latents': {3: .975, 1000: .875},
                   'pixels': {3: .9, 1000: .625}},
    'terms': {'noise <error>': [None, 1234.5678], 'units': [12., 10.]}}


def test_latents_section(tmp_path):
  """Neighbours in latents and pixels, terms, and the figures that are there."""
  figures.save_figure(figures.cluster_sizes([2, 1]), tmp_path / 'map.png')
  result = write(tmp_path, {**SUMMARY, 'latents': LATENTS},
                 {name: tmp_path / 'map.png' for name in ('latent_walk', 'latent_map')})
  assert 'For each of 1,797 labelled images' in result.text
  assert ('k 3 1,000 Latents 97.5 % 87.5 % Raw pixels 90.0 % 62.5 %'
          in result.text)
  assert 'noise <error>– 1235 units12 10' in result.text
  assert [attrs['alt'] for tag, attrs in result.tags if tag == 'img'] == [
      'Map of the latents', 'From cluster to cluster']


@pytest.mark.parametrize('neighbours', [None, {'num_images': 4, 'latents': {},
                                               'pixels': {}}])
def test_latents_without_scores_or_terms(neighbours, tmp_path):
  result = write(tmp_path, {**SUMMARY, 'latents': {
      **LATENTS, 'neighbours': neighbours, 'misclustered': None, 'terms': {}}})
  assert 'The latent space' in result.text
  assert 'Raw pixels' not in result.text and 'Quantity' not in result.text


def test_no_latents_no_section(tmp_path):
  for summary in (SUMMARY, {**SUMMARY, 'latents': None}):
    assert 'latent' not in write(tmp_path, summary).text.lower()


def test_many_clusters_fold(tmp_path):
  responsibilities = np.eye(30)
  result = write(tmp_path, table=clustering.cluster_table(responsibilities))
  assert 'All 30 clusters' in result.text


def test_a_missing_figure_leaves_the_old_page(tmp_path):
  write(tmp_path)
  before = (tmp_path / 'report.html').read_bytes()
  with pytest.raises(FileNotFoundError):
    write(tmp_path, pictures={'hero': tmp_path / 'none.png'})
  assert (tmp_path / 'report.html').read_bytes() == before
  assert len(list(tmp_path.iterdir())) == 1
  (tmp_path / 'own.png').write_bytes(b'no picture')
  assert 'own.png' in refused(write, tmp_path, pictures={'own': tmp_path / 'own.png'})
  assert (tmp_path / 'report.html').read_bytes() == before
