"""EXIF orientation: how the stored pixels of an image are turned upright."""

from __future__ import annotations

import struct

import numpy as np

_TAG = 0x0112  # of TIFF
_UPRIGHT = {  # by EXIF orientation: turns the stored pixels upright
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.swapaxes(0, 1),
  6: lambda a: a.swapaxes(0, 1)[:, ::-1],
  7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
  8: lambda a: a.swapaxes(0, 1)[::-1],
}


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """A view of pixels (h, w, ...) that an EXIF orientation, 1 to 8, turns; those of any other number as they are."""
  return _UPRIGHT.get(orientation, lambda a: a)(pixels)


def jpeg_orientation(data: bytes) -> int:
  """The orientation, 1 to 8, that the EXIF of a JPEG's bytes gives; 1 if it has none."""
  start = data.find(b'Exif\0\0', 0, 1 << 16)  # EXIF comes first, in a segment of at most 64 KiB
  return 1 if start < 0 else exif_orientation(data[start + 6 : 1 << 17])


def exif_orientation(exif: bytes) -> int:
  """The orientation, 1 to 8, in a block of EXIF; 1 (upright) if it is missing or invalid."""
  order = {b'II': '<', b'MM': '>'}.get(exif[:2])
  if order is None:
    return 1
  try:
    (start,) = struct.unpack_from(order + 'I', exif, 4)
    (entries,) = struct.unpack_from(order + 'H', exif, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
      tag, _, _, value = struct.unpack_from(order + 'HHIH', exif, place)
      if tag == _TAG:
        return value if 1 <= value <= 8 else 1
  except struct.error:
    pass
  return 1
