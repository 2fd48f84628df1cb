"""What a run's images look like to it: their features, neighbours, copies, map.

    known = gallery_of(recogniser, source, seed, reporter)  # of a fit; kept in its folder
    look_at(recogniser, known, source, reporter)            # other images beside it

Features are those by which the start 'recognition' finds neighbours. Of another start
they are the principal components of the images, averaged to a few pixels.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from jdiffclust.clustering.starts.recognition import Recognised, cut
from jdiffclust.clustering.starts.sample import sample_indices
from jdiffclust.data.dataset import ImageSource, images_at, read_images, scale_to_model
from jdiffclust.data.sources.common import threaded_map
from jdiffclust.evaluation import foreign, gallery
from jdiffclust.evaluation.gallery import Copies, Gallery
from jdiffclust.errors import UserError
from jdiffclust.evaluation.interpolation import weighted
from jdiffclust.progress import Reporter
from jdiffclust.report import thumbnails
from jdiffclust.report.thumbnails import Sheets
from jdiffclust.streams import integer_seed

BLOCK = 1024  # images read at once
SECONDS = 60  # for which originals are decoded once more, for their thumbnails
MOST_SHOWN = 20_000  # images of which a table has pictures
Spread = Callable[[np.ndarray, int], np.ndarray]  # features and seed -> a map


class Looks(NamedTuple):
  """What is seen of n images: see `Gallery`."""

  features: np.ndarray
  signatures: np.ndarray
  digests: np.ndarray


class Beside(NamedTuple):
  """Images beside those of a run.

  Attributes:
    near: the rows of the run's images that are nearest to each, int [n, k].
    away: their distances, rising, [n, k].
    points: places on the map, [n, 2].
    copies: which repeat one of the run; of the run's own images, an earlier one.
  """

  near: np.ndarray
  away: np.ndarray
  points: np.ndarray
  copies: Copies


def looks_of(recogniser: Recognised | None, mean: np.ndarray, components: np.ndarray,
             source: ImageSource, reporter: Reporter) -> Looks:
  """What is seen of images.

  Args:
    recogniser: whose features they are; None: none.
    mean, components: of the principal components that they are else; see `Gallery`.
    source: the images.
    reporter: shows progress.
  """
  seen, parts = source.seen, []
  with reporter.task('features', source.num_images, 'images') as task:
    for begin in range(0, source.num_images, BLOCK):
      stored = read_images(seen, np.arange(begin, min(begin + BLOCK, source.num_images)))
      images = np.asarray(scale_to_model(stored, seen.levels))
      if recogniser is not None:
        features = recogniser.described(images.reshape(len(images), -1))
      else:
        flat = foreign.smaller(images, gallery.SIGNATURE).reshape(len(images), -1)
        features = (flat - mean) @ components.T
      parts.append((features.astype(np.float32), gallery.signatures(images),
                    gallery.digests(stored)))
      task.advance(len(images))
  return Looks(*map(np.concatenate, zip(*parts)))


def gallery_of(recogniser: Recognised | None, source: ImageSource, seed: int,
               reporter: Reporter, spread: Spread = gallery.spread) -> Gallery:
  """The images of a fit as what others are compared with.

  Args:
    recogniser: of the fit; None: it has none.
    source: its images.
    seed: of the fit.
    reporter: shows progress.
    spread: makes the map.
  """
  mean, components = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
  if recogniser is None:
    rows = sample_indices(source.num_images, foreign.MOST_IMAGES, seed)
    some = foreign.smaller(images_at(source.seen, rows), gallery.SIGNATURE)
    mean, components = (array.astype(np.float32) for array in foreign.subspace(
        some.reshape(len(some), -1).astype(np.float64)))
  looks = looks_of(recogniser, mean, components, source, reporter)
  with reporter.task('map', 1, 'maps') as task:
    points = spread(looks.features, integer_seed(seed, 'map'))
    task.advance(1)
  return Gallery(np.array(source.ids), looks.features, points, looks.signatures,
                 looks.digests, mean, components)


def of_the_run(known: Gallery) -> Beside:
  """The images of a run beside each other."""
  rows = np.arange(len(known.ids))
  near, away = gallery.nearest(known.features, known.features, gallery.NEAREST, rows)
  return Beside(near, away, known.points,
                gallery.copies_among(known.signatures, known.digests))


def beside(known: Gallery, looks: Looks) -> Beside:
  """New images beside those of a run."""
  near, away = gallery.nearest(looks.features, known.features, gallery.NEAREST)
  return Beside(near, away, gallery.placed(looks.features, known.features, known.points),
                gallery.copies_of(looks.signatures, looks.digests, known))


def look_at(recogniser: Recognised | None, known: Gallery, source: ImageSource,
            reporter: Reporter) -> Beside:
  """New images of a source beside those of a run; args as of `looks_of`."""
  return beside(known, looks_of(recogniser, known.mean, known.components, source,
                                reporter))


def pictures_of(source: ImageSource) -> list[bytes] | None:
  """The images as PNG files, as the run sees them; None: there are too many."""
  if source.num_images > MOST_SHOWN:
    return None
  seen, found = source.seen, []
  for begin in range(0, source.num_images, BLOCK):
    rows = np.arange(begin, min(begin + BLOCK, source.num_images))
    shades = np.clip(images_at(seen, rows) * 127.5 + 127.5, 0, 255).round()
    for image in shades.astype(np.uint8):
      file = io.BytesIO()
      Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, 'png')
      found.append(file.getvalue())
  return found


class Originals:
  """Small pictures of the originals of a source; what is in memory, where that fails.

  Attributes:
    others: of which rows, at which sides, it had none, since these took too long, or
      were gone.
  """

  def __init__(self, source: ImageSource, known: Mapping[int, Sheets] | None = None,
               seconds: float = SECONDS):
    """Begins now.

    Args:
      source: N images.
      known: pictures of them that were made before, and are not made again, by the side
        that they were asked for with.
      seconds: after which originals are decoded no longer.
    """
    self._source, self._end = source, time.monotonic() + seconds
    self._known = {
        (int(row), side): np.atleast_3d(tile)
        for side, sheets in (known or {}).items() for row, missing, tile in zip(
            sheets.rows, sheets.missing, thumbnails.tiles_of(sheets)) if not missing}
    self.others: set[tuple[int, int]] = set()

  def __call__(self, row: int, side: int) -> np.ndarray:
    """A picture uint8 [h, w, 1 or 3] with no side above `side`, of an image."""
    source, asked = self._source, (int(row), side)
    if asked in self._known:
      return self._known[asked]
    if source.thumbnail is not None:
      if time.monotonic() < self._end:
        try:
          return source.thumbnail(int(row), side)
        except (UserError, OSError, ValueError):  # it was there when the run began
          pass
      self.others.add(asked)
    if not isinstance(source.seen.images, np.ndarray):
      return np.full((1, 1, 1), 128, np.uint8)
    return thumbnails.reduced(
        thumbnails.eight_bits(images_at(source.seen, [row])[0]), side)


def as_known(sheets: Sheets, side: int, originals: Originals) -> Sheets:
  """Sheets that were asked for with a side, with those marked that are missing."""
  return sheets._replace(missing=np.array(
      [(row, side) in originals.others for row in sheets.rows.tolist()], bool))


def originals_of(source: ImageSource) -> list[bytes | None]:
  """Small pictures of the originals as WebP files; None: it took too long, or is gone.

  Of more than `MOST_SHOWN` images some have one, drawn at random.
  """
  find, count, side = Originals(source), source.num_images, thumbnails.LARGEST
  rows = np.sort(np.random.default_rng(0).permutation(count)[:MOST_SHOWN]).tolist()
  files = threaded_map(lambda row: thumbnails.packed(find(row, side)), rows)
  found = {row: file for row, file in zip(rows, files) if (row, side) not in find.others}
  return [found.get(row) for row in range(count)]


def smaller_part(features: np.ndarray, members: np.ndarray,
                 seed: int) -> np.ndarray | None:
  """The share of the smaller of two parts of a cluster in each image.

  The members are cut by their neighbourhoods, as the start 'recognition' cuts all images;
  the others have the shares of the members that are nearest to them.

  Args:
    features: of all images, [N, D].
    members: which are of the cluster, bool [N], at least 4.
    seed: of the cut.

  Returns:
    float32 [N] in [0, 1]; of parts of one size that without the first member is the
    smaller one. None: there are no two parts.
  """
  rows, others = np.flatnonzero(members), np.flatnonzero(~members)
  if not np.ptp(features[rows], axis=0).any():
    return None
  with threadpool_limits(1):  # as for every start
    parts = cut(features[rows, None], 2, integer_seed(seed, 'split'))
  which = parts.argmax(axis=1)
  sizes = np.bincount(which, minlength=2)
  if not sizes.all():
    return None
  smaller = 1 - which[0] if sizes[0] == sizes[1] else sizes.argmin()
  share = np.zeros(len(features), np.float32)
  share[rows] = parts[:, smaller]
  if len(others):
    near, away = gallery.nearest(features[others], features[rows], gallery.NEAREST)
    share[others] = weighted(away, share[rows][near][..., None])[:, 0]
  return share
