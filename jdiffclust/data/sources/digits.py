"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import ml_collections
import numpy as np

from jdiffclust.data.rendering import Rendering
from jdiffclust.data.sources.arrays import fit_of_array
from jdiffclust.data.sources.common import Raw, row_ids


def read_digits(data: ml_collections.ConfigDict,
                rendering: Rendering | None = None) -> Raw:
  """Reads scikit-learn's 1,797 digits, 8x8x1 with levels 0..16.

  Args:
    data: the `data` section of a config; the options use_labels, image_size and fit
      are used.
    rendering: of a fit, whose way to resize is kept to; the levels are known.

  Returns:
    A Raw, its images uint8 [1797, 8, 8, 1].
  """
  from sklearn import datasets  # slow to import, and needed here alone
  digits = datasets.load_digits()
  labels = digits.target.astype(np.int64) if data.use_labels else None
  images = digits.images.astype(np.uint8)[..., None]
  return Raw(
      images=images,
      ids=row_ids(len(digits.images)), labels=labels,
      label_names=tuple('0123456789') if data.use_labels else None,
      levels=17, name='digits', rendering=Rendering(
          {'byte': (0, 16)}, fit=fit_of_array(images, data, rendering)))
