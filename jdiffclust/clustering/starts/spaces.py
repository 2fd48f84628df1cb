"""The respects in which the start from neighbourhoods compares images.

Each is a list of `Description`s, of which all cuts are taken together; an empty one says
that the images have nothing to be compared in that respect.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from jdiffclust.clustering.starts import colours, edges
from jdiffclust.clustering.starts.denoiser_features import (
    NOISE, describe, train, unconditional)
from jdiffclust.clustering.starts.embedded import comparison_of
from jdiffclust.clustering.starts.neighbours import Description
from jdiffclust.data.symmetry import group
from jdiffclust.data.views import draw_small_maps


def of_pixels(sample, image_shape, config, seed: int) -> list[Description]:
  """The pixels themselves, over each of the sets of views of the section `views`.

  Args:
    sample: not looked at; nor by edges.
    image_shape: (H, W, C).
    config: its section views.
    seed: of the views.
  """
  del sample, image_shape
  views = config.views
  sets = [draw_small_maps(key, views.num, views)
          for key in jax.random.split(jax.random.key(seed), views.sets)]
  return [Description(lambda images: images, sets, group(views))]


def of_edges(sample, image_shape, config, seed: int) -> list[Description]:
  """Histograms of the edges' directions (`edges.py`)."""
  del sample, image_shape, seed
  return [Description(edges.describe, placings=group(config.views))]


def of_colours(sample, image_shape, config, seed: int) -> list[Description]:
  """Histograms of colours (`colours.py`); none of grey images.

  Args:
    sample: images [n, D] in [-1, 1], which show whether there is colour.
    image_shape: (H, W, C), of product D.
    config, seed: not used.
  """
  del config, seed
  in_colour = colours.in_colour(sample.reshape(-1, *image_shape))
  return [Description(colours.describe)] if in_colour else []


def of_embeddings(vectors, image_shape, config, seed: int) -> list[Description]:
  """The images' embeddings (`embedded.py`).

  Args:
    vectors: the embeddings, [n, E].
    image_shape, seed: not used.
    config: start.embeddings_distance.
  """
  del image_shape, seed
  compare = comparison_of(vectors, config.start)
  return [Description(lambda rows: compare(rows)[:, None, None], of_embeddings=True)]


def of_denoiser(sample, image_shape, config, seed: int,
                make_network: Callable = unconditional) -> list[Description]:
  """Features of a denoiser that is trained for it (`denoiser_features.py`).

  Args:
    sample: images that it is trained with, [n, D] in [-1, 1].
    image_shape: (H, W, C), of product D.
    config: views.sets, one description for each draw of its noise; and as of
      `denoiser_features.train`.
    seed: not used: its draws follow from the config's.
    make_network: config -> the denoiser.
  """
  del seed
  network = make_network(config)
  variables = train(network, sample.reshape(-1, *image_shape), config)
  return [Description(describe(network, variables, NOISE, image_shape, config, draw),
                      placings=group(config.views))
          for draw in range(config.views.sets)]
