"""Small pictures for a report, as data URIs: kernels, channels of an image. Pillow and NumPy only."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_COMPOSITES = (('R', 'G', 'B'), ('B04', 'B03', 'B02'), ('red', 'green', 'blue'))  # B04 to B02 are Sentinel-2's
_POSITIVE, _NEGATIVE = (224, 123, 0), (0, 114, 178)  # orange and blue: told apart by colour-blind readers


def uri(data: bytes, kind: str) -> str:
  """Bytes of an image as a data URI; `kind` is png or jpeg."""
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def strongest(kernel: np.ndarray, most: int) -> np.ndarray:
  """The places of the features of a kernel (h, w, m, f) that have the largest norm, at most `most`, in their order."""
  norms = np.sqrt(np.square(kernel, dtype=np.float64).sum(axis=(0, 1, 2)))
  return np.sort(np.argsort(-norms, kind='stable')[:most])


def kernel_sheet(kernel: np.ndarray, features: Sequence[int] | np.ndarray, scale: float) -> bytes:
  """A kernel as a PNG: a row for each channel, a column for each feature, one pixel a weight, one between kernels.

  Positive weights are orange and negative ones blue; a weight of 0 is transparent, so that the sheet suits a light and
  a dark page.

  Args:
    kernel: (h, w, m, f).
    features: the columns, places in f.
    scale: the weight that is opaque, above 0.
  """
  height, width, channels, _ = kernel.shape
  tiles = np.zeros((channels, height + 1, len(features), width + 1), np.float64)
  tiles[:, :height, :, :width] = kernel[..., list(features)].transpose(2, 0, 3, 1)
  sheet = tiles.reshape(channels * (height + 1), len(features) * (width + 1))[:-1, :-1]
  pixels = np.empty((*sheet.shape, 4), np.uint8)
  pixels[..., :3] = np.where(sheet[..., None] >= 0, _POSITIVE, _NEGATIVE)
  pixels[..., 3] = np.clip(np.abs(sheet) / scale, 0, 1) * 255
  return _encoded(Image.fromarray(pixels), 'PNG')


def thumbnail(planes: np.ndarray, side: int) -> bytes:
  """Planes (H, W, 1 or 3) as a JPEG of at most `side` pixels; other types than uint8 are stretched to its range."""
  pixels = planes if planes.dtype == np.uint8 else stretched(planes, *bounds(planes)).astype(np.uint8)
  image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
  image.thumbnail((side, side))
  return _encoded(image, 'JPEG', quality=85)


def composite(names: Sequence[str]) -> tuple[str, ...]:
  """Which of some channels are shown as red, green and blue; () where the names do not tell."""
  return next((order for order in _COMPOSITES if set(order) <= set(names)), ())


def bounds(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The 2nd and the 98th percentile of each plane of one or several images (..., C), each (C,)."""
  low, high = np.percentile(planes.astype(np.float64), [2, 98], axis=tuple(range(planes.ndim - 1)))
  return low, high


def stretched(planes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Planes (..., C) as floats in 0..255: `low` (C,) becomes 0 and `high` (C,) becomes 255."""
  return np.clip((planes - low) / np.maximum(high - low, 1e-12), 0, 1) * 255


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()
