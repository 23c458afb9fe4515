"""`flaxnets views`: the contact sheet of what a network sees, and its file."""

import types

import numpy as np
import pytest
from PIL import Image

from flaxnets.augment.pipeline import training_view
from flaxnets.channels import ChannelSet
from flaxnets.cli import main, views
from flaxnets.data.source import ArraySource
from flaxnets.errors import InputError
from flaxnets.report.contact_sheet import contact_sheet
from tests.small import small_config


def test_the_contact_sheet_shows_rows_of_examples_in_false_colour():
  random = np.random.default_rng(0)
  images = random.normal(3000, 500, (30, 24, 24, 5)).astype(np.float32)
  images[..., 2] += np.linspace(0, 5000, 24)  # B04, shown red, rises to the right
  bands = ChannelSet.of('B02,B03,B04,B08,B11')
  source = ArraySource('bands', images, np.arange(30) % 3, bands, ('wood', 'wet', 'town'))
  augmentation = {'crop_scale': (0.5, 1.0), 'rotation': 5.0, 'perspective': 0.0}
  view = training_view(
    seed=0,
    source_index=range(5),
    canvas=(24, 24),
    image_size=16,
    statistics={'mean': np.zeros(5), 'std': np.ones(5)},
    augmentation=augmentation,
    presence_mode='hierarchical',
    presence_probability=0.0,
    presence_fill='absent',
  )
  page = np.asarray(contact_sheet(source, bands, view, image_size=16))
  assert page.shape == (40 + 12 * 100, 150 + 8 * 100 + 4, 3)
  cell = page[40:110, 150:246].astype(int)  # above the names of its channels
  assert cell[:, 64:, 0].mean() > cell[:, :32, 0].mean() + 100
  assert abs(cell[:, 64:, 1].mean() - cell[:, :32, 1].mean()) < 20
  assert (page[40:, :140] != 255).any() and (page[:40] != 255).any()  # class names, head


def test_the_contact_sheet_of_an_expert_shows_its_channels(tmp_path):
  flags = ['--config.data.source=synthetic', '--config.data.train=train[:24]', '--config.image_size=32']
  assert main.run('views', ['--config=default', *flags, '--config.train.subset=R', f'--out={tmp_path / "s.png"}']) == 0
  with Image.open(tmp_path / 's.png') as page:
    cell = np.asarray(page)[40:100, 150:246].reshape(-1, 3)
  assert (cell == cell[:, :1]).all() and np.ptp(cell) > 50  # R alone, shown gray


def test_the_command_writes_a_contact_sheet(tmp_path, capsys):
  out = tmp_path / 'sheet.png'
  fields = ['image_size=32', 'data.source=synthetic', 'data.train=train[:24]']
  assert main.run('views', ['--config=default', *(f'--config.{field}' for field in fields), f'--out={out}']) == 0
  assert capsys.readouterr().out == f'written to {out}\n'
  with Image.open(out) as page:
    assert page.size == (150 + 8 * 100 + 4, 40 + 12 * 100)


class Cut:
  """A sheet that the disk has no room for."""

  def save(self, path):
    with open(path, 'wb') as file:
      file.write(b'half')
    raise OSError(28, 'No space left on device')


def test_a_sheet_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
  out = tmp_path / 'sheet.PNG'
  out.write_bytes(b'older')
  monkeypatch.setattr('flaxnets.report.contact_sheet.contact_sheet', lambda *_, **__: Cut())
  with pytest.raises(InputError, match='sheet.PNG cannot be written: No space left on device'):
    views.main(types.SimpleNamespace(config=small_config(), out=str(out)), [])
  assert out.read_bytes() == b'older' and list(tmp_path.iterdir()) == [out]
