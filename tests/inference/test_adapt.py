"""flaxnets adapt: a network for other channels than it was trained on."""

import jax
import numpy as np
import pytest

import flaxnets
from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.cli import main
from flaxnets.errors import InputError
from flaxnets.inference import adapt, run_folder
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.nn import stem as stems

CORRELATION = np.asarray([[1, 0.9, 0.7], [0.9, 1, 0.9], [0.7, 0.9, 1]])
BANDS = ChannelSet(('B02', 'B03', 'B04', 'B08'))  # blue, green, red: the other way round


def network(names='RGB', completion='linear', **changes):
  """A small network with random weights, without a compilation."""
  config = configs.default()
  config.update_from_flattened_dict(
    {'image_size': 16, 'model.width': 8, 'model.small_images': True, 'model.completion': completion, **changes}
  )
  channels = ChannelSet.of(names)
  model = experiment.build_network(config, channels, 5)
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, len(channels))))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: np.abs(rng.normal(0, 0.2, leaf.shape)).astype(np.float32), shapes)
  statistics = {
    'mean': np.asarray([120, 110, 100.0])[: len(channels)],
    'std': np.asarray([60, 55, 50.0])[: len(channels)],
    'correlation': CORRELATION[: len(channels), : len(channels)],
  }
  variables = jax.device_get(stems.put_statistics(variables, statistics))
  bounds = (0.0,) * len(channels), (255.0,) * len(channels)
  return Network(config, Metadata(channels, tuple('abcde'), 'uint8', *bounds), variables, 0, False)


def scene(bands=4, count=6, seed=1):
  """Images of correlated bands, on the scale of reflectances x 10,000."""
  rng = np.random.default_rng(seed)
  light = rng.normal(0, 1, (count, 16, 16, 1)) + 0.4 * rng.normal(0, 1, (count, 16, 16, bands))
  return (1500 + 300 * light * np.linspace(1, 1.5, bands)).clip(1).astype(np.float32)


def standardised(images):
  statistics = flaxnets.channel_statistics(images)
  return statistics, (images - statistics['mean']) / statistics['std']


def test_with_its_own_channels_present_a_network_sees_what_it_saw_before_to_the_bit():
  net, images = network(), scene()
  statistics = flaxnets.channel_statistics(images)
  adapted = net.adapt(BANDS, statistics)
  assert adapted.channels == BANDS and adapted.classes == net.classes
  old, new = stems.bank(net.variables), stems.bank(adapted.variables)
  for place, known in enumerate(('B', 'G', 'R')):
    np.testing.assert_array_equal(new[:, :, place], old[:, :, net.channels.index(known)])
  assert not new[:, :, 3].any()
  # Both on pixels that have the moments of their training data.
  old_net = network(**{'data.source': 'arrays'})
  own = {name: statistics[name][[2, 1, 0]] for name in ('mean', 'std')}
  old_net.variables['channel_stats']['stem']['standardize'] = own
  old_net.metadata = Metadata(net.channels, net.classes, 'float32', (0.0,) * 3, (6000.0,) * 3)
  expected = old_net.logits(images[..., [2, 1, 0]])
  np.testing.assert_allclose(adapted.logits(images), expected, rtol=2e-5, atol=2e-5)
  # Without R, G and B the new band stands for them.
  alone = adapted.logits(images[..., 3:], channels='B08')
  assert np.isfinite(alone).all() and np.abs(alone - alone[:1]).max() > 1e-3


def test_moments_are_those_of_the_data_or_of_the_network():
  net, statistics = network(), flaxnets.channel_statistics(scene())
  for how, expected in (('data', statistics['mean']), ('network', [100, 110, 120, statistics['mean'][3]])):
    found = stems.pixel_statistics(net.adapt(BANDS, statistics, standardise=how).variables)
    np.testing.assert_allclose(found['mean'], expected, rtol=1e-6)
  np.testing.assert_allclose(
    stems.correlation(net.adapt(BANDS, statistics).variables), statistics['correlation'], rtol=1e-6
  )


def test_channels_that_the_data_lack_are_folded_into_the_bands_that_predict_them():
  net = network()
  adapted = net.adapt(ChannelSet.of('B,G'), flaxnets.channel_statistics(scene(2)))
  folded, own = stems.bank(adapted.variables), stems.bank(net.variables)
  correlation = np.asarray(stems.correlation(adapted.variables), np.float64)
  # R from B and G: among the data's channels as measured, with R as the network knows it.
  weights = np.linalg.solve(correlation + 1e-3 * np.eye(2), [0.7, 0.9])
  for place, known in enumerate((2, 1)):
    np.testing.assert_allclose(folded[:, :, place], own[:, :, known] + weights[place] * own[:, :, 0], atol=1e-4)


def test_near_infrared_alone_stands_for_red_green_and_blue_by_its_wavelength():
  statistics = flaxnets.channel_statistics(scene(2))
  net = network(completion='unit')
  adapted, matched = adapt.adapt(net, ChannelSet.of('NIR,SWIR1'), statistics)
  assert matched.absent == ('R', 'G', 'B') and matched.new == ('NIR', 'SWIR1')
  assert np.abs(stems.bank(adapted.variables)).max() > 0.1
  known = ChannelSet(('x', 'y'), (842.0, 1610.0))
  same, _ = adapt.adapt(net, known, statistics)
  np.testing.assert_allclose(stems.bank(same.variables), stems.bank(adapted.variables), atol=0.05)


def test_distinct_predictions_have_unit_variance_and_keep_the_channels_apart():
  rng = np.random.default_rng(0)
  signals = rng.normal(size=(6, 4000))
  signals[1:] += signals[0]
  joint = np.corrcoef(signals)
  among, across, absent = joint[:3, :3], joint[3:, :3], joint[3:, 3:]
  results = {how: adapt.predictions(among, across, absent, how) for how in ('unit', 'distinct')}
  spread = {how: weights @ among @ weights.T for how, weights in results.items()}
  for covariance in spread.values():
    np.testing.assert_allclose(covariance.diagonal(), 1, atol=1e-6)
  np.testing.assert_allclose(spread['distinct'], absent, atol=0.02)
  assert np.abs(spread['unit'] - absent).max() > 0.2  # nearly the same mixture three times
  # One band is all there is: then both are that band.
  for how in results:
    one = adapt.predictions(np.ones((1, 1)), np.full((3, 1), 0.5), absent, how)
    np.testing.assert_allclose(one, 1, atol=1e-2)


def test_nearest_shares_kernels_among_bands_of_like_wavelength():
  net = network()
  channels = ChannelSet.of('B02,B03,B04,B08,B11')
  adapted = net.adapt(channels, flaxnets.channel_statistics(scene(5)), init='nearest')
  new, old = stems.bank(adapted.variables), stems.bank(net.variables)
  np.testing.assert_allclose(new[:, :, 0], old[:, :, 2], rtol=1e-6)
  for place in (2, 3, 4):
    np.testing.assert_allclose(new[:, :, place], old[:, :, 0] / 3, rtol=1e-6)
  np.testing.assert_allclose(new.sum(2), old.sum(2), rtol=1e-5)
  # Infrared alone: all of it is nearest to red, and green and blue are predicted.
  infrared = net.adapt(ChannelSet.of('B08,B11'), flaxnets.channel_statistics(scene(2)), init='nearest')
  assert np.abs(stems.bank(infrared.variables) - old[:, :, :1] / 2).max() > 0.01


def test_a_new_head_is_for_other_classes_and_the_network_itself_is_not_changed():
  net = network()
  before = jax.tree.map(np.copy, net.variables)
  adapted, _ = adapt.adapt(net, BANDS, flaxnets.channel_statistics(scene()), classes=('water', 'forest'))
  assert adapted.classes == ('water', 'forest')
  assert adapted.variables['params']['head']['dense']['kernel'].shape == (64, 2)
  jax.tree.map(np.testing.assert_array_equal, net.variables, before)


def test_images_in_arrays_keep_their_size_whatever_the_network_was_trained_on():
  net, images = network(**{'data.source': 'lists'}), scene()
  assert net.canvas == (24, 24)
  adapted = net.adapt(BANDS, flaxnets.channel_statistics(images))
  assert adapted.canvas is None and adapted._canvases(images) is images
  files = net.adapt(BANDS, flaxnets.channel_statistics(images), config=net.config)
  assert files.canvas == (24, 24)
  assert net.adapt(BANDS, flaxnets.channel_statistics(images), canvas=(20, 30)).canvas == (20, 30)


def test_an_adapted_network_is_no_experts_and_starts_from_nowhere():
  net = network('R', **{'train.subset': 'R', 'train.init_from': 'runs/older'})
  adapted = net.adapt(BANDS, flaxnets.channel_statistics(scene()))
  assert adapted.config.train.subset == '' and adapted.config.train.init_from == ''
  assert experiment.channel_set(adapted.config, BANDS) == BANDS


def test_the_statistics_that_are_given_stay_as_they_are():
  given = {name: np.asarray(value, np.float64) for name, value in flaxnets.channel_statistics(scene()).items()}
  before = {name: value.copy() for name, value in given.items()}
  network().adapt(BANDS, given, standardise='network')
  jax.tree.map(np.testing.assert_array_equal, given, before)


def test_class_names_may_be_an_array():
  adapted = network().adapt(BANDS, flaxnets.channel_statistics(scene()), classes=np.asarray(['water', 'forest']))
  assert adapted.classes == ('water', 'forest')


@pytest.mark.parametrize(
  ('channels', 'options', 'said'),
  [
    (
      'VV,VH',
      {},
      r'nothing says how R, G, B of the network .* VV, VH has no known wavelength; .* or map them \(--map=R:VV\)',
    ),
    ('B02,B03,B04,VV', {'init': 'nearest'}, r"^init='nearest' \(--init=nearest\) needs the wavelength of VV"),
    ('B02,B03', {'init': 'random'}, r"^init='random' \(--init=random\) is not possible; choose one of zero"),
    ('B02,B03,B04,B08', {'standardise': 'mine'}, r"^standardise='mine' \(--standardise=mine\) is not possible"),
    ('B02,B03', {'map': {'X': 'B02'}}, "no channel 'X'"),
  ],
)
def test_what_cannot_be_adapted_is_said_in_one_line(channels, options, said):
  known = ChannelSet.of(channels)
  with pytest.raises(InputError, match=said):
    network().adapt(known, flaxnets.channel_statistics(scene(len(known))), **options)


def test_the_baseline_with_an_ordinary_convolution_is_refused():
  net = network(**{'model.stem': 'conv'}, completion='mean')
  with pytest.raises(InputError, match='dynamic'):
    net.adapt(BANDS, flaxnets.channel_statistics(scene()))


def test_the_command_writes_a_run_from_images_without_labels(tmp_path, devices_started, capsys):
  run_folder.write(network(), tmp_path / 'run', {})
  np.savez(tmp_path / 'bands.npz', bands=list(BANDS.names), X_train=scene())
  data = [f'--config.data.{field}' for field in ('source=arrays', f'root={tmp_path / "bands.npz"}', 'channels=')]
  data += ['--config.data.train=train', '--config.data.label_key=']
  assert main.run('adapt', [str(tmp_path / 'run'), f'--out={tmp_path / "new"}', *data]) == 0
  said = capsys.readouterr().out
  for part in ('B04 is R of the network (red)', 'new to the network: B08', 'head kept, 5 classes', 'written to'):
    assert part in said
  net = flaxnets.load(tmp_path / 'new')
  assert net.channels.names == BANDS.names and net.metadata.dtype == 'float32' and net.config.image_size == 16
  assert net.config.data.label_key == '' and net.config.model.width == 8
  for arguments, message in (
    (['--map=R'], "must pair the network's channels"),
    (['--config.model.width=16'], 'model.width belongs to'),
  ):
    assert main.run('adapt', [str(tmp_path / 'run'), f'--out={tmp_path / "x"}', *arguments, *data]) == 1
    assert message in capsys.readouterr().err
