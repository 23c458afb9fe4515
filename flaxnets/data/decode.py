"""Decodes image bytes in any common format to a canvas: upright, 8-bit, RGB or luminance."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg
from absl import logging
from PIL import Image, TiffImagePlugin

from flaxnets.channels import ChannelSet
from flaxnets.data.orientation import exif_orientation, jpeg_orientation, upright
from flaxnets.data.source import BadImage
from flaxnets.errors import InputError, one_line
from flaxnets.runtime import regular

MAX_BYTES = 2**30  # per file
MAX_PIXELS = 178_956_970  # per image: twice Pillow's MAX_IMAGE_PIXELS, above which Pillow refuses to decode

_MAX_WIDTH = 2**26  # Pillow counts the bits of a row in 32 bits, and calls it a lack of memory where they overflow
_PLANES = 512  # of an image, at most, in OpenCV

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')
_PHOTO_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')  # of Pillow, 8 bits a channel
_SAMPLES_PER_PIXEL = 0x0115  # TIFF tags
_SUBFILE_TYPE = 0x00FE
_REDUCED_OR_MASK = 0b101


def image_planes(channels: ChannelSet) -> tuple[int, ...]:
  """The planes of an RGB image that the channels are; empty for luminance.

  The names R, G and B are those planes, in any order. Three other names are red, green and blue, in this order. One
  other name, such as 'L', is luminance.

  Raises:
    InputError: for any other combination of names.
  """
  names = channels.names
  if set(names) <= set('RGB'):
    return tuple('RGB'.index(name) for name in names)
  # 'rgb' or 'RL' was meant as several channels, but is one name by the rule of `ChannelSet.of`.
  misspelt = len(names) == 1 and len(names[0]) > 1 and set(names[0].upper()) <= set('RGBALN')
  if set(names) & set('RGB') or len(names) not in (1, 3) or misspelt:
    raise InputError(
      f"image files hold R, G and B (or one gray channel, 'L'), not {', '.join(names)}; other channels come from files "
      'whose planes data.bands names all, alpha included, from GeoTIFFs, or from data.source=arrays'
    )
  return (0, 1, 2) if len(names) == 3 else ()


def read_image(path: str | os.PathLike[str], name: str) -> bytes:
  """The bytes of an image file; `name` is the file in messages.

  Raises:
    BadImage: if it cannot be read, is a pipe or a device, or has more than 1 GiB.
  """
  try:
    return regular.read(path, MAX_BYTES)
  except (OSError, ValueError) as error:
    raise BadImage(f'{name}: cannot be read ({getattr(error, "strerror", None) or error})') from None


def decode_planes(data: bytes, out: np.ndarray, planes: Sequence[int], *, name: str) -> tuple[int, int]:
  """Decodes only the planes from `image_planes` into `out`, (H, W, number of planes), or (H, W, 1) for luminance."""
  if len(planes) == 0 or tuple(planes) == (0, 1, 2):
    return decode(data, out, name=name)
  rgb = np.empty((*out.shape[:2], 3), np.uint8)
  size = decode(data, rgb, name=name)
  out[...] = rgb[:, :, list(planes)]
  return size


def decode(data: bytes, out: np.ndarray, *, name: str) -> tuple[int, int]:
  """Decodes an image and resizes it to the height and width of `out`.

  Formats are JPEG, PNG, WebP, BMP, GIF (the first frame), TIFF (of one page), PPM, JPEG 2000 and AVIF. EXIF
  orientation is applied. Gray, palette and CMYK images become RGB, and transparent pixels are blended with white.
  16 bits become 8, with one warning per process (`flaxnets.data.geotiff` keeps them). Shrinking is antialiased. A JPEG
  at least twice as large as `out` on both axes may first be shrunk while its DCT is decoded.
  Decoding releases the GIL, so threads run in parallel.

  Args:
    data: the bytes of the file.
    out: (H, W, 3) uint8 for RGB, or (H, W, 1) for luminance (BT.601).
    name: the image in messages: its path, and its line in a list.

  Returns:
    Height and width of the upright original, pixels.

  Raises:
    BadImage: if the data are not an image, are corrupt, have several pages, more than 178,956,970 pixels, or more
      than 67,108,864 in a row.
  """
  if not data:
    raise BadImage(f'{name}: the file is empty')
  decoded = _jpeg(data, out.shape, name) if data[:2] == b'\xff\xd8' else None
  pixels, size, orientation = decoded or _other(data, out.shape[2] == 1, name)
  turned = orientation >= 5
  if orientation == 1:
    squash(pixels, out)
  else:
    canvas = np.empty((out.shape[1], out.shape[0], out.shape[2]) if turned else out.shape, np.uint8)
    squash(pixels, canvas)
    out[...] = upright(canvas, orientation)
  return (size[1], size[0]) if turned else size


def _jpeg(data: bytes, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, tuple[int, int], int] | None:
  """Pixels (possibly shrunk), size of the original, orientation; None for a JPEG that Pillow must decode."""
  try:
    height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
  except (ValueError, KeyError):  # KeyError: a chroma subsampling that simplejpeg does not know
    return None
  if space not in ('YCbCr', 'RGB', 'Gray'):
    return None
  _check_size(height, width, name)
  orientation = jpeg_orientation(data)
  least = shape[:2] if orientation < 5 else (shape[1], shape[0])
  options = {
    'colorspace': 'GRAY' if shape[2] == 1 else 'RGB',
    'min_height': least[0],
    'min_width': least[1],
    'min_factor': 2,
  }
  try:
    pixels = simplejpeg.decode_jpeg(data, **options)
  except ValueError as error:
    if not str(error).startswith(('Premature', 'Corrupt')):
      return None  # possibly only odd metadata, such as an unknown JFIF revision, which Pillow accepts
    raise BadImage(f'{name}: a corrupt JPEG ({one_line(error)})') from None
  return pixels, (height, width), orientation


def _other(data: bytes, gray: bool, name: str) -> tuple[np.ndarray, tuple[int, int], int]:
  """Pixels, size and orientation of an image in any format."""
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      _check_size(image.height, image.width, name)
      if is_deep(data) or image.mode == 'I' or image.mode.startswith('I;16'):
        logging.log_first_n(
          logging.WARNING,
          '%s has 16 bits a channel, which are reduced to 8, as for all such files among 8-bit ones',
          1,
          name,
        )
      if isinstance(image, TiffImagePlugin.TiffImageFile) and (pages := _pages(image)) > 1:
        raise BadImage(
          f'{name}: a TIFF of {pages} pages among photos; rasterio reads pages as channels if all files have them'
        )
      image.load()
      _warn_of_alpha(image, name)
      pixels = np.asarray(_eight_bits(image).convert('L' if gray else 'RGB'))
      exif = image.info.get('exif', b'')  # none for a TIFF, which Pillow turned upright
  except (BadImage, MemoryError):
    raise
  except Image.DecompressionBombError:
    raise BadImage(f'{name}: more than {MAX_PIXELS:,} pixels, the most that is decoded') from None
  except Image.UnidentifiedImageError:
    raise BadImage(f'{name}: not an image, or corrupt at its beginning ({data[:8]!r})') from None
  except Exception as error:  # Pillow has no common exception for corrupt files
    raise BadImage(f'{name}: cannot be decoded ({one_line(error)})') from None
  return np.atleast_3d(pixels), pixels.shape[:2], exif_orientation(exif.removeprefix(b'Exif\0\0'))


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
  """The number of a TIFF's pages, not counting reduced copies (thumbnails) and masks."""
  count = 1
  for page in itertools.count(1):
    try:
      image.seek(page)
    except EOFError:
      break
    except SyntaxError:  # pixels that Pillow does not know, such as those of GDAL's masks; the tags have been read
      pass
    count += not image.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK
  image.seek(0)
  return count


def is_photo(path: str | os.PathLike[str]) -> bool:
  """Whether a file is an image that `decode` reads without loss of bits, bands or pages, by its header."""
  try:
    with Image.open(path, formats=_FORMATS) as image:
      if isinstance(image, TiffImagePlugin.TiffImageFile) and (
        _pages(image) > 1 or image.tag_v2.get(_SAMPLES_PER_PIXEL, 1) > len(image.getbands())
      ):
        return False
      return image.mode in _PHOTO_MODES
  except Exception:  # Pillow has no common exception for corrupt files
    return False


def is_deep(start: bytes) -> bool:
  """Whether a file is a PNG of 16 bits a channel, by its first 25 bytes."""
  return start[:8] == b'\x89PNG\r\n\x1a\n' and start[24:25] == b'\x10'


def _warn_of_alpha(image: Image.Image, name: str) -> None:
  """Once per process: what is stored as alpha may be a channel, such as near infrared, and not transparency."""
  planes = image.getbands()
  if planes[-1] == 'A' and image.getchannel('A').getextrema() != (255, 255):
    logging.log_first_n(
      logging.WARNING,
      '%s: its alpha plane is taken as transparency and blended with white; if it holds data, name all planes, as in '
      'data.bands=%s',
      1,
      name,
      ','.join(planes),
    )


def _eight_bits(image: Image.Image) -> Image.Image:
  """The image as opaque 8-bit RGB or gray. Pillow opens some 16-bit formats as 32-bit integers."""
  if image.mode == 'I' or image.mode.startswith('I;16'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise ValueError('32-bit pixels, whose range is unknown; use data.source=arrays for them')
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
  if image.mode == 'F':
    raise ValueError('float pixels, whose range is unknown; use data.source=arrays for them')
  if image.has_transparency_data:
    page = Image.new('RGBA', image.size, 'white')
    page.alpha_composite(image.convert('RGBA'))
    return page.convert('RGB')
  return image if image.mode in ('L', 'RGB') else image.convert('RGB')


def squash(pixels: np.ndarray, out: np.ndarray) -> None:
  """Resizes pixels (h, w, c) into `out` (H, W, c): linear along an axis that grows, antialiased along one that shrinks.

  Shrinking to half the size or less averages areas. Shrinking by less is linear interpolation after a blur over three
  pixels: together they have the variance of the antialiasing triangle filter, in less than half the time of averaging.
  """
  if pixels.shape[2] > _PLANES:
    for start in range(0, pixels.shape[2], _PLANES):
      group = np.ascontiguousarray(pixels[:, :, start : start + _PLANES])
      part = np.empty((*out.shape[:2], group.shape[2]), out.dtype)
      squash(group, part)
      out[:, :, start : start + _PLANES] = part
    return
  size = out.shape[:2]
  least = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
  shrinks = pixels.shape[0] / least[0], pixels.shape[1] / least[1]
  if max(shrinks) >= 2:
    pixels = _resize(pixels, least, cv2.INTER_AREA, out)
  elif max(shrinks) > 1:
    pixels = cv2.sepFilter2D(pixels, -1, _blur(shrinks[1]), _blur(shrinks[0]), borderType=cv2.BORDER_REPLICATE).reshape(
      pixels.shape
    )
  if pixels.shape[:2] != size:
    pixels = _resize(pixels, size, cv2.INTER_LINEAR, out)
  if pixels is not out:
    out[...] = pixels


def _blur(shrink: float) -> np.ndarray:
  """Three weights of variance (shrink^2 - 1) / 6: triangle of half-width `shrink` minus triangle of half-width 1."""
  side = (shrink * shrink - 1) / 12
  return np.asarray([side, 1 - 2 * side, side], np.float32)


def _resize(pixels: np.ndarray, size: tuple[int, int], how: int, out: np.ndarray | None) -> np.ndarray:
  """The pixels resized, written into `out` if it has that size."""
  if pixels.ndim == 3 and pixels.shape[2] > 4 and how == cv2.INTER_AREA:  # OpenCV averages areas of four planes at most
    groups = [pixels[:, :, start : start + 4] for start in range(0, pixels.shape[2], 4)]
    return np.concatenate([_resize(np.ascontiguousarray(group), size, how, None) for group in groups], axis=2)
  if out is not None and size == out.shape[:2] and out.flags.c_contiguous:
    cv2.resize(pixels, size[::-1], dst=out, interpolation=how)
    return out
  return cv2.resize(pixels, size[::-1], interpolation=how).reshape(*size, -1)


def _check_size(height: int, width: int, name: str) -> None:
  if height * width > MAX_PIXELS:
    raise BadImage(f'{name}: {height} x {width} pixels; the most that is decoded is {MAX_PIXELS:,}')
  if width > _MAX_WIDTH:
    raise BadImage(f'{name}: a width of {width:,} pixels; the most that is decoded is {_MAX_WIDTH:,}')
