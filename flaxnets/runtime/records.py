"""JSON objects with a digest: the files and the lines of a run that hold figures or settings.

An object is stored with one more field, `digest`, of all others. Reading compares it, and gives the object without it.
An object without the field is one of version 0.1.0, or made by hand: it is read as it is.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flaxnets.runtime import atomic, regular
from flaxnets.runtime.digests import text_digest

DIGEST = 'digest'


class ChangedRecord(ValueError):
  """An object that differs from its digest."""


def dumps(values: Mapping[str, Any], indent: int | None = None) -> str:
  """The object as JSON, with its digest."""
  plain = json.loads(json.dumps(values))  # tuples become lists, and keys texts, as a reader sees them
  return json.dumps({**plain, DIGEST: text_digest(plain)}, indent=indent)


def loads(text: str) -> dict[str, Any]:
  """The object in a text.

  Raises:
    ChangedRecord: if it differs from its digest.
    ValueError: if the text is not a JSON object.
  """
  return checked(json.loads(text))[0]


def checked(values: Any) -> tuple[dict[str, Any], bool]:
  """A stored object without its digest, and whether it had one.

  Raises:
    ChangedRecord: if it differs from its digest.
    ValueError: if it is not an object.
  """
  if not isinstance(values, dict):
    raise ValueError('not a JSON object')
  plain = {key: value for key, value in values.items() if key != DIGEST}
  if DIGEST in values and values[DIGEST] != text_digest(plain):
    raise ChangedRecord(f'its content differs from its field {DIGEST!r}')
  return plain, DIGEST in values


def read(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file.

  Raises:
    OSError: if the file cannot be read.
    ValueError: as `loads`.
  """
  return loads(regular.read(path).decode('utf-8'))


def read_or_empty(path: pathlib.Path) -> dict[str, Any]:
  """The object in a file; an empty one if the file is absent, incomplete or corrupt."""
  try:
    return read(path)
  except (OSError, ValueError):
    return {}


def write(path: pathlib.Path, values: Mapping[str, Any], indent: int | None = None) -> None:
  """Replaces a file with the object and its digest, at once."""
  atomic.write_text(path, dumps(values, indent) + '\n')
