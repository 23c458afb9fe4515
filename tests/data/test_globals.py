"""The library leaves the settings of the process that imports it as they are."""

import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from flaxnets.channels import ChannelSet
from flaxnets.data import opencv
from flaxnets.data.batches import train_batches
from flaxnets.data.source import ArraySource

SETTINGS = """
import warnings
import cv2
from absl import flags
cv2.setNumThreads(3)

def settings():
  return cv2.getNumThreads(), list(warnings.filters), flags.FLAGS.is_parsed()
"""

IMPORT_ALL = """
import importlib, pathlib, types
import flaxnets
# The libraries that flaxnets is built on may change settings; flaxnets itself must not.
import jax, flax.linen, optax, orbax.checkpoint, grain, clu.parameter_overview, tensorboardX, tensorflow_datasets
import ml_collections, PIL.Image, PIL.ImageDraw, simplejpeg, tqdm
before = settings()
for path in sorted(pathlib.Path(flaxnets.__file__).parent.rglob('*.py')):
  relative = path.relative_to(pathlib.Path(flaxnets.__file__).parent).with_suffix('')
  if path.stem != '__main__' and relative.parts[0] != 'configs':
    importlib.import_module('.'.join(('flaxnets', *relative.parts)).removesuffix('.__init__'))
assert settings() == before, (before, settings())
"""

READ_ALL_WAYS = """
import io
import numpy as np
from PIL import Image
from flaxnets.channels import ChannelSet
from flaxnets.data import decode
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.source import ArraySource

if __name__ == '__main__':
  before = settings()
  decode.squash(np.zeros((9, 9, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))  # as `Network.predict` does
  png = io.BytesIO()
  Image.new('RGB', (9, 9)).save(png, 'PNG')
  decode.decode(png.getvalue(), np.zeros((4, 4, 3), np.uint8), name='it')
  source = ArraySource('arrays', np.zeros((6, 2, 2, 3), np.uint8), np.zeros(6, int), ChannelSet.of('RGB'), ('one',))
  for workers in (0, 1):
    assert len(list(evaluation_batches(source, batch_size=2, workers=workers))) == 3
  assert settings() == before, (before, settings())
"""


@pytest.mark.parametrize('script', [IMPORT_ALL, READ_ALL_WAYS], ids=['import', 'read'])
def test_imports_and_reading_change_no_setting_of_opencv_warnings_or_absl(script, tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(SETTINGS + script)
  root = str(pathlib.Path(__file__).parents[2])
  environment = {**os.environ, 'PYTHONPATH': root}
  done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
  assert done.returncode == 0, done.stderr


def threads_while_reading():
  seen = []

  class Watching(ArraySource):
    def read(self, index, out):
      seen.append(cv2.getNumThreads())
      return super().read(index, out)

  images = np.zeros((6, 2, 2, 3), np.uint8)
  return Watching('arrays', images, np.zeros(6, int), ChannelSet.of('RGB'), ('one',)), seen


def test_opencv_has_one_thread_while_readers_run_and_its_own_number_afterwards():
  before = cv2.getNumThreads()
  cv2.setNumThreads(3)
  try:
    source, seen = threads_while_reading()
    first = train_batches(source, batch_size=2, seed=0, threads=2)
    second = train_batches(source, batch_size=2, seed=1, threads=2)
    next(first), next(second)
    assert set(seen) == {1}
    first.close()
    assert cv2.getNumThreads() == 1  # the second one still reads
    second.close()
    assert cv2.getNumThreads() == 3
    with pytest.raises(RuntimeError, match='any error'), opencv.single_threaded():
      raise RuntimeError('any error')
    assert cv2.getNumThreads() == 3
  finally:
    cv2.setNumThreads(before)
