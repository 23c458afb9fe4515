"""A trained network as one file for use elsewhere: StableHLO or ONNX for one subset of channels, safetensors for all.

StableHLO and ONNX hold the function from raw pixels (b, height, width, m) to logits (b, K), with the batch size left
open; safetensors holds the weights, and torch those of a ResNet as a state dict for PyTorch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import traverse_util

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.inference import export_torch
from flaxnets.inference.description import ONNX_OPSET, PLATFORMS, describe, origin
from flaxnets.inference.subset_function import subset_function
from flaxnets.runtime import atomic, records
from flaxnets.runtime.digests import array_digests, text_digest

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

FORMATS = ('stablehlo', 'onnx', 'safetensors', 'torch')

# jax2onnx asks for an Orbax older than the one that checkpoints need, so that pip finds no versions that suit both.
# What --no-deps leaves out are libraries that its examples use.
INSTALL_ONNX = (
  'pip install --no-deps jax2onnx==0.17.1 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 sympy==1.14.0 mpmath==1.3.0'
)

# What a file with one of these suffixes is taken for.
_SUFFIXES = {'.stablehlo': ('stablehlo',), '.onnx': ('onnx',), '.safetensors': ('safetensors', 'torch')}

# The largest difference from the network that an export may have, as a share of the largest logit.
_TOLERANCES = {'stablehlo': 1e-5, 'onnx': 1e-4}
_TOLERANCE_BFLOAT16 = 5e-2  # eight bits of mantissa, rounded in another order


def export(
  net: Network,
  file: str | os.PathLike[str],
  subset: str = '',
  *,
  format: str = 'stablehlo',
  height: int = 0,
  width: int = 0,
) -> dict[str, Any]:
  """Writes a trained network to a file, and for StableHLO and ONNX what it is to FILE.json beside it.

  Both are then compared with the network on random images; a file is written only if they agree.

  Args:
    net: the network.
    file: the path to write; an existing file is replaced.
    subset: the channels of the input, in the order in which they will stand in it ('RG', 'B08,B02'); '' for all.
    format: 'stablehlo', 'onnx', 'safetensors' (all weights, of every channel) or 'torch' (a ResNet's state dict in
      torchvision's naming, see `flaxnets.inference.export_torch`).
    height, width: of the raw images that the file will take, pixels; 0 for those of the canvas of a run on image files,
      and else for the network's own input.

  Returns:
    The description, as in FILE.json; for safetensors and torch as in the file's own header.

  Raises:
    InputError: for channels that there are not, an unknown format, a suffix of another one, a library that is not
      installed, sizes that do not fit, or a file that cannot be written.
  """
  if format not in FORMATS:
    raise InputError(f'no format {format!r}; there are {", ".join(FORMATS)}')
  meant = _SUFFIXES.get(pathlib.Path(file).suffix.lower(), (format,))
  if format not in meant:
    raise InputError(
      f'{file} has the suffix of {" and ".join(meant)}, but the format is {format!r}; give format={meant[0]!r} '
      f'(--format={meant[0]}) or another name'
    )
  if format == 'safetensors':
    if subset not in ('', 'full'):
      raise InputError(f'safetensors holds the weights of every channel; leave out the subset {subset!r}')
    return _write_safetensors(net, pathlib.Path(file))
  if format == 'torch':
    arrays, description = export_torch.state_dict(net, subset)
    members = net.channels.order(description['channels'])
    return _save_safetensors(arrays, {**description, **origin(net, [members])}, pathlib.Path(file))
  if format == 'onnx':
    _check_onnx_installed()
  order = net.channels.full if subset in ('', 'full') else net.channels.order(subset)
  default = net.canvas or (net.config.image_size,) * 2
  size = (height or default[0], width or default[1])
  dtype = np.dtype(net.metadata.dtype)
  function = subset_function(net, order, size)
  shape = (*size, len(order))
  data = _stablehlo(function, shape, dtype) if format == 'stablehlo' else _onnx(function, shape, dtype)
  description = {**describe(net, order, size, format), 'bytes': 0, 'sha256': ''}
  if format == 'onnx':
    data = _with_properties(data, description)
  description |= {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
  description['difference'] = _check_equal(net, order, shape, dtype, format, data)
  path = pathlib.Path(file)
  _write(path, lambda beside: beside.write_bytes(data))
  _write(sidecar(path), lambda beside: beside.write_text(records.dumps(description, indent=1) + '\n'))
  return description


def sidecar(path: pathlib.Path) -> pathlib.Path:
  """Where the description of an exported file is: FILE.json."""
  return path.with_name(f'{path.name}.json')


def _check_onnx_installed() -> None:
  missing = [name for name in ('jax2onnx', 'onnx', 'onnxruntime') if importlib.util.find_spec(name) is None]
  if missing:
    raise InputError(f"format='onnx' (--format=onnx) needs {', '.join(missing)}; install with: {INSTALL_ONNX}")


def _stablehlo(function: Callable[..., Any], shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  from jax import export as jax_export

  (batch,) = jax_export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, *shape), dtype)
  return bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def _onnx(function: Callable[..., Any], shape: tuple[int, ...], dtype: np.dtype) -> bytes:
  logger = logging.getLogger('jax2onnx')  # it names, with a traceback, each of its tools that is not installed
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    import jax2onnx

    model = jax2onnx.to_onnx(
      function,
      [jax.ShapeDtypeStruct(('b', *shape), dtype)],
      model_name='flaxnets',
      opset=ONNX_OPSET,
      input_names=['images'],
      output_names=['logits'],
    )
  finally:
    logger.setLevel(level)
  return model.SerializeToString()


def _with_properties(data: bytes, description: Mapping[str, Any]) -> bytes:
  """The ONNX model with the description in its metadata, as JSON texts."""
  import onnx

  model = onnx.load_from_string(data)
  del model.graph.value_info[:]  # shapes of inner values, not needed to run; old converters put wrong ones
  own = {key: value for key, value in description.items() if key not in ('bytes', 'sha256')}  # known afterwards
  onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in own.items()})
  return model.SerializeToString()


def _check_equal(
  net: Network, order: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype, format: str, data: bytes
) -> float:
  """The largest difference from the network on random images, as a share of the largest logit; InputError if too large.

  Compared with the network's view of images of this size, without a squash to a canvas before. Both run on the CPU:
  GPUs and TPUs round the factors of matrix products by default, which costs more than the tolerance.
  """
  rng = np.random.default_rng(0)
  low, high = (np.asarray(bounds)[list(order)] for bounds in (net.metadata.low, net.metadata.high))
  images = rng.uniform(low, high, (4, *shape)).astype(dtype)
  with _on_cpu():
    expected = np.asarray(_reference(net, order, images))
    found = _run_stablehlo(data, images) if format == 'stablehlo' else _run_onnx(data, images)
  difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))
  tolerance = _TOLERANCE_BFLOAT16 if net.config.model.dtype == 'bfloat16' else _TOLERANCES[format]
  if not difference <= tolerance:
    raise InputError(
      f'the exported network differs from the trained one by {difference:.1e} of the largest logit, '
      f'more than {tolerance:.0e}: nothing was written'
    )
  return difference


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
  try:
    return jax.default_device(jax.local_devices(backend='cpu')[0])
  except RuntimeError:  # JAX_PLATFORMS leaves it out
    return contextlib.nullcontext()


def _reference(net: Network, order: tuple[int, ...], images: np.ndarray) -> jax.Array:
  """The network's logits, by the way that `Network.logits` goes, from the canvas on."""
  subset = tuple(sorted(order))
  sizes = np.tile(images.shape[1:3], (len(images), 1))
  return net.compiled(net.variables_of(subset), images[..., np.argsort(order)], sizes, None, subset)[0]


def _run_stablehlo(data: bytes, images: np.ndarray) -> np.ndarray:
  from jax import export as jax_export

  return np.asarray(jax_export.deserialize(bytearray(data)).call(images))


def _run_onnx(data: bytes, images: np.ndarray) -> np.ndarray:
  import onnxruntime

  session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
  return session.run(['logits'], {'images': images})[0]


def _write_safetensors(net: Network, path: pathlib.Path) -> dict[str, Any]:
  """All variables under dotted names; recalibrated statistics as recalibrated.<subset>.<name>."""
  tree = {**net.variables}
  if net.recalibrated:
    tree['recalibrated'] = {net.channels.label(subset): values for subset, values in net.recalibrated.items()}
  arrays = {name: np.ascontiguousarray(value) for name, value in traverse_util.flatten_dict(tree, sep='.').items()}
  description = {
    'format': 'flaxnets-safetensors',
    'format_version': 1,
    **origin(net, list(net.recalibrated)),
    'channels': list(net.channels.names),
    'wavelengths': list(net.channels.wavelengths),
    'classes': list(net.classes),
    'metadata': net.metadata.to_json(),
    'config': configs.to_json(net.config),
  }
  return _save_safetensors(arrays, description, path)


def _save_safetensors(arrays: dict[str, np.ndarray], description: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
  from safetensors.numpy import save

  description['digests'] = array_digests(arrays)
  texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
  texts[records.DIGEST] = text_digest(texts)
  _write(path, lambda beside: beside.write_bytes(save(arrays, metadata=texts)))
  return description


def _write(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
  with atomic.writing(path), atomic.replacing(path) as beside:
    write(beside)
