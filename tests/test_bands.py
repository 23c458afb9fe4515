"""A whole run on bands in an .npz, as a satellite's user would have it: train, judge, other files, NaN planes."""

import json
import shutil

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.cli import evaluate
from flaxnets.errors import InputError
from flaxnets.evaluation import judge, splits
from flaxnets.training import loop, setup
from tests.small import save_untrained, small_config, train_and_cut

BANDS = ('B02', 'B03', 'B04', 'B08', 'B11')
CLASSES = ('sea', 'wood', 'town')


def bands(path, *, taken=BANDS, classes=CLASSES, scale=1.0, dtype=np.uint16, **changes):
  """An .npz of 16 x 16 pixels; what a channel shows depends on the class and on the channel."""
  rng, arrays = np.random.default_rng(0), {'bands': np.array(taken), 'classes': np.array(classes)}
  for split, count in (('train', 64), ('val', 16), ('test', 24)):
    label = np.arange(count) % 3
    level = 1000 + 500 * ((label[:, None] + np.arange(len(BANDS))) % 3)
    pixels = level[:, None, None, :] + rng.normal(0, 200, (count, 16, 16, len(BANDS)))
    pixels = pixels[..., [BANDS.index(name) for name in taken]] * scale
    arrays |= {f'X_{split}': pixels.astype(dtype), f'y_{split}': label}
  present = rng.random((64, len(taken))) < 0.8
  present[:, 0] = True
  np.savez(path, **{**arrays, 'present_train': present, **changes})
  return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('bands')
  bands(folder / 'bands.npz')
  return folder


def bands_config(path, **changes):
  return small_config(
    **{
      'data.source': 'arrays',
      'data.root': str(path),
      'data.channels': '',
      'data.train': 'train',
      'data.validation': 'val',
      'data.test': 'test',
      'data.wavelengths': (490, 560, 665, 842, 1610),
      'presence.mode': 'none',
      'train.epochs': 4.0,
      'evaluate.subsets': 'full;B03,B04;B08',
      **changes,
    }
  )


@pytest.fixture(scope='module')
def run(folder):
  workdir, config = folder / 'run', bands_config(folder / 'bands.npz')
  assert loop.run(config, workdir) == 0
  assert loop.run(config, workdir) == 0  # the same command again finds everything done
  return workdir


@pytest.fixture(scope='module')
def net(run):
  return flaxnets.load(run)


@pytest.fixture(scope='module')
def images(folder):
  return np.load(folder / 'bands.npz')['X_test']


def judged(run, name='test'):
  scores = json.loads((run / 'eval' / f'{name}.json').read_text())
  return {row['channels']: row for row in scores['subsets']}, np.load(run / 'eval' / f'{name}.npz')


def test_bands_train_with_missing_ones_and_are_judged_by_name(run, net, images, tmp_path):
  run = shutil.copytree(run, tmp_path / 'run')  # without the subsets that other tests evaluate
  assert net.channels.names == BANDS and net.channels.wavelengths == (490, 560, 665, 842, 1610)
  assert net.classes == CLASSES
  evaluate.run(run, subsets='full;B03,B04;B08')
  rows, arrays = judged(run)
  assert list(rows) == [','.join(BANDS), 'B03,B04', 'B08']
  np.testing.assert_array_equal(net.predict(images), arrays[f'prediction/{",".join(BANDS)}'])
  np.testing.assert_array_equal(net.predict(images[..., [2, 1]], 'B04,B03'), arrays['prediction/B03,B04'])


def test_without_a_word_all_31_subsets_are_judged(net):
  source = experiment.open_source(net.config, 'test', classes=net.classes)
  assert len(splits.subsets_in(net, source, '')) == 31


def test_a_plane_of_nan_is_a_channel_that_an_image_lacks(net, images):
  lacking = images.astype(np.float32)
  lacking[:6, :, :, 3:] = np.nan
  logits = net.logits(lacking)
  np.testing.assert_allclose(logits[:6], net.logits(images[:6, :, :, :3], 'B02,B03,B04'), rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(logits[6:], net.logits(images[6:]), rtol=1e-3, atol=1e-3)


def test_a_missing_plane_among_channels_in_another_order_is_found_by_name(net, images):
  lacking = images[..., [4, 1]].astype(np.float32)
  lacking[..., 0] = np.nan
  np.testing.assert_allclose(
    net.logits(lacking, ['B11', 'B03']), net.logits(images[..., [1]], 'B03'), rtol=1e-3, atol=1e-3
  )


def test_other_pixels_that_are_no_numbers_are_named(net, images):
  broken = images.astype(np.float32)
  broken[2, 3, 3, 1] = np.inf
  with pytest.raises(InputError, match='image 2 has NaN or infinite pixels in channel B03'):
    net.predict(broken)
  broken[2] = np.nan
  with pytest.raises(InputError, match='image 2 has none of the channels B02,B03,B04,B08,B11'):
    net.predict(broken)


def test_dark_scenes_are_judged_and_another_scale_is_refused(net, images):
  dark = (images // 30).astype(np.uint16)  # at most a fortieth of the brightest training pixel, as digital numbers
  assert net.predict(dark).shape == (24,)
  assert net.predict(images.astype(np.float32) / 15).shape == (24,)
  with pytest.raises(InputError, match=r'these images reach 0\.\d+, but the network was trained on \d+ to 2\d\d\d'):
    net.predict(images / 10_000)


def test_a_file_on_another_scale_is_not_judged(run, folder):
  other = bands(folder / 'reflectance.npz', scale=1e-4, dtype=np.float32)
  with pytest.raises(InputError, match=r'X_test in .*reflectance\.npz: these images reach 0\.\d+'):
    evaluate.run(run, subsets='full', root=str(other))


def test_a_sensor_with_fewer_bands_is_judged_on_those(run, folder):
  evaluate.run(run, subsets='B02,B04')
  expected = judged(run)[1]['prediction/B02,B04']
  other = bands(folder / 'fewer.npz', taken=('B04', 'B02'))
  arrays = np.load(other)
  complete = np.load(folder / 'bands.npz')
  np.savez(other, **{**arrays, 'X_test': complete['X_test'][..., [2, 0]]})
  evaluate.run(run, root=str(other))
  rows, arrays = judged(run, 'test-fewer')
  assert list(rows) == ['B02,B04', 'B02', 'B04']
  np.testing.assert_array_equal(arrays['prediction/B02,B04'], expected)
  with pytest.raises(InputError, match=r"fewer\.npz: no channel 'B08'; the channels are B02, B04"):
    evaluate.run(run, subsets='B08', root=str(other))


def test_a_network_that_names_its_bands_takes_a_file_that_lacks_some(folder, tmp_path):
  config = bands_config(
    folder / 'bands.npz',
    **{
      'data.channels': 'B02,B03,B08',
      'data.wavelengths': (490, 560, 842),
      'evaluate.subsets': 'full',
      'train.epochs': 1.0,
    },
  )
  loop.run(config, tmp_path / 'run')
  other = bands(tmp_path / 'fewer.npz', taken=('B08', 'B04', 'B02'))
  evaluate.run(tmp_path / 'run', subsets='full', root=str(other))
  assert list(judged(tmp_path / 'run', 'test-fewer')[0]) == ['B02,B08']


def test_a_file_without_any_known_band_is_refused(run, folder):
  other = bands(folder / 'other.npz', taken=('B03', 'B08'), bands=np.array(['VV', 'VH']))
  with pytest.raises(InputError, match="has the channels VV, VH, and none of the network's, which are B02, B03"):
    evaluate.run(run, root=str(other))


def test_a_file_whose_labels_count_other_classes_is_refused(run, folder):
  other = bands(folder / 'turned.npz', classes=('wood', 'sea', 'town'))
  with pytest.raises(InputError, match="class 'wood' is label 0 here, but label 1 of the 3 classes of the network"):
    evaluate.run(run, root=str(other))


def test_a_run_does_not_go_on_with_other_examples(folder, tmp_path):
  path = bands(tmp_path / 'bands.npz')
  save_untrained(bands_config(path), tmp_path / 'run')
  fewer = {key: value[:60] if key.endswith('_train') else value for key, value in np.load(path).items()}
  np.savez(path, **fewer)
  with pytest.raises(InputError, match='X_train in .* has other examples now than when the run began'):
    setup.prepare(bands_config(path), tmp_path / 'run')


def test_kernels_and_features_belong_to_the_logits(net, images):
  dense = net.variables['params']['head']['dense']
  np.testing.assert_allclose(
    net.features(images) @ dense['kernel'] + dense['bias'], net.logits(images), rtol=1e-3, atol=1e-4
  )
  np.testing.assert_array_equal(net.kernels(), net.variables['params']['stem']['conv']['kernel'])


def test_a_network_whose_outputs_are_not_finite_is_not_evaluated_and_predicts_nothing(run, images):
  broken = flaxnets.load(run)
  broken.variables['params']['head']['dense']['bias'] = np.full(3, np.nan, np.float32)
  with pytest.raises(InputError, match='the outputs of the network on B08 are not finite'):
    judge.evaluate(broken, subsets='B08')
  with pytest.raises(InputError, match='the outputs of the network are not finite'):
    broken.predict(images)
  with pytest.raises(InputError, match='the outputs of the network are not finite'):
    broken.predict(list(images[:2]))


def test_more_images_than_fit_at_once_are_worked_off_in_parts(net, images, monkeypatch):
  whole = net.logits(images)
  monkeypatch.setattr(flaxnets.inference.network, 'BATCH', 16)
  np.testing.assert_allclose(net.logits(images), whole, rtol=1e-3, atol=1e-4)


def test_a_cut_run_goes_on_to_the_same_weights_with_everything_switched_on(folder, tmp_path):
  config = bands_config(
    folder / 'bands.npz',
    **{
      'presence.mode': 'hierarchical',
      'train.ema': 0.9,
      'train.accumulate': 2,
      'train.warmup_epochs': 1.0,
      'train.clip_norm': 1.0,
      'train.label_smoothing': 0.1,
      'evaluate.subsets': 'full',
    },
  )
  loop.run(config, tmp_path / 'whole')
  train_and_cut(config, tmp_path / 'cut', steps=5)
  loop.run(config, tmp_path / 'cut')
  whole, again = (flaxnets.load(tmp_path / name, 'latest') for name in ('whole', 'cut'))
  assert whole.ema and again.ema
  for ours, theirs in zip(*(jax.tree.leaves(net.variables) for net in (again, whole)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  steps = [
    [line['step'] for line in map(json.loads, (tmp_path / name / 'metrics.jsonl').read_text().splitlines())]
    for name in ('cut', 'whole')
  ]
  assert steps[0] == steps[1]  # step 5 was told before the cut, and is told once


@pytest.mark.parametrize(
  ('changes', 'count', 'full'),
  [
    ({}, 64, 13),
    ({'evaluate.subsets': ''}, 64, 13),
    ({'evaluate.subsets': 'B01'}, 2, 13),
    ({'train.subset': 'full'}, 1, 13),
  ],
)
def test_more_than_ten_channels_are_evaluated_on_a_sample_unless_the_config_lists_subsets(changes, count, full):
  config = configs.default()
  config.update_from_flattened_dict(changes)
  found = experiment.subsets(config, ChannelSet(tuple(f'B{number:02}' for number in range(1, 14))), '')
  assert (len(found), len(found[0])) == (count, full)


def test_wrong_subsets_of_a_config_are_named_by_their_field():
  config = configs.default()
  channels = ChannelSet(tuple(f'B{number:02}' for number in range(1, 14)))
  listed = "list some, such as 'full;B01,B02', or try 'sample:64' or 'size>=12'"
  with pytest.raises(InputError, match=f"^evaluate.subsets: 'all' of 13 channels is 8,191 subsets; .* so {listed}"):
    experiment.validation_subsets(config, channels)
  config.evaluate.subsets = 'B99'
  with pytest.raises(InputError, match="^evaluate.subsets: no channel 'B99'"):
    experiment.subsets(config, channels, '')
