"""What can be named in a config: each name once, and where it is defined.

A registry maps names to `module:attribute`, which is imported when it is first asked for:
the names are known without the libraries behind them. A further method, start, source,
sampler, grid or schedule is its own file (or function), and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from jdiffclust.errors import UserError


class Registry(Mapping):
  """Names of things of one kind, which are imported when they are looked up."""

  def __init__(self, kind: str, package: str, places: Mapping[str, str]):
    """Holds the names.

    Args:
      kind: what the things are, for errors, such as 'sampler'.
      package: the package that the places are in.
      places: name -> 'module:attribute'.
    """
    self.kind, self._package, self._places = kind, package, dict(places)

  def __getitem__(self, name: str) -> Any:
    """The thing of that name.

    Raises:
      UserError: there is none; the names there are, are listed.
    """
    if name not in self._places:
      raise UserError(f'Unknown {self.kind} {name!r}: set one of {", ".join(self)}.')
    module, attribute = self._places[name].split(':')
    return getattr(importlib.import_module(f'{self._package}.{module}'), attribute)

  def __contains__(self, name) -> bool:
    """Whether there is a thing of that name; it is not imported."""
    return name in self._places

  def __iter__(self) -> Iterator[str]:
    """The names, in the order of definition."""
    return iter(self._places)

  def __len__(self) -> int:
    """How many there are."""
    return len(self._places)


METHODS = Registry('method', 'jdiffclust.clustering', {
    'cddpm': 'cddpm.method:CDDPM',
    'cluster_ddpm': 'cluster_ddpm.method:ClusterDDPM',
    'latent_cddpm': 'latent_cddpm:LatentCDDPM',
    'sr3': 'sr3:SR3',
})
# Starting partitions: functions (sample [n, D] in [-1, 1], image_shape, config, seed) ->
# `partitions.Assign`.
STARTS = Registry('start', 'jdiffclust.clustering.starts', {
    'recognition': 'recognition:of_recognition',
    'neighbours': 'neighbours:of_neighbourhoods',
    'gaussian_mixture': 'partitions:of_gaussian_mixture',
    'kmeans': 'partitions:of_kmeans',
    'tsne': 'partitions:of_tsne',
    'umap': 'partitions:of_umap',
    'random': 'partitions:of_nothing',
    'latents': 'partitions:of_latents',
})
# Those that know nothing of the images, and those that the first E-step makes.
UNINFORMED_STARTS = ('random', 'latents')
LATE_STARTS = ('latents',)
RECOGNISED = 'recognition'  # the one that is kept, for new images
NEIGHBOURHOODS = 'neighbours'  # the same without a network
# In which respects the start from neighbourhoods compares images: functions (sample,
# image_shape, config, seed) -> a list of `neighbours.Description`; [] if these images
# cannot be compared in that respect.
SPACES = Registry('space', 'jdiffclust.clustering.starts', {
    'pixels': 'spaces:of_pixels',
    'edges': 'spaces:of_edges',
    'colours': 'spaces:of_colours',
    'denoiser': 'spaces:of_denoiser',
    'embeddings': 'spaces:of_embeddings',
})
EMBEDDINGS = 'embeddings'  # the space of vectors that come with the images
# The starts that compare images in spaces.
COMPARING_STARTS = ('recognition', 'neighbours')
SOURCES = Registry('source', 'jdiffclust.data.sources', {
    'digits': 'digits:read_digits',
    'idx': 'idx:read_idx_source',
    'npz': 'npz:read_npz',
    'folder': 'folder:read_folder',
    'files': 'folder:read_listed',
    'tfds': 'tfds:read_tfds',
})
SAMPLERS = Registry('sampler', 'jdiffclust.diffusion', {
    'ddpm': 'tables:ddpm',
    'ddim': 'tables:ddim',
    'euler': 'tables:euler',
    'euler_maruyama': 'tables:euler_maruyama',
    'reverse_diffusion': 'tables:reverse_diffusion',
    'heun': 'tables:heun',
    'dpm_solver_pp_2m': 'tables:dpm_solver_pp_2m',
    'predictor_corrector': 'tables:predictor_corrector',
    'adaptive': 'samplers:adaptive',
})
# Methods of restoration: classes of `jdiffclust.inverse.restorer.Restorer`.
RESTORERS = Registry('method of restoration', 'jdiffclust.inverse', {
    'dps': 'dps:DPS',
    'pigdm': 'pigdm:PiGDM',
    'repaint': 'repaint:RePaint',
    'ddrm': 'ddrm:DDRM',
    'mcgdiff': 'mcgdiff:MCGdiff',
    'tds': 'tds:TDS',
})
GRIDS = Registry('time grid', 'jdiffclust.diffusion', {
    'uniform': 'grids:uniform',
    'leading': 'grids:leading',
    'trailing': 'grids:trailing',
    'karras': 'grids:karras',
})
BETAS = Registry('noise schedule', 'jdiffclust.diffusion', {
    'linear': 'schedules:linear_betas',
    'cosine': 'schedules:cosine_betas',
    'sigmoid': 'schedules:sigmoid_betas',
})
PULLS = Registry('pull', 'jdiffclust.diffusion', {
    'one_minus_sqrt_abar': 'schedules:one_minus_root',
    'cdiffuse': 'schedules:cdiffuse',
    'linear': 'schedules:linear_pull',
    'zero': 'schedules:no_pull',
})
