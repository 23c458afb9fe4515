"""Lists, folders and arrays in memory: what is read, and what is said when something is wrong."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxnets.channels import ChannelSet
from flaxnets.data.classes import class_file
from flaxnets.data.open import open_source
from flaxnets.data.source import ArraySource, BadImage, DataOptions
from flaxnets.errors import InputError
from tests.data.made import read


def write_image(path: Path, value: int, size=(12, 10)) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((*size, 3), (value, 2 * value, 3 * value), np.uint8)).save(path)


@pytest.fixture
def lists(tmp_path):
  """Six images of two classes, one with spaces in its path."""
  names = ['finch/a.png', 'finch/b.png', 'robin/a.png', 'robin/b.png', 'robin/my best robin.png', 'finch/c.png']
  for place, name in enumerate(names):
    write_image(tmp_path / 'images' / name, 10 * (place + 1))
  (tmp_path / 'train.txt').write_text(''.join(f'images/{name} {int("robin" in name)}\n' for name in names))
  return tmp_path


def opened(root, split='train.txt', class_names=None, **options):
  return open_source(DataOptions('lists', str(root), canvas=8, **options), split, class_names)


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
    b'\xef\xbb\xbfimages/finch/a.png 0\r\n\r\n  \r\nimages//robin/a.png\t1  \r\n./images/robin/my best robin.png 1'
  )
  source = opened(lists, 'odd.txt')
  assert source.labels.tolist() == [0, 1, 1]
  assert list(source.ids) == ['images/finch/a.png', 'images/robin/a.png', 'images/robin/my best robin.png']


def test_a_split_file_may_lie_elsewhere(lists, tmp_path_factory):
  other = tmp_path_factory.mktemp('elsewhere') / 'few.txt'
  other.write_text('images/robin/a.png 1\n')
  assert len(opened(lists, str(other))) == 1


def test_a_line_that_comes_twice_keeps_ids_apart(lists):
  (lists / 'twice.txt').write_text('images/robin/a.png 0\n' * 3)
  assert list(opened(lists, 'twice.txt').ids) == ['images/robin/a.png', 'images/robin/a.png#2', 'images/robin/a.png#3']


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


def test_two_classes_may_have_one_name_as_in_imagenet(lists):
  (lists / 'classes.txt').write_text('crane\ncrane\n')
  train = opened(lists)
  assert opened(lists, class_names=train.classes).classes == ('crane', 'crane')
  with pytest.raises(InputError, match="class 'crane' is label 0 here, but label 2 of the 3 classes"):
    opened(lists, class_names=('finch', 'crane', 'crane'))


def test_numbers_in_class_names_are_labels_only_if_they_are_all_of_them(tmp_path):
  for text, names in [
    ('0 a\n1 b b\n', ('a', 'b b')),
    ('1 a\n2 b\n', ('1 a', '2 b')),
    ('0\n1\n', ('0', '1')),
    ('0 a\nb\n', ('0 a', 'b')),
  ]:
    (tmp_path / 'names.txt').write_text(text)
    assert class_file(tmp_path / 'names.txt') == names


def test_a_wrong_line_is_named_by_file_and_line_with_blank_lines_counted(lists):
  for line, reason in [('.. 0', 'leaves the root'), ('nowhere/a.png 0', 'there is no file')]:
    message = refused(lists, f'images/finch/a.png 0\n\n{line}')
    assert reason in message and f'{lists / "wrong.txt"}, line 3' in message


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


def test_a_link_may_not_lead_out_of_the_root_except_for_the_images_folder_itself(lists, tmp_path_factory):
  outside = tmp_path_factory.mktemp('outside')
  write_image(outside / 'a.png', 5)
  (lists / 'images/finch/link.png').symlink_to(outside / 'a.png')
  assert 'line 1' in refused(lists, 'images/finch/link.png 0') and 'leaves the root' in refused(
    lists, 'images/finch/link.png 0', on_bad_image='skip'
  )
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
  (lists / 'images/cut.png').write_bytes(data[:-30])
  names = ['empty.jpg', 'text.jpg', 'folder.jpg', 'cut.png']
  (lists / 'bad.txt').write_text(''.join(f'images/{name} 0\n' for name in names))
  source = opened(lists, 'bad.txt')
  for place, (name, reason) in enumerate(
    zip(names, ['is empty', 'not an image', 'Is a directory', 'decoded'], strict=True)
  ):
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
  for split, names in (
    ('train', ('wren/1.png', 'finch/1.PNG', 'finch/sub/2.jpg', 'robin/1.png')),
    ('val', ('robin/7.png',)),
  ):
    for name in names:
      write_image(tmp_path / split / name, 20)
  (tmp_path / 'train/finch/.hidden.png').write_text('')
  (tmp_path / 'train/finch/notes.txt').write_text('')
  (tmp_path / 'train/.cache').mkdir()
  write_image(tmp_path / 'train/__MACOSX/1.png', 20)
  return tmp_path


def in_folders(root, split, class_names=None, **options):
  return open_source(DataOptions('folders', str(root), canvas=8, **options), split, class_names)


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
  with pytest.raises(InputError, match='val/emu is not one of the 3 classes'):
    in_folders(folders, 'val', class_names=train.classes)


def test_a_class_file_gives_folders_their_labels_by_name_or_first_word(folders):
  (folders / 'names.txt').write_text('0 wren little bird\n1 robin red breast\n2 finch\n')
  source = in_folders(folders, 'train', classes='names.txt')
  assert source.labels.tolist() == [2, 2, 1, 0] and source.classes[0] == 'wren little bird'


def test_a_class_folder_may_not_be_a_link_out_of_the_root(folders, tmp_path_factory):
  outside = tmp_path_factory.mktemp('outside')
  write_image(outside / 'emu/1.png', 5)
  (folders / 'train/near').symlink_to(folders / 'train/finch')
  assert len(in_folders(folders, 'train')) == 6
  (folders / 'train/emu').symlink_to(outside / 'emu')
  with pytest.raises(InputError, match='train/emu is a link that leaves the root .*; copy the folder there'):
    in_folders(folders, 'train')


def test_a_link_to_a_folder_below_a_class_folder_is_refused(folders):
  (folders / 'train/finch/more').symlink_to(folders / 'val/robin')
  with pytest.raises(InputError, match='train/finch/more is a link to a folder, which is not followed; copy'):
    in_folders(folders, 'train')


def test_a_class_folder_that_cannot_be_read_is_an_error_and_not_an_empty_class(folders, monkeypatch):
  scan = os.scandir

  def scan_or_refuse(path):
    if os.path.basename(path) == 'robin':
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return scan(path)

  monkeypatch.setattr(os, 'scandir', scan_or_refuse)
  with pytest.raises(InputError, match='the folder .*train/robin cannot be read: Permission denied'):
    in_folders(folders, 'train')


def test_arrays_in_memory_are_a_source_too():
  images = np.arange(2 * 3 * 4 * 2, dtype=np.float64).reshape(2, 3, 4, 2)
  channels = ChannelSet(('a', 'b'))
  source = ArraySource('mine', images, np.array([1, 0]), channels, ('x', 'y'), ids=['one', 'two'])
  copy = pickle.loads(pickle.dumps(source))
  assert copy.ids == ['one', 'two'] and copy.labels.tolist() == [1, 0]
  np.testing.assert_array_equal(read(copy, 1)[1], images[1])
  for changes, reason in [
    ({'images': images[0]}, r'\(N, H, W, C\)'),
    ({'images': images.astype(complex)}, 'complex'),
    ({'channels': ChannelSet(('a',))}, '1 channels are named for 2'),
    ({'present': np.ones((2, 3), bool)}, 'presence'),
    ({'labels': [0, 2]}, 'label 2'),
    ({'images': images[:0], 'labels': np.zeros(0, int)}, 'no examples'),
  ]:
    arguments = {'images': images, 'labels': [1, 0], 'channels': channels} | changes
    with pytest.raises(InputError, match=reason):
      ArraySource('mine', classes=('x', 'y'), **arguments)


def test_the_synthetic_source_is_opened_by_name():
  source = open_source(DataOptions('synthetic'), 'train[:4]')
  assert len(source) == 4 and source.channels.names == ('R', 'G', 'B')
  with pytest.raises(InputError, match='have the channels RGB, not B02'):
    open_source(DataOptions('synthetic', channels='B02'), 'train[:4]')
