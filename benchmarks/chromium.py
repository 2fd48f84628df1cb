"""A page in Chromium without a window, driven by its own protocol.

    with Browser(folder) as browser:
      browser.open('file:///.../report.html', width=1400)
      browser.value('document.title')

It speaks through two pipes, which need neither a driver nor a package.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
SECONDS = 60  # that an answer may take
# Puts the pipes where the browser looks for them, and becomes it.
LAUNCH = ('import os, sys\n'
          'for end, place in zip(sys.argv[1:3], (3, 4)): os.dup2(int(end), place)\n'
          'os.execvp(sys.argv[3], sys.argv[3:])')


def find() -> str | None:
  """The program; None: there is none."""
  return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
  """One page.

  Attributes:
    errors: what went wrong in it: exceptions, and errors and warnings of its console.
  """

  def __init__(self, folder, program: str | None = None):
    """Starts it.

    Args:
      folder: for its profile, and what it downloads.
      program: the browser; None: what `find` finds.
    """
    self.folder, self.errors = pathlib.Path(folder), []
    self._number, self._rest, self._session, self._events = 0, b'', None, []
    read, self._out = os.pipe()
    self._in, write = os.pipe()
    for place in (read, write):  # clear of 3 and 4
      os.set_inheritable(place, True)
    ends = [_above(read), _above(write)]
    self._process = subprocess.Popen(
        [sys.executable, '-S', '-c', LAUNCH, *map(str, ends), program or find(),
         '--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu',
         '--no-first-run', '--disable-background-networking', '--hide-scrollbars',
         '--disable-dev-shm-usage', f'--user-data-dir={self.folder / "profile"}',
         'about:blank'],
        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for place in (read, write, *ends):
      os.close(place)
    pages = self._ask('Target.getTargets')['targetInfos']
    page = next(one['targetId'] for one in pages if one['type'] == 'page')
    self._session = self._ask('Target.attachToTarget', targetId=page, flatten=True)[
        'sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      self._ask(f'{domain}.enable')

  def __enter__(self) -> Browser:
    """Itself."""
    return self

  def __exit__(self, *_) -> None:
    """Ends it."""
    os.close(self._out)
    self._process.terminate()
    try:
      self._process.wait(10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    os.close(self._in)

  def open(self, address: str, width: int = 1400, height: int = 900, dark: bool = False,
           script: bool = True) -> None:
    """Shows a page.

    Args:
      address: with file: before it.
      width, height: of the window, in pixels.
      dark: whether dark colours are preferred.
      script: whether JavaScript is on.
    """
    self._ask('Emulation.setDeviceMetricsOverride', width=width, height=height,
              deviceScaleFactor=1, mobile=False)
    self._ask('Emulation.setEmulatedMedia', features=[
        {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
    self._ask('Emulation.setScriptExecutionDisabled', value=not script)
    self._ask('Browser.setDownloadBehavior', behavior='allow',
              downloadPath=str(self.folder))
    self._events.clear()
    self._ask('Page.navigate', url=address)
    self._wait(lambda: any(e['method'] == 'Page.loadEventFired' for e in self._events))

  def value(self, expression: str) -> Any:
    """What a JavaScript expression, or its promise, gives.

    Raises:
      RuntimeError: it throws.
    """
    answer = self._ask('Runtime.evaluate', expression=expression, returnByValue=True,
                       awaitPromise=True, userGesture=True)
    if 'exceptionDetails' in answer:
      raise RuntimeError(answer['exceptionDetails'].get('exception', {}).get(
          'description', answer['exceptionDetails']['text']))
    return answer['result'].get('value')

  def mouse(self, kind: str, x: float, y: float, held: bool = False) -> None:
    """Moves, presses or releases the mouse: 'Moved', 'Pressed', 'Released'.

    Args:
      kind: what it does.
      x, y: where, in pixels of the window.
      held: whether its button is down while it moves.
    """
    button = 'none' if kind == 'Moved' and not held else 'left'
    self._ask('Input.dispatchMouseEvent', type=f'mouse{kind}', x=x, y=y, button=button,
              clickCount=int(kind != 'Moved'), buttons=int(held or kind == 'Pressed'))

  def downloaded(self, name: str) -> bytes:
    """A file that the page has saved; TimeoutError: it does not come."""
    path, end = self.folder / name, time.monotonic() + SECONDS
    while not path.exists():
      if time.monotonic() > end:
        raise TimeoutError(f'{path} was not saved')
      time.sleep(.05)
    return path.read_bytes()

  def screenshot(self, path, whole: bool = False) -> None:
    """Writes a PNG of what is seen, or of the whole page."""
    answer = self._ask('Page.captureScreenshot', captureBeyondViewport=whole, **(
        {'clip': {**self._size(), 'x': 0, 'y': 0, 'scale': 1}} if whole else {}))
    pathlib.Path(path).write_bytes(base64.b64decode(answer['data']))

  def _size(self) -> dict[str, float]:
    size = self._ask('Page.getLayoutMetrics')['cssContentSize']
    return {'width': size['width'], 'height': size['height']}

  def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
    """The answer to a command of the protocol."""
    self._number += 1
    number = self._number
    message = {'id': number, 'method': method, 'params': parameters}
    if self._session and not method.startswith(('Target.', 'Browser.')):
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    answers = []
    self._wait(lambda: bool(answers), lambda one: one.get('id') == number
               and answers.append(one))
    if 'error' in answers[0]:
      raise RuntimeError(f"{method}: {answers[0]['error']['message']}")
    return answers[0]['result']

  def _wait(self, done, look=lambda one: None) -> None:
    """Reads messages until a condition holds; TimeoutError: it never does."""
    end = time.monotonic() + SECONDS
    while not done():
      if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
        raise TimeoutError('the browser does not answer')
      found = os.read(self._in, 1 << 20)
      if not found:
        raise RuntimeError('the browser has ended')
      *messages, self._rest = (self._rest + found).split(b'\0')
      for message in map(json.loads, messages):
        look(message)
        if 'method' in message:
          self._events.append(message)
          self._note(message)

  def _note(self, event: dict[str, Any]) -> None:
    """Keeps what went wrong."""
    parameters = event['params']
    if event['method'] == 'Runtime.exceptionThrown':
      details = parameters['exceptionDetails']
      self.errors.append(details.get('exception', {}).get('description', details['text']))
    if event['method'] == 'Runtime.consoleAPICalled' and parameters['type'] in (
        'error', 'warning', 'assert'):
      self.errors.append(str([one.get('value') for one in parameters['args']]))
    if event['method'] == 'Log.entryAdded' and parameters['entry']['level'] in (
        'error', 'warning'):
      self.errors.append(parameters['entry']['text'])


def _above(place: int) -> int:
  """A copy of a file descriptor, inherited, that is not one of the first ten."""
  import fcntl
  copy = fcntl.fcntl(place, fcntl.F_DUPFD, 10)
  os.set_inheritable(copy, True)
  return copy
