import importlib.util
import json
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import flax_contenders, layers, peaks, train_step
from benchmarks.measure import Timing
from flaxnets.errors import InputError
from flaxnets.runtime import devices
from flaxnets.training import optim

TINY = [
  '--models=tiny',
  '--width=8',
  '--image_size=32',
  '--batch_size=16',
  '--num_classes=5',
  '--repeats=2',
  '--seconds=0',
  '--no_compile',
]
pytestmark = pytest.mark.usefixtures('tiny_network')
needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='PyTorch is not installed')


def args_of(*flags):
  return train_step.parse([*TINY, *flags])


def peerless(mesh):
  return train_step.Comparison(args_of(), 'tiny', mesh, None, None)


def beside_torch(name, mesh):
  peer = train_step.find_peer()
  return train_step.Comparison(args_of(), name, mesh, peer, peer.device_for('cpu'))


@pytest.fixture
def without_torch(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  for name in ('torch_peer', 'torch_networks'):
    monkeypatch.delitem(sys.modules, f'benchmarks.{name}', raising=False)
    monkeypatch.delattr(f'benchmarks.{name}', raising=False)


def test_without_torch_our_rows_are_there_and_the_missing_peer_is_said(without_torch, capsys):
  rows = train_step.benchmark(args_of('--dtypes=bfloat16'))
  assert 'PyTorch is not installed' in capsys.readouterr().out
  assert [row.name for row in rows] == [
    f'tiny/{mode}/bfloat16{rest}' for mode in ('train', 'eval') for rest in ('', '/full')
  ]
  for row in rows:
    assert row.unit == 'images/s' and row.ratio is None and row.peer is None
    assert 0 < row.details['low'] <= row.value <= row.details['high']
    assert row.details['compile_seconds'] >= 0 and row.details['mfu'] is None and row.details['bandwidth_share'] is None
    json.dumps(row.details)
  assert rows[0].details['memory_mib'] > rows[2].details['memory_mib'] > 0


def test_each_unit_of_training_is_a_step_that_changes_the_weights(mesh1):
  one = peerless(mesh1)
  config = one.config('float32', plain=True)
  training = flax_contenders.Training(one.network(config), one.variables, one.batch(), mesh1, config, full_step=False)
  training(3)
  kernel = np.asarray(training.state.params['stem']['conv']['kernel'])
  assert int(training.state.step) == 3 and int(training.state.skipped) == 0
  assert np.abs(kernel - one.variables['params']['stem']['conv']['kernel']).max() > 0


def test_first_variables_leave_no_norm_layer_at_ones_and_zeros(mesh1):
  variables = peerless(mesh1).variables
  for path, value in jax.tree_util.tree_leaves_with_path(variables['batch_stats']):
    assert len(set(value.tolist())) == value.size, path
  np.testing.assert_array_equal(variables['channel_stats']['stem']['standardize']['mean'], flax_contenders.MEAN)


@pytest.mark.parametrize(('mode', 'passes'), [('train', 3), ('eval', 1)])
def test_shares_of_a_gpus_peaks_are_of_flops_at_three_passes_in_training_and_of_bytes(mode, passes, monkeypatch, mesh1):
  monkeypatch.setitem(peaks.PEAKS, 'cpu', {'float32': 1e9, 'memory': 1e6})
  one, timing = peerless(mesh1), Timing(5.0, [0.5, 2.0, 1.0])
  contender = types.SimpleNamespace(compile_seconds=None, memory_bytes=lambda: 3 * 2**20, bytes_accessed=lambda: 5e5)
  details = one.details(mode, 'float32', timing, contender)
  assert details['mfu'] == pytest.approx(16 * 2 * one.macs * passes / 1e9)
  assert details['bandwidth_share'] == pytest.approx(0.5)  # half a second's worth of bytes, in one
  assert details['compile_seconds'] == 4.0 and details['memory_mib'] == 3.0


def test_the_peak_of_a_gpu_is_found_by_its_name():
  assert peaks.peak_of('NVIDIA H100 80GB HBM3', 'bfloat16') == 989e12
  assert peaks.peak_of('NVIDIA H100 PCIe', 'tf32') == 378e12
  assert peaks.peak_of('NVIDIA H200', 'memory') == 4.8e12
  assert peaks.peak_of('cpu', 'float32') is None


def test_a_batch_that_devices_do_not_divide_is_refused(without_torch):
  with pytest.raises(InputError, match='--batch_size of 12 cannot be spread over 8 devices'):
    train_step.benchmark(args_of('--batch_size=12'))


@needs_torch
@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resattention'])
def test_the_torch_network_computes_the_same_outputs_losses_and_steps(name, mesh1):
  apart = beside_torch(name, mesh1).agreement
  assert apart['outputs'] < 1e-4 and apart['losses'] < 1e-4 and apart['steps'] < 2e-2


@needs_torch
@pytest.mark.parametrize('key', ['stem.norm.running_var', 'stage2_block1.shortcut_conv.weight', 'head.dense.bias'])
def test_a_network_that_computes_something_else_is_not_timed(key, mesh1, monkeypatch):
  from benchmarks import torch_networks

  carried = torch_networks.carried

  def damaged(variables):
    state = carried(variables)
    return {**state, key: state[key] * 1.5} if 'batch_stats' in variables else state

  monkeypatch.setattr(torch_networks, 'carried', damaged)
  with pytest.raises(InputError, match='tiny: flaxnets and PyTorch do not compute the same function'):
    beside_torch('tiny', mesh1)


@needs_torch
def test_a_step_with_other_results_is_not_timed(mesh1, monkeypatch):
  monkeypatch.setattr(flax_contenders, '_as_they_are', lambda step, batch: (batch['image'], batch['present']))
  with pytest.raises(InputError, match='their losses are'):
    beside_torch('tiny', mesh1)


@needs_torch
def test_an_optimizer_with_other_results_is_not_timed(mesh1, monkeypatch):
  monkeypatch.setattr(optim, 'decayed', lambda params: jax.tree.map(lambda leaf: True, params))
  with pytest.raises(InputError, match='their steps are'):
    beside_torch('tiny', mesh1)


@needs_torch
def test_weights_that_do_not_fit_are_refused(mesh1):
  from benchmarks import torch_networks

  network = torch_networks.build('tiny', num_channels=3, num_classes=5, width=16)
  with pytest.raises(InputError, match='the weights do not fit the PyTorch network'):
    torch_networks.load(network, peerless(mesh1).variables)


@needs_torch
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_the_ratio_is_to_the_fastest_mode_of_the_peer(mode, mesh8):
  rows = {row.name: row for row in beside_torch('tiny', mesh8).rows('float32', mode)}
  own, peer = rows[f'tiny/{mode}/float32'], rows[f'tiny/{mode}/float32/torch_eager']
  assert own.peer == 'torch_eager' and own.ratio == pytest.approx(own.value / peer.value)
  assert rows[f'tiny/{mode}/float32/full'].ratio is None and peer.ratio is None


@needs_torch
def test_several_steps_of_both_sides_end_in_the_same_weights(mesh8):
  """So momentum is the same too, and a step over several devices."""
  both = beside_torch('tiny', mesh8)
  ours, theirs = both.ours('float32', 'train')['network'], both.theirs('float32', 'train')['torch_eager']
  ours(3)
  theirs(3)
  params = devices.to_host(ours.state.params)
  begin, after = both.peer.by_key(both.variables['params']), both.peer.by_key(params)
  for key, value in theirs.weights().items():
    moved, expected = after[key] - begin[key], value - begin[key]
    assert np.linalg.norm(moved - expected) < 2e-2 * np.linalg.norm(expected), key


@pytest.mark.parametrize(
  'layer',
  [layers.Layer(6, 6, 5, 4, 3, 1, False), layers.Layer(3, 3, 5, 4, 3, 1, False), layers.Layer(6, 6, 5, 4, 1, 2, False)],
)
@pytest.mark.parametrize('part', layers.PARTS)
def test_a_layer_alone_is_the_same_convolution_on_both_sides(layer, part, mesh1):
  torch = pytest.importorskip('torch')
  from benchmarks import torch_peer

  ours = layers.OurConvolution(layer, part, 2, mesh1)
  theirs = torch_peer.Convolution(layer, part, 2, torch.device('cpu'))
  params, x, *cotangent = ours.work.args
  theirs.x = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
  theirs.kernel = torch.from_numpy(np.array(params['params']['kernel'])).permute(3, 2, 0, 1)
  if part == 'forward':
    expected = theirs.forward().permute(0, 2, 3, 1)
  else:
    theirs.outputs = torch.from_numpy(np.array(cotangent[0])).permute(0, 3, 1, 2)
    to_x, to_kernel, _ = theirs.backward()
    expected = to_x.permute(0, 2, 3, 1) if part == 'input gradient' else to_kernel.permute(2, 3, 1, 0)
  found = jax.tree.leaves(ours.work())[0]
  np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)
