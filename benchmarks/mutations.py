"""How much do the tests see? Single changes to the package, and which of them live.

  python -m benchmarks.mutations [--number=300] [--seed=0] [--rooms=diffusion,...]
      [--seconds=120] [--again=survived] [--table-only] [--out=DIR]

Question:  of NUMBER changes drawn at random from all that `Finder` finds in ROOMS, how
           many does no test notice, and where?
Time:      first the suite once, file by file, which tells the lines that each file of
           tests runs; then 10 to 30 seconds a change, and up to SECONDS of tests for one
           that lives. Any run may be cut: it goes on where it was.
           A file of tests that was changed is run again; after a change of the package
           remove DIR/lines.
Kept:      docs/benchmarks.md, How much the tests see; results/mutations.json.

A change is made in a copy of the project in DIR, never here, and taken back afterwards.
Then run the files of tests in ROOMS that see its statement; those of its own room first,
the quick before the slow, until one fails; and no more than take SECONDS: then the result
says how many were left out. A change `survived` if all pass; a run that takes four times
as long as without it, and a minute, has `hung`, which is noticed too. Some changes change
nothing that anybody could see, such as `<` for `<=` where nothing is equal: who looks at
the survivors writes why into results/mutations.json, under `equivalent`.
"""

from __future__ import annotations

import ast
import builtins
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from typing import NamedTuple

from benchmarks.common import ROOT, make_parser, markdown, names, read_json, write_json

ROOMS = ('diffusion', 'clustering', 'training', 'data', 'evaluation', 'networks')
PACKAGE = 'jdiffclust'
# Quick tests that are of no room; the slow ones would be left out of nearly every run.
OF_ALL_ROOMS = ('test_streams.py', 'test_registry.py')
VERDICTS = ROOT / 'benchmarks' / 'results' / 'mutations.json'
LEFT_BEHIND = ('.git', '.venv', 'runs', '__pycache__', '.hypothesis', '.pytest_cache',
               '*.egg-info')
COMPARISONS = {ast.Lt: '<=', ast.LtE: '<', ast.Gt: '>=', ast.GtE: '>', ast.Eq: '!=',
               ast.NotEq: '==', ast.Is: 'is not', ast.IsNot: 'is', ast.In: 'not in',
               ast.NotIn: 'in'}
OPERATORS = {ast.Add: '-', ast.Sub: '+', ast.Mult: '/', ast.Div: '*', ast.FloorDiv: '*',
             ast.Mod: '*', ast.Pow: '*', ast.BitAnd: '|', ast.BitOr: '&'}
FUNCTIONS = {'sum': 'mean', 'mean': 'sum', 'min': 'max', 'max': 'min',
             'minimum': 'maximum', 'maximum': 'minimum', 'argmin': 'argmax',
             'argmax': 'argmin', 'any': 'all', 'all': 'any', 'pmean': 'psum'}
# Calls in whose place their first argument is put.
WRAPPERS = ('stop_gradient', 'fold_in', 'sqrt', 'abs', 'exp', 'log', 'square',
            'log_softmax', 'clamp', 'key_apart', 'astype')


class Change(NamedTuple):
  """A piece of a file, and what stands there instead.

  Attributes:
    path: of the file, from the root of the project.
    kind: of change.
    start, end: of the piece, in bytes.
    text: the new one.
    line: its first line.
    lines: of its statement, by which tests see it; none: all of the module.
  """

  path: str
  kind: str
  start: int
  end: int
  text: str
  line: int
  lines: tuple[int, ...]


# --------------------------------------------------------------------- what is changed


class Finder:
  """Finds the changes to one file."""

  def __init__(self, path: str, source: bytes):
    """Reads the file; `found` has its changes."""
    self._path, self._source, self.found = path, source, []
    starts = [0]
    for line in source.splitlines(keepends=True):
      starts.append(starts[-1] + len(line))
    self._starts = starts
    self._body(ast.parse(source).body, inside=False)

  def _place(self, node) -> tuple[int, int]:
    return (self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset)

  def _text(self, node) -> str:
    start, end = self._place(node)
    return self._source[start:end].decode()

  def _add(self, kind, node, text, lines):
    start, end = self._place(node)
    self.found.append(Change(self._path, kind, start, end, text, node.lineno, lines))

  def _between(self, kind, left, right, old, new, lines):
    """The operator between two operands."""
    start, end = self._place(left)[1], self._place(right)[0]
    gap = self._source[start:end].decode()
    if gap.count(old) == 1:
      self.found.append(Change(self._path, kind, start, end, gap.replace(old, new),
                               left.end_lineno, lines))

  def _body(self, statements, inside):
    known = set()  # names that a dropped assignment would leave as they were
    for statement in statements:
      self._statement(statement, inside, known)
      for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
          known.add(node.id)

  def _statement(self, node, inside, known):
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.Pass, ast.Assert,
                         ast.Global, ast.Nonlocal)):
      return
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      if isinstance(node, ast.FunctionDef):
        lines = tuple(statement.lineno for statement in node.body)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
          self._expression(default, lines)
        self._body(node.body, True)
      else:
        self._body(node.body, inside)
      return
    inner = [getattr(node, name, None) or [] for name in ('body', 'orelse', 'finalbody')]
    if any(inner):
      heads = [child for child in ast.iter_child_nodes(node)
               if isinstance(child, (ast.expr, ast.withitem))]
      for head in heads:
        expression = head.context_expr if isinstance(head, ast.withitem) else head
        lines = (node.lineno,) if inside else ()
        if isinstance(node, ast.If):
          self._add('condition', head, f'not ({self._text(head)})', lines)
        self._expression(expression, lines)
      for part in (*inner, *(handler.body for handler in getattr(node, 'handlers', ()))):
        self._body(part, inside)
      return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
      return  # a docstring
    lines = (node.lineno,) if inside else ()
    again = (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
             and node.targets[0].id in known)
    if isinstance(node, (ast.Expr, ast.AugAssign, ast.Delete)) or again:
      self._add('statement dropped', node, 'pass', lines)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
      old = self._source[self._place(node.target)[1]:self._place(node.value)[0]].decode()
      sign = old.strip().rstrip('=')
      self._between('operator', node.target, node.value, sign, OPERATORS[type(node.op)],
                    lines)
    value = getattr(node, 'value', None)
    if value is not None:
      self._expression(value, lines)

  def _expression(self, node, lines):
    if isinstance(node, (ast.JoinedStr, ast.Constant)) and not (
        isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))):
      return
    method = f'_{type(node).__name__.lower()}'
    getattr(self, method, lambda *_: None)(node, lines)
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.comprehension):
        for part in (child.iter, *child.ifs):
          self._expression(part, lines)
      elif isinstance(child, ast.keyword):
        self._expression(child.value, lines)
      elif isinstance(child, ast.arguments):
        for default in child.defaults:
          self._expression(default, lines)
      elif isinstance(child, ast.expr):
        self._expression(child, lines)

  def _constant(self, node, lines):
    value = node.value
    if isinstance(value, bool):
      self._add('constant', node, str(not value), lines)
    elif isinstance(value, int):
      self._add('constant', node, str(value + 1), lines)
      if value > 0:
        self._add('constant', node, str(value - 1), lines)
    else:
      self._add('constant', node, repr(2 * value if value else 1.), lines)

  def _compare(self, node, lines):
    if len(node.ops) == 1:
      old = {ast.Is: 'is', ast.IsNot: 'is not', ast.In: 'in', ast.NotIn: 'not in',
             ast.Lt: '<', ast.LtE: '<=', ast.Gt: '>', ast.GtE: '>=', ast.Eq: '==',
             ast.NotEq: '!='}[type(node.ops[0])]
      self._between('comparison', node.left, node.comparators[0], old,
                    COMPARISONS[type(node.ops[0])], lines)

  def _binop(self, node, lines):
    signs = {ast.Add: '+', ast.Sub: '-', ast.Mult: '*', ast.Div: '/', ast.FloorDiv: '//',
             ast.Mod: '%', ast.Pow: '**', ast.BitAnd: '&', ast.BitOr: '|'}
    # Text is joined and formatted by operators, too.
    if type(node.op) in signs and not any(
        isinstance(side, ast.JoinedStr) or isinstance(side, ast.Constant)
        and isinstance(side.value, str) for side in (node.left, node.right)):
      self._between('operator', node.left, node.right, signs[type(node.op)],
                    OPERATORS[type(node.op)], lines)

  def _boolop(self, node, lines):
    old, new = ('and', 'or') if isinstance(node.op, ast.And) else ('or', 'and')
    self._between('condition', node.values[0], node.values[1], old, new, lines)

  def _unaryop(self, node, lines):
    if not isinstance(node.op, ast.UAdd):
      self._add('sign or negation dropped', node, f'({self._text(node.operand)})', lines)

  def _ifexp(self, node, lines):
    self._add('condition', node.test, f'not ({self._text(node.test)})', lines)

  def _subscript(self, node, lines):
    if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
      self._add('slice dropped', node, f'({self._text(node.value)})', lines)

  def _call(self, node, lines):
    name = (node.func.attr if isinstance(node.func, ast.Attribute)
            else getattr(node.func, 'id', ''))
    if name in FUNCTIONS and isinstance(node.func, ast.Attribute):
      self._add('function', node.func,
                f'{self._text(node.func.value)}.{FUNCTIONS[name]}', lines)
    if name in WRAPPERS and node.args:
      inner = node.func.value if name == 'astype' else node.args[0]
      self._add(f'{name} dropped', node, f'({self._text(inner)})', lines)
    plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
    for one, other in zip(plain, plain[1:]):
      if type(one) is type(other) and self._text(one) != self._text(other):
        start, middle = self._place(one)
        gap = self._source[middle:self._place(other)[0]].decode()
        self.found.append(Change(
            self._path, 'arguments swapped', start, self._place(other)[1],
            self._text(other) + gap + self._text(one), one.lineno, lines))
    for keyword in node.keywords:
      if keyword.arg == 'axis' and isinstance(keyword.value, ast.Constant):
        other = {0: '1', 1: '0', 2: '1', 3: '2'}.get(keyword.value.value)
        if other:
          self._add('axis', keyword.value, other, lines)


def changed(source: bytes, change: Change) -> bytes:
  """The file after a change."""
  return source[:change.start] + change.text.encode() + source[change.end:]


def drawn(rooms: list[str], number: int, seed: int) -> list[Change]:
  """A random sample of all changes; that of a larger number begins with it."""
  sources = {path.relative_to(ROOT).as_posix(): path.read_bytes() for room in rooms
             for path in sorted((ROOT / PACKAGE / room).rglob('*.py'))}
  every = [change for path, source in sources.items()
           for change in Finder(path, source).found]
  random.Random(seed).shuffle(every)
  result = []
  for change in every:
    if len(result) == number:
      break
    try:  # swapped arguments may not, if one is a generator
      ast.parse(changed(sources[change.path], change))
    except SyntaxError:
      continue
    result.append(change)
  return result


# ------------------------------------------------------------------ which tests see what


def noted(statements: list, inside: bool = False) -> list:
  """Statements, those of functions each after a call of `_seen` with their line."""
  result = []
  for node in statements:
    if inside and not (isinstance(node, ast.Expr)
                       and isinstance(node.value, ast.Constant)):  # a docstring is first
      result += ast.parse(f'_seen({node.lineno})').body
    deeper = inside or isinstance(node, ast.FunctionDef)
    for part in (node, *getattr(node, 'handlers', ())):
      for name in ('body', 'orelse', 'finalbody'):
        if isinstance(getattr(part, name, None), list):
          setattr(part, name, noted(getattr(part, name), deeper))
    result.append(node)
  return result


def with_notes(path: str, source: bytes) -> str:
  """A file of the package that notes its lines in `builtins.seen_lines`, if there is."""
  tree = ast.parse(source)
  begin = sum(isinstance(node, ast.ImportFrom) and node.module == '__future__'
              or isinstance(node, ast.Expr) for node in tree.body[:2])
  tree.body = [*tree.body[:begin], *ast.parse(
      'import builtins as _builtins\n'
      f"_seen = getattr(_builtins, 'seen_lines', {{}}).setdefault('{path}', set()).add"
      ).body, *noted(tree.body[begin:])]
  return ast.unparse(ast.fix_missing_locations(tree))


def trace(tests: str, out: str) -> None:
  """Runs a file of tests, and writes which lines it has noted, and its time."""
  import pytest
  began = time.perf_counter()
  code = pytest.main(['-q', '-p', 'no:cacheprovider', tests])
  lines = {name: sorted(of) for name, of in builtins.seen_lines.items() if of}
  write_json(pathlib.Path(out), {
      'code': int(code), 'seconds': time.perf_counter() - began, 'lines': lines})


class Tests:
  """The files of tests, in a copy of the project that may be changed."""

  def __init__(self, out: pathlib.Path, rooms: list[str], budget: float):
    """Makes the copy and, unless it is there, the map from tests to lines."""
    self._out, self._budget, self.copy = out, budget, out / 'copy'
    shutil.rmtree(self.copy, ignore_errors=True)
    shutil.copytree(ROOT, self.copy, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    self._known = {}
    sources = {path: path.read_bytes()
               for path in (self.copy / PACKAGE).rglob('*.py')}
    for path, source in sources.items():
      path.write_text(with_notes(path.relative_to(self.copy).as_posix(), source),
                      encoding='utf-8')
    folder = self.copy / 'tests'
    found = [*(folder / name for name in OF_ALL_ROOMS),
             *(path for room in rooms for path in (folder / room).rglob('test_*.py'))]
    for path in sorted(found):
      tests = path.relative_to(self.copy).as_posix()
      version = zlib.crc32(path.read_bytes())
      kept = out / 'lines' / f"{tests.replace('/', '.')}-{version:08x}.json"
      if not kept.exists():
        self._run(['-c', 'import builtins; builtins.seen_lines = {}; '  # then the package
                   'from benchmarks.mutations import trace; '
                   f'trace({tests!r}, {str(kept)!r})'])
      self._known[tests] = read_json(kept)
      if self._known[tests]['code']:
        print(f'{tests} fails unchanged, and is left out', file=sys.stderr)
        del self._known[tests]
    for path, source in sources.items():
      path.write_bytes(source)
      shutil.rmtree(path.parent / '__pycache__', ignore_errors=True)

  def _run(self, arguments, timeout=None) -> tuple[int | None, str]:
    """Exit code, None for a timeout, and output of a run of Python."""
    environment = os.environ | {
        'PYTHONPATH': str(self.copy), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_COMPILATION_CACHE_DIR': str(self._out / 'compiled'),
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=self.copy, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
      output, _ = process.communicate(timeout=timeout)
      return process.returncode, output
    except subprocess.TimeoutExpired:
      return None, ''
    finally:
      try:  # what it has started, too
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()

  def seeing(self, change: Change) -> list[str]:
    """The files of tests that run lines of a change, the likeliest to notice it first."""
    def sees(known):
      lines = known['lines'].get(change.path, [])
      return bool(set(lines) & set(change.lines) if change.lines else lines)

    room = change.path.split('/')[1]
    order = lambda tests: (f'/{room}/' not in tests, self._known[tests]['seconds'])
    return sorted((tests for tests, known in self._known.items() if sees(known)),
                  key=order)

  def verdict(self, change: Change) -> dict:
    """Whether a test notices a change."""
    seeing = self.seeing(change)
    chosen, left = [], self._budget
    for tests in seeing:
      if self._known[tests]['seconds'] <= left:
        chosen.append(tests)
        left -= self._known[tests]['seconds']
    path = self.copy / change.path
    source = path.read_bytes()
    status, by, began = 'survived', '', time.perf_counter()
    try:
      path.write_bytes(changed(source, change))
      # Apart: pytest would run the slow ones first.
      slow = [tests for tests in chosen if tests.startswith('tests/training/')]
      for group in ([tests for tests in chosen if tests not in slow], slow):
        if group and status == 'survived':
          shutil.rmtree(path.parent / '__pycache__', ignore_errors=True)
          limit = 60 + 4 * sum(self._known[tests]['seconds'] for tests in group)
          code, output = self._run(['-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider',
                                    '--tb=no', *group], limit)
          if code is None:
            status = 'hung'
          elif code:
            status = 'killed'
            by = next((line.split()[1] for line in output.splitlines()
                       if line.startswith(('FAILED', 'ERROR'))), f'exit code {code}')
    finally:
      path.write_bytes(source)
    return {'status': status, 'by': by, 'tests': len(chosen),
            'left_out': len(seeing) - len(chosen),
            'seconds': round(time.perf_counter() - began)}


# ------------------------------------------------------------------------------ results


def described(change: Change) -> dict:
  """A change as it is kept: what names it, and what it does."""
  source = (ROOT / change.path).read_bytes()
  shown = lambda text: ' '.join(text.split())
  begin = source.rfind(b'\n', 0, change.start) + 1
  return {'path': change.path, 'line': change.line, 'column': change.start - begin,
          'kind': change.kind,
          'before': shown(source[change.start:change.end].decode()),
          'after': shown(change.text),
          'source': shown(source.splitlines()[change.line - 1].decode())}


def name_of(result: dict) -> str:
  """What a result is known by, wherever its line may move to."""
  return ' | '.join(str(result[part]) for part in (
      'path', 'source', 'column', 'before', 'after'))


def read_results(path: pathlib.Path) -> dict[str, dict]:
  """The results so far by name; of two the later."""
  if not path.exists():
    return {}
  lines = path.read_text(encoding='utf-8').splitlines()
  return {name_of(result): result for result in map(json.loads, lines)}


def report(results: list[dict], equivalent: dict[str, str]) -> str:
  """Changes by file and what became of them, and the survivors."""
  table, alive = collections.defaultdict(collections.Counter), []
  for result in results:
    status = result['status']
    if status == 'survived' and name_of(result) in equivalent:
      status = 'equivalent'
    elif status == 'survived':
      alive.append(result)
    for row in (result['path'].removeprefix(f'{PACKAGE}/'), 'all'):
      table[row][status] += 1
  columns = ('killed', 'hung', 'equivalent', 'removed', 'survived')

  def cells(file):
    counts = table[file]
    noticed = counts['killed'] + counts['hung']
    real = noticed + counts['survived']
    return [file, str(counts.total()), *(str(counts[column]) for column in columns),
            f'{noticed / real:.0%}' if real else '–']

  files = [*sorted(file for file in table if file != 'all'), 'all']
  lines = [markdown(('file', 'changes', *columns, 'noticed'), map(cells, files))]
  for result in alive:
    lines.append(f"{result['path']}:{result['line']} ({result['kind']}) "
                 f"`{result['source']}`: {result['before']} -> {result['after']}"
                 + f" ({result['left_out']} files of tests left out)"
                 * bool(result['left_out']))
  return '\n'.join(lines)


def main() -> None:
  """Runs the command."""
  parser = make_parser(__doc__, out='runs/mutations')
  parser.add_argument('--number', type=int, default=300)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--rooms', type=names(ROOMS), default=','.join(ROOMS[:3]))
  parser.add_argument('--seconds', type=float, default=120)
  parser.add_argument('--again', default='', choices=('', 'survived', 'hung'))
  parser.add_argument('--table-only', action='store_true')
  options = parser.parse_args()
  path = options.out / 'results.jsonl'
  known = read_results(path)
  if not options.table_only:
    tests = Tests(options.out, options.rooms, options.seconds)
    for number, change in enumerate(drawn(options.rooms, options.number, options.seed)):
      result = described(change)
      before = known.get(name_of(result))
      if before is None or before['status'] == options.again:
        result |= tests.verdict(change)
        known[name_of(result)] = result
        with open(path, 'a', encoding='utf-8') as file:
          file.write(json.dumps(result) + '\n')
        print(f"{number + 1}/{options.number}: {result['status']} in "
              f"{result['seconds']} s, {result['path']}:{result['line']}",
              file=sys.stderr)
  print(report(list(known.values()), (read_json(VERDICTS) or {}).get('equivalent', {})))


if __name__ == '__main__':
  main()
