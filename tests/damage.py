"""Damage to files, as a disk or a kill does it."""

import pathlib


def largest_arrays(checkpoint: pathlib.Path) -> pathlib.Path:
  """The file that holds most of a checkpoint's arrays, in the folder of the checkpoint or of its state."""
  return max(checkpoint.glob('**/d/*'), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path, bit: int | None = None) -> None:
  """Flips a bit of a file, the one in its middle unless another is given."""
  data = bytearray(path.read_bytes())
  bit = 4 * len(data) if bit is None else bit
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def cut(path: pathlib.Path) -> None:
  """Leaves the first half of a file."""
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
