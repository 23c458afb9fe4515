"""Folders and lists of GeoTIFFs: number types, bands by name, wavelengths, and pixels without data."""

from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

rasterio = pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')

from flaxnets.channels import ChannelSet  # noqa: E402
from flaxnets.data import gdal_warnings, raster_pixels  # noqa: E402
from flaxnets.data.batches import evaluation_batches, train_batches  # noqa: E402
from flaxnets.data.decode import squash  # noqa: E402
from flaxnets.data.open import open_source  # noqa: E402
from flaxnets.data.source import BadImage, DataOptions  # noqa: E402
from flaxnets.data.statistics import measure  # noqa: E402
from flaxnets.errors import InputError  # noqa: E402
from tests.data.made import NAMES, noise, open_folder, read, write_geotiff, write_photo  # noqa: E402


@pytest.fixture
def root(tmp_path):
  """Two classes of two files each, the bands of one in another order."""
  for number in range(4):
    pixels, names = noise(number), NAMES
    if number == 3:
      pixels, names = pixels[..., ::-1], NAMES[::-1]
    write_geotiff(tmp_path / 'train' / ('sea', 'wood')[number % 2] / f'{number}.tif', pixels, names)
  return tmp_path


def test_all_bands_are_read_by_name_with_their_number_type(root):
  source = open_folder(root)
  assert source.channels == ChannelSet(NAMES) and source.dtype == np.uint16 and not source.has_missing_channels
  assert list(source.ids) == ['sea/0.tif', 'sea/2.tif', 'wood/1.tif', 'wood/3.tif']
  for index, seed in enumerate((0, 2, 1, 3)):
    reading, out = read(source, index)
    assert reading.size == (20, 20) and reading.present is None
    np.testing.assert_array_equal(out, noise(seed))


def test_channels_choose_bands_in_their_order_in_lists_too(root):
  (root / 'all.txt').write_text('train/sea/0.tif 0\ntrain/wood/3.tif 1\n')
  options = DataOptions('lists', str(root), channels='B08,B03', canvas=20)
  source = open_source(options, 'all.txt')
  assert source.channels.names == ('B08', 'B03')
  np.testing.assert_array_equal(read(source, 1)[1], noise(3)[..., [3, 1]])
  with pytest.raises(InputError, match="no channel 'B12' in .*0.tif.*it has B02, B03, B04, B08, B11"):
    open_folder(root, channels='B02,B12')


def test_a_split_of_another_sensor_may_lack_channels(root):
  write_geotiff(root / 'test/sea/0.tif', noise(5)[..., [1, 3]], ('B03', 'B08'))
  source = open_folder(root, 'test', ('sea', 'wood'), channels='B02,B08,B03')
  assert source.channels.names == ('B08', 'B03')
  np.testing.assert_array_equal(read(source)[1], noise(5)[..., [3, 1]])


def test_bands_without_names_are_named_by_the_config(tmp_path):
  write_geotiff(tmp_path / 'train/sea/0.tif', noise(), names=None)
  with pytest.raises(InputError, match='0.tif.*: its 5 bands have no names; name all, in their order: data.bands='):
    open_folder(tmp_path)
  bands = ','.join(NAMES)
  np.testing.assert_array_equal(read(open_folder(tmp_path, bands=bands, channels='B11,B02'))[1], noise()[..., [4, 0]])
  assert open_folder(tmp_path, channels=bands).channels.names == NAMES  # as many channels as bands
  with pytest.raises(InputError, match=r'2 names \(B02, B03\) for 5 bands'):
    open_folder(tmp_path, bands='B02,B03')


def test_descriptions_with_spaces_become_names_and_repeated_ones_are_refused(tmp_path):
  write_geotiff(tmp_path / 'train/sea/0.tif', noise(count=2), ('B2 (blue)', 'near infrared, 842 nm'))
  assert open_folder(tmp_path).channels.names == ('B2_(blue)', 'near_infrared_842_nm')
  write_geotiff(tmp_path / 'again/sea/0.tif', noise(count=2), ('reflectance', 'reflectance'))
  with pytest.raises(InputError, match="0.tif.*: channel 'reflectance' is repeated"):
    open_folder(tmp_path, 'again')
  assert open_folder(tmp_path, 'again', bands='B02,B03').channels.names == ('B02', 'B03')


def test_wavelengths_come_from_the_file_or_the_config(tmp_path):
  tags = {
    1: {'ns': 'IMAGERY', 'CENTRAL_WAVELENGTH_UM': '0.49'},
    2: {'wavelength': '560', 'wavelength_units': 'Nanometers'},
    3: {'WAVELENGTH': '0.665', 'WAVELENGTH_UNIT': 'um'},
    4: {'wavelength': 'nan'},
  }
  write_geotiff(tmp_path / 'train/sea/0.tif', noise(count=4), NAMES[:4], tags=tags)
  assert open_folder(tmp_path).channels.wavelengths == pytest.approx((490, 560, 665, None))
  assert open_folder(tmp_path, channels='B04,B02').channels.wavelengths == pytest.approx((665, 490))
  assert open_folder(tmp_path, channels='B04', wavelengths=(664.6,)).channels.wavelengths == (664.6,)


@pytest.mark.parametrize(
  ('stored', 'expected'),
  [('uint8', 'uint8'), ('uint16', 'uint16'), ('int16', 'float32'), ('float32', 'float32'), ('float64', 'float32')],
)
def test_number_types_are_kept_or_become_float32(tmp_path, stored, expected):
  pixels = noise(dtype=stored) - (50 if stored in ('int16', 'float32') else 0)
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels.astype(stored))
  source = open_folder(tmp_path)
  assert source.dtype == expected
  np.testing.assert_array_equal(read(source)[1], pixels)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_what_gdal_warns_of_in_every_file_is_logged_once(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(gdal_warnings.once, 'said', set())
  write_photo(tmp_path / 'train/sea/0.tif', noise(count=3, dtype=np.uint8))
  data = bytearray((tmp_path / 'train/sea/0.tif').read_bytes())
  start = int.from_bytes(data[4:8], 'little') + 2
  data[start : start + 24] = data[start + 12 : start + 24] + data[start : start + 12]  # tags are not in order
  for number in range(2):
    (tmp_path / f'train/sea/{number}.tif').write_bytes(data)
  source = open_folder(tmp_path, bands='R,G,B')
  read(source, 0), read(source, 1)
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) == 1 and 'tags are not sorted in ascending order' in lines[0]
  (tmp_path / 'train/sea/1.tif').write_bytes(data[:200])
  with pytest.raises(BadImage, match='1.tif: cannot be read'):
    read(source, 1)


def test_complex_numbers_are_refused(tmp_path):
  write_geotiff(tmp_path / 'train/sea/0.tif', noise(dtype=np.complex64))
  with pytest.raises(InputError, match='complex64; all must be one integer or float type'):
    open_folder(tmp_path)


def test_a_file_of_another_type_or_without_a_band_is_bad_and_named(root):
  write_geotiff(root / 'train/sea/1.tif', noise(dtype=np.float32))
  write_geotiff(root / 'train/sea/3.tif', noise(count=4), NAMES[:4])
  source = open_folder(root)
  with pytest.raises(BadImage, match=r'sea/1.tif: its pixels are float32, but those of the first file are uint16'):
    read(source, 1)
  with pytest.raises(BadImage, match=r"sea/3.tif: it has no channel 'B11', only B02, B03"):
    read(source, 3)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_a_small_file_that_claims_to_be_large_in_all_its_bands_takes_no_memory(tmp_path):
  path = tmp_path / 'train/sea/0.tif'
  path.parent.mkdir(parents=True)
  shape = {'width': 13_000, 'height': 13_000, 'count': 7, 'dtype': 'uint8'}
  with rasterio.open(path, 'w', driver='GTiff', **shape, sparse_ok=True, tiled=True) as file:
    file.descriptions = [f'B{n}' for n in range(7)]
  assert path.stat().st_size < 1e6
  with pytest.raises(BadImage, match=r'0.tif: 13000 x 13000 pixels of 7 bands; the most .* is 1,073,741,820 values'):
    read(open_folder(tmp_path))


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('name', ['http:x.tif', 's3:x.tif', 'file:x.tif', 'GTIFF_DIR:1:x.tif'])
def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  write_photo(Path(name), noise(count=1)[..., 0])
  with raster_pixels.opened(name) as dataset:
    assert dataset.shape == (20, 20)


def test_a_path_that_gdal_cannot_take_is_bad_and_named(root):
  (root / 'train/sea/2.tif').rename(root / 'train/sea/2\udcff.tif')
  with pytest.raises(BadImage, match='its path is not UTF-8, as GDAL needs it; rename it'):
    read(open_folder(root), 1)


def test_what_is_no_raster_is_bad_and_named(root):
  (root / 'train/sea/1.tif').write_bytes(b'II*\0' + bytes(50))
  source = open_folder(root)
  with pytest.raises(BadImage, match=r'sea/1.tif: cannot be read \(.+\)') as caught:
    read(source, 1)
  assert '\n' not in str(caught.value)
  batches = list(evaluation_batches(source, batch_size=5, on_bad_image='skip'))
  assert batches[0]['mask'].tolist() == [True, False, True, True, True]


@pytest.mark.parametrize('channels', ['', 'B04,B08'])
def test_an_unreadable_first_file_decides_nothing_where_bad_images_are_skipped(root, channels):
  (root / 'train/sea/0.tif').write_bytes(b'II*\0' + bytes(50))
  source = open_folder(root, channels=channels, on_bad_image='skip')
  assert source.dtype == np.uint16 and source.channels.names == (tuple(channels.split(',')) if channels else NAMES)
  with pytest.raises(BadImage, match='sea/0.tif: cannot be read'):
    read(source)
  assert read(source, 1)[0].size == (20, 20)
  for path in root.rglob('*.tif'):
    path.write_bytes(b'')
  if channels:
    with pytest.raises(InputError, match='not B04, B08'):
      open_folder(root, channels=channels, on_bad_image='skip')
  else:
    with pytest.raises(BadImage, match='sea/0.tif: '):
      read(open_folder(root, on_bad_image='skip'))


def test_a_file_that_refers_to_another_one_is_not_followed(root, tmp_path):
  from rasterio import shutil

  outside = write_geotiff(tmp_path / 'outside.tif', noise())
  shutil.copy(str(outside), str(tmp_path / 'scene.vrt'), driver='VRT')
  with raster_pixels.opened(tmp_path / 'scene.vrt') as dataset:  # a scene that the user names
    assert dataset.count == 5
  (tmp_path / 'scene.vrt').rename(root / 'train/sea/2.tif')
  with pytest.raises(BadImage, match='2.tif: cannot be read'):
    read(open_folder(root), 1)


@pytest.mark.parametrize('end', ['.msk', '.MSK', '.Msk'])
def test_a_mask_beside_a_file_may_not_refer_to_another_one(root, tmp_path, end):
  from rasterio import shutil

  outside = write_geotiff(tmp_path / 'outside.tif', noise(count=1, dtype=np.uint8) * 0, ('mask',))
  shutil.copy(str(outside), str(tmp_path / 'mask.vrt'), driver='VRT')
  text = (tmp_path / 'mask.vrt').read_text()
  flags = ''.join(f'<MDI key="INTERNAL_MASK_FLAGS_{band}">2</MDI>' for band in range(1, 6))
  mask = root / f'train/sea/2.tif{end}'
  mask.write_text(text.replace('<VRTRasterBand', f'<Metadata>{flags}</Metadata><VRTRasterBand', 1))
  if end == '.Msk':  # not looked for
    assert read(open_folder(root), 1)[0].present is None
  else:
    with pytest.raises(BadImage, match=f'2.tif: the mask .*2.tif{end} beside it is not a TIFF'):
      read(open_folder(root), 1)


def test_a_mask_beside_a_file_says_which_pixels_have_data(root):
  with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(root / 'train/sea/0.tif', 'r+') as file:
    file.write_mask(np.arange(400).reshape(20, 20) >= 30)
  assert (root / 'train/sea/0.tif.msk').exists()
  assert read(open_folder(root, missing_pixels='mean'))[0].filled == 150


@pytest.mark.parametrize('name', ['2.vrt', '2.xml', '2'])
def test_a_list_cannot_name_a_raster_that_refers_to_another_file(root, tmp_path, name):
  from rasterio import shutil

  outside = write_geotiff(tmp_path / 'outside.tif', noise())
  shutil.copy(str(outside), str(tmp_path / 'scene.vrt'), driver='VRT')
  (tmp_path / 'scene.vrt').rename(root / 'train' / name)
  (root / 'train.txt').write_text(f'train/sea/0.tif 0\ntrain/{name} 1\n')
  source = open_source(DataOptions('lists', str(root), channels='', canvas=20), 'train.txt')
  with pytest.raises(BadImage, match=rf'train/{name} \(.*line 2\): rasters of data sets end in .tif, .* this one in '):
    read(source, 1)
  (root / 'train.txt').write_text(f'train/{name} 0\n')
  with pytest.raises(InputError):  # as the first file it is a photo, which decides for all
    read(open_source(DataOptions('lists', str(root), channels='RGB', canvas=20), 'train.txt'))


def test_a_plane_without_data_is_an_absent_channel(tmp_path):
  pixels = noise()
  pixels[..., 1] = 0
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels, nodata=0)
  source = open_folder(tmp_path)
  reading, out = read(source)
  assert source.has_missing_channels and reading.present.tolist() == [True, False, True, True, True]
  np.testing.assert_array_equal(out, pixels)


def test_measuring_counts_the_images_that_lack_a_band(tmp_path, caplog):
  for number in range(4):
    pixels = noise(number)
    pixels[..., :number] = 0
    write_geotiff(tmp_path / f'train/sea/{number}.tif', pixels, nodata=0)
  with caplog.at_level('WARNING', 'absl'):
    measure(open_folder(tmp_path))
  said = 'train: of the 4 examples measured, 3 lack a channel (B02: 3, B03: 2, B04: 1)'
  assert [record.getMessage().endswith(said) for record in caplog.records] == [True]


def test_single_pixels_without_data_are_an_error_or_the_mean_of_their_band(tmp_path):
  pixels = noise(dtype=np.float32)
  pixels[3, 4, 2] = pixels[5, 6, 2] = np.nan
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels)
  with pytest.raises(BadImage, match=r'0.tif: 2 of 400 pixels of channel B04 have no data; data.missing_pixels=mean'):
    read(open_folder(tmp_path))
  reading, out = read(open_folder(tmp_path, missing_pixels='mean'))
  assert reading.filled == 2 and reading.present is None
  expected = np.where(np.isnan(pixels), np.nanmean(pixels[..., 2]), pixels)
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  with pytest.raises(InputError, match="data.missing_pixels is 'zero'; choose one of error, mean"):
    open_folder(tmp_path, missing_pixels='zero')


def test_filled_pixels_are_counted_once_in_a_warning(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *values: said.append(text % values))
  for number in range(3):
    pixels = noise(number)
    pixels[0, :number, 0] = 0
    write_geotiff(tmp_path / f'train/sea/{number}.tif', pixels, nodata=0)
  source = open_folder(tmp_path, missing_pixels='mean')
  measure(source)
  assert [line.split(': ')[1][:60] for line in said] == ['3 pixels without data in 2 of the examples read were filled ']
  batches = train_batches(source, batch_size=3, seed=0)
  next(batches)
  batches.close()
  assert len(said) == 1


def test_a_value_that_the_files_do_not_declare_can_be_given(tmp_path):
  pixels = noise()
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels)
  lacking = pixels.copy()
  lacking[..., 4] = 0
  write_geotiff(tmp_path / 'train/sea/1.tif', lacking)
  assert read(open_folder(tmp_path), 1)[0].present is None
  given = open_folder(tmp_path, nodata='0')
  assert given.has_missing_channels and read(given, 0)[0].present is None
  assert read(given, 1)[0].present.tolist() == [True] * 4 + [False]
  with pytest.raises(InputError, match="data.nodata is 'zero'"):
    open_folder(tmp_path, nodata='zero')


def test_a_later_file_that_declares_nodata_asks_for_the_value(tmp_path):
  pixels = noise()
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels)
  pixels[..., 4] = 0
  write_geotiff(tmp_path / 'train/sea/1.tif', pixels, nodata=0)
  with pytest.raises(BadImage, match=r'1.tif: no pixel of channel B11 has data, but the first file .*data.nodata=0'):
    read(open_folder(tmp_path), 1)


def test_a_file_without_any_data_is_bad(tmp_path):
  write_geotiff(tmp_path / 'train/sea/0.tif', noise() * 0, nodata=0)
  with pytest.raises(BadImage, match='0.tif: none of its pixels has data in B02, B03'):
    read(open_folder(tmp_path))


def test_large_and_odd_sizes_are_squashed_to_the_canvas(tmp_path):
  pixels = noise(size=(90, 51), count=13)
  write_geotiff(tmp_path / 'train/sea/0.tif', pixels, [f'B{n}' for n in range(13)])
  source = open_folder(tmp_path)
  reading, out = read(source)
  assert reading.size == (90, 51)
  for plane in range(13):
    expected = np.empty((20, 20, 1), np.uint16)
    squash(np.ascontiguousarray(pixels[..., plane : plane + 1]), expected)
    np.testing.assert_allclose(out[..., plane], expected[..., 0], atol=1)


def test_statistics_and_batches_are_those_of_the_pixels(root):
  source = open_folder(root)
  found = measure(source)
  everything = np.stack([noise(seed) for seed in range(4)]).astype(float)
  np.testing.assert_allclose(found['mean'], everything.mean((0, 1, 2)), rtol=1e-5)
  for workers in (0, 1):
    batch = next(evaluation_batches(source, batch_size=4, workers=workers))
    assert batch['image'].dtype == np.uint16 and batch['present'].all()
    np.testing.assert_array_equal(batch['image'][2], noise(1))


def test_without_rasterio_the_extra_is_named(root, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'rasterio', None)
  with pytest.raises(InputError, match=r'0.tif.*: rasterio reads such files; pip install rasterio'):
    open_folder(root)


def test_without_rasterio_tiffs_of_8_bits_are_read_as_photos(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'rasterio', None)
  for label in ('land', 'sea'):
    (tmp_path / 'train' / label).mkdir(parents=True)
    Image.fromarray(np.full((20, 20, 3), 9, np.uint8)).save(tmp_path / 'train' / label / '0.tif')
  source = open_folder(tmp_path)
  assert source.channels.names == ('R', 'G', 'B') and (read(source)[1] == 9).all()
