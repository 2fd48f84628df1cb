"""A run that is cut off anywhere, or whose checkpoint is damaged, loses nothing."""

import functools
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jdiffclust import progress
from jdiffclust.training import checkpoints as checkpoints_lib
from jdiffclust.training.loop import Fitter
from jdiffclust.training.writers import MetricsWriter, read_metrics
from tests.command import run_below
from tests.helpers import check_same, newest, summary_of, wait_for


class Cut(BaseException):
  """The end of a run in this process, in the place of a kill."""


def test_kill_9(commands, plain, tmp_path):
  """Killed at the start, in M- and E-steps, at random moments; then ends the same."""
  rng = np.random.default_rng(0)
  for number, text in enumerate(['start (', 'EM 1/2 M-step', 'EM 1/2 E-step', '']):
    log = tmp_path / f'log{number}'
    process = commands.spawn(tmp_path / 'run', log=log, devices=8)
    try:
      if text and wait_for(log, text, process):
        time.sleep(rng.uniform(0, .3))
        process.send_signal(signal.SIGKILL)
      process.wait(timeout=120)
    finally:
      process.kill()
  assert process.returncode == 0, log.read_text()
  assert 'Traceback' not in log.read_text()
  check_same(tmp_path / 'run', plain)


def test_kill_9_of_the_shell_around_it(commands, plain, tmp_path):
  """The run goes on without its shell; the next one takes over, and ends the same."""
  log = tmp_path / 'log'
  shell = commands.spawn(tmp_path / 'run', log=log, devices=8, function=run_below)
  try:
    assert wait_for(log, 'EM 1/2 M-step', shell)
    left = json.loads((tmp_path / 'run' / '.lock').read_text())['pid']
    assert left != shell.pid
    os.kill(left, signal.SIGSTOP)  # or it would have ended before the next one starts
  finally:
    shell.kill()
    shell.wait(timeout=60)
  log = tmp_path / 'log2'
  process = commands.spawn(tmp_path / 'run', log=log, devices=8)
  try:
    assert wait_for(log, f'An earlier run (process {left})', process)
    os.kill(left, signal.SIGCONT)
    process.wait(timeout=120)
  finally:
    process.kill()
  assert process.returncode == 0, log.read_text()
  check_same(tmp_path / 'run', plain)


@pytest.mark.parametrize('pipeline,posterior', [
    ('grain', 'monte_carlo'), ('memory', 'amortised')])
def test_cut_at_every_moment(pipeline, posterior, commands, tmp_path, monkeypatch):
  """Cut at the 4th, 3rd and 3rd report of progress, again and again, each run going on
  from there: at each of the 6 steps of an M-step once at least."""
  options = [f'data.pipeline={pipeline}', f'em.posterior={posterior}',
             'checkpoint.every_steps=1']
  reference = tmp_path / 'reference'
  assert commands.fit(reference, *options).code == 0
  countdown, begun_at = [], []
  advance, m_phase = progress.Task.advance, Fitter.m_phase

  def counting(task, *args):
    countdown[0] -= 1
    if countdown[0] == 0:
      raise Cut
    advance(task, *args)

  def noting(fitter):
    if not countdown[1:]:  # the first of this run
      countdown.append('begun')
      begun_at.append(fitter.step)
    m_phase(fitter)

  monkeypatch.setattr(progress.Task, 'advance', counting)
  monkeypatch.setattr(Fitter, 'm_phase', noting)
  for number in 4 * [4, 3, 3]:
    countdown[:] = [number]
    try:
      outcome = commands.fit(tmp_path / 'run', *options)
    except Cut:
      continue
    assert outcome.code == 0, outcome.err
    break
  assert {step % 6 for step in begun_at} == set(range(6))
  check_same(tmp_path / 'run', reference)


def test_the_pipeline_changes_nothing(commands, plain, tmp_path, monkeypatch):
  """Begun in memory, cut in the M-step, gone on by Grain: bit for bit the plain run."""
  advance, reports = progress.Task.advance, []

  def cutting(task, *args):
    reports.append(task.name)
    if len(reports) == 5:
      raise Cut
    advance(task, *args)

  monkeypatch.setattr(progress.Task, 'advance', cutting)
  with pytest.raises(Cut):
    commands.fit(tmp_path, 'data.pipeline=memory')
  assert 'M-step' in reports[-1]
  assert commands.fit(tmp_path, 'data.pipeline=grain', 'data.workers=3').code == 0
  check_same(tmp_path, plain)


def largest_file(folder):
  """The largest file below a folder."""
  return max((p for p in folder.rglob('*') if p.is_file()),
             key=lambda p: p.stat().st_size)


def truncate(folder):
  """Cuts the largest file to half."""
  path = largest_file(folder)
  path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(folder):
  """Flips bits in the middle of the largest file."""
  path = largest_file(folder)
  data = bytearray(path.read_bytes())
  for i in range(len(data) // 2, len(data) // 2 + 16):
    data[i] ^= 0xff
  path.write_bytes(data)


def empty_all(folder):
  """Empties every file."""
  for path in folder.rglob('*'):
    if path.is_file():
      path.write_bytes(b'')


def forge(folder):
  """Changes the checksum: as if bits had changed which no one else notices."""
  path = folder / 'progress' / 'metadata'
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {'digest': content['digest'] ^ 1}))


DAMAGES = {
    'checksum wrong': forge,
    'truncated': truncate, 'flipped': flip, 'emptied': empty_all,
    'progress deleted': lambda folder: shutil.rmtree(folder / 'progress'),
    'arrays deleted': lambda folder: shutil.rmtree(folder / 'arrays'),
    **{f'progress {text}': functools.partial(
        lambda text, folder: (folder / 'progress' / 'metadata').write_text(text), text)
       for text in ('{"it', '{}', 'null')},
    'manifest deleted': lambda folder: (
        folder / 'arrays' / 'manifest.ocdbt').unlink(),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damaged_checkpoint_is_passed_over(name, commands, plain, tmp_path):
  """It is reported, the one before is used, and the result is the same."""
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  DAMAGES[name](newest(workdir))
  outcome = commands.fit(workdir)
  assert outcome.code == 0, outcome.err
  assert 'warning: checkpoint 14 is damaged' in outcome.err
  assert 'Resuming from checkpoint 13' in outcome.err
  check_same(workdir, plain)


def test_reading_modes_pass_over_damage_and_leave_it(commands, plain, tmp_path):
  """sample warns, uses the one before and deletes nothing."""
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  truncate(newest(workdir))
  files = lambda: {p: p.stat().st_mtime_ns
                   for p in (workdir / 'checkpoints').rglob('*')}
  before = files()
  outcome = commands.fit(workdir, flags=['--mode=sample'])
  assert outcome.code == 0 and 'checkpoint 14 is damaged' in outcome.err
  assert before == files()


@pytest.mark.parametrize('mode', ['fit', 'sample'])
def test_all_checkpoints_damaged(mode, commands, plain, tmp_path):
  """Nothing can be used: an error that says so; nothing is deleted."""
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  for folder in (workdir / 'checkpoints').iterdir():
    truncate(folder)
  outcome = commands.fit(workdir, flags=[f'--mode={mode}'])
  assert outcome.code == 2 and 'Traceback' not in outcome.err
  last = outcome.err.splitlines()[-1]
  assert last.startswith('error: None of the checkpoints [14, 13, 9]')
  assert len(list((workdir / 'checkpoints').iterdir())) == 3


def test_finished_run_again(commands, plain, tmp_path, monkeypatch):
  """No step is taken, and the files are the same."""
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  for step in ('m_phase', 'e_phase'):
    monkeypatch.setattr(f'jdiffclust.training.loop.Fitter.{step}', None)
  outcome = commands.fit(workdir)
  assert outcome.code == 0 and 'Resuming from checkpoint 14' in outcome.err
  check_same(workdir, plain)
  summaries = [summary_of(w) for w in (workdir, plain)]
  for summary in summaries:
    del summary['wall_seconds'], summary['command']
    summary.pop('peak_memory_mib', None)  # of the process
  assert summaries[0] == summaries[1]


@pytest.mark.parametrize('keep', [1, 2])
def test_keep(keep, commands, tmp_path):
  """So many of the newest checkpoints stay."""
  assert commands.fit(tmp_path, f'checkpoint.keep={keep}').code == 0
  kept = sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir())
  assert kept == [9, 13, 14][-keep:]


def test_logging_and_checkpoints_do_not_change_the_result(commands, plain, tmp_path):
  """Other intervals, the same clusters."""
  outcome = commands.fit(tmp_path, 'log.every_steps=5', 'checkpoint.every_steps=100')
  assert outcome.code == 0
  assert ((tmp_path / 'responsibilities.npy').read_bytes()
          == (plain / 'responsibilities.npy').read_bytes())


def test_other_number_of_images_is_refused(commands, tmp_path, cut_before_learning):
  """A data set that has grown since is not resumed on."""
  images = np.random.default_rng(0).integers(0, 256, (61, 8, 8), np.uint8)
  data = 'data.source=npz', f'data.path={tmp_path}/x.npz', 'data.max_images=0'
  codes = []
  for number in (60, 61):
    np.savez(tmp_path / 'x.npz', images=images[:number])
    outcome = commands.fit(tmp_path / 'run', *data)
    codes.append(outcome.code)
  assert codes == [130, 2] and cut_before_learning == [1]
  assert '61 images now' in outcome.err.splitlines()[-1]


def test_interrupt_says_how_to_go_on(commands, plain, tmp_path, monkeypatch):
  """Ctrl-C ends with 130 and one line; the same command goes on."""
  def interrupt(*args):
    raise KeyboardInterrupt
  with monkeypatch.context() as patch:
    patch.setattr('jdiffclust.training.loop.Fitter.e_phase', interrupt)
    outcome = commands.fit(tmp_path / 'run')
  assert outcome.code == 130
  assert 'goes on from the last checkpoint' in outcome.err.splitlines()[-1]
  assert commands.fit(tmp_path / 'run').code == 0
  check_same(tmp_path / 'run', plain)


def test_interrupted_process_ends_cleanly(commands, tmp_path):
  """Ctrl-C while a checkpoint is written: no traceback."""
  log = tmp_path / 'log'
  process = commands.spawn(tmp_path / 'run', 'checkpoint.every_steps=1',
                           'm_step.num_steps=500', log=log, devices=8)
  try:
    assert wait_for(log, 'EM 1/2 M-step', process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
  finally:
    process.kill()
  assert 'Traceback' not in log.read_text() and 'stopped' in log.read_text()


def test_checksum_covers_every_array():
  """A change of any element, sign bit included, changes the digest."""
  tree = {'a': np.zeros((2, 3), np.float32), 'b': np.arange(4)}
  before = checkpoints_lib.digest(tree)
  copy = {name: array.copy() for name, array in tree.items()}
  assert checkpoints_lib.digest(copy) == before
  tree['a'][1, 2] = -0.
  assert checkpoints_lib.digest(tree) != before


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
  """And a last line cut off by a kill, too."""
  writer = MetricsWriter(tmp_path)
  for step, iteration in ((2, 0), (4, 0), (4, 1), (6, 1)):
    writer.write(step, iteration, loss=1.)
  writer.close()
  with open(tmp_path / 'metrics.jsonl', 'a', encoding='utf-8') as file:
    file.write('{"step": 8, "it')
  assert len(read_metrics(tmp_path)) == 4
  writer = MetricsWriter(tmp_path, resumed_from=5)
  writer.write(5, 1, loss=2.)
  writer.close()
  assert [(line['step'], line['iteration']) for line in read_metrics(tmp_path)] == [
      (2, 0), (4, 0), (4, 1), (5, 1)]


def shown_steps(events):
  """Steps of the losses TensorBoard shows: a restart at step s hides s and later."""
  steps = []
  for event in events:
    if event.session_log.status == event_pb2.SessionLog.START:
      steps = [step for step in steps if step < event.step]
    steps += [event.step for value in event.summary.value if value.tag == 'loss']
  return steps


@pytest.mark.parametrize('iteration, resumed_step', [(0, 4), (3, 4)])
def test_tensorboard_goes_on_like_the_metrics_of(iteration, resumed_step, events,
                                              tmp_path):
  """Cut after step 6, resumed from the checkpoint at step 4: no gap, no doubles."""
  for first, resumed_from in ((1, 0), (resumed_step + 1, resumed_step + iteration)):
    if resumed_from:
      time.sleep(1.1)  # the files are named by the second
    writer = MetricsWriter(tmp_path, resumed_from=resumed_from)
    for step in range(first, 7):
      writer.write(step, iteration, loss=1.)
    writer.close()
  assert shown_steps(events(tmp_path)) == [step + iteration for step in range(1, 7)]
