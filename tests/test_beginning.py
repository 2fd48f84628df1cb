"""`jdiffclust IMAGES`: what is seen, chosen and told, and where results go."""

import json
import os
import pathlib
import shlex

import numpy as np
import pytest
from PIL import Image

from jdiffclust import added, beginning, main
from jdiffclust import config as config_lib
from jdiffclust.data import masks
from jdiffclust.data.sources.folder import listed
from jdiffclust.report import results
from tests.helpers import refused


# What NumPy takes for arrays, pickles and archives, of which nothing is whole.
DAMAGED = [b'', b'x', b'PK\x03\x04rest', b'\x93NUMPY\x01\x00\x06\x00{\'de', b'\x80\x04.']


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder to work in."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def pictures(folder, sizes):
  """A folder of grey PNG files of sizes (height, width)."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for number, size in enumerate(sizes):
    image = Image.fromarray(rng.integers(0, 256, size, np.uint8))
    image.save(folder / f'{number:03}.png')
  return folder


def parsed(*argv):
  """(config, workdir, what was told) of a command line."""
  config, workdir, _, _, asked = main.parse(['jdiffclust', *map(str, argv)])
  return config, workdir, asked.get('begun')


@pytest.mark.parametrize('sizes, size', [
    ([(480, 640)] * 3, (12, 16)), ([(640, 480)] * 3, (16, 12)), ([(90, 100)], (16, 16)),
    ([(1080, 1920)], (8, 16)), ([(100, 5000)], (8, 16)), ([(8, 8)], (8, 8)),
    ([(10, 10)], (12, 12)), ([(100, 100)] * 3 + [(100, 300)] * 2, (16, 16)),
    ([], (16, 16))])
def test_size_of_the_model(sizes, size):
  """The usual proportions in steps of 4; never larger than needed."""
  assert beginning.model_size(np.array(sizes, int).reshape(-1, 2)) == size


def test_a_folder_and_nothing_else(here):
  """Everything is chosen, and the command that is told does the same."""
  folder = pictures(here / 'my photos', [(30, 40)] * 40)
  config, workdir, begun = parsed(folder)
  assert (config.data.source, config.data.path) == ('folder', str(folder))
  assert (config.num_clusters, config.effort) == ('auto', 'quick')
  assert config.em.auto_clusters == (2, 5)  # of 40 images, 8 for each
  assert config.data.image_size == (12, 16) and workdir == pathlib.Path('runs/my_photos')
  assert not begun.files and begun.lines[-1].endswith(begun.command)
  again, place, _ = parsed(*shlex.split(begun.command)[1:])
  assert config_lib.to_json(again) == config_lib.to_json(config) and place == workdir
  assert list(here.iterdir()) == [folder]


def test_what_the_user_says_counts(here):
  """Options, a config and a workdir are kept, wherever the folder stands."""
  folder = pictures(here / 'a', [(8, 8)] * 3)
  config, workdir, _ = parsed('--config.num_clusters=3', folder, '--workdir', 'w',
                              '--config.effort=full')
  assert (config.num_clusters, config.effort, str(workdir)) == (3, 'full', 'w')
  config, _, begun = parsed('--config', 'digits', folder)
  assert (config.num_clusters, config.effort) == (10, 'full')
  assert config.data.path == str(folder) and '--config digits' in begun.command


def test_arrays_lists_and_files(here):
  """What each of them becomes."""
  np.save('x.npy', np.zeros((30, 20, 30), np.uint8))
  config, workdir, _ = parsed('x.npy')
  assert (config.data.source, config.data.image_size) == ('npz', (12, 16))
  assert str(workdir) == 'runs/x' and config.em.auto_clusters == (2, 3)
  folder = pictures(here / 'a', [(8, 8)] * 9)
  (here / 'list.txt').write_text('\n'.join(f'a/{k:03}.png' for k in range(9)) + '\n')
  config, *_ = parsed('list.txt')
  assert (config.data.source, config.data.path) == ('files', str(here / 'list.txt'))
  config, workdir, begun = parsed(*sorted(folder.iterdir()))
  assert config.data.path == 'runs/a/files.json' and len(begun.files) == 9
  with pytest.raises(KeyError), beginning.listed(workdir, begun.files):
    root, names = listed(str(workdir / 'files.json'))
    assert [str(root / name) for name in names] == list(begun.files)
    assert names[0] == '000.png'
    raise KeyError
  assert not workdir.exists()  # nothing began


def test_numbers_of_clusters_that_images_can_show(here):
  """Of every kind of file; of those that are used."""
  pixels = np.zeros((30, 12, 12), np.uint8)
  np.savez('s.npz', images=pixels, labels=np.arange(30))
  header = bytes([0, 0, 8, 3]) + np.array([30, 12, 12], '>u4').tobytes()
  (here / 'a-idx3-ubyte').write_bytes(header + pixels.tobytes())
  first, *others = [Image.fromarray(one) for one in pixels]
  first.save('stack.tif', save_all=True, append_images=others)
  pictures(here / 'many', [(8, 8)] * 60)
  for argv in (('s.npz',), ('a-idx3-ubyte',), ('stack.tif', '--config.data.frames=all'),
               ('many', '--config.data.max_images=30')):
    config, *_ = parsed(*argv)
    assert config.em.auto_clusters == (2, 3), argv
  np.savez('large.npz', images=np.zeros((400, 2, 2), np.uint8))
  assert parsed('large.npz')[0].em.auto_clusters == (2, 20)


def test_runs_are_no_images(here):
  """Nor is the folder of images one to write a run in."""
  folder = pictures(here / 'pics', [(8, 8)] * 20)
  assert '_clusters' in refused(parsed, 'pics', '--workdir=pics')
  (here / 'link').symlink_to('pics')
  assert 'folder of the images' in refused(parsed, 'pics', '--workdir=link')
  (folder / 'checkpoints').mkdir()
  assert parsed('pics')[0].data.path == str(folder)
  (folder / 'config.json').write_text('{}')
  assert 'the folder of a run' in refused(parsed, 'pics')


def test_names_of_no_letters(here):
  """Bytes that are no UTF-8, and homes that there are not: a line each."""
  folder = pictures(here / os.fsdecode(b'caf\xe9'), [(8, 8)] * 20)
  assert 'not UTF-8' in refused(parsed, folder)
  pictures(here / 'a', [(8, 8)] * 20)
  assert 'not UTF-8' in refused(parsed, 'a', f'--workdir={folder}/w')
  _, workdir, _ = parsed('a', '--workdir=~nosuchuser/w')
  assert str(workdir) == '~nosuchuser/w'  # such a folder may be made

  def begin():
    with beginning.listed(pathlib.Path('x' * 300), [str(here / 'a' / '000.png')]):
      pass
  assert 'cannot be made' in refused(begin)


def test_a_folder_that_has_grown(here, monkeypatch):
  """Its run goes on where the new images were added to it."""
  folder, run = pictures(here / 'pics', [(8, 8)] * 20), here / 'run'
  seen, config = beginning.look([str(folder)]), config_lib.default_config()
  config.data.source, config.data.path = 'folder', str(folder)
  run.mkdir()
  (run / 'images.json').write_text(json.dumps({'ids': seen.names[:18]}))
  of = lambda: beginning._other_images(seen, run, config, config)
  assert of() == 'in which 018.png was not'
  monkeypatch.setattr(added, 'names_from', lambda workdir, place: (
      set(seen.names[18:]) if (workdir, place) == (run, str(folder)) else set()))
  assert of() == ''


def test_the_list_of_a_run_stays_its_own(here):
  """Another one that is refused leaves it; it is found where the run is now."""
  run, config = here / 'run', config_lib.default_config()
  with beginning.listed(run, [str(here / 'a.png'), str(here / 'b.png')]):
    config.data.source, config.data.path = 'files', str(run / 'files.json')
    (run / 'config.json').write_text(config_lib.to_json(config))
  before = (run / 'files.json').read_bytes()
  with pytest.raises(KeyError), beginning.listed(run, [str(here / 'c.png')]):
    assert listed(str(run / 'files.json'))[1] == ['c.png']
    raise KeyError
  assert (run / 'files.json').read_bytes() == before
  moved = run.rename(here / 'moved')
  assert config_lib.fitted_config(moved).data.path == str(moved / 'files.json')
  assert main.with_full_effort(
      f'jdiffclust --config.data.path={config.data.path} --workdir=x', moved) == (
          f'jdiffclust --config.data.path={moved}/files.json --workdir={moved} '
          '--config.effort=full')


@pytest.mark.parametrize('name, content', [
    ('list.txt', '~/a.png\n~b.png\n'), ('list.csv', 'file\n~/a.png\n~b.png\n')])
def test_home_in_lists(here, monkeypatch, name, content):
  """~ alone is the home folder; a file may be called ~b.png."""
  monkeypatch.setenv('HOME', '/somewhere')
  (here / name).write_text(content)
  assert listed(str(here / name))[1] == ['/somewhere/a.png', '~b.png']


def test_an_archive_that_is_called_an_array(here):
  """What it is, is told when it is read; till then nothing is known of it."""
  with (here / 'x.npy').open('wb') as file:
    np.savez(file, images=np.zeros((9, 8, 8), np.uint8))
  assert beginning.look(['x.npy']).number is None


def test_files_that_look_like_options(here, monkeypatch):
  """As a shell makes of *.png: refused with a way out, or taken behind `--`."""
  here = pictures(here / 'a', [(8, 8)] * 8)
  monkeypatch.chdir(here)
  names = sorted(path.name for path in here.glob('*.png'))
  for name in ('-x.png', '--config.png'):
    (here / '000.png').replace(here / name)
    given = sorted([name, *names[1:]])
    assert f"'./{name}'" in refused(parsed, *given, '--config.num_clusters=2')
    _, _, begun = parsed('--config.num_clusters=2', '--', *given)
    assert str(here / name) in begun.files and len(begun.files) == 8
    (here / name).replace(here / '000.png')


def test_a_run_that_stands_there(here):
  """The same images and options go on; others get a folder of their own."""
  folder = pictures(here / 'a', [(8, 8)] * 40)
  config, workdir, _ = parsed(folder, '--config.num_clusters=3')
  workdir.mkdir(parents=True)
  (workdir / 'config.json').write_text(config_lib.to_json(config))
  names = [path.name for path in sorted(folder.iterdir())]
  (workdir / 'images.json').write_text('{"ids": %s}' % str(names).replace("'", '"'))
  for effort in ('quick', 'full'):
    _, place, begun = parsed(folder, '--config.num_clusters=3',
                             f'--config.effort={effort}')
    assert place == workdir and 'goes on' in begun.lines[1]
  _, place, begun = parsed(folder)
  assert str(place) == 'runs/a-2' and 'num_clusters: 3 there' in begun.lines[1]
  _, place, _ = parsed(pictures(here / 'b' / 'a', [(8, 8)] * 40),
                       '--config.num_clusters=3')
  assert str(place) == 'runs/a-2'
  Image.new('L', (8, 8)).save(folder / 'new.png')
  _, place, begun = parsed(folder, '--config.num_clusters=3')
  assert str(place) == 'runs/a-2' and 'new.png was not' in begun.lines[1]


def test_one_image_is_asked_about(here):
  """It is nothing to cluster; a run tells its cluster."""
  folder = pictures(here / 'a', [(8, 8)] * 8)
  image = folder / '000.png'
  message = refused(parsed, image)
  assert 'nothing to cluster' in message and '--mode=predict' in message
  assert 'frames' not in message
  config, workdir, _ = parsed(folder)
  workdir.mkdir(parents=True)
  config.num_clusters = 2
  (workdir / 'config.json').write_text(config_lib.to_json(config))
  assert f'--workdir={workdir}' in refused(parsed, image)
  for mode in ('predict', 'add', 'restore'):
    config, *_ = parsed(image, f'--mode={mode}', f'--workdir={workdir}')
    assert (config.data.source, config.data.path) == ('files', str(image))
  several = [folder / '001.png', folder / '000.png']
  command = ['jdiffclust', *map(str, several), f'--workdir={workdir}', '--mode=predict']
  config, _, _, _, asked = main.parse(command)
  assert config.data.path == str(workdir / 'files_new.json')
  assert asked['new'] == tuple(map(str, several))  # in their order
  # Those that are added are read again later, each time by their own list.
  places = [main.parse([*command[:-1], '--mode=add', *more])[0].data.path
            for more in ([], [], [str(image.with_name('002.png'))])]
  assert places[0] == places[1] != places[2] and 'files_added_' in places[0]
  assert str(workdir) in refused(parsed, image, '--mode=predict')  # which run?


def test_pages_of_a_file_are_images_where_asked(here):
  """One file of 9 pages is one image, or nine."""
  first, *rest = [Image.new('L', (8, 8), 20 * k) for k in range(9)]
  first.save('stack.tif', save_all=True, append_images=rest)
  assert 'holds 9: --config.data.frames=all' in refused(parsed, 'stack.tif')
  config, *_ = parsed('stack.tif', '--config.data.frames=all')
  assert config.data.source == 'files' and config.data.path.endswith('stack.tif')


@pytest.mark.parametrize('content', DAMAGED)
def test_a_damaged_array(content, here):
  """It is told when it is read, by the one who reads it."""
  pathlib.Path('x.npy').write_bytes(content)
  assert parsed('x.npy')[0].data.source == 'npz'
  told = refused(masks.read_npy, 'x.npy')
  assert 'cannot be read as an npy file' in told and 'allow_pickle' not in told
  for name in ('summary.json', 'config.json'):
    pathlib.Path(name).write_text('{}')
  pathlib.Path('responsibilities.npy').write_bytes(content)
  told = refused(results.rewrite_page, here, None)
  assert 'are incomplete' in told
  assert 'the command of the fit, given again' in told  # not evaluate alone: see above


@pytest.mark.parametrize('argv, fragments', [
    (['nowhere'], ["'nowhere'", 'no such', '--NAME=VALUE']),
    (['code.py'], ["'code.py'", 'no image']), (['x.h5'], ["'x.h5'", 'no image']),
    (['a', 'code.py'], ["'a' is a folder"]), (['few', 'a'], ["'few' is a folder"]),
    (['single/000.png', 'code.py'], ["'code.py'", 'no image file']),
    (['a', '--config.data.path=b'], ['named twice']),
    (['a', '--mode=sample', '--workdir=w'], ['--mode=sample', '--workdir=w', 'predict']),
    (['a', '--mode=sort', '--action=copy'], ['--workdir=runs/NAME']),
    (['a', '--mode=predict'], ['--workdir is missing']),
    (['fw'], ["Did you mean 'few'?"]),
    (['my', 'photos'], ["takes quotes: 'my photos'"]),
    (['sort', '--workdir=w'], ['--mode=sort']),
    (['a.zip'], ['archive', 'unpack']), (['pipe.npy'], ["'pipe.npy' is a pipe"]),
    (['single'], ['has one image']),
    (['few'], ['3 images', '--config.num_clusters=2'])])
def test_mistakes(argv, fragments, here):
  """One line, and nothing is made."""
  pictures(here / 'a', [(8, 8)] * 8)
  pictures(here / 'few', [(8, 8)] * 3)
  pictures(here / 'single', [(8, 8)])
  (here / 'my photos').mkdir()
  for name in ('code.py', 'a.zip', 'x.h5'):
    (here / name).write_text('')
  os.mkfifo(here / 'pipe.npy')
  before = sorted(here.rglob('*'))
  message = refused(parsed, *argv)
  assert all(fragment in message for fragment in fragments), message
  assert sorted(here.rglob('*')) == before
