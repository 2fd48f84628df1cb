"""`jdiffclust IMAGES`: a command that names images and nothing else.

    seen = look(['photos'])                  # a folder, a list, an array; what is there
    options = chosen(seen)                   # what the user has not said
    place = workdir_for(seen, config, check) # a new folder of results, or one to go on in

Nothing is hidden: all that is chosen stands in the command that is shown, which does the
same when it is pasted. Files are only looked at here, as far as their headers; what reads
them comes later.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jdiffclust import config as config_lib
from jdiffclust import files as files_lib
from jdiffclust.data.formats import FOR_HEIC, HEIC, image_endings
from jdiffclust.data.preprocess import upright_size
from jdiffclust.errors import UserError

LISTED_NEW = 'files_new.json'  # as config.LISTED, of a command that asks about others
LISTED_ADDED = 'files_added_{}.json'  # the same, of images that were added
RUNS = 'runs'  # the folder of workdirs that were not named
ARRAYS, LISTS = ('.npy', '.npz'), ('.txt', '.csv', '.parquet')
ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar')
LOOKED_AT = 500  # files whose sizes are looked at, at most
LONGEST = 16  # pixels of the longer side, of the diffusion model, as in configs/folder.py
STEP = 4  # what its two halvings divide
FLATTEST = LONGEST // 2  # pixels of the shorter side, at least
# Images for each cluster that is thought possible, and the most clusters that are tried.
IMAGES_EACH, MOST_CLUSTERS = 8, 20
FEWEST = 8  # images that parts of can vote
# What may lie in a folder in which a run has not yet begun.
BEFORE = {'.lock', 'check.png', 'check.json', 'command.txt', config_lib.LISTED,
          'examples.npz', 'images.json', 'num_clusters.json', 'num_clusters.png',
          'symmetries.json', 'recogniser.npz'}
WHAT = 'a folder of images, a list of image files (.txt, .csv) or an array (.npy, .npz)'


class Seen(NamedTuple):
  """What paths name.

  Attributes:
    source, path: for the options data.source and data.path; several image files have no
      path yet.
    name: for the workdir.
    what: for a person.
    number: of images; None: unknown before they are read.
    sizes: (height, width) of some of them, int [n, 2].
    files: the paths of several image files, absolute.
    names: of the files of a folder.
  """

  source: str
  path: str
  name: str
  what: str
  number: int | None
  sizes: np.ndarray
  files: tuple[str, ...] = ()
  names: tuple[str, ...] = ()


class Place(NamedTuple):
  """The workdir of a run, whether it goes on there, and what to say of it."""

  path: pathlib.Path
  goes_on: bool
  why: str


class Begun(NamedTuple):
  """What a command that names images came to.

  Attributes:
    lines: what was chosen, for a person.
    command: the whole command, which does the same.
    files: several image files, to be listed in the workdir; (): there are none.
  """

  lines: list[str]
  command: str
  files: tuple[str, ...]


def look(paths: Sequence[str]) -> Seen:
  """Looks what paths name.

  Args:
    paths: a folder, a list, an array or an image; or several images.

  Raises:
    UserError: one does not exist or is nothing of these.
  """
  paths = [os.path.expanduser(path) for path in paths]
  for path in paths:
    if not os.path.exists(path):
      raise UserError(f'{path!r}: there is no such folder or file.{_meant(path, paths)} '
                      f'Name {WHAT}; options are --NAME=VALUE.')
  if len(paths) == 1:
    return _one(paths[0])
  for path in paths:
    if os.path.isdir(path):
      raise UserError(f'{path!r} is a folder, of which one is taken, by itself: name a '
                      'folder that has all images, in sub-folders, or their files.')
    if not is_image(path):
      raise UserError(f'{path!r} is no image file: name several image files, or one of '
                      f'these: {WHAT}.')
  files = tuple(os.path.abspath(path) for path in paths)
  again = next((path for path in files if files.count(path) > 1), None)
  if again:
    raise UserError(f'{again!r} is named twice: name each image once.')
  above = os.path.commonpath([os.path.dirname(path) for path in files])
  return Seen('files', '', slug(above), f'{len(files):,} image files', len(files),
              sizes_of(files), files)


def _meant(path: str, paths: Sequence[str]) -> str:
  """What may be meant by a path that there is not, of several; '': nobody knows."""
  together = ' '.join(paths)
  if len(paths) > 1 and os.path.exists(together):
    return f' A name with spaces takes quotes: {together!r}.'
  above, name = os.path.split(path.rstrip('/'))
  try:
    return config_lib.nearest(name, os.listdir(above or '.'))
  except OSError:
    return f' {above!r} is not there, either, or cannot be looked into.'


def _one(path: str) -> Seen:
  """What one path names."""
  whole, ending = os.path.abspath(path), pathlib.Path(path).suffix.lower()
  name = slug(whole)
  if os.path.isdir(path):
    from jdiffclust.data.sources.folder import find_files  # with JAX, which takes a while
    names = find_files(pathlib.Path(path)).names
    sizes = sizes_of([os.path.join(path, name) for name in names])
    return Seen('folder', whole, name, f'a folder of {len(names):,} image files',
                len(names), sizes, names=tuple(names))
  if not os.path.isfile(path):
    raise UserError(f'{path!r} is a pipe or a device, and no file: name {WHAT}.')
  stem = slug(os.path.splitext(whole)[0])
  if ending in ARRAYS:
    shape = _shape_of(path) if ending == '.npy' else ()
    count = shape[0] if shape else _count_of(path)
    sizes = np.array([shape[1:3]] if shape and len(shape) in (3, 4) else [], int)
    return Seen('npz', whole, stem, 'an array of images' + (
        f' {list(shape)}' if shape else ''), count, sizes.reshape(-1, 2))
  if ending in LISTS:
    from jdiffclust.data.sources.folder import listed
    root, names = listed(whole)
    return Seen('files', whole, stem, f'a list of {len(names):,} image files', len(names),
                sizes_of([root / name for name in names]))
  if 'idx3' in os.path.basename(path) or 'idx4' in os.path.basename(path):
    return Seen('idx', whole, stem, 'a file of images (idx)', _count_of(path),
                np.zeros((0, 2), int))
  if is_image(path):
    return Seen('files', whole, stem, 'one image', 1, sizes_of([path]))
  if ending in ARCHIVES:
    raise UserError(f'{path!r} is an archive: unpack it, and name the folder that comes '
                    'of it.')
  more = (f' (HEIC is read where pillow-heif is installed: {FOR_HEIC}.)'
          if ending in HEIC else '')
  raise UserError(f'{path!r} is no image, and no file of images: name {WHAT}.{more}')


def is_image(path: str) -> bool:
  """Whether a file has the ending of an image that Pillow reads."""
  return os.path.isfile(path) and pathlib.Path(path).suffix.lower() in image_endings()


def slug(path: str) -> str:
  """The last part of a path as the name of a workdir."""
  return re.sub(r'[^\w.-]+', '_', os.path.basename(path)).strip('._') or 'images'


def _shape_of(path: str) -> tuple[int, ...] | None:
  """The shape of a .npy file; None: it is none, which is told when it is read."""
  try:
    found = np.load(path, mmap_mode='r', allow_pickle=False)
    return found.shape if isinstance(found, np.ndarray) else None  # an .npz, called so
  except Exception:  # pylint: disable=broad-except
    return None  # on a damaged file NumPy and zipfile raise nearly anything


def sizes_of(paths: Sequence[str | os.PathLike]) -> np.ndarray:
  """(height, width) of some image files, int [n, 2], by their headers."""
  found = []
  for k in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT),
                                 dtype=int)) if len(paths) else ():
    try:
      with Image.open(paths[k]) as image:
        found.append(upright_size(image))
    except Exception:  # pylint: disable=broad-except
      continue  # it is told of when it is decoded
  return np.array(found, int).reshape(-1, 2)


def pages_of(path: str) -> int:
  """How many pictures an image file holds, pages or frames; 0: it cannot be read."""
  try:
    with Image.open(path) as image:
      return getattr(image, 'n_frames', 1)
  except Exception:  # pylint: disable=broad-except
    return 0  # as in `sizes_of`


def pictures_of(seen: Seen) -> int | None:
  """How many pictures the files hold, of so few that it matters; None: many, or none."""
  paths = seen.files or [os.path.join(seen.path, name) for name in seen.names] or (
      [seen.path] if is_image(seen.path) else [])
  many = not paths or len(paths) >= MOST_CLUSTERS * IMAGES_EACH
  return None if many else sum(map(pages_of, paths))


def _count_of(path: str) -> int | None:
  """How many images an .npz or IDX file holds; None: that is told when it is read."""
  from jdiffclust.data.sources import idx, npz
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as arrays:
        shapes = npz.shapes_of(arrays)
      return shapes[npz.image_name(shapes, '', path)][0]
    return len(idx.read_idx(path))
  except Exception:  # pylint: disable=broad-except
    return None  # on a damaged file NumPy and zipfile raise nearly anything


def model_size(sizes: np.ndarray) -> tuple[int, int]:
  """(height, width) at which the diffusion model shall see images.

  Of the images' usual proportions as far as the network's halvings allow; as small as in
  configs/folder.py, and smaller where images are. The start sees finer images anyway.

  Args:
    sizes: (height, width) of images, int [n, 2].
  """
  if not len(sizes):
    return LONGEST, LONGEST
  longest = int(np.median(sizes.max(axis=1)))
  side = min(LONGEST, max(STEP, -(-longest // STEP) * STEP))
  ratio = float(np.median(np.log(sizes[:, 1] / sizes[:, 0])))  # of width to height
  least = min(FLATTEST, side)
  shorter = min(range(least, side + 1, STEP),
                key=lambda short: abs(np.log(side / short) - abs(ratio)))
  return (shorter, side) if ratio > 0 else (side, shorter)


def chosen(seen: Seen, named: Sequence[str] = (), most_images: int = 0) -> dict[str, str]:
  """Values of the options that a command leaves open, as they are written there.

  Args:
    seen: the images.
    named: the options that the user has named.
    most_images: the option data.max_images, if it is among these; 0: all.

  Returns:
    {option: value}, with data.source and data.path.

  Raises:
    UserError: the images are too few to choose a number of clusters.
  """
  size = model_size(seen.sizes)
  found = {
      'data.source': seen.source, 'data.path': seen.path,
      'data.image_size': str(size[0]) if size[0] == size[1] else
      f'({size[0]},{size[1]})',
      'num_clusters': config_lib.AUTO, 'effort': config_lib.QUICK}
  if 'num_clusters' not in named:
    count = pictures_of(seen) if 'data.frames' in named else seen.number
    count = MOST_CLUSTERS * IMAGES_EACH if count is None else count
    if most_images:
      count = min(count, most_images)
    if count < FEWEST:
      raise UserError(
          f'{count} images are too few to choose the number of clusters by, of which '
          f'{FEWEST} are needed: give it, such as --config.num_clusters=2.')
    most = min(MOST_CLUSTERS, max(3, count // IMAGES_EACH))
    found['em.auto_clusters'] = f'(2,{most})'
  return {name: value for name, value in found.items() if name not in named}


def workdir_for(seen: Seen, config,
                differences: Callable[[pathlib.Path], list[str]]) -> Place:
  """A folder in RUNS: a new one, or that of a run of these images and options.

  Args:
    seen: the images.
    config: of the fit to come.
    differences: what sets the run in a folder apart from the config, a line each.

  Raises:
    UserError: there is no free name.
  """
  why = ''
  for number in range(1, 10_000):
    path = pathlib.Path(RUNS) / (seen.name + (f'-{number}' if number > 1 else ''))
    if not path.exists() or path.is_dir() and {
        found.name for found in path.iterdir()} <= BEFORE:
      return Place(path, False, why)
    if not config_lib.has_config(path):
      why = f'{path} is in use for something else'
      continue
    try:
      fitted = config_lib.fitted_config(path)
      what = _other_images(seen, path, fitted, config) or '; '.join(differences(path))
      if not what:
        return Place(path, True, f'{path} has a run of these images and options')
    except UserError as error:
      what = str(error)
    why = f'{path} has another run ({what})'
  raise UserError(f'{RUNS} has no free name for {seen.name}: give --workdir.')


def _other_images(seen: Seen, path: pathlib.Path, fitted, config) -> str:
  """What sets the images of a run apart from those that were seen; '': nothing."""
  place = seen.path or str(path / config_lib.LISTED)
  if (fitted.data.source, os.path.abspath(fitted.data.path)) != (
      seen.source, os.path.abspath(place)):
    return f'of {fitted.data.path or fitted.data.source}'
  if seen.files:
    from jdiffclust.data.sources import folder
    root, kept = folder.listed(str(path / config_lib.LISTED))
    return '' if [str(root / name) for name in kept] == list(seen.files) else (
        'of other image files')
  if fitted.data.max_images != config.data.max_images:
    return 'of another number of images'
  from jdiffclust import added
  plain = not config.data.max_images and config.data.unreadable == 'refuse' and (
      config.data.frames == 'first')
  if seen.names and plain:  # that pixels are others is noticed when they are read
    try:
      ids = set(json.loads((path / 'images.json').read_bytes())['ids'])
      there = ids | added.names_from(path, seen.path)
    except (OSError, ValueError, KeyError, TypeError):
      return ''
    new = next((name for name in seen.names if name not in there), None)
    gone = next(iter(ids - set(seen.names)), None)
    return (f'in which {new} was not' if new is not None else
            f'in which {gone} was' if gone is not None else '')
  return ''


def told(seen: Seen, asked: dict[str, str], place: Place,
         command: str) -> list[str]:
  """What a person should know of what was chosen, a line each.

  Args:
    seen: the images.
    asked: of `chosen`.
    place: of the run.
    command: the whole one.
  """
  found = [f'This is {seen.what}: {seen.path or seen.name}.']
  if place.why:
    found.append(f'{place.why}: ' + ('it goes on.' if place.goes_on else
                                     f'results go to {place.path}.'))
  reasons = {
      'num_clusters': 'the number of clusters is found out',
      'em.auto_clusters': f"from 2 to {asked.get('em.auto_clusters', '(2,)')[3:-1]}",
      'data.image_size': 'the size at which the diffusion model sees the images',
      'effort': 'clusters first, in minutes; full goes on from there and trains the '
                'diffusion model'}
  for name, reason in reasons.items():
    if name in asked:
      found.append(f'  --config.{name}={asked[name]}: {reason}')
  return [*found, f'The whole command: {command}']


def newest_run() -> str:
  """The run in RUNS that was begun last; '': there is none."""
  runs = [path.parent for path in pathlib.Path(RUNS).glob('*/config.json')]
  return str(max(runs, key=lambda path: path.stat().st_mtime)) if runs else ''


def place_of_list(workdir: pathlib.Path, mode: str,
                  paths: Sequence[str]) -> pathlib.Path:
  """Where several image files are listed of which a run is asked.

  Args:
    workdir: of the run.
    mode: of the command; lists of images that are added are read again later.
    paths: of the files.
  """
  if mode != 'add':
    return workdir / LISTED_NEW
  mark = zlib.crc32('\n'.join(paths).encode(errors='surrogateescape'))
  return workdir / LISTED_ADDED.format(f'{mark:08x}')


def remove_unused_lists(workdir: pathlib.Path) -> None:
  """Removes the lists of image files of which none is in a run any more."""
  from jdiffclust import added
  used = added.paths_in(workdir)
  for path in workdir.glob(LISTED_ADDED.format('*')):
    if str(path.absolute()) not in used:
      path.unlink()


@contextlib.contextmanager
def listed(workdir: pathlib.Path, paths: Sequence[str]) -> Iterator[None]:
  """Lists image files in a workdir; where no run begins there, nothing is left.

  Where the run is refused, the list that was there, of another one, comes back.

  Raises:
    UserError: the folder cannot be made or written.
  """
  new, path, before = not os.path.exists(workdir), workdir / config_lib.LISTED, None
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    files_lib.check_writable(workdir)
    from jdiffclust.data.sources.folder import write_listed
    if path.is_file():
      before = path.read_bytes()
    write_listed(path, paths)
  except OSError as error:
    raise UserError(f'--workdir={workdir} cannot be made ({error.strerror}): name a '
                    'folder that may be written.') from None
  try:
    yield
  except BaseException:
    if before is not None and workdir.is_dir():
      with files_lib.replacing(path) as temporary:
        temporary.write_bytes(before)
    raise
  finally:
    if before is None and not config_lib.has_config(workdir):
      path.unlink(missing_ok=True)
      with contextlib.suppress(OSError):
        if new:
          workdir.rmdir()
