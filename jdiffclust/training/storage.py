"""What a run keeps as it goes, if it keeps anything."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

from jdiffclust import config as config_lib
from jdiffclust.data.fingerprint import fingerprint
from jdiffclust.sharding import to_host
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

  def keep_agreement(self, found: dict | None) -> None:
    """Keeps which clusters came back; None: the start was not repeated."""

  def agreement(self) -> dict | None:
    """What `keep_agreement` was given."""
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
    return None

  def save(self, number: int, snapshot: Snapshot) -> None:
    """Saves a state; see `checkpoints.Checkpoints.save`."""

  def write(self, step: int, iteration: int, **values: float) -> None:
    """Writes figures of a step; see `writers.MetricsWriter.write`."""

  def last_good(self) -> str:
    """What to go on from after a failure, in words."""
    return 'No checkpoint was kept.'

  def finish(self) -> None:
    """Waits until all is kept that was to be."""


class Memory(Store):
  """Keeps the end of a fit in memory, on the host: it pickles, and can be written.

  Attributes:
    config: JSON, as `config.to_json` writes it.
    images: as of `fingerprint`.
    number: of the last checkpoint.
    snapshot: the last checkpoint; None: the fit has not ended.
  """

  config: str = ''
  images: dict = {}
  number: int = 0
  snapshot: Snapshot | None = None
  _choice: dict | None = None
  _recogniser: dict | None = None
  _symmetries: dict | None = None
  _examples = None

  def keep_config(self, config) -> None:
    """See `Store`."""
    self.config = config_lib.to_json(config)

  def keep_images(self, source) -> None:
    """See `Store`."""
    self.images = fingerprint(source)

  def keep_choice(self, choice: dict | None) -> None:
    """See `Store`."""
    self._choice = choice

  def choice(self) -> dict | None:
    """See `Store`."""
    return self._choice

  def keep_recogniser(self, arrays: dict) -> None:
    """See `Store`."""
    self._recogniser = arrays

  def recogniser(self) -> dict | None:
    """See `Store`."""
    return self._recogniser

  def keep_examples(self, images) -> None:
    """See `Store`."""
    self._examples = images

  def examples(self):
    """See `Store`."""
    return self._examples

  def keep_symmetries(self, found: dict | None) -> None:
    """See `Store`."""
    self._symmetries = found

  def symmetries(self) -> dict | None:
    """See `Store`."""
    return self._symmetries

  def save(self, number: int, snapshot: Snapshot) -> None:
    """Keeps the last state only: the buffers of others are used again."""
    if snapshot.progress['stop_reason']:
      self.number = number
      state, tau = to_host(snapshot[:2])
      self.snapshot = Snapshot(state, tau, copy.deepcopy(snapshot.progress))
