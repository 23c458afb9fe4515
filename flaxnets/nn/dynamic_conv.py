"""DynamicConv: a convolution for any subset of its input channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxnets.nn import completion as completions

# The scope of the work that completes kernels or inputs; `flaxnets.models.cost` counts it apart.
MIXING = 'mixing'

UNMEASURED = (
  'completion={!r} needs the correlation of the channels, which was not measured: call variables = '
  'flaxnets.put_statistics(variables, flaxnets.channel_statistics(images)), or choose '
  "completion='none'"
)


class DynamicConv(nn.Module):
  """A convolution for any subset of its input channels; with all of them it is `nn.Conv`, without a bias by default.

  The layer keeps one kernel per channel, the bank W (height, width, C, features). On a subset S of m channels it
  convolves with the kernel `einsum('hwcf,cs->hwsf', W, M_S)`, where M_S (C, m) has an identity row for each present
  channel and, for each absent one, the weights that predict it from the present ones:
  P_S = R[absent, S] (R[S, S] + 1e-3 I)^-1, R the correlation of the channels. See `flaxnets.nn.completion`.

  The work per pixel is that of an ordinary convolution with m inputs. Called with a mask of the channels that each
  example has, the layer completes the input instead of the kernel: the same function, for training. "Dynamic" means
  that the kernel depends on which channels are present, not on their content as in CondConv.

  The input must be standardised (zero mean, unit deviation per channel; see `flaxnets.Standardize`), so that zero
  padding means "average".

  Source: the prediction is the conditional mean of a Gaussian, C. E. Rasmussen and C. K. I. Williams, Gaussian
  Processes for Machine Learning, MIT Press 2006, appendix A.2. Completing before a linear layer and folding the
  completion into its weights are equal.

  Example:
    >>> import flaxnets
    >>> images = jax.random.normal(jax.random.key(0), (8, 32, 32, 13))
    >>> layer = DynamicConv(64, (7, 7), num_channels=13, strides=2)
    >>> variables = layer.init(jax.random.key(1), images)
    >>> variables = flaxnets.put_statistics(variables, flaxnets.channel_statistics(images))
    >>> layer.apply(variables, images).shape
    (8, 16, 16, 64)
    >>> layer.apply(variables, images[..., [1, 2, 7]], subset=(1, 2, 7)).shape
    (8, 16, 16, 64)
    >>> present = jax.random.bernoulli(jax.random.key(2), 0.5, (8, 13))
    >>> layer.apply(variables, images, present=present).shape
    (8, 16, 16, 64)

  Attributes:
    features: output channels.
    kernel_size: (height, width) of the kernel; an int for both.
    num_channels: C, the size of the channel set.
    strides, padding, kernel_dilation, dtype, param_dtype, precision, kernel_init: as in `nn.Conv`.
    conv_general_dilated: what computes the convolution, as in `nn.Conv`.
    use_bias: as in `nn.Conv`, but False by default.
    completion: what makes up for absent channels: 'none' (nothing), 'scale' (the present kernels times C / m),
      'linear' (the prediction above) or 'unit' (the same, rescaled to unit variance: for a network that was trained on
      all channels; see docs/dynamic_conv.md).

  Variables: params/kernel (height, width, C, features), params/bias if asked for, and channel_stats/correlation
  (C, C), infinite until measured values are stored with `flaxnets.put_statistics`. Only 'linear' and 'unit' read the
  correlation, and only when called with a mask or on fewer than C channels. Such a call raises ValueError if it
  can see that nothing was measured. Inside `jax.jit`, with the variables as traced arguments, it can't see that, and
  all outputs of the layer are NaN. Later layers may hide them, as XLA on CPUs may compute relu(NaN) as 0.
  """

  features: int
  kernel_size: int | Sequence[int]
  num_channels: int
  strides: int | Sequence[int] = 1
  padding: Any = 'SAME'
  kernel_dilation: int | Sequence[int] = 1
  use_bias: bool = False
  completion: str = 'linear'
  dtype: Any = None
  param_dtype: Any = jnp.float32
  precision: Any = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  conv_general_dilated: Callable[..., jax.Array] | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, subset: tuple[int, ...] | None = None, present: jax.Array | None = None
  ) -> jax.Array:
    """Convolves.

    Args:
      x: (b, height, width, m), the subset's channels in the set's order; m = C without a subset.
      subset: sorted indices of the channels in x, static; None for all.
      present: (b, C) bool, the channels that each example of a full x really has; what x holds for the others may be
        anything, NaN too. Not together with a subset.

    Returns:
      (b, height', width', features).

    Raises:
      ValueError: for a kernel that isn't 2-D, an unknown completion, a subset that isn't sorted, unique and in range,
        an x that doesn't fit it, a mask that isn't a bool array of its shape, a subset and a mask at once, or 'linear'
        or 'unit' without a measured correlation where it is needed.
    """
    completions.check_completion(self.completion)
    subset = check_subset(x, self.num_channels, subset, present)
    kernel_size = (self.kernel_size,) * 2 if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
    if len(kernel_size) != 2:
      raise ValueError(f'kernel_size is {kernel_size}; images have two axes, so it must be (height, width)')
    bank = self.param('kernel', self.kernel_init, (*kernel_size, self.num_channels, self.features), self.param_dtype)
    correlation = self._correlation(needed=present is not None or len(subset) < self.num_channels)

    if present is not None:
      with jax.named_scope(MIXING):
        x = jnp.where(present[:, None, None, :], x, 0)  # NaN in absent planes must not reach the arithmetic
        x = complete(x, completions.presence_mixing(self.completion, present, correlation))
    else:
      bank = subset_kernel(bank, self.completion, subset, correlation)

    weights = {'kernel': bank}
    if self.use_bias:
      weights['bias'] = self.param('bias', nn.initializers.zeros, (self.features,), self.param_dtype)
    convolution = nn.Conv(
      self.features,
      kernel_size,
      self.strides,
      self.padding,
      kernel_dilation=self.kernel_dilation,
      use_bias=self.use_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      precision=self.precision,
      conv_general_dilated=self.conv_general_dilated,
      parent=None,
    )
    # Flax's `apply` returns a pair only with mutable=, which its annotation does not distinguish.
    return convolution.apply({'params': weights}, x)  # type: ignore[return-value]

  def _correlation(self, needed: bool) -> jax.Array:
    """The correlation (C, C); ValueError if a call needs it and it is seen not to have been measured."""
    # Infinity marks what was not measured: NaN would stop `init` under jax_debug_nans.
    shape = (self.num_channels, self.num_channels)
    if self.is_initializing():
      self.variable('channel_stats', 'correlation', jnp.full, shape, jnp.inf)
      return jnp.eye(self.num_channels)  # so that `init_with_output` returns numbers
    correlation = self.get_variable('channel_stats', 'correlation', jnp.full(shape, jnp.inf))
    readable = not isinstance(correlation, jax.core.Tracer)
    predicts = self.completion in completions.PREDICTING
    if needed and predicts and readable and not np.isfinite(jax.device_get(correlation)).all():
      raise ValueError(UNMEASURED.format(self.completion))
    return correlation


def subset_kernel(bank: jax.Array, completion: str, subset: tuple[int, ...], correlation: jax.Array) -> jax.Array:
  """The kernel (height, width, m, features) that a bank (height, width, C, features) becomes on a subset of m.

  It is computed in float32, in float64 for a bank in float64, and has the bank's type.
  """
  if len(subset) == bank.shape[2]:
    return bank
  with jax.named_scope(MIXING):
    mix = completions.mixing(completion, subset, correlation)
    wide = bank.astype(jnp.result_type(bank, jnp.float32))
    return jnp.einsum('hwcf,cs->hwsf', wide, mix, precision='highest').astype(bank.dtype)


def complete(x: jax.Array, mix: jax.Array) -> jax.Array:
  """Applies a per-example mixing (b, C, C) to the channels of x (b, height, width, C), in full float32 or float64.

  The result has the type of x, unless that is an integer: predictions are fractions.
  """
  completed = jnp.einsum('bhwd,bcd->bhwc', x.astype(jnp.result_type(x, jnp.float32)), mix, precision='highest')
  return completed.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else completed


def check_subset(
  x: jax.Array, num_channels: int, subset: tuple[int, ...] | None, present: jax.Array | None
) -> tuple[int, ...]:
  """The subset that x holds, all channels for None; ValueError where x, subset and mask contradict each other."""
  if present is not None:
    if subset is not None:
      raise ValueError('give a subset or a mask of present channels, not both')
    completions.check_mask(present)
    if present.shape != (x.shape[0], num_channels):
      raise ValueError(f'the mask of present channels is {present.shape}; {(x.shape[0], num_channels)} was expected')
  subset = tuple(range(num_channels)) if subset is None else tuple(subset)
  completions.check_indices(subset, num_channels)
  if x.shape[-1] != len(subset):
    raise ValueError(f'the input has {x.shape[-1]} channels and the subset {subset} has {len(subset)}')
  return subset
