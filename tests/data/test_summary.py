"""The summary of a split and the warnings about splits, on sources with one problem each."""

import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data import summary, synthetic
from flaxnets.data.folders import open_folders
from flaxnets.data.lists import open_list
from flaxnets.data.source import ArraySource, DataOptions


def source_of(labels, classes=('sea', 'wood', 'town'), name='X in data.npz', ids=None):
  images = np.zeros((len(labels), 1, 1, 3), np.uint8)
  return ArraySource(name, images, np.array(labels), ChannelSet.of('RGB'), classes, ids=ids)


@pytest.mark.parametrize(
  ('labels', 'classes', 'line'),
  [
    (
      [0, 1, 2, 2, 2, 1],
      ('sea', 'wood', 'town'),
      "6 examples, 3 classes; smallest 'sea' with 1, largest 'town' with 3",
    ),
    ([0, 0, 1, 1], ('sea', 'wood'), '4 examples, 2 classes of 2 each'),
    ([0, 0], ('sea', 'wood'), "2 examples, 2 classes; smallest 'wood' with 0, largest 'sea' with 2"),
    ([0], ('sea',), "1 example, 1 class ('sea')"),
    (
      [0] * 1500,
      ('n01440764 tench, ' + 'Tinca tinca, ' * 9,),
      "1,500 examples, 1 class ('n01440764 tench, Tinca tinca, Tinca...')",
    ),
  ],
)
def test_a_split_is_described_in_one_line(labels, classes, line):
  assert summary.describe(source_of(labels, classes)) == f'X in data.npz: {line}'


def test_splits_without_a_problem_give_no_warning():
  train, validation = (source_of([0, 1, 2], name=name) for name in ('X_train', 'X_val'))
  assert summary.warnings_for(train, validation) == []
  assert summary.warnings_for(synthetic.source('train[:24]'), synthetic.source('validation[:24]')) == []


def test_the_same_example_in_two_splits_is_found_by_its_id():
  train = source_of([0, 1, 2], ids=['a.jpg', 'b.jpg', 'c.jpg'])
  validation = source_of([0, 2, 2, 1], ids=['d.jpg', 'b.jpg', 'c.jpg', 'e.jpg'])
  assert summary.warnings_for(train, validation) == [
    '2 examples of the validation split are in the training split too, 1 of them with another label, such as b.jpg'
  ]
  train = source_of([1, 2, 0], ids=['x.jpg', 'y.jpg', 'd.jpg'])
  assert summary.warnings_for(train, validation) == [
    '1 example of the validation split is in the training split too, such as d.jpg'
  ]


def test_a_file_that_is_listed_with_two_labels_is_found(tmp_path):
  for name in ('a', 'b', 'c'):
    (tmp_path / f'{name}.jpg').touch()
  (tmp_path / 'train.txt').write_text('a.jpg 0\nb.jpg 1\nc.jpg 2\na.jpg 0\nb.jpg 2\n')
  (tmp_path / 'val.txt').write_text('b.jpg 1\nb.jpg 1\na.jpg 0\nc.jpg 2\n')
  train, validation = (
    open_list(DataOptions('lists', str(tmp_path), canvas=8), f'{name}.txt') for name in ('train', 'val')
  )
  lines = summary.warnings_for(train, validation)
  assert '1 file of the training split has two labels, such as b.jpg' in lines
  assert not any('of the validation split have' in line or 'of the validation split has' in line for line in lines)


def test_overlapping_slices_are_found_and_row_numbers_of_different_arrays_are_not_compared():
  (line,) = summary.warnings_for(synthetic.source('train[:24]'), synthetic.source('train[12:36]'))
  assert line == '12 examples of the validation split are in the training split too, such as train[12]'
  same = source_of([0, 1, 2])
  assert '3 examples' in summary.warnings_for(same, same)[0]
  assert summary.warnings_for(same, source_of([0, 1, 2], name='Y in data.npz')) == []


def test_image_files_are_compared_by_their_paths(tmp_path):
  for split in ('train', 'val'):
    for name in ('cat', 'dog'):
      (tmp_path / split / name).mkdir(parents=True)
      (tmp_path / split / name / '1.jpg').write_bytes(b'not read')
  options = DataOptions('folders', str(tmp_path))
  train = open_folders(options, 'train')
  assert summary.warnings_for(train, open_folders(options, 'val', train.classes)) == []  # two files named cat/1.jpg

  (tmp_path / 'train.txt').write_text('train/cat/1.jpg 0\ntrain/dog/1.jpg 1\n')
  (tmp_path / 'val.txt').write_text('val/cat/1.jpg 0\ntrain/dog/1.jpg 1\n')
  train = open_list(options, 'train.txt')
  assert summary.warnings_for(train, open_list(options, 'val.txt', train.classes)) == [
    '1 example of the validation split is in the training split too, such as train/dog/1.jpg'
  ]


def test_classes_without_examples_are_named():
  classes = tuple('abcdef')
  train, validation = source_of([0, 1, 1, 2], classes, 'one'), source_of([0, 1, 2, 3, 4], classes, 'two')
  assert summary.warnings_for(train, validation) == [
    "3 of 6 classes have no example in the training split: 'd', 'e', 'f'",
    "1 of 6 classes has no example in the validation split: 'f'",
  ]
  (line,) = summary.warnings_for(source_of(range(6), classes, 'one'), source_of([0, 1], classes, 'two'))
  assert line.endswith("4 of 6 classes have no example in the validation split: 'c', 'd', 'e', ...")


def test_classes_without_test_examples_are_named_because_scores_leave_them_out():
  (line,) = summary.warnings_for_test(source_of([0, 2], 'abc', 'test'))
  assert line == (
    "1 of 3 classes has no example in the test split: 'b'; precision, recall and F1 are means over the others"
  )
  assert summary.warnings_for_test(source_of([0, 1, 2], 'abc', 'test')) == []


def test_strong_imbalance_names_the_remedy():
  validation = source_of([0, 1, 2], name='other')
  assert summary.warnings_for(source_of([0] * 10 + [1] + [2] * 5), validation) == []
  (line,) = summary.warnings_for(source_of([0] * 22 + [1] * 2 + [2] * 5), validation)
  assert line == (
    "the largest training class, 'sea', has 11 times as many examples as the smallest, 'wood' (22 and 2); "
    'train.class_weights=balanced makes all classes count equally'
  )


def test_a_single_class_leaves_nothing_to_learn():
  lines = summary.warnings_for(source_of([1, 1]), source_of([0, 1, 2], name='other'))
  assert lines[0] == "all training examples are of one class, 'wood'; there is nothing to tell apart"
  (line,) = summary.warnings_for(source_of([0, 0], ['sea']), source_of([0], ['sea'], 'other'))
  assert line.startswith('all training examples are of one class')


def test_every_warning_is_one_line():
  train = source_of([0] * 99 + [1], ids=[f'{index}.jpg' for index in range(100)])
  lines = summary.warnings_for(train, train)
  assert len(lines) == 4 and not any('\n' in line for line in lines)


def lacking(present, channels='RGB'):
  images = np.zeros((len(present), 1, 1, len(channels)), np.uint8)
  labels, names = np.arange(len(present)) % 2, ChannelSet(tuple(channels))
  return ArraySource('X', images, labels, names, ('sea', 'wood'), np.asarray(present, bool))


def test_the_line_of_a_split_says_how_many_examples_lack_a_channel():
  present = np.ones((8, 3), bool)
  present[:3, 2] = present[2:4, 1] = False
  assert summary.describe(lacking(present)) == (
    'X: 8 examples, 2 classes of 4 each; 4 lack a channel (B: 3, G: 2)'
  )  # the third lacks both
  present[:3] = True
  assert summary.lacking_channels(lacking(present)) == '1 lacks a channel (G: 1)'
  assert summary.describe(lacking(np.ones((8, 3)))) == 'X: 8 examples, 2 classes of 4 each'


def test_of_many_absent_channels_those_that_are_absent_most_often_are_listed():
  present = np.arange(8) >= np.arange(8)[:, np.newaxis]
  assert summary.lacking_channels(lacking(present, tuple('ABCDEFGH'))) == (
    '7 lack a channel (A: 7, B: 6, C: 5, D: 4, E: 3, ...)'
  )


def test_planes_of_nan_and_channels_that_are_not_read_count_as_they_are_read():
  images = np.ones((4, 2, 2, 3), np.float32)
  images[0, ..., 0] = images[1:3, ..., 2] = np.nan
  present = np.ones((4, 3), bool)
  present[3, 1] = False
  names = ChannelSet(('B', 'R'))
  source = ArraySource('X', images, np.zeros(4, int), names, ('sea',), present, take=(2, 0))
  assert summary.describe(source) == "X: 4 examples, 1 class ('sea'); 3 lack a channel (B: 2, R: 1)"
  for index, here in enumerate(source.presence()):
    read = source.read(index, np.empty((2, 2, 2), np.float32)).present
    np.testing.assert_array_equal(here, True if read is None else read)
