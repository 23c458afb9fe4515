"""Multi-page TIFFs: pages are channels, and no page is left out without a word."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

rasterio = pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')

from flaxnets.data import raster_pixels  # noqa: E402
from flaxnets.data.decode import decode, squash  # noqa: E402
from flaxnets.data.source import BadImage  # noqa: E402
from tests.data.made import TRANSFORM, noise, open_folder, read, write_geotiff, write_pages  # noqa: E402


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_the_pages_of_a_tiff_are_its_channels(tmp_path, dtype):
  pixels = noise(dtype=dtype, size=(24, 20))
  if dtype == np.float32:
    pixels[..., 3] = np.nan
  write_pages(tmp_path / 'train/sea/it\'s 1 & "2".tif', pixels)
  source = open_folder(tmp_path, bands='DAPI,FITC,Cy3,Cy5,BF', channels='Cy3,DAPI,Cy5', canvas=24)
  assert (source.channels.names, source.dtype) == (('Cy3', 'DAPI', 'Cy5'), dtype)
  reading, out = read(source)
  expected = np.zeros((24, 24, 3), dtype)
  squash(np.nan_to_num(np.ascontiguousarray(pixels[..., [2, 0, 3]])), expected)
  np.testing.assert_array_equal(out, expected)
  assert reading.present is None or reading.present.tolist() == [True, True, False]


def test_pages_keep_names_georeference_and_the_value_without_data(tmp_path):
  path, pixels = tmp_path / 'train/sea/0.tif', noise(count=2)
  pixels[:4, :, 1] = 0
  write_geotiff(path, pixels[..., :1], names=['B02'], nodata=0)
  write_geotiff(path, pixels[..., 1:], names=['B03'], nodata=0, APPEND_SUBDATASET=True)
  with raster_pixels.opened(path) as dataset:
    assert (dataset.count, dataset.transform[:6], dataset.crs.to_epsg()) == (2, TRANSFORM, 32631)
  source = open_folder(tmp_path, missing_pixels='mean')
  assert source.channels.names == ('B02', 'B03')
  assert read(source)[0].filled == 80


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_pages_that_cannot_be_channels_are_refused(tmp_path):
  path, gray = tmp_path / 'train/sea/0.tif', Image.new('L', (8, 6))
  path.parent.mkdir(parents=True)
  gray.save(path, save_all=True, append_images=[Image.new('L', (4, 6))])
  with pytest.raises(BadImage, match=r'0.tif: page 1 is uint8 of 6 x 8 pixels, but page 2 is uint8 of 6 x 4'):
    open_folder(tmp_path)
  gray.save(path, save_all=True, append_images=[Image.new('RGB', (8, 6))])
  with pytest.raises(BadImage, match='page 2 of 2 has 3 bands; pages become channels'):
    open_folder(tmp_path)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_tiff_of_too_many_pages_is_refused_before_each_is_opened(tmp_path):
  write_pages(tmp_path / 'train/sea/0.tif', noise(size=(2, 2), count=300, dtype=np.uint8))
  with pytest.raises(BadImage, match='0.tif.*: it has 300 pages; pages become channels, of which a file has at most'):
    open_folder(tmp_path)


def test_a_photo_of_several_pages_is_not_cut_to_its_first(tmp_path):
  path = write_pages(tmp_path / '0.tif', noise(count=2, dtype=np.uint8))
  out = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(BadImage, match='0.tif: a TIFF of 2 pages among photos'):
    decode(path.read_bytes(), out, name='0.tif')
  thumbnail = TiffImagePlugin.ImageFileDirectory_v2()
  thumbnail[254] = 1  # NewSubfileType: a reduced copy of another page
  image = Image.new('RGB', (8, 8), 'red')
  image.save(path)
  with TiffImagePlugin.AppendingTiffWriter(path) as file:
    image.resize((4, 4)).save(file, format='TIFF', tiffinfo=thumbnail)
  decode(path.read_bytes(), out, name='0.tif')
  assert (out == [255, 0, 0]).all()


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_the_overviews_and_the_mask_of_a_tiff_are_no_pages(tmp_path):
  path, red = tmp_path / '0.tif', np.zeros((3, 512, 512), np.uint8)
  red[0] = 255
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
    with rasterio.open(path, 'w', driver='GTiff', width=512, height=512, count=3, dtype=np.uint8) as file:
      file.write(red)
      file.write_mask(True)
    with rasterio.open(path, 'r+') as file:
      file.build_overviews([2, 4])
  out = np.zeros((4, 4, 3), np.uint8)
  decode(path.read_bytes(), out, name='0.tif')
  assert (out == [255, 0, 0]).all()
  with raster_pixels.opened(path) as dataset:
    assert (dataset.driver, dataset.count) == ('GTiff', 3)
