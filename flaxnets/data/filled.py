"""Reports the pixels without data that were filled in while batches were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from absl import logging


class FilledReport:
  """Logs, when it is closed, how many pixels of how many examples were filled in; the same line once per process.

  Args:
    name: the source.
    filled: pixels that were filled in by index of the example; it may grow until the report is closed.
  """

  _said: ClassVar[set[str]] = set()

  def __init__(self, name: str, filled: Mapping[int, int]):
    self._name, self._filled = name, filled

  def close(self) -> None:
    if self._filled:
      line = (
        f'{self._name}: {sum(self._filled.values()):,} pixels without data in {len(self._filled):,} of the examples '
        'read were filled with the mean of their band (data.missing_pixels=mean)'
      )
      if line not in self._said:
        self._said.add(line)
        logging.warning('%s', line)
