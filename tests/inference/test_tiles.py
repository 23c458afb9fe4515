"""A class map of a scene: what each pixel gets, what the files say, and what is refused."""

import functools
import importlib
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

rasterio = pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')

import flaxnets  # noqa: E402
from flaxnets.channels import ChannelSet  # noqa: E402
from flaxnets.cli import main  # noqa: E402
from flaxnets.data.decode import squash  # noqa: E402
from flaxnets.errors import InputError  # noqa: E402
from flaxnets.inference import restore, scene_pass  # noqa: E402
from flaxnets.inference.metadata import Metadata  # noqa: E402
from flaxnets.inference.network import Network  # noqa: E402
from tests.data.made import NAMES, TRANSFORM, write_geotiff  # noqa: E402
from tests.small import small_config  # noqa: E402

CLASSES = ('sea', 'wood & field', 'town')


@functools.cache
def net(canvas=None, classes=CLASSES):
  """A network of five bands whose compiled function is replaced: logits are sums over channels of weighted pixels.

  The tests compare what reaches this function with what would reach it for single images. Compiling a real network for
  each subset and batch size would take a minute.
  """
  config = small_config(**{'model.name': 'resattention'})
  statistics = {'mean': np.full(5, 1000.0), 'std': np.full(5, 300.0)}
  variables = {
    'params': {'head': {'dense': {'kernel': np.zeros((8, 3))}}},
    'batch_stats': {},
    'channel_stats': {'stem': {'standardize': statistics}},
  }
  metadata = Metadata(ChannelSet(NAMES), classes, 'uint16', (100.0,) * 5, (2000.0,) * 5, canvas)
  network = Network(config, metadata, variables, step=7, ema=False)
  weights = np.random.default_rng(0).normal(0, 3, (5, len(classes)))

  def run(variables, images, size, present, subset):
    images = (np.asarray(images, np.float64) - 1000) / 300
    rows, columns = (np.linspace(0.2, 1.8, side) for side in images.shape[1:3])  # so that a turned tile shows
    planes = np.einsum('bhwc,h,w->bc', images, rows, columns**2) / images[0, :, :, 0].size
    planes = planes if present is None else np.where(present, planes, 0)
    logits = (planes @ weights[list(subset)]).astype(np.float32)
    return logits, np.zeros((len(images), 8), np.float32), np.zeros((len(images), 0, 0), np.float32)

  network.__dict__['compiled'] = run
  return network


def pixels(height=40, width=56, seed=0):
  """Blobs of 8 pixels, so that tiles differ."""
  rng = np.random.default_rng(seed)
  blobs = rng.integers(500, 1500, (-(-height // 8), -(-width // 8), 5))
  image = np.repeat(np.repeat(blobs, 8, 0), 8, 1)[:height, :width]
  return (image + rng.integers(0, 100, (height, width, 5))).astype(np.uint16)


def scene(folder, image=None, **options):
  return write_geotiff(folder / 'scene.tif', pixels() if image is None else image, **options)


def mapped(path, folder, network=None, **options):
  """The classes (H, W) and the probabilities (bands, H, W) of the files that are written, and the summary."""
  out = folder / 'map.tif'
  summary = (network or net()).predict_map(path, out, **{'tile': 16, 'stride': 8, 'probabilities': 'all'} | options)
  with rasterio.open(summary.files[0]) as one, rasterio.open(summary.files[1]) as other:
    return one.read(1), other.read(), summary


def expected(image, tile=16, stride=8, network=None):
  """The average by the definition: every tile's probabilities with weights that fall from its centre."""
  height, width = image.shape[:2]
  sums, amounts = np.zeros((3, height, width)), np.zeros((height, width))
  rows, columns = (sorted({*range(0, side - tile + 1, stride), side - tile}) for side in (height, width))
  falling = 1 - np.abs(np.arange(tile) + 0.5 - tile / 2) / (tile / 2)
  for row in rows:
    for column in columns:
      inside = np.s_[row : row + tile, column : column + tile]
      image_of_tile = np.ascontiguousarray(image[inside])
      if network:  # of image files: what evaluation would make of the tile in a file
        canvas = np.empty((*network.canvas, 5), np.uint16)
        squash(image_of_tile, canvas)
        image_of_tile = canvas
      found = (network or net()).probabilities(image_of_tile[np.newaxis])[0]
      sums[:, *inside] += found[:, np.newaxis, np.newaxis] * np.outer(falling, falling)
      amounts[inside] += np.outer(falling, falling)
  return sums / amounts


@pytest.mark.parametrize(('size', 'stride'), [((40, 56), 8), ((45, 51), 7), ((32, 48), 16), ((16, 33), 5)])
def test_each_pixel_has_the_weighted_average_of_the_tiles_that_cover_it(tmp_path, size, stride):
  image = pixels(*size)
  classes, found, summary = mapped(scene(tmp_path, image), tmp_path, stride=stride)
  wanted = expected(image, stride=stride)
  assert found.std() > 0.05
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  np.testing.assert_array_equal(classes, found.argmax(axis=0))
  assert summary.size == size and summary.empty == summary.filled == 0
  assert sum(summary.pixels.values()) == size[0] * size[1] and set(summary.pixels) == set(CLASSES)


def test_tiles_that_do_not_overlap_are_classified_as_images(tmp_path):
  image = pixels(32, 32)
  _, found, _ = mapped(scene(tmp_path, image), tmp_path, stride=16)
  whole = net().probabilities(np.stack([image[:16, :16], image[:16, 16:], image[16:, :16], image[16:, 16:]]))
  np.testing.assert_allclose(found[:, [0, 0, 31, 31], [0, 31, 0, 31]], whole.T, atol=1e-5)


def test_a_scene_smaller_than_a_tile_is_one_image(tmp_path):
  image = pixels(12, 10)
  _, found, summary = mapped(scene(tmp_path, image), tmp_path, tile=64, stride=32)
  np.testing.assert_allclose(found[:, 5, 5], net().probabilities(image[np.newaxis])[0], atol=1e-5)
  assert summary.tiles == 1 and np.ptp(found.reshape(3, -1), axis=1).max() < 1e-6


def test_a_network_of_image_files_sees_tiles_on_its_canvas(tmp_path):
  network, image = net(canvas=(24, 24)), pixels(40, 40)
  _, found, _ = mapped(scene(tmp_path, image), tmp_path, network)
  np.testing.assert_allclose(found, expected(image, network=network), atol=1e-4)


def test_the_next_tiles_are_on_the_device_when_the_results_of_the_last_are_fetched(tmp_path, monkeypatch):
  network, events = net(), []
  begin = scene_pass.Predictor.begin

  def begun(*args, **named):
    number, fetch = sum(event[0] == 'sent' for event in events), begin(*args, **named)
    events.append(('sent', number))
    return lambda: (events.append(('fetched', number)), fetch())[1]

  monkeypatch.setattr(scene_pass.Predictor, 'begin', begun)
  mapped(scene(tmp_path, pixels(48, 32)), tmp_path, network, tile=16, stride=16)  # three rows of two tiles
  assert events == [('sent', 0), ('sent', 1), ('fetched', 0), ('sent', 2), ('fetched', 1), ('fetched', 2)]


def test_batches_and_column_chunks_and_blocks_change_nothing(tmp_path, monkeypatch):
  path = scene(tmp_path, pixels(300, 280))
  whole = mapped(path, tmp_path, tile=32, stride=16)
  monkeypatch.setattr(scene_pass, '_BYTES', 2**12)
  parts = mapped(path, tmp_path, tile=32, stride=16, batch_size=3)
  np.testing.assert_allclose(parts[1], whole[1], atol=1e-4)
  assert (parts[0] != whole[0]).mean() < 1e-3


def test_the_files_lie_where_the_scene_does_and_name_the_classes(tmp_path):
  path = scene(tmp_path)
  summary = net().predict_map(path, tmp_path / 'map.tif', tile=16, stride=8)
  assert summary.files == (str(tmp_path / 'map.tif'), str(tmp_path / 'map_probability.tif'))
  with rasterio.open(summary.files[0]) as file:
    assert file.crs.to_epsg() == 32631 and file.transform[:6] == TRANSFORM and file.shape == (40, 56)
    assert file.dtypes == ('uint8',) and file.nodata == 255 and file.descriptions == ('class',)
    assert [file.tags(1)[f'class_{place}'] for place in range(3)] == list(CLASSES)
    assert len({file.colormap(1)[place] for place in range(3)}) == 3
    tags = file.tags()
    assert (tags['scene'], tags['channels'], tags['tile'], tags['stride']) == (
      'scene.tif',
      ','.join(NAMES),
      '16x16',
      '8',
    )
  assert '<Category>wood &amp; field</Category>' in (tmp_path / 'map.tif.aux.xml').read_text()
  with rasterio.open(summary.files[1]) as file:
    assert file.crs.to_epsg() == 32631 and file.transform[:6] == TRANSFORM
    assert file.dtypes == ('float32',) and np.isnan(file.nodata) and file.descriptions == ('probability',)
    top = file.read(1)
  with rasterio.open(mapped(path, tmp_path)[2].files[1]) as file:
    assert file.descriptions == CLASSES
    np.testing.assert_allclose(file.read().max(axis=0), top, atol=1e-6)
  assert net().predict_map(path, tmp_path / 'bare.tif', probabilities='none').files == (str(tmp_path / 'bare.tif'),)
  assert not (tmp_path / 'bare_probability.tif').exists()


def test_a_class_name_that_no_xml_may_hold_is_written_with_question_marks(tmp_path):
  mapped(scene(tmp_path), tmp_path, net(classes=('a\x01b', os.fsdecode(b'caf\xe9'), 'é 🌲')))
  names = ElementTree.parse(tmp_path / 'map.tif.aux.xml').iter('Category')
  with rasterio.open(tmp_path / 'map.tif') as file:
    tags = [file.tags(1)[f'class_{place}'] for place in range(3)]
  assert [name.text for name in names] == tags == ['a?b', 'caf?', 'é 🌲']


def test_many_classes_have_more_bits(tmp_path):
  network = net(classes=tuple(f'class {place}' for place in range(300)))
  classes, _, summary = mapped(scene(tmp_path, pixels(16, 24)), tmp_path, network)
  assert classes.dtype == np.uint16 and classes.max() < 300
  with rasterio.open(summary.files[0]) as file:
    assert file.nodata == 65535


def test_pixels_without_data_have_no_class_and_tiles_without_data_no_vote(tmp_path):
  image = pixels(48, 48)
  image[:16, :20] = 0
  classes, found, summary = mapped(scene(tmp_path, image, nodata=0), tmp_path, stride=16)
  without = (image == 0).all(axis=2)
  assert (classes[without] == 255).all() and np.isnan(found[:, without]).all()
  assert (classes[~without] < 3).all() and np.isfinite(found[:, ~without]).all()
  assert summary.empty == 1 and summary.filled == 1 and sum(summary.pixels.values()) == (~without).sum()
  np.testing.assert_allclose(found[:, 40, 40], net().probabilities(image[np.newaxis, 32:, 32:])[0], atol=1e-5)


def test_a_band_without_data_in_a_tile_is_an_absent_channel(tmp_path):
  image = pixels(32, 32)
  image[:16, :, 2] = 0
  _, found, summary = mapped(scene(tmp_path, image, nodata=0), tmp_path, stride=16)
  upper = net().probabilities(image[np.newaxis, :16, :16][..., [0, 1, 3, 4]], 'B02,B03,B08,B11')[0]
  np.testing.assert_allclose(found[:, 0, 0], upper, atol=1e-4)
  np.testing.assert_allclose(found[:, 31, 31], net().probabilities(image[np.newaxis, 16:, 16:])[0], atol=1e-5)
  assert summary.filled == 0


def test_single_pixels_without_data_get_the_mean_of_their_band_in_the_tile(tmp_path):
  image = pixels(16, 16)
  image[3, 4:9, 1] = 0
  _, found, summary = mapped(scene(tmp_path, image, nodata=0), tmp_path)
  filled = image.copy()
  filled[3, 4:9, 1] = round(image[..., 1][image[..., 1] > 0].mean())
  np.testing.assert_allclose(found[:, 0, 0], net().probabilities(filled[np.newaxis])[0], atol=1e-5)
  assert summary.filled == 1


def test_bands_are_matched_by_name_and_chosen_by_subset(tmp_path):
  image, order = pixels(), [3, 0, 4, 2, 1]
  _, whole, _ = mapped(scene(tmp_path, image), tmp_path)
  turned = scene(tmp_path, image[..., order], names=[NAMES[place] for place in order])
  np.testing.assert_allclose(mapped(turned, tmp_path)[1], whole, atol=1e-6)
  bare = scene(tmp_path, image[..., order], names=None)
  named = ','.join(NAMES[place] for place in order)
  np.testing.assert_allclose(mapped(bare, tmp_path, channels=named)[1], whole, atol=1e-6)
  _, part, summary = mapped(bare, tmp_path, channels=named, subset='B08,B02')
  assert summary.channels == ('B02', 'B08')
  cut = image[np.newaxis, :16, :16][..., [0, 3]]
  np.testing.assert_allclose(part[:, 0, 0], net().probabilities(cut, 'B02,B08')[0], atol=1e-4)
  fewer = scene(tmp_path, image[..., [0, 3]], names=['B02', 'B08'])
  np.testing.assert_allclose(mapped(fewer, tmp_path)[1], part, atol=1e-6)


def test_a_band_of_one_value_in_a_tile_is_warned_of_as_in_an_image(tmp_path, caplog):
  network, image = net(), pixels(32, 48)
  image[16:, :32, 2] = 7
  path = scene(tmp_path, image)
  mapped(path, tmp_path, network, stride=16)
  (warning,) = [record.getMessage() for record in caplog.records]
  assert warning == (
    f'2 of 6 tiles have a constant plane, the first is {path}, row 16, column 0: channel B04 is 7 throughout; if the '
    'channel failed, leave it out: subset=B02,B03,B08,B11 (--subset=B02,B03,B08,B11)'
  )
  caplog.clear()
  mapped(path, tmp_path, network, stride=16, subset='B02,B03,B08,B11')
  mapped(scene(tmp_path, image, nodata=7), tmp_path, network, stride=16)
  assert not caplog.records


def test_a_tile_with_few_pixels_that_have_data_is_not_said_to_be_constant(tmp_path, caplog):
  image = pixels(16, 32)
  image[:, :16], image[3, 4] = 0, 900
  mapped(scene(tmp_path, image, nodata=0), tmp_path, stride=16)
  assert not caplog.records


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('kind', ['vrt', 'pages'])
def test_a_file_that_the_scene_is_read_from_is_not_replaced(tmp_path, kind):
  image, tif, vrt = pixels(), tmp_path / 'source.tif', tmp_path / 'scene.vrt'
  if kind == 'vrt':
    importlib.import_module('rasterio.shutil').copy(write_geotiff(tif, image), vrt, driver='VRT')
  else:
    first, *others = (Image.fromarray(plane) for plane in image.transpose(2, 0, 1))
    first.save(tif, save_all=True, append_images=others)
  before = tif.read_bytes()
  with pytest.raises(InputError, match=r'source.tif is (a part of the scene|the scene itself); write the map to'):
    net().predict_map(vrt if kind == 'vrt' else tif, tif, tile=16, channels=','.join(NAMES))
  assert tif.read_bytes() == before


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')  # that of the scene and of the map, read here
def test_a_map_of_a_scene_without_coordinates_is_written_without_a_warning(tmp_path):
  np.save(tmp_path / 'scene.npy', pixels())
  classes, _, _ = mapped(tmp_path / 'scene.npy', tmp_path, channels=','.join(NAMES))
  np.testing.assert_array_equal(classes, mapped(scene(tmp_path), tmp_path)[0])


def test_pyramids_and_statistics_of_an_older_map_are_not_left_beside_a_new_one(tmp_path):
  path, derived = scene(tmp_path), ('map.tif.ovr', 'map_probability.tif.aux.xml')
  mapped(path, tmp_path)
  for name in derived:
    (tmp_path / name).write_bytes(b'of the older map')
  mapped(path, tmp_path)
  assert not any((tmp_path / name).exists() for name in derived)
  assert '<Category>sea</Category>' in (tmp_path / 'map.tif.aux.xml').read_text()


@pytest.mark.parametrize(
  ('options', 'reason'),
  [
    ({'probabilities': 'best'}, "probabilities is 'best'; choose one of top, all, none"),
    ({'subset': 'B02,B12'}, "no channel 'B12'"),
    ({'channels': 'B02,B03'}, r'scene.tif: 2 names \(B02, B03\) for 5 bands'),
    ({'channels': 'a,b,c,d,e'}, "no channel 'B02' in .*scene.tif; it has a, b, c, d, e"),
    ({'out': 'map.png'}, 'a map ends in .tif'),
    ({'out': 'none/map.tif'}, r'none/map.tif cannot be written: .*'),
    ({'scene': 'a_probability.tif', 'out': 'a.tif'}, 'a_probability.tif is the scene itself'),
  ],
)
def test_mistakes_are_named_and_leave_nothing_behind(tmp_path, options, reason):
  path = scene(tmp_path)
  names = {'scene': 'scene.tif', 'out': 'map.tif'} | {
    key: options.pop(key) for key in ('scene', 'out') & options.keys()
  }
  if names['scene'].endswith('probability.tif'):
    path = path.rename(tmp_path / names['scene'])
  with pytest.raises(InputError, match=reason) as caught:
    net().predict_map(tmp_path / names['scene'], tmp_path / names['out'], **options)
  assert '\n' not in str(caught.value)
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_another_scale_and_a_scene_without_data_are_refused(tmp_path):
  reflectance = scene(tmp_path, (pixels() / 10_000).astype(np.float32))
  with pytest.raises(
    InputError, match=r'scene.tif: these images reach 0\.\d+, but the network was trained on 100 to 2000'
  ):
    mapped(reflectance, tmp_path)
  with pytest.raises(InputError, match='scene.tif: no pixel has data in B02'):
    mapped(scene(tmp_path, pixels() * 0, nodata=0), tmp_path)
  assert [file.name for file in tmp_path.iterdir()] == ['scene.tif']


def test_the_command_writes_the_map_and_says_what_it_holds(tmp_path, devices_started, monkeypatch, capsys):
  monkeypatch.setattr(restore, 'load', lambda *_: net())
  path, out = scene(tmp_path), tmp_path / 'map.tif'
  assert main.run('predict', ['runs/x', str(path), f'--out={out}', '--tile=16', '--stride=8']) == 0
  said = capsys.readouterr().err
  assert '40 x 56 pixels, 24 tiles, in ' in said and f'wrote {out} and ' in said and '%  sea' in said
  classes, _, _ = mapped(path, tmp_path)
  with rasterio.open(out) as file:
    np.testing.assert_array_equal(file.read(1), classes)


def test_rasters_are_predicted_as_images_with_their_own_bands(tmp_path):
  images = [pixels(20, 24, seed) for seed in range(3)]
  paths = [write_geotiff(tmp_path / f'{number}.tif', image) for number, image in enumerate(images)]
  whole = net().logits(np.stack(images))
  np.testing.assert_allclose(net().logits(paths), whole, atol=1e-3)
  np.testing.assert_allclose(
    net().logits(paths[:1], 'B08,B02'), net().logits(images[0][np.newaxis][..., [3, 0]], 'B08,B02'), atol=1e-3
  )
  lacking = images[1].copy()
  lacking[..., 1] = 0
  write_geotiff(paths[1], lacking, nodata=0)
  fewer = write_geotiff(paths[2], images[2][..., [4, 0]], ['B11', 'B02'])
  broken = lacking.copy()
  broken[0, 0] = 0
  bad = write_geotiff(tmp_path / '3.tif', broken, nodata=0)
  said = []
  run = flaxnets.inference.files.FilePredictions(net(), on_bad=said.append)
  found = {path: row for path, _, row in run([*map(str, paths), str(bad)])}
  np.testing.assert_allclose(found[str(paths[0])], net().probabilities(images[:1])[0], atol=1e-4)
  part = net().probabilities(images[1][np.newaxis][..., [0, 2, 3, 4]], 'B02,B04,B08,B11')[0]
  np.testing.assert_allclose(found[str(paths[1])], part, atol=1e-4)
  part = net().probabilities(images[2][np.newaxis][..., [4, 0]], 'B11,B02')[0]
  np.testing.assert_allclose(found[str(fewer)], part, atol=1e-4)
  assert run.bad == 1 and '3.tif: 1 of 480 pixels of channel B02 have no data' in said[0]
