"""`flaxnets split`: what it holds out, and mistakes in one line."""

import pytest

from flaxnets.cli import main
from flaxnets.data.splits import hold_out
from flaxnets.errors import InputError


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'train.txt').write_text(''.join(f'images/a {number}.jpg {number % 3}\n' for number in range(12)))
  return tmp_path


def test_as_many_lines_of_each_class_are_held_out(root):
  assert hold_out(root, root / 'out', per_class=2) == (6, 6)
  held, kept = ((root / 'out' / name).read_text().splitlines() for name in ('tune.txt', 'train_tune.txt'))
  lines = (root / 'train.txt').read_text().splitlines()
  assert sorted(held + kept) == sorted(lines) and kept == [line for line in lines if line in kept]
  assert sorted(line[-1] for line in held) == ['0', '0', '1', '1', '2', '2']


def test_the_command_says_how_many_images_it_held_out(root, capsys):
  assert main.run('split', [str(root), str(root / 'one'), '--per_class=1', '--seed=1']) == 0
  assert 'train_tune.txt: 9 images; ' in capsys.readouterr().out
  assert len((root / 'one' / 'tune.txt').read_text().splitlines()) == 3
  assert main.run('split', [str(root), str(root / 'two'), '--per_class=1', '--seed=2']) == 0
  assert (root / 'one' / 'tune.txt').read_text() != (root / 'two' / 'tune.txt').read_text()


def test_a_repeated_line_is_one_image_that_lands_in_one_split(root):
  lines = (root / 'train.txt').read_text()
  repeated = lines.replace('images/', './images//') + lines.replace('\n', ' \r\n')
  (root / 'train.txt').write_text(lines + repeated, newline='')
  assert hold_out(root, root / 'out', per_class=2) == (18, 6)
  held, kept = ((root / 'out' / name).read_text().splitlines() for name in ('tune.txt', 'train_tune.txt'))
  assert len(set(held)) == 6 and len(set(kept)) == 6 and not set(held) & set(kept)
  with pytest.raises(InputError, match='class 0 has 4 images, so 4 cannot be held out of it'):
    hold_out(root, root / 'out', per_class=4)


def test_an_image_with_two_labels_lands_in_one_split(root):
  lines = (root / 'train.txt').read_text().splitlines()
  (root / 'train.txt').write_text('\n'.join(lines + [f'{line[:-1]}{(int(line[-1]) + 1) % 3}' for line in lines]))
  hold_out(root, root / 'out', per_class=2)
  held, kept = ((root / 'out' / name).read_text().splitlines() for name in ('tune.txt', 'train_tune.txt'))
  assert len(held) == 6 and kept
  assert not {line[:-2] for line in held} & {line[:-2] for line in kept}


@pytest.mark.parametrize('seed', range(4))
def test_no_class_loses_all_its_images_to_other_labels(tmp_path, seed):
  (tmp_path / 'train.txt').write_text('a.jpg 0\nb.jpg 0\na.jpg 1\nc.jpg 1\n')
  try:
    hold_out(tmp_path, tmp_path / 'out', per_class=1, seed=seed)
  except InputError as error:
    assert 'would have no image left, as some have two labels; try another --seed' in str(error)
  else:
    kept = (tmp_path / 'out' / 'train_tune.txt').read_text().split()
    assert {'0', '1'} <= set(kept)


@pytest.mark.parametrize('line', ['images/12.jpg', 'images/12.jpg finch', 'images/12.jpg 1.0'])
def test_a_malformed_line_is_named(root, line):
  with (root / 'train.txt').open('a') as file:
    file.write(f'\n{line}\n')
  with pytest.raises(InputError, match=f"train.txt, line 14: '{line}' is not a path and a label"):
    hold_out(root, root / 'out', per_class=2)
  assert not (root / 'out').exists()


def test_a_folder_that_cannot_be_written_is_named(root, capsys):
  assert main.run('split', [str(root), str(root / 'train.txt'), '--per_class=2']) == 1
  assert capsys.readouterr().err == f'flaxnets split: the folder {root / "train.txt"} cannot be written: File exists\n'


def test_a_seed_below_0_is_refused(root, capsys):
  assert main.run('split', [str(root), str(root / 'out'), '--per_class=2', '--seed=-1']) == 2
  assert '--seed=-1' in capsys.readouterr().err
