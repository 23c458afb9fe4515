"""Recalibration of a run: which statistics are kept, how they are stored, and who uses them."""

import errno
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import flaxnets
from flaxnets.channels import ChannelSet
from flaxnets.cli import evaluate, main
from flaxnets.data import synthetic
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.evaluation import batch_stats, evaluator, judge, recalibrate, recalibration_store
from flaxnets.runtime import locks
from flaxnets.training import loop, setup
from tests.evaluation.test_batch_stats import images_of
from tests.small import small_config

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run that ended with recalibration for RGB and R, of averaged weights."""
  workdir = tmp_path_factory.mktemp('run')
  assert loop.run(small_config(**{'train.recalibrate': True, 'train.ema': 0.5}), workdir) == 0
  return workdir


@pytest.fixture
def copied(run, tmp_path):
  return shutil.copytree(run, tmp_path / 'run')


@pytest.mark.parametrize(
  ('examples', 'images', 'expected'),
  [
    (10_000, 2048, (2048, 1024, 256)),
    (10_000, 2000, (1792, 1000, 256)),
    (96, 2048, (64, 32, 64)),
    (3000, 10_000, (1792, 1000, 256)),
  ],
)
def test_held_out_images_are_left_and_batches_are_whole(mesh8, examples, images, expected):
  made = recalibrate.plan(examples, images, 256, 'evaluation', mesh8)
  assert (made['images'], made['held_out'], made['batch_size']) == expected


def test_invalid_settings_are_errors(mesh8):
  with pytest.raises(InputError, match='5 training images .* and 2 others .* too few for 8 devices'):
    recalibrate.plan(7, 2048, 256, 'evaluation', mesh8)
  with pytest.raises(InputError, match='-8 training images .* too few for 8 devices'):
    recalibrate.plan(1000, -8, 256, 'evaluation', mesh8)
  with pytest.raises(InputError, match="no recalibration view 'test'; there are evaluation, training"):
    recalibrate.plan(1000, 256, 256, 'test', mesh8)
  with pytest.raises(InputError, match="model.norm='group' keeps no statistics"):
    recalibrate.check_norm('group')


def test_a_group_norm_run_that_wants_recalibration_is_refused_before_it_trains(tmp_path):
  with pytest.raises(InputError, match='nothing to recalibrate'):
    setup.prepare(small_config(**{'model.norm': 'group', 'train.recalibrate': True}), tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def source_labelled_by(net):
  """Images whose true classes are by definition what the network says of all their channels."""
  rng = np.random.default_rng(0)
  images = (rng.integers(0, 100, (96, 20, 20, 3)) + rng.integers(0, 150, (96, 1, 1, 3))).astype(np.uint8)
  return ArraySource('images', images, net.predict(images), ChannelSet.of('RGB'), net.classes)


@pytest.mark.parametrize('view', recalibrate.VIEWS)
def test_channels_and_their_presence_are_seen_in_the_networks_order(run, view):
  net = flaxnets.load(run)
  images, present = images_of(6), np.ones((6, 3), bool)
  present[::2] = [False, True, True]

  def seen(channels, images, present):
    source = ArraySource('images', images, np.zeros(6, int), ChannelSet.of(channels), net.classes, present)
    batch = {'image': images, 'present': present, 'size': np.full((6, 2), 12, np.int32)}
    return recalibrate.view_of(net, source, view)(np.int32(0), jax.tree.map(jnp.asarray, batch))

  straight, turned = seen('RGB', images, present), seen('BRG', np.roll(images, 1, -1), np.roll(present, 1, -1))
  jax.tree.map(np.testing.assert_array_equal, straight, turned)
  np.testing.assert_array_equal(turned[1], present)


def recalibrated(*arguments):
  """What `recalibrate.recalibrate` gives for no more subsets than a chunk."""
  (chunk,) = recalibrate.recalibrate(*arguments)
  return chunk


@pytest.mark.parametrize('view', recalibrate.VIEWS)
def test_statistics_are_kept_only_where_they_raise_accuracy(run, mesh8, view):
  net = flaxnets.load(run)
  settings, full = recalibrate.plan(96, 64, 32, view, mesh8), net.channels.full
  before = jax.tree.map(np.copy, net.variables)
  found, (worse,) = recalibrated(net, source_labelled_by(net), [full], settings, mesh8)
  assert worse['before'] == 1 > worse['after'] and not worse['kept']
  net.recalibrated[full] = found['RGB']
  again, (better,) = recalibrated(net, source_labelled_by(net), [full], settings, mesh8)
  assert better['before'] < 1 == better['after'] and better['kept']
  # A sign that the images are fixed, and that what was stored before has no part in what is found.
  jax.tree.map(np.testing.assert_array_equal, again, found)
  jax.tree.map(np.testing.assert_array_equal, net.variables, before)
  net.variables['batch_stats'] = found['RGB']
  _, (tie,) = recalibrated(net, source_labelled_by(net), [full], settings, mesh8)
  assert tie['before'] == tie['after'] and not tie['kept']


def hits(*counts):
  """(100,) hits with and without recalibration, of images that only one, only the other, both or neither got right."""
  pairs = np.repeat([(True, False), (False, True), (True, True), (False, False)], counts, axis=0)
  return pairs[:, 1], pairs[:, 0]


@pytest.mark.parametrize(
  ('gained', 'lost', 'kept'),
  # McNemar's exact test on the discordant images: p is 0.77 for 7 of 12, 0.001 for 20 of 24, 0.06 for 5 of 5.
  [(7, 5, False), (20, 4, True), (12, 12, False), (0, 0, False), (4, 20, False)],
)
def test_statistics_are_kept_only_where_the_gain_is_more_than_chance(gained, lost, kept):
  row = recalibrate.row_of('RG', *hits(gained, lost, 40, 60 - gained - lost))
  assert row['after'] - row['before'] == pytest.approx((gained - lost) / 100)
  assert row['interval'][0] <= row['after'] - row['before'] <= row['interval'][1]
  assert row['kept'] == kept == (row['interval'][0] > 0)


def test_the_table_counts_the_held_out_images_that_could_be_read():
  row = recalibrate.row_of('RG', *hits(20, 4, 40, 34))
  settings = {'images': 64, 'held_out': 100, 'view': 'evaluation'}
  assert 'accuracy on 98 others' in recalibrate.table({'settings': settings, 'subsets': [row]}, ['RG'])
  del row['examples']  # as an earlier version stored it
  assert 'accuracy on 100 others' in recalibrate.table({'settings': settings, 'subsets': [row]}, ['RG'])


def test_the_table_shows_the_interval_of_the_difference():
  rows = [recalibrate.row_of('RG', *hits(20, 4, 40, 36)), recalibrate.row_of('R', *hits(7, 5, 40, 48))]
  meta = {'settings': {'images': 64, 'held_out': 100, 'view': 'evaluation'}, 'subsets': rows}
  lines = recalibrate.table(meta, ['RG', 'R']).splitlines()
  assert re.fullmatch(r'RG +44.00% +60.00% +\+16.00 \(\+\d+\.\d\d to \+\d+\.\d\d\) +yes', lines[2])
  assert re.fullmatch(r'R +45.00% +47.00% +\+2.00 \(-\d+\.\d\d to \+\d+\.\d\d\) +no', lines[3])


def put(workdir, kept):
  """Stores statistics of which only those of some subsets are to be used."""
  net = flaxnets.load(workdir)
  spoil = jax.tree.map(lambda x: x * 3 + 1, net.variables['batch_stats'])
  rows = [
    {'channels': label, 'before': 0.1, 'after': 0.2, 'interval': [0.0, 0.2], 'kept': label in kept}
    for label in ('RGB', 'RG', 'R')
  ]
  recalibration_store.store(
    workdir,
    net,
    {'RGB': spoil, 'RG': spoil, 'R': spoil},
    {'weights': recalibrate.weights_digest(net), 'settings': {}, 'subsets': rows},
  )
  return net, spoil


def test_a_loaded_network_uses_what_is_stored_for_the_right_subsets_only(copied):
  plain, spoil = put(copied, kept={'RG'})
  net = flaxnets.load(copied, recalibrated=True)
  assert set(net.recalibrated) == {(0, 1)}
  jax.tree.map(np.testing.assert_array_equal, net.recalibrated[(0, 1)], spoil)
  jax.tree.map(np.testing.assert_array_equal, net.variables, plain.variables)
  images = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), np.uint8)
  by_hand = flaxnets.load(copied)
  assert by_hand.recalibrated == {}
  np.testing.assert_array_equal(net.logits(images), by_hand.logits(images))
  np.testing.assert_array_equal(net.logits(images[..., :1], 'R'), by_hand.logits(images[..., :1], 'R'))
  without = by_hand.logits(images[..., :2], 'RG')
  by_hand.variables['batch_stats'] = spoil
  np.testing.assert_array_equal(net.logits(images[..., :2], 'RG'), by_hand.logits(images[..., :2], 'RG'))
  np.testing.assert_array_equal(net.logits(images[..., 1::-1], 'GR'), net.logits(images[..., :2], 'RG'))
  assert np.abs(net.logits(images[..., :2], 'RG') - without).max() > 1e-3


def test_an_export_holds_recalibrated_statistics_only_if_asked_to(copied, tmp_path, devices_started):
  _, spoil = put(copied, kept={'RG'})
  for flags, kept in (([], set()), (['--recalibrated'], {'recalibrated.RG.stem.norm.mean'})):
    out = tmp_path / 'all.safetensors'
    assert main.run('export', [str(copied), '--format=safetensors', f'--out={out}', *flags]) == 0
    arrays = safetensors.numpy.load_file(out)
    assert {name for name in arrays if name.startswith('recalibrated.') and name.endswith('.stem.norm.mean')} == kept
  np.testing.assert_array_equal(arrays['recalibrated.RG.stem.norm.mean'], spoil['stem']['norm']['mean'])


def test_what_is_stored_for_other_weights_is_not_used(copied, monkeypatch):
  put(copied, kept={'RG'})
  warned = []
  monkeypatch.setattr('flaxnets.inference.restore.logging.warning', lambda text, *args: warned.append(text % args))
  path = copied / 'recalibrated'
  net = flaxnets.load(copied)
  net.variables['params']['head']['dense']['bias'] = net.variables['params']['head']['dense']['bias'] + 1
  assert recalibrate.restore_recalibrated(copied, net) is None
  assert len(warned) == 1 and warned[0].startswith(f'{path} belongs to other weights')
  net.step = 1
  assert recalibrate.restore_recalibrated(copied, net) is None


def test_recalibrated_statistics_that_are_missing_are_an_error(copied):
  shutil.rmtree(copied / 'recalibrated', ignore_errors=True)
  step = flaxnets.load(copied).step
  with pytest.raises(
    InputError, match=f'no recalibrated statistics for step {step}; flaxnets eval .* --step={step} --recalibrate'
  ):
    flaxnets.load(copied, recalibrated=True)


def test_a_corrupt_store_is_one_clear_error_and_spares_the_trained_network(copied):
  put(copied, kept={'RG'})
  meta = next((copied / 'recalibrated').glob('*/meta/metadata'))
  assert '"after": 0.2' in meta.read_text()
  meta.write_text(meta.read_text().replace('"after": 0.2', '"after": 0.3'))
  with pytest.raises(InputError, match=r'recalibrated/.*; delete .*/recalibrated and run flaxnets eval --recalibrate'):
    flaxnets.load(copied, recalibrated=True)
  assert flaxnets.load(copied).recalibrated == {}


def test_subsets_done_before_are_not_done_again_and_others_join_them(copied, monkeypatch, capsys):
  one = recalibrate.run(copied, subsets='R', view='training', images=64)
  assert [row['channels'] for row in one['subsets']] == ['R']
  both = recalibrate.run(copied, subsets='R;RGB', view='training', images=64)
  assert both['subsets'][0] == one['subsets'][0]
  assert [row['channels'] for row in both['subsets']] == ['R', 'RGB']
  monkeypatch.setattr(batch_stats.Estimator, '__call__', None)
  assert recalibrate.run(copied, subsets='RGB', view='training', images=64) == both
  printed = capsys.readouterr().out.splitlines()
  assert printed[0].startswith('recalibrated on 64 training images (training view), accuracy on 32 others; kept where')
  assert {path.name for path in copied.iterdir()} >= {'recalibrated', 'checkpoints'}


def test_more_subsets_than_a_chunk_are_stored_chunk_by_chunk_and_share_a_program(copied, monkeypatch):
  shutil.rmtree(copied / 'recalibrated')
  stored, store = [], recalibration_store.store
  compiled = []
  programs, evaluators = batch_stats.Estimator, judge.evaluator_of

  def estimator(model, subsets, *args, **kwargs):
    made = programs(model, subsets, *args, **kwargs)
    compiled.append(('estimates', made.compilations(subsets)))
    return made

  def evaluator_of(net, source, subsets, mesh):
    made = evaluators(net, source, subsets, mesh)
    compiled.append(('evaluates', made.compilations(subsets)))
    return made

  judge._evaluator.cache_clear()  # of another file's test with the same network
  monkeypatch.setattr(evaluator, 'MAX_COMPILED', 2)
  monkeypatch.setattr(batch_stats, 'Estimator', estimator)
  monkeypatch.setattr(judge, 'evaluator_of', evaluator_of)
  monkeypatch.setattr(recalibrate, 'CHUNK', 2)
  monkeypatch.setattr(
    recalibration_store, 'store', lambda *a: (stored.append([r['channels'] for r in a[3]['subsets']]), store(*a))[1]
  )
  recalibrate.run(copied, subsets=((0, 1, 2), (0,), (1,)), images=64)
  assert stored == [['RGB', 'R'], ['RGB', 'R', 'G']]
  assert compiled == [('estimates', 1), ('evaluates', 1)]  # for all chunks together


def test_two_processes_that_recalibrate_at_the_same_time_keep_each_others_subsets(copied, monkeypatch):
  shutil.rmtree(copied / 'recalibrated')
  estimated = recalibrate.recalibrate

  def while_another_stores_g(*arguments):
    monkeypatch.setattr(recalibrate, 'recalibrate', estimated)
    recalibrate.run(copied, subsets='G', images=64)
    return estimated(*arguments)

  monkeypatch.setattr(recalibrate, 'recalibrate', while_another_stores_g)
  recalibrate.run(copied, subsets='R', images=64)
  statistics, meta = recalibrate.restore_recalibrated(copied, flaxnets.load(copied))
  assert set(statistics) == {row['channels'] for row in meta['subsets']} == {'R', 'G'}


def test_statistics_are_stored_only_once_nobody_else_is_storing_some(copied):
  with locks.exclusive(copied / '.recalibrated-lock'):
    writer = threading.Thread(target=put, args=(copied, {'RG'}))
    writer.start()
    writer.join(2)
    assert writer.is_alive() and not (copied / '.recalibrated-new').exists()
  writer.join()
  assert set(flaxnets.load(copied, recalibrated=True).recalibrated) == {(0, 1)}


def test_statistics_that_cannot_replace_the_old_ones_leave_them(copied, monkeypatch):
  put(copied, kept={'RG'})
  replace = os.replace

  def failing(source, target):
    if source.name == '.recalibrated-new':
      raise OSError(errno.EIO, os.strerror(errno.EIO))
    replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(recalibration_store.os, 'replace', failing)
    with pytest.raises(InputError, match='recalibrated cannot be written: Input/output error; the statistics were not'):
      put(copied, kept={'R'})
  assert set(flaxnets.load(copied, recalibrated=True).recalibrated) == {(0, 1)}


def test_statistics_of_a_process_that_was_killed_between_its_renames_are_found_by_the_next(copied):
  net, _ = put(copied, kept={'RG'})
  (copied / 'recalibrated').rename(copied / '.recalibrated-old')
  nothing = {'weights': recalibrate.weights_digest(net), 'settings': {}, 'subsets': []}
  statistics, _ = recalibration_store.store(copied, net, {}, nothing)
  assert set(statistics) == {'RGB', 'RG', 'R'} and not (copied / '.recalibrated-old').exists()


def test_training_may_end_with_recalibration_of_what_is_evaluated(run, mesh8):
  net = flaxnets.load(run)
  assert net.ema
  statistics, meta = recalibrate.restore_recalibrated(run, net)
  assert set(statistics) == {'RGB', 'R'}
  expected, _ = recalibrated(net, synthetic.source('train[:96]'), [(0,)], meta['settings'], mesh8)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), statistics['R'], expected['R'])


def command(*arguments):
  return subprocess.run(
    [sys.executable, 'eval_main.py', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={**os.environ, 'JAX_NUM_CPU_DEVICES': '2'},
  )


def test_the_command_judges_plain_weights_without_the_flag_and_recalibrated_ones_with_it(copied):
  put(copied, kept={'RG', 'RGB'})
  assert evaluate.run(copied, subsets='RG') == 0
  plain = json.loads((copied / 'eval' / 'test.json').read_text())
  done = command(
    f'--workdir={copied}', '--recalibrate', '--recalibrate_view=training', '--recalibrate_images=64', '--subsets=RG;R'
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('recalibrated on 64 training images (training view), accuracy on 32 others')
  scores = json.loads((copied / 'eval' / 'test-recalibrated.json').read_text())
  assert (plain['recalibrated'], scores['recalibrated'], scores['examples']) == (False, True, 52)
  assert [row['recalibrated'] for row in plain['subsets']] == [False]
  net = flaxnets.load(copied)
  _, meta = recalibrate.restore_recalibrated(copied, net)
  kept = {row['channels']: row['kept'] for row in meta['subsets']}
  assert set(kept) == {'RG', 'R'}  # those of other settings are gone
  assert {row['channels']: row['recalibrated'] for row in scores['subsets']} == kept
  assert (copied / 'eval' / 'test-recalibrated.npz').exists()
  assert evaluate.run(copied, subsets='RG') == 0
  again = json.loads((copied / 'eval' / 'test.json').read_text())
  assert {**again, 'date': '', 'digest': ''} == {**plain, 'date': '', 'digest': ''}
