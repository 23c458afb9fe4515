"""Eight simulated devices, and meshes of some of them, for every test and for the benchmarks' own."""

import importlib.metadata
import os
import signal
import sys
import tempfile

# Compiling is most of what these tests do; code that runs slower is the better bargain here. XLA aborts on a flag that
# it does not know. For the one of jaxlib 0.11 see `flaxnets.runtime.machine.bfloat16_warning`.
if importlib.metadata.version('jaxlib') < '0.11':
  os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false')
else:
  os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_cpu_experimental_ynn_fusion_type=')

# What one test compiled, the next, other workers and subprocesses need not: for the length of this session, or as long
# as the folder FLAXNETS_TESTS_CACHE is kept.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  if not os.environ.get('FLAXNETS_TESTS_CACHE'):
    _CACHE = tempfile.TemporaryDirectory(prefix='flaxnets-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = os.environ.get('FLAXNETS_TESTS_CACHE') or _CACHE.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import hypothesis
import jax
import pytest
from absl import logging

jax.config.update('jax_num_cpu_devices', 8)
# A (C,) array meets a (b, h, w, C) one by name of the axes, never by accident.
jax.config.update('jax_numpy_rank_promotion', 'raise')

from flaxnets.runtime import devices  # noqa: E402  after the devices were told

# The same examples in every run, and none that is too slow because the machine is busy.
hypothesis.settings.register_profile('flaxnets', deadline=None, derandomize=True)
hypothesis.settings.load_profile('flaxnets')

# The files of `make slow` that take longest, in the order in which they are begun. Workers take over tests from the end
# of each other's queues and leave at least two, so that the wheel, which both tests of its file need, is built once.
LONGEST = (
  'tests/test_wheel.py',
  'tests/test_kills.py',
  'tests/cli/test_kills.py',
  'tests/test_examples.py',
  'tests/test_documentation.py',
  'tests/study/test_kills.py',
  'tests/runtime/test_processes.py',
)


def pytest_collection_modifyitems(config, items):
  """Begins a slow run with what takes longest, so that it does not end with one worker busy and the others idle."""
  if config.option.markexpr == 'slow':
    places = {config.rootpath / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope='session')
def mesh1():
  return devices.data_mesh(jax.devices()[:1])


@pytest.fixture(scope='session')
def mesh8():
  return devices.data_mesh()


@pytest.fixture
def devices_started(monkeypatch):
  """For commands that run in the tests' process: it has its devices, and they would set up others."""
  monkeypatch.setattr(devices, 'start', lambda *args, **options: None)


@pytest.fixture
def signal_handlers(monkeypatch):
  """For code that handles signals, and exceptions in destructors: what it sets does not stay."""
  before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.fixture(autouse=True)
def the_programs_verbosity_does_not_stay():
  before = logging.get_verbosity()
  yield
  logging.set_verbosity(before)
