"""Runs compared on the same images."""

import numpy as np
import pytest

from flaxnets.analysis import comparison
from flaxnets.analysis.results import Hits
from flaxnets.errors import InputError

IDS = np.array([f'image{number}' for number in range(100)])
CLASSES = np.repeat(['sea', 'wood'], 50)


def hits(right, of=100):
  return (np.arange(of) < right).astype(float)


def test_regret_is_the_experts_accuracy_minus_ours_and_none_without_an_expert():
  ours = Hits(IDS, CLASSES, {'RG': hits(60), 'R': hits(40), 'G': hits(30)})
  experts = {'RG': Hits(IDS, CLASSES, {'RG': hits(55)}), 'R': Hits(IDS, CLASSES, {'R': hits(50)})}
  row = comparison.compared(ours, experts, Hits(IDS, CLASSES, {'RG': hits(50), 'R': hits(40), 'G': hits(40)}))
  assert row['regret'] == pytest.approx({'RG': -0.05, 'R': 0.1, 'G': None})
  assert row['mean_regret'] == pytest.approx(0.025) and row['max_regret'] == pytest.approx(0.1)
  assert row['regret_interval']['G'] is None and row['regret_interval']['R'][0] > 0
  assert row['difference'] == pytest.approx({'RG': 0.1, 'R': 0.0, 'G': -0.1}) and abs(row['mean_difference']) < 1e-9
  assert row['worst_subset'] == 'G' and row['mean_accuracy'] == pytest.approx(1.3 / 3)
  alone = comparison.compared(ours, {}, None)
  assert alone['mean_regret'] is alone['max_regret'] is alone['mean_difference_interval'] is None


def test_seeds_are_averaged_image_by_image_and_other_images_are_refused():
  mean = comparison.mean_of([Hits(IDS, CLASSES, {'R': hits(20), 'G': hits(1)}), Hits(IDS, CLASSES, {'R': hits(40)})])
  assert list(mean.hits) == ['R'] and mean.hits['R'].sum() == 30 and mean.hits['R'][30] == 0.5
  with pytest.raises(InputError, match='evaluated on different images'):
    comparison.mean_of([Hits(IDS, CLASSES, {'R': hits(20)}), Hits(IDS[::-1], CLASSES, {'R': hits(20)})])
  with pytest.raises(InputError, match='evaluated on no common subset; evaluate all on the same subsets'):
    comparison.mean_of([Hits(IDS, CLASSES, {'R': hits(20)}), Hits(IDS, CLASSES, {'G': hits(20)})])


def test_images_of_two_arrays_that_are_numbered_alike_are_told_apart_by_their_classes():
  numbers = np.array([str(number) for number in range(100)])
  one, other = Hits(numbers, CLASSES, {'R': hits(20)}), Hits(numbers, CLASSES[::-1], {'R': hits(20)})
  with pytest.raises(InputError, match=r'different images \(0 of class sea ... and 0 of class wood ...\) cannot'):
    comparison.compared(one, {}, other)


def test_an_expert_counts_for_the_subset_that_it_was_trained_on_and_for_no_other():
  pair = Hits(IDS, CLASSES, {'RG': hits(60), 'R': hits(10)}, 'RG')
  singles = [Hits(IDS, CLASSES, {'R': hits(count)}, 'R') for count in (40, 50)]
  other = Hits(IDS, CLASSES, {'R': hits(1)}, 'RG')  # not evaluated on its own subset
  found = comparison.experts_by_network([('small', pair), *(('small', each) for each in singles), ('large', other)])
  assert set(found) == {'small'} and set(found['small']) == {'RG', 'R'}
  assert found['small']['R'].hits['R'].sum() == 45
