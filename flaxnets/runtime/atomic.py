"""Files that are there whole or not at all, whenever a program is cut."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` to write to, with the same ending; takes its place when nothing was raised within."""
  beside = path.with_name(f'.{os.getpid()}.{path.name}')
  try:
    yield beside
    os.replace(beside, path)
  finally:
    beside.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
  with replacing(path) as beside:
    beside.write_text(text)
