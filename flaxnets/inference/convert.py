"""A pretrained PyTorch ResNet as a network that takes every subset of R, G and B."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.data.photo_statistics import CHANNELS, SCALE, photo_statistics
from flaxnets.errors import InputError
from flaxnets.inference import tensor_files, torch_names
from flaxnets.inference.export_torch import FORMAT as EXPORTED
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.inference.weights import new_head
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime.workdir import differences


def read_network(
  path: str | os.PathLike[str],
  model: str,
  config: ml_collections.ConfigDict | None = None,
  *,
  channels: str | Sequence[str] = CHANNELS,
  mean: Sequence[float] = (),
  std: Sequence[float] = (),
  classes: Sequence[str] = (),
  num_classes: int = 0,
  keep: Sequence[int] = (),
) -> tuple[Network, dict[str, Any]]:
  """A network from a PyTorch weight file. On all channels its logits are PyTorch's, up to rounding.

  The network takes raw pixels in 0..255, standardises them, and makes up for absent channels by the config's
  completion, with the correlation of R, G and B in photos (`flaxnets.data.photo_statistics`).

  Args:
    path: a .safetensors or .pth file in torchvision's or timm's naming.
    model: 'resnet18', 'resnet34' or 'resnet50'.
    config: all fields; that of configs/pretrained.py if None. A file of `flaxnets export --format=torch` carries its
      own config and statistics: of this config, only what differs from configs/pretrained.py is then used.
    channels: R, G and B in the order in which the file's first layer takes them. Not for a file of `flaxnets export`.
    mean, std: of the channels in that order, for pixels in 0..1; ImageNet's if empty. Not for a file of `flaxnets
      export`.
    classes: names in the order of the logits; '0', '1' and so on if empty.
    num_classes: replaces the head by a new one of so many classes, initialised from the config's seed; 0 to keep it.
    keep: which of the file's classes stay, in their new order; all if empty.

  Returns:
    The network, and where it comes from: 'file', 'sha256', 'dtype', 'tensors', 'head'.

  Raises:
    InputError: for a file that does not fit the network (tensors are named), or arguments that do not fit the file.
  """
  # NumPy's arrays have no truth value.
  mean, std, classes, keep = tuple(mean), tuple(std), tuple(map(str, classes)), tuple(keep)
  file, where = tensor_files.read(path), os.fspath(path)
  tensors = dict(file.tensors)
  if model not in torch_names.RESNETS:
    raise InputError(f'no conversion of {model!r}; there are {", ".join(torch_names.RESNETS)}')
  origin = {'file': os.path.basename(where), 'sha256': file.sha256, 'dtype': _types(tensors), 'tensors': len(tensors)}
  config = config or configs.named('pretrained')
  if file.header.get('format') == EXPORTED:
    own = {'channels': _named(channels).names != CHANNELS, 'mean': bool(mean), 'std': bool(std)}
    if given := [name for name, is_given in own.items() if is_given]:
      raise InputError(f'{where} holds its channels, mean and std, as flaxnets export wrote it; leave out {given[0]}')
    config, metadata, statistics = _of_export(file.header, config)
  else:
    config = configs.from_json(configs.to_json(config))
    metadata, statistics = _of_photos(channels, mean, std)
  config.model.name = model
  head, names, kind = _head(tensors, metadata.classes, where, classes, num_classes, keep)
  tensors.update(head)
  metadata = dataclasses.replace(metadata, classes=names, canvas=metadata.canvas or experiment.canvas_of(config))
  network = experiment.build_network(config, metadata.channels, len(names))
  images = np.zeros((1, config.image_size, config.image_size, len(metadata.channels)), np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(config.seed), images)
  if num_classes:
    features = shapes['params']['head']['dense']['kernel'].shape[0]
    dense = new_head(features, num_classes, config.seed)['dense']
    tensors.update(zip(torch_names.HEAD, (dense['kernel'].T, dense['bias']), strict=True))
  variables = {**torch_names.from_torch(tensors, shapes, where), 'channel_stats': shapes['channel_stats']}
  variables = jax.device_get(put_statistics(variables, statistics))
  return Network(config, metadata, variables, step=0, ema=False), {**origin, 'model': model, 'head': kind}


def _types(tensors: Mapping[str, np.ndarray]) -> str:
  return ', '.join(sorted({str(value.dtype) for value in tensors.values() if value.dtype.kind in 'fV'}))


def _named(channels: str | Sequence[str]) -> ChannelSet:
  return ChannelSet.of(channels) if isinstance(channels, str) else ChannelSet(tuple(channels))


def _of_photos(
  channels: str | Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> tuple[Metadata, dict[str, np.ndarray]]:
  known = _named(channels)
  if sorted(known.names) != sorted(CHANNELS):
    raise InputError(f'the channels are {", ".join(known.names)}; R, G and B in some order were expected')
  statistics = photo_statistics(known.names)
  for name, values in (('mean', mean), ('std', std)):
    possible = np.isfinite(values).all() and (name == 'mean' or min(values, default=1) > 0)
    if len(values) not in (0, len(known)) or not possible:
      raise InputError(f'{name} is {", ".join(map(str, values))}; give {len(known)} values for pixels in 0..1')
    if values:
      statistics[name] = np.asarray([SCALE * value for value in values], np.float32)
  return Metadata(known, (), 'uint8', (0.0,) * len(known), (SCALE,) * len(known)), statistics


def _of_export(
  header: Mapping[str, str], config: ml_collections.ConfigDict
) -> tuple[ml_collections.ConfigDict, Metadata, dict[str, np.ndarray]]:
  """What `flaxnets.inference.export` stored beside the tensors, with the caller's changes of the config."""
  own = configs.from_json(json.loads(header['config']))
  base = configs.to_json(configs.named('pretrained'))
  changed = differences(base, configs.to_json(config))
  own.update_from_flattened_dict({name: new for name, (_, new) in changed.items() if name != 'model.name'})
  statistics = {name: np.asarray(value, np.float32) for name, value in json.loads(header['statistics']).items()}
  metadata = Metadata.from_json(json.loads(header['metadata']))
  if {'image_size', 'data.canvas', 'data.source'} & changed.keys():
    metadata = dataclasses.replace(metadata, canvas=None)  # that of the changed config
  return own, metadata, statistics


def _head(
  tensors: Mapping[str, np.ndarray],
  own: tuple[str, ...],
  where: str,
  classes: Sequence[str],
  num_classes: int,
  keep: Sequence[int],
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str]:
  """The head's tensors, its classes, and what became of it; without tensors where a new one replaces it."""
  _check_head(num_classes, keep, classes)
  if num_classes:
    return {}, tuple(classes) or _numbers(num_classes), f'new, {num_classes} classes'
  head = _stored_head(tensors, where)
  count = len(head['fc.weight'])
  if not keep:
    return head, _names(classes, own, range(count), count), 'kept'
  head = _chosen_rows(head, keep, where)
  return head, _names(classes, own, keep, count), f'{len(keep)} of {count} classes kept'


def _check_head(num_classes: int, keep: Sequence[int], classes: Sequence[str]) -> None:
  """Raises InputError for arguments that contradict each other, whatever the file."""
  if num_classes and keep:
    raise InputError('num_classes replaces the head and keep keeps some of it; give one of them')
  if num_classes < 0 or num_classes and classes and len(classes) != num_classes:
    raise InputError(f'num_classes={num_classes} does not fit {len(classes)} class names')


def _stored_head(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
  """The weight and the bias of the file's head."""
  head = {name: tensors[name] for name in torch_names.HEAD if name in tensors}
  if len(head) < 2 or any(value.ndim == 0 for value in head.values()):
    held = ', '.join([*sorted(tensors)[:2], *(['...'] if len(tensors) > 2 else [])]) or 'none'
    raise InputError(
      f'{where} has no head ({" and ".join(torch_names.HEAD)}) among its tensors ({held}); '
      'num_classes=N (--num_classes=N) makes a new one'
    )
  return head


def _chosen_rows(head: Mapping[str, np.ndarray], keep: Sequence[int], where: str) -> dict[str, np.ndarray]:
  """The head's rows of some classes."""
  count = len(head['fc.weight'])
  for index in keep:
    if not 0 <= index < count:
      raise InputError(f'keep has the class {index}, but {where} has 0 to {count - 1}')
  if len(set(keep)) < len(keep):
    raise InputError('keep names a class twice')
  return {name: value[list(keep)] for name, value in head.items()}


def _names(given: Sequence[str], own: Sequence[str], chosen: Sequence[int], count: int) -> tuple[str, ...]:
  """The names of the head's classes.

  Args:
    given: by the caller, for the chosen classes or for all of the file; empty for the file's own.
    own: names that the file holds; numbers stand for them if they are not those of its classes.
    chosen: the head's classes, as indices into the file's.
    count: of the file's classes.
  """
  if len(given) == len(chosen):
    return tuple(given)
  if given and len(given) != count:
    raise InputError(f'{len(given)} class names for a head of {len(chosen)} classes')
  names = given or (own if len(own) == count else _numbers(count))
  return tuple(names[index] for index in chosen)


def _numbers(count: int) -> tuple[str, ...]:
  return tuple(map(str, range(count)))
