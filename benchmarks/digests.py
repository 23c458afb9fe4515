"""How long digests take, and how long a save holds up training.

python -m benchmarks.digests [--out=FILE]

The state is that of a ResNet-18 with momentum and a running average: three copies of 11 million weights, 134 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import measure
from flaxnets.runtime import machine
from flaxnets.runtime.checkpoint import Checkpoints
from flaxnets.runtime.digests import array_digests


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Measures, prints and writes the result, and returns it."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', default='', help='file of the result, JSON')
  parser.add_argument('--repeats', type=measure.positive, default=7, help='of each measurement; the median counts')
  parser.add_argument('--megabytes', type=float, default=134.0, help='size of the state')
  args = parser.parse_args(argv)
  sizes = np.geomspace(64, 2**21, 60)
  counts = (sizes / sizes.sum() * args.megabytes * 1e6 / 4).astype(int)
  rng = np.random.default_rng(0)
  arrays = {f'{number}': rng.normal(size=count).astype(np.float32) for number, count in enumerate(counts)}
  megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
  hashing, held_up, complete = [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(folder)
    for step in range(args.repeats):
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
  if args.out:
    measure.write(args.out, result)
  return result


if __name__ == '__main__':
  main()
