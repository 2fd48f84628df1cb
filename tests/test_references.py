"""What documentation names is there: modules, functions, options, files, commands."""

import ast
import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import types

import pytest

import jdiffclust
from jdiffclust.config.options import all_options

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'jdiffclust').rglob('*.py'))
PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').glob('*.md'))]
MODULES = sorted(found.name for found in pkgutil.walk_packages(
    jdiffclust.__path__, 'jdiffclust.'))
OPTIONS = set(all_options())
SECTIONS = {name.split('.')[0] for name in OPTIONS}
FILES = ('.py', '.md', '.json', '.npy', '.csv', '.html', '.png')
DOTTED = r'`([A-Za-z_]\w*(?:\.\w+)+)`'
CLASS = r'`([A-Z][a-z]\w*)`'


def module_of(path):
  """The name of a source file's module."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def has(thing, names):
  """Whether a module or class has an attribute, that one an attribute, and so on."""
  for name in names:
    if name in getattr(thing, '__annotations__', {}):
      return True
    if not hasattr(thing, name):
      return False
    thing = getattr(thing, name)
  return True


def known(reference, home):
  """Whether a dotted name means something, also one that begins below the package."""
  parts = reference.split('.')
  if reference in OPTIONS or reference.endswith(FILES):
    return True
  if has(importlib.import_module(home), parts):
    return True
  for cut in range(len(parts), 0, -1):
    head = '.'.join(parts[:cut])
    if any(name.endswith(f'.{head}') and has(importlib.import_module(name), parts[cut:])
           for name in MODULES):
      return True
  return importlib.util.find_spec(parts[0]) is not None and has(
      importlib.import_module(parts[0]), parts[1:])


def documented(tree):
  """Yields docstrings with the names of their own arguments or attributes."""
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
      own = set()
      if isinstance(node, ast.FunctionDef):
        own = {argument.arg for argument in node.args.args + node.args.kwonlyargs}
      elif isinstance(node, ast.ClassDef):
        own = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
      yield ast.get_docstring(node) or '', own


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_what_is_there(path):
  """Each dotted name is a module, its attribute or an option; each class exists."""
  home, unknown = module_of(path), []
  classes = set().union(*(vars(importlib.import_module(name)) for name in MODULES))
  for text, own in documented(ast.parse(path.read_text(encoding='utf-8'))):
    unknown += [reference for reference in re.findall(DOTTED, text)
                if reference.split('.')[0] not in own and not known(reference, home)]
    unknown += [name for name in re.findall(CLASS, text) if name not in classes]
  assert unknown == []


def arguments(node):
  """Names of a function's arguments, as a docstring may write them."""
  found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs,
           *filter(None, (node.args.vararg, node.args.kwarg))]
  return [item.arg for item in found if item.arg not in ('self', 'cls')]


def described(text):
  """The names before the colons of the section Args of a docstring; None without one."""
  section = re.search(r'^Args:\n((?:  .*\n?|\n)*)', text, re.M)
  if section is None:
    return None
  lines = re.findall(r'^  (\S[^:\n]*?):', section[1], re.M)
  return [name.strip().lstrip('*') for line in lines for name in line.split(',')]


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_are_described(path):
  """Where a docstring has Args, they are those of the function, and all of them."""
  wrong = []
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.FunctionDef):
      found = described(ast.get_docstring(node) or '')
      if found is not None and sorted(found) != sorted(arguments(node)):
        wrong.append((node.name, found, arguments(node)))
  assert wrong == []


def methods_of(name):
  """What a name of `jdiffclust` can be called by: itself, or its public methods."""
  thing = getattr(jdiffclust, name)
  if not inspect.isclass(thing):
    return [thing] if callable(thing) else []
  return [getattr(thing, each) for each, value in vars(thing).items()
          if not each.startswith('_') and isinstance(value, (types.FunctionType,
                                                             classmethod))]


@pytest.mark.parametrize('name', jdiffclust.__all__)
def test_what_users_import_is_described(name):
  """Each function and method tells its arguments, or which other tells them."""
  untold = []
  for thing in methods_of(name):
    names = set(inspect.signature(thing).parameters) - {'self'}
    text = inspect.getdoc(thing) or ''
    if names and described(text) is None and not re.search(
        r'\b[Aa]rgs\s+and\s+raises:?\s+as\s+of\s+`', text):
      untold.append(thing.__qualname__)
  assert untold == []


def test_the_glossary_names_what_is_there():
  """The last column of each row is of options, or of names in the package."""
  text = (ROOT / 'docs' / 'glossary.md').read_text(encoding='utf-8')
  rows = [line.rstrip(' |').rpartition('|')[2] for line in text.splitlines()
          if line.startswith('| ') and 'in the code' not in line]
  named = [name for row in rows for name in re.findall('`([^`]*)`', row)]
  assert len(rows) > 40 and len(named) >= len(rows)
  assert [name for name in named if not known(name, 'jdiffclust.main')] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
  """To files of the project, and headings of its pages."""
  lost = []
  for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
    if not target.startswith('http'):
      path, _, heading = target.partition('#')
      there = page.parent / path if path else page
      if not there.exists() or heading and heading not in headings(there):
        lost.append(target)
  assert lost == []


def headings(page):
  """The anchors of a page's headings, as GitHub and the site name them."""
  text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
  return {re.sub(r'[^\w\- ]', '', line.lower()).replace(' ', '-')
          for line in re.findall(r'^#+ (.*)$', text, re.M)}


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_pages_name_what_is_there(page):
  """Options, files of the project and commands of the benchmarks."""
  text, unknown = page.read_text(encoding='utf-8'), []
  for reference in re.findall(r'`(?:(?:--)?config\.)?([a-z_]+\.[a-z_]+)(?==|`)', text):
    if reference.split('.')[0] in SECTIONS and not reference.endswith(FILES):
      unknown += [] if reference in OPTIONS else [reference]
  for name in re.findall(r'-m (benchmarks[\w.]*)', text):
    path = ROOT / name.replace('.', '/')
    unknown += [] if path.with_suffix('.py').exists() or (
        path / '__main__.py').exists() else [name]
  for name in re.findall(r'`((?:jdiffclust|benchmarks|configs)/[\w/]*\.\w+)`', text):
    unknown += [] if (ROOT / name).exists() else [name]
  assert unknown == []


def test_the_patterns_find_what_is_wrong():
  """They see a reference that leads nowhere, and accept one that leads somewhere."""
  assert known('config.options.all_options', 'jdiffclust.main')
  assert known('bound.terms.DrawTerms.error', 'jdiffclust.main')
  assert known('start.kind', 'jdiffclust.main')
  assert not known('bound.terms.missing', 'jdiffclust.main')
  assert not known('clustering.mixture.responsibilities', 'jdiffclust.main')
  assert re.findall(DOTTED, 'see `a.b` and `c`') == ['a.b']
  assert described('One.\n\nArgs:\n  a, b: two.\n  **c: more: of it.') == ['a', 'b', 'c']
  assert described('One.') is None


def test_one_version():
  """That of the package is the one to cite, and the first of the changelog."""
  read = lambda name: (ROOT / name).read_text(encoding='utf-8')
  assert f'\nversion: {jdiffclust.__version__}\n' in read('CITATION.cff')
  assert re.search(r'^## ([\d.]+)', read('CHANGELOG.md'), re.M)[1] == (
      jdiffclust.__version__)


@functools.cache
def functions_of(path):
  """The names of all functions of a file."""
  return [node.name for node in ast.walk(ast.parse((ROOT / path).read_text('utf-8')))
          if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize('line', re.findall(
    '^tests.*', (ROOT / 'tests' / 'slow.txt').read_text('utf-8'), re.M))
def test_slow_tests_are_there(line):
  """A line that names no test any more would say nothing."""
  path, _, name = line.partition('::')
  # Those of chex's classes are made of methods: test_x__with_jit of test_x.
  function = name.rpartition('::')[2].partition('[')[0].partition('__')[0]
  assert function in ['', *functions_of(path)]
