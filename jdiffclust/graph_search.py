"""The nearest of very many vectors, by a navigable graph instead of by comparing all.

HNSW (Malkov and Yashunin, 2018; by faiss), of order N log N, at a recall of more than .99
of some 200 neighbours (docs/benchmarks.md), and of .98 of ten (docs/results.md). The
graph hangs on the order in which vectors are added: one thread adds them. What is then
found hangs neither on the number of threads nor on which of them looks.
"""

from __future__ import annotations

import numpy as np

# Of the graph: links of a vector, and how many vectors are held while one is added, and,
# in multiples of the neighbours asked for, but no fewer, while they are looked for.
LINKS, ADDING, LOOKING, FEWEST = 32, 80, 1.5, 80
ASKED = 4096  # vectors looked for at once


def search(rows: np.ndarray, sample: np.ndarray,
           num: int) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of a sample to each row.

  Args:
    rows: float32 [n, D].
    sample: float32 [m, D].
    num: how many, at most m.

  Returns:
    Squared distances float32 and places int [n, num], the nearest first. Where many of
    the sample are equal, they link to each other alone, and too few may be found: the
    place is -1 then.
  """
  import faiss  # not needed by most runs
  index = faiss.IndexHNSWFlat(sample.shape[1], LINKS)
  index.hnsw.efConstruction = ADDING
  threads = faiss.omp_get_max_threads()
  faiss.omp_set_num_threads(1)
  try:
    index.add(np.ascontiguousarray(sample))
  finally:
    faiss.omp_set_num_threads(threads)
  index.hnsw.efSearch = max(FEWEST, round(LOOKING * num))
  squares, found = np.empty((len(rows), num), np.float32), np.empty((len(rows), num), int)
  for begin in range(0, len(rows), ASKED):
    here = slice(begin, begin + ASKED)
    squares[here], found[here] = index.search(np.ascontiguousarray(rows[here]), num)
  return squares, found
