"""A split as a trained network reads it: hosts compare their copies, and failed channels are told."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from flaxnets.channels import ChannelSet
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.evaluation import recalibrate
from flaxnets.evaluation.judge import SplitEvaluation
from tests.data.made import open_folder
from tests.networks import untrained


@pytest.fixture
def two_hosts(monkeypatch):
  """Lets this process be one of two, of which the other has other digests."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(multihost_utils, 'process_allgather', lambda row: np.stack([row, row ^ 1]))


SAID = (
  "the hosts' copies of the data differ: .* has other examples, classes, channels or image sizes in process 1 than in "
  'process 0; give every host the same files$'
)


@pytest.mark.parametrize(
  ('split', 'named'),
  [('test', 'data.test'), ('validation', 'data.validation'), ('test[:20]', r"split 'test\[:20\]'")],
)
def test_a_split_that_differs_between_hosts_is_not_evaluated(two_hosts, split, named):
  with pytest.raises(InputError, match=f'^{named}: {SAID}'):
    SplitEvaluation(untrained(small=True), split=split)


def test_hosts_with_different_training_images_do_not_recalibrate(two_hosts, monkeypatch, tmp_path):
  monkeypatch.setattr(recalibrate, 'load', lambda *arguments: untrained(small=True))
  with pytest.raises(InputError, match=f'^data.train: {SAID}'):
    recalibrate.run(tmp_path)


def test_evaluation_tells_of_channels_that_failed_once(caplog, devices_started):
  images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
  images[3:10, ..., 2] = 0
  net = untrained(small=True)
  source = ArraySource('X_test', images, np.arange(20) % 6, ChannelSet.of('RGB'), net.classes)
  with caplog.at_level('WARNING', 'absl'):
    evaluation = SplitEvaluation(net, source=source, subsets='R;G')
    for subset in evaluation.subsets:
      scores, _ = evaluation.evaluate([subset])
  (record,) = caplog.records
  assert record.getMessage().startswith('X_test: B is constant in 7 of the 20 images that were looked at: ')
  assert scores['examples'] == 20


def test_evaluation_counts_the_files_that_lack_a_channel(tmp_path, devices_started):
  net = untrained(small=True)
  for number, name in enumerate(net.classes):
    pixels = np.random.default_rng(number).uniform(1, 255, (16, 16, 3)).astype(np.float32)
    pixels[..., :number] = np.nan if number < 3 else 9
    (tmp_path / 'test' / name).mkdir(parents=True)
    np.save(tmp_path / 'test' / name / '0.npy', pixels)
  source = open_folder(tmp_path, 'test', net.classes, bands='R,G,B', canvas=16)
  evaluation = SplitEvaluation(net, source=source, subsets='RGB;R')
  for subset in evaluation.subsets:
    evaluation.evaluate([subset])
    assert evaluation.lacking == '2 lack a channel (R: 2, G: 1)'
