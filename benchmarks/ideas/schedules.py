"""Options of the amortised posterior that change from the first step to the last."""

from __future__ import annotations

import functools
import pathlib
import types

import jax
import jax.numpy as jnp

from benchmarks.ideas.fits import RANDOM, fit
from jdiffclust.clustering.cddpm.amortised import Posterior
from jdiffclust.clustering.cddpm.m_step import make_m_step
from jdiffclust.clustering.cddpm.method import CDDPM
from jdiffclust.state import steps_until

COARSE_TO_FINE = {'noise_range': ((.5, .8), (.1, .8))}
# Options of the section `posterior` with their first and last value, and what else is
# changed.
SCHEDULES = {
    'coarse_to_fine': (COARSE_TO_FINE, {}),
    'coarse_to_fine_random_start': (COARSE_TO_FINE, RANDOM),
    'annealed_temper': ({'temper': (10., 1.)}, {}),
}


class Scheduled(CDDPM):
  """CDDPM by whose M-step options of the section `posterior` change linearly."""

  def __init__(self, ends: dict, config, image_shape, levels, mesh):
    """As `CDDPM`.

    Args:
      ends: first and last value by option.
      config, image_shape, levels, mesh: as of `CDDPM`.
    """
    super().__init__(config, image_shape, levels, mesh)
    last_step = steps_until(config.m_step, config.em.max_iterations)

    def step(state, *arguments):
      share = jnp.minimum(state.step / last_step, 1.)
      now = {name: (1 - share) * jnp.array(first) + share * jnp.array(last)
             for name, (first, last) in ends.items()}
      options = types.SimpleNamespace(**{**config.posterior.to_dict(), **now})
      posterior = Posterior(self.inference.apply, options, config.views)
      return make_m_step(self.model, config.m_step, mesh, posterior)(state, *arguments)

    self.gradient_step = jax.jit(step, donate_argnums=0)


def scheduled(ends: dict, changes: dict, seed: int, workdir: pathlib.Path) -> dict:
  """A fit with one of SCHEDULES."""
  return fit(changes, seed, workdir, build=functools.partial(Scheduled, ends))
