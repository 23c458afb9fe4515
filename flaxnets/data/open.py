"""Opens a source by the name of its kind. Only this module knows all kinds, and none of them imports it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from flaxnets.data.source import DataOptions, Source
from flaxnets.errors import InputError
from flaxnets.runtime.local import check_local

# Kind: its module, and the function of (options, split, class_names) there that opens it. A module is imported when its
# kind is used, since OpenCV and TFDS take long to import.
OPENERS = {
  'lists': ('lists', 'open_list'),
  'folders': ('folders', 'open_folders'),
  'arrays': ('arrays', 'open_arrays'),
  'tfds': ('tfds', 'open_tfds'),
  'synthetic': ('synthetic', 'open_synthetic'),
}


def open_source(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> Source:
  """Opens one split of a data set.

  Args:
    options: the data set, and how to read it.
    split: lists: a file of `path label` lines; folders: a folder with one folder per class; arrays: the text that
      replaces {split} in the keys, or an .npz in the folder `root`; tfds: a split such as train[:90%]; synthetic: see
      `flaxnets.data.synthetic.source`. Except for lists, a trailing .txt is removed, so that the defaults of the config
      work.
    class_names: the classes of the training source, when another split is opened; labels then mean the same in both.

  Raises:
    InputError: for an unknown kind, a missing path or key, a label out of range, or an empty split.
  """
  if options.kind not in OPENERS:
    raise InputError(f'unknown data.source {options.kind!r}; choose one of {", ".join(OPENERS)}')
  if not options.root and options.kind != 'synthetic':
    raise InputError(f'data.root is empty; data.source={options.kind} needs it to find the data')
  check_local(options.root, 'data.root')
  module, opener = OPENERS[options.kind]
  split = split if options.kind == 'lists' else split.removesuffix('.txt')
  return getattr(importlib.import_module(f'flaxnets.data.{module}'), opener)(options, split, class_names)
