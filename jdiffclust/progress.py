"""What a person sees of a run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn)

from jdiffclust.errors import on_one_line

PERCENT = 'percent'  # a unit: hundredths of work that has no parts to be counted


def in_words(seconds: float) -> str:
  """Seconds as a person says them."""
  if seconds < 90:
    return f'{max(5, 5 * round(seconds / 5))} s'
  if seconds < 5400:
    return f'{round(seconds / 60)} min'
  return f'{seconds / 3600:.1f} h'


class Task:
  """One piece of work with a known number of parts."""

  def __init__(self, reporter: 'Reporter', name: str, total: int, unit: str):
    """Starts the clock at the first `advance`, so that compilation is left out.

    Args:
      reporter: shows it.
      name: of the work.
      total: its number of parts.
      unit: what a part is, several of them; PERCENT: a hundredth of something, whose
        rate says nothing to a person.
    """
    self._reporter, self.name, self.total, self.unit = reporter, name, total, unit
    self.done, self.counted = 0, 0
    self._started: float | None = None
    self._printed: float | None = None
    self._bar = None
    if reporter.bars:
      self._bar = reporter.bars.add_task(name, total=total, note='')

  @property
  def seconds(self) -> float:
    """Seconds over which `counted` parts were done."""
    return 0. if self._started is None else time.perf_counter() - self._started

  @property
  def rate(self) -> float | None:
    """Parts a second, without the first `advance`, which compiles; None: unknown."""
    return self.counted / self.seconds if self.counted and self.seconds > 0 else None

  def advance(self, parts: int, note: str = '') -> None:
    """Counts parts as done and shows a note; may stop, see `Reporter.check_stopped`."""
    self._reporter.check_stopped()
    self.done += parts
    if self._started is None:
      self._started = time.perf_counter()
    else:
      self.counted += parts
    if self._bar is not None and self._reporter.bars is not None:
      rate = self._in_words() if self.rate and self.unit != PERCENT else ''
      self._reporter.bars.update(self._bar, completed=self.done,
                                 note='  '.join(filter(None, (rate, note))))
    elif not self._reporter.quiet:
      self._print(note)

  def finish(self) -> None:
    """Counts what is left as done, if anything is."""
    if self.done < self.total:
      self.advance(self.total - self.done)

  def _in_words(self) -> str:
    """The rate as a person says it: 12 images/s, or 3.4 s each."""
    rate = self.rate or 0.
    return f'{rate:,.0f} {self.unit}/s' if rate >= 1 else f'{1 / rate:,.1f} s each'

  def _print(self, note):
    now = time.perf_counter()
    finished = self.done >= self.total
    if not finished and self._printed and now - self._printed < self._reporter.every:
      return
    self._printed = now
    hundredths = self.unit == PERCENT
    parts = [f'{self.name}: {self.done / self.total:.0%}' if hundredths else
             f'{self.name}: {self.done:,}/{self.total:,}' if self.total > 1 else
             f'{self.name}: done']
    if self.rate:
      left = (self.total - self.done) / self.rate
      parts += [self._in_words()] * (not hundredths)
      parts += ['done' if finished else f'{left:.0f} s left']
    self._reporter.line(', '.join(parts + [note] * bool(note)))


class _Console(Console):
  """A console whose reader may go: the caller decides what that means, not rich."""

  def on_broken_pipe(self) -> None:
    """Raises what was being handled, a BrokenPipeError."""
    self.quiet = True
    raise  # noqa: PLE0704 (rich calls this while it handles the error)


class Reporter:
  """Shows progress on standard error.

  Attributes:
    quiet: show nothing but warnings.
    bars: rich's display while `tasks` is open on a terminal, else None.
    every: seconds between plain lines.
    clock: knows what is left of the whole work, see `estimate.Clock`; None: nobody does.
    stop_requested: the run shall stop at its next safe moment.
  """

  def __init__(self, quiet: bool = False, every: float = 10.):
    """Writes to the standard error of the moment."""
    self.quiet, self.every, self.clock = quiet, every, None
    self.bars: Progress | None = None
    self.stop_requested = False
    self._told: set[str] = set()
    # Text is printed as it is: names of files may hold ':new:' or '[red]'.
    self._console = _Console(file=sys.stderr, highlight=False, soft_wrap=True,
                             markup=False, emoji=False)

  def line(self, text: str) -> None:
    """Prints a line, unless quiet."""
    if not self.quiet:
      self._console.print(on_one_line(text))

  def warning(self, text: str) -> None:
    """Prints a warning, quiet or not; the same one once."""
    if text in self._told:
      return
    self._told.add(text)
    self._console.print(f'warning: {on_one_line(text)}')

  def check_stopped(self) -> None:
    """Raises KeyboardInterrupt if a stop was requested; called at safe moments only."""
    if self.stop_requested:
      raise KeyboardInterrupt

  @contextlib.contextmanager
  def stopping_safely(self) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the run at its next safe moment, a second at once.

    An interrupt in the midst of a library's write would leave its threads complaining.
    """
    def request(number, frame):
      del number, frame
      self.check_stopped()
      self.stop_requested = True
      self.line('Stopping at the next safe moment, which may take a while; Ctrl-C again: '
                'at once.')

    old = {number: signal.signal(number, request)
           for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  @contextlib.contextmanager
  def task(self, name: str, total: int, unit: str) -> Iterator[Task]:
    """Opens a `Task`; its bar disappears when it ends."""
    if self.clock is None:
      with self._task(name, total, unit) as task:
        yield task
      return
    self.clock.begins(name)
    with self._task(name, total, unit) as task:
      yield task
    if self.clock.ends(name) and self.clock.left:
      self.line(f'About {in_words(self.clock.left)} are left in all.')

  @contextlib.contextmanager
  def _task(self, name: str, total: int, unit: str) -> Iterator[Task]:
    if self.quiet or not self._console.is_terminal:
      yield Task(self, name, total, unit)
      return
    with Progress(TextColumn('{task.description}', markup=False), BarColumn(),
                  MofNCompleteColumn(), TimeRemainingColumn(),
                  TextColumn('{task.fields[note]}', markup=False),
                  console=self._console, transient=True) as self.bars:
      yield Task(self, name, total, unit)
    self.bars = None
