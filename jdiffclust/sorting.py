"""The images of a run laid into folders by cluster, and back.

All that will be done is written to a file in the run's folder first, after it was
checked that none of it is there yet. Nothing is overwritten: a file that comes in between
stops it. So whatever of the plan is there later was made by it, if its content is what it
would be: undoing asks the disk and not a protocol. It works after a kill at any moment,
that of undoing included.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import filecmp
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jdiffclust import files
from jdiffclust.errors import UserError

UNDO = 'sort_undo.json'  # in the folder of the run
ACTIONS = ('copy', 'link', 'move', 'undo')
LONGEST = 100  # characters of a folder's name
MOST_BYTES = 240  # of any name; systems take 255, and ' 2' may come to it
RESERVED = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?', re.IGNORECASE)  # Windows'
BLOCK = 2**20  # bytes compared at once
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what such disks say


class Plan(NamedTuple):
  """What is to be done.

  Attributes:
    action: copy, link or move.
    folders: that will be made, the outer ones first.
    pairs: (source, target) of each file, absolute paths.
  """

  action: str
  folders: list[str]
  pairs: list[list[str]]


def plain_name(text: str) -> str:
  """A text as the name of a folder that every system takes."""
  name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', '_', text)[:LONGEST]
  name = os.fsencode(name)[:MOST_BYTES].decode(errors='ignore').strip(' .') or '_'
  return f'_{name}' if RESERVED.fullmatch(name) else name


def joined(name: str) -> str:
  """A path as the name of a file: its end, where all of it is too long."""
  whole = os.fsencode(name.replace('/', '__'))
  return whole[-MOST_BYTES:].decode(errors='ignore') if len(whole) > MOST_BYTES else (
      os.fsdecode(whole))


def apart(names: Iterable[str]) -> list[str]:
  """Names that differ in more than case: ' 2', ' 3', ... is put before an ending.

  Nor only in how a letter is written, as one sign or two, which is one name on a Mac.
  """
  taken, found = set(), []
  for name in names:
    stem, ending = os.path.splitext(name)
    tries = itertools.chain([name], (f'{stem} {k}{ending}' for k in itertools.count(2)))
    name = next(one for one in tries if files.spelling(one) not in taken)
    taken.add(files.spelling(name))
    found.append(name)
  return found


def make_plan(action: str, ids: Sequence[str], clusters: Sequence[str],
              paths: Sequence[pathlib.Path], root: pathlib.Path | None,
              target: pathlib.Path) -> Plan:
  """What it takes to lay files into folders.

  Args:
    action: copy, link or move.
    ids: of N files, texts as of paths.
    clusters: what the cluster of each is called.
    paths: where each is.
    root: the folder in which the run finds its images; None: they are listed.
    target: where the clusters' folders go.

  Returns:
    `Plan`. A file keeps its name; where a cluster has several of one name, folders are
    made part of it: a/x.png becomes a__x.png.

  Raises:
    UserError: a file is not there, something is where it would go, or what must be read
      or changed for it may not be.
  """
  root, target = root and root.absolute(), target.absolute()
  if root and target.resolve().is_relative_to(root.resolve()):
    raise UserError(f'--to={target} is within the folder of the images, {root}: the run '
                    'would find them twice. Choose one outside.')
  missing = [path for path in paths if not path.is_file()]
  if missing:
    whole, mark, _ = str(missing[0]).rpartition('#')
    if mark and os.path.isfile(whole):
      raise UserError(f'{len(missing)} of {len(ids)} images are pictures within files, '
                      f'such as {ids[paths.index(missing[0])]!r}, and cannot be sorted: '
                      'save each as a file, and fit these.')
    mend = ('give their folder by --config.data.path.'
            if root and missing[0].is_relative_to(root) else 'bring them back.')
    raise UserError(f'{len(missing)} of {len(ids)} images are not there as files, such '
                    f'as {str(missing[0])!r}: {mend}')
  again = [path for path, count in collections.Counter(
      path.absolute() for path in paths).items() if count > 1]
  if action == 'move' and again:
    raise UserError(f'{len(again)} files are in the run twice, such as '
                    f'{str(again[0])!r}: they were added though the fit had them. Take '
                    'that back by --mode=add --undo, and sort then.')
  links = [path for path in paths if path.is_symlink()]
  if action == 'move' and links:
    raise UserError(f'{len(links)} images are links, such as {str(links[0])!r}, which '
                    'would lead nowhere after a move: take --action=copy or link.')
  check_allowed(action, paths, target)
  every = list(dict.fromkeys(clusters))
  folders = dict(zip(every, apart(map(plain_name, every))))
  pairs = []
  for cluster in every:
    rows = [row for row, one in enumerate(clusters) if one == cluster]
    own = [ids[row] for row in rows]
    bases = [files.spelling(pathlib.PurePosixPath(name).name) for name in own]
    several = {base for base, count in collections.Counter(bases).items() if count > 1}
    names = apart(joined(name) if base in several else
                  pathlib.PurePosixPath(name).name for name, base in zip(own, bases))
    pairs += [[str(paths[row]), str(target / folders[cluster] / new)]
              for row, new in zip(rows, names)]
  there = [new for _, new in pairs if os.path.lexists(new)]
  if there:
    raise UserError(f'{len(there)} files are there already, such as {there[0]!r}, and '
                    'nothing is overwritten: choose another folder by --to.')
  made = [*reversed(target.parents), target, *(target / folders[one] for one in every)]
  return Plan(action, [str(path) for path in made if not path.is_dir()], pairs)


def check_allowed(action: str, paths: Sequence[pathlib.Path],
                  target: pathlib.Path) -> None:
  """Checks that the system lets us do what sorting takes.

  Args:
    action: copy, link or move.
    paths: where the files are.
    target: where the clusters' folders go.

  Raises:
    UserError: it does not.
  """
  above = next(path for path in (target, *target.parents) if os.path.lexists(path))
  if not above.is_dir():
    raise UserError(f'--to={target} cannot be made, since {above} is no folder: choose '
                    'another one.')
  folders = {above, *(path.parent for path in paths if action == 'move')}
  refused = [str(path) for path in sorted(folders) if not os.access(
      path, os.W_OK | os.X_OK)]
  if refused:
    what = ('its files cannot be moved away, only copied or linked' if refused[0] != str(
        above) else 'choose another one by --to')
    raise UserError(f'{refused[0]!r} is a folder in which you may change nothing: {what}.'
                    )
  hidden = [path for path in paths if action != 'link' and not os.access(path, os.R_OK)]
  if hidden:
    raise UserError(f'{len(hidden)} images may not be read, such as {str(hidden[0])!r}: '
                    'change their permissions.')


def check_unsorted(workdir) -> None:
  """Checks that there is nothing to undo.

  Raises:
    UserError: there is.
  """
  path = pathlib.Path(workdir) / UNDO
  if path.exists():
    raise UserError(f'The images were sorted before, and {path} would undo that: do so '
                    'first by --mode=sort --action=undo, or remove that file.')


def with_targets(plan: Plan, changed: Callable[[str], str]) -> Plan:
  """A plan whose targets and folders are written in another way."""
  return plan._replace(folders=list(map(changed, plan.folders)),
                       pairs=[[source, changed(new)] for source, new in plan.pairs])


def within(path: str, workdir) -> str:
  """A path as seen from the folder of a run, if it lies in it, which may be moved."""
  whole, root = pathlib.Path(path), pathlib.Path(workdir).absolute()
  return str(whole.relative_to(root)) if whole.is_relative_to(root) else path


def perform(workdir, plan: Plan, done: Callable[[], None] = lambda: None) -> None:
  """Does what a plan says, once it is written down.

  Args:
    workdir: the folder of the run, where the plan is kept for `undo`.
    plan: of `make_plan`.
    done: called after each file.

  Raises:
    UserError: an earlier one was not undone, or something came in between.
  """
  check_unsorted(workdir)
  path = pathlib.Path(workdir) / UNDO
  target = plan.folders[0] if plan.folders else ''
  kept = with_targets(plan, lambda new: within(new, workdir))
  files.write_text(path, json.dumps(kept._asdict(), indent=0) + '\n')
  with open(path, 'rb') as file:
    os.fsync(file.fileno())  # before anything else, also if the power fails
  try:
    for folder in plan.folders:
      os.makedirs(folder, exist_ok=True)
    ways: dict[str, Callable] = {
        'copy': copy_new, 'link': os.symlink, 'move': move_new}
    put = ways[plan.action]
    for source, target in plan.pairs:
      put(source, target)
      done()
  except FileExistsError as error:
    raise UserError(f'{error.filename2 or error.filename} is there now, which it was '
                    'not before: nothing is overwritten. --mode=sort --action=undo takes '
                    'back what was done.') from None
  except OSError as error:  # such as a disk that is full, or is gone
    where = error.filename2 or error.filename or target
    if plan.action == 'link' and error.errno in NO_LINKS:
      undo(workdir)
      raise UserError(f'The disk of {where} takes no links ({error.strerror}): take '
                      '--action=copy, or a folder on another disk by --to. What was done '
                      'is undone.') from None
    raise UserError(f'{where}: {error.strerror}. Not all files were laid into folders: '
                    '--mode=sort --action=undo takes back what was done.') from None


def copy_new(source: str, target: str) -> None:
  """Copies a file to where none is, with its times and permissions, if it has such."""
  with open(source, 'rb') as ours, open(target, 'xb') as theirs:
    shutil.copyfileobj(ours, theirs)
  with contextlib.suppress(PermissionError):  # as on disks of cameras, or of a network
    shutil.copystat(source, target)


def move_new(source: str, target: str) -> None:
  """Moves a file to where none is; at no moment it is nowhere."""
  try:
    os.link(source, target)
  except OSError as error:
    if error.errno == errno.EEXIST:
      raise
    copy_new(source, target)  # another disk, or one without hard links
    with open(target, 'rb') as file:
      os.fsync(file.fileno())
  os.unlink(source)


def begins(part: str, whole: str) -> bool:
  """Whether a file is the beginning of another one, or all of it."""
  if os.path.samefile(part, whole) or filecmp.cmp(part, whole, shallow=False):
    return True
  if os.path.getsize(part) > os.path.getsize(whole):
    return False
  with open(part, 'rb') as one, open(whole, 'rb') as other:
    while block := one.read(BLOCK):
      if block != other.read(len(block)):
        return False
  return True


def take_back(action: str, source: str, target: str) -> str:
  """Undoes what was done with a file.

  Returns:
    Why it was left alone; '': it was not.
  """
  if not os.path.lexists(target):
    lost = action == 'move' and not os.path.lexists(source)
    return f'{target!r} is gone, and {source!r} with it' if lost else ''
  if action == 'link':
    if not (os.path.islink(target) and os.readlink(target) == source):
      return f'{target!r} is no link to {source!r} any more'
  elif not os.path.isfile(source):
    if action == 'copy':
      return f'{target!r} stays, since {source!r} is gone'
    os.makedirs(os.path.dirname(source), exist_ok=True)
    move_new(target, source)
    return ''
  elif action == 'move' and not begins(target, source) and begins(source, target):
    os.unlink(source)  # of an undoing that was cut off
    move_new(target, source)
    return ''
  elif not begins(target, source):  # a copy that was cut off is the beginning
    return f'{target!r} was changed' if action == 'copy' else (
        f'{source!r} is there again, and another file than {target!r}')
  os.unlink(target)
  return ''


def performed(workdir) -> Plan:
  """What `perform` did, or was about to do when it was cut off.

  Raises:
    UserError: there is nothing to undo.
  """
  path = pathlib.Path(workdir) / UNDO
  try:
    return with_targets(Plan(**json.loads(path.read_bytes())),
                        lambda new: os.path.join(path.parent.absolute(), new))
  except FileNotFoundError:
    raise UserError(f'There is nothing to undo: {path} is not there.') from None
  except (ValueError, TypeError):
    raise UserError(f'{path} is damaged: restore it, or sort the files back by hand.'
                    ) from None


def undo(workdir, done: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
  """Takes back what `perform` did, or as much of it as was done.

  Args:
    workdir: the folder of the run.
    done: called after each file.

  Returns:
    The number of files of the plan, and why some were left alone.

  Raises:
    UserError: there is nothing to undo.
  """
  path, plan = pathlib.Path(workdir) / UNDO, performed(workdir)
  left: list[str] = []
  for source, target in plan.pairs:
    try:
      told = take_back(plan.action, source, target)
    except OSError as error:
      told = f'{target!r} cannot be taken back ({error.strerror})'
    left += filter(None, [told])
    done()
  for folder in reversed(plan.folders):
    try:
      os.rmdir(folder)
    except OSError:  # it is not there, or something else is in it
      pass
  if not left:
    path.unlink()
  return len(plan.pairs), left
