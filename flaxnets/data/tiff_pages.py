"""Multi-page TIFFs, such as microscopes write: each page becomes a band of one raster."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from flaxnets.data import ome
from flaxnets.data.source import BadImage

MAX_PAGES = 256  # GDAL finds a page by walking over all pages before it: a thousand of them take minutes


class BadPages(BadImage):
  """A TIFF can be opened, but its pages are no channels."""


def stacked(dataset: Any, name: str) -> str:
  """A virtual raster (VRT, in XML) with the pages of a multi-page TIFF as bands, for `rasterio.open`.

  GDAL itself opens the first page only. A page without a description of its band is named by OME-XML.

  Args:
    dataset: the open TIFF, with more than one of `dataset.subdatasets`; overviews and masks are not among them.
    name: the file in messages.

  Raises:
    BadPages: if there are more than MAX_PAGES, or the pages differ in size or number type, have several bands each, or
      are focal planes or time points by OME-XML.
  """
  import rasterio
  from rasterio.dtypes import dtype_rev, typename_fwd

  pages = dataset.subdatasets
  said = ome.planes(dataset.tags().get('TIFFTAG_IMAGEDESCRIPTION', ''), len(pages))
  if said.depths > 1 or said.times > 1:
    raise BadPages(
      f'{name}: its OME-XML says that its {len(pages)} pages have {said.depths} focal planes (Z) and {said.times} time '
      'points (T); pages become channels, so store one plane and one time per file'
    )
  if len(pages) > MAX_PAGES:
    raise BadPages(
      f'{name}: it has {len(pages):,} pages; pages become channels, of which a file has at most {MAX_PAGES}, so split '
      'z-stacks and time series into files'
    )

  raster = ElementTree.Element('VRTDataset', rasterXSize=str(dataset.width), rasterYSize=str(dataset.height))
  if dataset.crs:
    ElementTree.SubElement(raster, 'SRS').text = dataset.crs.to_wkt()
  if dataset.transform != rasterio.Affine.identity():
    ElementTree.SubElement(raster, 'GeoTransform').text = ', '.join(map(repr, dataset.transform.to_gdal()))

  for number, listed in enumerate(pages, 1):
    path = ':'.join([*listed.split(':', 2)[:2], dataset.name])  # GDAL lists GTIFF_DIR:1:PATH, without quotes in PATH
    with rasterio.open(path) as page:
      if page.count != 1:
        raise BadPages(
          f'{name}: page {number} of {len(pages)} has {page.count} bands; pages become channels, so each must have one'
        )
      if (page.dtypes, page.shape) != (dataset.dtypes, dataset.shape):
        raise BadPages(
          f'{name}: page 1 is {dataset.dtypes[0]} of {dataset.height} x {dataset.width} pixels, but page {number} is '
          f'{page.dtypes[0]} of {page.height} x {page.width}; pages become channels, so all must be alike'
        )
      description, nodata = page.descriptions[0] or ''.join(said.names[number - 1 : number]), page.nodata
    kind = typename_fwd[dtype_rev[dataset.dtypes[0]]]
    band = ElementTree.SubElement(raster, 'VRTRasterBand', dataType=kind, band=str(number))
    if description:
      ElementTree.SubElement(band, 'Description').text = description
    if nodata is not None:
      ElementTree.SubElement(band, 'NoDataValue').text = repr(nodata)
    source = ElementTree.SubElement(band, 'SimpleSource')
    ElementTree.SubElement(source, 'SourceFilename', relativeToVRT='0').text = path
    ElementTree.SubElement(source, 'SourceBand').text = '1'
  return ElementTree.tostring(raster, encoding='unicode')
