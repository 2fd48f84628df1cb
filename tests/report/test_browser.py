"""The page in Chromium: it raises no error, and filter, search, lasso and export work."""

import csv
import io

import pytest

from benchmarks import chromium
from jdiffclust.report import explorer, page, spreadsheet
from tests.report.exploring import (
    ADDED, CLUSTERS, N, NASTY, TORN, explored, explored_with_added)
from tests.report.pages import SUMMARY, TABLE

pytestmark = pytest.mark.skipif(
    chromium.find() is None,
    reason='no Chromium or Chrome is installed, in which the page would be tried out')


@pytest.fixture(scope='module')
def address(tmp_path_factory):
  """Of the page of 40 images."""
  path = tmp_path_factory.mktemp('page') / 'report.html'
  page.write_report(path, SUMMARY, {}, {}, TABLE, view=explorer.view(explored()))
  return path.as_uri()


@pytest.fixture(scope='module')
def with_added(tmp_path_factory):
  """The address of the page of the same images and two that were added."""
  path = tmp_path_factory.mktemp('added') / 'report.html'
  page.write_report(path, SUMMARY, {}, {}, TABLE,
                    view=explorer.view(explored_with_added()))
  return path.as_uri()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  """A `Browser`."""
  with chromium.Browser(tmp_path_factory.mktemp('browser')) as one:
    yield one


def listed(browser):
  """The images of the list."""
  return browser.value("[...document.querySelectorAll('#list .pick')]"
                       '.map((one) => Number(one.dataset.image))')


def spot(browser, image):
  """Where an image is on the screen; the map is brought there."""
  browser.value("document.getElementById('map').scrollIntoView({block: 'center', "
                "behavior: 'instant'})")
  browser.value('new Promise((done) => requestAnimationFrame(() => '
                'requestAnimationFrame(done)))')  # so that clicks find it there
  return browser.value(f'jdiffclust.map.spot({image})')


@pytest.mark.parametrize('width', [380, 1400])
def test_no_error_and_no_overflow(browser, address, width):
  """Light and dark, on a telephone and a screen; every sheet can be drawn."""
  for dark in (False, True):
    browser.open(address, width, dark=dark)
    assert browser.value('jdiffclust.map.loaded()')
    assert browser.value('document.documentElement.scrollWidth') <= width
  browser.open(address, width, script=False)
  assert browser.value("document.querySelectorAll('noscript').length") == 1
  assert browser.errors == []


def test_filter_and_search(browser, address):
  """By chip, by choice, by name; what is said of the torn image."""
  browser.open(address)
  assert len(listed(browser)) == N
  browser.value("document.querySelectorAll('#chips .chip')[1].click()")
  assert sorted(listed(browser)) == [i for i in range(N) if CLUSTERS[i] == 1]
  browser.value("document.querySelectorAll('#chips .chip')[1].click()")
  browser.value("""{const one = document.getElementById('filter'); one.value = 'torn';
      one.dispatchEvent(new Event('change'))}""")
  assert listed(browser) == [TORN]
  browser.value("document.querySelector('#list .pick').click()")
  why = browser.value("document.getElementById('why').innerText")
  assert 'folder/07.png' in why
  assert 'Next best: Cluster 2, 46.0 %' in why.replace('\N{NO-BREAK SPACE}', ' ')
  browser.value("""{document.getElementById('filter').value = 'all';
      document.getElementById('filter').dispatchEvent(new Event('change'));
      const one = document.getElementById('query'); one.value = '<B ONCLICK';
      one.dispatchEvent(new Event('input'))}""")
  browser.value('new Promise((done) => setTimeout(done, 300))')
  assert listed(browser) == [N - 1] and browser.errors == []
  # A letter of one sign finds the same of two.
  browser.value("""{const one = document.getElementById('query'); one.value = 'K\xe4SE';
      one.dispatchEvent(new Event('input'))}""")
  browser.value('new Promise((done) => setTimeout(done, 300))')
  assert len(listed(browser)) == N - 1 and browser.errors == []


def test_a_click_on_the_map(browser, address):
  """Shows the image that is there, and its cluster alone."""
  browser.open(address)
  x, y = spot(browser, 0)
  browser.mouse('Moved', x, y)
  assert browser.value("document.getElementById('hover').innerText").startswith('folder/')
  for kind in ('Pressed', 'Released'):
    browser.mouse(kind, x, y)
  assert {CLUSTERS[i] for i in listed(browser)} == {CLUSTERS[0]}
  assert 'Why is it here?' in browser.value("document.getElementById('why').innerText")


def test_lasso_and_export(browser, address, tmp_path):
  """The images of a group on the map, as a table that a spreadsheet does not compute."""
  browser.open(address)
  browser.value("document.getElementById('lasso').click()")
  left, top = spot(browser, 2)  # the first of the third group, which is a column
  right, bottom = spot(browser, 38)
  corners = [(left - 12, min(top, bottom) - 12), (left - 12, max(top, bottom) + 12),
             (right + 12, max(top, bottom) + 12), (right + 12, min(top, bottom) - 12)]
  browser.mouse('Moved', *corners[0])
  browser.mouse('Pressed', *corners[0])
  for corner in corners[1:]:
    browser.mouse('Moved', *corner, held=True)
  browser.mouse('Released', *corners[-1])
  images = [i for i in range(N) if CLUSTERS[i] == 2 or i == TORN]
  found = listed(browser)
  assert set(images) - {TORN} <= set(found) <= set(images)
  text = browser.value('jdiffclust.table([0, 39])')
  rows = list(csv.DictReader(io.StringIO(text, newline='')))
  assert [row['file'] for row in rows] == ['folder/00.png', NASTY]
  assert [row['room'] for row in rows] == ["'=1+1", '<i>east</i>']
  assert rows[0]['probability'] == '0.97' and rows[1]['duplicate_of'] == 'folder/03.png'
  # As results.csv has them: what is changed else is a text, a number stays one.
  spreadsheet.write_csv(tmp_path / 'results.csv', explored().columns)
  with open(tmp_path / 'results.csv', newline='', encoding='utf-8-sig') as file:
    written = list(csv.DictReader(file))
  for row, place in zip(rows, (0, 39)):
    for name in ('file', 'cluster', 'name', 'second', 'rank', 'foreign', 'duplicate_of',
                 'label', 'room', 'plate', 'height'):
      assert row[name] == written[place][name], name
  assert rows[0]['plate'] == "'005" and rows[0]['height'] == '-1.5'
  browser.value("document.getElementById('export').click()")
  saved = browser.downloaded('images.csv').decode('utf-8-sig')
  assert len(list(csv.DictReader(io.StringIO(saved, newline='')))) == len(found)
  assert browser.errors == []


def test_images_that_were_added(browser, with_added, address):
  """Found, filtered, exported and drawn as the others; switched off; told apart."""
  browser.open(with_added, 380)
  assert browser.value('jdiffclust.map.loaded()')
  assert browser.value('document.documentElement.scrollWidth') <= 380
  browser.open(with_added)
  assert len(listed(browser)) == N + 2
  choose = lambda kind: browser.value(f"""{{const one = document.getElementById('filter');
      one.value = '{kind}'; one.dispatchEvent(new Event('change'))}}""")
  choose('added')
  assert sorted(listed(browser)) == [N, N + 1]
  choose('cluster 1')
  assert sorted(listed(browser)) == [i for i in range(N) if CLUSTERS[i] == 1] + [N]
  browser.value("document.getElementById('added').click()")
  assert N not in listed(browser)
  assert 'but those added' in browser.value("document.getElementById('found').innerText")
  choose('added')
  assert sorted(listed(browser)) == [N, N + 1]
  browser.value("document.querySelector('#list .pick').click()")
  why = browser.value("document.getElementById('why').innerText")
  assert ADDED[0] in why and 'Added after the fit' in why
  text = browser.value(f'jdiffclust.table([0, {N}])')
  assert [row['added'] for row in csv.DictReader(io.StringIO(text, newline=''))] == [
      'no', 'yes']
  x, y = spot(browser, N + 1)
  browser.mouse('Moved', x, y)
  assert ADDED[1] in browser.value("document.getElementById('hover').innerText")
  browser.open(address)
  assert browser.value("document.getElementById('added')") is None
  assert browser.errors == []
