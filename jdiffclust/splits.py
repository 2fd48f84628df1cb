"""Clusters that a person has cut in two: which part each image of a run is in.

They are kept in the run's folder, the earlier first. Of Q clusters, split number s, from
0, gives the new part the number Q + s, and what it cut keeps its own; an earlier part may
be cut again. The share of the new part in an image multiplies what is known of the image:

  tau_(Q + s) = share tau_c,   and then   tau_c = (1 - share) tau_c.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jdiffclust import files
from jdiffclust.errors import UserError

FILE = 'splits.npz'  # in the folder of a run
FEWEST = 4  # images that a cluster must have to be cut


class Splits(NamedTuple):
  """The S splits of Q clusters of N images.

  Attributes:
    num_clusters: Q.
    clusters: what each split cuts, int [S].
    shares: of the new part of each split in each image, float32 [N, S].
    ids: of the images, N texts.
    digests: of their pixels, uint64 [N], see `evaluation.gallery.digests`.
  """

  num_clusters: np.ndarray
  clusters: np.ndarray
  shares: np.ndarray
  ids: np.ndarray
  digests: np.ndarray

  def root(self, cluster: int) -> int:
    """The cluster of the model that a cluster is a part of, or is."""
    while cluster >= self.num_clusters:
      cluster = int(self.clusters[cluster - self.num_clusters])
    return cluster

  def whole(self, cluster: int) -> list[int]:
    """All parts of a cluster of the model, rising: itself alone if it was not split."""
    every = range(int(self.num_clusters) + len(self.clusters))
    return [part for part in every if self.root(part) == cluster]

  def one_more(self, cluster: int, share: np.ndarray) -> Splits:
    """These and another one: of `cluster`, by the shares [N] of the new part."""
    return self._replace(
        clusters=np.append(self.clusters, cluster),
        shares=np.column_stack([self.shares, share]).astype(np.float32))

  def one_less(self) -> Splits:
    """These without the last one."""
    return self._replace(clusters=self.clusters[:-1], shares=self.shares[:, :-1])


def none_of(num_clusters: int, ids: Sequence[str] = (), digests=()) -> Splits:
  """No split of Q clusters of N images."""
  return Splits(np.array(num_clusters), np.zeros(0, int),
                np.zeros((len(ids), 0), np.float32), np.array(ids, str),
                np.array(digests, np.uint64))


def expanded(responsibilities: np.ndarray, clusters: Sequence[int] | np.ndarray,
             shares: np.ndarray) -> np.ndarray:
  """Responsibilities of all parts; see the module's text.

  Args:
    responsibilities: of the model's clusters, [n, Q].
    clusters: what each split cuts, [S].
    shares: of the new parts, [n, S].

  Returns:
    [n, Q + S], of the same sums.
  """
  parts = list(np.asarray(responsibilities, np.float64).T)
  for split, cluster in enumerate(clusters):
    parts.append(parts[cluster] * shares[:, split])
    parts[cluster] = parts[cluster] * (1 - shares[:, split])
  return np.stack(parts, axis=1)


def write(workdir, splits: Splits) -> None:
  """Keeps splits in the folder of a run; where there are none, no file."""
  path = pathlib.Path(workdir) / FILE
  if len(splits.clusters):
    files.write_npz(path, splits._asdict())
  else:
    path.unlink(missing_ok=True)


def read(workdir, num_clusters: int, ids: Sequence[str] | None = None) -> Splits:
  """The splits of a run; none where there is no file of them.

  Args:
    workdir: its folder.
    num_clusters: Q.
    ids: of its images; None: whether they are those of the splits is not asked.

  Raises:
    UserError: the file is damaged, or of other images or clusters.
  """
  path = pathlib.Path(workdir) / FILE
  if not path.exists():
    return none_of(num_clusters, () if ids is None else ids)
  mend = (f'restore it, or remove it, which takes every split back (and the rows of '
          f'clusters.csv beyond cluster {num_clusters - 1})')
  arrays = files.read_npz(path)
  if arrays is None or not set(Splits._fields) <= set(arrays):
    raise UserError(f'{path} is damaged: {mend}.')
  found = Splits(*(arrays[name] for name in Splits._fields))
  if found.num_clusters != num_clusters:
    raise UserError(f'{path} is of {found.num_clusters} clusters, but the run has '
                    f'{num_clusters}: {mend}.')
  if ids is not None and found.ids.tolist() != list(ids):
    other = sorted(set(found.ids.tolist()) ^ set(ids))
    what = f', such as {other[0]!r}' if other else ''
    raise UserError(f'{path} is of {len(found.ids)} images, but {len(other)} of these or '
                    f"of the run's {len(ids)} are not in both{what}: {mend}.")
  return found
