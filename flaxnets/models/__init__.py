"""The networks by name."""

from __future__ import annotations

import functools

from flax import linen as nn

from flaxnets.errors import InputError
from flaxnets.models.resattention import ResAttentionNet
from flaxnets.models.resnet import ResNet
from flaxnets.nn.attention import MASKS
from flaxnets.nn.blocks import BasicBlock, Bottleneck
from flaxnets.nn.norms import NORMS
from flaxnets.nn.stem import check_stem

MODELS = {
  'resnet18': functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock, expansion=1),
  'resnet34': functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock, expansion=1),
  'resnet50': functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck, expansion=4),
  'resattention': ResAttentionNet,
}


def build(
  name: str,
  *,
  num_channels: int,
  num_classes: int,
  stem: str = 'dynamic',
  completion: str = 'linear',
  width: int = 64,
  small_images: bool = False,
  zero_init: bool = False,
  mask: str = 'spatial',
  norm: str = 'batch',
  dtype: str = 'float32',
) -> nn.Module:
  """A network from names and numbers, as a config holds them.

  Args:
    name: one of MODELS.
    num_channels: size of the channel set.
    num_classes: logits that come out.
    stem, completion, width, small_images: see `flaxnets.nn.stem.Stem`.
    zero_init: whether the last norm of every residual branch starts at zero.
    mask: for 'resattention', see `flaxnets.nn.attention.AttentionModule`; without meaning for others.
    norm: 'batch' or 'group'.
    dtype: of activations, 'float32' or 'bfloat16'.

  Returns:
    A module called with raw pixels (b, h, w, m) and `subset=`, `present=` and `train=`; logits (b, num_classes)
    in float32 come out.

  Raises:
    InputError: for a name that does not exist.
  """
  for what, given, there in (
    ('model', name, MODELS),
    ('mask', mask, MASKS),
    ('norm', norm, NORMS),
    ('dtype', dtype, ('float32', 'bfloat16')),
  ):
    if given not in there:
      raise InputError(f'no {what} {given!r}; there are {", ".join(there)}')
  try:
    check_stem(stem, completion)
  except ValueError as error:
    raise InputError(str(error)) from None
  if width < 8 or width % 8:
    raise InputError(f'a width of {width} is not possible; give a multiple of 8, such as 32 or 64')
  if num_classes < 1:
    raise InputError(f'a network of {num_classes} classes tells nothing; give 1 or more')
  special = {'mask': mask} if name == 'resattention' else {}
  return MODELS[name](
    num_channels=num_channels,
    num_classes=num_classes,
    stem=stem,
    completion=completion,
    width=width,
    small_images=small_images,
    zero_init=zero_init,
    norm=NORMS[norm],
    dtype=dtype,
    **special,
  )
