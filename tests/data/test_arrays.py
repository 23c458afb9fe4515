"""Arrays in .npz and .npy files: every layout and number type, and what is said when something is wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from flaxnets.data.batches import evaluation_batches
from flaxnets.data.open import open_source
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.errors import InputError
from tests.data.made import read


def arrays(tmp_path, **changes):
  """An .npz of four-band images (N, C, H, W) in which pixel values say example and band."""
  values = (np.arange(6)[:, None] * 10 + np.arange(4))[:, :, None, None] * np.ones((5, 7))
  content = {
    'X_train': values.astype(np.uint16),
    'y_train': np.array([0, 1, 2, 0, 1, 2]),
    'bands': np.array(['B02', 'B03', 'B04', 'B08']),
    'classes': np.array(['sea', 'wood', 'town']),
  }
  content = {key: value for key, value in (content | changes).items() if value is not None}
  np.savez(tmp_path / 'data.npz', **content)
  return str(tmp_path / 'data.npz')


def from_arrays(root, split='train', class_names=None, **options):
  return open_source(DataOptions('arrays', str(root), **({'channels': ''} | options)), split, class_names)


def test_arrays_channels_first_come_out_channels_last(tmp_path):
  source = from_arrays(arrays(tmp_path), 'train.txt')
  assert source.canvas == (5, 7) and source.dtype == np.uint16 and source.ids[5] == '5'
  assert source.channels.names == ('B02', 'B03', 'B04', 'B08') and source.classes == ('sea', 'wood', 'town')
  reading, out = read(source, 2)
  assert reading.size == (5, 7) and reading.present is None
  np.testing.assert_array_equal(out[4, 6], [20, 21, 22, 23])


@pytest.mark.parametrize(
  'given, kept',
  [
    ('u1', 'uint8'),
    ('<u2', 'uint16'),
    ('>u2', 'uint16'),
    ('<f4', 'float32'),
    ('>f4', 'float32'),
    ('f8', 'float32'),
    ('i2', 'float32'),
    ('>i4', 'float32'),
    ('u8', 'float32'),
    ('f2', 'float32'),
  ],
)
def test_number_types_are_kept_or_become_float32(tmp_path, given, kept):
  channels_last = (np.arange(2 * 5 * 7 * 4).reshape(2, 5, 7, 4) % 250).astype(given)
  source = from_arrays(arrays(tmp_path, X_train=channels_last, y_train=np.array([0, 1])))
  assert source.dtype == kept and source.dtype.isnative
  np.testing.assert_array_equal(read(source, 1)[1], channels_last[1].astype(kept))


def test_named_channels_are_taken_in_their_order(tmp_path):
  path = arrays(tmp_path)
  for channels, expected in (('B08,B02', [33, 30]), ('B04', [32]), ('', [30, 31, 32, 33])):
    source = from_arrays(path, channels=channels)
    np.testing.assert_array_equal(read(source, 3)[1][0, 0], expected)
    assert len(source.channels) == len(expected)
  assert from_arrays(path, channels='B08,B02', wavelengths=(842, 490)).channels.wavelengths == (842, 490)
  for channels in ('B99', 'B02,B99', 'RGB'):
    with pytest.raises(InputError, match='it has B02, B03, B04, B08'):
      from_arrays(path, channels=channels)


def test_a_worker_process_opens_a_file_of_a_folder_again(tmp_path):
  arrays(tmp_path)
  (tmp_path / 'data.npz').rename(tmp_path / 'train.npz')
  source = pickle.loads(pickle.dumps(from_arrays(tmp_path, 'train.npz', channels='B03')))
  assert source.channels.names == ('B03',)
  np.testing.assert_array_equal(read(source, 2)[1][0, 0], [21])


def test_single_letter_bands_can_be_written_together(tmp_path):
  source = from_arrays(arrays(tmp_path, bands=np.array(list('RGBN'))), channels='NG')
  np.testing.assert_array_equal(read(source)[1][0, 0], [3, 1])


def test_one_band_is_named_without_a_comma(tmp_path):
  images = np.zeros((2, 5, 7), np.uint16)
  path = tmp_path / 'one.npz'
  np.savez(path, X_train=images, y_train=np.array([0, 1]))
  for channels in ('B08', 'NIR', 'B08,'):
    assert from_arrays(path, channels=channels).channels.names == (channels.removesuffix(','),)


def test_without_names_in_the_file_the_config_names_all_channels(tmp_path):
  path = arrays(tmp_path, bands=None, classes=None)
  source = from_arrays(path, channels='BGRN')
  assert source.channels.names == tuple('BGRN') and source.classes == ('0', '1', '2')
  with pytest.raises(InputError, match=r"no channel names.*data.channels='B02,B03'"):
    from_arrays(path)


@pytest.mark.parametrize(('shape', 'reason'), [((6, 5, 7), r'images are \(N, C, H, W\)'), ((0, 4, 5, 5), 'shape')])
def test_shapes_that_fit_no_layout_are_errors(tmp_path, shape, reason):
  with pytest.raises(InputError, match=reason):
    from_arrays(arrays(tmp_path, X_train=np.zeros(shape, np.uint8)))


def test_images_of_one_channel_need_no_axis_for_it(tmp_path):
  source = from_arrays(arrays(tmp_path, X_train=np.ones((6, 5, 7), np.uint8), bands=np.array(['L'])))
  assert read(source)[1].shape == (5, 7, 1)


def test_presence_and_nan_planes_together_say_what_is_there(tmp_path):
  images = np.ones((6, 4, 5, 7), np.float32)
  images[1, 2] = np.nan
  present = np.ones((6, 4), bool)
  present[1, 0] = present[2, 3] = False
  source = from_arrays(arrays(tmp_path, X_train=images, present_train=present))
  assert read(source, 0)[0].present is None
  for index, expected in ((1, [0, 1, 0, 1]), (2, [1, 1, 1, 0])):
    reading, out = read(source, index)
    assert reading.present.tolist() == [bool(value) for value in expected]
    np.testing.assert_array_equal(out[2, 2], expected)
  taken = from_arrays(arrays(tmp_path, X_train=images, present_train=present), channels='B04,B08,B03')
  assert read(taken, 1)[0].present.tolist() == [False, True, True]


def test_planes_that_are_partly_nan_or_infinite_and_examples_without_channels_are_bad(tmp_path):
  images = np.ones((6, 4, 5, 7))
  images[3, 1, 0, 0], images[4, 2, 1, 1], images[5], images[2, 0, 0, 0] = np.nan, np.inf, np.nan, 1e300
  images[1, 0, 0, 0], images[1, 3, 0, 0] = 1e300, np.inf
  source = from_arrays(arrays(tmp_path, X_train=images), on_bad_image='skip')
  for index, reason in (
    (3, 'example 3 .* channel B03'),
    (4, 'channel B04'),
    (5, 'none of the channels'),
    (2, 'beyond .* in channel B02, too large for float32'),
    (1, 'beyond .* in channel B02, too large for float32'),
  ):
    with pytest.raises(BadImage, match=reason):
      read(source, index)


def test_labels_may_be_class_names(tmp_path):
  names = np.array(['town', 'sea', 'sea', 'wood', 'sea', 'sea'])
  assert from_arrays(arrays(tmp_path, y_train=names)).labels.tolist() == [2, 0, 0, 1, 0, 0]
  source = from_arrays(arrays(tmp_path, y_train=names.astype('S'), classes=None))
  assert source.labels.tolist() == [1, 0, 0, 2, 0, 0] and source.classes == ('sea', 'town', 'wood')
  with pytest.raises(InputError, match="the label of example 0 is 'town', which is not one of the 2 classes"):
    from_arrays(arrays(tmp_path, y_train=names), class_names=('sea', 'wood'))


def test_labels_in_a_column_are_an_error(tmp_path):
  with pytest.raises(InputError, match=r'the labels have the shape \(6, 1\), .* they must be \(6,\)'):
    from_arrays(arrays(tmp_path, y_train=np.zeros((6, 1), int)))


def test_missing_arrays_and_broken_files_are_errors_that_say_what_is_there(tmp_path):
  path = arrays(tmp_path)
  with pytest.raises(InputError, match='no array .y_train. in .*it holds X_train, bands, classes'):
    from_arrays(arrays(tmp_path, y_train=None))
  with pytest.raises(InputError, match="'X_{set}'"):
    from_arrays(path, image_key='X_{set}')
  for key in ('X_{split.set}', 'X_{split[set]}'):
    with pytest.raises(InputError, match="only {split} is replaced, as in 'X_{split}'"):
      from_arrays(path, image_key=key)
  with pytest.raises(InputError, match=r'X_train in .* is \(\), but images are \(N, C, H, W\)'):
    from_arrays(arrays(tmp_path, X_train=np.float32(3)), label_key='')
  with pytest.raises(InputError, match='classes in .* holds no class name; leave it out, or name all classes'):
    from_arrays(arrays(tmp_path, classes=np.zeros(0, 'U1')))
  path = arrays(tmp_path)
  with pytest.raises(InputError, match='pickled'):
    from_arrays(arrays(tmp_path, bands=np.array(['B02', 3, None, 'x'], object)))
  Path(path).write_bytes(Path(path).read_bytes()[:500])
  with pytest.raises(InputError, match='not an .npz file'):
    from_arrays(path)
  with pytest.raises(InputError, match='No such file'):
    from_arrays(tmp_path / 'none.npz')


def test_keys_are_configurable_and_each_split_may_have_its_own_file(tmp_path):
  path = arrays(tmp_path)
  os.rename(path, tmp_path / 'train.npz')
  assert len(from_arrays(tmp_path, 'train.npz')) == 6
  with np.load(tmp_path / 'train.npz') as held:
    np.savez(tmp_path / 'own.npz', images=held['X_train'], cls=held['y_train'], names=held['bands'])
  source = from_arrays(tmp_path / 'own.npz', image_key='images', label_key='cls', channels_key='names')
  assert source.channels.names[0] == 'B02'


def test_examples_that_cannot_be_read_are_counted_when_an_npz_is_opened(tmp_path):
  images = np.ones((6, 4, 5, 7), np.float32)
  images[1, 3] = np.nan  # an absent channel
  images[2, 1, 0, 3], images[4, 2, 1, 1] = np.nan, np.inf
  said = (
    r'example 2 has NaN or infinite pixels in channel B03; .* \(2 of 6 examples cannot be read; data.on_bad_image=s'
  )
  with pytest.raises(BadImage, match=said):
    from_arrays(arrays(tmp_path, X_train=images))
  assert len(from_arrays(arrays(tmp_path, X_train=images), channels='B02,B08')) == 6  # the bad planes are not taken
  source = from_arrays(arrays(tmp_path, X_train=images), on_bad_image='skip')
  again = pickle.loads(pickle.dumps(source))  # as in a process that decodes
  batch = next(evaluation_batches(again, batch_size=6, on_bad_image='skip'))
  assert batch['mask'].tolist() == [True, True, False, True, False, True]


def test_a_split_that_is_missing_is_said_to_be_with_those_that_are_there(tmp_path):
  said = (
    r"data.npz has no split 'val', only train; hold some examples out as 'X_val' and 'y_val', or name other splits i"
  )
  with pytest.raises(InputError, match=said):
    from_arrays(arrays(tmp_path), 'val.txt')
  with pytest.raises(InputError, match="no array 'X_val' in .*data.npz; it holds y_train, bands, classes"):
    from_arrays(arrays(tmp_path, X_train=None), 'val.txt')


def test_npy_files_stay_on_the_disk_and_are_not_pickled(tmp_path):
  with np.load(arrays(tmp_path)) as held:
    for key in held.files:
      np.save(tmp_path / f'{key}.npy', held[key])
  np.save(tmp_path / 'X_train.npy', np.tile(np.load(tmp_path / 'X_train.npy'), (1, 1, 40, 40)))
  source = from_arrays(tmp_path)
  assert isinstance(source._images, np.memmap)
  pickled = pickle.dumps(source)
  assert len(pickled) < 2000
  np.testing.assert_array_equal(read(pickle.loads(pickled), 4)[1], read(source, 4)[1])


def test_npy_files_are_checked_for_nan_when_an_example_is_read(tmp_path):
  images = np.ones((6, 4, 5, 7), np.float32)
  images[1, 2], images[4, 3, 2, 2] = np.nan, np.nan
  with np.load(arrays(tmp_path, X_train=images)) as held:
    for key in held.files:
      np.save(tmp_path / f'{key}.npy', held[key])
  source = from_arrays(tmp_path)
  assert source.has_missing_channels and source.presence()[1].tolist() == [True, True, False, True]
  batch = next(evaluation_batches(source, batch_size=6, on_bad_image='skip'))
  assert batch['mask'].tolist() == [True] * 4 + [False, True] and np.isfinite(batch['image']).all()
  with pytest.raises(BadImage, match='example 4 has NaN or infinite pixels in channel B08'):
    list(evaluation_batches(source, batch_size=6))
