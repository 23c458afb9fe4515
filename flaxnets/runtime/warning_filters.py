"""Warnings of libraries that a program does not print."""

from __future__ import annotations

import warnings


def ignore_odd_metadata() -> None:
  """Ignores, from now on and in this process, warnings about files that are read correctly all the same."""
  # Pillow warns about odd metadata: a palette's, a corrupt TIFF tag.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  # Rasterio warns about rasters without coordinates, which are as good to train on.
  warnings.filterwarnings('ignore', message='Dataset has no geotransform')
