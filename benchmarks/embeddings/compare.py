"""Clusters by embeddings: ours beside what others find in the same vectors.

  python -m benchmarks.embeddings.compare [--pairs=fashion5k-imagenet,...]
      [--methods=kmeans,alone,...] [--seeds=0,1,2] [--out=DIR]

Question:  do images that pixels cannot tell apart come out as well as their embeddings
           allow; should embeddings decide alone or beside the network's features; and
           what do embeddings of little worth spoil?
Methods:   kmeans, gaussian_mixture, spectral, umap_hdbscan: of the vectors scaled to
               length 1, with the settings of `benchmarks.clustering`;
           none        our start without embeddings (recognition; pixels, edges, colours)
           cuts        neighbourhoods of the embeddings (start.kind=neighbours)
           alone       start.spaces=embeddings: recognition, the embeddings decide
           alone_euclidean  the same with start.embeddings_distance=euclidean
           features    the features of that network decide, as without embeddings
           beside      start.spaces=pixels,edges,colours,embeddings: a consensus
           fit         the whole fit of start.spaces=embeddings: what the mixture leaves
Each line: ACC / NMI against the labels, which no method sees, means and standard
deviations over seeds; `new`: ACC of 500 images that were not fitted, told by pixels and
by embeddings.
Time:      1 to 4 minutes a start on two cores.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.clustering.methods import METHODS, peer_settings
from benchmarks.common import (
    add_fashion, cell, config_of, kept, make_parser, markdown, names)
from benchmarks.embeddings.vectors import PAIRS, make, paths

PEERS = ('kmeans', 'gaussian_mixture', 'spectral', 'umap_hdbscan')
BESIDE = ('pixels', 'edges', 'colours', 'embeddings')
OURS = {'none': {}, 'cuts': {'start.kind': 'neighbours'}, 'alone': {},
        'alone_euclidean': {'start.embeddings_distance': 'euclidean'},
        'features': {}, 'beside': {'start.spaces': BESIDE}, 'fit': {}}
NEW = 500  # images that are not fitted
SIDE = {'scenes': 40}  # pixels a side that the start sees, else 28
COLOURED = ('scenes', 'shapes')


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
  from jdiffclust.clustering.starts.recognition import Recognised, cut
  from jdiffclust.clustering.starts.fit import fit_start
  from jdiffclust.clustering.starts.sample import (
      fit_sample, flat_images, partition, sample_embeddings)
  from jdiffclust.config import spaces_for
  from jdiffclust.data.dataset import array_source, embeddings_at
  from jdiffclust.fitted import fit
  from jdiffclust.streams import integer_seed
  images_path, vectors_path = paths(pair, out)
  dataset = pair.partition('-')[0]
  with np.load(images_path) as arrays:
    images, labels = arrays['images'], arrays['labels']
  vectors = np.load(vectors_path)
  config = config_of('folder', {
      'num_clusters': int(labels.max()) + 1, 'seed': seed, 'data.source': 'npz',
      'data.channels': 3 if dataset in COLOURED else 1,
      'recognition.max_side': SIDE.get(dataset, 28), **OURS[method]})
  rows = np.random.default_rng(seed).permutation(len(images))
  old, new = np.sort(rows[NEW:]), rows[:NEW]
  known = method != 'none'
  own = lambda part: {'embeddings': vectors[part]} if known else {}
  if method == 'fit':
    config.data.image_size = 16
    fitted = fit(config, images[old], **own(old))
    return {**scores(labels[old], fitted.clusters),
            'start': scores(labels[old], fitted.start.argmax(axis=1)),
            'new_by_pixels': accuracy_of_new(
                labels[old], fitted.clusters, labels[new],
                fitted.tell(images[new]).argmax(axis=1)),
            'new_by_vectors': accuracy_of_new(
                labels[old], fitted.clusters, labels[new],
                fitted.tell(images[new], embeddings=vectors[new]).argmax(axis=1))}
  config.data.image_size = 0
  source = array_source(images[old], config.data, **own(old))
  config.start.spaces = spaces_for(config, known)
  most = config.start.max_images
  start = fit_start(config.start.kind, fit_sample(source, most, seed),
                    source.image_shape, config,
                    vectors=sample_embeddings(source, most, seed))
  if method == 'features':
    tau = cut(start.features, config.num_clusters, integer_seed(seed, 'init'))
    return scores(labels[old], tau.argmax(axis=1))
  clusters = partition(start, source).argmax(axis=1)
  found = scores(labels[old], clusters)
  if isinstance(start, Recognised):
    others = array_source(images[new], config.data, for_fit=False, **own(new))
    pixels = flat_images(others, range(NEW))
    ask = lambda *given: accuracy_of_new(
        labels[old], clusters, labels[new], start(*given).argmax(axis=1))
    found['new_by_pixels'] = ask(pixels, None)
    if known:
      found['new_by_vectors'] = ask(pixels, None, embeddings_at(others, range(NEW)))
  return found


def peer(pair: str, method: str, out, seed: int) -> dict:
  """Scores of one of PEERS, of the vectors of the images that ours are fitted to."""
  images_path, vectors_path = paths(pair, out)
  with np.load(images_path) as arrays:
    labels = arrays['labels']
  vectors = np.load(vectors_path)
  old = np.sort(np.random.default_rng(seed).permutation(len(labels))[NEW:])
  rows = vectors[old] / np.linalg.norm(vectors[old], axis=1, keepdims=True)
  number = int(labels.max()) + 1
  with threadpool_limits(1):
    clusters = METHODS[method].fit(rows, number, seed, **peer_settings(method, number))
  return {**scores(labels[old], clusters), 'found': len(np.unique(clusters))}


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
      seeds = [seed for seed in args.seeds if not args.only_kept
               or (args.out / 'runs' / f'{pair}-{method}-{seed}.json').exists()]
      runs = kept(args.out / 'runs', f'{pair}-{method}', seeds, measure)
      told = lambda key: cell([run[key] for run in runs if key in run])
      rows.append([pair, method, told('acc'), told('nmi'), told('new_by_pixels'),
                   told('new_by_vectors'), str(len(runs))])
      print(*rows[-1], file=sys.stderr, flush=True)
  print(markdown(('vectors', 'method', 'ACC', 'NMI', 'new, by pixels',
                  'new, by vectors', 'seeds'), rows))


if __name__ == '__main__':
  main()
