"""The folder that the paths of a data set are relative to, and that they may not leave."""

from __future__ import annotations

import os
from pathlib import Path

from flaxnets.errors import InputError


def root_folder(root: str) -> Path:
  """The root as a path.

  Raises:
    InputError: if it is not a folder.
  """
  if not os.path.isdir(root):
    raise InputError(f'data.root {root!r} is not a folder')
  return Path(root)


def is_inside(root: str, path: str) -> bool:
  """Whether a path, with links resolved, is in the root or in the target of its first folder."""
  first = path.partition('/')[0]
  homes = [os.path.realpath(root)]
  if os.path.isdir(os.path.join(root, first)):
    homes.append(os.path.realpath(os.path.join(root, first)))
  real = os.path.realpath(os.path.join(root, path))
  return any(os.path.commonpath([home, real]) == home for home in homes)
