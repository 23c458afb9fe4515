"""Files that appear complete or not at all, whenever a program is interrupted."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator

from flaxnets.errors import InputError, reason


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary path in the folder of `path`, with the same ending, that replaces `path` unless the block raises.

  Its name is random: process ids do not tell containers apart that share a disk.
  """
  temporary = path.with_name(f'.{secrets.token_hex(8)}.{path.name}')
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(what: str | pathlib.Path, *others: type[Exception]) -> Iterator[None]:
  """Turns an OSError of the block into an InputError that names what cannot be written.

  Args:
    what: a path, or a flag with its path.
    others: exceptions that are treated in the same way.
  """
  refusals: tuple[type[Exception], ...] = (OSError, *others)
  try:
    yield
  except refusals as error:
    raise InputError(f'{what} cannot be written: {reason(error)}') from None


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces what a file holds, as UTF-8 in any locale; bytes of a path that are not UTF-8 become as in \\udce9."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8', errors='backslashreplace')
