"""How configs are found by name."""

import pytest

from flaxnets import config as configs


@pytest.mark.parametrize('name', ['demo', './demo', 'demo.py'])
def test_a_bare_name_is_a_config_of_flaxnets_whatever_the_current_folder_holds(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  for file in ('demo', 'demo.py'):
    (tmp_path / file).write_text('the text of something else')
  found = configs.path_of(name)
  assert found.samefile(configs.folder() / 'demo.py') if name == 'demo' else found.samefile(tmp_path / name)


def test_a_bare_name_that_flaxnets_does_not_know_is_a_file_of_the_current_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine').write_text('')
  assert configs.path_of('mine').samefile(tmp_path / 'mine')
