"""Synthetic images: what each channel shows, what only several tell, and how splits are written."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from flaxnets.data import synthetic
from flaxnets.errors import InputError

SIZE = 32


@pytest.fixture(scope='module')
def images_and_labels():
  source = synthetic.source('train[:3072]', size=SIZE)
  return pixels(source), source.labels


def pixels(source):
  images = np.empty((len(source), *source.canvas, 3), np.uint8)
  for index in range(len(source)):
    source.read(index, images[index])
  return images


def disc_contrasts(images, labels):
  """Centre less corners of every disc, (n, 3), and its hue: a disc covers the one and none of the others."""
  discs = labels // 3 == synthetic.SHAPES.index('disc')
  images, edge = images[discs].astype(float), SIZE // 8
  middle = slice(SIZE // 2 - 2, SIZE // 2 + 2)
  corners = [
    images[:, rows, columns].mean((1, 2))
    for rows in (slice(edge), slice(-edge, None))
    for columns in (slice(edge), slice(-edge, None))
  ]
  return images[:, middle, middle].mean((1, 2)) - np.mean(corners, 0), labels[discs] % 3


def test_a_source_has_uint8_rgb_images_and_twelve_equally_frequent_classes():
  source = synthetic.source('train[:120]', size=20)
  assert (len(source), source.canvas, source.dtype) == (120, (20, 20), np.uint8)
  assert source.channels.names == ('R', 'G', 'B')
  assert len(set(source.classes)) == 12 and source.classes[0] == 'red-cyan disc'
  assert np.bincount(source.labels).tolist() == [10] * 12
  assert len(set(source.ids)) == 120 and source.ids[7] == 'train[7]'


def test_every_channel_shows_the_shape(images_and_labels):
  contrasts, _ = disc_contrasts(*images_and_labels)
  assert (np.abs(contrasts) > 20).mean() > 0.99


def test_three_channels_tell_the_hue_by_the_one_sign_that_differs(images_and_labels):
  contrasts, hues = disc_contrasts(*images_and_labels)
  signs = np.sign(contrasts)
  assert (np.argmax(signs * signs.sum(1, keepdims=True) < 0, axis=1) == hues).mean() > 0.99


def test_one_channel_tells_nothing_of_the_hue(images_and_labels):
  contrasts, hues = disc_contrasts(*images_and_labels)
  images, labels = images_and_labels
  for values in (contrasts > 0, np.abs(contrasts)):
    of_hues = np.array([values[hues == hue].mean(0) for hue in range(3)])
    spread = values.std(0) / np.sqrt((hues == 0).sum())
    assert (np.abs(of_hues - values.mean(0)) < 4 * spread).all()
  brightness = images.mean((1, 2))
  of_hues = np.array([brightness[labels % 3 == hue].mean(0) for hue in range(3)])
  assert (np.abs(of_hues - brightness.mean(0)) < 4 * brightness.std(0) / np.sqrt(len(images) / 3)).all()


def test_two_channels_tell_the_hue_of_two_images_in_three(images_and_labels):
  contrasts, hues = disc_contrasts(*images_and_labels)
  for first, second, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
    equal = contrasts[:, first] * contrasts[:, second] > 0
    assert (hues[equal] == other).mean() > 0.99
    assert 0.4 < (hues[~equal] == first).mean() < 0.6


def test_a_slice_is_the_same_part_of_the_stream_however_it_is_cut():
  whole = pixels(synthetic.source('test[:530]', size=16))
  part = synthetic.source('test[250:530]', size=16)
  np.testing.assert_array_equal(pixels(part), whole[250:])
  np.testing.assert_array_equal(part.labels, np.arange(250, 530) % 12)


def test_the_streams_share_no_image():
  names = [f'{stream}[:300]' for stream in synthetic.STREAMS]
  images = np.concatenate([pixels(synthetic.source(name, size=16)) for name in names])
  assert len(np.unique(images.reshape(900, -1), axis=0)) == 900


def test_a_pickled_source_is_small_and_comes_back_the_same():
  source = synthetic.source('validation[:40]', size=16)
  pickled = pickle.dumps(source)
  assert len(pickled) < 1000
  np.testing.assert_array_equal(pixels(pickle.loads(pickled)), pixels(source))


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('train', r"cannot read the synthetic split 'train'; write it as 'train\[:4000\]'"),
    ('4000', 'cannot read the synthetic split'),
    ('train.txt', 'cannot read the synthetic split'),
    ('val[:10]', 'streams: train, validation, test'),
    ('train[:-5]', 'cannot read the synthetic split'),
    ('train[:0]', 'has no examples'),
    ('train[20:10]', 'has no examples'),
    (f'train[:{"9" * 5000}]', 'cannot read the synthetic split'),
  ],
)
def test_a_wrong_split_is_an_error_that_says_what_to_write(split, message):
  with pytest.raises(InputError, match=message) as caught:
    synthetic.source(split)
  assert '\n' not in str(caught.value)


def test_a_split_that_does_not_fit_into_memory_is_an_error_of_one_line(monkeypatch):
  def full(shape, dtype):
    raise MemoryError

  monkeypatch.setattr(np, 'empty', full)
  with pytest.raises(InputError, match=r"split 'train\[:500\]' does not fit into memory; write a shorter one"):
    synthetic.source('train[:500]')


def test_images_too_small_for_a_shape_are_an_error():
  with pytest.raises(InputError, match='12 pixels are too small'):
    synthetic.source('train[:10]', size=12)
