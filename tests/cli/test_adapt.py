"""The flags of `flaxnets adapt` that say which classes and which sensor's bands the data have."""

import re

import numpy as np
import pytest

import flaxnets
from flaxnets.channels import ChannelSet
from flaxnets.cli import main
from flaxnets.inference import run_folder
from flaxnets.nn import stem as stems
from tests.inference.test_adapt import network, scene

LANDSAT = ('B2', 'B3', 'B4', 'B5')  # with Landsat 8's meanings: blue, green, red, near infrared


@pytest.fixture
def adapted(tmp_path, devices_started):
  """A function of flags, channels and classes of the data: adapts a network of R, G, B and the classes a to e."""
  run_folder.write(network(), tmp_path / 'run', {})

  def adapt(*flags, channels=('B02', 'B03', 'B04', 'B08'), classes='abcde', code=0):
    labels = np.resize(np.asarray(list(classes)), 6)
    np.savez(tmp_path / 'bands.npz', bands=channels, X_train=scene(), y_train=labels, classes=list(classes))
    data = [f'--config.data.{field}' for field in ('source=arrays', f'root={tmp_path / "bands.npz"}', 'train=train')]
    out = tmp_path / f'new{len(list(tmp_path.iterdir()))}'
    assert main.run('adapt', [str(tmp_path / 'run'), f'--out={out}', *data, *flags]) == code
    return flaxnets.load(out) if code == 0 else None

  return adapt


def head(net):
  return net.variables['params']['head']['dense']['kernel']


@pytest.mark.parametrize(
  ('flag', 'classes', 'kept', 'said'),
  [
    ('auto', 'abcde', True, 'head kept, 5 classes (the classes are the same)'),
    ('auto', 'wxy', False, 'head new, 3 classes (not trained yet)'),
    ('keep', 'wxy', True, 'head kept, 5 classes (--head=keep)'),
    ('new', 'abcde', False, 'head new, 5 classes (not trained yet)'),
  ],
)
def test_the_head_is_kept_or_new_as_the_flag_and_the_classes_say(adapted, capsys, flag, classes, kept, said):
  net = adapted(f'--head={flag}', classes=classes)
  assert said in capsys.readouterr().out
  assert net.classes == tuple('abcde' if kept else classes)
  own = head(network())
  assert head(net).shape == (own.shape[0], len(net.classes))
  assert (head(net).shape == own.shape and np.array_equal(head(net), own)) == kept


def test_a_name_of_several_bands_means_what_the_sensor_calls_so(adapted, capsys):
  adapted(channels=LANDSAT, code=1)
  assert (
    "channel 'B2' is blue (sentinel2), blue (landsat8), green (landsat7); say which with" in capsys.readouterr().err
  )
  own = stems.bank(network().variables)
  for sensor, meant in (('landsat8', {'B2': 'B', 'B3': 'G', 'B4': 'R'}), ('landsat7', {'B2': 'G', 'B3': 'R'})):
    net = adapted(f'--sensor={sensor}', channels=LANDSAT)
    said = capsys.readouterr().out
    assert net.channels == ChannelSet(LANDSAT)
    assert dict(re.findall(r'(\w+) is (\w+) of the network', said)) == meant
  # With all of the network's channels in the data, their kernels are as they were.
  net = adapted('--sensor=landsat8', channels=LANDSAT)
  np.testing.assert_array_equal(stems.bank(net.variables)[:, :, :3], own[:, :, ::-1])


def test_an_unknown_sensor_is_told_with_the_known_ones(adapted, capsys):
  adapted('--sensor=spot', channels=LANDSAT, code=1)
  assert capsys.readouterr().err == ("flaxnets adapt: no sensor 'spot'; there are sentinel2, landsat8, landsat7\n")
