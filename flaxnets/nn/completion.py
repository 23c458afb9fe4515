"""How absent channels are made up for, as matrices: the maths under DynamicConv.

A convolution is linear in its input, so predicting an absent channel from the present ones and then convolving is the
same as convolving the present ones with a changed kernel. Both forms are here: `mixing` gives the matrix that changes
the kernel of one static subset, `presence_mixing` the matrices that change the input of each example.

`linear` is the best linear prediction (minimum mean squared error) of standardised channels, also known as simple
Kriging or the conditional mean of a Gaussian: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for
Machine Learning, MIT Press 2006, appendix A.2.

`unit` is the same prediction rescaled to unit variance: the best linear prediction among those with the variance of a
real channel. A network that was trained on real channels expects that variance. See docs/dynamic_conv.md.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.linalg

COMPLETIONS = ('none', 'scale', 'linear', 'unit')
PREDICTING = ('linear', 'unit')  # those that need the correlation of the channels

# Added to the correlation's diagonal. It keeps the weights small where channels are nearly copies of each other; a
# perfectly correlated channel is predicted 0.1 % too small in return.
EPSILON = 1e-3

# `unit` enlarges predictions of a smaller variance than this 32 times, and no further: what they say about a channel is
# mostly noise of the measured correlation. It also keeps an uncorrelated channel at zero.
LEAST_VARIANCE = 1e-3

# Up to this size a batch of systems is eliminated step by step. Larger ones are halved, which takes fewer passes
# through memory.
LARGEST_BLOCK = 32


def mixing(completion: str, subset: tuple[int, ...], correlation: jax.Array) -> jax.Array:
  """The matrix M of one subset: the kernel of the present channels is `einsum('hwcf,cs->hwsf', bank, M)`.

  It works with the kernel of any library, if the input is standardised.

  Example:
    >>> correlation = jnp.asarray([[1.0, 0.8], [0.8, 1.0]])
    >>> [round(weight, 2) for weight in mixing('linear', (0,), correlation)[:, 0].tolist()]
    [1.0, 0.8]

  Args:
    completion: 'none', 'scale', 'linear' or 'unit'.
    subset: sorted indices of the m present channels, static.
    correlation: (C, C), of the standardised channels.

  Returns:
    (C, m) float32, or float64 for a correlation in float64. For 'linear' and 'unit', identity rows for present channels
    and prediction weights for absent ones.

  Raises:
    ValueError: for another completion, or a subset that isn't sorted, unique and in range.
  """
  check_completion(completion)
  count = correlation.shape[0]
  check_indices(subset, count)
  present = jnp.asarray(subset)
  correlation = correlation.astype(jnp.result_type(correlation, jnp.float32))
  dtype = correlation.dtype
  selection = jnp.zeros((count, len(subset)), dtype).at[present, jnp.arange(len(subset))].set(1.0)
  if completion == 'none':
    return selection
  if completion == 'scale':
    return selection * (count / len(subset))
  among = correlation[jnp.ix_(present, present)]
  prediction = _solve(among + EPSILON * jnp.eye(len(subset), dtype=dtype), correlation[present]).T
  if completion == 'unit':
    prediction = _unit_variance(prediction, among)
  is_present = selection.sum(axis=1, keepdims=True)
  return selection + (1.0 - is_present) * prediction


def presence_mixing(completion: str, present: jax.Array, correlation: jax.Array) -> jax.Array:
  """The same completion for a batch whose examples lack different channels, with no shape depending on them.

  Example:
    >>> correlation = jnp.asarray([[1.0, 0.8], [0.8, 1.0]])
    >>> present = jnp.asarray([[True, True], [True, False]])  # the second example lacks a channel
    >>> matrix = presence_mixing('linear', present, correlation)[1]
    >>> [[round(weight, 2) for weight in row] for row in matrix.tolist()]
    [[1.0, 0.0], [0.8, 0.0]]

  Args:
    completion: 'none', 'scale', 'linear' or 'unit'.
    present: (b, C) bool.
    correlation: (C, C), of the standardised channels.

  Returns:
    (b, C, C) float32, or float64 for a correlation in float64: the completed input is `einsum('bhwd,bcd->bhwc', x, A)`,
    for an x of any finite value where channels are absent. An example without any channel completes to zeros, the
    channel means.

  Raises:
    ValueError: for another completion, or a mask that isn't a bool array.
  """
  check_completion(completion)
  check_mask(present)
  count = correlation.shape[0]
  correlation = correlation.astype(jnp.result_type(correlation, jnp.float32))
  mask = present.astype(correlation.dtype)
  identity = jnp.eye(count, dtype=correlation.dtype)[None]
  selection = mask[:, :, None] * identity
  if completion == 'none':
    return selection
  if completion == 'scale':
    return selection * (count / jnp.maximum(mask.sum(axis=1), 1.0))[:, None, None]
  correlation = correlation[None]
  # The system of the present channels, and beside it ones on the diagonal of the absent: one shape for every mask.
  both = mask[:, :, None] * mask[:, None, :]
  among = both * correlation
  system = among + (EPSILON * mask + (1.0 - mask))[:, :, None] * identity
  prediction = jnp.swapaxes(_solve_batch(system, mask[:, :, None] * correlation), 1, 2)
  if completion == 'unit':
    prediction = _unit_variance(prediction, among)
  return selection + (1.0 - mask)[:, :, None] * prediction


def check_completion(completion: str) -> None:
  """Raises ValueError for an unknown completion, naming the known ones."""
  if completion not in COMPLETIONS:
    raise ValueError(f'no completion {completion!r}; there are {", ".join(COMPLETIONS)}')


def check_indices(subset: tuple[int, ...], num_channels: int) -> None:
  """Raises ValueError for a subset that isn't sorted, unique and in range."""
  if not subset or list(subset) != sorted(set(subset)) or subset[0] < 0 or subset[-1] >= num_channels:
    raise ValueError(
      f'{subset} is not a subset of {num_channels} channels; give sorted, distinct indices from 0 to {num_channels - 1}'
    )


def check_mask(present: jax.Array) -> None:
  """Raises ValueError for a mask of present channels that isn't a bool array: other numbers would be weights."""
  dtype = getattr(present, 'dtype', None)
  if dtype != jnp.bool_:
    kind = type(present).__name__ if dtype is None else dtype
    raise ValueError(f'the mask of present channels must be a bool array, but it is {kind}')


def _unit_variance(prediction: jax.Array, among: jax.Array) -> jax.Array:
  """Divides every row p of (..., C, m) by its prediction's deviation sqrt(p R p'), R (..., m, m) the correlation."""
  variance = jnp.einsum('...cs,...st,...ct->...c', prediction, among, prediction, precision='highest')
  return prediction * jax.lax.rsqrt(jnp.maximum(variance, LEAST_VARIANCE))[..., None]


def _solve(system: jax.Array, right: jax.Array) -> jax.Array:
  """A symmetric positive definite solve in full precision, whatever precision the network's products run at."""
  with jax.default_matmul_precision('highest'):
    factor = jax.scipy.linalg.cho_factor(system, lower=True)
    return jax.scipy.linalg.cho_solve(factor, right)


def _solve_batch(systems: jax.Array, right: jax.Array) -> jax.Array:
  """The same for (b, n, n) systems and (b, n, m) right sides, without LAPACK.

  LAPACK's batched calls in jaxlib 0.10 and 0.11 hang where the CPU is several devices, as it is in our programs: with
  systems of 64 channels and two devices, within ten calls. A single system does not hang; `_solve` leaves it to LAPACK.
  """
  with jax.default_matmul_precision('highest'):
    root = _inverse_root(systems)
    solution = root.mT @ (root @ right)
    return solution + root.mT @ (root @ (right - systems @ solution))  # one refinement, for many channels


def _inverse_root(systems: jax.Array) -> jax.Array:
  """W (b, n, n), lower triangular, with the inverse W' W: the inverses of the Cholesky factors, by halves.

  The inverse itself, by halves, would not do: with channels that are nearly copies of each other its rounding errors
  leave a complement that is not positive definite. Systems that are not positive definite themselves give NaN.
  """
  size = systems.shape[-1]
  if size <= LARGEST_BLOCK:
    upper, lower = jax.lax.fori_loop(
      0, size, _eliminate, (systems, jnp.zeros_like(systems) + jnp.eye(size, dtype=systems.dtype)[None])
    )
    return lower * jax.lax.rsqrt(jnp.diagonal(upper, axis1=1, axis2=2))[:, :, None]
  half = size // 2
  first = _inverse_root(systems[:, :half, :half])
  below = systems[:, half:, :half] @ first.mT
  second = _inverse_root(systems[:, half:, half:] - below @ below.mT)
  return jnp.block([[first, jnp.zeros_like(below.mT)], [-second @ below @ first, second]])


def _eliminate(index: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """One step of Gaussian elimination in a system, and the same row operations on what began as the identity."""
  system, operations = pair
  row = system[:, index, None, :]
  below = (jnp.arange(system.shape[-1]) > index)[None, :, None]
  factors = jnp.where(below, system[:, :, index, None] / row[:, :, index, None], 0.0)
  return system - factors * row, operations - factors * operations[:, index, None, :]
