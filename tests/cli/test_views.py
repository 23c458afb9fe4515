"""The file of `flaxnets views`."""

import types

import pytest

from flaxnets.cli import views
from flaxnets.errors import InputError
from tests.small import small_config


class Cut:
  """A sheet that the disk has no room for."""

  def save(self, path):
    with open(path, 'wb') as file:
      file.write(b'half')
    raise OSError(28, 'No space left on device')


def test_a_sheet_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
  out = tmp_path / 'sheet.png'
  out.write_bytes(b'older')
  monkeypatch.setattr('flaxnets.report.contact_sheet.contact_sheet', lambda *_, **__: Cut())
  with pytest.raises(InputError, match='sheet.png cannot be written: No space left on device'):
    views.main(types.SimpleNamespace(config=small_config(), out=str(out)), [])
  assert out.read_bytes() == b'older' and list(tmp_path.iterdir()) == [out]
