"""What a run keeps as it goes, if it keeps anything."""

from __future__ import annotations

import time
from collections.abc import Callable

from jdiffclust.training.checkpoints import Snapshot


class Store:
  """Keeps nothing: the run lives in memory. `workdir.Workdir` keeps all of it.

  Attributes:
    started: `time.perf_counter()` from which the seconds of the run count.
    resumes: whether a run has begun here, which goes on.
  """

  resumes = False

  def __init__(self, started: float | None = None):
    """Starts the clock, or takes one that was started."""
    self.started = time.perf_counter() if started is None else started

  def keep_config(self, config) -> None:
    """Keeps the config, its number of clusters known; the run begins."""

  def keep_images(self, source) -> None:
    """Keeps what tells the images of the run from others."""

  def keep_choice(self, choice: dict | None) -> None:
    """Keeps how the number of clusters was chosen; None: it was given."""

  def choice(self) -> dict | None:
    """What `keep_choice` was given."""
    return None

  def keep_recogniser(self, arrays: dict) -> None:
    """Keeps the arrays of a `starts.recognition.Recognised`."""

  def recogniser(self) -> dict | None:
    """What `keep_recogniser` was given.

    Raises:
      UserError: it cannot be read any more.
    """
    return None

  def keep_examples(self, images) -> None:
    """Keeps images of the fit as they are stored, [n, H, W, C]."""

  def examples(self):
    """What `keep_examples` was given; None: nothing.

    Raises:
      UserError: it cannot be read any more.
    """
    return None

  def keep_symmetries(self, found: dict | None) -> None:
    """Keeps which maps were found to be symmetries; None: all were given."""

  def symmetries(self) -> dict | None:
    """What `keep_symmetries` was given."""
    return None

  def restore(self, template: Callable,
              warn: Callable[[str], None]) -> tuple[int, Snapshot] | None:
    """The newest state that was saved; see `checkpoints.Checkpoints.restore_newest`."""
    del template, warn

  def save(self, number: int, snapshot: Snapshot) -> None:
    """Saves a state; see `checkpoints.Checkpoints.save`."""

  def write(self, step: int, iteration: int, **values: float) -> None:
    """Writes figures of a step; see `writers.MetricsWriter.write`."""

  def last_good(self) -> str:
    """What to go on from after a failure, in words."""
    return 'No checkpoint was kept.'

  def finish(self) -> None:
    """Waits until all is kept that was to be."""
