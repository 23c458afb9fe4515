"""The exceptions for what a person can put right (a path, a name, a value in a config), and others as one line."""


class OneLineError(Exception):
  """An error whose message is one line, also where it quotes a text with line breaks."""

  def __str__(self) -> str:
    return ' '.join(super().__str__().splitlines())


class InputError(OneLineError, ValueError):
  """Invalid input.

  The message is one line: what was wrong, where, and what would be right. The entry points print it to
  stderr without a traceback and exit with 1.
  """


def reason(error: BaseException) -> str:
  """Why something failed, as one line. An OSError of a library may have no strerror: Pillow raises such."""
  return getattr(error, 'strerror', None) or one_line(error)


def first_line(error: BaseException) -> str:
  """The first line of what an exception says; its type where it says nothing."""
  return next(iter(str(error).strip().splitlines()), '') or type(error).__name__


def one_line(error: BaseException) -> str:
  """What an exception of any kind says, as one line; its type where it says nothing."""
  return ' '.join(str(error).split()) or type(error).__name__
