"""What a person sees of progress, and of a stop."""

import signal

import pytest

from jdiffclust import progress
from jdiffclust.errors import UserError


@pytest.mark.parametrize('seconds, said', [(.25, '4 images/s'), (4., '4.0 s each')])
def test_rates_are_said_as_a_person_would(seconds, said, monkeypatch, capsys):
  """Parts a second, or seconds a part; the last line says that it is done."""
  reporter = progress.Reporter(every=0.)
  monkeypatch.setattr(progress.Task, 'rate', property(lambda task: 1 / seconds))
  with reporter.task('look', 3, 'images') as task:
    for _ in range(3):
      task.advance(1)
  lines = capsys.readouterr().err.splitlines()
  assert [line.split(', ')[0] for line in lines] == [f'look: {k}/3' for k in (1, 2, 3)]
  assert lines[1] == f'look: 2/3, {said}, {seconds:.0f} s left'
  assert lines[2] == f'look: 3/3, {said}, done'


@pytest.mark.parametrize('total, unit, lines', [
    (100, progress.PERCENT, ['look: 1%, 198 s left', 'look: 100%, done']),
    (300, progress.PERCENT, ['look: 0%, 598 s left', 'look: 100%, done']),
    (1, 'maps', ['look: done'])])
def test_work_without_parts_that_say_anything(total, unit, lines, monkeypatch, capsys):
  """Hundredths are a percentage, without a rate; of one part it is said when done."""
  monkeypatch.setattr(progress.Task, 'rate', property(
      lambda task: .5 if task.total > 1 else None))
  with progress.Reporter(every=0.).task('look', total, unit) as task:
    for part in (1, total - 1):
      if part:
        task.advance(part)
  assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize('parts', [30, 100])
def test_a_task_ends_once(parts, capsys):
  """Whatever of it was counted before."""
  with progress.Reporter(every=0.).task('look', 100, progress.PERCENT) as task:
    task.advance(parts)
    task.finish()
  lines = capsys.readouterr().err.splitlines()
  assert [line.startswith('look: 100%') for line in lines].count(True) == 1
  assert lines[-1].startswith('look: 100%')


def test_a_name_of_a_file_is_no_line_of_its_own(capsys):
  """Nor a command for the terminal; letters of any script are left as they are."""
  reporter, name = progress.Reporter(), 'a\nerror: b\x1b[31m\u202egnp.\u2028ä 図'
  reporter.line(name)
  reporter.warning(name)
  spelt = r'a\nerror: b\x1b[31m\u202egnp.\u2028ä 図'
  assert capsys.readouterr().err.splitlines() == [spelt, f'warning: {spelt}']
  assert str(UserError(name)) == spelt


@pytest.mark.parametrize('name', ['folder:new: 2 images', '[red]a[/red].png', ':smile:'])
def test_a_name_of_a_file_is_no_markup(name, capsys):
  """Nor an emoji: it is printed as it is."""
  reporter = progress.Reporter()
  reporter.line(name)
  reporter.warning(name)
  assert capsys.readouterr().err.splitlines() == [name, f'warning: {name}']


def test_a_warning_is_given_once(capsys):
  """Whoever reads and whoever checks may both have it to give."""
  reporter = progress.Reporter()
  for text in ('a', 'b', 'a'):
    reporter.warning(text)
  assert capsys.readouterr().err.splitlines() == ['warning: a', 'warning: b']


def test_a_stop_is_answered_at_once(capsys):
  """The first Ctrl-C says what comes; the next safe moment or a second one stops."""
  reporter = progress.Reporter()
  with reporter.stopping_safely():
    signal.raise_signal(signal.SIGINT)
    assert 'Ctrl-C again' in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
      reporter.check_stopped()
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
