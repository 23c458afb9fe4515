"""`flaxnets lists`: class folders divided into training, validation and test."""

import collections

import numpy as np
import pytest
from PIL import Image

from flaxnets.cli import main
from flaxnets.data.divide import write_lists
from flaxnets.data.open import open_source
from flaxnets.data.source import DataOptions
from flaxnets.errors import InputError


@pytest.fixture
def root(tmp_path):
  """Two classes, 40 and 20 images of ten plates."""
  for name, count in (('sea', 40), ('wood', 20)):
    (tmp_path / name).mkdir()
    for number in range(count):
      Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / name / f'plate{number % 10}_{number}.png')
  return tmp_path


def lines(root, split):
  return (root / f'{split}.txt').read_text().splitlines()


def test_every_image_is_in_one_split_and_every_class_is_divided_by_the_shares(root):
  counts = write_lists(str(root), (70, 20, 10))
  assert counts == {
    'train': {'sea': 28, 'wood': 14},
    'val': {'sea': 8, 'wood': 4},
    'test': {'sea': 4, 'wood': 2},
  }
  found = [line for split in counts for line in lines(root, split)]
  assert sorted(found) == sorted(
    f'{name}/plate{number % 10}_{number}.png {label}'
    for label, (name, count) in enumerate((('sea', 40), ('wood', 20)))
    for number in range(count)
  )


def test_training_reads_the_lists_with_the_names_of_the_folders(root):
  write_lists(str(root))
  source = open_source(DataOptions('lists', str(root), channels='', canvas=4), 'train.txt')
  assert source.classes == ('sea', 'wood') and np.bincount(source.labels).tolist() == [28, 14]


def test_folders_whose_names_begin_with_numbers_keep_their_names(tmp_path):
  for name in ['10 bee', *(f'{number} class' for number in range(10))]:
    (tmp_path / name).mkdir()
    for number in range(5):
      Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / name / f'{number}.png')
  write_lists(str(tmp_path))
  source = open_source(DataOptions('lists', str(tmp_path), channels='', canvas=4), 'train.txt')
  assert source.classes[2] == '10 bee'  # '10 bee' comes before '2 class'
  assert [source.classes[label] for label in source.labels] == [path.split('/')[0] for path in source.ids]


@pytest.mark.parametrize('folder', ['wood\nland', 'wood\rland', ' wood', 'wood\udcff'])
def test_a_path_that_a_list_cannot_hold_is_refused_before_anything_is_written(root, folder):
  (root / 'wood').rename(root / folder)
  with pytest.raises(InputError, match='a list cannot hold the path .*; rename the file or folder'):
    write_lists(str(root))
  assert not list(root.glob('*.txt'))


def test_a_group_stays_in_one_split(root):
  write_lists(str(root), group=r'(plate\d+)_')
  split_of = collections.defaultdict(set)
  for split in ('train', 'val', 'test'):
    for line in lines(root, split):
      split_of[line.split('/')[1].split('_')[0]].add(split)
  assert len(split_of) == 10 and all(len(splits) == 1 for splits in split_of.values())
  assert {len(lines(root, split)) for split in ('val', 'test')} <= {6, 12}  # one plate or two


def test_another_seed_divides_otherwise_and_the_same_seed_alike(root):
  found = []
  for seed in (0, 0, 1):
    write_lists(str(root), seed=seed)
    found.append(lines(root, 'test'))
    for name in ('train.txt', 'val.txt', 'test.txt', 'classes.txt'):
      (root / name).unlink()
  assert found[0] == found[1] != found[2]


def test_the_command_says_what_it_wrote_and_does_not_replace_lists(root, capsys):
  assert main.run('lists', [str(root), '--shares=70,20,10']) == 0
  assert 'val.txt: 12 images of 2 classes, 4 or more of each' in capsys.readouterr().out
  assert main.run('lists', [str(root)]) == 1
  assert 'classes.txt exists; delete it first to divide the images anew' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ({'shares': (1, 1)}, 'shares are 1, 1; give three positive numbers'),
    ({'group': '('}, r'is no regular expression \(missing \)'),
    ({'group': 'well'}, "matches nothing in 'sea/plate0_0.png'"),
    ({'group': '(plate)'}, 'too few images or groups of images: none is left for val.txt'),
  ],
)
def test_mistakes_are_one_line(root, arguments, said):
  with pytest.raises(InputError, match=said) as caught:
    write_lists(str(root), **arguments)
  assert '\n' not in str(caught.value) and not (root / 'train.txt').exists()


def test_a_folder_without_class_folders_is_refused(tmp_path):
  with pytest.raises(InputError, match='has no folders with images; it must hold one folder of images per class'):
    write_lists(str(tmp_path))
