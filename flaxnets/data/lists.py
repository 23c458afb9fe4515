"""Sources of image files that a split file lists."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import numpy as np

from flaxnets.data.classes import (
  check_labels_mean_the_same,
  chosen_classes,
  class_file,
  numbered_classes,
  read_text,
)
from flaxnets.data.image_files import LabelledFiles, PhotoFiles, RasterFiles, open_images
from flaxnets.data.root import root_folder
from flaxnets.data.source import DataOptions
from flaxnets.data.split_file import check_paths, parse_list


def open_list(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> PhotoFiles | RasterFiles:
  """The images of `read_list`; see there and `flaxnets.data.open.open_source` for arguments and errors."""
  return open_images(read_list(options, split, class_names), options, some=class_names is not None)


def read_list(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> LabelledFiles:
  """ImageNet-mini's layout: a split file of `path label` lines, paths relative to `options.root`.

  A path may contain spaces. Blank lines, spaces at the end of a line and Windows line ends are ignored. Links are
  followed as long as they stay in the root, or in the target of its first folder (such as `root/images`). Class names
  come from `class_names`, or `options.classes`, or `root/classes.txt`, or the folders if each label has its own folder.
  Otherwise they are the numbers up to the highest label. All files must exist unless `options.on_bad_image` is 'skip'.

  Args:
    options, split, class_names: see `flaxnets.data.open.open_source`.

  Raises:
    InputError: naming the split file and the line, for a malformed line, a label out of range, a path that leaves the
      root, or a missing file; and for a missing or empty split file.
  """
  root = options.root
  home = root_folder(root)
  names = chosen_classes(home, options.classes, class_names)
  of_all = home / (options.classes or 'classes.txt')
  if names is None and of_all.is_file():
    names = class_file(of_all)
  elif names is not None and of_all.is_file():
    check_labels_mean_the_same(class_file(of_all), class_names, str(of_all))
  name = str(home / split)
  text = read_text(home / split, 'the split file')
  lines, paths, labels = parse_list(name, text, len(names) if names else None)
  check_paths(name, root, lines, paths, options.on_bad_image != 'skip')
  classes = names or _classes_from_folders(name, paths, labels)
  return LabelledFiles(name, root, paths, np.array(labels, np.int32), classes, lines)


def _classes_from_folders(name: str, paths: Sequence[str], labels: Sequence[int]) -> tuple[str, ...]:
  numbers = numbered_classes(max(labels), name)
  parents = (posixpath.basename(posixpath.dirname(path)) for path in paths)
  folders = set(zip(labels, parents, strict=True))
  names = dict(folders)
  if len(folders) == len(names) == len(set(names.values())) and all(names.values()):
    return tuple(names.get(label, number) for label, number in enumerate(numbers))
  return numbers
