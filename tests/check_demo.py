"""Checks that the table of `make demo` shows what a channel is worth: python tests/check_demo.py WORKDIR"""

import json
import pathlib
import sys

CLASSES = 12


def check(workdir: pathlib.Path) -> None:
  """Raises AssertionError, with all accuracies, unless RGB is good and each channel alone is worse, and no guess."""
  scores = json.loads((workdir / 'eval' / 'test.json').read_text('utf-8'))
  accuracy = {row['channels']: row['accuracy'] for row in scores['subsets']}
  assert accuracy['RGB'] >= 0.90, accuracy
  for single in 'RGB':
    assert 2 / CLASSES <= accuracy[single] <= accuracy['RGB'] - 0.15, accuracy


if __name__ == '__main__':
  check(pathlib.Path(sys.argv[1]))
  print('the demo shows what a channel is worth')
