"""The examples of docs/ and the README run, or are understood, and the site is built."""

import copy
import functools
import importlib.util
import pathlib
import re
import shlex
import sys
import zlib
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import jdiffclust
from jdiffclust import main
from jdiffclust.config import to_json
from tests.command import Forked
from tests.tiny import SHARED, SMALL, TINY_NETWORKS, Small

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / 'docs').glob('*.md'))
EXAMPLES = [(path.name, number, code) for path in DOCS for number, code in enumerate(
    re.findall(r'```python\n(.*?)```', path.read_text(encoding='utf-8'), re.S))]


BUILD = functools.partial(SHARED, TINY_NETWORKS)


@pytest.fixture(scope='module')
def given():
  """What pages speak of without making it: images [60, 8, 8], a config and a fit."""
  images, config = datasets.load_digits().images[:60], tiny_config()
  config.num_clusters = 3
  with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
    fitted = jdiffclust.fit(config, images, build=BUILD)
  return {'images': images, 'config': config, 'fitted': fitted}


class Quick(Small):
  """The estimator whose options, but for those that are given, are those of tiny fits."""

  def __init__(self, n_clusters=10, config=None, **arguments):
    config = SMALL | config if isinstance(config, dict) else config
    super().__init__(n_clusters, config=config, **arguments)


def quick_fit(config, *given, fit=jdiffclust.fit, **more):
  """`jdiffclust.fit`, as small as all tiny fits."""
  config = copy.deepcopy(config)
  config.update_from_flattened_dict(SMALL)
  return fit(config, *given, build=BUILD, **more)


def with_tiny_networks():
  """`jdiffclust` whose fits take no time."""
  return mock.patch.multiple(
      jdiffclust, create=True, DiffusionClustering=Quick, fit=quick_fit,
      load=functools.partial(jdiffclust.load, build=BUILD))


@pytest.mark.parametrize('name, number, code', EXAMPLES,
                         ids=[f'{name}-{number}' for name, number, _ in EXAMPLES])
def test_example_runs(name, number, code, given):
  """With what a user has, promotion of ranks allowed, but for the networks."""
  program = compile(code, f'{name}, example {number}', 'exec')
  with (jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'),
        with_tiny_networks()):
    exec(program, dict(given))


COMMANDS = sorted({
    (path.name, ' '.join(line.replace('\\\n', ' ').split()))
    for path in [ROOT / 'README.md', *DOCS]
    for language, block in re.findall(r'^```(.*?)\n(.*?)^```$',
                                      path.read_text(encoding='utf-8'), re.M | re.S)
    for line in re.split(r'(?<!\\)\n', block) if not language and 'jdiffclust' in line})


@pytest.fixture(scope='module')
def fitted_folder(tmp_path_factory):
  """A folder with the config of a fit of a folder of images, which commands ask for."""
  folder = tmp_path_factory.mktemp('run')
  (folder / 'images').mkdir()
  for number in range(8):
    pixels = np.full((8, 8), 30 * number, np.uint8)
    Image.fromarray(pixels).save(folder / 'images' / f'{number}.png')
  config = jdiffclust.default_config()
  config.data.source, config.data.path, config.num_clusters = 'folder', 'images', 5
  (folder / 'config.json').write_text(to_json(config), encoding='utf-8')
  return folder


@pytest.mark.parametrize('name, command', COMMANDS)
def test_command_is_understood(name, command, fitted_folder):
  """Its flags, options and values, and that the mode reads them; nothing is run."""
  del name
  words = shlex.split(command, comments=True)
  names = [pathlib.PurePath(word).name for word in words]
  words = words[names.index('jdiffclust.main' if '-m' in words else 'jdiffclust'):]
  fits = not any(word.startswith('--mode') for word in words)
  given = {'--workdir': f'--workdir={fitted_folder}'} if not fits else {}
  main.parse([words[0], *(
      given.get(word.partition('=')[0], word) if word.startswith('-')
      else str(fitted_folder / 'images') for word in words[1:])])


def test_there_are_examples():
  """The patterns find some."""
  assert len(EXAMPLES) > 8 and len(COMMANDS) > 20


def build_site(arguments):
  """Runs Sphinx, and ends the process."""
  from sphinx.cmd import build
  sys.exit(build.main(arguments[1:]))


def test_site_builds(tmp_path):
  """Offline and without a warning, a page for each file, every public name in it."""
  for name in ('sphinx', 'myst_nb', 'sphinx_book_theme'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed: pip install -e .[docs]')
  site, log = tmp_path / 'site', tmp_path / 'log'
  building = Forked(  # where the package has been imported already
      ['sphinx', '-W', '--keep-going', '-n', '-q', '-b', 'html',
       '-d', str(tmp_path / 'trees'), str(ROOT / 'docs'), str(site)],
      log, {'http_proxy': '-', 'https_proxy': '-'}, function=build_site)
  assert building.wait(timeout=600) == 0, log.read_text()
  for path in [*DOCS, *(ROOT / 'colab').glob('*.ipynb')]:
    page = site / ('notebooks' if path.suffix == '.ipynb' else '') / f'{path.stem}.html'
    assert page.exists(), page
    # Read offline as well: no script, style or picture is of another place.
    assert not re.search(r'<(?:script|img|link rel="stylesheet")[^>]* (?:src|href)="http',
                         page.read_text(encoding='utf-8')), page
  assert '<math' in (site / 'formulas.html').read_text(encoding='utf-8')
  header, names = (site / 'objects.inv').read_bytes().split(b'zlib.\n')
  known = {line.split()[0].rpartition('.')[2]
           for line in zlib.decompress(names).decode().splitlines()}
  assert set(jdiffclust.__all__) - {'__version__'} <= known


def tiny_config():
  """In the place of `default_config`, which is meant for minutes."""
  config = jdiffclust.default_config()
  config.update_from_flattened_dict(SMALL)
  return config


def test_the_library_in_the_readme():
  """At most six lines each: an array in, clusters and new images out."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  estimator, code = re.findall(r'```python\n(.*?)```', text, re.S)
  for lines in (estimator, code):
    assert len(lines.strip().splitlines()) <= 6
  names = {'images': datasets.load_digits().images[:40], 'tiny_config': tiny_config}
  with (jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'),
        with_tiny_networks()):
    exec(estimator.replace('n_clusters=3', 'n_clusters=3, config=tiny_config()'), names)
    assert names['how_sure'].shape == (5, 3) and names['new_images'].shape == (4, 8, 8)
    labels = names['clusters']
    exec(code.replace('jdiffclust.default_config()', 'tiny_config()'), names)
  np.testing.assert_array_equal(names['clusters'], labels)
  assert names['clusters'].shape == (40,) and set(names['clusters']) <= {0, 1, 2}
  assert names['new_images'].shape == (3, 4, 8, 8, 1)
  assert np.isfinite(names['new_images']).all()
