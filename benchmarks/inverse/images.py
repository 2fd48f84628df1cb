"""How well do the methods restore real images, and find the clusters of damaged ones?

  python -m benchmarks.inverse.images [restore|clusters] [--datasets=digits,mnist5k,...]
      [--methods=...] [--damages=...] [--parts=...] [--shares=...] [--masks=1]
      [--splits=1] [--ceiling] [--groups=N] [--images=24] [--fashion=DIR] [--out=DIR]

Question:  restore: error, similarity and calibration of each method for each damage, of
           held-out images, beside what needs no model. clusters: how many points of
           accuracy are lost when parts of held-out images are, over several choices of
           the images held out (--splits), each with a fit and a seed of its own; and
           (--ceiling) how many would be, were the labels of the fit's images known, and
           how many another learner loses that is taught what the fit says of them,
           errors and all.
Time:      a fit of each data set first (5 to 30 minutes); then a minute for each damage
           and method; clusters: two to ten minutes for each part and share.
Kept:      docs/benchmarks.md, Restoring; results/inverse. restore also draws the first
           five images of each row: the truth, what is seen, draws, mean and spread.

Models are fitted to all images but 200, of which the first `--images` are restored.
PSNR (dB, peak of the range) and SSIM (7x7 windows; Wang et al., 2004) of the mean of 9
draws; `inside`: how often the truth lies between the least and the largest of the draws,
which it would in 80% were they right, over 8 random projections of what is hidden;
seconds an image, compiling left out. Labels score, and choose nothing.
"""

from __future__ import annotations

import time

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks.common import (
    ROOT, add_fashion, cell, data_options, fit, make_parser, markdown, names, read_json,
    write_json)
from jdiffclust.clustering.damaged import (
    Examples, learn, observed, squared_distances)
from jdiffclust.fitted import load
from jdiffclust.inverse import operators
from jdiffclust.registry import RESTORERS
from jdiffclust.report import figures, restored

RESULTS = ROOT / 'runs' / 'inverse'
HELD_OUT, NUM_DRAWS, NUM_PROJECTIONS, NUM_SHOWN = 200, 9, 8, 5
CONFIGS = {'digits': ('digits', {}),
           'mnist5k': ('folder', {'data.channels': 1, 'num_clusters': 10}),
           'fashion5k': ('folder', {'data.channels': 1, 'num_clusters': 10})}
# Damages: what makes the operator of a shape, and sigma as a share of the range.
DAMAGES = {
    'lower half': (lambda shape: operators.box(shape, .5, 0, .5, 1), 0.),
    'half of the pixels': (lambda shape: operators.random_pixels(shape, .5, 0), 0.),
    'half and noise': (lambda shape: operators.random_pixels(shape, .5, 0), .1),
    'half the size': (lambda shape: operators.averaging(2, shape), 0.),
    'quarter of the size': (lambda shape: operators.averaging(4, shape), 0.),
    'blur and noise': (lambda shape: operators.gaussian_blur(1.5, shape), .05)}
METHODS = {'pigdm': {}, 'ddrm': {}, 'dps': {}, 'repaint': {'repeats': 4},
           'mcgdiff': {'particles': 128}, 'tds': {'particles': 64}}
# What is missing, from the shape, the share of the pixels and a seed.
PARTS = {'lower': lambda shape, share, _: operators.box(shape, 1 - share, 0, share, 1),
         'random': operators.random_pixels}


def split(dataset: str, out, fashion, seed: int = 0):
  """Pixels and labels [N] of the images fitted, and of those held out by a seed."""
  path = out / 'data' / f'{dataset}.npz'
  if dataset == 'digits':
    from sklearn.datasets import load_digits
    images, labels = load_digits().images.astype(np.uint8), load_digits().target
  else:
    data_options(dataset, out, fashion)
    found = np.load(path)
    images, labels = found['images'], found['labels']
  order = np.random.default_rng(seed).permutation(len(images))
  parts = order[HELD_OUT:], order[:HELD_OUT]
  return [(images[part], labels[part]) for part in parts]


def fitted_model(dataset: str, out, fashion, seed: int = 0):
  """The fit, the images that it was fitted to, and those held out, stored."""
  (images, labels), (held, held_labels) = split(dataset, out, fashion, seed)
  name_of_split = f'{dataset}_{seed}' if seed else dataset
  path = out / 'data' / f'{name_of_split}_fitted.npz'
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    np.savez(path, images=images, labels=labels)
  name, changes = CONFIGS[dataset]
  fit(name, {'data.source': 'npz', 'data.path': str(path), **changes,
             'quality.num_images': 0, 'seed': seed}, out / 'fits' / name_of_split)
  found = load(out / 'fits' / name_of_split)
  images, held = (found.units.stored(read(found, part)) for part in (images, held))
  return found, (images, labels), (held, held_labels)


def read(found, images):
  """Images as the fit reads them, in [-1, 1]."""
  from jdiffclust.data.dataset import images_at
  source = found.read(images)
  return images_at(source, np.arange(source.num_images))


def damaged(found, images, damage):
  """The operator, y and sigma, of stored pixels."""
  make, share = DAMAGES[damage]
  operator = make(found.method.image_shape)
  sigma = share * (found.units.high - found.units.low)
  y = np.asarray(operator.apply(jnp.asarray(images)))
  return operator, y + sigma * np.random.default_rng(1).normal(size=y.shape), sigma


def psnr(guess, truth, peak) -> float:
  """Peak signal-to-noise ratio of all images together, dB."""
  return float(10 * np.log10(peak**2 / np.mean((guess - truth)**2)))


def ssim(guess, truth, peak) -> float:
  """The mean structural similarity."""
  def mean(x):
    return ndimage.uniform_filter(np.asarray(x, np.float64), (0, 7, 7, 0))
  a, b = mean(guess), mean(truth)
  var = lambda x, y: (mean(x * y) - mean(x) * mean(y)) * 49 / 48
  first, second = (.01 * peak)**2, (.03 * peak)**2
  guess, truth = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
  values = ((2 * a * b + first) * (2 * var(guess, truth) + second)
            / ((a**2 + b**2 + first) * (var(guess, guess) + var(truth, truth) + second)))
  return float(values.mean())


def inside(draws, truth) -> float:
  """How often projections of the truth lie within those of the draws [n, D, ...]."""
  flat = draws.reshape(*draws.shape[:2], -1) - truth.reshape(len(truth), 1, -1)
  rng = np.random.default_rng(2)
  signs = rng.choice([-1., 1.], (flat.shape[2], NUM_PROJECTIONS))
  projected = flat @ signs  # the truth is 0
  between = (projected.min(axis=1) <= 0) & (projected.max(axis=1) >= 0)
  return float(between.mean())


def without_model(operator, y, images, low, high):
  """What needs no model: by name, guesses [n, H, W, C]."""
  mean = images.mean(axis=0)
  found = {'mean image': np.broadcast_to(mean, (len(y), *mean.shape))}
  if isinstance(operator, operators.Inpainting):
    mask = np.asarray(operator.mask)[None]
    found['mean fill'] = np.where(mask > 0, y, mean[None])
  elif y.shape[1:] != images.shape[1:]:
    from PIL import Image
    size = images.shape[2], images.shape[1]
    found['bicubic'] = np.stack([np.clip(np.asarray(Image.fromarray(
        row[..., 0].astype(np.float32)).resize(size, Image.BICUBIC)), low, high)
        for row in y])[..., None]
  else:
    found['as it is'] = y
  seen = np.asarray(operator.apply(jnp.asarray(images))).reshape(len(images), -1)
  nearest = [np.argmin(((seen - row.ravel())**2).sum(axis=1)) for row in y]
  found['nearest image'] = images[nearest]
  return found


def draw(found, operator, y, result, truth, path) -> None:
  """A picture of the first images: the truth, what is seen, draws, mean and spread."""
  few = slice(NUM_SHOWN)
  scaled = lambda images: (images - found.units.low) * found.units.scale - 1
  mask = (np.asarray(operator.mask) if isinstance(operator, operators.Inpainting)
          else None)
  seen = restored.visible(scaled(y[few]), mask, found.method.image_shape)
  figures.save_figure(restored.sheet(
      seen, scaled(result.images[few]), result.std[few] * found.units.scale,
      [''] * NUM_SHOWN, scaled(truth[few]), 'truth'), path)


def compare(args) -> None:
  """The table of errors."""
  path = args.out / 'images.json'
  known = read_json(path) or {}
  for dataset in args.datasets:
    found, (images, _), (held, _) = fitted_model(dataset, args.out, args.fashion)
    truth, peak = held[:args.images], found.units.high - found.units.low
    for damage in args.damages:
      operator, y, sigma = damaged(found, truth, damage)
      for name, guess in without_model(operator, y, images, *found.units).items():
        known[f'{dataset} / {damage} / {name}'] = {
            'psnr': psnr(guess, truth, peak), 'ssim': ssim(guess, truth, peak)}
      for method in args.methods:
        options = dict(method=method, num_draws=NUM_DRAWS, **METHODS[method])
        label = f'{dataset} / {damage} / {method}'
        if args.groups and 'particles' in options:
          label += ', one group' if args.groups == 1 else f', {args.groups} groups'
          options['groups'] = args.groups
        if label in known or (method == 'repaint' and sigma):
          continue
        found.restore(operator, y[:1], sigma, **options)  # compiles
        begin = time.perf_counter()
        result = found.restore(operator, y, sigma, **options)
        seconds = time.perf_counter() - begin
        known[label] = {
            'psnr': psnr(result.mean, truth, peak),
            'draw': psnr(result.images[:, 0], truth, peak),
            'ssim': ssim(result.mean, truth, peak),
            'inside': inside(result.images, truth),
            'ess': float(np.mean(result.ess)), 'seconds': seconds / len(y)}
        write_json(path, known)
        draw(found, operator, y, result, truth,
             args.out / 'pictures' / f"{label.replace(' / ', '_').replace(' ', '_')}.png")
        print(label, known[label], flush=True)
    write_json(path, known)
  for dataset in args.datasets:
    for damage in args.damages:
      rows = [[name, *(f'{row[k]:.{d}f}' if k in row else '-' for k, d in (
          ('psnr', 2), ('draw', 2), ('ssim', 3), ('inside', 2), ('seconds', 2)))]
              for key, row in known.items()
              for name in [key.split(' / ')[-1]]
              if key.startswith(f'{dataset} / {damage} / ')]
      print(f'\n{dataset}, {damage}\n')
      print(markdown(['', 'PSNR of the mean', 'of a draw', 'SSIM', 'inside (.80)',
                      'seconds an image'], rows))


def clusters(args) -> None:
  """Accuracy on held-out images of which parts are missing."""
  path = args.out / 'clusters.json'
  rows, kept = [], read_json(path) or {}
  for dataset in args.datasets:
    found = [of_split(dataset, seed, args) for seed in range(args.splits)]
    for missing in found[0]:
      lines = [line for of_one in found for line in of_one[missing]]
      line = {name: [line[name] for line in lines] for name in lines[0]}
      kept[f'{dataset} / {missing}'] = line
      rows.append({'data': dataset, 'missing': missing,
                   **{name: cell(values) for name, values in line.items()}})
    write_json(path, kept)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  print(markdown(columns, [[row.get(name, '') for name in columns] for row in rows]))


def of_split(dataset: str, seed: int, args) -> dict[str, list[dict[str, float]]]:
  """Accuracy by what is missing, then for each mask, then by method."""
  from sklearn.cluster import KMeans
  found, (images, labels), (held, held_labels) = fitted_model(
      dataset, args.out, args.fashion, seed)
  held, held_labels = held[:args.images], held_labels[:args.images]
  kmeans = KMeans(10, n_init=10, random_state=0).fit(images.reshape(len(images), -1))

  def accuracy(tau_or_clusters, fitted_clusters):
    classes = classes_of(labels, fitted_clusters)
    return float(np.mean(classes[tau_or_clusters] == held_labels))

  ours = lambda pixels: accuracy(found.assign(np.rint(pixels).astype(
      np.uint8)).responsibilities.argmax(axis=1), found.clusters)
  theirs = lambda pixels: accuracy(
      kmeans.predict(pixels.reshape(len(pixels), -1).astype(
          kmeans.cluster_centers_.dtype)), kmeans.labels_)

  whole = {'network': ours(held), 'kmeans': theirs(held)}
  if args.ceiling:
    whole |= machines(images.reshape(len(images), -1), labels, found.clusters,
                      held.reshape(len(held), -1), held_labels)

  def measured(operator):
    y = np.asarray(operator.apply(jnp.asarray(held)))
    filled = np.where(np.asarray(operator.mask)[None] > 0, y, images.mean(axis=0)[None])
    line = {'examples': accuracy(found.assign_damaged(operator, y).argmax(axis=1),
                                 found.clusters)}
    line['lost'] = whole['network'] - line['examples']
    for method in args.methods:
      result = found.restore(operator, y, method=method, num_draws=8,
                             by_examples=False, **METHODS[method])
      line[f'draws of {method}'] = accuracy(result.clusters, found.clusters)
    line |= {'network': ours(filled), 'kmeans': theirs(filled)}
    if args.ceiling:
      line |= ceiling(found, images, labels, held, held_labels, operator)
    print(dataset, seed, line, flush=True)
    return line

  lines = {'nothing': [whole]}
  for part in args.parts:
    for share in map(float, args.shares.split(',')):
      masks = range(args.masks if part == 'random' else 1)
      lines[f'{part} / {share}'] = [
          measured(PARTS[part](found.method.image_shape, share, seed * args.masks + mask))
          for mask in masks]
  return lines


def classes_of(labels, clusters) -> np.ndarray:
  """The class that most images of each of ten clusters have, [10]; of both, [N]."""
  return np.array([np.bincount(labels[clusters == q], minlength=10).argmax()
                   for q in range(10)])


def machines(known, labels, clusters, seen, wanted) -> dict[str, float]:
  """Accuracy of support vector machines of a Gaussian kernel (C = 10).

  Args:
    known: what is seen of the fitted images, [N, M].
    labels, clusters: of these, [N].
    seen: what is seen of others, [m, M].
    wanted: their labels, [m].

  Returns:
    `labelled SVM`: taught the labels; `SVM of the clusters`: taught, for each image, the
    class that most images of its cluster have, wrong where the fit is.
  """
  from sklearn.svm import SVC
  of_clusters = classes_of(labels, clusters)[clusters]
  score = lambda taught: float(SVC(C=10.).fit(known, taught).score(seen, wanted))
  return {'labelled SVM': score(labels), 'SVM of the clusters': score(of_clusters)}


def ceiling(found, images, labels, held, held_labels, operator) -> dict[str, float]:
  """Accuracy by the labels of the fitted images, in the place of their tau.

  Args:
    found: the fit.
    images, labels: those fitted, stored [N, ...], [N].
    held, held_labels: those held out.
    operator: what hides parts of them.

  Returns:
    `nearest labelled`: the label of the nearest image under the same damage; `taught
    labels`: what `examples` says, had it learnt the labels; and those of `machines`,
    taught images under the damage.
  """
  problem = found.units.problem(operator, operator.apply(jnp.asarray(held)), 0.)
  scaled = (images.astype(np.float32) - found.units.low) * found.units.scale - 1
  seen, known = (observed(operator, y) for y in (
      problem.observation, operator.apply(jnp.asarray(scaled, jnp.float32))))
  nearest = labels[squared_distances(seen, known).argmin(axis=1)]
  examples = Examples(scaled.astype(np.float32), np.eye(10)[labels])
  taught = learn(examples, operator, 0., found.config, 0)
  return {'nearest labelled': float(np.mean(nearest == held_labels)),
          'taught labels': float(np.mean(taught(problem).argmax(axis=1) == held_labels)),
          **machines(known, labels, found.clusters, seen, held_labels)}


def main() -> None:
  """Runs what is asked for."""
  parser = make_parser(__doc__, out=str(RESULTS))
  add_fashion(parser)
  parser.add_argument('what', nargs='?', default='restore',
                      choices=('restore', 'clusters'))
  parser.add_argument('--datasets', type=names(CONFIGS), default='digits,mnist5k')
  parser.add_argument('--methods', type=names(RESTORERS), default=','.join(METHODS))
  parser.add_argument('--damages', type=names(DAMAGES), default=','.join(DAMAGES))
  parser.add_argument('--parts', type=names(PARTS), default=','.join(PARTS),
                      help='clusters: what is missing')
  parser.add_argument('--shares', default='.25,.5,.75', help='clusters: of the pixels')
  parser.add_argument('--masks', type=int, default=1,
                      help='clusters: seeds of the random pixels')
  parser.add_argument('--splits', type=int, default=1,
                      help='clusters: choices of the images held out, each with a fit')
  parser.add_argument('--ceiling', action='store_true',
                      help="clusters: what the fitted images' labels would tell, too")
  parser.add_argument('--groups', type=int, help='restore: of particles, in the place of '
                      'one for each draw; rows of their own')
  parser.add_argument('--images', type=int, default=24)
  args = parser.parse_args()
  {'restore': compare, 'clusters': clusters}[args.what](args)


if __name__ == '__main__':
  main()
