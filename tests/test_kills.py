"""Runs killed with SIGKILL at any moment go on to the same bits. benchmarks/kill.py does the same with more kills."""

import pytest

from tests.kills import kill_runs

pytestmark = pytest.mark.slow


def test_runs_killed_at_ten_moments_end_with_the_same_bits_as_one_that_was_not_killed(tmp_path):
  tally = kill_runs(tmp_path, kills=10, seed=21)
  assert tally.wrong == []
  assert sum(tally.kills.values()) == 10 and len(tally.kills) >= 4  # phases
