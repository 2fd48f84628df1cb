"""A look at the images before a fit: what is odd about them, in words and as a picture.

    found = inspect(source, config)      # before anything is computed
    found.lines()                        # for a person
    found.as_dict()                      # of summary.json

Nothing is left out or changed for it; and no labels are looked at.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jdiffclust.data.dataset import ImageSource, images_at, read_images
from jdiffclust.data.fingerprint import BLOCK, MOST_DECODED
from jdiffclust.data.preprocess import CROPPED, cropped
from jdiffclust.data.sources.common import LazyImages
from jdiffclust.evaluation import gallery

PICTURE, FILE = 'check.png', 'check.json'  # in the folder of a run
SHOWN = 24  # images of the picture
EXAMPLES = 6  # of what is odd, in the picture
ONE_COLOUR = 2 / 255  # of the range of pixels: what JPEG leaves of one colour
# Times the usual longer side, and the usual proportions, beyond which a size is odd.
ODD_SIDE, ODD_RATIO = 3., 2.
LEAST_CONTRAST = .5  # of the variance of pixels, median over images
LEAST_SIDE = 8  # pixels
IMAGES_EACH = 10  # images of a cluster below which their neighbourhoods say little

MEANINGS = {
    'single_colour': 'of a single colour',
    'transparent': 'transparent in part',
    'cropped': f'cropped by more than {CROPPED:.0%}',
    'padded': 'padded, since they are of other proportions',
    'duplicates': 'the same as another, to the pixel',
    'odd_size': 'of odd size',
    'enlarged': 'smaller than they are shown to the start'}
OF_PIXELS = ('single_colour', 'duplicates')  # the others are known of all images


class Inspection(NamedTuple):
  """What is seen of the images of a fit.

  Attributes:
    num_images: N.
    num_looked_at: of them, for what needs the pixels.
    image_shape: (H, W, C) that the diffusion model sees.
    seen_shape: that the start sees.
    odd: indices of images, int [n], by what is odd about them, see `MEANINGS`.
    first: of each duplicate, the image that it repeats, int [n].
    lost: the largest share of a picture that is cropped.
    contrast: the share of the variance of pixels that the start sees, median over images;
      None: not known.
    background: on which transparent pixels lie.
    ground: on which padded pictures lie, three numbers of 0..255; None: that of each.
    num_skipped: unreadable files.
    ids: of the images.
  """

  num_images: int
  num_looked_at: int
  image_shape: tuple[int, ...]
  seen_shape: tuple[int, ...]
  odd: dict[str, np.ndarray]
  first: np.ndarray
  lost: float
  contrast: float | None
  background: str
  ground: tuple[float, ...] | None
  num_skipped: int
  ids: tuple[str, ...]

  def as_dict(self) -> dict[str, Any]:
    """Of summary.json: counts, and some ids by what is odd."""
    return {
        'num_images': self.num_images, 'num_looked_at': self.num_looked_at,
        'image_shape': list(self.image_shape), 'seen_shape': list(self.seen_shape),
        **{name: len(rows) for name, rows in self.odd.items()},
        'largest_crop': self.lost, 'contrast_seen': self.contrast,
        'background': self.background,
        'ground': None if self.ground is None else list(self.ground),
        'unreadable': self.num_skipped,
        'examples': {name: [self.ids[i] for i in rows[:EXAMPLES]]
                     for name, rows in self.odd.items() if len(rows)}}

  def _around(self) -> str:
    """What surrounds padded pictures, for a person."""
    if self.ground is None:
      return 'with the colour of their own border'
    rgb = [round(level) for level in self.ground]
    named = {0: 'black', 255: 'white'}.get(rgb[0]) if len(set(rgb)) == 1 else None
    return f'on the ground of most, {named or "RGB " + " ".join(map(str, rgb))}'

  def lines(self) -> list[str]:
    """For a person: what is seen, and a line on each oddity."""
    shape = lambda size: f'{size[0]}x{size[1]} pixels'
    kind = 'grey' if self.image_shape[2] == 1 else 'colour'
    how = f'the start sees them at {shape(self.seen_shape)}'
    if self.seen_shape != self.image_shape:
      how += f', the diffusion model at {shape(self.image_shape)}'
    part = ('' if self.num_looked_at == self.num_images else
            f' (of {self.num_looked_at:,} whose pixels were looked at)')
    found = [f'{self.num_images:,} {kind} images; {how}.']
    remedies = {
        'transparent': f'; they lie on {self.background} (--config.data.background)',
        'cropped': f', at most {self.lost:.0%} (--config.data.fit=pad keeps all)',
        'padded': f', {self._around()} (--config.data.fit=crop keeps their middle)'}
    for name, rows in self.odd.items():
      if len(rows):
        shown = self.ids[rows[0]]
        if name == 'duplicates':
          shown += f' = {self.ids[self.first[0]]}'
        found.append(f'  {len(rows):,} {MEANINGS[name]}{part * (name in OF_PIXELS)}'
                     f'{remedies.get(name, "")}: '
                     f"{shown}{', ...' * (len(rows) > 1)}")
    if self.num_skipped:
      found.append(f'  {self.num_skipped:,} files could not be read and are left out')
    if len(found) == 1:
      found.append('  Nothing odd: none of a single colour, transparent, cropped, '
                   f'duplicated or of odd size{part}.')
    return found


def inspect(source: ImageSource, data) -> Inspection:
  """Looks at the images of a fit.

  Args:
    source: the images.
    data: the section `data` of its config.
  """
  seen, count = source.seen, source.num_images
  rows = np.arange(count)
  if isinstance(seen.images, LazyImages) and count > MOST_DECODED:
    rows = np.arange(MOST_DECODED) * count // MOST_DECODED
  plain, digests = [], []
  for start in range(0, len(rows), BLOCK):
    pixels = read_images(seen, rows[start:start + BLOCK])
    spread = np.ptp(pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float32),
                    axis=1).max(axis=1)
    plain.append(spread <= ONE_COLOUR * (2 if seen.levels is None else seen.levels - 1))
    digests.append(gallery.digests(pixels))
  digests = np.concatenate(digests)
  of = gallery.first_alike(digests)
  repeats = np.flatnonzero(of != np.arange(len(of)))
  odd = dict.fromkeys(MEANINGS, np.zeros(0, int)) | {
      'single_colour': rows[np.concatenate(plain)], 'duplicates': rows[repeats]}
  lost, contrast = 0., None
  if source.stored is not None:
    height, width = (side - 2 * data.padding for side in source.image_shape[:2])
    sizes = source.stored.sizes.astype(np.float64)
    fit, apart = source.rendering.fit, cropped(sizes, (height, width))
    told = {'crop': 'cropped', 'pad': 'padded'}
    lost = float(apart.max()) if fit == 'crop' else 0.
    contrast = float(np.median(source.stored.contrast))
    fine = np.array(seen.image_shape[:2]) - 2 * data.padding
    odd |= {'transparent': np.flatnonzero(source.stored.transparent),
            **({told[fit]: np.flatnonzero(apart > CROPPED)} if fit in told else {}),
            'odd_size': np.flatnonzero(of_odd_size(sizes)),
            'enlarged': np.flatnonzero((sizes < fine).any(axis=1))}
  return Inspection(count, len(rows), source.image_shape, seen.image_shape, odd,
                    rows[of[repeats]], lost, contrast, source.rendering.background,
                    source.rendering.ground,
                    len(source.skipped), tuple(source.ids))


def of_run(workdir, source: ImageSource, data) -> dict[str, Any]:
  """`Inspection.as_dict` of the images of a run: as it was kept, or else looked at now.

  Args:
    workdir: the folder of the run.
    source, data: as of `inspect`.
  """
  try:
    return json.loads((pathlib.Path(workdir) / FILE).read_bytes())
  except (OSError, ValueError):
    return inspect(source, data).as_dict()


def of_odd_size(sizes: np.ndarray) -> np.ndarray:
  """Whether sizes (height, width) [N, 2] differ much from the usual one, bool [N]."""
  side, ratio = np.log(sizes.max(axis=1)), np.log(sizes[:, 1] / sizes[:, 0])
  return ((np.abs(side - np.median(side)) > np.log(ODD_SIDE))
          | (np.abs(ratio - np.median(ratio)) > np.log(ODD_RATIO)))


def cautions(found: Inspection, num_clusters: int | str) -> list[str]:
  """What is likely to go wrong, before anything is computed; a line each.

  Args:
    found: of the images.
    num_clusters: as asked for; 'auto': unknown.
  """
  told, (height, width) = [], found.seen_shape[:2]
  if min(height, width) < LEAST_SIDE:
    told.append(f'Images of {height}x{width} pixels may be too small to tell clusters '
                f'apart: {LEAST_SIDE} pixels a side or more are better '
                '(--config.data.image_size).')
  elif found.contrast is not None and found.contrast < LEAST_CONTRAST:
    told.append(
        f'At {height}x{width} pixels half of the images keep less than '
        f'{found.contrast:.0%} of their contrast: what sets them apart may be too fine '
        f'to be seen. --config.recognition.max_side={2 * max(height, width)} sees more, '
        'and takes four times as long.')
  different = found.num_images - len(found.odd['duplicates'])
  if not isinstance(num_clusters, str) and different < num_clusters:
    told.append(f'Only {different} of the {found.num_images} images differ: at least '
                f'{num_clusters - different} of {num_clusters} clusters will be empty, '
                'or the same. Ask for fewer.')
  elif not isinstance(num_clusters, str) and 1 < num_clusters and (
      found.num_images < IMAGES_EACH * num_clusters):
    told.append(
        f'{num_clusters} clusters are many for {found.num_images} images, '
        f'{found.num_images / num_clusters:.1f} each: with fewer than {IMAGES_EACH} each '
        'they are found less and less well. Ask for fewer, or give more images.')
  return told


def tiles(found: Inspection, source: ImageSource) -> list[tuple[str, list[np.ndarray]]]:
  """What a picture of the check shows, by rows.

  Args:
    found: of the images.
    source: the images.

  Returns:
    A title and groups of images [n, H, W, C] in [-1, 1] of each row: as the start sees
    them and, if that differs, as the diffusion model does.
  """
  chosen = np.random.default_rng(0).permutation(found.num_images)[:SHOWN]
  rows = [('some of the images' * (start == 0), chosen[start:start + EXAMPLES])
          for start in range(0, len(chosen), EXAMPLES)]
  rows += [(f'{len(odd):,} {MEANINGS[name]}', odd[:EXAMPLES])
           for name, odd in found.odd.items() if len(odd)]
  sources = [source.seen] + [source] * (found.seen_shape != found.image_shape)
  return [(title, [images_at(each, indices) for each in sources])
          for title, indices in rows]
