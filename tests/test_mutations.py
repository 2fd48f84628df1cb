"""The changes of `benchmarks.mutations`, on a few lines of code."""

import ast
import builtins

import numpy as np

from benchmarks import mutations

SOURCE = b'''"""A module."""
from __future__ import annotations
import numpy as np
WIDE = 3


def f(x, y, *, steps=2):
  """Twice `x`, or so."""
  x = np.abs(x)
  if x < 2 and y is not None:
    x += 1.5
  elif not y:
    raise ValueError(f'{y} is {2}')
  g(x, y)
  return np.sum(-x[1:] * y, axis=0)
'''


def changed_lines():
  """Each line as it is after each change."""
  found = []
  for change in mutations.Finder('f.py', SOURCE).found:
    new = mutations.changed(SOURCE, change).decode().splitlines()
    old = SOURCE.decode().splitlines()
    ast.parse('\n'.join(new))
    (number, line), = [(i, b) for i, (a, b) in enumerate(zip(old, new), 1) if a != b]
    assert number == change.line
    found.append((line.strip(), change.lines))
  return found


def test_changes_by_hand():
  """All of them, and the statements by which tests see them; none of texts and errors."""
  whole = 'return np.sum(-x[1:] * y, axis=0)'
  wanted = [
      *((f'WIDE = {value}', ()) for value in (4, 2)),
      *((f'def f(x, y, *, steps={value}):', (8, 9, 10, 14, 15)) for value in (3, 1)),
      *((line, (9,)) for line in ('x = (x)',)),
      *((f'if {test}:', (10,)) for test in (
          'not (x < 2 and y is not None)', 'x < 2 or y is not None',
          'x <= 2 and y is not None', 'x < 3 and y is not None',
          'x < 1 and y is not None', 'x < 2 and y is None')),
      *((line, (11,)) for line in ('pass', 'x -= 1.5', 'x += 3.0')),
      *((f'elif {test}:', (12,)) for test in ('not (not y)', '(y)')),
      *((line, (14,)) for line in ('pass', 'g(y, x)')),
      *((whole.replace(old, new), (15,)) for old, new in (
          ('-x[1:]', '(x[1:])'), ('x[1:]', '(x)'), ('[1:]', '[2:]'), ('[1:]', '[0:]'),
          (' * ', ' / '), ('sum', 'mean'), ('axis=0', 'axis=1'), ('axis=0', 'axis=1')))]
  assert sorted(changed_lines()) == sorted(wanted)


def test_draws_begin_alike():
  """More changes of a seed are the fewer and others; another seed, other changes."""
  few, many = (mutations.drawn(['training'], number, 3) for number in (5, 9))
  assert many[:5] == few and len(set(many)) == 9
  assert mutations.drawn(['training'], 5, 4) != few


def test_notes_tell_which_statements_ran(monkeypatch):
  """Of functions, without those of the way not taken; and the function is as it was."""
  noted = {}
  monkeypatch.setattr(builtins, 'seen_lines', noted, raising=False)
  names = {'g': lambda *_: None}
  exec(mutations.with_notes('f.py', SOURCE), names)
  assert noted == {'f.py': set()}
  assert names['f'].__doc__ == 'Twice `x`, or so.'
  assert names['f'](np.array([1.]), 1.) == 0
  assert noted == {'f.py': {9, 10, 11, 14, 15}}
