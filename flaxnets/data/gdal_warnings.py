"""Warnings of GDAL, such as those about odd tags in a TIFF: it gives each of them several times for every file."""

from __future__ import annotations

import logging
import re


class _Once(logging.Filter):
  """Lets each warning through once, whatever file it is about; errors always."""

  def __init__(self) -> None:
    super().__init__()
    self.said: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    said = re.sub(r'^CPLE_\w+ in (.*: )?', '', record.getMessage())
    if record.levelno > logging.WARNING or said not in self.said:
      self.said.add(said)
      return True
    return False


once = _Once()


def say_once() -> None:
  """From now on this process logs each of GDAL's warnings once; may be called again. Errors are raised by rasterio."""
  logging.getLogger('rasterio._env').addFilter(once)  # which a logger holds once, however often it is added
