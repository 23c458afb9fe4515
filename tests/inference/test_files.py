"""Files and arrays that are predicted, with networks that were not trained."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image

from flaxnets.channels import ChannelSet
from flaxnets.inference.files import FilePredictions, find
from flaxnets.inference.predictor import Predictor, raster_options
from tests.data.made import open_folder, read
from tests.networks import untrained, untrained_near_zero


@pytest.mark.parametrize('subset', ['', 'BR'])
def test_channels_that_an_npz_says_are_absent_are_none_of_the_image(tmp_path, subset):
  net, rng = untrained(small=True), np.random.default_rng(4)
  images, present = rng.integers(1, 256, (6, 20, 20, 3), np.uint8), np.ones((6, 3), bool)
  present[1, 0] = present[2, 1:] = present[5, 2] = False
  images[~present.repeat(400, 0).reshape(6, 20, 20, 3)] = 0
  lacking = np.where(present[:, np.newaxis, np.newaxis], images, np.float32(np.nan))
  np.savez(tmp_path / 'x.npz', X_test=images, X_val=images[:2], present_test=present, bands=['R', 'G', 'B'])
  found = list(FilePredictions(net, subset=subset, key='X_test', batch_size=4)([str(tmp_path / 'x.npz')]))
  expected = net.probabilities(lacking[..., [2, 0]] if subset else lacking, subset or None)
  np.testing.assert_allclose([row for _, _, row in found], expected, rtol=1e-4, atol=1e-6)
  said = []
  np.savez(tmp_path / 'y.npz', X_test=images, present_test=present[:, :2])
  assert list(FilePredictions(net, on_bad=said.append)([str(tmp_path / 'y.npz')])) == []
  assert 'presence must be a bool array (6, 3)' in said[0] and 'it is bool (6, 2)' in said[0]


def test_image_files_go_into_a_network_that_was_trained_on_arrays(tmp_path):
  net = untrained(small=True)
  images = [np.random.default_rng(side).integers(0, 256, (side, 26, 3), np.uint8) for side in (20, 20, 31)]
  for number, image in enumerate(images):
    Image.fromarray(image).save(tmp_path / f'{number}.png')
  found = list(FilePredictions(net)(find([str(tmp_path / '*.png')])))
  assert [pathlib.Path(path).name for path, _, _ in found] == ['0.png', '1.png', '2.png']
  for image, (_, _, probabilities) in zip(images, found, strict=True):
    np.testing.assert_allclose(probabilities, net.probabilities(image[np.newaxis])[0], rtol=1e-4, atol=1e-6)


def test_an_image_that_is_too_large_is_bad_and_the_others_are_predicted(tmp_path):
  net, said = untrained(small=True), []
  for name, side in (('1.png', 20), ('2.png', 1000), ('3.png', 20)):
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / name)
  found = list(FilePredictions(net, on_bad=said.append)(find([str(tmp_path)])))
  assert [pathlib.Path(path).name for path, _, _ in found] == ['1.png', '3.png']
  assert len(said) == 1 and said[0].startswith(f'{tmp_path / "2.png"}: a canvas of 1000 x 1000 shrinks up to ')


def test_a_photo_alone_is_no_full_batch_and_the_last_batch_of_many_is_one(tmp_path, monkeypatch):
  net, sizes = untrained(small=True), []
  compiled = net.compiled
  monkeypatch.setattr(net, 'compiled', lambda *arguments: (sizes.append(len(arguments[1])), compiled(*arguments))[1])
  for number in range(7):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / f'{number}.png')
  paths = find([str(tmp_path)])
  for count in (1, 7):
    assert len(list(FilePredictions(net, batch_size=4)(paths[:count]))) == count
  assert sizes == [1, 4, 4]


def test_the_last_batch_of_an_array_is_a_full_one_and_compiles_nothing(tmp_path, monkeypatch):
  net, sizes = untrained(small=True), []
  compiled = net.compiled
  monkeypatch.setattr(net, 'compiled', lambda *arguments: (sizes.append(len(arguments[1])), compiled(*arguments))[1])
  images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), np.uint8)
  for count in (3, 5, 6):
    np.save(tmp_path / 'x.npy', images[:count])
    found = [row for _, _, row in FilePredictions(net, batch_size=4)([str(tmp_path / 'x.npy')])]
    np.testing.assert_allclose(found, net.probabilities(images[:count]), rtol=1e-4, atol=1e-6)
  assert sizes == [4, 4, 4, 4, 8, 4, 4, 8]  # alone, then all at once in memory


def test_a_bad_image_in_an_array_is_named_by_its_number_in_the_file(tmp_path):
  images, said = np.random.default_rng(0).uniform(0, 255, (7, 20, 20, 3)).astype(np.float32), []
  images[6, 3, 4, 1] = np.nan
  np.save(tmp_path / 'x.npy', images)
  found = list(FilePredictions(untrained(small=True), batch_size=4, on_bad=said.append)([str(tmp_path / 'x.npy')]))
  assert [index for _, index, _ in found] == [0, 1, 2, 3]
  assert said[0].startswith(f'{tmp_path / "x.npy"}: image 6 has NaN or infinite pixels in channel G; ')


def test_names_of_channels_that_are_bytes_are_read_as_training_reads_them(tmp_path):
  net, images = untrained(small=True), np.random.default_rng(0).integers(0, 256, (2, 20, 20, 2), np.uint8)
  np.savez(tmp_path / 'x.npz', X=images, bands=np.array([b'G', b'R']))
  said = []
  found = list(FilePredictions(net, on_bad=said.append)([str(tmp_path / 'x.npz')]))
  assert not said
  np.testing.assert_allclose([row for _, _, row in found], net.probabilities(images, 'GR'), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('batch_size', [1, 4])
def test_a_file_on_another_scale_is_bad_whatever_files_are_beside_it(tmp_path, batch_size):
  net, rng, said = untrained(small=True), np.random.default_rng(0), []
  net.metadata = dataclasses.replace(net.metadata, dtype='float32')
  for number, highest in enumerate((256, 3, 256, 256)):
    Image.fromarray(rng.integers(0, highest, (20, 20, 3), np.uint8)).save(tmp_path / f'{number}.png')
  run = FilePredictions(net, batch_size=batch_size, on_bad=said.append)
  found = [pathlib.Path(path).name for path, _, _ in run(find([str(tmp_path)]))]
  assert found == ['0.png', '2.png', '3.png'] and run.bad == 1
  assert said[0].startswith(f'{tmp_path / "1.png"}: these images reach 2, but the network was trained on 0 to 255')


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')  # rasterio's, which looks at the TIFF first
@pytest.mark.parametrize('channels', ['RG', 'BGR'])
def test_a_photo_in_a_tiff_is_a_photo_when_channels_are_named(tmp_path, channels):
  net, said = untrained(small=True), []
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
  for name in ('1.png', '2.tif'):
    image.save(tmp_path / name)
  (_, _, png), (_, _, tiff) = FilePredictions(net, channels, on_bad=said.append)(find([str(tmp_path)]))
  assert not said
  np.testing.assert_array_equal(tiff, png)


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')  # rasterio's
@pytest.mark.parametrize('bands', ['green,nir,red', 'B,G,R'])
def test_a_png_of_8_bits_whose_bands_the_config_names_is_read_as_in_training(tmp_path, bands):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  path = tmp_path / 'train' / 'a' / '1.png'
  path.parent.mkdir(parents=True)
  Image.fromarray(image).save(path)
  source = open_folder(tmp_path, bands=bands, canvas=24)
  net = untrained(small=True, **{'data.source': 'folders', 'data.bands': bands})
  net.channels, net.metadata = source.channels, dataclasses.replace(net.metadata, channels=source.channels)
  reading, canvas = read(source)
  found, size, present = Predictor(net).read(path)
  assert found.dtype == source.dtype == np.uint8 and size == reading.size == (30, 40) and present is None
  np.testing.assert_array_equal(found, canvas)
  expected = net.probabilities(image[np.newaxis])  # the planes are the bands, in their order
  np.testing.assert_allclose(net.probabilities(path), expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose([row for _, _, row in FilePredictions(net)([str(path)])], expected, rtol=1e-4, atol=1e-6)


def test_a_tiff_that_is_cut_is_said_to_be_unreadable_and_not_to_lack_channels(tmp_path):
  net, said = untrained(small=True), []
  net.channels = ChannelSet(('R', 'G', 'T'))
  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'whole.tif')
  (tmp_path / 'cut.tif').write_bytes((tmp_path / 'whole.tif').read_bytes()[:100])
  assert not list(FilePredictions(net, on_bad=said.append)([str(tmp_path / 'cut.tif')]))
  assert len(said) == 1 and 'cut.tif: cannot be read' in said[0]


def test_channels_are_named_as_everywhere_else(tmp_path):
  net, images = untrained(small=True), np.random.default_rng(0).integers(0, 256, (2, 20, 20, 2), np.uint8)
  net.channels = ChannelSet(('R', 'G', 'D'))
  np.save(tmp_path / 'x.npy', images)
  file = str(tmp_path / 'x.npy')
  for subset, named, planes in (('', 'RD', [0, 1]), ('full', 'RD', [0, 1]), ('DR', 'DR', [1, 0])):
    found = [row for _, _, row in FilePredictions(net, 'RD', subset)([file])]
    np.testing.assert_allclose(found, net.probabilities(images[..., planes], named), rtol=1e-4, atol=1e-6)
  options = raster_options(net, net.channels.names, 'RD')
  assert ChannelSet.of(options.bands).names == ('R', 'D')


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
  net, reads = untrained(small=True), []
  read = Predictor.read
  monkeypatch.setattr(Predictor, 'read', lambda self, path: (reads.append(path), read(self, path))[1])
  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / 'one.png')
  rows_ahead = FilePredictions(net, batch_size=4)(itertools.repeat(str(tmp_path / 'one.png')))  # without an end
  next(rows_ahead)
  rows_ahead.close()
  assert 8 <= len(reads) <= 8 + 8  # of the first two batches, one of them ahead of the rows; and decoded ahead of these


def test_the_latency_of_a_network_whose_channels_have_means_near_0_is_measured():
  assert 0 < Predictor(untrained_near_zero()).latency(repeats=1, warm_up=1) < 60
