"""What several files of tests ask of a run or of a mistake."""

import csv
import json

import pytest

from jdiffclust.errors import UserError


def summary_of(workdir) -> dict:
  """The content of summary.json."""
  return json.loads((workdir / 'summary.json').read_bytes())


def metrics_of(workdir) -> list[dict]:
  """The lines of metrics.jsonl."""
  return [json.loads(line) for line in open(workdir / 'metrics.jsonl', encoding='utf-8')]


def predicted(workdir) -> list[int]:
  """The clusters of predictions.csv."""
  with open(workdir / 'predictions.csv', encoding='utf-8', newline='') as file:
    return [int(row['cluster']) for row in csv.DictReader(file)]


def check_error(outcome, *fragments) -> None:
  """Asserts exit code 2 and an error line with the fragments."""
  assert outcome.code == 2 and 'Traceback' not in outcome.err
  line = outcome.err.splitlines()[-1]
  assert line.startswith('error: ')
  for fragment in fragments:
    assert fragment in line, line


def refused(function, *args, **kwargs) -> str:
  """The one line that a mistake is answered with."""
  with pytest.raises(UserError) as caught:
    function(*args, **kwargs)
  message = str(caught.value)
  assert '\n' not in message and message
  return message
