"""Benchmarks that run in the tests' process leave its devices as the root's conftest.py made them."""

import functools
import importlib.util

import pytest

from flaxnets import models
from flaxnets.models.resnet import ResNet
from flaxnets.nn.blocks import BasicBlock


@pytest.fixture(autouse=True)
def devices_of_the_tests(devices_started):
  pass


@pytest.fixture
def tiny_network(monkeypatch):
  """The model 'tiny', a ResNet of two blocks, here and in PyTorch."""
  network = functools.partial(ResNet, stage_sizes=(1, 1), block=BasicBlock, expansion=1)
  monkeypatch.setitem(models.MODELS, 'tiny', network)
  if importlib.util.find_spec('torch'):
    from benchmarks import torch_networks

    monkeypatch.setitem(torch_networks.RESNETS, 'tiny', ((1, 1), torch_networks.basic, 1))
