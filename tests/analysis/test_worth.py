"""Shapley values, exact and sampled, the best subsets, and the result files that both are read from."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxnets.analysis import results, worth
from flaxnets.errors import InputError


def every_subset(channels):
  return [subset for size in range(channels + 1) for subset in itertools.combinations(range(channels), size)]


def random_table(channels, seed):
  return dict(zip(every_subset(channels), np.random.default_rng(seed).random(2**channels).tolist(), strict=True))


def averaged_over_every_order(accuracy, channels):
  gains = np.zeros(channels)
  orders = list(itertools.permutations(range(channels)))
  for order in orders:
    for place, channel in enumerate(order):
      gains[channel] += accuracy[tuple(sorted(order[: place + 1]))] - accuracy[tuple(sorted(order[:place]))]
  return gains / len(orders)


@settings(max_examples=30)
@given(channels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_exact_worths_are_gains_averaged_over_every_order_and_add_up_to_the_full_gain(channels, seed):
  accuracy = random_table(channels, seed)
  found = worth.shapley(accuracy, channels)
  np.testing.assert_allclose(found, averaged_over_every_order(accuracy, channels), atol=1e-12)
  assert found.sum() == pytest.approx(accuracy[tuple(range(channels))] - accuracy[()])


def test_ten_channels_that_add_their_own_share_are_worth_it():
  shares = np.arange(1, 11) / 100
  accuracy = {subset: 0.1 + shares[list(subset)].sum() for subset in every_subset(10)}
  np.testing.assert_allclose(worth.shapley(accuracy, 10), shares)


def test_redundant_channels_share_their_worth():
  accuracy = {subset: 0.5 if {0, 1} & set(subset) else 0.1 for subset in every_subset(3)}
  np.testing.assert_allclose(worth.shapley(accuracy, 3), [0.2, 0.2, 0], atol=1e-12)


@settings(max_examples=20)
@given(channels=st.integers(2, 7), seed=st.integers(0, 2**32 - 1), orders=st.integers(2, 9))
def test_sampled_worths_add_up_to_the_full_gain_and_ask_only_for_what_was_announced(channels, seed, orders):
  accuracy, asked = random_table(channels, seed), []

  def look_up(subset):
    asked.append(subset)
    return accuracy[subset]

  found, errors = worth.sampled_shapley(look_up, channels, orders=orders, seed=seed)
  assert found.sum() == pytest.approx(accuracy[tuple(range(channels))] - accuracy[()])
  assert (errors >= 0).all() and len(asked) == len(set(asked))
  assert set(asked) - {()} == set(worth._sampled_subsets(channels, orders, seed))


def test_sampled_worths_come_near_the_exact_ones_as_their_errors_say():
  accuracy = random_table(5, 1)
  exact = worth.shapley(accuracy, 5)
  many = [worth.sampled_shapley(accuracy.__getitem__, 5, orders=40, seed=seed) for seed in range(60)]
  standardised = np.array([(found - exact) / errors for found, errors in many])
  assert 0.8 < standardised.std() < 1.25 and abs(standardised.mean()) < 0.2


def test_the_best_subset_of_each_size_is_found_where_greedy_search_misses_it():
  accuracy = dict.fromkeys(every_subset(3), 0.2) | {(0,): 0.3, (0, 1): 0.4, (1, 2): 0.6, (0, 1, 2): 0.7}
  assert worth.best_subsets(accuracy) == [(0,), (1, 2), (0, 1, 2)]
  asked = []
  greedy = worth.greedy_subsets(lambda subset: asked.append(subset) or accuracy[subset], 3)
  assert greedy == [(0,), (0, 1), (0, 1, 2)] and len(asked) == 6


def write_scores(path, accuracies, channels=tuple('RGB')):
  confusion = np.diag([6, 3, 1]).tolist()
  path.write_text(
    json.dumps(
      {
        'channels': channels,
        'subsets': [
          {'channels': label, 'accuracy': value, 'confusion': confusion} for label, value in accuracies.items()
        ],
      }
    )
  )
  return path


def test_subsets_of_one_channel_are_read_by_the_names_that_the_network_knows(tmp_path):
  path = write_scores(tmp_path / 'test.json', {'B02': 0.4, 'B03': 0.5}, ['B02', 'B03', 'B08'])
  channels, accuracy = results.read_accuracies(path)
  assert channels.names == ('B02', 'B03', 'B08') and accuracy == {(): 0.6, (0,): 0.4, (1,): 0.5}


@pytest.mark.parametrize(
  'content', ['', '{}', '{"channels": ["R"], "subsets": []}', '{"channels": ["R"], "subsets": [{"channels": "R"}]}']
)
def test_another_file_is_refused(content, tmp_path):
  (tmp_path / 'test.json').write_text(content)
  with pytest.raises(InputError, match='is not a result file of flaxnets eval'):
    results.read_accuracies(tmp_path / 'test.json')


def test_more_channels_than_can_be_exact_and_a_single_order_are_refused():
  with pytest.raises(InputError, match='11 channels have 2,047 subsets'):
    worth.shapley({}, 11)
  with pytest.raises(InputError, match='give at least 2'):
    worth.sampled_shapley(len, 3, orders=1)
