"""Tensors from PyTorch's .pth files, read without PyTorch and without running anything that is in them.

A .pth file is a pickle, and a pickle can call any function. The unpickler here knows the few names that tensors in
dicts and lists need, and refuses all others, as `torch.load(weights_only=True)` does. Both of PyTorch's formats are
read: the zip archive (since 1.6) and the stream of pickles before it.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
import sys
import zipfile
from collections.abc import Callable
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from flaxnets.errors import InputError, first_line

_DTYPES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C


class _Refused(Exception):
  """A pickle that asks for something else than tensors, numbers and texts."""


@dataclasses.dataclass
class _Storage:
  dtype: np.dtype
  size: int
  values: np.ndarray | None = None


@dataclasses.dataclass
class _View:
  """A tensor before the bytes of its storage have been read."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
  """Collects the storages that a pickle refers to, and builds nothing but plain containers and views of them.

  What a pickle may call is made anew for each file, so that a pickle which sets attributes on it changes no other.
  """

  def __init__(self, file: IO[bytes], storages: dict[str, _Storage]):
    super().__init__(file, encoding='utf-8')
    self._storages = storages
    self._known: dict[tuple[str, str], Callable[..., Any]] = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor_v2'): lambda storage, offset, shape, strides, *_: _View(
        storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides))
      ),
      ('torch._utils', '_rebuild_parameter'): lambda data, *_: data,
      ('torch', 'Size'): lambda sizes: tuple(sizes),
      ('torch', 'device'): lambda *names: str(names),
    }

  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch' and name in _DTYPES:
      return lambda: name  # only named by persistent_load's argument
    if (module, name) not in self._known:
      raise _Refused(f'{module}.{name}')
    return self._known[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    kind, storage, key, _, size, *rest = pid
    if kind != 'storage' or any(rest):
      raise _Refused(f'a {kind!r} of an old format')
    dtype = np.dtype(_DTYPES[storage()])
    return self._storages.setdefault(str(key), _Storage(dtype, int(size)))


def read(file: IO[bytes], where: str) -> Any:
  """What a .pth file holds: nested dicts, lists, numbers and texts, with NumPy arrays in place of tensors.

  Args:
    file: open for reading, seekable.
    where: its name in messages.

  Raises:
    InputError: for a file that holds anything else, functions to call above all, or is corrupt.
  """
  try:
    held = _read_archive(file) if zipfile.is_zipfile(file) else _read_stream(file)
    return _arrays(held)
  except _Refused as error:
    raise InputError(
      f'{where} is refused: it asks for {error} to be loaded, which is no tensor and could run anything; '
      'save only the state dict: torch.save(network.state_dict(), FILE)'
    ) from None
  except MemoryError:
    raise
  except Exception as error:  # a corrupt pickle can raise anything
    raise InputError(f'{where} cannot be read as a .pth file: {first_line(error)[:200]}') from None


def _read_archive(file: IO[bytes]) -> Any:
  with zipfile.ZipFile(file) as archive:
    names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
    if len(names) != 1:
      raise ValueError('the zip archive has no data.pkl')
    prefix = names[0].removesuffix('data.pkl')
    storages: dict[str, _Storage] = {}
    if f'{prefix}byteorder' in archive.namelist() and archive.read(f'{prefix}byteorder') != b'little':
      raise ValueError('its bytes are in big-endian order')
    with archive.open(names[0]) as pickled:
      held = _Unpickler(pickled, storages).load()
    for key, storage in storages.items():
      if archive.getinfo(f'{prefix}data/{key}').file_size != storage.size * storage.dtype.itemsize:
        raise ValueError(f'the storage {key} has another size than its tensors need')
      storage.values = _little_endian(archive.read(f'{prefix}data/{key}'), storage)
    return held


def _read_stream(file: IO[bytes]) -> Any:
  """Magic number, version, the machine, the object, the keys of the storages; then each one's size and bytes."""
  storages: dict[str, _Storage] = {}
  file.seek(0)
  if _Unpickler(file, storages).load() != _STREAM_MAGIC:
    raise ValueError('it does not begin as one')
  for _ in ('version', 'machine'):
    _Unpickler(file, storages).load()
  held = _Unpickler(file, storages).load()
  for key in _Unpickler(file, {}).load():
    storage = storages[str(key)]
    if int.from_bytes(file.read(8), 'little') != storage.size:
      raise ValueError(f'the storage {key} has another size than its tensors need')
    storage.values = _little_endian(file.read(storage.size * storage.dtype.itemsize), storage)
  return held


def _little_endian(data: bytes, storage: _Storage) -> np.ndarray:
  values = np.frombuffer(data, storage.dtype)
  if len(values) != storage.size:
    raise ValueError('the file ends before its tensors do')
  return values if sys.byteorder == 'little' else values.byteswap()


def _arrays(held: Any) -> Any:
  if isinstance(held, _View):
    return _array(held)
  if isinstance(held, dict):
    return {key: _arrays(value) for key, value in held.items()}
  return [_arrays(value) for value in held] if isinstance(held, list | tuple) else held


def _array(view: _View) -> np.ndarray:
  """The tensor; ValueError for one that reaches beyond its storage, which NumPy would read without a check."""
  values = view.storage.values
  if values is None:
    raise ValueError('a tensor has no storage')
  last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
  empty = 0 in view.shape
  if min((view.offset, *view.shape, *view.strides)) < 0 or not empty and last >= len(values):
    raise ValueError('a tensor reaches beyond its storage')
  if empty:
    return np.zeros(view.shape, values.dtype)
  strides = tuple(stride * values.itemsize for stride in view.strides)
  return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides, writeable=False)
