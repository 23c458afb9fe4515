"""What the tests of benchmarks share: the smallest settings, and rows by name."""

import importlib.util
import math

TORCH = importlib.util.find_spec('torch') is not None
SMALL = ['--repeats=1', '--seconds=0.01', '--width=8', '--image_size=16', '--batch_size=8']


def named(rows):
  found = {row.name: row for row in rows}
  assert len(found) == len(rows)
  assert all(math.isfinite(row.value) and row.value > 0 for row in rows)
  return found
