"""Eight simulated devices, and meshes of some of them, for every test."""

import jax
import pytest

jax.config.update('jax_num_cpu_devices', 8)

from flaxnets import parallel  # noqa: E402  after the devices were told


@pytest.fixture
def mesh1():
  return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture
def mesh8():
  return parallel.data_mesh()
