"""The one exception for what a person can put right: a path, a name, a value in a config."""


class InputError(ValueError):
  """Something given to flaxnets cannot work.

  The message is one line: what was wrong, where, and what would be right. The entry points print it to
  stderr without a traceback and exit with 1.
  """
