"""Do denoising errors know better than the start where the start is in doubt?

  python -m benchmarks.tau.doubts WORKDIR [--images=192] [--draws=64]

Question:  of the images whose two likeliest clusters by the start are nearest to each
           other, for how many are the errors of the fit right, and the start?
Time:      some 2 minutes for the digits.
Kept:      docs/tau.md, What the diffusion model adds to the clusters.

WORKDIR is a finished fit of method cddpm to images with labels; these score, and choose
nothing. Clusters are matched to classes by the whole start. The errors are those of all
clusters, by the same draws, in the weights of the bound and in equal ones.
"""

from __future__ import annotations

import argparse
import copy
import pathlib

import jax.numpy as jnp
import numpy as np

import jdiffclust
from benchmarks.common import markdown
from jdiffclust.batch import Batch, in_blocks
from jdiffclust.clustering.cddpm.e_step import make_e_step
from jdiffclust.clustering.method import estimators
from jdiffclust.data.dataset import images_at, load_source
from jdiffclust.evaluation.scores import match_clusters
from jdiffclust.fitted import finest_of
from jdiffclust.streams import stream

BATCH = 64


def by_errors(fitted, source, rows, weighting: str, draws: int) -> np.ndarray:
  """Responsibilities by denoising errors alone, [n, Q], of some of the fit's images."""
  method, options = fitted.method, copy.deepcopy(fitted.config.e_step)
  options.update(num_draws=draws, proposal='uniform', weighting=weighting)
  estimator, _ = estimators(method.process, options, method.m_options, method.mesh)
  e_step = make_e_step(method.model, options, method.mesh, None)
  def of(places):
    some = rows[places]
    batch = Batch(jnp.asarray(images_at(source, some)), jnp.asarray(some, jnp.int32))
    return e_step(estimator, fitted.params, batch, stream(0, 'doubts'))[0]
  return in_blocks(of, len(rows), BATCH)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('--images', type=int, default=192)
  parser.add_argument('--draws', type=int, default=64)
  args = parser.parse_args()
  fitted = jdiffclust.load(args.workdir)
  source = load_source(fitted.config.data, rendering=fitted.rendering,
                       finest=finest_of(fitted.config))
  start, labels = fitted.start, source.labels
  classes = match_clusters(labels, start.argmax(axis=1), start.shape[1])
  right = lambda clusters, rows: classes[clusters] == labels[rows]
  order = np.sort(start, axis=1)
  rows = np.argsort(order[:, -1] - order[:, -2], kind='stable')[:args.images]
  second, first = np.argsort(start[rows], axis=1)[:, -2:].T
  table = []
  for weighting in ('elbo', 'uniform'):
    tau = by_errors(fitted, source, rows, weighting, args.draws)
    places = np.arange(len(rows))
    chosen = np.where(tau[places, first] >= tau[places, second], first, second)
    other = chosen != first
    table.append([weighting, *(f'{np.mean(found):.3f}' for found in (
        right(first, rows), right(chosen, rows), right(tau.argmax(axis=1), rows),
        right(fitted.clusters[rows], rows))), f'{other.sum()}',
                  *(f'{found[other].sum()}' for found in (
                      right(first, rows), right(chosen, rows)))])
  print(markdown(['weights', 'start right', 'errors right, among the two',
                  'among all clusters', 'fit right', 'where they disagree',
                  'start right there', 'errors right there'], table))


if __name__ == '__main__':
  main()
