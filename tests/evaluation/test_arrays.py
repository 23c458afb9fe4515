"""`flaxnets.evaluate` takes what `net.predict` takes."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxnets
from flaxnets.errors import InputError
from tests.networks import untrained


def test_arrays_of_any_real_numbers_are_evaluated_as_they_are_predicted():
  net, images = untrained(small=True), np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)
  for given in (images, images.astype('>u2'), jnp.asarray(images, jnp.bfloat16)):
    (row,) = flaxnets.evaluate(net, given, net.predict(given), 'RGB')
    assert row['accuracy'] == 1


@pytest.mark.parametrize(
  ('shape', 'labels', 'said'),
  [
    ((2, 20, 24), [0, 1], r'images are \(n, height, width, 3\) for the channels RGB, but these are \(2, 20, 24\)'),
    ((2, 20, 24, 3), [[0], [1, 2]], 'labels have rows of several lengths; give one integer for each image'),
  ],
)
def test_arrays_of_another_form_are_errors_of_one_line(shape, labels, said):
  with pytest.raises(InputError, match=said):
    flaxnets.evaluate(untrained(small=True), np.zeros(shape, np.uint8), labels)
