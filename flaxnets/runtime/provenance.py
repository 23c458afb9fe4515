"""Where a figure comes from: the commit and the versions that made it."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence

PACKAGES = ('flaxnets', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def commit() -> str:
  """The commit of this copy of flaxnets, '-dirty' behind it where files differ; 'unknown' outside a repository."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():
    return 'unknown'
  asked = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
  try:
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
  """Of Python and of those packages that are installed."""
  found = {'python': platform.python_version()}
  for name in packages:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
