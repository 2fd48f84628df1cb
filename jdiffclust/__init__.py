"""Clustering images with diffusion models, in JAX and Flax.

    import jdiffclust
    clusters = jdiffclust.DiffusionClustering(n_clusters=10).fit_predict(images)

    config = jdiffclust.default_config()
    fitted = jdiffclust.fit(config, images)    # [N, H, W] or [N, H, W, C]
    fitted.clusters, fitted.sample().images
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # by whoever looks at types alone
  from jdiffclust.config import default_config as default_config
  from jdiffclust.errors import UserError as UserError
  from jdiffclust.estimator import DiffusionClustering as DiffusionClustering
  from jdiffclust.fitted import Fitted as Fitted, fit as fit, load as load

__version__ = '0.1.0'

# Imported when they are asked for: JAX takes seconds.
_HOMES = {'fit': 'jdiffclust.fitted', 'load': 'jdiffclust.fitted',
          'Fitted': 'jdiffclust.fitted', 'default_config': 'jdiffclust.config',
          'DiffusionClustering': 'jdiffclust.estimator',
          'UserError': 'jdiffclust.errors'}
__all__ = ['__version__', *_HOMES]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOMES])
