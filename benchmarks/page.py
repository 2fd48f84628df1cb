"""The page of many images: its size, and how smoothly its map moves.

  python -m benchmarks.page [--images 10000] [--added 0] [--clusters 20] [--keep FOLDER]

The images are made here: coloured pictures of 96 x 72 pixels, each noisy, which compress
worse than most photographs; so are their rows, with long file names. Frames a second are
those of Chromium without a window and without a graphics card while the map is moved,
whole and near.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.chromium import Browser, find
from jdiffclust import decisions
from jdiffclust.data import preprocess
from jdiffclust.evaluation import gallery
from jdiffclust.report import explorer, page, spreadsheet, thumbnails
from jdiffclust.exploring import Beside


def made(num_images: int, num_clusters: int, num_added: int = 0, seed: int = 0):
  """Rows and pictures of images.

  Args:
    num_images: N.
    num_clusters: Q.
    num_added: of the N, the last ones, that were added after a fit.
    seed: of all.

  Returns:
    `explorer.Explored` of these.
  """
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(num_clusters, 16)) * 2
  cluster = rng.integers(num_clusters, size=num_images)
  features = (centres[cluster] + rng.normal(size=(num_images, 16))).astype(np.float32)
  logits = -((features[:, None] - centres)**2).sum(axis=-1) / 2
  tau = np.exp(logits - logits.max(axis=1, keepdims=True))
  tau /= tau.sum(axis=1, keepdims=True)
  near, away = gallery.nearest(features, features, gallery.NEAREST, np.arange(num_images))
  copies = gallery.Copies(np.where(np.arange(num_images) % 500 == 7, 0, -1),
                          np.zeros(num_images, bool))
  ids = [f'a folder of some length/specimen_{i:06}_plate_{i % 97:02}.jpeg'
         for i in range(num_images)]
  decided = decisions.none_of(num_clusters, num_images)
  bound = rng.normal(size=num_images)
  columns = spreadsheet.columns_of(
      ids, tau.astype(np.float32), bound, decided,
      np.searchsorted(np.sort(bound), bound) / num_images,
      (rng.random(num_images) < .01, ['texture'] * num_images),
      Beside(near, away, features[:, :2] + rng.normal(size=(num_images, 2)) / 9, copies),
      None, [f'class {q}' for q in cluster], {})
  base = rng.integers(0, 256, (num_clusters, 6, 8, 3)).astype(np.uint8)
  base = np.stack([preprocess.resized(one, (72, 96), 'squash', 0, 255) for one in base])

  def thumbnail(row: int, side: int) -> np.ndarray:
    noise = np.random.default_rng(row).normal(0, 20, (72, 96, 3))
    image = np.clip(base[cluster[row]] + noise, 0, 255).astype(np.uint8)
    return preprocess.resized(image, preprocess.small_size((72, 96), side), 'squash', 0,
                              255)

  means, first = base / 127.5 - 1, num_images - num_added
  sheets = explorer.make_sheets(spreadsheet.of_rows(columns, range(first)), thumbnail,
                                means, np.stack([means] * 5, 1))
  if num_added:
    columns['added'] = [row >= first for row in range(num_images)]
    sheets = explorer.with_added(
        sheets, first, [thumbnails.packed(thumbnail(row, thumbnails.LARGEST))
                        for row in range(first, num_images)], [None] * num_added)
  return explorer.Explored(columns, decided, features, sheets)


def measure(address: str, folder) -> dict[str, float]:
  """Frames a second of a page's map, and the seconds until it is there."""
  with Browser(folder) as browser:
    began = time.perf_counter()
    browser.open(address)
    browser.value('new Promise(requestAnimationFrame)')
    found = {'seconds to open': time.perf_counter() - began}
    for name, factor in (('whole', 1), ('near', 4), ('nearer', 4)):
      browser.value(f'jdiffclust.map.zoom({factor})')
      browser.value('jdiffclust.map.measure(20)')
      found[f'frames/s, {name}'] = browser.value('jdiffclust.map.measure(120)')
    if browser.errors:
      raise RuntimeError(browser.errors[0])
  return found


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=int, default=10_000)
  parser.add_argument('--added', type=int, default=0, help='after a fit, besides')
  parser.add_argument('--clusters', type=int, default=20)
  parser.add_argument('--keep', help='a folder to keep report.html in')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    path = pathlib.Path(args.keep or temporary).resolve() / 'report.html'
    began = time.perf_counter()
    number = args.images + args.added
    explored = made(number, args.clusters, args.added)
    made_by = time.perf_counter() - began
    page.write_report(path, {'dataset': 'made', 'num_images': number,
                             'num_clusters': args.clusters}, {}, {}, [],
                      view=explorer.view(explored))
    print(f'images {number}, of which the page shows '
          f"{len(explorer.shown_of(explored.sheets))}, tiles of "
          f"{explored.sheets['images'].side} pixels")
    print(f'seconds for rows and pictures {made_by:.1f}, for the page '
          f'{time.perf_counter() - began - made_by:.1f}')
    print(f'MB {path.stat().st_size / 1e6:.1f}')
    if find() is None:
      print('no Chromium here: frames are not counted')
      return
    for name, value in measure(path.as_uri(), temporary).items():
      print(f'{name} {value:.1f}')


if __name__ == '__main__':
  main()
