"""The exceptions that a user sees as one line instead of a traceback."""

from __future__ import annotations

import re

# Breaks of lines, and what a terminal takes for a command or turns text about with.
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')


def on_one_line(text: str) -> str:
  r"""Text as it may be printed: names of files may hold anything.

  Args:
    text: of one line, but for what such names bring in.

  Returns:
    The text, with \n for a break of the line, \x1b for the start of a terminal's command.
  """
  return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


# What to do where a result of a run is missing; evaluate needs a diffusion model.
WRITES_IT = ('the command of the fit, given again, writes it anew; so does '
             '--mode=evaluate where there is a diffusion model')


class UserError(Exception):
  """A mistake in a config, data, workdir or device count, which the user can mend.

  Its message is one line that names the offending value, what is allowed and
  what to do. `jdiffclust.main` prints it and exits with code 2.
  """

  def __init__(self, message: str):
    """Keeps the message, on one line whatever names are in it."""
    super().__init__(on_one_line(message))


class NonFiniteError(UserError):
  """A loss, bound or responsibility is NaN or infinite, which stopped the run.

  `jdiffclust.main` prints its message and exits with code 1.
  """
