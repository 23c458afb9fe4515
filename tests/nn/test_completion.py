import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.nn.completion import COMPLETIONS, EPSILON, LEAST_VARIANCE, PREDICTING, mixing, presence_mixing


def random_correlation(seed: int, channels: int) -> np.ndarray:
  factors = np.random.default_rng(seed).normal(size=(channels, channels + 2))
  covariance = factors @ factors.T
  deviation = np.sqrt(np.diag(covariance))
  return covariance / np.outer(deviation, deviation)


cases = st.integers(1, 13).flatmap(
  lambda channels: st.tuples(
    st.just(channels), st.sets(st.integers(0, channels - 1), min_size=1), st.integers(0, 2**31)
  )
)


@settings(max_examples=40)
@given(cases, st.sampled_from(COMPLETIONS))
def test_the_static_and_the_masked_matrices_are_the_same(case, completion):
  channels, members, seed = case
  subset = tuple(sorted(members))
  correlation = jnp.asarray(random_correlation(seed, channels), jnp.float32)
  present = np.zeros((1, channels), bool)
  present[0, list(subset)] = True
  static = np.asarray(mixing(completion, subset, correlation))
  masked = np.asarray(presence_mixing(completion, jnp.asarray(present), correlation))[0]
  np.testing.assert_allclose(masked[:, list(subset)], static, rtol=1e-4, atol=1e-5)
  assert not masked[:, ~present[0]].any()


def spectrum(channels, *, mixtures, noise):
  """The correlation of channels that are mixtures of a few smooth spectra, with some noise: nearly of low rank."""
  rng, places = np.random.default_rng(0), np.arange(channels) / channels
  peaks = np.exp(-np.square((places - np.linspace(0, 1, mixtures)[:, None]) / 0.3)) * rng.uniform(0.5, 2, (mixtures, 1))
  pixels = rng.standard_normal((500, mixtures)) @ peaks + noise * rng.standard_normal((500, channels))
  return np.corrcoef(pixels.T)


def falling(channels, *, length, power):
  """The correlation of channels in a row, which falls with their distance."""
  distances = np.abs(np.subtract.outer(np.arange(channels), np.arange(channels))) / (length * channels)
  return np.exp(-(distances**power))


@pytest.mark.parametrize('channels', [32, 33, 65, 200])
@pytest.mark.parametrize(
  'correlation_of',
  [
    functools.partial(falling, length=0.25, power=1),
    functools.partial(falling, length=4, power=1),
    functools.partial(falling, length=1, power=2),
    functools.partial(spectrum, mixtures=5, noise=0.02),
    functools.partial(spectrum, mixtures=10, noise=0.3),
  ],
)
def test_many_channels_are_completed_as_a_solve_in_float64_completes_them(channels, correlation_of):
  correlation = correlation_of(channels).astype(np.float32)
  rng = np.random.default_rng(0)
  present = rng.random((5, channels)) < np.array([[0.02], [0.3], [0.5], [0.7], [0.98]])
  present[:, 0], present[:, -1] = True, False
  ours = np.asarray(presence_mixing('linear', jnp.asarray(present), jnp.asarray(correlation)))
  for row, matrix in zip(present, ours, strict=True):
    among = correlation[np.ix_(row, row)].astype(float)
    exact = np.linalg.solve(among + EPSILON * np.eye(row.sum()), correlation[np.ix_(row, ~row)]).T
    static = mixing('linear', tuple(np.flatnonzero(row).tolist()), jnp.asarray(correlation))
    for weights in matrix[np.ix_(~row, row)], np.asarray(static)[~row]:
      # Where channels are nearly of low rank, other weights predict the same: what must agree is the prediction.
      change = weights - exact
      assert np.sqrt(np.einsum('ps,st,pt->p', change, among, change).max()) < 2e-4  # of channels with deviation 1
    assert not matrix[:, ~row].any()


def test_what_is_no_correlation_gives_nan_for_a_mask_as_for_a_subset():
  indefinite = jnp.asarray([[1, 0.9, -0.9, 0.5], [0.9, 1, 0.9, 0.5], [-0.9, 0.9, 1, 0.5], [0.5, 0.5, 0.5, 1]])
  masked = presence_mixing('linear', jnp.asarray([[True, True, True, False]]), indefinite)
  assert np.isnan(masked[0, 3, :3]).all()
  assert np.isnan(mixing('linear', (0, 1, 2), indefinite)[3]).all()


def test_a_mask_of_numbers_is_refused():
  with pytest.raises(ValueError, match='the mask of present channels must be a bool array, but it is int32'):
    presence_mixing('none', jnp.asarray([[2, 0, 1]]), jnp.eye(3))


@settings(max_examples=25)
@given(cases)
def test_linear_is_the_best_linear_prediction_by_least_squares(case):
  channels, members, seed = case
  subset = sorted(members)
  absent = [index for index in range(channels) if index not in members]
  correlation = random_correlation(seed, channels)
  ours = np.asarray(mixing('linear', tuple(subset), jnp.asarray(correlation, jnp.float32)))
  # Ridge regression on any samples with exactly this covariance has the same weights.
  samples = np.linalg.cholesky(correlation + 1e-12 * np.eye(channels)).T * np.sqrt(channels)
  design = np.vstack([samples[:, subset], np.sqrt(EPSILON * channels) * np.eye(len(subset))])
  target = np.vstack([samples[:, absent], np.zeros((len(subset), len(absent)))])
  weights = np.linalg.lstsq(design, target, rcond=None)[0].T
  np.testing.assert_allclose(ours[subset], np.eye(len(subset)), atol=1e-6)
  np.testing.assert_allclose(ours[absent], weights, rtol=2e-3, atol=2e-4)


@settings(max_examples=10)
@given(cases)
def test_unit_is_linear_with_the_variance_of_a_real_channel_and_no_such_prediction_has_a_smaller_error(case):
  channels, members, seed = case
  subset = tuple(sorted(members))
  absent = [index for index in range(channels) if index not in members]
  correlation = random_correlation(seed, channels)
  linear, unit = (
    np.asarray(mixing(name, subset, jnp.asarray(correlation, jnp.float32)), np.float64) for name in PREDICTING
  )
  np.testing.assert_array_equal(unit[list(subset)], linear[list(subset)])
  linear, unit = linear[absent], unit[absent]
  among, shared = correlation[np.ix_(subset, subset)], correlation[np.ix_(absent, subset)]

  def variance(weights):
    return np.einsum('cs,st,ct->c', weights, among, weights)

  def error(weights):  # E (x_c - w x)^2
    return 1 - 2 * (weights * shared).sum(axis=1) + variance(weights)

  np.testing.assert_allclose(variance(unit), np.minimum(variance(linear) / LEAST_VARIANCE, 1), rtol=2e-3, atol=1e-4)
  others = unit + np.random.default_rng(seed).normal(size=(20, *unit.shape))
  for weights in others:
    weights /= np.sqrt(np.maximum(variance(weights), 1e-9))[:, None]
    assert (error(unit) <= error(weights) + 5e-3)[variance(unit) > 0.99].all()


@pytest.mark.parametrize('sign', [1, -1])
def test_unit_copies_a_single_channel_whatever_the_correlation(sign):
  correlation = jnp.asarray([[1, sign * 0.3, 0.9], [sign * 0.3, 1, 0.5], [0.9, 0.5, 1]])
  np.testing.assert_allclose(mixing('unit', (0,), correlation)[:, 0], [1, sign, 1], rtol=1e-5)


def test_unit_does_not_enlarge_what_is_hardly_correlated():
  correlation = jnp.asarray([[1, 1e-4], [1e-4, 1]])
  assert 0 < float(mixing('unit', (0,), correlation)[1, 0]) < 5e-3


@pytest.mark.parametrize('completion', PREDICTING)
def test_uncorrelated_channels_are_predicted_as_nothing(completion):
  for subset in itertools.combinations(range(4), 2):
    np.testing.assert_allclose(mixing(completion, subset, jnp.eye(4)), mixing('none', subset, jnp.eye(4)), atol=1e-7)


@pytest.mark.parametrize('completion', PREDICTING)
def test_perfect_correlation_gives_the_present_ones_the_mean_of_the_absent(completion):
  matrix = np.asarray(mixing(completion, (0, 2), jnp.ones((4, 4))))
  np.testing.assert_allclose(matrix[[1, 3]], 0.5, rtol=1e-3)


def test_scale_multiplies_by_all_over_present():
  np.testing.assert_allclose(mixing('scale', (1,), jnp.eye(3)), [[0], [3], [0]])


@pytest.mark.parametrize('completion', COMPLETIONS)
def test_an_example_without_any_channel_completes_to_zeros(completion):
  correlation = jnp.asarray(random_correlation(0, 3), jnp.float32)
  assert not np.asarray(presence_mixing(completion, jnp.zeros((1, 3), bool), correlation)).any()


@pytest.mark.parametrize('completion', PREDICTING)
def test_identical_channels_get_finite_weights(completion):
  correlation = jnp.ones((13, 13))
  matrix = np.asarray(mixing(completion, tuple(range(12)), correlation))
  assert np.abs(matrix).max() <= 1 + 1e-5
  np.testing.assert_allclose(matrix[12].sum(), 1, rtol=1e-3)


@pytest.mark.parametrize('completion', PREDICTING)
def test_the_masked_solve_is_differentiable_and_finite(completion):
  correlation = jnp.asarray(random_correlation(1, 5), jnp.float32)
  present = jnp.asarray(np.random.default_rng(0).random((8, 5)) < 0.5)
  gradient = jax.grad(lambda c: presence_mixing(completion, present, c).sum())(correlation)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  'call', [lambda c: mixing(c, (0,), jnp.eye(2)), lambda c: presence_mixing(c, jnp.ones((1, 2), bool), jnp.eye(2))]
)
def test_an_unknown_completion_is_an_error_and_not_another_one(call):
  with pytest.raises(ValueError, match="no completion 'mean'; there are none, scale, linear, unit"):
    call('mean')


@pytest.mark.parametrize('subset', [(0, 3), (1, 0), (1, 1), (-1, 0), ()])
def test_a_subset_that_the_channels_do_not_have_is_refused(subset):
  with pytest.raises(ValueError, match=r'is not a subset of 3 channels; give sorted, distinct indices from 0 to 2'):
    mixing('none', subset, jnp.eye(3))
