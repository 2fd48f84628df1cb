"""Images by their embeddings: vectors that another network has made of them.

Most networks are trained so that the angle between two vectors says how alike their
images are, and their lengths little: so the default compares by angle. By distance the
vectors are taken as they are, but for their mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jdiffclust.clustering.starts.neighbours import unit_rows
from jdiffclust.errors import UserError

COSINE = 'cosine'


class Comparison(NamedTuple):
  """What embeddings become before the distances between them are taken.

  Attributes:
    centre: that of the fitted ones [D], which is taken away first.
    by_angle: whether only their directions count.
  """

  centre: np.ndarray
  by_angle: bool

  def __call__(self, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [n, D] as they are compared, float32 [n, D]."""
    rows = np.asarray(embeddings, np.float32)
    return unit_rows(rows) if self.by_angle else rows - self.centre


def comparison_of(embeddings: np.ndarray, options) -> Comparison:
  """The `Comparison` that is fitted to embeddings [n, D].

  Args:
    embeddings: of the images fitted.
    options: the section `start`: embeddings_distance.
  """
  by_angle = options.embeddings_distance == COSINE
  size = embeddings.shape[1]
  centre = (np.zeros(size) if by_angle else embeddings.mean(axis=0, dtype=np.float64))
  return Comparison(centre.astype(np.float32), by_angle)


def check_directions(embeddings: np.ndarray, ids, options, block: int = 4096) -> None:
  """Checks that embeddings [N, D] have directions, where these are compared.

  Args:
    embeddings: real numbers, perhaps a memory map.
    ids: of the images, N texts.
    options: the section `start`: embeddings_distance.
    block: rows looked at at once.

  Raises:
    UserError: one is all zeros.
  """
  if options.embeddings_distance != COSINE:
    return
  for start in range(0, len(embeddings), block):
    zero = ~np.asarray(embeddings[start:start + block]).any(axis=1)
    if zero.any():
      row = start + int(np.argmax(zero))
      raise UserError(
          f'The embedding of image {row} ({ids[row]!r}) is all zeros, which has no angle '
          "to others, which config.start.embeddings_distance = 'cosine' compares: embed "
          'that image again, or set euclidean.')
