"""Lists, folders and arrays: what is read, and what is said when something is wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxnets.channels import ChannelSet
from flaxnets.data.classes import class_file
from flaxnets.data.sources import ArraySource, BadImage, open_source
from flaxnets.errors import InputError


def write_image(path: Path, value: int, size=(12, 10)) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((*size, 3), (value, 2 * value, 3 * value), np.uint8)).save(path)


def read(source, index=0):
  out = np.zeros((*source.canvas, len(source.channels)), source.dtype)
  return source.read(index, out), out


@pytest.fixture
def lists(tmp_path):
  """Six images of two classes, one with spaces in its path."""
  names = ['finch/a.png', 'finch/b.png', 'robin/a.png', 'robin/b.png', 'robin/my best robin.png', 'finch/c.png']
  for place, name in enumerate(names):
    write_image(tmp_path / 'images' / name, 10 * (place + 1))
  (tmp_path / 'train.txt').write_text(''.join(f'images/{name} {int("robin" in name)}\n' for name in names))
  return tmp_path


def opened(root, split='train.txt', **options):
  return open_source('lists', split, root=str(root), canvas=8, **options)


def refused(root, text, **options) -> str:
  """The message for a split file with this text."""
  (root / 'wrong.txt').write_text(text)
  with pytest.raises(InputError) as caught:
    opened(root, 'wrong.txt', **options)
  assert '\n' not in str(caught.value)
  return str(caught.value)


def test_a_list_gives_labels_ids_sizes_and_pixels(lists):
  source = opened(lists)
  assert len(source) == 6 and source.labels.tolist() == [0, 0, 1, 1, 1, 0] and source.labels.dtype == np.int32
  assert source.canvas == (8, 8) and source.dtype == np.uint8 and source.channels.names == ('R', 'G', 'B')
  assert source.ids[4] == 'images/robin/my best robin.png'
  reading, out = read(source, 4)
  assert reading.size == (12, 10) and reading.present is None
  np.testing.assert_array_equal(out[3, 3], [50, 100, 150])


def test_windows_line_ends_blank_lines_tabs_and_a_byte_order_mark_do_no_harm(lists):
  (lists / 'odd.txt').write_bytes(
    b'\xef\xbb\xbfimages/finch/a.png 0\r\n\r\n  \r\nimages//robin/a.png\t1  \r\n./images/robin/my best robin.png 1')
  source = opened(lists, 'odd.txt')
  assert source.labels.tolist() == [0, 1, 1]
  assert list(source.ids) == ['images/finch/a.png', 'images/robin/a.png', 'images/robin/my best robin.png']


def test_a_split_file_may_lie_elsewhere(lists, tmp_path_factory):
  other = tmp_path_factory.mktemp('elsewhere') / 'few.txt'
  other.write_text('images/robin/a.png 1\n')
  assert len(opened(lists, str(other))) == 1


def test_a_line_that_comes_twice_keeps_ids_apart(lists):
  (lists / 'twice.txt').write_text('images/robin/a.png 0\n' * 3)
  assert list(opened(lists, 'twice.txt').ids) == [
    'images/robin/a.png', 'images/robin/a.png#2', 'images/robin/a.png#3']


def test_channels_are_planes_of_the_image_or_luminance(lists):
  np.testing.assert_array_equal(read(opened(lists, channels='BR'))[1][0, 0], [30, 10])
  np.testing.assert_array_equal(read(opened(lists, channels='L'))[1][0, 0], [round(2.99 + 11.74 + 3.42)])
  wavelengths = (665, 560, 490)
  assert opened(lists, wavelengths=wavelengths).channels.wavelengths == wavelengths


def test_class_names_come_from_the_argument_a_file_the_folders_or_numbers(lists):
  assert opened(lists).classes == ('finch', 'robin')
  (lists / 'mixed.txt').write_text('images/finch/a.png 0\nimages/robin/a.png 0\nimages/robin/b.png 2\n')
  assert opened(lists, 'mixed.txt').classes == ('0', '1', '2')
  (lists / 'names.txt').write_text('1 n2 American robin, robin\n0 n1 finch\n')
  assert opened(lists, classes='names.txt').classes == ('n1 finch', 'n2 American robin, robin')
  (lists / 'classes.txt').write_text('house finch\n\nrobin\nwren\n')
  assert opened(lists).classes == ('house finch', 'robin', 'wren')
  assert opened(lists, class_names=['x', 'y']).classes == ('x', 'y')


def test_numbers_in_class_names_are_labels_only_if_they_are_all_of_them(tmp_path):
  for text, names in [('0 a\n1 b b\n', ('a', 'b b')), ('1 a\n2 b\n', ('1 a', '2 b')), ('0\n1\n', ('0', '1')),
                      ('0 a\nb\n', ('0 a', 'b'))]:
    (tmp_path / 'names.txt').write_text(text)
    assert class_file(tmp_path / 'names.txt') == names


def test_wrong_lines_are_named_by_file_and_line(lists):
  good = 'images/finch/a.png 0\n\n'
  for line, reason in [
      ('images/finch/a.png', 'is not a path and a label'), ('images/finch/a.png x', 'is not a path and a label'),
      ('images/finch/a.png 1.0', 'is not a path and a label'), ('images/finch/a.png -1', 'label -1 is out of range'),
      ('/etc/passwd 0', 'leaves the root'), ('images/../../x.png 0', 'leaves the root'), ('.. 0', 'leaves the root'),
      ('images/finch/z.png 0', 'there is no file'), ('nowhere/a.png 0', 'there is no file'),
      ('images/finch/a.png 99999999999', 'means 100,000,000,000 classes')]:
    message = refused(lists, good + line)
    assert reason in message and str(lists / 'wrong.txt') in message
    assert 'line 3' in message or 'classes' in message


def test_a_label_beyond_the_known_classes_is_an_error_with_its_line(lists):
  message = refused(lists, 'images/finch/a.png 0\nimages/finch/b.png 2\n', class_names=('a', 'b'))
  assert 'line 2: label 2 is out of range; 2 classes have labels 0 to 1' in message


def test_missing_files_are_counted_and_left_to_reading_if_bad_images_are_skipped(lists):
  text = 'images/finch/a.png 0\nimages/x.png 0\nimages/y.png 0\n'
  assert 'line 2' in refused(lists, text) and '1 more' in refused(lists, text)
  source = opened(lists, 'wrong.txt', on_bad_image='skip')
  assert read(source)[0].size == (12, 10)
  with pytest.raises(BadImage, match=r'images/x.png \(.*wrong.txt, line 2\): cannot be read \(No such file'):
    read(source, 1)


def test_empty_and_missing_splits_and_roots_are_errors(lists):
  assert 'is empty' in refused(lists, '\n  \n')
  for options, reason in [({'root': lists / 'no'}, 'is not a folder'), ({'split': 'no.txt'}, 'No such file'),
                          ({'split': 'images'}, 'Is a directory'), ({'root': ''}, 'data.root is empty'),
                          ({'classes': 'no.txt'}, 'No such file')]:
    with pytest.raises(InputError, match=reason):
      opened(**({'root': lists} | options))
  (lists / 'latin.txt').write_bytes(b'images/finch/a.png 0\nimages/f\xfcnf.png 0\n')
  with pytest.raises(InputError, match='not UTF-8 text .byte 0xfc in line 2'):
    opened(lists, 'latin.txt')
  with pytest.raises(InputError, match="'list' is not known"):
    open_source('list', 'train.txt', root=str(lists))


def test_a_link_may_not_lead_out_of_the_root_except_for_the_images_folder_itself(lists, tmp_path_factory):
  outside = tmp_path_factory.mktemp('outside')
  write_image(outside / 'a.png', 5)
  (lists / 'images/finch/link.png').symlink_to(outside / 'a.png')
  assert 'line 1' in refused(lists, 'images/finch/link.png 0') and 'leaves the root' in refused(
    lists, 'images/finch/link.png 0', on_bad_image='skip')
  (lists / 'images/class').symlink_to(outside)
  assert "'images/class' is a link that leaves the root" in refused(lists, 'images/class/a.png 0')
  (lists / 'images/finch/near.png').symlink_to(lists / 'images/robin/a.png')
  (lists / 'photos').symlink_to(outside)
  (lists / 'fine.txt').write_text('images/finch/near.png 0\nphotos/a.png 0\n')
  assert read(opened(lists, 'fine.txt'), 1)[1][0, 0, 0] == 5


def test_unreadable_files_are_named_with_their_line(lists):
  (lists / 'images/empty.jpg').write_bytes(b'')
  (lists / 'images/text.jpg').write_text('no picture at all')
  (lists / 'images/folder.jpg').mkdir()
  data = (lists / 'images/finch/a.png').read_bytes()
  (lists / 'images/cut.png').write_bytes(data[:len(data) // 2])
  names = ['empty.jpg', 'text.jpg', 'folder.jpg', 'cut.png']
  (lists / 'bad.txt').write_text(''.join(f'images/{name} 0\n' for name in names))
  source = opened(lists, 'bad.txt')
  for place, (name, reason) in enumerate(zip(
      names, ['is empty', 'not an image', 'Is a directory', 'decoded'], strict=True)):
    with pytest.raises(BadImage) as caught:
      read(source, place)
    message = str(caught.value)
    assert f'images/{name} ({lists}/bad.txt, line {place + 1}): ' in message and reason in message
    assert '\n' not in message


def test_a_source_of_files_survives_pickling(lists):
  source = opened(lists)
  np.testing.assert_array_equal(read(pickle.loads(pickle.dumps(source)), 3)[1], read(source, 3)[1])


@pytest.fixture
def folders(tmp_path):
  for split, names in (('train', ('wren/1.png', 'finch/1.PNG', 'finch/sub/2.jpg', 'robin/1.png')),
                       ('val', ('robin/7.png',))):
    for name in names:
      write_image(tmp_path / split / name, 20)
  (tmp_path / 'train/finch/.hidden.png').write_text('')
  (tmp_path / 'train/finch/notes.txt').write_text('')
  (tmp_path / 'train/.cache').mkdir()
  return tmp_path


def in_folders(root, split, **options):
  return open_source('folders', split, root=str(root), canvas=8, **options)


def test_folders_are_classes_sorted_by_name(folders):
  source = in_folders(folders, 'train.txt')
  assert source.classes == ('finch', 'robin', 'wren') and source.labels.tolist() == [0, 0, 1, 2]
  assert list(source.ids) == ['finch/1.PNG', 'finch/sub/2.jpg', 'robin/1.png', 'wren/1.png']
  assert read(source)[0].size == (12, 10)


def test_a_validation_folder_takes_its_labels_from_training(folders):
  train = in_folders(folders, 'train')
  val = in_folders(folders, 'val', class_names=train.classes)
  assert val.labels.tolist() == [1] and val.classes == train.classes
  write_image(folders / 'val/emu/1.png', 1)
  with pytest.raises(InputError, match='val/emu is none of the 3 classes'):
    in_folders(folders, 'val', class_names=train.classes)


def test_a_class_file_gives_folders_their_labels_by_name_or_first_word(folders):
  (folders / 'names.txt').write_text('0 wren little bird\n1 robin red breast\n2 finch\n')
  source = in_folders(folders, 'train', classes='names.txt')
  assert source.labels.tolist() == [2, 2, 1, 0] and source.classes[0] == 'wren little bird'


def test_folders_without_classes_or_images_are_errors(folders):
  (folders / 'none').mkdir()
  (folders / 'bare/finch').mkdir(parents=True)
  for split, reason in (('none', 'has no folders'), ('bare', 'no images'), ('test', 'is not a folder')):
    with pytest.raises(InputError, match=reason):
      in_folders(folders, split)


def arrays(tmp_path, **changes):
  """An .npz of four-band images (N, C, H, W) in which pixel values say example and band."""
  values = (np.arange(6)[:, None] * 10 + np.arange(4))[:, :, None, None] * np.ones((5, 7))
  content = {'X_train': values.astype(np.uint16), 'y_train': np.array([0, 1, 2, 0, 1, 2]),
             'bands': np.array(['B02', 'B03', 'B04', 'B08']), 'classes': np.array(['sea', 'wood', 'town'])}
  content = {key: value for key, value in (content | changes).items() if value is not None}
  np.savez(tmp_path / 'data.npz', **content)
  return str(tmp_path / 'data.npz')


def from_arrays(root, split='train', **options):
  return open_source('arrays', split, root=str(root), **({'channels': ''} | options))


def test_arrays_channels_first_come_out_channels_last(tmp_path):
  source = from_arrays(arrays(tmp_path), 'train.txt')
  assert source.canvas == (5, 7) and source.dtype == np.uint16 and source.ids[5] == '5'
  assert source.channels.names == ('B02', 'B03', 'B04', 'B08') and source.classes == ('sea', 'wood', 'town')
  reading, out = read(source, 2)
  assert reading == ((5, 7), None)
  np.testing.assert_array_equal(out[4, 6], [20, 21, 22, 23])


@pytest.mark.parametrize('given, kept', [
  ('u1', 'uint8'), ('<u2', 'uint16'), ('>u2', 'uint16'), ('<f4', 'float32'), ('>f4', 'float32'), ('f8', 'float32'),
  ('i2', 'float32'), ('>i4', 'float32'), ('u8', 'float32'), ('f2', 'float32')])
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
    with pytest.raises(InputError, match='it holds B02,B03,B04,B08'):
      from_arrays(path, channels=channels)


def test_single_letter_bands_can_be_written_together(tmp_path):
  source = from_arrays(arrays(tmp_path, bands=np.array(list('RGBN'))), channels='NG')
  np.testing.assert_array_equal(read(source)[1][0, 0], [3, 1])


def test_without_names_in_the_file_the_config_names_all_channels(tmp_path):
  path = arrays(tmp_path, bands=None, classes=None)
  source = from_arrays(path, channels='BGRN')
  assert source.channels.names == tuple('BGRN') and source.classes == ('0', '1', '2')
  with pytest.raises(InputError, match=r"no channel names.*data.channels='B02,B03'"):
    from_arrays(path)


@pytest.mark.parametrize('shape, reason', [
  ((6, 4, 5, 4), 'may be'), ((6, 3, 5, 5), 'neither axis'), ((6, 5, 7), r'images are \(N, C, H, W\)'),
  ((0, 4, 5, 5), 'shape'), ((6, 4), 'images are')])
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
  source = from_arrays(arrays(tmp_path, X_train=images))
  for index, reason in ((3, 'example 3 .* channel B03'), (4, 'channel B04'), (5, 'none of the channels'),
                        (2, 'channel B02')):
    with pytest.raises(BadImage, match=reason):
      read(source, index)


def test_labels_may_be_class_names(tmp_path):
  names = np.array(['town', 'sea', 'sea', 'wood', 'sea', 'sea'])
  assert from_arrays(arrays(tmp_path, y_train=names)).labels.tolist() == [2, 0, 0, 1, 0, 0]
  source = from_arrays(arrays(tmp_path, y_train=names.astype('S'), classes=None))
  assert source.labels.tolist() == [1, 0, 0, 2, 0, 0] and source.classes == ('sea', 'town', 'wood')
  with pytest.raises(InputError, match="example 0 is 'town', which is none of the 2 classes"):
    from_arrays(arrays(tmp_path, y_train=names), class_names=('sea', 'wood'))


@pytest.mark.parametrize('labels, reason', [
  (np.array([0, 1, 2, 0, 1, 3]), 'example 5 has label 3'), (np.array([0, -1, 2, 0, 1, 1]), 'example 1 has label -1'),
  (np.zeros(5, int), r'shape \(6,\), not \(5,\)'), (np.zeros(6), 'float64'), (np.zeros((6, 1), int), 'shape')])
def test_labels_that_cannot_be_are_errors(tmp_path, labels, reason):
  with pytest.raises(InputError, match=reason):
    from_arrays(arrays(tmp_path, y_train=labels))


def test_missing_arrays_and_broken_files_are_errors_that_say_what_is_there(tmp_path):
  path = arrays(tmp_path)
  with pytest.raises(InputError, match='X_val.*it holds X_train, y_train, bands, classes'):
    from_arrays(path, 'val')
  with pytest.raises(InputError, match="'X_{set}'"):
    from_arrays(path, image_key='X_{set}')
  with pytest.raises(InputError, match='pickled'):
    from_arrays(arrays(tmp_path, bands=np.array(['B02', 3, None, 'x'], object)))
  Path(path).write_bytes(Path(path).read_bytes()[:500])
  with pytest.raises(InputError, match='no .npz file'):
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


def test_arrays_in_memory_are_a_source_too():
  images = np.arange(2 * 3 * 4 * 2, dtype=np.float64).reshape(2, 3, 4, 2)
  channels = ChannelSet(('a', 'b'))
  source = ArraySource('mine', images, np.array([1, 0]), channels, ('x', 'y'), ids=['one', 'two'])
  copy = pickle.loads(pickle.dumps(source))
  assert copy.ids == ['one', 'two'] and copy.labels.tolist() == [1, 0]
  np.testing.assert_array_equal(read(copy, 1)[1], images[1])
  for changes, reason in [({'images': images[0]}, r'\(N, H, W, C\)'), ({'images': images.astype(complex)}, 'complex'),
                          ({'channels': ChannelSet(('a',))}, '1 channels are named for 2'),
                          ({'present': np.ones((2, 3), bool)}, 'presence'), ({'labels': [0, 2]}, 'label 2'),
                          ({'images': images[:0], 'labels': np.zeros(0, int)}, 'no examples')]:
    arguments = {'images': images, 'labels': [1, 0], 'channels': channels} | changes
    with pytest.raises(InputError, match=reason):
      ArraySource('mine', classes=('x', 'y'), **arguments)


def test_the_synthetic_source_is_opened_by_name():
  source = open_source('synthetic', 'train[:4]')
  assert len(source) == 4 and source.channels.names == ('R', 'G', 'B')
  with pytest.raises(InputError, match='have channels RGB, not B02'):
    open_source('synthetic', 'train[:4]', channels='B02')
