"""What happens to a batch between the host's canvases and the network, in order. All of it runs on the device.

Training: channel order, geometry (one homography, one resampling), brightness, contrast and noise, mixing with another
example, which channels stay.
Evaluation: channel order, the evaluation view, the same resampling.

A new step of training is a function in a module of this package and a line in `training_view`. Its options are its
keyword arguments, which take the values of the fields of `config.augment` with the same names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from flaxnets.augment import geometry, mixing, photometric, presence
from flaxnets.augment.warp import subsamples_for, warp
from flaxnets.channels import Subset

Batch = Mapping[str, jax.Array]
View = Callable[[jax.Array, Batch], tuple[jax.Array, jax.Array]]
Targets = Callable[[jax.Array, Batch], jax.Array]


def training_view(
  *,
  seed: int,
  source_index: Sequence[int],
  canvas: tuple[int, int],
  image_size: int,
  statistics: Mapping[str, np.ndarray],
  augmentation: Mapping[str, Any],
  presence_mode: str,
  presence_probability: float,
  presence_fill: str,
  presence_subsets: Sequence[Subset] = (),
) -> View:
  """The function that turns a batch's canvases into what the network sees in training.

  Args:
    seed: seed of all draws. A draw depends on the seed, the step and the position in the batch, and on nothing else.
    source_index: index of each of the network's channels in the source.
    canvas: height and width of the batch's images, pixels.
    image_size: side of the network's input, pixels.
    statistics: 'mean' and 'std' (C,) of the network's channels, raw pixel values. Outside the image there is the mean.
    augmentation: options by name, as in `config.augment`: the keyword arguments of the functions that are called below.
    presence_mode, presence_probability, presence_fill, presence_subsets: see `flaxnets.augment.presence`.

  Returns:
    A function of (step, batch) giving raw images (B, S, S, C) and a mask of their present channels for each pass of
    the network, (B, P, C).
  """
  subsamples = subsamples_for(canvas, image_size, **_options_of(subsamples_for, augmentation))

  def view(step: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    key = _step_key(seed, step)
    key_view, key_presence, key_fill = jax.random.split(key, 3)
    matrices = geometry.training_homographies(
      key_view,
      batch['size'],
      canvas=canvas,
      image_size=image_size,
      **_options_of(geometry.training_homographies, augmentation),
    )
    images = in_order(batch['image'], source_index)
    images = warp(images, matrices, image_size, fill=statistics['mean'], subsamples=subsamples)
    images = photometric.jitter(key, images, statistics['std'], **_options_of(photometric.jitter, augmentation))
    present = in_order(batch['present'], source_index)
    images = mixing.mix_images(key, images, present, **_options_of(mixing.mix_images, augmentation))
    shape = present.shape[0], present.shape[1]
    kept = presence.sample_channels(
      key_presence, presence_mode, shape, probability=presence_probability, subsets=presence_subsets
    )
    return presence.drop_channels(key_fill, images, kept, present, fill=presence_fill)

  return view


def training_targets(
  *,
  seed: int,
  source_index: Sequence[int],
  image_size: int,
  num_classes: int,
  augmentation: Mapping[str, Any],
) -> Targets | None:
  """The function that gives the soft labels of what `training_view` makes of a batch, for the same arguments.

  Returns:
    A function of (step, batch) giving (B, num_classes) float32, or None if no examples are mixed: then the labels of
    the batch hold.
  """
  options = _options_of(mixing.mix_labels, augmentation)
  if not mixing.enabled(**options):
    return None

  def targets(step: jax.Array, batch: Batch) -> jax.Array:
    present = in_order(batch['present'], source_index)
    return mixing.mix_labels(
      _step_key(seed, step), batch['label'], present, num_classes=num_classes, image_size=image_size, **options
    )

  return targets


def _step_key(seed: int, step: jax.Array) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), step)


def _options_of(function: Callable[..., Any], augmentation: Mapping[str, Any]) -> dict[str, Any]:
  """Those of the options that are arguments of a function."""
  return {name: augmentation[name] for name in inspect.signature(function).parameters if name in augmentation}


def evaluation_images(
  images: jax.Array | np.ndarray, size: jax.Array | np.ndarray, *, image_size: int, resize: float, fill: ArrayLike
) -> jax.Array:
  """The images (b, S, S, C) float32 that evaluation sees of canvases (b, H, W, C); see `warp`."""
  canvas = images.shape[1], images.shape[2]
  matrices = geometry.evaluation_homographies(size, canvas=canvas, image_size=image_size, resize=resize)
  return warp(images, matrices, image_size, fill=fill, subsamples=subsamples_for(canvas, image_size, resize=resize))


def in_order(planes: jax.Array, order: Sequence[int]) -> jax.Array:
  """The entries of the last axis in an order. The array itself if that is its order already: XLA would copy it."""
  return planes if tuple(order) == tuple(range(planes.shape[-1])) else planes[..., np.asarray(order)]
