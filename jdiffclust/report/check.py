"""The picture of the look at the images before a fit."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from jdiffclust.report import figures


def check(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Figure:
  """Draws images as they are seen, and what is odd among them.

  Args:
    rows: a title and one or two groups of images [n, H, W, C] in [-1, 1] of each: as the
      start sees them, and as the diffusion model does.

  Returns:
    A Figure.
  """
  sizes = [group.shape[1:3] for group in rows[0][1]]
  heads = ['as the start sees them: {}x{}', 'the diffusion model: {}x{}']
  return figures.sheet(
      [[enlarged(group, sizes[0]) for group in groups] for _, groups in rows],
      headings=[head.format(*size) for head, size in zip(heads, sizes)],
      row_titles=[title for title, _ in rows])


def enlarged(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Images [n, H, W, C] at another size, their pixels as squares."""
  if images.shape[1:3] == tuple(size):
    return images
  return np.stack([
      np.stack([np.asarray(Image.fromarray(image[..., c]).resize(
          size[::-1], Image.Resampling.NEAREST)) for c in range(image.shape[-1])], -1)
      for image in images])
