"""Clusters by embeddings: ours beside what others find in the same vectors.

  python -m benchmarks.embeddings.compare [--pairs=fashion5k-imagenet,...]
      [--methods=kmeans,alone,...] [--seeds=0,1,2] [--out=DIR]

Question:  do images that pixels cannot tell apart come out as well as their embeddings
           allow; should embeddings decide alone or beside the network's features; and
           what do embeddings of little worth spoil?
Images:    3,000 of each set, the same ones each time; 2,500 of them are fitted (which,
           depends on the seed), 500 are new.
Methods:   kmeans, gaussian_mixture, spectral, umap10_gmm, umap_hdbscan: of the vectors
               scaled to length 1, with the settings of `benchmarks.clustering`
               (gaussian_mixture: of a mean variance of 1);
           umap_hdbscan_plain  the last by the libraries' defaults, but 10 dimensions.
               Neither is told the number of classes; noise goes to the cluster of the
               nearest image, where UMAP has put them, that is in one;
           euclidean   ours by start.embeddings_distance=euclidean
           cuts        start.kind=neighbours: one consensus, no choice by modularity
           alone       start.spaces=embeddings: they decide; and, in the same run,
                       `features`: what the features say of the network that has learnt
                       the embeddings' cells
           beside      start.spaces=pixels,edges,colours,embeddings
           none        our start without embeddings
           fit         the whole fit of start.spaces=embeddings: what the mixture leaves
Scores:    ACC / NMI against the labels, which no method sees, means and standard
           deviations over seeds; ACC of the new images, told by pixels and by vectors;
           how many clusters a method has found, and the share of noise before that.
Time:      seconds; alone, beside, none 1 to 4 minutes a run on two cores, fit 10.
"""

from __future__ import annotations

import functools
import sys
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.clustering.methods import (
    METHODS, hdbscan_of_umap, peer_settings, with_noise)
from benchmarks.common import (
    add_fashion, cell, config_of, kept, make_parser, markdown, names)
from benchmarks.embeddings.vectors import PAIRS, make, paths

OWN_NUMBER = {  # of peers that are not told the number of classes
    'umap_hdbscan': METHODS['umap_hdbscan'].settings,
    'umap_hdbscan_plain': {'share': None, 'min_samples': None, 'n_components': 10}}
PEERS = ('kmeans', 'gaussian_mixture', 'spectral', 'umap10_gmm', *OWN_NUMBER)
OURS = {
    'euclidean': {'start.embeddings_distance': 'euclidean'},
    'cuts': {'start.kind': 'neighbours'},
    'alone': {},
    'beside': {'start.spaces': ('pixels', 'edges', 'colours', 'embeddings')},
    'none': {},
    'fit': {}}
IMAGES, NEW = 3000, 500  # of each set; of these, not fitted
SIDE = 20  # pixels a side that our recognition network sees, to save time
COLOURED = ('scenes', 'shapes')


class Part(NamedTuple):
  """Images uint8, their labels and their vectors."""

  images: np.ndarray
  labels: np.ndarray
  vectors: np.ndarray


def parts(pair: str, out, seed: int) -> tuple[Part, Part]:
  """The images of a pair of `vectors` that are fitted, and the new ones."""
  images_path, vectors_path = paths(pair, out)
  with np.load(images_path) as arrays:
    images, labels = arrays['images'], arrays['labels'].astype(int)
  vectors = np.load(vectors_path)
  some = np.random.default_rng(0).permutation(len(images))[:IMAGES]
  some = np.random.default_rng(seed).permutation(some)
  return tuple(Part(images[rows], labels[rows], vectors[rows])
               for rows in (np.sort(some[NEW:]), some[:NEW]))


def scores(labels, clusters) -> dict:
  """ACC and NMI."""
  from jdiffclust.evaluation.scores import clustering_scores
  found = clustering_scores(labels, clusters)
  return {'acc': found['acc'], 'nmi': found['nmi']}


def accuracy_of_new(labels, clusters, new_labels, new_clusters) -> float:
  """The share of new images in the cluster that is matched to their class."""
  from scipy.optimize import linear_sum_assignment
  table = np.zeros((clusters.max() + 1, labels.max() + 1))
  np.add.at(table, (clusters, labels), 1)
  matched = dict(zip(*linear_sum_assignment(-table)))
  return float(np.mean([matched.get(q, -1) == c
                        for q, c in zip(new_clusters, new_labels)]))


def ours(pair: str, method: str, out, seed: int) -> dict:
  """Scores of one of OURS, of a pair of `vectors`."""
  from jdiffclust.clustering.starts.fit import fit_start
  from jdiffclust.clustering.starts.recognition import cut, embedded
  from jdiffclust.clustering.starts.sample import flat_images, partition
  from jdiffclust.config import spaces_for
  from jdiffclust.data.dataset import array_source
  from jdiffclust.streams import integer_seed
  old, new = parts(pair, out, seed)
  dataset, known = pair.partition('-')[0], method != 'none'
  number, cuts_seed = int(old.labels.max()) + 1, integer_seed(seed, 'init')
  config = config_of('folder', {
      'num_clusters': number, 'seed': seed, 'data.source': 'npz',
      'data.channels': 3 if dataset in COLOURED else 1,
      'recognition.max_side': SIDE, **OURS[method]})
  config.start.spaces = spaces_for(config, known)
  if method == 'euclidean':
    with threadpool_limits(1):
      tau = cut(None, number, cuts_seed, embedded(old.vectors, config.start))
    return scores(old.labels, tau.argmax(axis=1))
  if method == 'fit':
    return whole_fit(config, old, new)
  config.data.image_size = 0
  source, others = (array_source(part.images, config.data, part is old,
                                 embeddings=part.vectors if known else None)
                    for part in (old, new))
  everything = lambda of: flat_images(of, range(of.num_images))
  start = fit_start(config.start.kind, everything(source), source.image_shape, config,
                    vectors=source.embeddings)
  clusters = partition(start, source).argmax(axis=1)
  found = scores(old.labels, clusters)
  if method != 'cuts':
    ask = lambda *given: accuracy_of_new(
        old.labels, clusters, new.labels,
        start(everything(others), None, *given).argmax(axis=1))
    found['new_by_pixels'] = ask()
    if known:
      found['new_by_vectors'] = ask(new.vectors)
  if method == 'alone':
    with threadpool_limits(1):
      tau = cut(start.features, number, cuts_seed)
    found['features'] = scores(old.labels, tau.argmax(axis=1))
  return found


def whole_fit(config, old: Part, new: Part) -> dict:
  """Scores of a fit at the size of images of configs/folder.py."""
  from jdiffclust.clustering.starts.recognition import cut
  from jdiffclust.fitted import fit
  from jdiffclust.streams import integer_seed
  fitted = fit(config, old.images, embeddings=old.vectors)
  with threadpool_limits(1):
    features = cut(fitted.recogniser.features, config.num_clusters,
                   integer_seed(config.seed, 'init'))
  ask = lambda **given: accuracy_of_new(
      old.labels, fitted.clusters, new.labels,
      fitted.tell(new.images, **given).argmax(axis=1))
  return {**scores(old.labels, fitted.clusters),
          'start': scores(old.labels, fitted.start.argmax(axis=1)),
          'features': scores(old.labels, features.argmax(axis=1)),
          'new_by_pixels': ask(), 'new_by_vectors': ask(embeddings=new.vectors)}


def peer(pair: str, method: str, out, seed: int) -> dict:
  """Scores of one of PEERS, of the vectors of the images that ours are fitted to."""
  old, _ = parts(pair, out, seed)
  rows = old.vectors / np.linalg.norm(old.vectors, axis=1, keepdims=True)
  if method == 'gaussian_mixture':  # which adds a variance that is meant for pixels
    rows = rows / np.sqrt(rows.var(axis=0).mean())
  number = int(old.labels.max()) + 1
  with threadpool_limits(1):
    if method in OWN_NUMBER:
      placed, found = hdbscan_of_umap(rows, seed, **OWN_NUMBER[method])
      clusters, more = with_noise(placed, found), {'noise': float(np.mean(found < 0))}
    else:
      clusters, more = METHODS[method].fit(rows, number, seed,
                                           **peer_settings(method, number)), {}
  return {**scores(old.labels, clusters), 'found': len(np.unique(clusters)), **more}


def main() -> None:
  """Runs what is missing, prints the table."""
  methods = (*PEERS, *OURS)
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/embeddings')
  parser.add_argument('--pairs', type=names(PAIRS), default=','.join(PAIRS))
  parser.add_argument('--methods', type=names(methods),
                      default=','.join(m for m in methods if m != 'fit'))
  parser.add_argument('--only-kept', action='store_true', help='run nothing')
  add_fashion(parser)
  args = parser.parse_args()
  rows = []
  for pair in args.pairs:
    make(pair, args.out, args.fashion)
    for method in args.methods:
      measure = functools.partial(peer if method in PEERS else ours, pair, method,
                                  args.out)
      name = f"{pair.partition('-')[0] if method == 'none' else pair}-{method}"
      seeds = [seed for seed in args.seeds if not args.only_kept
               or (args.out / 'runs' / f'{name}-{seed}.json').exists()]
      runs = kept(args.out / 'runs', name, seeds, measure)
      told = lambda key, form='.3f': cell([run[key] for run in runs if key in run], form)
      rows.append([pair, method, told('acc'), told('nmi'), told('new_by_pixels'),
                   told('new_by_vectors'), told('found', '.1f'), told('noise'),
                   str(len(runs))])
      if method == 'alone':
        features = [run['features'] for run in runs]
        rows.append([pair, 'features', *(cell([row[key] for row in features])
                                         for key in ('acc', 'nmi')),
                     *'––––', str(len(runs))])
      print(*rows[-1], file=sys.stderr, flush=True)
  print(markdown(('vectors', 'method', 'ACC', 'NMI', 'new, by pixels',
                  'new, by vectors', 'clusters', 'noise', 'seeds'), rows))


if __name__ == '__main__':
  main()
