"""The names of the registries: all are found, others are refused with what there is."""

import sys

import pytest

from jdiffclust import registry
from jdiffclust.clustering.method import Method
from jdiffclust.diffusion import schedules
from jdiffclust.diffusion.grids import make_grid
from jdiffclust.diffusion.paths import VariancePreserving
from jdiffclust.diffusion.samplers import make_sampler
from jdiffclust.errors import UserError

REGISTRIES = {name: value for name, value in vars(registry).items()
              if isinstance(value, registry.Registry)}
NAMES = [(name, thing) for name, found in REGISTRIES.items() for thing in found]


def test_all_registries_are_known():
  """One for each kind of thing that a config names; none is empty."""
  assert set(REGISTRIES) == {'METHODS', 'STARTS', 'SPACES', 'SOURCES', 'SAMPLERS',
                             'RESTORERS', 'GRIDS', 'BETAS', 'PULLS'}
  assert all(len(found) == len(list(found)) > 0 for found in REGISTRIES.values())


@pytest.mark.parametrize('name,thing', NAMES)
def test_every_name_is_found(name, thing, monkeypatch):
  """Each can be imported and called, without the optional libraries behind some."""
  for optional in ('umap', 'diffrax', 'tensorflow_datasets'):
    monkeypatch.setitem(sys.modules, optional, None)
  found = REGISTRIES[name]
  assert thing in found and callable(found[thing])
  assert found[thing] is found[thing] and found[thing].__module__.startswith(
      'jdiffclust.')
  if name == 'METHODS':
    assert issubclass(found[thing], Method)


@pytest.mark.parametrize('name', REGISTRIES)
def test_unknown_names_are_refused(name):
  """By an error that lists all there are; asking whether there is one does not fail."""
  found = REGISTRIES[name]
  with pytest.raises(UserError) as caught:
    found['nothing']
  assert f"{found.kind} 'nothing'" in str(caught.value)
  assert str(caught.value).endswith(f'set one of {", ".join(found)}.')
  assert 'nothing' not in found


def test_late_and_uninformed_starts_are_starts():
  """Those lists name no start that there is not."""
  for name in (*registry.UNINFORMED_STARTS, *registry.LATE_STARTS):
    assert name in registry.STARTS


@pytest.mark.parametrize('call,found', [
    (lambda: make_sampler('nothing', VariancePreserving(), 3), registry.SAMPLERS),
    (lambda: make_sampler('ddim', VariancePreserving(), 3, 'nothing'), registry.GRIDS),
    (lambda: make_grid('nothing', VariancePreserving(), 3), registry.GRIDS),
    (lambda: schedules.make_betas('nothing', 10), registry.BETAS),
    (lambda: schedules.make_pull('nothing', None), registry.PULLS)])
def test_users_of_the_registries_refuse(call, found):
  """The functions that take names pass the error on."""
  with pytest.raises(UserError, match=f"'nothing': set one of {', '.join(found)}"):
    call()
