"""Whether the hosts of a run have the same examples."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from flaxnets.channels import ChannelSet
from flaxnets.data.examples import check_hosts
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError


def source(name, *, labels=(0, 1, 0, 1), ids='abcd', classes=('x', 'y'), channels='RGB', side=8, dtype=np.uint8):
  images = np.zeros((len(labels), side, side, len(ChannelSet.of(channels))), dtype)
  return ArraySource(name, images, np.asarray(labels), ChannelSet.of(channels), classes, ids=list(ids))


def compared(monkeypatch, *each):
  """Lets a process of each of some splits compare them; returns what the first one says."""
  rows = []
  monkeypatch.setattr(jax, 'process_count', lambda: len(each))
  monkeypatch.setattr(multihost_utils, 'process_allgather', lambda row: rows.append(row) or row[None])
  for sources in each:
    check_hosts(sources)
  monkeypatch.setattr(multihost_utils, 'process_allgather', lambda row: np.stack(rows))
  check_hosts(each[0])


def splits(**changes):
  return {'data.train': source('train.txt'), 'data.validation': source('val.txt', **changes)}


def test_hosts_with_the_same_data_train(monkeypatch):
  compared(monkeypatch, splits(), splits())


@pytest.mark.parametrize(
  'changes',
  [
    {'labels': (0, 1, 1, 1)},
    {'ids': 'abdc'},
    {'labels': (0, 1, 0), 'ids': 'abc'},
    {'classes': ('x', 'z')},
    {'channels': 'RGN'},
    {'side': 9},
    {'dtype': np.uint16},
  ],
)
def test_a_split_that_is_another_one_on_some_hosts_is_named(monkeypatch, changes):
  said = (
    "^data.validation: the hosts' copies of the data differ: val.txt has other examples, classes, channels or image "
    'sizes in process 1, 3 than in process 0; give every host the same files$'
  )
  with pytest.raises(InputError, match=said):
    compared(monkeypatch, splits(), splits(**changes), splits(), splits(**changes))
