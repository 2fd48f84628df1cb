"""The exceptions that a user sees as one line instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
  """A mistake in a config, data, workdir or device count, which the user can mend.

  Its message is one line that names the offending value, what is allowed and
  what to do. `jdiffclust.main` prints it and exits with code 2.
  """


class NonFiniteError(UserError):
  """A loss, bound or responsibility is NaN or infinite, which stopped the run.

  `jdiffclust.main` prints its message and exits with code 1.
  """
