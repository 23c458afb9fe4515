"""Which examples of a source are measured and by how many threads, and what is said of those that cannot be."""

from __future__ import annotations

import threading
import time
import types

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
