"""Channel statistics against NumPy's, with absent, constant and unreadable input."""

from __future__ import annotations

import threading
import time
import types

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.cli import views
from flaxnets.data import statistics
from flaxnets.data.source import ArraySource, BadImage
from flaxnets.data.statistics import measure
from flaxnets.errors import InputError
from flaxnets.runtime import machine
from flaxnets.training import setup
from tests.small import small_config


def source_of(images, present=None):
  names = ChannelSet(tuple(f'B{channel}' for channel in range(images.shape[-1])))
  return ArraySource('arrays', images, np.zeros(len(images), int), names, ('one',), present)


class Unreadable(ArraySource):
  """Arrays of which some examples are broken."""

  def __init__(self, images, broken):
    super().__init__('broken', images, np.zeros(len(images), int), ChannelSet.of('RGB'), ('one',))
    self.broken = broken

  def read(self, index, out):
    if index in self.broken:
      raise BadImage(f'example {index} is broken')
    return super().read(index, out)


@hypothesis.given(
  images=st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: hypothesis.extra.numpy.arrays(
      dtype, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
    )
  )
)
@hypothesis.settings(max_examples=40)
def test_statistics_are_numpys_over_all_pixels(images):
  found = measure(source_of(images), threads=1)
  pixels = images.reshape(-1, images.shape[-1]).T.astype(np.float64)
  constant = pixels.min(1) == pixels.max(1)
  covariance = np.cov(pixels, bias=True).reshape(len(pixels), len(pixels))
  std = np.where(constant, 1, pixels.std(1))
  correlation = np.where(constant | constant[:, None], 0, covariance / np.outer(std, std))
  np.fill_diagonal(correlation, 1)
  np.testing.assert_allclose(found['mean'], pixels.mean(1), rtol=1e-6)
  np.testing.assert_allclose(found['std'], std, rtol=1e-6)
  np.testing.assert_allclose(found['correlation'], correlation, atol=1e-6)
  np.testing.assert_array_equal(found['low'], pixels.min(1))
  np.testing.assert_array_equal(found['high'], pixels.max(1))
  assert all(values.dtype == np.float32 for values in found.values())


def test_small_deviations_around_a_large_mean_are_kept():
  images = (30000 + np.random.default_rng(0).normal(0, 0.5, (8, 16, 16, 2))).astype(np.float32)
  found = measure(source_of(images))
  np.testing.assert_allclose(found['std'], images.reshape(-1, 2).astype(np.float64).std(0), rtol=1e-6)


def test_absent_channels_are_left_out_pairwise():
  random = np.random.default_rng(1)
  common = random.normal(0, 40, (60, 4, 4, 1))
  images = (2000 + common + random.normal(0, 30, (60, 4, 4, 3))).astype(np.uint16)
  present = np.ones((60, 3), bool)
  present[:20, 1] = present[10:30, 2] = False
  found = measure(source_of(images, present))
  for channel in range(3):
    pixels = images[present[:, channel], ..., channel].astype(np.float64)
    np.testing.assert_allclose(found['mean'][channel], pixels.mean(), rtol=1e-6)
    np.testing.assert_allclose(found['std'][channel], pixels.std(), rtol=1e-6)
    assert found['low'][channel] == pixels.min()  # and not the zeros of absent planes
    for other in range(channel):
      both = images[present[:, channel] & present[:, other]].astype(np.float64)
      expected = np.corrcoef(both[..., channel].ravel(), both[..., other].ravel())[0, 1]
      np.testing.assert_allclose(found['correlation'][channel, other], expected, atol=1e-5)


def test_a_pair_never_seen_together_has_no_correlation():
  images = np.random.default_rng(2).integers(0, 256, (20, 3, 3, 1)).repeat(2, -1).astype(np.uint8)
  present = np.arange(20)[:, None] % 2 == np.arange(2)
  np.testing.assert_array_equal(measure(source_of(images, present))['correlation'], np.eye(2))


def test_contradicting_pairs_are_made_a_semidefinite_matrix():
  plane = np.random.default_rng(3).normal(0, 1, (30, 4, 4)).astype(np.float32)
  third = np.arange(30)[:, None, None] % 3
  images = np.stack([plane, plane, np.where(third == 2, -plane, plane)], -1)  # a = b, b = c, but a = -c
  present = np.ones((30, 3), bool)
  present[np.arange(30), (np.arange(30) % 3 + 2) % 3] = False
  correlation = measure(source_of(images, present))['correlation']
  np.testing.assert_array_equal(correlation.diagonal(), 1)
  np.testing.assert_array_equal(correlation, correlation.T)
  assert np.linalg.eigvalsh(correlation.astype(np.float64))[0] > -1e-6
  assert correlation[0, 1] > 0.4 and correlation[1, 2] > 0.4 and correlation[0, 2] < -0.4


def test_a_channel_that_is_constant_where_its_partner_is_present_has_no_correlation_with_it():
  images = np.random.default_rng(4).normal(0.1, 1, (20, 4, 4, 2)).astype(np.float32)
  images[:10, ..., 0] = 0.3
  present = np.ones((20, 2), bool)
  present[10:, 1] = False
  np.testing.assert_array_equal(measure(source_of(images, present))['correlation'], np.eye(2))


def test_constant_and_wholly_absent_channels_are_left_unscaled_with_a_warning(caplog):
  images = np.random.default_rng(5).integers(0, 99, (10, 4, 4, 3)).astype(np.uint8)
  images[..., 1] = 7
  present = np.ones((10, 3), bool)
  present[:, 2] = False
  with caplog.at_level('WARNING', 'absl'):
    found = measure(source_of(images, present))
  assert [record.getMessage() for record in caplog.records] == [
    'arrays: channel B1 is constant over the 10 examples measured',
    'arrays: channel B2 is absent from the 10 examples measured',
  ]
  np.testing.assert_array_equal(found['correlation'], np.eye(3))
  assert found['std'][1:].tolist() == [1, 1] and found['mean'][1:].tolist() == [7, 0]
  assert found['low'][1:].tolist() == [7, 0] and found['high'][1:].tolist() == [7, 0]


def test_the_seed_chooses_the_examples_and_never_more_than_asked_for():
  images = np.random.default_rng(6).integers(0, 256, (50, 2, 2, 3)).astype(np.uint8)
  means = [measure(source_of(images), examples=5, seed=seed)['mean'] for seed in (0, 0, 1)]
  np.testing.assert_array_equal(means[0], means[1])
  assert (means[0] != means[2]).any()
  of_all = images.reshape(-1, 3).mean(0)
  np.testing.assert_allclose(measure(source_of(images), examples=50)['mean'], of_all, rtol=1e-6)
  np.testing.assert_allclose(measure(source_of(images), examples=5000)['mean'], of_all, rtol=1e-6)


def test_unreadable_examples_are_an_error_or_left_out():
  images = np.random.default_rng(7).integers(0, 256, (9, 2, 2, 3)).astype(np.uint8)
  source = Unreadable(images, {0, 4})
  with pytest.raises(BadImage, match='^example 0 is broken$'):
    measure(source)
  readable = np.delete(images, [0, 4], 0).reshape(-1, 3).mean(0)
  np.testing.assert_allclose(measure(source, on_bad_image='skip')['mean'], readable, rtol=1e-6)
  with pytest.raises(InputError, match='none of the 9 examples'):
    measure(Unreadable(images, range(9)), on_bad_image='skip')


def test_statistics_of_no_examples_are_an_error():
  with pytest.raises(InputError, match='need at least 1 example, not 0'):
    measure(source_of(np.zeros((2, 1, 1, 1), np.uint8)), examples=0)


@pytest.mark.parametrize('program', ['train', 'views'])
def test_programs_measure_with_as_many_threads_as_the_config_says(program, tmp_path, monkeypatch):
  readers, read = set(), ArraySource.read

  def slow_read(self, index, out):
    readers.add(threading.get_ident())
    time.sleep(1e-3)
    return read(self, index, out)

  monkeypatch.setattr(ArraySource, 'read', slow_read)
  monkeypatch.setattr(machine, 'cores', lambda: 4)
  measure(source_of(np.zeros((128, 1, 1, 1), np.uint8)))
  assert len(readers) > 1  # one thread per core unless somebody says otherwise

  config = small_config(**{'data.threads': 1})
  measured_by, full_measure = [], statistics.measure

  def counting_measure(*args, **options):
    readers.clear()
    result = full_measure(*args, **options)
    measured_by.append(len(readers))
    return result

  monkeypatch.setattr(statistics, 'measure', counting_measure)
  if program == 'train':
    setup.prepare(config, tmp_path).close()
  else:
    views.main(types.SimpleNamespace(config=config, out=str(tmp_path / 'sheet.png')), [])
  assert measured_by == [1]
