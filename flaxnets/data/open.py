"""From the name of a kind of data to its source. The one file that knows every kind; no kind imports it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from flaxnets.data.source import DataOptions, Source
from flaxnets.errors import InputError

# A kind's module, imported when it is asked for (OpenCV and TFDS take a while), and its opener there:
# a function of (options, split, class_names).
OPENERS = {
  'lists': ('files', 'open_list'),
  'folders': ('files', 'open_folders'),
  'arrays': ('arrays', 'open_arrays'),
  'tfds': ('tfds', 'open_tfds'),
  'synthetic': ('synthetic', 'open_synthetic'),
}


def open_source(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> Source:
  """Opens one split of a data set.

  Args:
    options: which data set, and how it is read.
    split: lists: a file of `path label` lines; folders: a folder with one folder per class; arrays: what {split} in the
      keys becomes, or an .npz in the folder `root`; tfds: a split such as train[:90%]; synthetic: see there. Except for
      lists a final .txt is dropped, so that the config's defaults work.
    class_names: the classes of the training source, for the other splits: a label then means the same in all of them.

  Raises:
    InputError: for what cannot work: an unknown kind, a path, a label, a key, or an empty split.
  """
  if options.kind not in OPENERS:
    raise InputError(f'unknown data.source {options.kind!r}; choose one of {", ".join(OPENERS)}')
  if not options.root and options.kind != 'synthetic':
    raise InputError(f'data.root is empty; data.source={options.kind} needs it to find the data')
  module, opener = OPENERS[options.kind]
  split = split if options.kind == 'lists' else split.removesuffix('.txt')
  return getattr(importlib.import_module(f'flaxnets.data.{module}'), opener)(options, split, class_names)
