"""What restore shows: a sheet of pictures, an image file of each, a page."""

from __future__ import annotations

import collections
import csv
import pathlib
import re

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jdiffclust import files
from jdiffclust.report import figures
from jdiffclust.report.page import embedded

MOST_ROWS, MOST_DRAWS, MOST_LINES = 20, 5, 1000
FOLDER = 'restored'
LONGEST = 150  # bytes of a file name, of the 255 that most systems allow


def visible(images: np.ndarray, mask: np.ndarray | None,
            shape: tuple[int, int, int]) -> np.ndarray:
  """What is seen of images as pictures of one size; what a mask hides is mid-grey.

  Args:
    images: [n, h, w, c] in [-1, 1].
    mask: [H, W, 1 or C], or None.
    shape: (H, W, C) of the restored ones.

  Returns:
    [n, H, W, C].
  """
  images = np.asarray(images)
  if mask is not None:
    images = np.where(mask > 0, images, 0.)
  channels = max(images.shape[3], shape[2])
  images = np.broadcast_to(images, (*images.shape[:3], channels))
  rows = np.arange(shape[0]) * images.shape[1] // shape[0]
  columns = np.arange(shape[1]) * images.shape[2] // shape[1]
  return images[:, rows][:, :, columns]


def errors(mean: np.ndarray, whole: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
  """How far restored images are from whole ones: root mean square, in their units.

  Args:
    mean, whole: [n, H, W, C].
    mask: of the pixels that are known, and do not count, [H, W, 1 or C]; None: all count.

  Returns:
    [n].
  """
  squares = (mean - whole)**2
  if mask is None:
    return np.sqrt(squares.mean(axis=(1, 2, 3)))
  hidden = np.broadcast_to(mask <= 0, mean.shape[1:])
  return np.sqrt(squares[:, hidden].mean(axis=1))


def sheet(damaged: np.ndarray, draws: np.ndarray, std: np.ndarray,
          names: list[str], whole: np.ndarray | None = None,
          called: str = 'image') -> Figure:
  """A row an image: what is seen, draws, their mean and standard deviation.

  Args:
    damaged: [n, H, W, C] in [-1, 1].
    draws: [n, D, H, W, C].
    std: [n, H, W, C]; the largest of all is shown white.
    names: n texts.
    whole: the images with nothing hidden, [n, H, W, C], if there are; they come first.
    called: the heading of these.
  """
  most = max(float(std.max()), 1e-6)
  rows = [[damaged[i:i + 1], draws[i, :MOST_DRAWS], draws[i].mean(axis=0)[None],
           std[i:i + 1] / most * 2 - 1] for i in range(len(damaged))]
  headings = ['seen', 'restored: draws', 'mean', 'spread']
  if whole is not None:
    rows = [[whole[i:i + 1], *row] for i, row in enumerate(rows)]
    headings = [called, *headings]
  return figures.sheet(rows, headings, row_labels=[figures.shorten(n) for n in names])


def files_of(table: pathlib.Path) -> list[pathlib.Path]:
  """The image files that restored.csv of an earlier command names; it may be missing."""
  try:
    with open(table, newline='', encoding='utf-8-sig') as file:
      named = [row.get('file') or '' for row in csv.DictReader(file)]
  except (OSError, ValueError, csv.Error):
    return []
  paths = [table.parent / name for name in named]
  return [path for path in paths if path.parent == table.parent / FOLDER
          and path.suffix == '.png']


def write_images(folder: pathlib.Path, names: list[str], images: np.ndarray) -> None:
  """Writes an 8-bit PNG of each image.

  Args:
    folder: where they go; those of before with the same names are replaced.
    names: of `file_names`.
    images: [n, H, W, C] in [-1, 1].
  """
  folder.mkdir(parents=True, exist_ok=True)
  pixels = np.rint(np.clip(images * 127.5 + 127.5, 0, 255)).astype(np.uint8)
  for name, image in zip(names, pixels):
    with files.replacing(folder / name) as temporary:
      Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
          temporary, format='png')


def file_names(ids) -> list[str]:
  """A PNG's name for each id; no two are alike, in capitals or not.

  What a file name cannot hold becomes '_', of long ids the end is kept. Ids that would
  share a name get their number before it, and so does what looks like one that has.
  """
  def bare(text):
    stem = re.sub(r'\.\w{1,5}(?=#\d+$|$)', '', text)  # of 'a/b.tif#3': 'a/b#3'
    stem = re.sub(r'[^\w.-]+', '_', stem).lstrip('.')
    return stem.encode()[-LONGEST:].decode(errors='ignore') or 'image'

  stems = [bare(text) for text in ids]
  count = collections.Counter(stem.lower() for stem in stems)
  # Where any is numbered, a stem that begins like a number is, too.
  alike = any(number > 1 for number in count.values())
  numbered = lambda stem: count[stem.lower()] > 1 or (
      alike and re.match(r'\d+_', stem))
  return [f'{i}_{stem}.png' if numbered(stem) else f'{stem}.png'
          for i, stem in enumerate(stems)]


def write_page(path: pathlib.Path, picture: pathlib.Path, source, found, options,
               pixel_range: tuple[float, float],
               errors: np.ndarray | None = None, of_the_fit: bool = False,
               groups: int = 0) -> None:
  """Writes restored.html, all at once or not at all.

  Args:
    path: the file.
    picture: the sheet.
    source: the damaged images.
    found: `fitted.Restored`.
    options: the section `restore` of the config.
    pixel_range: of the stored pixels.
    errors: of `errors`, [n], where the images are whole.
    of_the_fit: whether they are images of the fit.
    groups: of an image's particles; 0: of a method without.
  """
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent), autoescape=True,
      trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
  told = lambda value: f'{value:.1f}' if np.isfinite(value) else ''
  lines = [(source.ids[i], int(found.clusters[i]),
            f'{found.responsibilities[i].max():.0%}', f'{found.residual[i]:.3g}',
            '' if errors is None else f'{errors[i]:.3g}',
            told(found.ess[i]), told(found.log_evidence[i]))
           for i in range(min(source.num_images, MOST_LINES))]
  page = environment.get_template('restored.html.jinja').render(
      dataset=source.name, total=source.num_images, shown=len(lines), lines=lines,
      draws=found.images.shape[1], picture=embedded(picture), options=options,
      low=f'{pixel_range[0]:g}', high=f'{pixel_range[1]:g}',
      whole=errors is not None, of_the_fit=of_the_fit,
      particles=groups > 0, groups=groups)
  files.write_text(path, page)
