"""A trained network in Python: `net = flaxnets.load(DIR)`, then `net.predict(images, channels='RG')`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from flaxnets import experiment
from flaxnets.augment import pipeline
from flaxnets.channels import ChannelSet, Subset
from flaxnets.errors import InputError
from flaxnets.inference.metadata import Metadata
from flaxnets.nn.blocks import GlobalAveragePool
from flaxnets.nn.dynamic_conv import subset_kernel

BATCH = 256
ENCODED = ('lists', 'folders', 'tfds')  # sources whose images are squashed to a canvas before the network's view
# Images whose values are this many times below or above those that training saw are on another scale: 0..1 for 0..255,
# say, or reflectance for digital numbers. Nothing within a factor of twenty is called wrong.
MAX_SCALE = 20.0


class Network:
  """A trained network with what it knows.

  Attributes:
    config: the run's whole config.
    channels: the channel set.
    classes: class names in the order of the logits.
    variables: 'params', 'batch_stats' and 'channel_stats', nested dicts of NumPy arrays.
    step: the training step that they are from.
    ema: whether they are running averages.
    recalibrated: for the subsets that have some of their own, the 'batch_stats' to use in place of the variables';
      see `flaxnets.evaluation.recalibrate`.
    model: the Linen module.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Metadata,
    variables: dict[str, Any],
    step: int,
    ema: bool,
    recalibrated: Mapping[Subset, Any] | None = None,
  ):
    self.config, self.metadata, self.variables, self.step, self.ema = config, metadata, variables, step, ema
    self.recalibrated: dict[Subset, Any] = dict(recalibrated or {})
    self.channels: ChannelSet = metadata.channels
    self.classes: tuple[str, ...] = metadata.classes
    self.model: nn.Module = experiment.build_network(config, self.channels, len(self.classes))

  def predict(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The likeliest class of each image, (n,) int; see `logits`."""
    return self.logits(images, channels).argmax(axis=-1)

  def logits(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The network's (n, K) float32 logits.

    Args:
      images: (n, height, width, m) raw pixels on the scale of the training data, resized and cropped as in
        evaluation. A plane of nothing but NaN is a channel that this image lacks. Of any size if the network was
        trained on image files, else up to 16 times the size of its input.
      channels: names of the m channels in the order in which they stand in the images, 'RG' or ['B02', 'B08'];
        None for all in the set's own order.

    Raises:
      InputError: for names that are unknown or given twice, another number of channels than names, a scale that
        can't be meant, other pixels that are not finite, or an image without any channel.
    """
    return self._apply(images, channels)[0]

  def features(self, images: np.ndarray, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """What the last layer sees, (n, features) float32: the globally pooled map. Arguments as for `logits`."""
    return self._apply(images, channels)[1]

  def kernels(self, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The first layer's kernel on a subset, (height, width, m, features), the channels in the set's order."""
    subset = self.channels.full if channels is None else self.channels.subset(channels)
    return first_kernel(self.model, self.variables, subset)

  @property
  def fill(self) -> np.ndarray:
    """What lies outside an image, (C,) raw pixel values: the channels' means."""
    return np.asarray(self.variables['channel_stats']['stem']['standardize']['mean'])

  def variables_of(self, subset: Subset) -> dict[str, Any]:
    """The variables that a subset is judged with: the network's, or with the statistics that are its own."""
    return {**self.variables, 'batch_stats': self.recalibrated.get(subset, self.variables['batch_stats'])}

  def _apply(self, images: np.ndarray, channels: str | Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(images)
    order = self.channels.full if channels is None else self.channels.order(channels)
    if images.ndim != 4 or images.shape[-1] != len(order):
      raise InputError(
        f'images are (n, height, width, {len(order)}) for the channels {self.channels.label(order)}, '
        f'but these are {images.shape}'
      )
    subset, size = tuple(sorted(order)), images.shape[1:3]
    if subset != tuple(order):
      images = images[..., np.argsort(order)]
    images, present = self._present(images, subset)
    self.check_scale(images, subset, present)
    variables = self.variables_of(subset)
    # Rows of equal number, whatever the images: one compilation for each subset and image size.
    parts = []
    for start in range(0, len(images), BATCH):
      part = self._canvases(images[start : start + BATCH])
      rows = min(BATCH, 1 << max(len(part) - 1, 0).bit_length())
      padding = (0, rows - len(part))
      padded = np.pad(part, [padding] + [(0, 0)] * 3)
      mask = None if present is None else np.pad(present[start : start + BATCH], [padding, (0, 0)])
      outputs = self._compiled(variables, padded, np.asarray(size), mask, subset)
      parts.append([np.asarray(output)[: len(part)] for output in outputs])
    if not parts:
      return np.zeros((0, len(self.classes)), np.float32), np.zeros((0, 0), np.float32)
    logits, features = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return logits, features

  @functools.cached_property
  def _compiled(self):
    image_size, resize = self.config.image_size, self.config.augment.evaluation_resize

    def run(variables, images, size, present, subset: Subset):
      sizes, places = jnp.broadcast_to(size, (images.shape[0], 2)), jnp.asarray(subset)
      fill = variables['channel_stats']['stem']['standardize']['mean'][places]
      images = pipeline.evaluation_images(images, sizes, image_size=image_size, resize=resize, fill=fill)
      if present is None:
        given = {'subset': subset}
      else:
        images = jnp.zeros((*images.shape[:3], len(self.channels)), images.dtype).at[..., places].set(images)
        given = {'present': jnp.zeros((len(images), len(self.channels)), bool).at[:, places].set(present)}
      logits, kept = self.model.apply(
        variables,
        images,
        **given,
        mutable=['intermediates'],
        capture_intermediates=lambda module, _: isinstance(module, GlobalAveragePool) and module.path[0] == 'head',
      )
      return logits, kept['intermediates']['head']['pool']['__call__'][0]

    return jax.jit(run, static_argnames='subset')

  def _present(self, images: np.ndarray, subset: Subset) -> tuple[np.ndarray, np.ndarray | None]:
    """The images with zeros in the place of absent planes, and the (n, m) mask of those present; None for all."""
    if images.dtype.kind != 'f' or np.isfinite(images).all():
      return images, None
    present = ~np.isnan(images).all(axis=(1, 2))
    images = np.where(present[:, np.newaxis, np.newaxis], images, 0)
    wrong = ~np.isfinite(images).all(axis=(1, 2))
    if wrong.any():
      image, plane = np.argwhere(wrong)[0]
      raise InputError(
        f'image {image} has NaN or infinite pixels in channel {self.channels.names[subset[plane]]}; '
        'a channel is NaN throughout, where it is absent, or not at all'
      )
    if not present.any(axis=1).all():
      raise InputError(f'image {present.any(axis=1).argmin()} has none of the channels {self.channels.label(subset)}')
    return images, present

  def _canvases(self, images: np.ndarray) -> np.ndarray:
    """What evaluation would hand over for these images: squashed as image files are, all others as they are."""
    if self.config.data.source not in ENCODED or not images.size:
      return images
    from flaxnets.data.decode import squash  # OpenCV and its like take a while to import, and not everybody needs them

    side = experiment.canvas_side(self.config)
    images = images if images.dtype == np.uint8 else images.astype(np.float32)
    canvases = np.empty((len(images), side, side, images.shape[3]), images.dtype)
    for image, canvas in zip(images, canvases, strict=True):
      squash(np.ascontiguousarray(image), canvas)
    return canvases

  def check_scale(self, images: np.ndarray, subset: Sequence[int], present: np.ndarray | None = None) -> None:
    """Raises InputError for pixels on another scale than the training data's.

    Args:
      images: (n, height, width, m), zeros in the place of absent planes.
      subset: the network's channels that the m planes are.
      present: (n, m) bool, the planes that count; None for all.
    """
    if str(images.dtype) == self.metadata.dtype and images.dtype.kind in 'iu':
      return  # the same integers: a dark scene, and not 0..1
    planes = np.moveaxis(images, 3, 1)
    planes = planes.reshape(-1, *images.shape[1:3]) if present is None else planes[present]
    if not planes.size:
      return
    highest = float(np.abs(planes).max())
    typical = math.sqrt(np.square(planes, dtype=np.float64).mean())
    low, high = (np.asarray(bounds)[list(subset)] for bounds in (self.metadata.low, self.metadata.high))
    seen = float(np.max(np.abs([low, high])))
    statistics = self.variables['channel_stats']['stem']['standardize']
    mean, deviation = (np.asarray(statistics[name], np.float64)[list(subset)] for name in ('mean', 'std'))
    usual = math.sqrt(np.mean(mean**2 + deviation**2))
    # A dark image has a low maximum, where training saw bright clouds: too low is what is so on the whole as well.
    if highest > MAX_SCALE * seen or (0 < highest < seen / MAX_SCALE and typical < usual / MAX_SCALE):
      raise InputError(
        f'these images reach {highest:.4g}, but the network was trained on {low.min():.4g} to '
        f'{high.max():.4g}; give raw pixels on that scale'
      )


def first_kernel(model: nn.Module, variables: dict[str, Any], subset: Subset) -> np.ndarray:
  """The kernel that a network's first layer uses on a subset, (height, width, m, features) float32."""
  bank = variables['params']['stem']['conv']['kernel']
  if model.stem != 'dynamic':
    return np.asarray(bank)[:, :, list(subset)]
  correlation = jnp.asarray(variables['channel_stats']['stem']['conv']['correlation'])
  return np.asarray(subset_kernel(jnp.asarray(bank), model.completion, subset, correlation))
