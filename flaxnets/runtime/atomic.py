"""Files that appear complete or not at all, whenever a program is interrupted."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator


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
def exclusive(path: pathlib.Path) -> Iterator[None]:
  """Waits until no other process is in such a block for the same file, which is made and stays empty.

  Processes on a file system without locks do not wait.
  """
  import fcntl  # not at the top: Windows has none

  with path.open('w') as file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces what a file holds, as UTF-8 in any locale."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')
