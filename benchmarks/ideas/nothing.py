"""From nothing: cddpm with random responsibilities, and neither neighbours nor K-means.

The engine is the joint training of `jdiffclust.clustering.cddpm.amortised`, anchor 0. It
finds clusters sooner by two changes. The means follow from step to step: in the schedule
'batch' they stay what random responsibilities made them until the first E-step, all much
the same. And every draw of t is from the window whose errors count: a uniform one spends
three draws of five on levels that say nothing of clusters. A network that has seen no
others has no bound worth reporting: this is a start, not a fit.
"""

from __future__ import annotations

import pathlib

import jax.numpy as jnp

from benchmarks.common import SCORES, data_options
from benchmarks.ideas.fits import NOTHING, fit
from jdiffclust.clustering.cddpm.method import CDDPM

OF_16 = {'data.image_size': 16, 'network.channel_multipliers': (1, 2, 2)}
# Data sets and what is changed.
KINDS = {
    'from_nothing': ('digits', {}),
    'from_nothing_mnist5k': ('mnist5k', OF_16),
}


def in_window(proposal, window: tuple[float, float]):
  """A distribution over noise levels, confined to a window.

  Args:
    proposal: p(t), 0 at t = 0, [T + 1].
    window: shares of T, both ends within.

  Returns:
    [T + 1].
  """
  place = jnp.arange(len(proposal)) / (len(proposal) - 1)
  inside = jnp.where((window[0] <= place) & (place <= window[1]), proposal, 0)
  return inside / inside.sum()


class Windowed(CDDPM):
  """CDDPM whose gradient steps see the noise levels of `posterior.noise_range` alone."""

  def __init__(self, config, image_shape, levels, mesh):
    """As `CDDPM`."""
    super().__init__(config, image_shape, levels, mesh)
    self.m_estimator = self.m_estimator._replace(proposal=in_window(
        self.m_estimator.proposal, config.posterior.noise_range))


def from_nothing(dataset: str, changes: dict, seed: int, workdir: pathlib.Path) -> dict:
  """Scores of the start and of the end of one of KINDS."""
  found = fit({**NOTHING, **data_options(dataset, workdir.parents[1]), **changes}, seed,
              workdir, build=Windowed)
  return {name: found[name] for name in ('start', *SCORES)}
