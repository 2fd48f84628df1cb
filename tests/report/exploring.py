"""A run that was never fitted: rows and pictures of 40 images, for tests of the page."""

import numpy as np

from jdiffclust import exploring
from jdiffclust.decisions import none_of
from jdiffclust.evaluation.gallery import Copies, nearest
from jdiffclust.report import explorer, spreadsheet, thumbnails

N, Q = 40, 4  # the last cluster is empty
# A file name that would end a script, be markup, or be computed by a spreadsheet.
NASTY = '</script><b onclick="x">&\u2028.png'
CLUSTERS = np.arange(N) % 3
COPY, ORIGINAL, FOREIGN, TORN = 39, 3, 5, 7
ADDED = ('new/40.png', 'new/<i>41</i>.png')  # of the clusters 1 and 2, far from all
AWAY = np.array([[10., -3.], [20., 9.]])


def responsibilities():
  """Sure of all but one image, which is torn between the clusters 1 and 2."""
  tau = np.full((N, Q), .01)
  tau[np.arange(N), CLUSTERS] = .97
  tau[TORN] = [.03, .5, .46, .01]
  return tau.astype(np.float32)


def features():
  """Three groups on a line, the torn image half way between the last two."""
  found = np.stack([CLUSTERS * 10., np.arange(N) / 10], axis=1)
  found[TORN, 0] = 15.1
  return found


def thumbnail(row, side):
  """Of one shade, that of its row; landscapes and portraits."""
  shape = (side // 2, side, 1) if row % 2 else (side, side // 2, 1)
  return np.full(shape, 6 * row, np.uint8)


def explored(decided=None, names=None):
  """`explorer.Explored` of these; decided: by hand; names: of the files."""
  decided = decided or none_of(Q, N)
  names = names or [f'folder/{i:02}.png' for i in range(N - 1)] + [NASTY]
  places = features()
  near, away = nearest(places, places, 10, np.arange(N))
  of = np.full(N, -1)
  of[COPY] = ORIGINAL
  beside = exploring.Beside(near, away, places, Copies(of, of >= 0))
  foreign = np.arange(N) == FOREIGN
  columns = spreadsheet.columns_of(
      names, responsibilities(), -np.arange(float(N)), decided,
      1 - np.arange(N) / N, (foreign, ['texture'] * N), beside, None,
      [f'kind {q}' for q in CLUSTERS[:-1]] + [''],
      {'room': ['=1+1'] + ['<i>east</i>'] * (N - 1),
       'plate': ['005'] + ['Ka\u0308se'] * (N - 1), 'height': [-1.5, None] * (N // 2)})
  pictures = np.linspace(-1, 1, Q)[:, None, None, None] * np.ones((Q, 8, 8, 1))
  pictures[-1] = np.nan  # the mean of no image
  sheets = explorer.make_sheets(columns, thumbnail, pictures, np.stack([pictures] * 2, 1))
  return explorer.Explored(columns, decided, places, sheets)


def explored_with_added():
  """The same with two images that were added, the second of which is unusual."""
  own = explored()
  near, away = nearest(AWAY, features(), 10)
  columns = spreadsheet.columns_of(
      ADDED, responsibilities()[[1, 2]], -np.array([99., 98.]), none_of(Q, 2),
      np.zeros(2), (np.array([False, True]), ['edges'] * 2),
      exploring.Beside(near, away, AWAY, Copies(np.full(2, -1), np.zeros(2, bool))),
      [*own.columns['file'], *ADDED], ['kind 1', ''], {}, None, True)
  columns = spreadsheet.one_below_the_other(own.columns, columns)
  decided = none_of(Q, N + 2)
  shades = [thumbnails.packed(np.full((6, 9, 1), shade, np.uint8)) for shade in (99, 199)]
  return explorer.Explored(
      spreadsheet.decided_anew(columns, decided), decided,
      np.concatenate([features(), AWAY]),
      explorer.with_added(own.sheets, N, [shades[0], None], [None, shades[1]]))
