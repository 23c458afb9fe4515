"""The refusal of folders that are not on a file system of this machine."""

from __future__ import annotations

import os
import re

from flaxnets.errors import InputError


def check_local(path: str | os.PathLike[str], name: str) -> None:
  """Raises InputError for an address such as gs://bucket/run, naming the flag or field that holds it."""
  # pathlib turns gs://bucket into gs:/bucket; a single letter is a drive of Windows.
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', str(path)):
    raise InputError(
      f'{name}={path} is an address, and flaxnets reads and writes local files only; mount the bucket, or copy it, and '
      'give the path of a folder'
    )
