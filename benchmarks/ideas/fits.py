"""Ideas that are fits by the command with some options changed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from benchmarks import common
from benchmarks.ideas.lambda_sweep import PAPER

RANDOM = {'start.kind': 'random', 'posterior.anchor': 0., 'posterior.temper': 0.,
          'posterior.balance': 1., 'posterior.warmup': 0}
# From nothing, without neighbours: mu follows from step to step, and errors count where a
# noisy image leaves something to be told by its cluster.
NOTHING = {**RANDOM, 'em.schedule': 'stepwise', 'posterior.noise_range': (.1, .5),
           'network.channels': 8, 'em.max_iterations': 1,
           'm_step.first_num_steps': 1500}
NO_VIEWS = dict.fromkeys(
    ('views.rotation', 'views.scale', 'views.shear', 'views.shift'), 0.)
# Of cddpm, by configs/digits.py.
CHANGES = {
    'default': {},
    'random_start': RANDOM,
    'from_nothing_all_levels': {**NOTHING, 'm_step.first_num_steps': 2400},
    'random_start_monte_carlo': {'start.kind': 'random', 'em.posterior': 'monte_carlo'},
    'monte_carlo': {'em.posterior': 'monte_carlo'},
    'no_errors': {'posterior.warmup': 10**9},
    'no_anchor': {'posterior.anchor': 0.},
    'no_views': NO_VIEWS,
    'views_in_start_alone': {'posterior.num_views': 0},
    'low_noise': {'posterior.noise_range': (.02, .3)},
    'high_noise': {'posterior.noise_range': (.4, .95)},
    'errors_thrice': {'posterior.temper': 1 / 3},
    'concatenated': {'network.conditioning': 'concatenated'},
    'wider': {'network.channels': 32},
}
# Of ClusterDDPM, by configs/cluster_ddpm_digits.py, which has one E-step.
SEVEN = {'m_step.first_num_steps': 400, 'm_step.num_steps': 100, 'em.max_iterations': 7,
         'em.bound_tolerance': 0., 'em.partition_tolerance': 0.}
LATENTS = {
    'latents': {},
    'latents_paper': PAPER,
    'latents_no_views': {'latent.views': False},
    'latents_full': {'latent.covariance': 'full'},
    'latents_no_average': {'m_step.ema_decay': 0.},
    'latents_no_pool': {'posterior.pool': 0.},
    'latents_seven': SEVEN,
    'latents_seven_half_anchor': {**SEVEN, 'posterior.anchor': .5},
    'latents_one_look': {'posterior.num_views': 0},
    'latents_to_the_end': {'latent.mixture_iterations': 100},
    'latents_of_32': {'latent.size': 32},
    'latents_lambda_.01': {'latent.weight': .01},
}


def fit(changes: dict, seed: int, workdir: pathlib.Path, config: str = 'digits',
        build: Callable | None = None) -> dict:
  """Scores of the start and of the end, and the bound, of a fit.

  Args:
    changes: values by option name.
    seed: of the config.
    workdir: the folder of the fit.
    config: a file of configs/.
    build: makes the method; None: as usual.
  """
  summary = common.fit(config, {**changes, 'seed': seed}, workdir, build=build)
  scores = lambda of: {name: of[name] for name in common.SCORES}
  return {'start': scores(summary['init']), **scores(summary),
          'bound_bits_per_dim': summary['bound_bits_per_dim']}
