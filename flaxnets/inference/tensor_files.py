"""Weight files of PyTorch networks as named arrays: .safetensors and .pth, without PyTorch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flaxnets.errors import InputError
from flaxnets.inference import pth
from flaxnets.runtime import regular

# What safetensors calls the types of its values.
_DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16, 'I64': np.int64, 'I32': np.int32,
  'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip

# Where training scripts keep the state dict beside other things, in the order in which it is looked for.
_STATE_DICTS = ('state_dict', 'model', 'model_state_dict', 'network', 'net')


class TensorFile(NamedTuple):
  """The tensors of a weight file.

  Attributes:
    tensors: arrays by name, of the types in the file; without a prefix that all names share, such as 'module.'.
    header: texts that the file carries beside its tensors; empty for .pth.
    sha256: of the file.
  """

  tensors: dict[str, np.ndarray]
  header: dict[str, str]
  sha256: str


def read(path: str | os.PathLike[str]) -> TensorFile:
  """Reads a weight file. Nothing in it is executed.

  Raises:
    InputError: if it cannot be read, is neither a safetensors nor a .pth file, or holds anything but tensors.
  """
  path = pathlib.Path(path)
  try:
    data = regular.read(path)
  except OSError as error:
    raise InputError(f'{path} cannot be read: {error.strerror or error}') from None
  if path.suffix == '.safetensors':
    tensors, header = _safetensors(data, path)
  elif path.suffix in ('.pth', '.pt', '.bin', '.ckpt', '.tar'):
    tensors, header = _state_dict(pth.read(io.BytesIO(data), str(path)), path), {}
  else:
    raise InputError(f'{path} ends in {path.suffix!r}; a .safetensors or .pth file was expected')
  return TensorFile(_without_shared_prefix(tensors), header, hashlib.sha256(data).hexdigest())


def _safetensors(data: bytes, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  import safetensors

  try:
    held = dict(safetensors.deserialize(data))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')]).get('__metadata__', {})
  except (safetensors.SafetensorError, ValueError) as error:
    raise InputError(f'{path} cannot be read as a safetensors file: {error}') from None
  tensors = {}
  for name, tensor in held.items():
    if tensor['dtype'] not in _DTYPES:
      raise InputError(f'{path}: {name} is of type {tensor["dtype"]}; {", ".join(_DTYPES)} are read')
    tensors[name] = np.frombuffer(tensor['data'], _DTYPES[tensor['dtype']]).reshape(tensor['shape'])
  return tensors, header


def _state_dict(held: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a state dict, or of the one that a training script saved among other things."""
  candidates = [*(held[name] for name in _STATE_DICTS if name in held), held] if isinstance(held, Mapping) else []
  for candidate in candidates:
    if isinstance(candidate, Mapping) and any(isinstance(value, np.ndarray) for value in candidate.values()):
      return {str(name): value for name, value in candidate.items() if isinstance(value, np.ndarray)}
  keys = f' but {", ".join(map(str, list(held)[:5]))}' if isinstance(held, Mapping) else ''
  raise InputError(f'{path} holds no state dict{keys}; save one with torch.save(network.state_dict(), FILE)')


def _without_shared_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors without leading parts that all of their names share: nn.DataParallel's 'module.' and the like."""
  while len(tensors) > 1:
    parts = {name.partition('.')[0] for name in tensors}
    if len(parts) > 1 or not all('.' in name for name in tensors):
      break
    tensors = {name.partition('.')[2]: value for name, value in tensors.items()}
  return tensors
