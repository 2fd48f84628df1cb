"""How EM goes: what an iteration did to the clusters, and what is amiss.

Nothing here looks at labels. Of what it finds, a fit itself uses only `changed_fraction`:
EM stops when hardly any image changes cluster. Something to try is named only where it
helped more often than not when it was followed (`python -m benchmarks.advice`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jdiffclust.evaluation.scores import entropy, members

# An image is certain if its largest responsibility exceeds this.
CERTAIN = .95
# Pairs of clusters that a record names at most, of each kind.
MOST_PAIRS = 5
# A cluster splits if more than the share SPLIT of its images, and more than one image,
# goes to one other cluster; it merges into that one if the share is more than MERGE.
SPLIT, MERGE = .25, .5
# Frozen: after two iterations, hardly any image changes cluster, few have done so since
# the start, and most are certain. A right start looks the same; only a run from another
# start can tell the difference.
FROZEN_CHANGED, FROZEN_MOVED, FROZEN_CERTAIN = .05, .1, .9
# Collapsing: a cluster falls below the share SHRUNK of its size before the iteration and
# of an equal share of the images; or the effective number of clusters falls below the
# share FEWER of that of the start; or one cluster holds more than the share LARGEST of
# the images, and more than twice an equal share.
SHRUNK, FEWER, LARGEST = .5, .75, .5
# If more than this share of the images change cluster, the clusters before meant nothing,
# such as those of a random start. Shrinking, splits and merges are then not reported.
RESHUFFLED = .5
# Melting: the mean entropy exceeds this share of log Q.
MELTED = .5
# Noisy: for more than this share of the images, the lead of the best cluster is less than
# two standard errors of its Monte Carlo estimate.
UNCERTAIN = .1
# Contradicted: for more than this share of the images, the draws prefer another cluster
# than the amortised posterior does, by more than two standard errors.
CONTRADICTED = .1
# Falling: the bound falls by more than this many of its paired standard errors.
FALL_ERRORS = 3.
# Neighbourhoods show no group of fewer images than these.
SMALL = 4
# Two clusters that share more than this much of their images are named. (Two equal ones
# that share all of them reach 1/2.)
OVERLAP = .1


class Advice(NamedTuple):
  """Something that is amiss.

  Attributes:
    kind: one word.
    text: what was found, and what to try where that is known to help.
  """

  kind: str
  text: str


def bits_per_dimension(nats, size: int):
  """A log density or log probability as bits per dimension: smaller is better.

  Args:
    nats: of any shape.
    size: D, numbers an image.

  Returns:
    -nats / (D log 2).
  """
  return -nats / (size * np.log(2))


def flows(old, new) -> np.ndarray:
  """Counts the images that went from each cluster to each cluster.

  Args:
    old: responsibilities before, [N, Q]; an image is in its most probable cluster.
    new: responsibilities after, [N, Q].

  Returns:
    int [Q, Q]: from (down) and to (across). Images that stayed are on the diagonal.
  """
  num_clusters = old.shape[1]
  pairs = old.argmax(axis=1) * num_clusters + new.argmax(axis=1)
  return np.bincount(pairs, minlength=num_clusters**2).reshape(num_clusters, -1)


def overlaps(responsibilities) -> np.ndarray:
  """sum_i tau_iq tau_ir / min(N_q, N_r): how much two clusters claim the same images.

  It is the mean probability of the larger cluster over the images of the smaller one.

  Args:
    responsibilities: tau, [N, Q] in [0, 1], rows summing to 1.

  Returns:
    float64 [Q, Q], symmetric, from 0 to 1; 0 on the diagonal and for empty clusters.
  """
  tau = np.asarray(responsibilities, np.float64)
  sizes = tau.sum(axis=0)
  shared = tau.T @ tau / np.maximum(np.minimum.outer(sizes, sizes), 1e-9)
  np.fill_diagonal(shared, 0)
  return shared


def small_groups(clusters, others) -> list[np.ndarray]:
  """Groups of few images that another partition has and this one lacks.

  Args:
    clusters: of each image, int [N].
    others: clusters of the same images by another method, int [N].

  Returns:
    The images of each of the other's clusters of 2 to `SMALL` images whose best match
    here, the cluster that holds most of them, has more other images than these.
  """
  found = []
  for q in np.unique(others):
    group = np.flatnonzero(others == q)
    if 2 <= len(group) <= SMALL:
      ours = clusters == np.bincount(clusters[group]).argmax()
      if 2 * np.sum(ours[group]) < np.sum(ours | (others == q)):
        found.append(group)
  return found


def effective_clusters(responsibilities) -> float:
  """The number of clusters of equal size that would have the same entropy of shares.

  It is the exponential of that entropy: Q if all clusters are of one size, 1 if one
  cluster has all images.

  Args:
    responsibilities: tau, [N, Q] in [0, 1], rows summing to 1.

  Returns:
    A number from 1 to Q.
  """
  shares = np.mean(responsibilities, axis=0, dtype=np.float64)
  return float(np.exp(entropy(shares / shares.sum())))


def largest_pairs(matrix) -> list[tuple[int, int]]:
  """Finds the pairs of clusters with the largest positive values, largest first.

  Args:
    matrix: [Q, Q]; its diagonal is left out.

  Returns:
    At most `MOST_PAIRS` pairs (row, column).
  """
  matrix = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
  order = np.argsort(-matrix, axis=None, kind='stable')[:MOST_PAIRS]
  pairs = zip(*np.unravel_index(order, matrix.shape))
  return [(int(q), int(r)) for q, r in pairs if matrix[q, r] > 0]


def occupancy(responsibilities) -> dict:
  """How the images spread over the clusters, and how surely.

  Args:
    responsibilities: tau, [N, Q] in [0, 1], rows summing to 1.

  Returns:
    A dict: smallest_cluster and largest_cluster (images that are in them),
    effective_clusters, certain_fraction (the share of certain images), and overlaps (the
    pairs that overlap most, [q, r, share]).
  """
  sizes = members(responsibilities)
  shared = np.triu(overlaps(responsibilities))
  return {
      'smallest_cluster': int(sizes.min()), 'largest_cluster': int(sizes.max()),
      'effective_clusters': effective_clusters(responsibilities),
      'certain_fraction': float(np.mean(np.max(responsibilities, axis=1) > CERTAIN)),
      'overlaps': [[q, r, round(float(shared[q, r]), 4)]
                   for q, r in largest_pairs(shared)]}


def movement(old, new, start) -> dict:
  """What an EM iteration did to the clusters.

  Args:
    old: responsibilities before, [N, Q].
    new: responsibilities after, [N, Q].
    start: those of the start, [N, Q].

  Returns:
    A dict: changed_fraction and moved_fraction (the shares of images whose cluster is
    another one than before, and than at the start), effective_clusters_start, shrunk
    ([q, size before, size after] of the cluster that kept the smallest share of its
    size), flows (the largest moves, [from, to, images]) and splits (moves of more than
    `SPLIT`, [from, to, share of the images of from]).
  """
  table = flows(old, new)
  shares = np.where(table > 1, table / np.maximum(table.sum(axis=1, keepdims=True), 1), 0)
  before, after = members(old), members(new)
  least = int(np.argmin(np.where(before, after / np.maximum(before, 1), 1.)))
  return {
      'changed_fraction': float(np.mean(old.argmax(axis=1) != new.argmax(axis=1))),
      'moved_fraction': float(np.mean(start.argmax(axis=1) != new.argmax(axis=1))),
      'effective_clusters_start': effective_clusters(start),
      'shrunk': [least, int(before[least]), int(after[least])],
      'flows': [[q, r, int(table[q, r])] for q, r in largest_pairs(table)],
      'splits': [[q, r, round(float(shares[q, r]), 4)]
                 for q, r in largest_pairs(shares) if shares[q, r] > SPLIT]}


def paired_change(old, new) -> tuple[float, float]:
  """How much a mean over images has changed, with its standard error.

  Args:
    old: a value of each image, [N], N > 1.
    new: its new value, by draws that are independent of those of the old one, [N].

  Returns:
    The mean difference and its standard error. Differences between images cancel; the
    Monte Carlo errors of both values are included.
  """
  difference = np.asarray(new, np.float64) - old
  return (float(difference.mean()),
          float(difference.std(ddof=1) / math.sqrt(len(difference))))


def splits_and_merges(record: dict) -> list[str]:
  """What became of single clusters in an EM iteration, in words.

  Args:
    record: what `occupancy` and `movement` say of the iteration.

  Returns:
    A phrase for each split, each merge, and each pair that shares images; [] if nothing
    happened.
  """
  splits = record['splits'] if record['changed_fraction'] < RESHUFFLED else []
  moved = [f'{q} merges into {r} ({share:.0%} of its images)' if share > MERGE
           else f'{q} splits ({share:.0%} of its images go to {r})'
           for q, r, share in splits]
  return moved + [
      f'{q} and {r} run into each other ({share:.0%} of the probability of the smaller '
      'one is given to the other)' for q, r, share in record['overlaps']
      if share > OVERLAP]


def advice(history: list[dict], num_images: int, num_clusters: int,
           amortised: bool = False, recognised: bool = False) -> list[Advice]:
  """What is amiss after an EM iteration, by the constants above; last of all, of a run.

  Args:
    history: records of all iterations so far: what `occupancy` and `movement` say, and
      mean_entropy (nats), uncertain_fraction, contradicted_fraction if amortised, and
      bound_change with bound_change_error (nats; both missing after the first
      iteration). Records of a method with latents have latent_active_dimensions,
      latent_divergence, latent_categorical_kl and latent_gaussian_kl, too.
    num_images: N.
    num_clusters: Q.
    amortised: whether tau is from an inference network, which the draws only check.
    recognised: whether the start is by recognition, which EM is meant to keep.

  Returns:
    A list of `Advice`, empty for a healthy iteration.
  """
  if num_clusters == 1:
    return []
  last, found = history[-1], []
  changed, moved = last['changed_fraction'], last['moved_fraction']
  if (not recognised and len(history) > 1 and changed < FROZEN_CHANGED
      and moved < FROZEN_MOVED
      and last['certain_fraction'] > FROZEN_CERTAIN):
    found.append(Advice('frozen', (
        f'EM is frozen at its start, or the start was right: {changed:.1%} of the images '
        f'changed cluster, {moved:.1%} since the start, and '
        f"{last['certain_fraction']:.0%} are certain. The clusters are those of "
        'config.start.kind. Try another config.start.kind, and keep the run of the '
        'better bound.')))

  equal, (cluster, before, after) = num_images / num_clusters, last['shrunk']
  signs = []
  if changed < RESHUFFLED and after < SHRUNK * before and after < SHRUNK * equal:
    signs.append(f'cluster {cluster} shrank from {before:,.0f} to {after:,.0f} images')
  effective, first = last['effective_clusters'], last['effective_clusters_start']
  if effective < FEWER * first:
    signs.append(f'{first:.1f} effective clusters became {effective:.1f}')
  if last['largest_cluster'] > max(LARGEST * num_images, 2 * equal):
    signs.append('one cluster holds '
                 f"{last['largest_cluster'] / num_images:.0%} of the images")
  if signs:
    found.append(Advice('collapsing', (
        f"clusters are collapsing: {'; '.join(signs)}.")))

  share = last['mean_entropy'] / math.log(num_clusters)
  if share > MELTED:
    found.append(Advice('melting', (
        f'the clusters melt into each other: the mean entropy is {share:.0%} of log Q, '
        'where all clusters are equally likely. A training that was too short leaves any '
        'images so.')))

  if amortised and last['contradicted_fraction'] > CONTRADICTED:
    found.append(Advice('contradicted', (
        f"for {last['contradicted_fraction']:.0%} of the images the bound clearly "
        'prefers another cluster than the inference network.')))

  if last.get('latent_active_dimensions') == 0:
    found.append(Advice('latents', (
        'the latents have collapsed to the prior: no dimension of z varies with the '
        f"image (divergence {last['latent_divergence']:.3f} nats, prior-matching terms "
        f"{last['latent_categorical_kl']:.3f} + {last['latent_gaussian_kl']:.3f}).")))

  if not amortised and last['uncertain_fraction'] > UNCERTAIN:
    found.append(Advice('noisy', (
        f"{last['uncertain_fraction']:.0%} of the assignments lie within two standard "
        'errors of their Monte Carlo estimate. Try more config.e_step.num_draws: four '
        'times as many halve these errors.')))

  change, error = (last.get(key) for key in ('bound_change', 'bound_change_error'))
  if change is not None and error is not None and change < -FALL_ERRORS * error:
    found.append(Advice('falling', (
        f'the bound fell by {-change:.2f} ± {error:.2f} nats an image in the last EM '
        'iteration.')))
  return found
