"""A trained network in Python: `net = flaxnets.load(DIR)`, then `net.predict(images, channels='RG')`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from numpy.typing import ArrayLike

from flaxnets import experiment
from flaxnets.augment import pipeline
from flaxnets.channels import ChannelSet, Subset
from flaxnets.data.source import DTYPES
from flaxnets.errors import InputError
from flaxnets.inference import pixels, scale
from flaxnets.inference.failed_channels import FailedChannels, Look
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.predictor import BATCH, NOT_FINITE, Fetch, Predictor, begin_each, one_behind, softmax
from flaxnets.models.classifier import Classifier, num_features, outputs
from flaxnets.nn.stem import pixel_statistics

if TYPE_CHECKING:
  from flaxnets.inference.tiles import MapSummary

# How a failed channel is left out of images in one array, and of those in a list.
LEAVE_OUT = 'present=, channels= or a plane of NaN'
LEAVE_OUT_OF_LIST = 'channels=, or planes of NaN in its arrays'


class Network:
  """A trained network with its variables and metadata.

  Attributes:
    config: the run's complete config.
    metadata: channels, classes, and the range and canvas of the training pixels.
    channels: the channel set.
    classes: class names in the order of the logits.
    variables: 'params', 'batch_stats' and 'channel_stats', nested dicts of NumPy arrays. Each collection is sent to the
      device when it is first used, and stays there until another one takes its place in this dict.
    step: the training step of the variables.
    ema: whether the variables are running averages.
    recalibrated: 'batch_stats' for the subsets that have recalibrated ones, used in place of those in `variables`; see
      `flaxnets.evaluation.recalibrate`.
    recalibration: the settings that these were measured with; empty where none were loaded.
    switched: the completion that was chosen in place of the run's own; '' for its own.
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
    switched: str = '',
  ):
    self.config, self.metadata, self.variables, self.step, self.ema = config, metadata, variables, step, ema
    self.recalibrated: dict[Subset, Any] = dict(recalibrated or {})
    self.recalibration: dict[str, Any] = {}
    self.switched = switched
    self.channels: ChannelSet = metadata.channels
    self.classes: tuple[str, ...] = metadata.classes
    self.model: Classifier = experiment.build_network(config, self.channels, len(self.classes))
    self._sent: dict[Any, tuple[Any, Any]] = {}

  def __repr__(self) -> str:
    count, names = len(self.channels), self.channels.names
    channels = self.channels.label(self.channels.full) if count <= 16 else f'{count} from {names[0]} to {names[-1]}'
    parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables['params']))
    return (
      f'<Network {self.config.model.name}: channels {channels}, {len(self.classes):,} classes, step {self.step:,}, '
      f'{parameters:,} parameters>'
    )

  def __getstate__(self) -> dict[str, Any]:
    """What a pickle or a copy holds: all but compiled functions and arrays on devices, which belong to this process."""
    return {name: value for name, value in self.__dict__.items() if name != 'compiled'} | {'_sent': {}}

  def predict(
    self, images: Any, channels: str | Sequence[str] | None = None, *, present: ArrayLike | None = None
  ) -> np.ndarray:
    """The most likely class of each image, (n,) int; see `logits`."""
    return self.logits(images, channels, present=present).argmax(axis=-1)

  def logits(
    self, images: Any, channels: str | Sequence[str] | None = None, *, present: ArrayLike | None = None
  ) -> np.ndarray:
    """The network's (n, K) float32 logits.

    A warning names the first image with a plane of one value throughout, such as the zeros of a failed camera, that is
    not said to be absent.

    Args:
      images: (n, height, width, m) raw pixels on the scale of the training data; they are resized and cropped as in
        evaluation. A plane of NaN throughout is a channel that this image lacks. Any size if the network was trained
        on image files, else up to 16 times the size of the network's input. Or the path of an image file, a Pillow
        image, or a list of those and of arrays (height, width, m), in which sizes may be mixed.
      channels: names of the m channels in the images' order, 'RG' or ['B02', 'B08']; None for all channels in the
        set's order. In a file they are found by name, or are all that it holds.
      present: for images in one array, the channels that each image has, (n, m) bool in the images' order, or (m,) for
        all images; None for all that are not NaN throughout. What absent planes hold does not matter.

    Raises:
      InputError: for names that are unknown or repeated, another number of channels than names, pixels on another
        scale than the training data's, pixels that are no real numbers, single pixels that are not finite, an image
        without any channel, `present` of another shape or type or for a list, or logits that are not finite.
    """
    return self._apply(images, channels, present)

  def features(
    self, images: Any, channels: str | Sequence[str] | None = None, *, present: ArrayLike | None = None
  ) -> np.ndarray:
    """What the last layer sees, (n, features) float32: the globally pooled map. Arguments as for `logits`."""
    return self._apply(images, channels, present, 'features')

  def kernels(self, channels: str | Sequence[str] | None = None) -> np.ndarray:
    """The first layer's kernel on a subset, (height, width, m, features), the channels in the set's order."""
    subset = self.channels.full if channels is None else self.channels.subset(channels)
    return self.model.first_kernel(self.variables, subset)

  @property
  def fill(self) -> np.ndarray:
    """What lies outside an image, (C,) raw pixel values: the channels' means."""
    return np.asarray(pixel_statistics(self.variables)['mean'])

  def variables_of(self, subset: Subset) -> dict[str, Any]:
    """The variables that a subset is judged with: the network's, with recalibrated statistics if it has them."""
    return {**self.variables, 'batch_stats': self.recalibrated.get(subset, self.variables['batch_stats'])}

  def on_device(self, subset: Subset) -> dict[str, Any]:
    """`variables_of` a subset on the device. Each collection is sent once, and again only if it was replaced."""
    placed = {}
    for name, values in self.variables_of(subset).items():
      key = (name, subset) if name == 'batch_stats' and subset in self.recalibrated else name
      if key not in self._sent or self._sent[key][0] is not values:
        # XLA on CPUs may compute relu(NaN) as 0, so that the outputs of a network with NaN can be finite.
        leaves = jax.tree.leaves(jax.device_get(values))
        if name != 'channel_stats' and not all(np.isfinite(leaf).all() for leaf in leaves):
          raise InputError(NOT_FINITE)
        self._sent[key] = values, jax.device_put(values)
      placed[name] = self._sent[key][1]
    return placed

  def _apply(
    self, images: Any, channels: str | Sequence[str] | None, present: ArrayLike | None, output: str = 'logits'
  ) -> np.ndarray:
    """'logits', 'features' or 'attention' of images; arguments as for `logits`."""
    failed = FailedChannels(self.metadata)
    if hasattr(images, 'ndim'):
      begun, remedy = self.begin(images, channels, present, output=output, look=failed.look), LEAVE_OUT
    elif present is None:  # files, Pillow images, arrays of several sizes
      begun, remedy = begin_each(self, images, channels, output, look=failed.look), LEAVE_OUT_OF_LIST
    else:
      raise InputError(f'present= is for images in one array; in a list, leave channels out with {LEAVE_OUT_OF_LIST}')
    parts = list(one_behind(begun))
    failed.warn(remedy)
    return np.concatenate(parts) if parts else self._nothing(output)

  def begin(
    self,
    images: np.ndarray,
    channels: str | Sequence[str] | None,
    present: ArrayLike | None = None,
    *,
    output: str = 'logits',
    look: Look | None = None,
    first: int = 0,
    rows: int = 0,
  ) -> Iterator[Fetch]:
    """Checks an array of images and sends it to the device in batches; see `Predictor.begin` and `one_behind`.

    Args:
      images, channels, present: an array and its channels, as for `logits`.
      output: 'logits', 'features' or 'attention'.
      look: called with all images, zeros in place of absent planes, with the indices of the channels, and with the
        mask of present planes (n, m) or None for all.
      first: the number of the first image in messages.
      rows: what a smaller batch is padded to, at most BATCH; see `Predictor.begin`.
    """
    predictor = Predictor(self, channels)
    order = predictor.order
    images = pixels.numbers(images, self.channels, order)
    mask = None if present is None else pixels.presence(present, len(images), self.channels, order)
    images, mask = pixels.without_absent(images, self.channels, order, mask, first)
    self.check_scale(images, order, mask)
    if look is not None:
      look(images, order, mask)
    for start in range(0, len(images), BATCH):
      chosen = slice(start, start + BATCH)
      canvases = self._canvases(images[chosen])
      sizes = np.broadcast_to(images.shape[1:3], (len(canvases), 2))
      part = None if mask is None else mask[chosen]
      yield predictor.begin(canvases, sizes, min(rows, BATCH), part, check=False, output=output)

  def _nothing(self, output: str) -> np.ndarray:
    """An output of no images."""
    shrink = 1 if self.config.model.small_images else 4  # of the stem
    side = -(-self.config.image_size // shrink) if self.shows_attention else 0
    shapes = {'logits': (len(self.classes),), 'features': (num_features(self.variables),), 'attention': (side, side)}
    return np.zeros((0, *shapes[output]), np.float32)

  @functools.cached_property
  def compiled(self) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """The compiled function of variables, canvases (n, H, W, m), sizes (n, 2), present (n, m) or None, and the subset.

    It returns logits (n, K), features (n, features) and attention masks (n, h, w), the latter empty for a network
    without. It is compiled anew for each subset and shape, so that `Predictor` pads batches.
    """
    image_size, resize = self.config.image_size, self.config.augment.evaluation_resize

    def run(variables, images, sizes, present, subset: Subset):
      fill = pixel_statistics(variables)['mean'][jnp.asarray(subset)]
      images = pipeline.evaluation_images(images, sizes, image_size=image_size, resize=resize, fill=fill)
      logits, features, mask = outputs(self.model, variables, images, subset, present)
      return logits, features, jnp.zeros((len(images), 0, 0)) if mask is None else mask

    return jax.jit(run, static_argnames='subset')

  def _canvases(self, images: np.ndarray) -> np.ndarray:
    """The images as evaluation would receive them: squashed to the training images' canvas, if there is one."""
    canvas = self.canvas
    if canvas is None or not images.size:
      return images
    from flaxnets.data.decode import squash  # imports OpenCV, which takes a while and which arrays don't need

    images = images if images.dtype in DTYPES else images.astype(np.float32)
    canvases = np.empty((len(images), *canvas, images.shape[3]), images.dtype)
    for image, squashed in zip(images, canvases, strict=True):
      squash(np.ascontiguousarray(image), squashed)
    return canvases

  def check_scale(self, images: np.ndarray, subset: Sequence[int], present: np.ndarray | None = None) -> None:
    """Raises InputError for pixels on another scale than the training data's; see `flaxnets.inference.scale.check`."""
    scale.check(self.metadata, self.variables, images, subset, present)

  @property
  def canvas(self) -> tuple[int, int] | None:
    """(height, width) in pixels that images are squashed to before the network's view; None if they keep their size."""
    return self.metadata.canvas or experiment.canvas_of(self.config)

  @property
  def shows_attention(self) -> bool:
    """Whether the network has an attention mask over positions."""
    return getattr(self.model, 'mask', None) in ('spatial', 'self_attention')

  def probabilities(
    self, images: Any, channels: str | Sequence[str] | None = None, *, present: ArrayLike | None = None
  ) -> np.ndarray:
    """The softmax of the logits, (n, K) float32. Arguments as for `logits`."""
    return softmax(self.logits(images, channels, present=present))

  def attention(
    self, images: Any, channels: str | Sequence[str] | None = None, *, present: ArrayLike | None = None
  ) -> np.ndarray:
    """ResAttentionNet's mask, (n, h, w) float32 in 0..1, at the resolution behind the stem; see `logits`.

    Raises:
      InputError: for another network, or mask=squeeze_excite, which weighs features and not positions.
    """
    if not self.shows_attention:
      raise InputError(
        f'{self.config.model.name} has no attention over positions; model.name=resattention with '
        'model.mask=spatial or self_attention has'
      )
    return self._apply(images, channels, present, 'attention')

  def warm_up(self, subsets: str = 'full', batch_sizes: int | Sequence[int] = 1, **options) -> None:
    """Compiles for some subsets ahead of the first `predict`; see `flaxnets.inference.warm_up.warm_up`."""
    from flaxnets.inference.warm_up import warm_up  # loaded when used, as below: most programs need none of it

    warm_up(self, subsets, batch_sizes, **options)

  def predict_map(self, scene: str | os.PathLike[str], out: str | os.PathLike[str], **options) -> MapSummary:
    """Writes a class map of a georeferenced scene; see `flaxnets.inference.tiles.predict_map` for the options."""
    from flaxnets.inference.tiles import predict_map

    return predict_map(self, scene, out, **options)

  def adapt(self, channels: ChannelSet | str, statistics: Mapping[str, Any], **options) -> Network:
    """The network for other channels; see `flaxnets.inference.adapt.adapt` for the statistics and the options.

    Example:
      >>> import flaxnets
      >>> images = np.random.default_rng(0).integers(0, 4000, (8, 64, 64, 4))  # unlabelled images do
      >>> bands = flaxnets.ChannelSet.of('B02,B03,B04,B08')
      >>> net = flaxnets.load('runs/resnet18')  # doctest: +SKIP
      >>> net.adapt(bands, flaxnets.channel_statistics(images))  # doctest: +SKIP
    """
    from flaxnets.inference.adapt import adapt

    known = ChannelSet.of(channels) if isinstance(channels, str) else channels
    return adapt(self, known, statistics, **options)[0]

  def export(self, file: str | os.PathLike[str], subset: str = '', *, format: str = 'stablehlo', **options) -> dict:
    """Writes the network to a file for use without its run; see `flaxnets.inference.export.export`."""
    from flaxnets.inference.export import export

    return export(self, file, subset, format=format, **options)
