"""What is said of an image by what is known of its nearest ones."""

from __future__ import annotations

import numpy as np

SAME = 1e-3  # of the last one's distance: as near is as good as the same
TINY = 1e-6  # distances below are none


def weighted(away: np.ndarray, values: np.ndarray, tiny: float = TINY) -> np.ndarray:
  """Means of values, weighted by the inverse of the squared distance.

  Args:
    away: distances [n, k], rising.
    values: of the nearest ones, such as responsibilities or places, [n, k, Q].
    tiny: a last distance below is taken for this.

  Returns:
    float32 [n, Q].

  Source: Shepard (1968), his distances bounded below by a share of the largest one.
  """
  last = np.maximum(away[:, -1:], tiny)
  weights = 1 / ((away / last)**2 + SAME**2)
  weights /= weights.sum(axis=1, keepdims=True)
  return np.einsum('nk,nkq->nq', weights, values).astype(np.float32)
