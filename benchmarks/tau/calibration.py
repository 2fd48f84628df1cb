"""How often the images of some probability are right, and where the wrong ones are.

  python -m benchmarks.tau.calibration WORKDIR [WORKDIR ...]

Question:  is tau as sure as it is right, and could it know better?
Time:      seconds; a fit of images with labels stands in each WORKDIR, such as those that
           `benchmarks.clustering` leaves in DIR/fits.
Kept:      docs/tau.md, How sure it is.

Labels are read by the scores alone. The calibration error is the mean over images of
|expected - right| of their range (`evaluation.scores.reliability`). An image is wrong
*with others* if a GROUP or more of its class are in its cluster, whose class is another:
a fine cell that was joined to the wrong cluster as a whole. No probability of the single
image tells that: the cell is one question, asked once.
"""

from __future__ import annotations

import argparse
import csv
import pathlib

import numpy as np

from benchmarks.common import markdown, read_json
from jdiffclust.evaluation import scores

GROUP = 10  # wrong images of one class in one cluster


def measure(labels: np.ndarray, tau: np.ndarray) -> dict:
  """The calibration of responsibilities.

  Args:
    labels: of N images, those below 0 unknown, int [N].
    tau: [N, Q].

  Returns:
    right: the share of images; expected: their mean largest responsibility; error: the
    calibration error; alone, together: the shares of images that are wrong alone, and
    with others; ranges: rows of `scores.reliability`.
  """
  known = labels >= 0
  labels, tau = labels[known], tau[known]
  clusters = tau.argmax(axis=1)
  ranges = scores.reliability(labels, tau)
  matched = scores.match_clusters(labels, clusters, tau.shape[1])[clusters]
  cells = np.zeros((tau.shape[1], labels.max() + 1), int)
  np.add.at(cells, (clusters, labels), 1)
  wrong, many = matched != labels, cells[clusters, labels] >= GROUP
  gaps = [row['num_images'] * abs(row['expected'] - row['right']) for row in ranges]
  return {'right': 1 - wrong.mean(), 'expected': tau.max(axis=1).mean(),
          'error': sum(gaps) / len(labels), 'alone': (wrong & ~many).mean(),
          'together': (wrong & many).mean(), 'ranges': ranges}


def read_run(workdir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """The labels of a run's images, numbered, and its responsibilities."""
  with open(workdir / 'assignments.csv', newline='', encoding='utf-8-sig') as file:
    names = np.array([row['label'] for row in csv.DictReader(file)])
  _, labels = np.unique(names, return_inverse=True)
  return np.where(names == '', -1, labels), np.load(workdir / 'responsibilities.npy')


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  found, ranges = [], []
  for workdir in parser.parse_args().workdirs:
    run = measure(*read_run(workdir))
    config = read_json(workdir / 'config.json')
    name = f"{workdir.name}, seed {config['seed']}"
    found.append([name, *(f'{run[key]:.3f}' for key in (
        'right', 'expected', 'error', 'alone', 'together'))])
    ranges += [[name, f"{row['low']:g} to {row['high']:g}", f"{row['num_images']:,}",
                f"{row['expected']:.3f}", f"{row['right']:.3f}"] for row in run['ranges']]
  print(markdown(('run', 'right', 'expected', 'calibration error', 'wrong alone',
                  'wrong with others'), found))
  print()
  print(markdown(('run', 'probability', 'images', 'expected', 'right'), ranges))


if __name__ == '__main__':
  main()
