import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.nn.completion import COMPLETIONS, EPSILON, mixing, presence_mixing


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


@settings(max_examples=40, deadline=None)
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


@settings(max_examples=25, deadline=None)
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


def test_uncorrelated_channels_make_linear_the_same_as_none():
  for subset in itertools.combinations(range(4), 2):
    np.testing.assert_allclose(mixing('linear', subset, jnp.eye(4)), mixing('none', subset, jnp.eye(4)), atol=1e-7)


def test_perfect_correlation_gives_the_present_ones_the_mean_of_the_absent():
  matrix = np.asarray(mixing('linear', (0, 2), jnp.ones((4, 4))))
  np.testing.assert_allclose(matrix[[1, 3]], 0.5, rtol=1e-3)


def test_scale_multiplies_by_all_over_present():
  np.testing.assert_allclose(mixing('scale', (1,), jnp.eye(3)), [[0], [3], [0]])


@pytest.mark.parametrize('completion', COMPLETIONS)
def test_an_example_without_any_channel_completes_to_zeros(completion):
  correlation = jnp.asarray(random_correlation(0, 3), jnp.float32)
  assert not np.asarray(presence_mixing(completion, jnp.zeros((1, 3), bool), correlation)).any()


def test_identical_channels_get_finite_weights():
  correlation = jnp.ones((13, 13))
  matrix = np.asarray(mixing('linear', tuple(range(12)), correlation))
  assert np.abs(matrix).max() <= 1 + 1e-5
  np.testing.assert_allclose(matrix[12].sum(), 1, rtol=1e-3)


def test_the_masked_solve_is_differentiable_and_finite():
  correlation = jnp.asarray(random_correlation(1, 5), jnp.float32)
  present = jnp.asarray(np.random.default_rng(0).random((8, 5)) < 0.5)
  gradient = jax.grad(lambda c: presence_mixing('linear', present, c).sum())(correlation)
  assert np.isfinite(gradient).all()
