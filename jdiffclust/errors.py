"""The one exception for mistakes a user can mend."""


class UserError(Exception):
  """A mistake in a config, data, workdir or device count.

  Its message is one line that names the offending value, what is allowed and
  what to do; `jdiffclust.main` prints it and exits with code 2.
  """
