"""Held-out images from their low images: SR3 beside methods that know of no low image.

  python -m benchmarks.inverse.sr3 [--datasets=digits,fashion] [--num=128] [--draws=4]
      [--models=sr3,unconditional] [--fashion=DIR] [--out=DIR]

Question:  how near do images from a fitted SR3 come to the truth, and to what is seen?
Time:      half an hour, nearly all of it the fit of Fashion-MNIST.
Kept:      benchmarks/results/inverse; docs/benchmarks.md, Super-resolution.

Fits configs/sr3_digits.py to 1,500 of the digits and configs/sr3_fashion_mnist.py as it
stands, and restores others: of the rest of the digits, of Fashion-MNIST's test set. An
unconditional model of the same network, images and gradient steps restores them by the
methods of `jdiffclust.inverse`, and bicubic interpolation without any model. PSNR
is of pixels in [-1, 1], cut off there, so that its peak is 2; means over images, with
standard errors. `seen` is the root mean square of A x less the low image: 0 for whoever
keeps to what is seen; `astray` counts the images that end as noise, for which it is more
than .15. A mean over draws estimates E[x_0 | y], which has the least mean
square error of all, and is no image. Writes sr3.json and a picture for each data set to
DIR, prints the table.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import (
    add_fashion, config_of, fit, make_parser, markdown, names, write_json)

# Data set -> its config, and what is changed of it.
CONFIGS = {'digits': ('sr3_digits', {'data.max_images': 1500}),
           'fashion': ('sr3_fashion_mnist', {'data.source': 'idx'})}
DATASETS = {'digits': '8x8 from 4x4', 'fashion': '28x28 from 7x7'}
# Restoration -> options of its sampler.
RESTORATIONS = {'ddim, 20 steps': {'sampler': 'ddim', 'num_steps': 20, 'eta': 0.},
                'ddim, eta 1, 20 steps': {'sampler': 'ddim', 'num_steps': 20, 'eta': 1.},
                'ddpm, 200 steps': {'sampler': 'ddpm', 'num_steps': 0}}
# By an unconditional model -> options of `Fitted.restore`; without noise.
UNCONDITIONAL = {'dps': {'num_steps': 100}, 'pigdm': {'num_steps': 100},
                 'mcgdiff': {'num_steps': 100, 'particles': 64}}
MODELS = ('sr3', 'unconditional')
ASTRAY = .15  # `seen` of one image that is noise, or full of it
SHOWN = 10


def held_out(dataset: str, config, fashion, num: int) -> np.ndarray:
  """Images in [-1, 1] that the fit has not seen, [num, H, W, C]."""
  from jdiffclust.data.dataset import images_at, load_source
  data = config.copy_and_resolve_references().data
  if dataset == 'fashion':
    data.path = str(fashion / 't10k-images-idx3-ubyte.gz')
    data.max_images = 0
    source = load_source(data)
    return images_at(source, np.arange(num))
  seen = set(load_source(data).ids)
  data.max_images = 0
  source = load_source(data)
  rest = [i for i, name in enumerate(source.ids) if name not in seen]
  return images_at(source, rest[:num])


def psnr(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Peak signal-to-noise ratio of each image, decibel, [B]."""
  errors = np.mean((np.clip(found, -1, 1) - truth)**2, axis=(1, 2, 3), dtype=np.float64)
  return 10 * np.log10(4 / np.maximum(errors, 1e-10))


def restored(fitted, condition, num_draws: int, options: dict) -> np.ndarray:
  """Images by a sampler, [B, num_draws, H, W, C], of conditions [B, H, W, C]."""
  from jdiffclust.clustering.generation import sample_from
  config = fitted.config.copy_and_resolve_references()
  config.sample.update(options)
  wide = np.repeat(np.asarray(condition)[:, None], num_draws, axis=1)
  return sample_from(fitted.method, fitted.params, wide, np.arange(len(wide)),
                     config.sample).images


def by_unconditional(fitted, operator, truth, num_draws: int) -> dict[str, np.ndarray]:
  """Draws [B, num_draws, H, W, C] in [-1, 1] by method, of images [B, H, W, C]."""
  y = np.asarray(operator.apply(truth))
  return {f'{name}, unconditional, {options["num_steps"]} steps': fitted.restore(
      operator, y, method=name, num_draws=num_draws, pixel_range=(-1, 1),
      **options).images for name, options in UNCONDITIONAL.items()}


def measure(dataset: str, args) -> tuple[dict, dict[str, np.ndarray]]:
  """Fits, restores and compares.

  Args:
    dataset: of `DATASETS`.
    args: num, draws, fashion and out.

  Returns:
    What is kept, and images by name, [num, H, W, C].
  """
  import jax
  import jdiffclust
  from jdiffclust.clustering.sr3 import REDUCTIONS
  name, changes = CONFIGS[dataset]
  if dataset == 'fashion':
    changes = {**changes, 'data.path': str(args.fashion / 'train-images-idx3-ubyte.gz')}
  config = config_of(name, changes)
  truth = held_out(dataset, config, args.fashion, args.num)
  operator = REDUCTIONS[config.sr3.reduction](config.sr3.factor, truth.shape[1:])
  y = np.asarray(operator.apply(truth))
  condition = np.asarray(jax.image.resize(y, truth.shape, 'bicubic'))
  found, rows, kept = {'bicubic': condition}, {}, {'num': len(truth)}
  if 'sr3' in args.models:
    summary = fit(name, changes, args.out / dataset)
    kept |= {'bound_bits_per_dim': summary['history'][-1]['bound_bits_per_dim'],
             'wall_seconds': summary['wall_seconds']}
    fitted = jdiffclust.load(args.out / dataset)
    for label, options in RESTORATIONS.items():
      draws = args.draws if options['sampler'] == 'ddpm' else 1
      images = restored(fitted, condition, draws, options)
      found[label] = images[:, 0]
      if draws > 1:
        found[f'{label}, mean of {draws}'] = images.mean(axis=1)
  if 'unconditional' in args.models:
    fit(name, {**changes, 'method': 'cddpm', 'start.kind': 'kmeans',
               'quality.num_images': 0}, args.out / f'{dataset}_unconditional')
    without = jdiffclust.load(args.out / f'{dataset}_unconditional')
    for label, images in by_unconditional(without, operator, truth, args.draws).items():
      found[label] = images[:, 0]
      found[f'{label}, mean of {args.draws}'] = images.mean(axis=1)
  for label, images in found.items():
    values = psnr(images, truth)
    seen = np.asarray(operator.apply(images)) - y
    astray = np.sqrt(np.mean(seen**2, axis=(1, 2, 3))) > ASTRAY
    rows[label] = {'psnr': float(values.mean()),
                   'psnr_error': float(values.std(ddof=1) / len(values)**.5),
                   'better_than_bicubic': float(np.mean(values > psnr(condition, truth))),
                   'seen': float(np.sqrt(np.mean(seen**2, dtype=np.float64))),
                   'astray': int(astray.sum())}
  return {**kept, 'restorations': rows}, {'truth': truth, **found}


def picture(images: dict[str, np.ndarray]) -> Figure:
  """The first images, a row for each way to restore them."""
  chart = Figure(figsize=(SHOWN, len(images) + .3), dpi=100, layout='constrained')
  panels = chart.subplots(len(images), SHOWN)
  for (label, row), line in zip(images.items(), panels):
    line[0].set_title(label, fontsize=8, loc='left')
    for image, axes in zip(row, line):
      axes.imshow(np.clip(image, -1, 1).squeeze(), cmap='gray', vmin=-1, vmax=1)
      axes.set_axis_off()
  return chart


def table(results: dict) -> str:
  """The kept figures as Markdown."""
  return markdown(
      ['images', 'restoration', 'PSNR, dB', 'better than bicubic', 'seen', 'astray'],
      [[f'{dataset}, {DATASETS[dataset]}, {result["num"]} images', label,
        f'{row["psnr"]:.2f} ± {row["psnr_error"]:.2f}',
        f'{row["better_than_bicubic"]:.0%}' if label != 'bicubic' else '–',
        f'{row["seen"]:.3f}', str(row['astray'])]
       for dataset, result in results.items()
       for label, row in result['restorations'].items()])


def main() -> None:
  """Measures, writes and prints."""
  parser = make_parser(__doc__, out='runs/sr3')
  parser.add_argument('--datasets', type=names(CONFIGS), default=list(CONFIGS))
  parser.add_argument('--models', type=names(MODELS), default=','.join(MODELS))
  parser.add_argument('--num', type=int, default=128, help='images to restore')
  parser.add_argument('--draws', type=int, default=4, help='images of ddpm to average')
  add_fashion(parser)
  args = parser.parse_args()
  from jdiffclust.report.figures import save_figure
  results = {}
  for dataset in args.datasets:
    results[dataset], images = measure(dataset, args)
    save_figure(picture(images), args.out / f'sr3_{dataset}.png')
    write_json(args.out / 'sr3.json', results)
  print(table(results))
  for dataset, result in results.items():
    if 'sr3' not in args.models:
      continue
    print(f"\n{dataset}: {result['bound_bits_per_dim']:.3f} bits per dimension given the "
          f"low image, a fit of {result['wall_seconds']:.0f} s.")


if __name__ == '__main__':
  main()
