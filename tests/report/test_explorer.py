"""What the page shows of the images, and what it says of them."""

import json
import re

import numpy as np
import pytest
from scipy.spatial import distance

from jdiffclust import splits
from jdiffclust.decisions import none_of
from jdiffclust.report import explorer, page, thumbnails
from tests.report.exploring import (
    ADDED, AWAY, CLUSTERS, COPY, FOREIGN, N, NASTY, ORIGINAL, Q, TORN, explored,
    explored_with_added, features)
from tests.report.pages import SUMMARY, TABLE, outline


@pytest.fixture(scope='module')
def known():
  """`explorer.Explored` of the images."""
  return explored()


@pytest.fixture(scope='module')
def view(known):
  """What the page shows of them."""
  return explorer.view(known)


def written(folder, view):
  """The outline of a page, and its source."""
  path = folder / 'report.html'
  page.write_report(path, SUMMARY, {}, {'predict': {'foreign_share': .05}}, TABLE,
                    view=view)
  return outline(path), path.read_text(encoding='utf-8')


def test_cards(view):
  """Sizes, order, and how sure: by hand."""
  sizes = [card['size'] for card in view['cards']]
  assert sizes == [14, 13, 13, 0]
  assert (view['sure'], view['fair'], view['torn']) == (N - 1, 0, 1)
  one = view['cards'][1]
  assert (one['sure'], one['torn']) == (12, 1)
  # Equally sure ones by falling bound, which falls with the row.
  assert [p['place'] for p in one['typical']] == [1, 4, 10, 13, 16, 19, 22, 25, 28, 31]
  assert [p['place'] for p in one['unsure']] == [TORN, 37, 34]
  assert view['cards'][3]['typical'] == [] and view['cards'][3]['means'] == []
  assert len(one['means']) == 1 and len(one['generated']) == 2


def test_why_an_image_is_here(view):
  """Its nearest images of its own and of the rival cluster, by SciPy."""
  apart = distance.cdist(features(), features())
  np.fill_diagonal(apart, np.inf)
  second = np.array(view['data']['second'])
  for row in range(N):
    for side, cluster in enumerate((CLUSTERS[row], second[row])):
      others = np.flatnonzero(CLUSTERS == cluster)
      expected = np.sort(apart[row, others])[:3]
      np.testing.assert_allclose(view['data']['away'][row][side], expected, rtol=1e-3)
      np.testing.assert_allclose(apart[row, view['data']['near'][row][side]], expected)


def test_clusters_that_are_alike(known, view):
  """The share of the nearest images, counted one by one; the torn image lies between."""
  near = [one['ids'] for one in known.columns['neighbors']]
  of = lambda q, r: np.mean([CLUSTERS[k] == r for row in np.flatnonzero(CLUSTERS == q)
                             for k in near[row]])
  pair, = [one for one in view['pairs'] if one['numbers'] == [1, 2]]
  assert pair['mixed'] == pytest.approx(max(of(1, 2), of(2, 1)))
  assert pair['torn'] == 1 and pair['between'][0]['place'] == TORN
  assert view['cards'][1]['nearest'][0]['number'] == 2
  assert view['cards'][1]['nearest'][0]['share'] == pytest.approx(of(1, 2))


def test_many_clusters_that_are_alike(known, monkeypatch):
  """All pairs are counted, and a few of them shown."""
  monkeypatch.setattr(explorer, 'MIXED', -1.)  # each pair of the three that have images
  monkeypatch.setattr(explorer, 'MOST_PAIRS', 2)
  view = explorer.view(known)
  assert view['alike'] == 3 and len(view['pairs']) == 2
  assert '3 pairs of clusters look alike' in ' '.join(page._verdict({}, view))


def test_an_image_that_is_pinned_is_not_torn(known, view):
  """Whatever the model says of it: a person is sure."""
  columns = {**known.columns, 'pinned': [row == TORN for row in range(N)]}
  found = explorer.view(known._replace(columns=columns))
  assert (view['torn'], found['torn']) == (1, 0) and found['sure'] == N
  assert all(pair['torn'] == 0 for pair in found['pairs'])


def test_copies_of_one_another_are_one_group():
  """The last is the second's equal, which is near the first."""
  columns = {'file': list('abcd'), 'duplicate_of': [None, 'a', 'b', None],
             'duplicate': [None, 'near', 'exact', None]}
  found = explorer._copies(columns, range(4), lambda row: {'row': row})
  assert (found['count'], found['exact'], found['groups']) == (2, 1, 1)
  assert [one['row'] for one in found['some'][0]] == [0, 1, 2]


def test_labels_of_few_images():
  """The verdict says of how many it speaks."""
  row = {'low': .9, 'num_images': 20, 'right': 1.}
  said = lambda number: ' '.join(page._verdict(
      {'acc': 1., 'num_images': number, 'num_labelled': 20, 'reliability': [row]}, None))
  assert 'of the 20 labelled images are in' in said(1000)
  assert 'of the images are in' in said(20)


def test_labels_that_are_numbers():
  """Of a table of an earlier version, in which a column of the user's had that name."""
  found = explorer._matrix({'label': [10, 2, None]}, np.array([1, 0, 0]))
  assert [row['label'] for row in found['rows']] == ['2', '10']
  assert [[cell['count'] for cell in row['cells']] for row in found['rows']] == [
      [1, 0], [0, 1]]


def test_what_is_decided_shows():
  """Names, a merge and a pin, as results.csv has them."""
  pins = np.full(N, -1)
  pins[4] = 0
  decided = none_of(Q, N)._replace(
      names=('', '<b>cats', '<b>cats', ''), owners=np.array([0, 1, 1, 3]), pins=pins)
  view = explorer.view(explored(decided))
  assert [card['title'] for card in view['cards']] == [
      'Cluster 0', '1 · <b>cats', 'Cluster 3']
  assert [card['size'] for card in view['cards']] == [15, 25, 0]
  assert view['cards'][0]['pinned'] == 1 and view['data']['pinned'] == [4]
  assert len(view['cards'][1]['means']) == 2  # of both that are one
  assert view['data']['cluster'][4] == 0 and view['data']['cluster'][2] == 1


def test_a_split_shows():
  """A part has a card of its own, with the pictures of the whole that the model knows."""
  share = (np.arange(N) % 2).astype(np.float32)  # of every second image
  cut = splits.none_of(Q, ['?'] * N).one_more(0, share)
  decided = none_of(Q, N)._replace(
      names=('even', '', '', '', 'odd'), owners=np.arange(Q + 1), splits=cut,
      shares=share[:, None])
  cards = explorer.view(explored(decided))['cards']
  assert [card['title'] for card in cards] == [
      '0 · even', 'Cluster 1', 'Cluster 2', 'Cluster 3', '4 · odd']
  members = np.flatnonzero(CLUSTERS == 0)
  assert cards[0]['size'] == np.sum(members % 2 == 0)
  assert cards[4]['size'] == np.sum(members % 2 == 1)
  assert cards[4]['means'] == cards[0]['means'] and len(cards[4]['means']) == 1


def test_unusual_images_and_copies(view):
  """Those of the rows, with why and of what."""
  assert view['foreign']['count'] == 1
  assert [(one['place'], one['why']) for one in view['foreign']['some']] == [
      (FOREIGN, 'texture')]
  assert view['copies']['count'] == view['copies']['exact'] == 1
  assert [one['place'] for one in view['copies']['some'][0]] == [ORIGINAL, COPY]


def test_labels_against_clusters(view):
  """Counts of each label in each cluster; an unknown label counts nowhere."""
  assert view['matrix']['clusters'] == [0, 1, 2]
  counts = np.array([[cell['count'] for cell in row['cells']]
                     for row in view['matrix']['rows']])
  np.testing.assert_array_equal(counts, np.diag([13, 13, 13]))


def test_of_many_images_some_are_shown(known):
  """Of each cluster the first and the last ones, and as many as may be."""
  rows = explorer.shown_rows(known.columns, 12)
  assert len(rows) == 12 and (np.diff(rows) > 0).all()
  rank = np.array(known.columns['rank'])
  for q, size in enumerate((14, 13, 13)):
    own = rank[rows][CLUSTERS[rows] == q]
    assert {1, size} <= set(own)
  np.testing.assert_array_equal(explorer.shown_rows(known.columns, N), np.arange(N))


def test_images_that_were_added(view, tmp_path):
  """They count, have pictures, and are told by those of the fit, as the others are."""
  known = explored_with_added()
  found = explorer.view(known)
  assert [(card['size'], card['added']) for card in found['cards']] == [
      (14, 0), (14, 1), (14, 1), (0, 0)]
  assert (found['total'], found['added'], found['data']['added']) == (N + 2, 2, 2)
  assert found['missing'] == [0, 1]  # the second has but what the run sees
  apart = distance.cdist(AWAY, features())
  for row, q in enumerate((1, 2)):
    np.testing.assert_allclose(found['data']['away'][N + row][0],
                               np.sort(apart[row, CLUSTERS == q])[:3], rtol=1e-3)
  for name in ('near', 'away', 'file', 'cluster'):  # nothing changes for the others
    assert found['data'][name][:N] == view['data'][name]
  assert found['data']['tiles']['images'] == view['data']['tiles']['images']
  shades = [tile.mean() for tile in thumbnails.tiles_of(known.sheets['added'])]
  assert shades == [99, 199]
  assert [one['place'] for one in found['foreign']['some']] == [N + 1, FOREIGN]
  counts = [[cell['count'] for cell in row['cells']] for row in found['matrix']['rows']]
  assert counts == np.diag([13, 14, 13]).tolist()  # one of them has a label
  assert 't-added-0' in found['foreign']['some'][0]['classes']
  result, _ = written(tmp_path, found)
  for expected in ('images, 2 of them added after the fit', '1 of them added',
                   '2 images were added', 'the part for experts',
                   '1 of the images on this page are not shown by their original'):
    assert expected in result.text, expected
  assert ADDED[1] in [attrs.get('title') for _, attrs in result.tags]
  text = written(tmp_path, view)[0].text
  assert 'added' not in text and 'original files' not in text


def test_no_text_from_outside_is_markup(view, tmp_path):
  """Not within the JSON either, which is read as it was made."""
  result, source = written(tmp_path, view)
  assert not [tag for tag, _ in result.tags if tag in ('b', 'i onclick')]
  scripts = re.findall(r'<script[^>]*>(.*?)</script>', source, re.DOTALL)
  assert len(scripts) == 2 and '\u2028' not in scripts[0]
  found = json.loads(scripts[0])
  assert found['file'][COPY] == NASTY and found['metadata']['room'][1] == '<i>east</i>'
  assert not re.search(r'https?://|@import|url\((?!data:image/webp;base64,)', source)


def test_the_page_says_it_in_words(view, tmp_path):
  """What is above the pictures, without JavaScript."""
  text = written(tmp_path, view)[0].text
  for expected in (
      'Of 40 images 39 (97.5 %) are sure', '1 are torn between clusters',
      'most of all Cluster 1 and Cluster 2', 'About one image in 20 is called so',
      '1 image repeats another one, 1 of them to the pixel', 'need JavaScript',
      '13 images, 32.5 % of all', 'folder/05.png' and '05.png', 'By the labels'):
    assert expected in text, expected


def test_none_that_is_sure():
  """The page says what may be behind it, where there was a training."""
  told = lambda sure, history: ' '.join(page._verdict({'history': history}, {
      'total': 9, 'sure': sure, 'torn': 9 - sure, 'pairs': [], 'cards': [],
      'pinned': 0, 'foreign': {'count': 0}, 'copies': {'count': 0}}))
  assert 'too short' in told(0, [{}])
  assert 'too short' not in told(1, [{}]) + told(0, [])


def test_every_picture_has_a_name(view, tmp_path):
  """For those who do not see it: a button with the name of the file, or a text."""
  result, _ = written(tmp_path, view)
  for tag, attrs in result.tags:
    if tag == 'img':
      assert attrs['alt']
    if attrs.get('role') == 'img':
      assert attrs['aria-label']
    if 'pick' in attrs.get('class', '').split():
      assert attrs['title'] in (*(f'folder/{i:02}.png' for i in range(N)), NASTY)


@pytest.mark.parametrize('count', [2, 3])
def test_hardly_any_images(count):
  """Two images, each a cluster, or three in two: nothing to compare them with."""
  near, away = explorer.nearest_of_both(np.arange(2. * count).reshape(count, 2),
                                        np.array([0, 1, 1][:count]),
                                        np.array([1, -1, 0][:count]),
                                        np.ones(count, bool))
  assert near[0] == [[], list(range(1, count))] and near[1][1] == []
  assert Q and away[0][0] == []
