"""A named pipe, which nobody writes to, is not waited for, whatever is to be read from it."""

import os

import pytest

import flaxnets
from flaxnets.data.open import open_source
from flaxnets.data.source import DataOptions
from flaxnets.errors import InputError
from flaxnets.inference import tensor_files
from flaxnets.runtime import records
from tests.bad_inputs.case import time_limit


def opened(kind, root, split):
  return open_source(DataOptions(kind, str(root), channels='RGB'), split)


@pytest.mark.parametrize(
  ('name', 'read'),
  [
    ('train.txt', lambda path: opened('lists', path.parent, path.name)),
    ('X_train.npy', lambda path: opened('arrays', path.parent, 'train')),
    ('bands.npz', lambda path: opened('arrays', path, 'train')),
    ('w.safetensors', tensor_files.read),
    ('w.pth', tensor_files.read),
    ('rg.stablehlo', flaxnets.load_exported),
    ('result.json', records.read),
  ],
)
def test_a_named_pipe_is_refused_in_one_line(name, read, tmp_path):
  os.mkfifo(tmp_path / name)
  with time_limit(), pytest.raises((InputError, OSError), match='it is not a regular file') as raised:
    read(tmp_path / name)
  assert '\n' not in str(raised.value)
