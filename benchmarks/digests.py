"""How long digests take, and how long a save holds up training: python -m benchmarks.digests [--out=FILE]

The state is that of a ResNet-18 with momentum and a running average: three copies of 11 million weights, 134 MB.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import measure
from flaxnets.runtime import machine
from flaxnets.runtime.checkpoint import Checkpoints
from flaxnets.runtime.digests import array_digests

FLAGS = flags.FlagValues()
flags.DEFINE_string('out', '', 'file of the result, JSON', flag_values=FLAGS)
flags.DEFINE_integer('repeats', 7, 'of each measurement; the median counts', flag_values=FLAGS)
flags.DEFINE_float('megabytes', 134.0, 'of the state', flag_values=FLAGS)


def main(arguments: list[str]) -> int:
  FLAGS(arguments)
  sizes = np.geomspace(64, 2**21, 60)
  counts = (sizes / sizes.sum() * FLAGS.megabytes * 1e6 / 4).astype(int)
  rng = np.random.default_rng(0)
  arrays = {f'{number}': rng.normal(size=count).astype(np.float32) for number, count in enumerate(counts)}
  megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
  hashing, held_up, complete = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(folder)
    for step in range(FLAGS.repeats):
      began = time.perf_counter()
      array_digests(arrays)
      hashing.append(time.perf_counter() - began)
      began = time.perf_counter()
      checkpoints.save(step, arrays, {})
      held_up.append(time.perf_counter() - began)
      checkpoints.wait()
      complete.append(time.perf_counter() - began)
    checkpoints.close()
  result = {
    'command': 'python -m benchmarks.digests',
    **measure.record(),
    'cores': machine.cores(),
    'megabytes': round(megabytes, 1),
    'hashing_seconds_per_100_mb': round(statistics.median(hashing) / megabytes * 100, 3),
    'save_holds_up_training_seconds': round(statistics.median(held_up), 3),
    'save_complete_seconds': round(statistics.median(complete), 3),
  }
  print(json.dumps(result, indent=1))
  if FLAGS.out:
    measure.write(FLAGS.out, result)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv))
