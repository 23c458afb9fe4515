"""The files of a class map, written from the top to the bottom in constant memory.

- OUT.tif: one band, the index of the class, uint8 (uint16 from 256 classes on), with a colour table. Pixels without a
  class have the file's nodata value, the highest of its type. The names are tags of the band, class_0, class_1 and so
  on, and in OUT.tif.aux.xml, where GDAL and QGIS look for them.
- OUT_probability.tif: float32, NaN without a class. For 'top' one band, the probability of the class in OUT.tif; for
  'all' a band for each class, named after it.

Both have the grid, the coordinate reference system and the transform of the scene, in compressed blocks. Where they
replace older files, pyramids, masks and statistics beside these are deleted.
"""

from __future__ import annotations

import colorsys
import contextlib
import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax import saxutils

import numpy as np

from flaxnets.data.geotiff import SUFFIXES
from flaxnets.errors import InputError, one_line
from flaxnets.runtime import atomic, provenance

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

PROBABILITIES = ('top', 'all', 'none')

_BLOCK = 256  # side of a block in the files, pixels
_MOST = 2**27  # bytes of rows that wait to be written
# Endings of what GDAL and QGIS derive from a file and show in its place, such as pyramids: an older map's would stay.
_DERIVED = ('.aux.xml', '.ovr', '.msk')

# What no XML may hold, and so neither a tag nor the sidecar: control characters, and bytes that are not UTF-8.
_NOT_XML = re.compile(r'[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


class MapFiles:
  """Context manager around the files, which appear when they are complete.

  Args:
    net: the network.
    scene: the rasterio dataset whose grid the files have.
    sources: the files that it is read from, the scene itself first; a VRT has others.
    out: the class map.
    probabilities: one of PROBABILITIES.
    description: tags that say how the map was made.

  Attributes:
    paths: the files.
    counts: (K,) pixels of each class so far.

  Raises:
    InputError: if `out` has another ending than .tif, a file would take the place of one of `sources`, or one cannot
      be written.
  """

  def __init__(
    self,
    net: Network,
    scene: Any,
    sources: Sequence[str | os.PathLike[str]],
    out: pathlib.Path,
    probabilities: str,
    description: Mapping[str, str],
  ):
    if out.suffix.lower() not in SUFFIXES:
      raise InputError(f'{out}: a map ends in {" or ".join(SUFFIXES)}')
    self._classes, self._scene = tuple(_NOT_XML.sub('?', name) for name in net.classes), scene
    self._tags = {
      'TIFFTAG_SOFTWARE': f'flaxnets {provenance.versions().get("flaxnets", "")}'.strip(),
      'model': net.config.model.name,
      'step': str(net.step),
      **description,
    }
    self._outs = [out]
    if probabilities != 'none':
      self._outs.append(out.with_name(f'{out.stem}_probability{out.suffix}'))
    for path, source in itertools.product(self._outs, sources):
      if path.exists() and os.path.exists(source) and path.samefile(source):
        which = 'the scene itself' if source == sources[0] else 'a part of the scene'
        raise InputError(f'{path} is {which}; write the map to another file')
    self.paths = tuple(map(str, self._outs))
    self._names = ['probability'] if probabilities == 'top' else list(self._classes)
    self._stack = contextlib.ExitStack()
    self._writers: list[_Rows] = []
    self.counts = np.zeros(len(self._classes), np.int64)
    self._dtype = np.uint8 if len(self._classes) < 256 else np.uint16
    self._nodata = int(np.iinfo(self._dtype).max)

  def __enter__(self) -> MapFiles:
    try:
      with contextlib.ExitStack() as stack:
        for out in self._outs:
          beside = stack.enter_context(atomic.replacing(out))
          first = out is self._outs[0]
          file = stack.enter_context(self._created(beside, first))
          self._writers.append(stack.enter_context(_Rows(file)))
        self._stack = stack.pop_all()
    except Exception as error:
      raise self._refused(error) from None
    return self

  def __exit__(self, *error: Any) -> None:
    try:
      self._stack.__exit__(*error)
      if error[0] is None:
        for out, ending in itertools.product(self._outs, _DERIVED):
          out.with_name(out.name + ending).unlink(missing_ok=True)
        atomic.write_text(self._outs[0].with_name(f'{self._outs[0].name}.aux.xml'), category_names(self._classes))
    except Exception as failure:
      raise self._refused(failure) from None

  def append(self, classes: np.ndarray, values: np.ndarray | None) -> None:
    """Adds rows below those that are there.

    Args:
      classes: (n, W) indices, -1 for none.
      values: (bands, n, W) float32, NaN without a class; None without a file for them.
    """
    self.counts += np.bincount(classes[classes >= 0], minlength=len(self._classes))
    stored = np.where(classes < 0, self._nodata, classes).astype(self._dtype)[np.newaxis]
    try:
      for writer, rows in zip(self._writers, (stored, values), strict=False):
        if rows is not None:
          writer.append(rows)
    except Exception as error:  # rasterio, GDAL and the disk
      raise self._refused(error) from None

  def _created(self, path: pathlib.Path, is_map: bool) -> Any:
    import rasterio

    scene = self._scene
    count = 1 if is_map else len(self._names)
    profile = {'driver': 'GTiff', 'width': scene.width, 'height': scene.height, 'count': count, 'crs': scene.crs}
    profile |= {'compress': 'deflate', 'BIGTIFF': 'IF_SAFER', 'interleave': 'band'}
    if not scene.transform.is_identity:  # rasterio warns of that of a scene without coordinates
      profile['transform'] = scene.transform
    if min(scene.width, scene.height) > _BLOCK:
      profile |= {'tiled': True, 'blockxsize': _BLOCK, 'blockysize': _BLOCK}
    profile |= (
      {'dtype': self._dtype, 'nodata': self._nodata}
      if is_map
      else {'dtype': np.float32, 'nodata': np.nan, 'zlevel': 1, 'predictor': 3}
    )
    file = rasterio.open(path, 'w', **profile)
    if scene.gcps[0] and scene.transform.is_identity:
      file.gcps = scene.gcps
    file.update_tags(**self._tags)
    if is_map:
      file.set_band_description(1, 'class')
      file.update_tags(1, **{f'class_{index}': name for index, name in enumerate(self._classes)})
      file.write_colormap(1, {**dict(enumerate(colours(len(self._classes)))), self._nodata: (0, 0, 0, 0)})
    else:
      for index, name in enumerate(self._names, 1):
        file.set_band_description(index, name)
    return file

  def _refused(self, error: Exception) -> InputError:
    if isinstance(error, InputError):
      return error
    return InputError(f'{self._outs[0]} cannot be written: {getattr(error, "strerror", None) or one_line(error)}')


class _Rows:
  """Collects rows until they fill blocks of the file: a compressed block is best written once."""

  def __init__(self, file: Any):
    self._file = file
    per_row = file.width * file.count * np.dtype(file.dtypes[0]).itemsize
    self._most = next((rows for rows in (_BLOCK, 128, 64, 32) if rows * per_row <= _MOST), 16)
    self._waiting: list[np.ndarray] = []
    self._start = 0

  def __enter__(self) -> _Rows:
    return self

  def __exit__(self, *error: Any) -> None:
    if error[0] is None:
      self._write(sum(rows.shape[1] for rows in self._waiting))

  def append(self, rows: np.ndarray) -> None:
    self._waiting.append(rows)
    waiting = sum(rows.shape[1] for rows in self._waiting)
    if waiting >= self._most:
      self._write(waiting // self._most * self._most)

  def _write(self, count: int) -> None:
    from rasterio.windows import Window

    if not count:
      return
    rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
    self._file.write(rows[:, :count], window=Window(0, self._start, rows.shape[2], count))
    self._start += count
    self._waiting = [rows[:, count:]] if count < rows.shape[1] else []


def colours(count: int) -> list[tuple[int, int, int, int]]:
  """Colours of so many classes, red, green, blue, opacity: hues a golden angle apart, in three brightnesses."""
  found = []
  for index in range(count):
    parts = colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.75, 0.55, 0.9)[index % 3], (0.95, 0.75, 0.6)[index % 3])
    red, green, blue = (round(255 * part) for part in parts)
    found.append((red, green, blue, 255))
  return found


def category_names(classes: tuple[str, ...]) -> str:
  """The sidecar file in which GDAL looks for the names of the classes."""
  names = ''.join(f'\n      <Category>{saxutils.escape(name)}</Category>' for name in classes)
  return (
    '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>'
    f'{names}\n    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n'
  )
