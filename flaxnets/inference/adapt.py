"""A trained network for other channels: known bands keep their kernels, absent ones are folded in, new ones begin.

Everything is one matrix A (C_old, C_new): the new bank is `einsum('hwof,oc->hwcf', bank, A)`, so that the network sees
A x in place of the channels that it was trained on. See docs/bands.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import ml_collections
import numpy as np

from flaxnets import config as configs
from flaxnets.analysis import spectral
from flaxnets.channels import ChannelSet
from flaxnets.data.band_statistics import reference
from flaxnets.errors import InputError
from flaxnets.inference import matching
from flaxnets.inference.matching import Matching
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.weights import new_head
from flaxnets.models.classifier import HEAD, num_features
from flaxnets.nn import stem as stems
from flaxnets.nn.completion import EPSILON, LEAST_VARIANCE

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

INITS = ('zero', 'distinct', 'nearest')
STANDARDISE = ('data', 'network')

# Directions of less variance than this are not enlarged in full by 'distinct': they are mostly noise.
WHITENING = 0.01


def adapt(
  net: Network,
  channels: ChannelSet,
  statistics: Mapping[str, Any],
  *,
  map: Mapping[str, str] | None = None,
  sensor: str = '',
  init: str = 'zero',
  standardise: str = 'data',
  classes: Sequence[str] | None = None,
  dtype: str = 'float32',
  config: ml_collections.ConfigDict | None = None,
  canvas: tuple[int, int] | None = None,
) -> tuple[Network, Matching]:
  """A network for other channels, from a trained one.

  Args:
    net: the trained network, a `flaxnets.Network`, whose stem is a DynamicConv. It is not changed.
    channels: of the data, with wavelengths where they are known.
    statistics: 'mean', 'std', 'low', 'high' (C,) and 'correlation' (C, C) of the data, in the channels' order, as
      `flaxnets.channel_statistics` measures them; labels are not needed.
    map, sensor: see `flaxnets.inference.matching.match`.
    init: the kernels of new bands. 'zero': none, and channels that the data lack are predicted from all bands. With all
      of the network's channels in the data, its function of them is the same as before. 'distinct': the same, but
      predictions keep the correlation that the network knows between channels, so that two bands remain two.
      'nearest': each band, known or new, shares the kernel of the network's channel of the nearest wavelength; a kernel
      without a band is treated as by 'distinct'.
    standardise: 'data': every band by the statistics; standardised bands then have the mean 0 and the deviation 1 that
      the network was trained on. 'network': bands that it knows by its own statistics, for pixels on the same scale.
    classes: None to keep the head; otherwise names for a new one, initialised from the config's seed.
    dtype: NumPy's name for the type of the data's pixels.
    config: of the new network, with the fields of `net.config.model` and no train.subset or train.init_from; if None,
      that of `net` for images in arrays.
    canvas: height and width that images are squashed to first, see `Metadata`. If None, that of `config`'s data; images
      keep their size if `config` is None too.

  Returns:
    The network, without recalibrated statistics, and what was matched.

  Raises:
    InputError: where channels cannot be matched, wavelengths are needed and unknown, or an argument is not possible.
    ValueError: for statistics that `flaxnets.put_statistics` refuses.
  """
  for name, value, known in (('init', init, INITS), ('standardise', standardise, STANDARDISE)):
    if value not in known:
      raise InputError(f'{name}={value!r} (--{name}={value}) is not possible; choose one of {", ".join(known)}')
  if net.config.model.stem != 'dynamic':
    raise InputError("only networks with model.stem='dynamic' can be adapted; this one has 'conv'")
  matched = matching.match(net.channels, channels, map, sensor)
  measured = {name: np.array(value, np.float64) for name, value in statistics.items()}
  matrix = bank_matrix(net, channels, matched, measured['correlation'], init)
  bank = np.einsum('hwof,oc->hwcf', np.asarray(stems.bank(net.variables), np.float64), matrix)
  if standardise == 'network':
    own = stems.pixel_statistics(net.variables)
    for new, old in matched.partners.items():
      for name in ('mean', 'std'):
        measured[name][channels.index(new)] = own[name][net.channels.index(old)]

  in_arrays = config is None and canvas is None
  config = configs.from_json(configs.to_json(config or net.config))
  config.model = net.config.model.copy_and_resolve_references()
  config.train.init_from = config.train.subset = ''  # they are of the run that the network comes from
  if in_arrays:
    config.data.source = 'arrays'  # the canvas of the network's own data is not theirs
  low, high = (tuple(bound.tolist()) for bound in (measured['low'], measured['high']))
  names = net.classes if classes is None else tuple(str(name) for name in classes)
  metadata = Metadata(channels, names, dtype, low, high, canvas)
  variables = _variables(net, bank.astype(np.float32), measured)
  if classes is not None:
    variables['params'][HEAD] = new_head(num_features(net.variables), len(classes), config.seed)
  # Its class is not imported: `Network.adapt` imports this module.
  return type(net)(config, metadata, variables, step=0, ema=False), matched


def bank_matrix(
  net: Network, channels: ChannelSet, matched: Matching, correlation: np.ndarray, init: str
) -> np.ndarray:
  """The matrix A (C_old, C_new) that makes the network's channels of the data's.

  Args:
    net, channels, matched, init: see `adapt`.
    correlation: (C_new, C_new) of the data's channels.

  Raises:
    InputError: where a wavelength is needed and unknown.
  """
  if init == 'nearest':
    matrix = _nearest(net.channels, channels, matched)
    empty = np.flatnonzero(~matrix.any(1))
    if len(empty):  # kernels without a band
      matrix[empty] = bank_matrix(net, channels, matched, correlation, 'distinct')[empty]
    return matrix
  matrix = np.zeros((len(net.channels), len(channels)))
  for new, old in matched.partners.items():
    matrix[net.channels.index(old), channels.index(new)] = 1
  absent = [net.channels.index(name) for name in matched.absent]
  if absent:
    joint = _joint(net, channels, matched, correlation)
    count = len(channels)
    matrix[absent] = predictions(
      joint[:count, :count],
      joint[count:, :count],
      joint[count:, count:],
      'distinct' if init == 'distinct' else net.config.model.completion,
    )
  return matrix


def predictions(among: np.ndarray, across: np.ndarray, absent: np.ndarray, how: str) -> np.ndarray:
  """Weights (A, C) that predict absent channels from present ones; what is unknown stays at zero, the mean.

  Args:
    among: (C, C) correlation of the present channels.
    across: (A, C) of absent with present channels.
    absent: (A, A) of the absent channels.
    how: a completion of `flaxnets.nn.completion`, of which 'scale' counts as 'linear'; or 'distinct', the prediction of
      least squared error among those that have the correlation `absent`: the solution of an orthogonal Procrustes
      problem between whitened channels, P. Schoenemann, Psychometrika 31 (1966). With fewer present than absent
      channels, its rank is theirs.
  """
  if how == 'none':
    return np.zeros_like(across)
  if how == 'distinct':
    whiten, colour = _power(among + WHITENING * np.eye(len(among)), -0.5), _power(absent, 0.5)
    left, _, right = np.linalg.svd(colour @ across @ whiten, full_matrices=False)
    weights = colour @ left @ right @ whiten
  else:
    weights = np.linalg.solve(among + EPSILON * np.eye(len(among)), across.T).T
  if how in ('unit', 'distinct'):
    variance = np.einsum('as,st,at->a', weights, among, weights)
    weights = weights / np.sqrt(np.maximum(variance, LEAST_VARIANCE))[:, None]
  # Nothing is predicted from no correlation.
  return np.where(np.abs(across).max(1, keepdims=True, initial=0) > 1e-6, weights, 0)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
  """A power of a symmetric positive semidefinite matrix."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.maximum(values, 0 if exponent > 0 else 1e-12) ** exponent) @ vectors.T


def _joint(net: Network, channels: ChannelSet, matched: Matching, correlation: np.ndarray) -> np.ndarray:
  """The correlation of the data's channels and, behind them, the network's absent ones.

  Measured on the data, or known to the network, as far as that goes; what neither has seen together is predicted from
  wavelengths.
  """
  own = np.asarray(stems.correlation(net.variables), np.float64)
  old = [net.channels.index(matched.partners[name]) if name in matched.partners else None for name in channels.names]
  old += [net.channels.index(name) for name in matched.absent]
  size, count = len(old), len(channels)
  joint, known = np.eye(size), np.eye(size, dtype=bool)
  for row, one in enumerate(old):
    for column, other in enumerate(old):
      if one is not None and other is not None:
        joint[row, column], known[row, column] = own[one, other], True
  joint[:count, :count], known[:count, :count] = correlation, True
  if known.all():
    return spectral.semidefinite(joint)
  theirs, ours = matched.wavelengths
  wavelengths = [theirs[name] for name in channels.names] + [ours[name] for name in matched.absent]
  located = np.asarray([value is not None for value in wavelengths])
  # A band without a wavelength says nothing about channels that it was never seen with.
  known |= ~np.outer(located, located)
  if not (known & (joint != 0))[count:, :count].any() and not (located[:count].any() and located[count:].all()):
    missing = [name for name in (*channels.names, *matched.absent) if (theirs | ours)[name] is None]
    raise InputError(
      f'nothing says how {", ".join(matched.absent)} of the network and the channels of the data belong together: '
      f'{", ".join(missing)} has no known wavelength; give data.wavelengths, or map them (--map='
      f'{matched.absent[0]}:{channels.names[0]})'
    )
  return spectral.filled(joint, known, [value or 1000.0 for value in wavelengths], reference=reference())


def _nearest(network: ChannelSet, channels: ChannelSet, matched: Matching) -> np.ndarray:
  """The channels of the data in groups, one for each of the network's channels, each replaced by its group's mean."""
  theirs, ours = matched.wavelengths
  matrix = np.zeros((len(network), len(channels)))
  for index, name in enumerate(channels.names):
    if name in matched.partners:
      matrix[network.index(matched.partners[name]), index] = 1
      continue
    if theirs[name] is None or None in ours.values():
      unknown = name if theirs[name] is None else next(old for old in ours if ours[old] is None)
      raise InputError(
        f"init='nearest' (--init=nearest) needs the wavelength of {unknown}; give data.wavelengths, or map (--map)"
      )
    distances = [abs(np.log(theirs[name] / ours[old])) for old in network.names]  # type: ignore[operator]
    matrix[int(np.argmin(distances)), index] = 1
  return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


def _variables(net: Network, bank: np.ndarray, statistics: Mapping[str, Any]) -> dict[str, Any]:
  """Copies of the network's variables with another bank and other statistics of channels."""
  variables = jax.tree.map(np.array, {name: net.variables[name] for name in ('params', 'batch_stats')})
  variables['params'][stems.STEM][stems.CONV]['kernel'] = bank
  count = bank.shape[2]
  shapes = {
    stems.STEM: {
      stems.STANDARDIZE: {'mean': np.zeros(count), 'std': np.ones(count)},
      stems.CONV: {'correlation': np.eye(count)},
    }
  }
  placed = stems.put_statistics({'channel_stats': jax.tree.map(np.float32, shapes)}, statistics)
  return {**variables, 'channel_stats': jax.device_get(placed['channel_stats'])}
