"""What the source text must keep to, checked on its syntax trees."""

import ast
import collections
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'jdiffclust'
MODULES = sorted(PACKAGE.rglob('*.py'))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
# Package -> packages it must not import.
FORBIDDEN = {
    'config': {'training', 'clustering', 'report', 'evaluation', 'networks', 'data'},
    'diffusion': {'clustering', 'training', 'data', 'networks', 'report', 'evaluation',
                  'config', 'inverse'},
    'networks': {'clustering', 'training', 'data', 'diffusion', 'report', 'evaluation',
                 'config'},
    'data': {'training', 'clustering', 'report', 'networks', 'diffusion', 'evaluation',
             'config'},
    # Restoring knows denoisers, not what they were fitted to.
    'inverse': {'training', 'clustering', 'data', 'networks', 'report', 'evaluation',
                'config'},
    'evaluation': {'training', 'clustering', 'networks', 'diffusion', 'config'},
    'report': {'training', 'clustering', 'networks', 'diffusion', 'config'},
    'clustering': {'training', 'report', 'config'},
    'training': {'report'},
}
# The modules above all packages -> who may import them.
ABOVE = {
    'main': set(),
    'estimator': {'__init__'},
    'fitted': {'main', 'outputs', 'estimator', '__init__'},
    'outputs': {'main'},
    'deciding': {'main', 'outputs'},
    'workdir': {'main', 'fitted', 'outputs', 'estimator'},
}


def imported(tree):
  """Yields the full name of everything a module imports, at any depth."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def undocumented(body, prefix=''):
  """Yields public functions, classes and methods without a docstring."""
  for node in body:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      continue
    if not node.name.startswith('_'):
      if ast.get_docstring(node) is None:
        yield prefix + node.name
      if isinstance(node, ast.ClassDef):
        yield from undocumented(node.body, f'{prefix}{node.name}.')


@pytest.mark.parametrize('path', MODULES, ids=NAMES)
def test_everything_public_is_documented(path):
  """Modules, public classes, functions and methods have docstrings."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  assert ast.get_docstring(tree), 'no module docstring'
  assert list(undocumented(tree.body)) == []


@pytest.mark.parametrize('path', MODULES, ids=NAMES)
def test_no_other_framework(path):
  """No module imports TensorFlow or PyTorch."""
  roots = {name.split('.')[0]
           for name in imported(ast.parse(path.read_text(encoding='utf-8')))}
  assert not roots & {'tensorflow', 'torch', 'torchvision', 'keras'}


@pytest.mark.parametrize('path', MODULES, ids=NAMES)
def test_dependencies_point_one_way(path):
  """Lower packages know nothing of higher ones, and nobody of main."""
  here = path.relative_to(PACKAGE).with_suffix('').parts[0]
  parts = [name.split('.') for name in imported(
      ast.parse(path.read_text(encoding='utf-8')))]
  used = {name[1] for name in parts if name[0] == 'jdiffclust' and len(name) > 1}
  assert not used & FORBIDDEN.get(here, set())
  assert [name for name in used if here not in ABOVE.get(name, {here})] == []


def test_no_two_files_of_one_name_on_different_floors():
  """A name says where to look."""
  floors = collections.defaultdict(set)
  for path in MODULES:
    floors[path.name].add(path.relative_to(PACKAGE).parts[0])
  del floors['__init__.py']
  assert {name: sorted(found) for name, found in floors.items() if len(found) > 1} == {}


def test_packages_are_all_considered():
  """A new sub-package needs a line in FORBIDDEN."""
  packages = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
  assert packages == set(FORBIDDEN)


def test_indentation_and_line_length():
  """Two spaces, lines of at most 90 characters, as pyproject.toml says."""
  for path in MODULES:
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
      assert len(line) <= 90 and '\t' not in line, f'{path}:{number}'
