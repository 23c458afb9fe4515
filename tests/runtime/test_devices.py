import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax._src import distributed
from jax.sharding import AxisType

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.runtime import devices, interrupts, machine
from flaxnets.training import setup
from tests.small import small_config

ROOT = pathlib.Path(__file__).parents[2]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=2), st.integers(1, 64))
def test_cpu_devices_divide_the_batches_and_have_enough_to_do(batches, cores):
  count = devices.cpu_devices(batches, cores)
  assert 1 <= count <= cores
  for batch in batches:
    assert batch % count == 0 and (count == 1 or batch // count >= devices.MIN_PER_CPU_DEVICE)


def test_two_cores_share_the_papers_batch():
  assert devices.cpu_devices([64], 2) == 2


def test_batches_of_two_sizes_get_devices_that_divide_both():
  assert devices.cpu_devices([48, 256], 6) == 4


def test_processes_that_cannot_connect_are_a_one_line_error(monkeypatch):
  def failing(*_, **__):
    raise RuntimeError('Deadline exceeded\nand a stack')

  monkeypatch.setattr(jax.distributed, 'initialize', failing)
  with pytest.raises(
    InputError, match=r'^--coordinator=first:1: the processes could not connect \(Deadline exceeded\)$'
  ):
    devices.start([64], coordinator='first:1', processes=2)


def test_the_processes_of_a_cluster_share_the_batch_before_their_cores_do(monkeypatch):
  options = {}
  monkeypatch.delenv('JAX_NUM_CPU_DEVICES', raising=False)
  monkeypatch.setattr(machine, 'cores', lambda: 8)
  monkeypatch.setattr(machine, 'keep_freed_memory', lambda: None)
  monkeypatch.setattr(jax.config, 'update', options.__setitem__)
  # What `initialize` leaves behind on 16 nodes of Slurm.
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **_: None)
  monkeypatch.setattr(distributed.global_state, 'num_processes', 16)
  devices.start([64], coordinator='auto')
  assert options['jax_num_cpu_devices'] == 1
  monkeypatch.setattr(distributed.global_state, 'num_processes', 2)
  devices.start([64], coordinator='auto')
  assert options['jax_num_cpu_devices'] == 4


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({'processes': 2, 'process': 1}, 'several processes need --coordinator=host:port'),
    ({'coordinator': 'first', 'processes': 2}, "--coordinator=first must be host:port or 'auto'"),
    (
      {'coordinator': 'first:1234'},
      '--processes=0 --process=0: --process must be at least 0 and less than --processes',
    ),
    (
      {'coordinator': 'first:1234', 'processes': 2, 'process': 2},
      '--processes=2 --process=2: --process must be at least 0 and less than --processes',
    ),
  ],
)
def test_inconsistent_process_flags_are_an_error_before_connecting(given, said):
  with pytest.raises(InputError, match=re.escape(said)):
    devices.start([64], **given)


def test_an_error_of_a_run_with_one_process_passes_unchanged(monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)  # --coordinator=auto with a single task
  with pytest.raises(jax.errors.JaxRuntimeError, match='out of memory'), devices.ending_with_others('flaxnets train'):
    raise jax.errors.JaxRuntimeError('out of memory')


class Exited(BaseException):
  """What `os._exit` raises here."""


@pytest.mark.parametrize(
  ('raised', 'resumes', 'code', 'said'),
  [
    (KeyboardInterrupt, False, 130, 'flaxnets x: stopped\n'),
    (interrupts.Terminated, False, 143, 'flaxnets x: stopped\n'),
    (KeyboardInterrupt, True, 75, f'flaxnets x: {interrupts.SAID}\n'),
  ],
)
def test_ctrl_c_does_not_leave_one_of_several_processes_waiting_for_the_others(
  signal_handlers, monkeypatch, capsys, raised, resumes, code, said
):
  def exits(number):
    raise Exited(number)

  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax.distributed, 'shutdown', lambda: time.sleep(60))  # the others do not come to the barrier
  monkeypatch.setattr(devices, 'WAIT_FOR_OTHERS', 0.1)
  monkeypatch.setattr(os, '_exit', exits)
  began = time.monotonic()
  with pytest.raises(Exited, match=str(code)), devices.ending_with_others('flaxnets x', resumes):
    raise raised
  assert time.monotonic() - began < 30
  assert capsys.readouterr().err == said


@pytest.mark.parametrize('agree_to_stop', [False, True])
def test_sigterm_does_what_it_did_before_the_processes_met_unless_they_are_to_agree(monkeypatch, agree_to_stop):
  libc, noted = ctypes.CDLL(None), []
  libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  ignored = 1  # SIG_IGN

  def initialize(*_, **__):
    libc.signal(signal.SIGTERM, ignored)  # as the service of jax.distributed does, unseen by Python

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.setattr(machine, 'keep_freed_memory', lambda: None)
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
  try:
    devices.start([64], coordinator='first:1', processes=2, agree_to_stop=agree_to_stop)
    signal.raise_signal(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert noted == ([] if agree_to_stop else [1])


def test_devices_divide_the_microbatches_too():
  config = small_config(**{'train.batch_size': 64, 'train.accumulate': 4, 'evaluate.batch_size': 256})
  assert devices.cpu_devices(configs.batch_sizes(config), 8) == 2
  assert configs.batch_sizes(configs.to_json(config)) == [16, 256]
  config.train.accumulate = 3
  said = r'64 does not divide into 3 microbatches \(train.accumulate\) over 8 devices; choose a multiple of 24$'
  with pytest.raises(InputError, match=said):
    setup.check(config)


class Device:
  """As much of a `jax.Device` as a mesh asks for."""

  def __init__(self, id, process_index, slice_index, coords):
    self.id, self.process_index, self.slice_index, self.coords = id, process_index, slice_index, coords
    self.platform, self.device_kind, self.core_on_chip = 'tpu', 'TPU v4', 0


def test_several_hosts_make_a_mesh_in_which_the_devices_of_each_follow_those_of_the_host_before():
  # XLA gives each host of CPUs or GPUs a slice of its own. On TPU pods the ids of two hosts may alternate.
  found = [Device(id, (id // 2) % 2, (id // 2) % 2, (id % 2, id // 2, 0)) for id in range(8)]
  mesh = devices.data_mesh(found)
  assert [device.process_index for device in mesh.devices.flat] == [0, 0, 0, 0, 1, 1, 1, 1]
  assert [device.id for device in mesh.devices.flat] == [0, 1, 4, 5, 2, 3, 6, 7]
  assert mesh.axis_types == (AxisType.Auto,)


def test_batches_become_global_arrays_in_order_and_all_of_them(mesh8):
  batches = [{'x': np.full((16, 2), number)} for number in range(5)]
  arrays = list(devices.to_devices(batches, mesh8))
  assert [int(array['x'][0, 0]) for array in arrays] == list(range(5))
  assert all(array['x'].sharding == devices.sharded(mesh8) for array in arrays)


def test_no_more_batches_than_ahead_are_fetched_in_advance(mesh8):
  fetched = []

  def batches():
    for number in range(9):
      fetched.append(number)
      yield {'x': np.zeros((8, 1))}

  feed = devices.to_devices(batches(), mesh8, ahead=2)
  next(feed)
  assert len(fetched) == 3


@pytest.mark.parametrize('batch', [0, 4, 12])
def test_a_batch_that_the_devices_do_not_divide_is_an_error(mesh8, batch):
  with pytest.raises(InputError, match=f'train.batch_size of {batch} cannot be spread over 8 devices'):
    devices.check_batch(batch, mesh8, 'train.batch_size')


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc keeps freed memory only where there is glibc')
@pytest.mark.parametrize(('kept', 'most', 'least'), [(True, 2000, 0), (False, 10**9, 20000)])
def test_memory_of_one_step_is_there_for_the_next(kept, most, least):
  """Page faults of taking 128 MiB, 32,768 pages, after 128 MiB were given back."""
  program = f"""
import ctypes, resource, numpy as np
from flaxnets.runtime import devices, machine
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB, to be counted
if {kept}: machine.keep_freed_memory()
def take():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(2**24)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
take()
print(take())
"""
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT)
  assert least <= int(done.stdout) <= most


@pytest.mark.parametrize(('accelerator', 'tuned'), [(False, 1), (True, 0)])
def test_only_hosts_whose_devices_are_cpus_keep_freed_memory(monkeypatch, accelerator, tuned):
  calls = []
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')  # JAX runs already: nothing is to be set
  monkeypatch.setattr(machine, 'has_accelerator_plugin', lambda: accelerator)
  monkeypatch.setattr(machine, 'keep_freed_memory', lambda: calls.append(1))
  devices.start([64])
  assert len(calls) == tuned


def test_completing_many_channels_on_two_cpu_devices_does_not_hang():
  """It did, within the first ten calls, when LAPACK solved the batch."""
  program = """
from flaxnets.runtime import devices
devices.start([64])
import jax, numpy as np
from flaxnets.nn import presence_mixing
mesh, count = devices.data_mesh(), 64
correlation = 0.9 ** np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
present = np.random.default_rng(0).random((64, count)) < 0.5
arguments = jax.device_put(present, devices.sharded(mesh)), jax.device_put(correlation, devices.replicated(mesh))
mixed = jax.jit(lambda *arguments: presence_mixing('linear', *arguments))
for _ in range(200):
  done = jax.block_until_ready(mixed(*arguments))
print(mesh.size, np.isfinite(done).all())
"""
  environment = {**os.environ, 'JAX_NUM_CPU_DEVICES': '2'}
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=300
  )
  assert done.stdout.split() == ['2', 'True']


@pytest.mark.parametrize(('platforms', 'found'), [('cpu', False), ('cuda', True), ('tpu,cpu', True)])
def test_jax_platforms_decides_whether_there_is_an_accelerator(monkeypatch, platforms, found):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  assert machine.has_accelerator_plugin() is found


@pytest.mark.parametrize(
  ('version', 'flags', 'platforms', 'warned'),
  [
    ('0.11.2', '', 'cpu', True),
    ('0.11.2', '--xla_cpu_experimental_ynn_fusion_type=', 'cpu', False),
    ('0.11.2', '', 'cuda', False),
    ('0.10.2', '', 'cpu', False),
  ],
)
def test_bfloat16_is_warned_of_where_xla_computes_it_wrongly(monkeypatch, version, flags, platforms, warned):
  monkeypatch.setenv('XLA_FLAGS', flags)
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  monkeypatch.setattr(machine.importlib.metadata, 'version', lambda name: version)
  assert ('set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= ' in machine.bfloat16_warning()) is warned


@pytest.mark.parametrize(
  ('quota', 'expected'), [('max 100000', 8), ('200000 100000', 2), ('250000 100000', 3), ('1600000 100000', 8), ('', 8)]
)
def test_a_containers_quota_limits_the_cores(monkeypatch, tmp_path, quota, expected):
  monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda _: set(range(8)), raising=False)
  monkeypatch.setattr(machine, 'CPU_QUOTA', tmp_path / 'cpu.max')
  assert machine.cores() == 8
  (tmp_path / 'cpu.max').write_text(f'{quota}\n')
  assert machine.cores() == expected


def test_compiled_programs_are_kept_per_kind_of_cpu_in_the_users_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert machine.cache_folder().parent == tmp_path / 'flaxnets'
  assert machine.cache_folder() == machine.cache_folder()


def test_without_a_home_or_a_folder_to_write_to_compiled_programs_are_not_kept(monkeypatch, tmp_path):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert machine.cache_folder() is None
  monkeypatch.delenv('XDG_CACHE_HOME')

  def no_home():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(machine.pathlib.Path, 'home', no_home)
  assert machine.cache_folder() is None
  options = {}
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  monkeypatch.setattr(machine, 'keep_freed_memory', lambda: None)
  monkeypatch.setattr(jax.config, 'update', options.__setitem__)
  devices.start([64])
  assert 'jax_compilation_cache_dir' not in options
