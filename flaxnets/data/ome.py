"""What the OME-XML in a microscope's TIFF says about its pages (https://docs.openmicroscopy.org/ome-model)."""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree import ElementTree

MAX_TEXT = 2**22  # characters: some 15,000 planes


class Planes(NamedTuple):
  """The planes of an image.

  Attributes:
    depths: number of focal planes (Z).
    times: number of time points (T).
    names: of the channels, in the order of the pages; empty unless there is a distinct one for each page.
  """

  depths: int = 1
  times: int = 1
  names: tuple[str, ...] = ()


def planes(description: str, pages: int) -> Planes:
  """The planes that OME-XML describes; one per channel, without names, for any other text.

  The text comes with the data. One that declares a document type, which could define entities that expand without
  bound, or that is longer than `MAX_TEXT`, counts as any other text.

  Args:
    description: the description (TIFF tag 270) of the first page.
    pages: number of pages in the file.
  """
  if 'OME' not in description or '<!DOCTYPE' in description or len(description) > MAX_TEXT:
    return Planes()
  try:
    images = ElementTree.fromstring(description).findall('{*}Image/{*}Pixels')
  except (ElementTree.ParseError, ValueError):
    return Planes()
  depths, times = (max([1, *(_size(pixels, axis) for pixels in images)]) for axis in ('SizeZ', 'SizeT'))
  return Planes(depths, times, _names(images[0], pages) if len(images) == 1 else ())


def _size(pixels: ElementTree.Element, axis: str) -> int:
  text = pixels.get(axis, '')
  return int(text) if re.fullmatch(r'[0-9]{1,9}', text) else 1


def _names(pixels: ElementTree.Element, pages: int) -> tuple[str, ...]:
  names = tuple(channel.get('Name', '').strip() for channel in pixels.findall('{*}Channel'))
  in_order = all(data.get('IFD', '0') == data.get('FirstC', '0') for data in pixels.findall('{*}TiffData'))
  return names if in_order and all(names) and len(set(names)) == len(names) == pages else ()
