"""Lists prepared as a TFDS data set in array_record, and read back."""

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flaxnets.cli.main import run
from flaxnets.data.imagenet_mini import ImagenetMini, prepare
from flaxnets.data.open import open_source
from flaxnets.data.source import BadImage, DataOptions
from flaxnets.errors import InputError
from tests.data.made import read_all


@pytest.fixture
def images(tmp_path):
  """Twenty noisy JPEGs of three classes, one gray, in two splits."""
  rng = np.random.default_rng(0)
  root = tmp_path / 'images'
  root.mkdir()
  lines = []
  for place in range(20):
    pixels = rng.integers(0, 256, (30 + place, 40) + (3,) * (place != 3), np.uint8)
    Image.fromarray(pixels).save(root / f'number {place}.jpg')
    lines.append(f'number {place}.jpg {place * place % 3}\n')
  (root / 'train.txt').write_text(''.join(lines[:14]))
  (root / 'test5.txt').write_text(''.join(lines[14:]))
  (root / 'classes.txt').write_text('finch\nrobin\nwren\n')
  return root


def from_tfds(data_dir, name='imagenet_mini', split='train', class_names=None, **options):
  return open_source(DataOptions('tfds', str(data_dir), name, **({'canvas': 16} | options)), split, class_names)


@pytest.mark.parametrize('canvas', [0, 16])
def test_what_was_prepared_reads_like_the_files(images, tmp_path, canvas):
  prepare(str(images), str(tmp_path / 'tfds'), canvas=canvas)
  for split in ('train', 'test5'):
    files = open_source(DataOptions('lists', str(images), canvas=16), f'{split}.txt')
    prepared = from_tfds(tmp_path / 'tfds', split=f'{split}.txt')
    assert list(prepared.ids) == list(files.ids) and prepared.labels.tolist() == files.labels.tolist()
    assert prepared.labels.dtype == np.int32 and prepared.classes == ('finch', 'robin', 'wren')
    assert prepared.canvas == (16, 16) and prepared.dtype == np.uint8
    readings, out = read_all(prepared)
    expected_readings, expected = read_all(files)
    assert readings == expected_readings
    np.testing.assert_array_equal(out, expected)


def test_channels_of_raw_pixels_are_planes_or_luminance(images, tmp_path):
  prepare(str(images), str(tmp_path), canvas=16)
  whole, blue_red, gray = (read_all(from_tfds(tmp_path, channels=channels))[1] for channels in ('', 'BR', 'L'))
  np.testing.assert_array_equal(blue_red, whole[..., [2, 0]])
  assert np.abs(gray[..., 0] - whole @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_a_part_of_a_split_keeps_labels_and_ids_with_their_images(images, tmp_path):
  prepare(str(images), str(tmp_path), canvas=16)
  whole, part = from_tfds(tmp_path), from_tfds(tmp_path, split='train[3:9]')
  assert part.labels.tolist() == whole.labels[3:9].tolist() and list(part.ids) == list(whole.ids[3:9])
  np.testing.assert_array_equal(read_all(part)[1], read_all(whole)[1][3:9])
  both = from_tfds(tmp_path, split='test5[1:3]+train[:2]')
  assert list(both.ids) == ['number 15.jpg', 'number 16.jpg', 'number 0.jpg', 'number 1.jpg']


def test_labels_are_kept_beside_the_data_and_made_again_when_lost_or_corrupt(images, tmp_path):
  prepare(str(images), str(tmp_path))
  tables = sorted(tmp_path.rglob('flaxnets_labels_*.npz'))
  assert [table.stem for table in tables] == ['flaxnets_labels_test5', 'flaxnets_labels_train']
  labels = from_tfds(tmp_path).labels
  tables[1].write_bytes(b'not a table')
  np.testing.assert_array_equal(from_tfds(tmp_path).labels, labels)
  with np.load(tables[1]) as table:
    np.testing.assert_array_equal(table['labels'], labels)
    whole = dict(table)
  for changes in ({'labels': labels[:, np.newaxis]}, {'paths': whole['paths'].astype(str)}):
    np.savez(tables[1], **whole | changes)
    np.testing.assert_array_equal(from_tfds(tmp_path).labels, labels)
  assert len(list(tmp_path.rglob('*.npz'))) == 2


def test_it_is_an_ordinary_data_set_to_tfds(images, tmp_path):
  builder = prepare(str(images), str(tmp_path), canvas=16)
  data = tfds.builder_from_directory(builder.data_path).as_data_source('train')
  ours = from_tfds(tmp_path)
  example, (readings, out) = data[5], read_all(ours)
  np.testing.assert_array_equal(example['image'], out[5])
  assert (example['height'], example['width'], example['label']) == (*readings[5].size, ours.labels[5])


def test_threads_and_pickled_copies_read_the_same(images, tmp_path):
  prepare(str(images), str(tmp_path), canvas=16)
  source = from_tfds(tmp_path)
  expected = read_all(pickle.loads(pickle.dumps(source)))[1]
  found = [None] * 4
  threads = [
    threading.Thread(target=lambda place: found.__setitem__(place, read_all(source)[1]), args=(place,))
    for place in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for out in found:
    np.testing.assert_array_equal(out, expected)


def test_hidden_files_are_not_split_files(images, tmp_path):
  (images / '._train.txt').write_bytes(bytes(range(200, 220)))  # as macOS leaves them on other file systems
  assert set(prepare(str(images), str(tmp_path / 'tfds'), canvas=16).info.splits) == {'train', 'test5'}


def test_a_broken_file_stops_with_its_line_and_leaves_nothing_behind(images, tmp_path, capsys):
  (images / 'number 4.jpg').write_bytes((images / 'number 4.jpg').read_bytes()[:700])
  code = run('prepare', [f'--root={images}', f'--data_dir={tmp_path / "out"}'])
  output = capsys.readouterr()
  assert code == 1 and output.out == ''
  assert f'number 4.jpg ({images}/train.txt, line 5): a corrupt JPEG' in output.err.splitlines()[-1]
  assert not list((tmp_path / 'out').rglob('*.array_record*'))


def test_broken_and_missing_files_can_be_left_out_and_are_named(images, tmp_path, capsys):
  (images / 'number 4.jpg').write_bytes(b'text')
  (images / 'number 19.jpg').unlink()
  code = run('prepare', [f'--root={images}', f'--data_dir={tmp_path}', '--on_bad_image=skip', '--canvas=16'])
  output = capsys.readouterr()
  assert code == 0 and output.out.strip().endswith('13 train, 5 test5 (2 skipped)')
  assert 'train.txt, line 5)' in output.err and 'test5.txt, line 6)' in output.err
  source = from_tfds(tmp_path)
  assert len(source) == 13 and 'number 4.jpg' not in source.ids


def test_a_list_that_begins_with_a_png_of_sixteen_bits_is_prepared_as_photos(images, tmp_path):
  Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(images / 'deep.png')
  (images / 'train.txt').write_text('deep.png 0\n' + (images / 'train.txt').read_text())
  prepare(str(images), str(tmp_path), canvas=16, splits=['train.txt'])
  assert (read_all(from_tfds(tmp_path))[1][0] == 255).all()


def test_a_split_without_a_readable_image_is_an_error(images, tmp_path):
  (images / 'test5.txt').write_text('none.jpg 0\n')
  with pytest.raises(InputError, match='test5.txt names no readable image'):
    prepare(str(images), str(tmp_path), on_bad_image='skip')


def test_faults_in_lists_and_names_are_found_first(images, tmp_path):
  (images / 'wrong.txt').write_text('number 1.jpg 0\nnumber 2.jpg 7\n')
  with pytest.raises(InputError, match='wrong.txt, line 2: label 7 is out of range'):
    prepare(str(images), str(tmp_path))
  for name in ('all.txt', 'test-5.txt'):
    (images / name).write_text('number 1.jpg 0\n')
    with pytest.raises(InputError, match='cannot become a split'):
      prepare(str(images), str(tmp_path), splits=[name])
  (images / 'twice.txt').write_text('crane\ncrane\nwren\n')
  with pytest.raises(InputError, match="two classes are named 'crane', but TFDS takes distinct names only"):
    prepare(str(images), str(tmp_path), splits=['train.txt'], classes='twice.txt')
  with pytest.raises(InputError, match='no split files'):
    prepare(str(tmp_path), str(tmp_path))
  assert not list(tmp_path.rglob('*.array_record*'))


def test_a_set_that_is_there_is_not_prepared_again(images, tmp_path):
  prepare(str(images), str(tmp_path), splits=['test5.txt'])
  with pytest.raises(InputError, match='encoded/1.0.0 is already there'):
    prepare(str(images), str(tmp_path))


def test_two_prepared_forms_are_told_apart_by_name(images, tmp_path):
  for canvas in (0, 12):
    prepare(str(images), str(tmp_path), canvas=canvas)
  with pytest.raises(InputError, match='imagenet_mini/canvas12, imagenet_mini/encoded'):
    from_tfds(tmp_path)
  assert from_tfds(tmp_path, 'imagenet_mini/canvas12').canvas == (12, 12)
  assert from_tfds(tmp_path, 'imagenet_mini/encoded:1.0.0').canvas == (16, 16)


def test_what_is_not_prepared_says_how_to_prepare_it(images, tmp_path):
  for name, reason in (
    ('cifar10', r'pip install tensorflow-cpu.*tfds build cifar10 --data_dir='),
    ('imagenet_mini', 'flaxnets prepare'),
    ('a b', 'cannot read'),
  ):
    with pytest.raises(InputError, match=reason):
      from_tfds(tmp_path, name)
  prepare(str(images), str(tmp_path))
  with pytest.raises(InputError, match='is not prepared'):
    from_tfds(tmp_path, 'imagenet_mini:2.0.0')
  for split in ('val', 'train[:x]', 'train[:200%]'):
    with pytest.raises(InputError, match='no split .* which has train, test5'):
      from_tfds(tmp_path, split=split)
  with pytest.raises(InputError, match='no examples'):
    from_tfds(tmp_path, split='train[:0]')


def test_a_record_that_cannot_be_read_is_a_bad_image(images, tmp_path):
  builder = prepare(str(images), str(tmp_path), canvas=16)
  file = next(Path(builder.data_path).glob('*-train.array_record*'))
  data = bytearray(file.read_bytes())
  data[data.index(read_all(from_tfds(tmp_path))[1][6].tobytes()) + 9] ^= 255
  file.write_bytes(data)
  source, out = from_tfds(tmp_path), np.zeros((16, 16, 3), np.uint8)
  with pytest.raises(BadImage, match=r'example number 6.jpg: a corrupt record \(') as caught:
    source.read(6, out)
  assert '\n' not in str(caught.value)
  assert source.read(5, out).size == (35, 40) and source.read(7, out).size == (37, 40)
  file.write_bytes(data[: len(data) // 2])
  with pytest.raises(BadImage, match='corrupt record'):
    from_tfds(tmp_path).read(5, out)
  (tmp_path / 'imagenet_mini/canvas16/1.0.0/flaxnets_labels_train.npz').unlink()
  with pytest.raises(InputError, match='cannot read the labels of train in .*: '):
    from_tfds(tmp_path)
  (tmp_path / 'imagenet_mini/canvas16/1.0.0/features.json').write_text('{')
  with pytest.raises(InputError, match='cannot read the data set in .*: '):
    from_tfds(tmp_path)


def test_the_builder_is_named_as_the_config_names_it():
  assert ImagenetMini.name == 'imagenet_mini'
