"""TFDS data sets whose pixels are tensors: EuroSAT and So2Sat in TFDS's own feature structure, and others."""

import contextlib
import io
import itertools
import json
import pickle
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.cli import evaluate
from flaxnets.data import bands
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.open import open_source
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.errors import InputError
from flaxnets.training import loop
from tests.data.made import read_all

EUROSAT_CLASSES = ('AnnualCrop', 'Forest', 'HerbaceousVegetation', 'Highway', 'Industrial', 'Pasture', 'PermanentCrop',
                   'Residential', 'River', 'SeaLake')  # fmt: skip


def tensor(*shape, dtype=np.float32, **options):
  return tfds.features.Tensor(shape=shape, dtype=dtype, **options)


VERSION = tfds.core.Version('2.0.0')


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set of features and examples that the tests give."""

  VERSION = VERSION
  code_path = None

  def __init__(self, features, examples, config, **options):
    self._features, self._examples = features, examples
    super().__init__(config=tfds.core.BuilderConfig(name=config), file_format='array_record', **options)

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self._features))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in self._examples}

  def _generate_examples(self, split):
    yield from enumerate(self._examples[split])


def prepared(folder, name, features, examples):
  """Writes a data set 'name/config' below a folder."""
  base, config = name.split('/')
  kind = types.new_class(
    base.capitalize(), (Prepared,), {'skip_registration': True}, lambda body: body.update(name=base, VERSION=VERSION)
  )
  builder = kind(features, examples, config, data_dir=folder)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  return folder


def eurosat(folder, size=8, train=40):
  """The features of TFDS's eurosat/all, at fewer pixels."""
  features = {
    'sentinel2': tensor(size, size, 13),
    'label': tfds.features.ClassLabel(names=EUROSAT_CLASSES),
    'filename': tfds.features.Text(),
  }
  rng = np.random.default_rng(0)
  rows = [
    {
      'sentinel2': (rng.integers(0, 300, (size, size, 13)) + 200 * (n % 10)).astype(np.float32),
      'label': n % 10,
      'filename': f'{EUROSAT_CLASSES[n % 10]}_{n}.tif',
    }
    for n in range(train)
  ]
  return prepared(folder, 'eurosat/all', features, {'train': rows}), rows


def so2sat(folder, size=8, train=40, validation=20):
  """The features of TFDS's so2sat/all, at fewer pixels; it has no supervised keys."""
  features = {
    'sentinel1': tensor(size, size, 8),
    'sentinel2': tensor(size, size, 10),
    'label': tfds.features.ClassLabel(num_classes=17),
    'sample_id': tensor(dtype=np.int64),
  }
  rng = np.random.default_rng(0)
  rows = {
    split: [
      {
        'sentinel1': rng.normal(n % 17, 1, (size, size, 8)).astype(np.float32),
        'sentinel2': rng.random((size, size, 10)).astype(np.float32),
        'label': n % 17,
        'sample_id': n,
      }
      for n in range(count)
    ]
    for split, count in (('train', train), ('validation', validation))
  }
  return prepared(folder, 'so2sat/all', features, rows), rows


def opened(root, name, split='train', class_names=None, **options):
  return open_source(DataOptions('tfds', str(root), name, **({'channels': ''} | options)), split, class_names)


def everything(source):
  readings, canvases = read_all(source)
  assert {reading.size for reading in readings} == {source.canvas}
  return canvases


def test_eurosat_has_thirteen_named_bands_of_its_number_type(tmp_path):
  root, rows = eurosat(tmp_path)
  source = opened(root, 'eurosat/all')
  assert source.channels.names == bands.EUROSAT and source.channels.names[-1] == 'B8A'
  assert source.channels.wavelengths[:4] == (443, 490, 560, 665) and source.channels.wavelengths[-1] == 865
  assert source.dtype == np.float32 and source.canvas == (8, 8) and source.classes == EUROSAT_CLASSES
  by_name = {row['filename']: row for row in rows}
  for id_, label, pixels in zip(source.ids, source.labels, everything(source), strict=True):
    np.testing.assert_array_equal(pixels, by_name[id_]['sentinel2'])
    assert label == by_name[id_]['label']


def test_channels_are_chosen_by_name_in_any_order(tmp_path):
  root, _ = eurosat(tmp_path)
  whole = everything(opened(root, 'eurosat/all'))
  source = opened(root, 'eurosat', channels='B04,B03,B02')
  assert source.channels.wavelengths == (665, 560, 490)
  np.testing.assert_array_equal(everything(source), whole[..., [3, 2, 1]])
  with pytest.raises(InputError, match="no channel 'B99' in eurosat/all; it has B01, B02"):
    opened(root, 'eurosat/all', channels='B02,B99')
  assert opened(root, 'eurosat/all', class_names=EUROSAT_CLASSES, channels='B99,B02').channels.names == ('B02',)


def test_so2sat_stacks_radar_and_optics_and_takes_radar_alone(tmp_path):
  root, rows = so2sat(tmp_path)
  source = opened(root, 'so2sat/all', 'validation')
  assert source.channels.names == bands.SO2SAT_SENTINEL1 + bands.SO2SAT_SENTINEL2
  assert source.channels.wavelengths == (None,) * 8 + (490, 560, 665, 705, 740, 783, 842, 865, 1610, 2190)
  expected = {row['sentinel1'].tobytes(): row for row in rows['validation']}
  for label, pixels in zip(source.labels, everything(source), strict=True):
    row = expected[np.ascontiguousarray(pixels[..., :8]).tobytes()]
    np.testing.assert_array_equal(pixels[..., 8:], row['sentinel2'])
    assert label == row['label']
  radar = opened(root, 'so2sat/all', 'validation', features='sentinel1')
  assert radar.channels.names == bands.SO2SAT_SENTINEL1 and not radar.channels.wavelengths
  np.testing.assert_array_equal(everything(radar), everything(source)[..., :8])


def test_splits_of_one_split_share_out_the_examples(tmp_path):
  root, _ = eurosat(tmp_path)
  parts = [opened(root, 'eurosat/all', split) for split in ('train[:60%]', 'train[60%:80%]', 'train[80%:]')]
  assert [len(part) for part in parts] == [24, 8, 8]
  assert len(set(itertools.chain(*(part.ids for part in parts)))) == 40


@pytest.mark.parametrize(('dtype', 'kept'), [('uint8', 'uint8'), ('uint16', 'uint16'), ('int32', 'float32')])
@pytest.mark.parametrize('encoding', ['none', 'bytes', 'zlib'])
def test_any_number_type_and_encoding_is_read(tmp_path, dtype, kept, encoding):
  features = {'bands': tensor(4, 6, 2, dtype=np.dtype(dtype), encoding=encoding)}
  features['label'] = tfds.features.ClassLabel(num_classes=2)
  pixels = np.random.default_rng(0).integers(0, 200, (3, 4, 6, 2)).astype(dtype)
  rows = [{'bands': image, 'label': n % 2} for n, image in enumerate(pixels)]
  prepared(tmp_path, 'mine/all', features, {'train': rows})
  source = opened(tmp_path, 'mine/all', bands='VV,VH')
  assert source.dtype == kept and source.canvas == (4, 6) and source.channels.names == ('VV', 'VH')
  assert sorted(image.tobytes() for image in everything(source)) == sorted(
    image.astype(kept).tobytes() for image in pixels
  )


def test_planes_without_names_and_wrong_features_are_refused(tmp_path):
  features = {'a': tensor(4, 4, 2), 'b': tensor(6, 6, 1), 'label': tfds.features.ClassLabel(num_classes=2)}
  row = {'a': np.zeros((4, 4, 2), np.float32), 'b': np.zeros((6, 6, 1), np.float32), 'label': 0}
  prepared(tmp_path, 'mine/all', features, {'train': [row]})
  for options, reason in [
    ({'features': 'a'}, "mine/all: no names for 2 planes; name all, in their order, as in data.bands='B02,B03,B08'"),
    ({'features': 'a', 'bands': 'x,y,z'}, '3 names for 2 planes'),
    ({'features': 'a,c'}, r"no tensor \(height, width, channels\) 'c'; its features are "),
    ({'features': 'a,b'}, r'the features a \(4, 4, 2\), b \(6, 6, 1\) must be of one known size'),
    ({}, 'data.features names those that hold the pixels'),
  ]:
    with pytest.raises(InputError, match=reason):
      opened(tmp_path, 'mine/all', **options)


def test_pixels_that_are_no_numbers_are_a_bad_image(tmp_path):
  features = {'a': tensor(4, 4, 2), 'label': tfds.features.ClassLabel(num_classes=2)}
  pixels = np.zeros((4, 4, 2), np.float32)
  pixels[1, 1, 1] = np.nan
  prepared(tmp_path, 'mine/all', features, {'train': [{'a': pixels, 'label': 0}]})
  source = opened(tmp_path, 'mine/all', bands='VV,VH')
  with pytest.raises(BadImage, match=r'train\[0\] has NaN or infinite pixels in channel VH'):
    source.read(0, np.zeros((4, 4, 2), np.float32))


def test_tensors_are_read_without_tensorflow_in_threads_and_processes(tmp_path):
  root, _ = so2sat(tmp_path, train=6)
  source = opened(root, 'so2sat/all')
  np.testing.assert_array_equal(everything(pickle.loads(pickle.dumps(source))), everything(source))
  for workers in (0, 1):
    batch = next(evaluation_batches(source, batch_size=6, workers=workers))
    np.testing.assert_array_equal(batch['image'], everything(source))
  assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize(
  ('name', 'write', 'channels', 'sizes', 'subsets'),
  [
    ('eurosat', eurosat, 13, (24, 8, 8), [13, 3]),
    ('so2sat', so2sat, 18, (38, 2, 20), [18, 10, 8]),
  ],
)
def test_the_configs_open_their_data_and_evaluate_the_fields_subsets(tmp_path, name, write, channels, sizes, subsets):
  root, _ = write(tmp_path)
  config = configs.named(name)
  configs.check(config)
  config.data.root = str(root)
  train = experiment.open_source(config, 'train')
  others = [experiment.open_source(config, split, classes=train.classes) for split in ('validation', 'test')]
  assert tuple(map(len, (train, *others))) == sizes
  assert len(train.channels) == channels and all(other.channels.names == train.channels.names for other in others)
  assert [len(subset) for subset in experiment.subsets(config, train.channels, config.evaluate.subsets)] == subsets
  assert config.image_size == {'eurosat': 64, 'so2sat': 32}[name]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'write', 'rows'), [('eurosat', eurosat, [13, 3]), ('so2sat', so2sat, [18, 10, 8])])
def test_the_configs_train_and_evaluate_with_a_smaller_network(tmp_path, name, write, rows):
  root, _ = write(tmp_path)
  config = configs.named(name)
  changes = {'data.root': str(root), 'model.name': 'resattention', 'model.width': 8, 'image_size': 16}
  changes |= {'train.epochs': 2.0, 'train.batch_size': 8, 'evaluate.batch_size': 8, 'train.log_every': 1}
  config.update_from_flattened_dict(changes)
  assert loop.run(config, tmp_path / 'run') == 0
  evaluate.run(tmp_path / 'run')
  scores = json.loads((tmp_path / 'run' / 'eval' / 'test.json').read_text())
  assert [len(row['channels'].split(',')) for row in scores['subsets']] == rows
