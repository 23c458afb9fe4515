"""Image files, photos or rasters: split files of `path label` lines, or one folder per class."""

from __future__ import annotations

import collections
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxnets.channels import ChannelSet
from flaxnets.data.classes import (
  check_labels_mean_the_same,
  chosen_classes,
  class_file,
  labels_by_name,
  numbered_classes,
  read_text,
)
from flaxnets.data.decode import decode_planes, image_planes, read_image
from flaxnets.data.geotiff import Rasters, is_raster
from flaxnets.data.raster_pixels import check_format
from flaxnets.data.source import BadImage, DataOptions, Reading
from flaxnets.errors import InputError

LABEL = re.compile(r'-?\d{1,18}')  # more digits than that are no label, and Python refuses thousands of them

SUFFIXES = (
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.png',
  '.webp',
  '.bmp',
  '.gif',
  '.tif',
  '.tiff',
  '.ppm',
  '.pgm',
  '.jp2',
  '.avif',
)


class ImageFiles:
  """Image files; see `flaxnets.data.source.Source` for the attributes.

  Attributes:
    root: the folder that `ids` are relative to.

  Args:
    name: the source in messages: the split file or the folder.
    root: folder that the paths are relative to.
    paths: paths of the files, with '/'.
    labels: one label per path.
    classes: class names.
    options: `channels`, `canvas` and so on.
    lines: the line of each path in the split file; None without a split file.
    some: whether the files may lack some of the channels, as those of other splits than that of training may.
    rasters: whether to look for rasters; False for photos of 8 bits, whatever the files are.

  The first file that can be opened decides for all: photos are decoded to 8 bits (`decode.decode`), rasters keep their
  number type and their bands (`geotiff.Rasters`).
  """

  def __init__(
    self,
    name: str,
    root: str,
    paths: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    options: DataOptions,
    lines: Sequence[int] | None = None,
    some: bool = False,
    rasters: bool = True,
  ):
    canvas = options.canvas
    if canvas < 1:
      raise InputError(f'canvas is {canvas}; it must be at least 1 pixel (data.canvas, or 1.5 x image_size)')
    self.name, self.classes = name, tuple(classes)
    self.labels = np.array(labels, np.int32)
    self.canvas, self.dtype, self.has_missing_channels = (canvas, canvas), np.dtype(np.uint8), False
    self.ids = _unique(paths)
    self.root = root
    self._paths, self._lines = paths, lines
    self._rasters = self._opened_rasters(options, some) if rasters else None
    if self._rasters is None:
      self.channels = ChannelSet.of(options.channels or 'RGB', options.wavelengths)
      self._planes = image_planes(self.channels)
    else:
      self.channels, self.dtype = self._rasters.channels, self._rasters.dtype
      self.has_missing_channels = self._rasters.has_missing_channels

  def __len__(self) -> int:
    return len(self._paths)

  def read(self, index: int, out: np.ndarray) -> Reading:
    if self._rasters is not None:
      check_format(self._paths[index], self.where(index))
      return self._rasters.read(os.path.join(self.root, self._paths[index]), out, self.where(index))
    return Reading(decode_planes(self.encoded(index), out, self._planes, name=self.where(index)))

  def _opened_rasters(self, options: DataOptions, some: bool) -> Rasters | None:
    """The reader of rasters, if the first file that can be opened is one."""
    failure = None
    for index, file in enumerate(self._paths):
      path = os.path.join(self.root, file)
      raster = is_raster(path, options)
      if raster is False:
        return None
      if raster:
        try:
          return Rasters(path, options, some, self.where(index))
        except BadImage as error:
          if options.on_bad_image != 'skip':
            raise
          failure = failure or error
    if failure:
      raise failure
    return None

  def where(self, index: int) -> str:
    """The file and its line in the list, for messages."""
    path = os.path.join(self.root, self._paths[index])
    return path if self._lines is None else f'{path} ({self.name}, line {self._lines[index]})'

  def encoded(self, index: int) -> bytes:
    """The bytes of a file.

    Raises:
      BadImage: if it cannot be read.
    """
    return read_image(os.path.join(self.root, self._paths[index]), self.where(index))


def open_list(
  options: DataOptions, split: str, class_names: Sequence[str] | None = None, *, rasters: bool = True
) -> ImageFiles:
  """ImageNet-mini's layout: a split file of `path label` lines, paths relative to `options.root`.

  A path may contain spaces. Blank lines, spaces at the end of a line and Windows line ends are ignored. Links are
  followed as long as they stay in the root, or in the target of its first folder (such as `root/images`). Class names
  come from `class_names`, or `options.classes`, or `root/classes.txt`, or the folders if each label has its own folder.
  Otherwise they are the numbers up to the highest label. All files must exist unless `options.on_bad_image` is 'skip'.

  Args:
    options, split, class_names: see `flaxnets.data.open.open_source`.
    rasters: see `ImageFiles`.

  Raises:
    InputError: naming the split file and the line, for a malformed line, a label out of range, a path that leaves the
      root, or a missing file; and for a missing or empty split file.
  """
  root = options.root
  home = _folder(root, 'data.root')
  names = chosen_classes(home, options.classes, class_names)
  of_all = home / (options.classes or 'classes.txt')
  if names is None and of_all.is_file():
    names = class_file(of_all)
  elif names is not None and of_all.is_file():
    check_labels_mean_the_same(class_file(of_all), class_names, str(of_all))
  name = str(home / split)
  text = read_text(home / split, 'the split file')
  lines, paths, labels = parse_list(name, text, len(names) if names else None)
  _check_paths(name, root, lines, paths, options.on_bad_image != 'skip')
  classes = names or _classes_from_folders(name, paths, labels)
  return ImageFiles(name, root, paths, labels, classes, options, lines, class_names is not None, rasters)


def parse_list(name: str, text: str, classes: int | None = None) -> tuple[list[int], list[str], list[int]]:
  """The lines of a split file that are not blank: their numbers, normalised paths and labels.

  Args:
    name: the split file in messages.
    text: what it holds.
    classes: the number of classes; None if it is not known.

  Raises:
    InputError: naming the line that is malformed, has a label out of range or a path that leaves the root; and if there
      is none.
  """
  lines, paths, labels = [], [], []
  for number, line in enumerate(text.split('\n'), 1):
    fields = line.rsplit(None, 1)
    if not fields:
      continue
    where = f'{name}, line {number}'
    if len(fields) != 2 or '\0' in line or not LABEL.fullmatch(fields[1]):
      raise InputError(f'{where}: {line.strip()[:200]!r} is not a path and a label, as images/finch/1.jpg 0')
    label = int(fields[1])
    if label < 0 or (classes is not None and label >= classes):
      allowed = f'{classes} classes have labels 0 to {classes - 1}' if classes else 'labels begin with 0'
      raise InputError(f'{where}: label {label} is out of range; {allowed}')
    path = posixpath.normpath(fields[0].strip())
    if path.startswith(('/', '../')) or path == '..':
      raise InputError(f'{where}: the path {fields[0]!r} leaves the root; paths are relative to it')
    lines.append(number)
    paths.append(path)
    labels.append(label)
  if not paths:
    raise InputError(f'the split file {name} is empty; it must hold a path and a label per line')
  return lines, paths, labels


def _check_paths(name: str, root: str, lines: Sequence[int], paths: Sequence[str], check_files: bool) -> None:
  """Lists each folder once: to look up each file of ImageNet would take minutes on a network disk."""
  listings: dict[str, tuple[set[str], set[str]]] = {}
  missing = []
  for line, path in zip(lines, paths, strict=True):
    folder, _, file = path.rpartition('/')
    if folder not in listings:
      if not _inside(root, folder):
        raise InputError(f'{name}, line {line}: {folder!r} is a link that leaves the root {root}')
      listings[folder] = _listing(os.path.join(root, folder))
    files, links = listings[folder]
    if file in links and not _inside(root, path):
      raise InputError(f'{name}, line {line}: {path!r} is a link that leaves the root {root}')
    if file not in files:
      missing.append((line, path))
  if missing and check_files:
    others = f' (and {len(missing) - 1:,} more are missing)' if len(missing) > 1 else ''
    raise InputError(
      f'{name}, line {missing[0][0]}: there is no file '
      f'{os.path.join(root, missing[0][1])}{others}; data.on_bad_image=skip trains without such files'
    )


def _listing(folder: str) -> tuple[set[str], set[str]]:
  """The names in a folder, and those of them that are links; nothing for a folder that does not exist."""
  try:
    with os.scandir(folder) as entries:
      found = [(entry.name, entry.is_symlink()) for entry in entries]
  except (OSError, ValueError):
    return set(), set()
  return {file for file, _ in found}, {file for file, link in found if link}


def _inside(root: str, path: str) -> bool:
  """Whether a path, with links resolved, is in the root or in the target of its first folder."""
  first = path.partition('/')[0]
  homes = [os.path.realpath(root)]
  if os.path.isdir(os.path.join(root, first)):
    homes.append(os.path.realpath(os.path.join(root, first)))
  real = os.path.realpath(os.path.join(root, path))
  return any(os.path.commonpath([home, real]) == home for home in homes)


def _classes_from_folders(name: str, paths: Sequence[str], labels: Sequence[int]) -> tuple[str, ...]:
  numbers = numbered_classes(max(labels), name)
  parents = (posixpath.basename(posixpath.dirname(path)) for path in paths)
  folders = set(zip(labels, parents, strict=True))
  names = dict(folders)
  if len(folders) == len(names) == len(set(names.values())) and all(names.values()):
    return tuple(names.get(label, number) for label, number in enumerate(numbers))
  return numbers


def open_folders(options: DataOptions, split: str, class_names: Sequence[str] | None = None) -> ImageFiles:
  """One folder per class: root/split/<class>/, and every image file in or below it.

  Without `class_names` or `options.classes` the classes are the folders, sorted by name. With them, each folder must be
  named after a class, by its full name or its first word; classes without a folder are allowed. Hidden files, and files
  without the suffix of an image format, are ignored.

  Args:
    options, split, class_names: see `flaxnets.data.open.open_source`.

  Raises:
    InputError: for a missing split, a split without class folders or images, a folder that is not a class, a link that
      leaves the root, or a link to a folder below a class folder.
  """
  home = _folder(options.root, 'data.root')
  top = home / split
  if not top.is_dir():
    held = ', '.join(sorted(path.name for path in home.iterdir() if path.is_dir() and not _is_hidden(path.name)))
    raise InputError(f'there is no split {str(top)!r}; {home} has {f"the folders {held}" if held else "no folders"}')
  folders = sorted(path.name for path in top.iterdir() if path.is_dir() and not _is_hidden(path.name))
  if not folders:
    raise InputError(f'{top} has no folders; it must hold one folder of images per class')
  names = chosen_classes(home, options.classes, class_names) or tuple(folders)
  by_name = labels_by_name(names)
  paths, labels = [], []
  for folder in folders:
    if folder not in by_name:
      raise InputError(f'{top / folder} is not one of the {len(names)} classes, {names[0]!r} to {names[-1]!r}')
    if os.path.islink(top / folder) and not _inside(options.root, f'{split}/{folder}'):
      raise InputError(f'{top / folder} is a link that leaves the root {options.root}; copy the folder there')
    found = _images_below(str(top), folder)
    for path in found:
      if os.path.islink(top / path) and not _inside(options.root, f'{split}/{path}'):
        raise InputError(f'{top / path} is a link that leaves the root {options.root}; copy the file there')
    paths += found
    labels += [by_name[folder]] * len(found)
  if not paths:
    raise InputError(f'{top} has no images in its folders; files end in {", ".join(SUFFIXES)}')
  return ImageFiles(str(top), str(top), paths, labels, names, options, some=class_names is not None)


def _images_below(top: str, folder: str) -> list[str]:
  found = []
  for place, inner, files in os.walk(os.path.join(top, folder)):
    inner[:] = [name for name in inner if not _is_hidden(name)]
    for name in inner:
      if os.path.islink(os.path.join(place, name)):
        raise InputError(f'{place}/{name} is a link to a folder, which is not followed; copy the folder there')
    below = Path(place).relative_to(top).as_posix()
    found += [f'{below}/{file}' for file in files if file.lower().endswith(SUFFIXES) and not _is_hidden(file)]
  return sorted(found)


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name == '__MACOSX'  # the folder that macOS adds to archives


def _folder(path: str, what: str) -> Path:
  if not os.path.isdir(path):
    raise InputError(f'{what} {path!r} is not a folder')
  return Path(path)


def _unique(paths: Sequence[str]) -> list[str]:
  """The paths. The second and later occurrences of a path get '#2', '#3' and so on appended."""
  seen: collections.Counter[str] = collections.Counter()
  ids = []
  for path in paths:
    seen[path] += 1
    ids.append(path if seen[path] == 1 else f'{path}#{seen[path]}')
  return ids
