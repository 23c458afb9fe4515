"""Benchmarks that run in the tests' process leave its devices as the root's conftest.py made them."""

import pytest

from flaxnets.runtime import devices


@pytest.fixture(autouse=True)
def devices_of_the_tests(monkeypatch):
  monkeypatch.setattr(devices, 'start', lambda *args, **options: None)
