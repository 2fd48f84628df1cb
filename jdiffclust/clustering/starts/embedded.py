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
SMALL = 1e-6  # numbers of a vector, under which it is enlarged before its norm is taken
SAME = 1e-6  # by which numbers of vectors of norm 1 differ that are the same


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
    if not self.by_angle:
      return rows - self.centre
    # A norm of numbers so small would be 0, or less than what `unit_rows` divides by.
    sizes = np.abs(rows).max(axis=1, keepdims=True)
    return unit_rows(rows / np.where((0 < sizes) & (sizes < SMALL), sizes, 1))


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


def check_directions(embeddings: np.ndarray, ids, options, block: int = 4096,
                     for_fit: bool = True) -> None:
  """Checks that embeddings [N, D] have directions, where these are compared.

  Args:
    embeddings: real numbers, perhaps a memory map.
    ids: of the images, N texts.
    options: the section `start`: embeddings_distance.
    block: rows looked at at once.
    for_fit: whether all may not have the same one.

  Raises:
    UserError: one is all zeros; or, for a fit, all point the same way.
  """
  if options.embeddings_distance != COSINE:
    return
  compare = comparison_of(embeddings, options)
  same = for_fit and len(embeddings) > 1
  for start in range(0, len(embeddings), block):
    zero = ~np.asarray(embeddings[start:start + block]).any(axis=1)
    if zero.any():
      row = start + int(np.argmax(zero))
      raise UserError(
          f'The embedding of image {row} ({ids[row]!r}) is all zeros, which has no angle '
          "to others, which config.start.embeddings_distance = 'cosine' compares: embed "
          'that image again, or set euclidean.')
    same = same and bool(np.allclose(compare(embeddings[start:start + block]),
                                     compare(embeddings[:1]), rtol=0, atol=SAME))
  if same or for_fit and embeddings.shape[1] == 1:
    what = ('of one number each have no angle but their sign' if embeddings.shape[1] == 1
            else 'all point the same way')
    raise UserError(
        f'The {len(embeddings)} embeddings {what}, and config.start.embeddings_distance '
        "= 'cosine' compares angles: set euclidean.")
