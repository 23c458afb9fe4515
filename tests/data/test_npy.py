"""Folders and lists of .npy files, an image in each: axes, number types, names, absent channels, and prediction."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from flaxnets.channels import ChannelSet
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.divide import write_lists
from flaxnets.data.open import open_source
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.errors import InputError
from flaxnets.inference.files import FilePredictions, find
from tests.data.made import NAMES, noise, open_folder, read, write_geotiff
from tests.networks import untrained

BANDS = ','.join(NAMES)


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  np.save(path, pixels)
  return path


@pytest.fixture
def root(tmp_path):
  """Two classes of two files each."""
  for number in range(4):
    write(tmp_path / 'train' / ('sea', 'wood')[number % 2] / f'{number}.npy', noise(number))
  return tmp_path


def test_an_image_in_each_file_is_read_with_its_number_type_and_the_names_of_the_config(root, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'rasterio', None)  # not needed
  source = open_folder(root, bands=BANDS)
  assert source.channels == ChannelSet(NAMES) and source.dtype == np.uint16 and not source.has_missing_channels
  assert list(source.ids) == ['sea/0.npy', 'sea/2.npy', 'wood/1.npy', 'wood/3.npy']
  for index, seed in enumerate((0, 2, 1, 3)):
    reading, out = read(source, index)
    assert reading.size == (20, 20) and reading.present is None
    np.testing.assert_array_equal(out, noise(seed))
  np.testing.assert_array_equal(read(open_folder(root, bands=BANDS, channels='B11,B02'))[1], noise()[..., [4, 0]])
  batch = next(evaluation_batches(source, batch_size=4))
  np.testing.assert_array_equal(batch['image'][2], noise(1))


def test_names_are_asked_for_as_for_tiffs_without_them(root):
  with pytest.raises(BadImage, match=r'0.npy .*: its 5 bands have no names; name all, in their order: data.bands='):
    open_folder(root)
  assert open_folder(root, channels=BANDS).channels.names == NAMES  # as many channels as bands


def test_channels_first_are_refused_with_the_shape_and_the_remedy(tmp_path):
  write(tmp_path / 'train/sea/0.npy', np.moveaxis(noise(), 2, 0))
  said = (
    r'0.npy \(an .npy is \(height, width, channels\), and this one \(5, 20, 20\); channels come last, '
    r'so save np.moveaxis\(array, 0, 2\)\): 5 names \(.*\) for 20 bands'
  )
  with pytest.raises(BadImage, match=said):
    open_folder(tmp_path, bands=BANDS)


def test_lists_and_their_division_take_such_files(root):
  for number in (4, 5):
    write(root / 'train' / ('sea', 'wood')[number % 2] / f'{number}.npy', noise(number))
  counts = write_lists(str(root / 'train'), (1, 1, 1))
  assert [split.total() for split in counts.values()] == [2, 2, 2]
  options = DataOptions('lists', str(root / 'train'), channels='', bands=BANDS, canvas=20)
  source = open_source(options, 'train.txt')
  np.testing.assert_array_equal(read(source)[1], noise(int(source.ids[0][-5])))


def test_an_image_of_two_axes_is_one_channel(tmp_path):
  pixels = noise(count=1, dtype=np.uint8)
  write(tmp_path / 'train/sea/0.npy', pixels[..., 0])
  np.testing.assert_array_equal(read(open_folder(tmp_path, bands='L'))[1], pixels)


@pytest.mark.parametrize(
  ('stored', 'kept'), [('u1', 'uint8'), ('<u2', 'uint16'), ('>u2', 'uint16'), ('>f4', 'float32')]
)
def test_eight_and_sixteen_bits_and_floats_are_kept_in_any_order_of_bytes_and_axes(tmp_path, stored, kept):
  write(tmp_path / 'train/sea/0.npy', np.asfortranarray(noise().astype(stored)))
  source = open_folder(tmp_path, bands=BANDS)
  assert source.dtype == kept
  np.testing.assert_array_equal(read(source)[1], noise())


@pytest.mark.parametrize('stored', ['float64', 'int16', 'int64', 'bool', 'complex64', 'U3'])
def test_other_number_types_are_refused_with_those_that_are_right(tmp_path, stored):
  write(tmp_path / 'train/sea/0.npy', noise().astype(stored))
  with pytest.raises(BadImage, match=r'0.npy: its array holds .*; save it as uint8, uint16 or float32, as in array.as'):
    open_folder(tmp_path, bands=BANDS)


def test_a_plane_of_nan_is_an_absent_channel_and_single_pixels_are_an_error_or_filled(tmp_path):
  pixels = noise(dtype=np.float32)
  pixels[..., 1] = np.nan
  write(tmp_path / 'train/sea/0.npy', pixels)
  single = noise(dtype=np.float32)
  single[3, 4, 2] = np.nan
  write(tmp_path / 'train/sea/1.npy', single)
  source = open_folder(tmp_path, bands=BANDS)
  reading, out = read(source)
  assert source.has_missing_channels and reading.present.tolist() == [True, False, True, True, True]
  np.testing.assert_array_equal(out, np.nan_to_num(pixels))
  with pytest.raises(BadImage, match=r'1.npy: 1 of 400 pixels of channel B04 have no data; data.missing_pixels=mean'):
    read(source, 1)
  reading, out = read(open_folder(tmp_path, bands=BANDS, missing_pixels='mean'), 1)
  assert reading.filled == 1 and out[3, 4, 2] == pytest.approx(np.nanmean(single[..., 2]))


def test_a_value_for_no_data_marks_channels_too(tmp_path):
  pixels = noise()
  pixels[..., 4] = 0
  write(tmp_path / 'train/sea/0.npy', pixels)
  assert read(open_folder(tmp_path, bands=BANDS))[0].present is None
  assert read(open_folder(tmp_path, bands=BANDS, nodata='0'))[0].present.tolist() == [True] * 4 + [False]


def test_files_that_are_no_images_are_bad_and_named(root):
  (root / 'train/sea/2.npy').write_bytes(b'hello')
  np.save(root / 'train/wood/1.npy', np.asarray([{}], object), allow_pickle=True)
  data = (root / 'train/wood/3.npy').read_bytes()
  (root / 'train/wood/3.npy').write_bytes(data[:-1])
  write(root / 'train/wood/4.npy', noise().ravel())
  write(root / 'train/wood/5.npy', noise(dtype=np.uint8))
  source = open_folder(root, bands=BANDS)
  for index, said in enumerate(
    (
      r'2.npy: cannot be read \(it is not an .npy file, or a corrupt one\)',
      r'1.npy: cannot be read \(.*objects.*\)',
      r'3.npy: cannot be read \(mmap length is greater than file ?size\)',
      r'4.npy: its array is \(2000,\), but an image is \(height, width, channels\)',
      r'5.npy: its pixels are uint8, but those of the first file are uint16',
    ),
    start=1,
  ):
    with pytest.raises(BadImage, match=said):
      read(source, index)


def test_npz_files_are_said_to_be_no_image_files(tmp_path):
  path = tmp_path / 'train' / 'sea' / '0.npz'
  path.parent.mkdir(parents=True)
  np.savez(path, noise())
  with pytest.raises(
    InputError, match=r'train has no images .*; save the image of each .npz as .npy \(height, width, ch'
  ):
    open_folder(tmp_path)
  with pytest.raises(InputError, match=r'save the image of each .npz as .npy'):
    write_lists(str(tmp_path / 'train'))
  (tmp_path / 'train.txt').write_text('train/sea/0.npz 0\n')
  with pytest.raises(BadImage, match=r'0.npz \(.*line 1\): an image file is no .npz; save each image as .npy'):
    open_source(DataOptions('lists', str(tmp_path)), 'train.txt')


def test_beside_photos_npy_files_are_no_images(root):
  Image.fromarray(noise(count=3, dtype=np.uint8)).save(root / 'train/sea/0.png')
  source = open_folder(root)
  assert list(source.ids) == ['sea/0.png'] and source.dtype == np.uint8


def net_of_bands(**data):
  """A network of three bands that was trained on image files."""
  net = untrained(small=True, **{'data.source': 'folders', 'data.canvas': 24} | data)
  net.channels = ChannelSet(('B02', 'B03', 'B04'))
  net.metadata = dataclasses.replace(net.metadata, channels=net.channels, canvas=(24, 24))
  return net


def test_prediction_takes_the_same_files_as_training(tmp_path):
  net, images = net_of_bands(**{'data.bands': BANDS}), [noise(seed, (30, 26), dtype=np.uint8) for seed in (0, 1)]
  paths = [str(write(tmp_path / f'{number}.npy', image)) for number, image in enumerate(images)]
  expected = net.probabilities(np.stack(images)[..., :3])
  np.testing.assert_allclose(net.probabilities(paths), expected, rtol=1e-4, atol=1e-6)
  found = list(FilePredictions(net)(find([str(tmp_path)])))
  assert [path for path, _, _ in found] == paths
  np.testing.assert_allclose([row for _, _, row in found], expected, rtol=1e-4, atol=1e-6)
  found = list(FilePredictions(net, channels='B04,B03,B02,x,y', subset='B03')(paths[:1]))
  np.testing.assert_allclose(found[0][2], net.probabilities(images[0][None, ..., [1]], 'B03')[0], rtol=1e-4, atol=1e-6)


def test_arrays_of_several_images_and_of_other_types_are_still_predicted(tmp_path):
  net, images = net_of_bands(), np.stack([noise(seed, (24, 24), 3, np.uint8) for seed in (0, 1)])
  paths = [write(tmp_path / 'all.npy', images), write(tmp_path / 'one.npy', images[0].astype(np.float64))]
  found = [row for _, _, row in FilePredictions(net)(map(str, paths))]
  np.testing.assert_allclose(found, net.probabilities(images[[0, 1, 0]]), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings('ignore:The given matrix is equal to Affine.identity', 'ignore:Dataset has no geotransform')
def test_the_map_of_an_array_is_that_of_the_tiff(tmp_path):
  rasterio = pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  net, image, maps = net_of_bands(**{'data.bands': BANDS}), noise(size=(40, 30), dtype=np.uint8), []
  for scene in (write(tmp_path / 'scene.npy', image), write_geotiff(tmp_path / 'scene.tif', image)):
    net.predict_map(scene, tmp_path / 'map.tif', tile=16, stride=8)
    with rasterio.open(tmp_path / 'map_probability.tif') as file:
      maps.append(file.read(1))
  assert len(np.unique(maps[0])) > 1
  np.testing.assert_array_equal(*maps)
