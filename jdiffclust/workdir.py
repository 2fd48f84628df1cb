"""A run's folder: who may write in it, its config, and what a fit keeps there.

One run at a time: the system drops the lock with the process that holds it, so a killed
run never blocks the next. But where only the shell around a run was killed, the run
itself goes on, with nobody waiting for it: such a *left-over* run is ended by the next
one, if that one says so, which then goes on from its checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from jdiffclust import added, files
from jdiffclust import config as config_lib
from jdiffclust.data.dataset import ImageSource
from jdiffclust.data.fingerprint import as_before, fingerprint, reordered
from jdiffclust.errors import UserError
from jdiffclust.report import results
from jdiffclust.training.checkpoints import Checkpoints, Snapshot, numbers_in
from jdiffclust.training.storage import Store
from jdiffclust.training.writers import MetricsWriter

SYMMETRIES = 'symmetries.json'  # which maps were found to leave the content alone
LOCK = '.lock'  # held by the run that writes; says which process that is
LOCK_OF = '.lock_{}'  # the same, of a mode that writes beside the run what no other does
COMMAND = 'command.txt'  # the command line of the fit
RECOGNISER = 'recogniser.npz'  # what tells the clusters of new images
AGREEMENT = 'agreement.json'  # which clusters came back
EXAMPLES = 'examples.npz'  # images of the fit, by which damaged ones are known
# What the system says where a disk, such as one of a network, has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def is_main_process() -> bool:
  """Whether this process writes files, of those that share a run."""
  return jax.process_index() == 0


class Workdir(Store):
  """Keeps a fit in a folder: config, checkpoints and metrics.

  Attributes:
    path: the folder.
  """

  def __init__(self, path, keep: int = 3, started: float | None = None):
    """Looks whether a run has begun there; nothing is written yet.

    Args:
      path: the folder.
      keep: checkpoints that are kept.
      started: see `Store`.
    """
    super().__init__(started)
    self.path = pathlib.Path(path)
    self.resumes = config_lib.has_config(path)
    self._keep, self._number, self._held = keep, 0, False
    self._checkpoints: Any = None  # `Checkpoints`, from `restore` on
    self._writer: MetricsWriter | None = None

  def differences(self, config) -> list[str]:
    """What sets the run which has begun here, if any, apart from a config.

    Args:
      config: of the fit to come; an automatic number of clusters becomes the one that was
        chosen when the run began, and automatic shares of views those that it has.

    Returns:
      A line each.

    Raises:
      UserError: config.json is damaged.
    """
    if not self.resumes:
      return []
    fitted = config_lib.fitted_config(self.path)
    if config.num_clusters == config_lib.AUTO and self.choice():
      config.num_clusters = fitted.num_clusters
    elif self.choice():  # a number is given: by what rule one is chosen has no effect
      for name in ('auto_clusters', 'auto_parts'):
        config.em[name] = fitted.em[name]
    config_lib.settle_like(fitted, config)
    number = len(self.fingerprint().get('ids', ()))
    if number:  # what counts is how many steps they make of these images
      fitted, config = (config_lib.for_collection(c, number) for c in (fitted, config))
    return config_lib.differences(fitted, config)

  def check(self, config) -> None:
    """Checks that the run which has begun here, if any, is of this config.

    Args:
      config: is changed as by `differences`.

    Raises:
      UserError: it is of another one; what differs is named.
    """
    different = self.differences(config)
    if different:
      raise UserError(f'The workdir {str(self.path)!r} belongs to another config: '
                      f"{'; '.join(different)}. Choose another --workdir, or give the "
                      'same options.')

  @contextlib.contextmanager
  def held(self, end_left_over: Callable[[str], None] | None = None) -> Iterator[None]:
    """Makes the folder and holds it for this run.

    Args:
      end_left_over: see `workdir_lock`.

    Raises:
      UserError: it is a file, or may not be made or written, or another run holds it; or
        the disk took no more while it was held: the last good checkpoint is named.
    """
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      writable = os.access(self.path, os.W_OK | os.X_OK)
    except OSError as error:
      why = 'it is a file' if os.path.isfile(self.path) else error.strerror
      raise UserError(f'--workdir={self.path} cannot be made ({why}): name a folder that '
                      'may be written.') from None
    if not writable:
      raise UserError(f'--workdir={self.path} may not be written: choose another folder.')
    # The other processes of a left-over run on several hosts would be out of our reach.
    alone = jax.process_count() == 1
    try:
      with main_process_lock(self.path, end_left_over if alone else None):
        self._held = is_main_process()
        try:
          yield
        finally:
          self._held = False
          self._close()
    except OSError as error:
      why = files.refusal(error)
      if not why:
        raise
      raise UserError(
          f'--workdir={self.path} cannot be written any more ({why}). '
          f'{_last_good(self.path)} Make room there, and give the same command again: '
          'the run goes on.') from None

  def keep_config(self, config) -> None:
    """Writes config.json."""
    if is_main_process():
      files.write_text(self.path / 'config.json', config_lib.to_json(config))

  def keep_images(self, source: ImageSource) -> None:
    """Writes images.json, unless the run has begun."""
    if is_main_process() and not self.resumes:
      self.keep_fingerprint(fingerprint(source))

  def keep_fingerprint(self, found: dict) -> None:
    """Writes images.json, of `fingerprint.fingerprint`."""
    files.write_text(self.path / 'images.json', json.dumps(found))

  def fingerprint(self) -> dict:
    """What `keep_images` wrote; {} if it cannot be read, see `images_of_run`."""
    try:
      found = json.loads((self.path / 'images.json').read_bytes())
    except (OSError, ValueError):
      return {}
    return found if isinstance(found, dict) else {}

  def keep_choice(self, choice: dict | None) -> None:
    """Writes num_clusters.json and .png; None: removes what an earlier run left."""
    if not is_main_process():
      return
    if choice is None:  # left by a run that was cut off before it began
      (self.path / 'num_clusters.json').unlink(missing_ok=True)
    else:
      results.write_choice(self.path, choice)

  def choice(self) -> dict | None:
    """What `keep_choice` wrote; None if the number was given."""
    return results.read_choice(self.path)

  def keep_agreement(self, found: dict | None) -> None:
    """Writes agreement.json; None: removes what an earlier run left."""
    self._keep_json(AGREEMENT, found)

  def agreement(self) -> dict | None:
    """What `keep_agreement` wrote; None: the start was not repeated."""
    return self._json(AGREEMENT)

  def keep_recogniser(self, arrays: dict) -> None:
    """Writes recogniser.npz."""
    if is_main_process():
      files.write_npz(self.path / RECOGNISER, arrays)

  def recogniser(self) -> dict | None:
    """What `keep_recogniser` wrote.

    Raises:
      UserError: it is missing or damaged.
    """
    arrays = files.read_npz(self.path / RECOGNISER)
    if arrays is None:
      raise UserError(f'{self.path / RECOGNISER} is missing or damaged: restore it, or '
                      'fit into a new workdir.')
    return arrays

  def keep_examples(self, images) -> None:
    """Writes examples.npz."""
    if is_main_process():
      files.write_npz(self.path / EXAMPLES, {'images': images})

  def examples(self):
    """What `keep_examples` wrote; None: the run is of a version that did not.

    Raises:
      UserError: it is damaged.
    """
    path = self.path / EXAMPLES
    if not path.exists():
      return None
    arrays = files.read_npz(path)
    if arrays is None or 'images' not in arrays:
      raise UserError(f'{path} is damaged: restore it, or remove it; clusters of damaged '
                      'images are told by draws then.')
    return arrays['images']

  def keep_symmetries(self, found: dict | None) -> None:
    """Writes symmetries.json; None: removes what an earlier run left."""
    self._keep_json(SYMMETRIES, found)

  def symmetries(self) -> dict | None:
    """What `keep_symmetries` wrote; None: all were given."""
    return self._json(SYMMETRIES)

  def _keep_json(self, name: str, found: dict | None) -> None:
    if not is_main_process():
      return
    if found is None:
      (self.path / name).unlink(missing_ok=True)
    else:
      files.write_text(self.path / name, json.dumps(found, indent=2) + '\n')

  def _json(self, name: str) -> dict | None:
    return files.read_json(self.path / name)

  def restore(self, template, warn):
    """See `Checkpoints.restore_newest`."""
    self._checkpoints = Checkpoints(self.path, self._keep)
    restored = self._checkpoints.restore_newest(template, warn)
    self._number = 0 if restored is None else restored[0]
    return restored

  def save(self, number: int, snapshot: Snapshot) -> None:
    """See `Checkpoints.save`.

    Raises:
      UserError: the folder is gone, and would be made anew, without what was in it.
    """
    if self._held and not (self.path / LOCK).is_file():
      raise _gone(self.path)
    self._checkpoints.save(number, snapshot)

  def write(self, step: int, iteration: int, **values: float) -> None:
    """See `MetricsWriter.write`."""
    if not is_main_process():
      return
    if self._writer is None:
      self._writer = MetricsWriter(self.path, self._number)
    self._writer.write(step, iteration, **values)

  def last_good(self) -> str:
    """Names the newest checkpoint."""
    self._checkpoints.wait()
    return _last_good(self.path)

  def finish(self) -> None:
    """Waits for the checkpoints, closes the metrics."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None
    self._checkpoints.wait()

  def _close(self):
    if self._checkpoints is not None:
      self._checkpoints.close()


def _last_good(workdir) -> str:
  numbers = numbers_in(workdir)
  return (f'The last good checkpoint is {numbers[0]}.' if numbers
          else 'There is no checkpoint yet.')


def command_of(workdir) -> str | None:
  """The command line of the fit in a folder; None: it is not known."""
  path = pathlib.Path(workdir) / COMMAND
  return path.read_text(encoding='utf-8').strip() if path.is_file() else None


def added_later(workdir, data) -> set[str]:
  """Ids of the images in the folder of a run that were added to the run from there.

  Args:
    workdir: a folder, of a run or not.
    data: the section `data` of its config.
  """
  if not os.path.isdir(workdir):  # what is wrong with its name is told later
    return set()
  return added.names_from(workdir, os.path.abspath(os.path.expanduser(data.path)))


def images_of_run(source: ImageSource, workdir) -> ImageSource:
  """The images in the order that the run of a workdir began with.

  Those of the same folder that were added to the run since are left out.

  Args:
    source: the images found now.
    workdir: a folder; where no run has begun, or one of an earlier version, which did not
      write down its images, they are returned as they are.

  Raises:
    UserError: they are others, see `fingerprint.as_before`; images.json is damaged; or an
      earlier version chose other images by data.max_images.
  """
  path = pathlib.Path(workdir) / 'images.json'
  if not config_lib.has_config(workdir):  # cut off before it began
    return source
  if not path.is_file():
    if source.num_images == config_lib.fitted_config(workdir).data.max_images:
      raise UserError(
          f'The run in {str(workdir)!r} is of an earlier version, in which '
          f'config.data.max_images = {source.num_images} chose other images: use that '
          'version, or fit into a new workdir.')
    return source
  try:
    kept = json.loads(path.read_bytes())
    later = set(source.ids) - set(kept['ids'])
    if later and later <= added_later(workdir, config_lib.fitted_config(workdir).data):
      source = reordered(source, np.array([
          row for row, name in enumerate(source.ids) if name not in later], int))
    return as_before(source, kept, repr(str(workdir)))
  except (ValueError, KeyError, TypeError):
    raise UserError(
        f'{path} is damaged: restore it, or fit into a new workdir.') from None


def restore_fit(workdir, template, warn,
                start_will_do: bool = False) -> tuple[int, Snapshot]:
  """The newest checkpoint of a completed EM iteration, read-only.

  Args:
    workdir: of a fit.
    template: see `Checkpoints.restore_newest`.
    warn: called with a line on each damaged one, and where the fit has not ended.
    start_will_do: whether it may be that of a start, of which no iteration is completed.

  Raises:
    UserError: there is none.
  """
  missing = UserError(f'The workdir {str(workdir)!r} has no checkpoint of a completed EM '
                      'iteration: let --mode=fit run to its end first.')
  if not os.path.isdir(pathlib.Path(workdir) / 'checkpoints'):
    raise missing
  with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
    restored = checkpoints.restore_newest(template, warn)
  if restored is None:
    raise missing
  if not restored[1].progress['history']:
    if not start_will_do:
      raise missing
  elif not restored[1].progress['stop_reason']:
    warn(f'the fit in {workdir} has not ended: using its checkpoint {restored[0]}.')
  return restored


def _gone(workdir) -> UserError:
  return UserError(f'The workdir {workdir} was removed, or replaced, while this command '
                   'wrote to it: what is there now is not whole. Remove it, or bring it '
                   'back, and give the command again.')


# -------------------------------------------------------------------------- the lock


def main_process_lock(workdir, end_left_over=None, mode: str = ''):
  """The workdir's lock in the main process; the others rely on it."""
  return (workdir_lock(workdir, end_left_over, mode=mode) if is_main_process()
          else contextlib.nullcontext())


class Holder(NamedTuple):
  """What the lock file says of the process that holds the lock.

  Attributes:
    pid: its process id.
    parent: its parent's process id when it took the lock.
    created: when it began, in seconds of the epoch: ids are used again.
    host: the machine it runs on.
  """

  pid: int
  parent: int
  created: float
  host: str


def this_process() -> Holder:
  """The calling process as a holder."""
  process = psutil.Process()
  return Holder(process.pid, process.ppid(), process.create_time(), socket.gethostname())


def read_holder(file) -> Holder | None:
  """Who holds the lock, by its open file; None if that cannot be read."""
  file.seek(0)
  try:
    return Holder(**json.load(file))
  except (ValueError, TypeError):
    return None


def left_over(holder: Holder | None) -> psutil.Process | None:
  """The holder's process, if its parent has died since it took the lock.

  Args:
    holder: who holds the lock; None: unknown.

  Returns:
    The process; None if its parent lives, or if that cannot be known from here (another
    host, another process of the same id, an unknown holder).
  """
  if holder is None or holder.host != socket.gethostname():
    return None
  try:
    process = psutil.Process(holder.pid)
    same = abs(process.create_time() - holder.created) < 1.
    return process if same and process.ppid() != holder.parent else None
  except psutil.Error:
    return None


def _locked(file) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in NO_LOCKS:
      raise
    raise UserError(f'The disk of {file.name} knows no locks ({error.strerror}), by '
                    'which two runs are kept apart: choose a workdir on another one.'
                    ) from None
  return True


def _locked_within(file, seconds: float) -> bool:
  end = time.monotonic() + seconds
  while not _locked(file):
    if time.monotonic() > end:
      return False
    time.sleep(.05)
  return True


@contextlib.contextmanager
def workdir_lock(workdir, end_left_over: Callable[[str], None] | None = None,
                 patience: float = 30., mode: str = '') -> Iterator[None]:
  """Holds the workdir for this process.

  Args:
    workdir: a folder.
    end_left_over: called with a line for the user when a left-over run holds the
      workdir; that run is then stopped (SIGTERM, and SIGKILL if it does not listen).
      None: it is treated like any other run.
    patience: seconds that a left-over run has to stop, after each signal.
    mode: of a command that writes files which no other mode does: it is kept apart from
      others of the same alone. '': from all that change the run.

  Raises:
    UserError: another run holds it; or the folder was removed meanwhile.
  """
  path = pathlib.Path(workdir) / (LOCK_OF.format(mode) if mode else LOCK)
  with open(path, 'a+', encoding='utf-8') as file:
    if not _locked(file):
      process = left_over(read_holder(file)) if end_left_over else None
      if process is None or not _end(process, file, end_left_over, patience):
        holder = read_holder(file)  # it may be another by now
        name = holder.pid if holder else 'unknown'
        raise UserError(
            f'Another --mode={mode} (process {name}) is writing to the workdir '
            f'{workdir}, where yours would replace its results: wait for it, or stop it.'
            if mode else f'Another run (process {name}) is using the workdir {workdir}: '
            'wait for it, stop it, or choose another --workdir.')
    file.truncate(0)
    json.dump(this_process()._asdict(), file)
    file.flush()
    try:
      yield
    except Exception as error:  # whatever a removed folder has led to
      if not _is_same(file, path):
        raise _gone(workdir) from error
      raise
    if not _is_same(file, path):
      raise _gone(workdir)


def _is_same(file, path: pathlib.Path) -> bool:
  """Whether an open file is still the one at a path."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except (FileNotFoundError, NotADirectoryError):  # a file stands where the folder was
    return False


def _end(process, file, tell, patience) -> bool:
  """Stops a left-over run; returns whether the lock is ours."""
  tell(f'An earlier run (process {process.pid}) outlived the shell that had started it '
       'and is still using the workdir: stopping it, going on from its checkpoints.')
  for stop in (process.terminate, process.kill):
    try:
      stop()
    except psutil.NoSuchProcess:
      pass  # it has ended by itself meanwhile
    except psutil.AccessDenied:
      return False
    if _locked_within(file, patience):
      return True
  return False
