"""95 % intervals of paired differences; Wilson's is tested with the metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxnets.analysis.intervals import difference_interval


def test_the_interval_of_a_paired_difference_is_agresti_and_mins():
  # 10 images that only one gets right and 4 that only the other does, of 100: their formula on half a count more each.
  differences = np.array([1.0] * 10 + [-1.0] * 4 + [0.0] * 86)
  more, fewer, images = 10.5, 4.5, 102
  centre = (more - fewer) / images
  spread = 1.959964 * np.sqrt(more + fewer - (more - fewer) ** 2 / images) / images
  assert difference_interval(differences) == pytest.approx((centre - spread, centre + spread), abs=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_the_interval_of_a_difference_holds_its_mean_and_has_a_width(differences):
  low, high = difference_interval(np.array(differences))
  assert -1 <= low <= np.mean(differences) + 1e-9 and np.mean(differences) - 1e-9 <= high <= 1 and low < high


def test_intervals_of_paired_differences_cover_the_truth_about_19_times_in_20():
  random, covered = np.random.default_rng(0), []
  for _ in range(400):
    both = random.random(200) < 0.6
    ours = both ^ (random.random(200) < 0.1)
    theirs = both ^ (random.random(200) < 0.1)
    low, high = difference_interval(ours.astype(float) - theirs)
    covered.append(low <= 0 <= high)
  assert 0.92 < np.mean(covered) < 0.98
