"""Files into folders and back: nothing lost or overwritten, whenever it is killed."""

import errno
import os
import pathlib

import pytest

from jdiffclust import sorting
from tests.helpers import refused

IDS = ('a/x.png', 'b/X.png', 'b/y.png', 'z.png')
CLUSTERS = ('cats', 'cats', 'G1/S', 'cats')


class Killed(Exception):
  """In the place of a signal."""


def content(folder):
  """{path: bytes, or where it links to} of all files; None of folders."""
  return {str(path.relative_to(folder)):
          os.readlink(path) if path.is_symlink() else path.read_bytes()
          if path.is_file() else None for path in sorted(folder.rglob('*'))}


@pytest.fixture
def images(tmp_path):
  """A folder of four files, beside one of a run."""
  for name in IDS:
    path = tmp_path / 'pics' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f'content of {name}'.encode() * 50)
  (tmp_path / 'run').mkdir()
  return tmp_path


def plan_of(folder, action):
  paths = [folder / 'pics' / name for name in IDS]
  return sorting.make_plan(action, IDS, CLUSTERS, paths, folder / 'pics',
                           folder / 'out/sorted')


NEW = ('cats/a__x.png', 'cats/b__X.png', 'G1_S/y.png', 'cats/z.png')


@pytest.mark.parametrize('action', ['copy', 'link', 'move'])
def test_there_and_back(action, images):
  """Names are kept where they can be; the whole tree is as it was afterwards."""
  before = content(images)
  sorting.perform(images / 'run', plan_of(images, action))
  after = content(images / 'out/sorted')
  assert {name for name, data in after.items() if data is not None} == set(NEW)
  for name, new in zip(IDS, NEW):
    source = images / 'pics' / name
    assert (images / 'out/sorted' / new).read_bytes() == before[f'pics/{name}']
    assert source.exists() == (action != 'move')
    assert (images / 'out/sorted' / new).is_symlink() == (action == 'link')
  assert 'undo' in refused(sorting.perform, images / 'run',
                           sorting.Plan(action, [], []))
  assert sorting.undo(images / 'run') == (4, [])
  assert content(images) == before
  assert 'nothing to undo' in refused(sorting.undo, images / 'run')


@pytest.mark.parametrize('action', ['copy', 'link', 'move'])
def test_a_run_that_was_moved_since(action, images):
  """Folders within it have moved along, and are taken back from there."""
  before = content(images / 'pics')
  paths = [images / 'pics' / name for name in IDS]
  sorting.perform(images / 'run', sorting.make_plan(
      action, IDS, CLUSTERS, paths, images / 'pics', images / 'run/sorted'))
  run = (images / 'run').rename(images / 'moved')
  assert sorting.undo(run) == (4, [])
  assert content(images / 'pics') == before and not list(run.iterdir())


def test_disks_without_links_times_or_permissions(images, monkeypatch):
  """As of cameras and networks: links are refused, and leave nothing; files are moved
  by copies."""
  before = content(images)

  def no(*args, **kwargs):
    raise PermissionError(errno.EPERM, 'Operation not permitted', args[0], None, args[1])

  for name in ('os.link', 'os.symlink', 'shutil.copystat'):
    monkeypatch.setattr(name, no)
  assert '--action=copy' in refused(sorting.perform, images / 'run',
                                    plan_of(images, 'link'))
  assert content(images) == before
  for action in ('copy', 'move'):
    sorting.perform(images / 'run', plan_of(images, action))
    found = content(images / 'out/sorted')
    assert [found[new] for new in NEW] == [before[f'pics/{name}'] for name in IDS]
    assert sorting.undo(images / 'run') == (4, []) and content(images) == before


STEPS = ('symlink', 'link', 'unlink', 'makedirs', 'rmdir')


def killed_at(monkeypatch, count):
  """Lets `count` of the system's changes happen, then no more."""
  left = [count]

  def counted(original):
    def call(*args, **kwargs):
      if not left[0]:
        raise Killed
      left[0] -= 1
      return original(*args, **kwargs)
    return call

  def cut_off(ours, theirs):
    """Of a copy, a part is written before."""
    theirs.write(ours.read(7))
    if not left[0]:
      raise Killed
    left[0] -= 1
    theirs.write(ours.read())

  for name in STEPS:
    monkeypatch.setattr(sorting.os, name, counted(getattr(os, name)))
  monkeypatch.setattr(sorting.shutil, 'copyfileobj', cut_off)


@pytest.mark.parametrize('across', [False, True])
@pytest.mark.parametrize('action', ['copy', 'link', 'move'])
def test_killed_at_any_moment(action, across, images, monkeypatch):
  """Sorting, then undoing, killed after each change of the disk; then it is undone."""
  if across:  # a disk that has no hard links with this one
    def link(source, target):
      raise (FileExistsError if os.path.exists(target) else PermissionError)(1, 'no')
    monkeypatch.setattr(os, 'link', link)
  before, run = content(images), images / 'run'
  for count in range(40):
    plan = plan_of(images, action)
    with monkeypatch.context() as patch:
      killed_at(patch, count)
      try:
        sorting.perform(run, plan)
        done = True
      except Killed:
        done = False
    for k in range(count % 5):
      with monkeypatch.context() as patch:
        killed_at(patch, k)
        try:
          sorting.undo(run)
        except Killed:
          pass
      if not (run / sorting.UNDO).exists():
        break
    if (run / sorting.UNDO).exists():
      assert sorting.undo(run)[1] == []
    assert content(images) == before, count
    if done:
      return
  raise AssertionError('it took more than 40 changes')


def test_what_others_made_stays(images):
  """What is there is refused; what comes between or was changed is left alone."""
  run, out = images / 'run', images / 'out/sorted'
  (out / 'cats').mkdir(parents=True)
  (out / 'cats/z.png').write_text('mine')
  assert "z.png'" in refused(plan_of, images, 'copy')
  (out / 'cats/z.png').unlink()
  plan = plan_of(images, 'copy')
  (out / 'cats/z.png').write_text('mine')
  assert 'overwritten' in refused(sorting.perform, run, plan)
  assert (out / 'cats/z.png').read_text() == 'mine'
  (out / 'cats/a__x.png').write_text('retouched')
  count, left = sorting.undo(run)
  assert count == 4 and len(left) == 2 and all('was changed' in line for line in left)
  assert (out / 'cats/z.png').read_text() == 'mine'
  assert (out / 'cats/a__x.png').read_text() == 'retouched'
  assert not (out / 'G1_S').exists() and (run / sorting.UNDO).exists()


def test_a_moved_file_whose_place_is_taken(images):
  """It stays where it is until the place is free."""
  run = images / 'run'
  sorting.perform(run, plan_of(images, 'move'))
  (images / 'pics/z.png').write_text('another')
  assert len(sorting.undo(run)[1]) == 1
  assert (images / 'pics/z.png').read_text() == 'another'
  (images / 'pics/z.png').unlink()
  assert sorting.undo(run) == (4, [])
  assert (images / 'pics/z.png').read_bytes().startswith(b'content of z')


def test_listed_files(images):
  """Folders may lie beside files that a list names, since no folder is searched."""
  paths = [images / 'pics' / name for name in IDS]
  plan = sorting.make_plan('copy', IDS, CLUSTERS, paths, None, images / 'pics/sorted')
  assert {pathlib.Path(new).relative_to(images / 'pics/sorted').as_posix()
          for _, new in plan.pairs} == set(NEW)
  assert 'bring them back' in refused(
      sorting.make_plan, 'copy', ('gone.png',), ('cats',), [images / 'gone.png'], None,
      images / 'out')


def test_what_cannot_be_sorted(images):
  of = lambda ids, root, target: refused(
      sorting.make_plan, 'move', ids, CLUSTERS, [root / name for name in ids],
      root, pathlib.Path(target))
  pics = images / 'pics'
  assert 'within the folder' in of(IDS, pics, pics / 'sorted')
  assert "gone.png'" in of(('gone.png', *IDS[1:]), pics, images / 'out')
  (pics / 'stack.tif').write_bytes(b'')
  message = of(('stack.tif#3', *IDS[1:]), pics, images / 'out')
  assert "'stack.tif#3'" in message and 'within files' in message
  message = of((*IDS[:3], IDS[0]), pics, images / 'out')
  assert "a/x.png'" in message and 'twice' in message
  (pics / 'l.png').symlink_to('z.png')
  assert 'links' in of(('l.png', *IDS[1:]), pics, images / 'out')


@pytest.mark.parametrize('text, name', [
    ('cats', 'cats'), ('G1/S', 'G1_S'), ('..', '_'), (' a. ', 'a'), ('con', '_con'),
    ('LPT1.x', '_LPT1.x'), ('Käse "x"', 'Käse _x_'), ('a' * 200, 'a' * 100),
    ('猫' * 100, '猫' * 80), ('a' + '猫' * 100, 'a' + '猫' * 79)])
def test_names_of_folders(text, name):
  """Of what every system takes."""
  assert sorting.plain_name(text) == name


def test_folders_that_make_a_name_too_long(images):
  """The end of it stays, and every file keeps a name of its own."""
  deep = '/'.join(['ß' * 60] * 4)
  ids = [f'{deep}/{k}/x.png' for k in range(2)]
  paths = [images / 'pics' / IDS[0]] * 2
  plan = sorting.make_plan('copy', ids, ['cats'] * 2, paths, None, images / 'out')
  names = [os.path.basename(new) for _, new in plan.pairs]
  assert [name[-10:] for name in names] == ['__0__x.png', '__1__x.png']
  assert max(len(os.fsencode(name)) for name in names) <= 255
  sorting.perform(images / 'run', plan)
  assert all(os.path.isfile(new) for _, new in plan.pairs)


def test_what_the_system_refuses(images, monkeypatch):
  """It is told before anything is done, where that can be known."""
  closed = set()
  access = os.access
  monkeypatch.setattr(os, 'access', lambda path, how: str(path) not in closed and access(
      path, how))
  for path, actions, fragment in (
      (images, ('copy', 'link', 'move'), '--to'),
      (images / 'pics/a', ('move',), 'copied'),
      (images / 'pics/z.png', ('copy', 'move'), 'may not be read')):
    closed = {str(path)}
    for action in ('copy', 'link', 'move'):
      if action in actions:
        message = refused(plan_of, images, action)
        assert str(path) in message and fragment in message
      else:
        plan_of(images, action)
  closed = set()
  (images / 'out').write_text('a file')
  assert 'no folder' in refused(plan_of, images, 'copy')


def test_a_disk_that_fails_in_between(images, monkeypatch):
  """One line, and what was done can be taken back once the disk is well."""
  before, run, copy = content(images), images / 'run', sorting.shutil.copyfileobj
  done = []

  def full(ours, theirs):
    if done:
      raise OSError(28, 'No space left on device', 'x.png')
    done.append(copy(ours, theirs))

  with monkeypatch.context() as patch:
    patch.setattr(sorting.shutil, 'copyfileobj', full)
    message = refused(sorting.perform, run, plan_of(images, 'copy'))
  assert 'No space left' in message and '--action=undo' in message
  with monkeypatch.context() as patch:
    def read_only(path):
      raise PermissionError(1, 'Operation not permitted', path)
    patch.setattr(sorting.os, 'unlink', read_only)
    count, left = sorting.undo(run)
  assert count == 4 and len(left) == 2 and 'not permitted' in left[0]
  assert sorting.undo(run) == (4, []) and content(images) == before


def test_names_differ():
  assert sorting.apart(['a.png', 'A.png', 'a 2.png', 'a.png']) == [
      'a.png', 'A 2.png', 'a 2 2.png', 'a 3.png']
  assert sorting.apart(['\xe4', 'a\u0308']) == ['\xe4', 'a\u0308 2']
