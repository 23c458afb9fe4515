"""Sources of image files in one folder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxnets.data.classes import chosen_classes, labels_by_name
from flaxnets.data.image_files import SUFFIXES, LabelledFiles, PhotoFiles, RasterFiles, open_images
from flaxnets.data.root import is_inside, root_folder
from flaxnets.data.source import DataOptions
from flaxnets.errors import InputError


def open_folders(
  options: DataOptions, split: str, class_names: Sequence[str] | None = None
) -> PhotoFiles | RasterFiles:
  """One folder per class: root/split/<class>/, and every image file in or below it.

  Without `class_names` or `options.classes` the classes are the folders, sorted by name. With them, each folder must be
  named after a class, by its full name or its first word; classes without a folder are allowed. Hidden files, and files
  without the suffix of an image format, are ignored; so are .npy files beside images of other formats.

  Args:
    options, split, class_names: see `flaxnets.data.open.open_source`.

  Raises:
    InputError: for a missing split, a split without class folders or images, a folder that is not a class, a link that
      leaves the root, or a link to a folder below a class folder.
  """
  home = root_folder(options.root)
  top = home / split
  if not top.is_dir():
    held = ', '.join(subfolders(home))
    raise InputError(
      f'there is no split {str(top)!r}; {home} has {f"the folders {held}" if held else "no folders"}; data.train, '
      'data.validation and data.test name the splits, and flaxnets lists divides folders of classes into some'
    )
  folders = subfolders(top)
  if not folders:
    raise InputError(f'{top} has no folders; it must hold one folder of images per class')
  names = chosen_classes(home, options.classes, class_names) or tuple(folders)
  by_name = labels_by_name(names)
  for folder in folders:
    if folder not in by_name:
      raise InputError(f'{top / folder} is not one of the {len(names)} classes, {names[0]!r} to {names[-1]!r}')
    if os.path.islink(top / folder) and not is_inside(options.root, f'{split}/{folder}'):
      raise InputError(f'{top / folder} is a link that leaves the root {options.root}; copy the folder there')
  found = images_below(str(top), folders)
  paths = [path for folder in folders for path in found[folder]]
  labels = [by_name[folder] for folder in folders for _ in found[folder]]
  for path in paths:
    if os.path.islink(top / path) and not is_inside(options.root, f'{split}/{path}'):
      raise InputError(f'{top / path} is a link that leaves the root {options.root}; copy the file there')
  if not paths:
    raise InputError(f'{top} has no images in its folders; {what_images_are(top)}')
  files = LabelledFiles(str(top), str(top), paths, np.array(labels, np.int32), names)
  return open_images(files, options, some=class_names is not None)


def subfolders(top: Path) -> list[str]:
  """The names of the folders in a folder, sorted, without hidden ones."""
  return sorted(path.name for path in top.iterdir() if path.is_dir() and not _is_hidden(path.name))


def images_below(top: str, folders: Sequence[str]) -> dict[str, list[str]]:
  """The image files in or below each of some folders in `top`, as sorted paths relative to `top`.

  Beside images of other formats, .npy files are none: they may hold features, for example.

  Raises:
    InputError: for a link to a folder, or a folder that cannot be read.
  """
  found = {folder: _files_below(top, folder) for folder in folders}
  without_arrays = {
    folder: [path for path in paths if not path.lower().endswith('.npy')] for folder, paths in found.items()
  }
  return without_arrays if any(without_arrays.values()) else found


def what_images_are(top: Path) -> str:
  """For the message that a folder holds no images."""
  said = f'files end in {", ".join(SUFFIXES)}'
  if next(top.rglob('*.npz'), None):
    said += '; save the image of each .npz as .npy (height, width, channels), or all in one for data.source=arrays'
  return said


def _files_below(top: str, folder: str) -> list[str]:
  found: list[str] = []
  for place, inner, files in os.walk(os.path.join(top, folder), onerror=_refuse):
    inner[:] = [name for name in inner if not _is_hidden(name)]
    for name in inner:
      if os.path.islink(os.path.join(place, name)):
        raise InputError(f'{place}/{name} is a link to a folder, which is not followed; copy the folder there')
    below = Path(place).relative_to(top).as_posix()
    found += [f'{below}/{file}' for file in files if file.lower().endswith(SUFFIXES) and not _is_hidden(file)]
  return sorted(found)


def _refuse(error: OSError) -> None:
  """Ends `os.walk` at a folder that it cannot read, which it would leave out."""
  raise InputError(f'the folder {error.filename} cannot be read: {error.strerror}') from None


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name == '__MACOSX'  # the folder that macOS adds to archives
