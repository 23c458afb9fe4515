"""Which image files are photos of 8 bits and which are rasters: planes of alpha, named bands, and deep files."""

import numpy as np
import pytest
from absl import logging
from PIL import Image

rasterio = pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')

from flaxnets.data import geotiff  # noqa: E402
from flaxnets.data.batches import evaluation_batches  # noqa: E402
from flaxnets.data.decode import decode  # noqa: E402
from flaxnets.data.source import BadImage, DataOptions  # noqa: E402
from flaxnets.errors import InputError  # noqa: E402
from tests.data.made import noise, open_folder, read, write_geotiff, write_photo  # noqa: E402


@pytest.fixture
def said(monkeypatch):
  """Warnings that are logged once."""
  lines = []
  monkeypatch.setattr(logging, 'log_first_n', lambda level, text, n, *values: lines.append(text % values))
  return lines


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('suffix', ['tif', 'png'])
def test_a_fourth_channel_that_is_stored_as_alpha_is_data_where_bands_name_it(tmp_path, suffix, said):
  pixels = noise(count=4, dtype=np.uint8)
  pixels[:9, :, 3] = 0
  write_photo(tmp_path / f'train/sea/0.{suffix}', pixels)
  source = open_folder(tmp_path, bands='R,G,B,T')
  reading, out = read(source)
  assert source.channels.names == tuple('RGBT') and source.dtype == np.uint8 and reading.present is None
  np.testing.assert_array_equal(out, pixels)
  np.testing.assert_array_equal(read(open_folder(tmp_path, bands='R,G,B,T', channels='TG'))[1], pixels[..., [3, 1]])
  reading, _ = read(open_folder(tmp_path, bands='R,G,B', missing_pixels='mean'))  # three names: a mask
  assert reading.filled == 3 * 9 * 20
  assert not said
  with pytest.raises(
    BadImage, match=r'0.* \(band 4 is marked as alpha, and a mask unless data.bands names all 4\): 2 na'
  ):
    open_folder(tmp_path, bands='R,G')


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_photo_with_an_alpha_plane_says_how_its_planes_are_read_as_data(tmp_path, said):
  pixels = noise(count=4, dtype=np.uint8)
  write_photo(tmp_path / 'train/sea/0.png', pixels)
  assert read(open_folder(tmp_path))[1].shape[2] == 3
  assert len(said) == 1 and said[0].endswith('if it holds data, name all planes, as in data.bands=R,G,B,A')
  with pytest.raises(
    InputError, match='not R, G, B, T; other channels come from files whose planes data.bands names al'
  ):
    open_folder(tmp_path, channels='R,G,B,T')
  pixels[..., 3] = 255
  write_photo(tmp_path / 'train/sea/0.png', pixels)
  read(open_folder(tmp_path))
  assert len(said) == 1  # opaque


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_alpha_in_sixteen_bits_is_a_mask_with_a_warning_and_no_channel_of_another_name(tmp_path, said):
  options = {'names': None, 'photometric': 'RGB', 'alpha': 'YES'}
  write_geotiff(tmp_path / 'train/sea/0.tif', noise(count=4), **options)
  assert open_folder(tmp_path).channels.names == tuple('RGB')
  assert len(said) == 1 and 'band 4 is marked as alpha, and a mask unless data.bands names all 4; a pixel' in said[0]
  with pytest.raises(InputError, match=r"no channel 'T' in .*0.tif \(band 4 is marked as alpha.*\); it has R, G, B"):
    open_folder(tmp_path, channels='R,G,B,T')
  np.testing.assert_array_equal(read(open_folder(tmp_path, bands='R,G,B,T'))[1], noise(count=4))


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_bands_name_the_planes_of_jpegs_as_of_other_image_files(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned
  pixels = np.zeros((20, 30, 3), np.uint8)
  pixels[:, :, 0], pixels[:, 15:, 2] = 150, 200
  write_photo(tmp_path / 'train/sea/0.jpg', pixels, exif=exif, quality=95)
  photo, planes = read(open_folder(tmp_path, channels='RGB'))
  source = open_folder(tmp_path, bands='N,R,G', channels='G,N')
  reading, out = read(source)
  assert source.channels.names == ('G', 'N') and reading.size == photo.size == (30, 20)
  np.testing.assert_allclose(out.astype(int), planes[..., [2, 0]], atol=12)
  with pytest.raises(BadImage, match=r'0.jpg: 4 names \(a, b, c, d\) for 3 bands'):
    open_folder(tmp_path, bands='a,b,c,d')
  write_photo(tmp_path / 'train/sea/0.jpg', noise(count=1, dtype=np.uint8)[..., 0])
  assert open_folder(tmp_path, bands='Pan').channels.names == ('Pan',)
  with pytest.raises(BadImage, match=r'0.jpg: 3 names \(R, G, B\) for 1 bands'):
    open_folder(tmp_path, bands='R,G,B')


def test_an_alpha_band_is_a_mask_and_no_channel(tmp_path):
  pixels = noise(count=3)
  alpha = np.full((20, 20, 1), 65535, np.uint16)
  alpha[0, 0] = 0
  path = write_geotiff(
    tmp_path / 'train/sea/0.tif', np.concatenate([pixels, alpha], 2), None, photometric='RGB', alpha='YES'
  )
  with rasterio.open(path) as dataset:
    assert geotiff.header(dataset, 'a.tif').names == ('R', 'G', 'B')
  reading, out = read(open_folder(tmp_path, missing_pixels='mean', channels='BR'))
  assert reading.filled == 2
  np.testing.assert_array_equal(out[1:], pixels[1:, :, [2, 0]])


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_an_ordinary_tiff_stays_a_photo_of_eight_bits(tmp_path):
  pixels = noise(count=3, dtype=np.uint8)
  write_photo(tmp_path / 'train/sea/0.tif', pixels)
  source = open_folder(tmp_path, channels='BR')
  assert source.dtype == np.uint8
  np.testing.assert_array_equal(read(source)[1], pixels[..., [2, 0]])
  Image.fromarray(pixels).quantize(16).save(tmp_path / 'train/sea/0.tif')
  assert open_folder(tmp_path, channels='RGB').channels.names == ('R', 'G', 'B')


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_png_of_sixteen_bits_keeps_them(tmp_path):
  ramp = np.arange(400, dtype=np.uint16).reshape(20, 20) * 100
  write_photo(tmp_path / 'train/sea/0.png', ramp)
  source = open_folder(tmp_path, channels='L')
  assert source.dtype == np.uint16
  np.testing.assert_array_equal(read(source)[1][..., 0], ramp)
  with pytest.raises(InputError, match=r"no channel 'R' in .*0.png.*it has L"):
    open_folder(tmp_path, channels='RGB')


def test_among_photos_a_deep_png_is_a_photo_unless_its_bands_are_named(tmp_path):
  write_photo(tmp_path / 'deep.png', np.full((4, 4), 65535, np.uint16))
  write_photo(tmp_path / 'plain.png', np.full((4, 4), 255, np.uint8))
  found = {
    (name, bands, eight_bits): geotiff.is_raster(
      tmp_path / f'{name}.png', DataOptions('folders', bands=bands), eight_bits
    )
    for name in ('deep', 'plain')
    for bands in ('', 'L')
    for eight_bits in (False, True)
  }
  assert {key for key, raster in found.items() if not raster} == {
    ('deep', '', True),
    ('plain', '', False),
    ('plain', '', True),
  }


def test_sixteen_bits_among_photos_become_eight_with_a_warning(tmp_path, said):
  path = tmp_path / 'deep.png'
  write_photo(path, np.full((4, 4), 65535, np.uint16))
  out = np.zeros((4, 4, 3), np.uint8)
  decode(path.read_bytes(), out, name='deep.png')
  assert (out == 255).all() and said and said[0].startswith('deep.png has 16 bits a channel')


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'ppm', 'bmp', 'webp', 'tif'])
def test_a_truncated_image_whose_bands_are_named_is_bad_and_not_filled_with_anything(tmp_path, suffix):
  path = tmp_path / f'train/sea/0.{suffix}'
  write_photo(path, noise(size=(64, 64), count=3, dtype=np.uint8))
  path.with_stem('1').write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
  batches = evaluation_batches(open_folder(tmp_path, bands='N,R,G'), batch_size=2, threads=2, on_bad_image='skip')
  assert next(batches)['mask'].tolist() == [True, False]
