import itertools
import json

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from flaxnets import models
from flaxnets.cli import main
from flaxnets.models import cost


def counted(name, image_size, subset=(0, 1, 2), **kwargs):
  return cost.macs(models.build(name, num_channels=3, num_classes=50, **kwargs), subset, image_size)['macs']


@pytest.mark.parametrize(
  ('name', 'image_size', 'subset', 'expected'),
  [
    ('resnet18', 96, (0, 1, 2), 333_585_408),
    ('resnet18', 96, (0, 2), 326_360_064),
    ('resnet18', 96, (1,), 319_134_720),
    ('resnet34', 84, (0, 1, 2), 612_876_800),
    ('resnet34', 96, (0, 1, 2), 673_554_432),
    ('resattention', 84, (0, 1, 2), 309_248_256),
  ],
)
def test_macs_are_the_papers_to_the_digit(name, image_size, subset, expected):
  assert counted(name, image_size, subset) == expected


def test_the_plain_stem_costs_the_same_and_gains_nothing_from_missing_channels():
  assert counted('resnet18', 96, stem='conv', completion='mean') == 333_585_408
  assert counted('resnet18', 96, (1,), stem='conv', completion='mean') == 333_585_408


def test_parameters_are_those_of_the_well_known_network():
  model = models.build('resnet50', num_channels=3, num_classes=1000)
  assert cost.parameters(cost.initial_shapes(model, 64)) == 25_557_032


def test_mixing_is_counted_apart():
  model = models.build('resnet18', num_channels=13, num_classes=10)
  full, one = cost.macs(model, tuple(range(13)), 64), cost.macs(model, (3,), 64)
  assert full['mixing_macs'] == 0
  assert one['mixing_macs'] == 7 * 7 * 13 * 64
  assert full['macs'] - one['macs'] == 12 * 7 * 7 * 32 * 32 * 64


def test_flops_fall_with_the_subset_and_are_about_two_a_mac():
  model = models.build('resnet18', num_channels=3, num_classes=50)
  full, one = (cost.flops(model, subset, 96) for subset in ((0, 1, 2), (0,)))
  assert one < full
  assert 1.5 < full / 333_585_408 < 2.0  # below two: XLA leaves the taps on padding out


@pytest.mark.parametrize('stem', [{}, {'stem': 'conv', 'completion': 'black'}])
def test_the_counts_of_many_subsets_are_those_of_each_and_the_network_is_initialised_once(stem, monkeypatch):
  model = models.build('resnet18', num_channels=4, num_classes=10, width=8, **stem)
  subsets = [subset for size in (4, 3, 2, 1) for subset in itertools.combinations(range(4), size)]
  expected = {
    subset: {**cost.macs(model, subset, 32), 'flops': cost.flops(model, subset, 32)}
    for subset in ((0, 1, 2, 3), (0, 1, 3), (0, 2), (2, 3), (1,), (3,))
  }
  initial_shapes, calls = cost.initial_shapes, []
  monkeypatch.setattr(cost, 'initial_shapes', lambda *args: calls.append(args) or initial_shapes(*args))
  found = cost.of_subsets(model, subsets, 32)
  assert len(calls) == 1 and list(found) == subsets
  for subset, counts in expected.items():
    assert {key: found[subset][key] for key in counts} == counts
  assert {counts['params'] for counts in found.values()} == {cost.parameters(initial_shapes(model, 32))}


def test_matrix_products_inside_a_checkpointed_part_are_found():
  class Checkpointed(nn.Module):
    num_channels = 3

    @nn.compact
    def __call__(self, x, subset=None):
      return jax.checkpoint(lambda tokens: tokens @ jnp.ones((4, 6)))(x.reshape(1, 12, 4))

  assert cost.macs(Checkpointed(), (0, 1, 2), 4)['macs'] == 12 * 4 * 6


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
  class Repeated(nn.Module):
    num_channels = 3

    @nn.compact
    def __call__(self, x, subset=None):
      again = lambda tokens, _: (tokens @ jnp.ones((4, 4)), None)  # noqa: E731
      return jax.lax.scan(again, x.reshape(1, 12, 4), length=5)[0]

  assert cost.macs(Repeated(), (0, 1, 2), 4)['macs'] == 5 * 12 * 4 * 4


def test_the_command_prints_a_list_and_nothing_else(capsys):
  assert main.run('cost', ['--image_size=32', '--width=8', '--subsets=RG;B', '--json']) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row['channels'] for row in rows] == ['RG', 'B']
  assert {'channels', 'params', 'macs', 'flops', 'mixing_macs'} == set(rows[0])


def test_the_command_says_what_there_is(capsys):
  assert main.run('cost', ['--model=vgg']) == 1
  assert (
    capsys.readouterr().err == "flaxnets cost: no model 'vgg'; there are resnet18, resnet34, resnet50, resattention\n"
  )
