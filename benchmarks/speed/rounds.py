"""Fresh processes in turn, so that what else the machine does slows all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping


def alternate(module: str, names: Iterable[str], options: Mapping[str, object],
              rounds: int, environment: Mapping[str, str]) -> dict[str, dict[str, float]]:
  """Medians of what processes measure.

  Args:
    module: `python -m MODULE --child=NAME --OPTION=VALUE ...` measures: its last line is
      JSON, numbers by name.
    names: of what is measured.
    options: of the command line.
    rounds: how often each is measured.
    environment: variables of the environment that are set.

  Returns:
    {name: {number's name: median over the rounds}}.
  """
  found = {name: [] for name in names}
  environment = {**os.environ, **environment}
  for _ in range(rounds):
    for name, runs in found.items():
      done = subprocess.run(
          [sys.executable, '-m', module, f'--child={name}',
           *(f'--{option}={value}' for option, value in options.items())],
          check=True, stdout=subprocess.PIPE, text=True, env=environment)
      runs.append(json.loads(done.stdout.splitlines()[-1]))
  return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
          for name, runs in found.items()}
