"""What the package of layers offers is what its reference lists."""

import pathlib

import pytest

from flaxnets import nn

REFERENCE = pathlib.Path(__file__).parents[2] / 'docs' / 'reference' / 'api.md'


@pytest.mark.parametrize('name', nn.__all__)
def test_every_public_layer_is_in_the_reference(name):
  assert f'::: {getattr(nn, name).__module__}.{name}\n' in REFERENCE.read_text('utf-8')
