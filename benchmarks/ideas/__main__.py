"""Ideas that were tried on the digits: what each brings, from one command.

  python -m benchmarks.ideas [--ideas=NAME,...] [--seeds=0,1,2] [--out=DIR]

Question:  how do the scores change by an idea, from its start to its end?
Time:      2 to 10 minutes an idea and seed, on two cores.
Kept:      docs/benchmarks.md, What was tried, and docs/cluster_ddpm.md, Figures.

Those of `fits.CHANGES` and `fits.LATENTS` (of ClusterDDPM) are fits by the command with
some options changed. The others (`search`, `adapters`, `schedules`, `nothing`,
`views_alone`) are not part of the project, since they did not pay or are comparisons.
Labels are read by the scores alone. Every run leaves one JSON file in DIR, and is not
repeated; the table is the mean and standard deviation over seeds.
"""

from __future__ import annotations

import functools

from benchmarks.common import cell, kept, make_parser, markdown, names
from benchmarks.ideas import search
from benchmarks.ideas.adapters import adapters
from benchmarks.ideas.fits import CHANGES, LATENTS, fit
from benchmarks.ideas.nothing import KINDS, from_nothing
from benchmarks.ideas.schedules import SCHEDULES, scheduled
from benchmarks.ideas.views_alone import views_alone

# Functions of a seed and a workdir.
IDEAS = {
    **{name: functools.partial(fit, changes) for name, changes in CHANGES.items()},
    **{name: functools.partial(fit, changes, config='cluster_ddpm_digits')
       for name, changes in LATENTS.items()},
    'over_clustered': search.over_clustered, 'held_out': search.held_out,
    'curriculum': search.curriculum, 'moves': search.moves,
    'denoiser_features': search.denoiser_features, 'adapters': adapters,
    **{name: functools.partial(from_nothing, *what) for name, what in KINDS.items()},
    'views_alone': views_alone,
    **{name: functools.partial(scheduled, *what) for name, what in SCHEDULES.items()}}


def table(results: dict[str, list[dict]]) -> str:
  """The Markdown table of results by idea, a list over seeds each."""
  rows = []
  for idea, runs in results.items():
    bits = [run['bound_bits_per_dim'] for run in runs if 'bound_bits_per_dim' in run]
    rows.append([idea, *(cell([run['start'][k] for run in runs]) for k in ('acc', 'nmi')),
                 *(cell([run[k] for run in runs]) for k in ('acc', 'nmi')),
                 cell(bits) if bits else '', str(len(runs))])
  return markdown(('idea', 'start ACC', 'start NMI', 'ACC', 'NMI', 'bits a dimension',
                   'seeds'), rows)


def main() -> None:
  """Measures what is missing and prints the table."""
  parser = make_parser(__doc__, seeds='0,1,2', out='runs/ideas')
  parser.add_argument('--ideas', type=names(IDEAS), default=list(IDEAS))
  args = parser.parse_args()
  print(table({idea: kept(
      args.out, idea, args.seeds,
      lambda seed, idea=idea: IDEAS[idea](seed, args.out / 'fits' / f'{idea}-{seed}'))
               for idea in args.ideas}))


if __name__ == '__main__':
  main()
