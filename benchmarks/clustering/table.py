"""The table: means and standard deviations over seeds, as Markdown, JSON and bars."""

from __future__ import annotations

import math
import statistics

import numpy as np

from benchmarks import common
from benchmarks.clustering.methods import provenance
from benchmarks.common import DATASETS, SCORES, plus_minus, spread


def summarise(results: dict[int, dict | None]) -> dict:
  """A method on a data set over its seeds.

  Args:
    results: by seed; None where it was not run.

  Returns:
    Mean and sd of each score, medians of the times, the mean smallest cluster; for ours
    those of the start and of the gain over it; the seeds that count, those that failed
    (with the reason) and those not run, and those of other
    settings than today's.
  """
  done = [r for r in results.values() if r and 'error' not in r]
  median = lambda key: statistics.median(r[key] for r in done) if done else None
  row = {score: spread([r[score] for r in done]) for score in SCORES}
  row |= {'seconds': median('seconds'), 'cpu_seconds': median('cpu_seconds'),
          'smallest_cluster': spread([r['smallest_cluster'] for r in done])['mean'],
          'seeds': [seed for seed, r in results.items() if r and 'error' not in r],
          'failed': {seed: r['error'] for seed, r in results.items()
                     if r and 'error' in r},
          'not_run': [seed for seed, r in results.items() if r is None],
          'other_settings': [seed for seed, r in results.items()
                             if r and 'other_settings' in r]}
  if done and all('start' in r for r in done):
    row['start'] = {s: spread([r['start'][s] for r in done]) for s in SCORES}
    row['gain'] = {s: spread([r[s] - r['start'][s] for r in done]) for s in SCORES}
  return row


def markdown(table: dict[str, dict[str, dict]], threads: int) -> str:
  """The table as Markdown.

  Args:
    table: `summarise` by method by data set.
    threads: of every run.
  """
  number = lambda value: '–' if value is None else f'{value:,.0f}'
  lines = []
  for dataset, results in table.items():
    rows, own, notes = [], [], []
    for method, row in results.items():
      counts = [len(row[key]) for key in ('seeds', 'failed', 'not_run')]
      rows.append([
          method, *(plus_minus(row[score]) for score in SCORES), number(row['seconds']),
          number(row['cpu_seconds']), number(row['smallest_cluster']),
          f'{counts[0]} of {sum(counts)}'])
      for reason in dict.fromkeys(row['failed'].values()):
        seeds = [seed for seed, error in row['failed'].items() if error == reason]
        notes.append(f'- {method} failed, {seeds_text(seeds)}: {reason}')
      if row['not_run']:
        notes.append(f"- {method} not run yet, {seeds_text(row['not_run'])}")
      if row['other_settings']:
        notes.append(f"- {method} of other settings than today's, "
                     f"{seeds_text(row['other_settings'])}")
      if 'start' in row:
        own.append([method] + [cell for s in SCORES for cell in (
            plus_minus(row['start'][s]), plus_minus(row[s]),
            plus_minus(row['gain'][s], '+.3f'))])
    lines += [f'### {dataset}: {DATASETS[dataset]}', '', common.markdown(
        ('method', 'ACC', 'NMI', 'ARI', 'seconds', 'CPU seconds', 'smallest cluster',
         'runs'), rows)]
    if own:
      lines += ['', common.markdown(
          ['ours', *(f'{s.upper()} {what}' for s in SCORES
                     for what in ('start', 'end', 'gain'))], own)]
    lines += ['', *notes, ''] if notes else ['']
  methods = dict.fromkeys(
      method for results in table.values() for method in results)
  lines += ['Settings, of peers the same for all data sets; labels are read by the '
            'scores alone:', '',
            *(f'- {method}: {provenance(method)}' for method in methods), '',
            'Mean ± standard deviation over seeds, none left out but those named; median '
            f'of the times, {threads} thread(s) each. Other work on the machine slows '
            'the clock, and less the CPU seconds.']
  return '\n'.join(lines)


def seeds_text(seeds: list[int]) -> str:
  """'seed 3', or 'seeds 0, 1'."""
  return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def draw(table: dict[str, dict[str, dict]]):
  """Bars of ACC and NMI with their standard deviations, a panel a data set.

  What has not been run yet is left out; what has failed is named.
  """
  from matplotlib.figure import Figure
  run = {dataset: {method: row for method, row in methods.items()
                   if row['seeds'] or row['failed']}
         for dataset, methods in table.items()}
  table = {dataset: methods for dataset, methods in run.items() if methods}
  if not table:
    return Figure()
  columns = min(2, len(table))
  rows = math.ceil(len(table) / columns)
  tallest = max(len(methods) for methods in table.values())
  figure = Figure(figsize=(5.2 * columns, rows * (1 + .34 * tallest)), dpi=150,
                  layout='constrained')
  panels = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes, (dataset, methods) in zip(panels, table.items()):
    places = np.arange(len(methods))
    for offset, score, colour in ((-.2, 'acc', '#1f6f9f'), (.2, 'nmi', '#e07a1f')):
      known = [(place, row[score]) for place, row in zip(places, methods.values())
               if row['seeds']]
      axes.barh([place + offset for place, _ in known], [v['mean'] for _, v in known],
                height=.38, xerr=[v['sd'] or 0 for _, v in known], color=colour,
                ecolor='#1f2933', error_kw={'linewidth': .8}, label=score.upper())
    for place, row in zip(places, methods.values()):
      if not row['seeds']:
        axes.text(.01, place, 'no result', fontsize=7, va='center')
    axes.set_yticks(places, list(methods), fontsize=8)
    axes.tick_params(axis='x', labelsize=8)
    axes.set_ylim(-.6, len(methods) - .4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis='x', linewidth=.4)
    axes.set_axisbelow(True)
    axes.set_title(DATASETS[dataset], fontsize=9)
    axes.spines[['top', 'right']].set_visible(False)
  for axes in panels[len(table):]:
    axes.set_axis_off()
  figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, frameon=False,
                ncols=2, loc='outside upper right')
  return figure
