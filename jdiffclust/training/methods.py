"""The methods by name. A further one is a file with a `build`, and a line here."""

from __future__ import annotations

from jax.sharding import Mesh

from jdiffclust.training import cddpm, cluster_ddpm, latent_cddpm
from jdiffclust.training.machinery import Machinery

METHODS = {'cddpm': cddpm.build, 'cluster_ddpm': cluster_ddpm.build,
           'latent_cddpm': latent_cddpm.build}


def build(config, image_shape, levels: int | None, mesh: Mesh) -> Machinery:
  """The `Machinery` of the method of a config; for the arguments see `cddpm.build`."""
  return METHODS[config.method](config, image_shape, levels, mesh)
