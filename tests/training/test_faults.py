"""What breaks around a run is told of in a line; once it is mended, the run goes on."""

import errno
import json
import resource
import shutil
import sys
import types

import orbax.checkpoint as ocp
import pytest
from tensorboardX.event_file_writer import EventsWriter

from jdiffclust.training.checkpoints import Checkpoints, numbers_in
from jdiffclust.training.writers import read_metrics
from jdiffclust.workdir import Workdir
from tests import command
from tests.helpers import check_error, check_same, newest

FULL = OSError(errno.ENOSPC, 'No space left on device')
# As TensorStore tells of it, and Orbax passes it on.
TENSORSTORE = ValueError("RESOURCE_EXHAUSTED: x [os_error_code='28']")


def failing_from(number, error, function):
  """A function that raises at its call of a number and ever after."""
  calls = []

  def call(*args, **kwargs):
    calls.append(args)
    if len(calls) >= number:
      raise error
    return function(*args, **kwargs)
  return call


# What is written to, the call from which on the disk is full, and the newest checkpoint
# by then: they are 0, 4, 6, 7, ... of the steps 0, 4, 6 and an E-step.
DISKS = {
    'config.json': ('jdiffclust.files.write_text', 1, FULL, None),
    'the first checkpoint': ('orbax.checkpoint.CheckpointManager.save', 1, TENSORSTORE,
                             None),
    'the third': ('orbax.checkpoint.CheckpointManager.save', 3, TENSORSTORE, 4),
    'TensorBoard': ('tensorboardX.event_file_writer.EventsWriter.flush', 1, FULL, 0),
    'results': ('jdiffclust.report.results.np.save', 1,
                OSError('12800 requested and 3200 written'), 14),
}


@pytest.mark.parametrize('name', DISKS)
def test_full_disk(name, commands, plain, tmp_path, monkeypatch):
  """One line that names the last good checkpoint; then the same command goes on."""
  where, number, error, last = DISKS[name]
  function = {'save': ocp.CheckpointManager.save, 'flush': EventsWriter.flush}.get(
      where.split('.')[-1])
  with monkeypatch.context() as patch:
    patch.setattr(where, failing_from(number, error, function))
    outcome = commands.fit(tmp_path)
  assert last == max(numbers_in(tmp_path), default=None)
  check_error(outcome, str(tmp_path), 'Make room',
              'There is no checkpoint yet' if last is None
              else f'last good checkpoint is {last}.')
  assert sum(line.startswith('error') for line in outcome.err.splitlines()) == 1
  assert not [path for path in tmp_path.rglob('*') if 'tmp' in path.name]
  assert commands.fit(tmp_path).code == 0
  check_same(tmp_path, plain)


def limited(argv) -> None:
  """`tests.command.run`, where no file may have more than 6 KiB."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (6 * 1024,) * 2)
  command.run(argv)


def test_file_size_limit(commands, tmp_path):
  """A real refusal, in the background of the second save: one line, nothing half-written.

  config.json and the first checkpoint, mostly zeros, take less than the limit, the second
  more, whose tau and means are of 24 clusters.
  """
  run, log, larger = tmp_path / 'run', tmp_path / 'log', 'num_clusters=24'
  assert commands.fit(tmp_path / 'whole', larger).code == 0  # leaves its programs, too
  process = commands.spawn(run, larger, log=log, devices=8, function=limited)
  assert process.wait(timeout=120) == 2
  told = log.read_text()
  assert 'Traceback' not in told and told.count('error: ') == 1
  assert '(File too large). The last good checkpoint is 0.' in told.splitlines()[-1]
  assert numbers_in(run) == [0]
  assert commands.fit(run, larger).code == 0
  check_same(run, tmp_path / 'whole')


def test_full_disk_of_another_mode(commands, plain, monkeypatch):
  """What cannot be written is named; it is no run that goes on."""
  def write(*args):
    raise OSError(errno.ENOSPC, 'No space left on device', 'samples.npy')
  monkeypatch.setattr('jdiffclust.outputs.write_samples', write)
  outcome = commands.fit(plain, flags=['--mode=sample'])
  check_error(outcome, 'samples.npy cannot be written (No space left on device)')


def test_a_workdir_that_is_removed_meanwhile(commands, plain, tmp_path, monkeypatch):
  """Of a mode that holds it for none: what is left is no run, and that is told."""
  run = shutil.copytree(plain, tmp_path / 'run')
  monkeypatch.setattr('jdiffclust.outputs.write_samples',
                      lambda *args: shutil.rmtree(run) or 'done')
  outcome = commands.fit(run, flags=['--mode=sample'])
  check_error(outcome, 'was removed, or replaced')
  assert 'done' not in outcome.out


def change_progress(workdir, change):
  """Applies a function to the progress of the newest checkpoint."""
  path = newest(workdir) / 'progress' / 'metadata'
  progress = json.loads(path.read_bytes())
  change(progress)
  path.write_text(json.dumps(progress))


def set_bound(progress):
  """As a flipped bit of a digit does."""
  progress['history'][0]['bound_nats'] += 1


@pytest.mark.parametrize('change', [
    set_bound, lambda progress: progress.update(iteration=1),
    lambda progress: progress['warnings'].append('')])
def test_changed_progress_is_damage(change, commands, plain, tmp_path):
  """JSON that is still whole, but another: the checkpoint before is used."""
  shutil.copytree(plain, tmp_path / 'run')
  change_progress(tmp_path / 'run', change)
  outcome = commands.fit(tmp_path / 'run')
  assert outcome.code == 0 and 'Resuming from checkpoint 13' in outcome.err
  assert 'checkpoint 14 is damaged' in outcome.err
  check_same(tmp_path / 'run', plain)


def test_progress_of_earlier_versions_has_no_seal(commands, plain, tmp_path):
  """It is taken as it is."""
  shutil.copytree(plain, tmp_path / 'run')
  change_progress(tmp_path / 'run', lambda progress: progress.pop('seal'))
  outcome = commands.fit(tmp_path / 'run')
  assert outcome.code == 0 and 'Resuming from checkpoint 14' in outcome.err


@pytest.mark.parametrize('text, shown', [
    ('Event loop is closed', 0), ('Encountered error while reading array index 3', 0),
    ('The event loop is closed', 1)])
def test_late_futures_are_hushed(text, shown, tmp_path, monkeypatch):
  """What Orbax's futures say when nobody listens any more; all else is shown, once."""
  class Late:
    def __del__(self):
      raise RuntimeError(text)

  seen = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda found: seen.append(found.exc_value))
  for _ in range(2):
    Checkpoints(tmp_path).close()
    Late()  # is forgotten at once
  assert [str(error) for error in seen] == [text] * 2 * shown


def test_halves_are_removed_at_the_end(tmp_path):
  """What a save has left behind; where that cannot be, nothing is said. Who only reads
  removes nothing."""
  checkpoints = Checkpoints(tmp_path)
  half, odd = (tmp_path / 'checkpoints' / f'{number}.orbax-checkpoint-tmp'
               for number in (4, 6))
  (half / 'arrays').mkdir(parents=True)
  odd.write_bytes(b'')  # no folder
  Checkpoints(tmp_path, read_only=True).close()
  assert half.exists()
  checkpoints.close()
  assert not half.exists()


def test_unreadable_metrics_are_left_out(tmp_path):
  """Cut off in the midst, as by a full disk, or no longer JSON; the others stay."""
  good = [{'step': 2, 'iteration': 0, 'loss': 1.}, {'step': 4, 'iteration': 0}]
  lines = [json.dumps(good[0]).encode(), b'{"step": 3, "it', b'\xff\xfe', b'[1]', b'7',
           b'{"step": "x", "iteration": 0}', json.dumps(good[1]).encode()]
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join(lines))
  assert read_metrics(tmp_path) == good


@pytest.fixture
def clock(monkeypatch):
  """The loop's clock, [seconds], which only goes on when a test says so."""
  now = [100.]
  monkeypatch.setattr('jdiffclust.training.loop.time',
                      types.SimpleNamespace(perf_counter=lambda: now[0]))
  return now


@pytest.mark.parametrize('every, save_takes, expected', [
    (0, 0., [0, 6, 7, 13, 14]),
    # Steps of 4 s: 12 s have passed after the third since a checkpoint, and at the ends.
    (10, 0., [0, 3, 6, 7, 10, 13, 14]),
    (12, 0., [0, 4, 6, 7, 11, 13, 14]),
    # They shall take 2% of the time at most: 0.2 s in 10 s, 1 s in 50 s.
    (10, .2, [0, 3, 6, 7, 10, 13, 14]),
    (10, 1., [0, 6, 7, 13, 14])])
def test_checkpoints_by_time(every, save_takes, expected, commands, plain, tmp_path,
                             clock, monkeypatch):
  """A step is followed by one where the last one is too old; the result is the same."""
  def slow(built):
    step = built.m_step

    def slow_step(*args):
      clock[0] += 4
      return step(*args)
    built.m_step = slow_step
    return built

  save = Workdir.save

  def slow_save(*args):
    clock[0] += save_takes
    save(*args)

  monkeypatch.setattr(commands, 'change', slow)
  monkeypatch.setattr(Workdir, 'save', slow_save)
  outcome = commands.fit(tmp_path, f'checkpoint.every_seconds={every}',
                         'checkpoint.every_steps=1000', 'checkpoint.keep=9')
  assert outcome.code == 0, outcome.err
  assert numbers_in(tmp_path)[::-1] == expected
  assert ((tmp_path / 'responsibilities.npy').read_bytes()
          == (plain / 'responsibilities.npy').read_bytes())
