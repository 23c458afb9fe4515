"""How configs are found by name, and what follows from their fields."""

import pytest

from flaxnets import config as configs
from flaxnets.errors import InputError


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


@pytest.mark.parametrize('stored', [False, True])
def test_a_config_and_its_json_give_the_canvas_and_the_splits(stored):
  config = configs.default()
  config.image_size = 31
  fields = configs.to_json(config) if stored else config
  assert configs.canvas_side(fields) == 46
  fields['data']['canvas'] = 40
  assert configs.canvas_side(fields) == 40
  names = ('train', 'validation', 'val', 'test', 'train[:10]')
  assert [configs.split_of(fields['data'], name) for name in names] == [
    'train.txt', 'val.txt', 'val.txt', 'test.txt', 'train[:10]',
  ]  # fmt: skip


def test_a_config_that_was_stored_without_a_canvas_has_one_half_larger_than_the_input():
  assert configs.canvas_side({'image_size': 32, 'data': {}}) == 48


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'seed': 'a'}, r"^the stored config has seed='a'; it must be of type int$"),
    ({'train': {'drops': 0.5}}, r'^the stored config has train\.drops=0\.5; it must be of type tuple$'),
  ],
)
def test_a_stored_field_of_another_type_is_refused_by_name(fields, said):
  with pytest.raises(InputError, match=said):
    configs.from_json(fields)


@pytest.mark.parametrize(
  ('field', 'value', 'said'),
  [
    ('train.epochs', None, r'^train\.epochs is None; every field needs a value'),
    ('data.root', None, r'^data\.root is None; every field needs a value'),
    ('data.wavelengths', ('red',), r"^data\.wavelengths is \('red',\); it must be numbers above 0, in nanometres"),
    ('data.wavelengths', (490.0, -1.0), r'^data\.wavelengths is \(490\.0, -1\.0\); it must be numbers above 0'),
  ],
)
def test_a_field_without_a_possible_value_is_refused_by_name(field, value, said):
  config = configs.default()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(InputError, match=said):
    configs.check(config)


def test_wavelengths_of_which_one_is_unknown_are_accepted():
  config = configs.default()
  config.data.wavelengths = (490, 560.5, None)
  configs.check(config)
