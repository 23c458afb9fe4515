"""Numbers with a noun."""

import pytest

from flaxnets.analysis.text import counted


@pytest.mark.parametrize(
  ('count', 'said'),
  [
    (0, '0 steps'),
    (1, '1 step'),
    (2000, '2,000 steps'),
    (1_234_567, '1,234,567 steps'),
    (1.5, '1.5 steps'),
    (60.0, '60 steps'),
  ],
)
def test_a_number_is_written_with_all_its_digits_and_its_noun(count, said):
  assert counted(count, 'step') == said
