"""Text from users, made up by Hypothesis: it is read, or refused by an InputError. Nothing else happens."""

import contextlib
import io
import types

from flax import traverse_util
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flaxnets import config as configs
from flaxnets.channels import MAX_SUBSETS, ChannelSet
from flaxnets.cli import flags
from flaxnets.data.lists import open_list
from flaxnets.data.source import DataOptions
from flaxnets.errors import InputError

BANDS = ChannelSet(('B02', 'B03', 'B04', 'B08', 'B8A'))
# Pieces of what is valid are found more often than any text is valid.
PIECES = st.sampled_from(
  ['full', 'all', 'singles', 'pairs', 'size', '>=', '>', '<=', '<', '=', '2', '9', '-1', '0x2', 'sample:', ',', ';',
   ' ', 'B02', 'B08', 'b02', 'R', 'RG', ':', '64', '10000000000', '٣', '\x00', 'é', '']
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=6).map(''.join), st.text(max_size=12))
fuzz = settings(max_examples=300)


@fuzz
@given(TEXTS)
def test_a_list_of_subsets_is_of_the_channels_or_refused_in_one_line(text):
  try:
    found = BANDS.subsets(text)
  except InputError as error:
    assert '\n' not in str(error)
    return
  assert 0 < len(found) <= MAX_SUBSETS and len(set(found)) == len(found)
  for subset in found:
    assert 0 < len(subset) <= len(BANDS) and list(subset) == sorted(set(subset)) and subset[-1] < len(BANDS)
    assert BANDS.subsets(BANDS.label(subset)) == [subset]


@fuzz
@given(TEXTS)
def test_channel_names_are_read_or_refused_in_one_line(text):
  try:
    names = ChannelSet.of(text).names
  except InputError as error:
    assert '\n' not in str(error)
    return
  assert names and len(set(names)) == len(names) and all(name and not set(name) & set(' ,;') for name in names)
  assert ChannelSet(names).subset(names) == tuple(range(len(names)))


LINES = st.lists(
  st.one_of(
    st.tuples(
      st.sampled_from(['a/1.png', 'a/2 3.png', '../a/1.png', '/etc/passwd', 'a/../../b', './a/1.png', '', 'a//1.png']),
      st.sampled_from([' ', '\t', '  ', ',', '']),
      st.sampled_from(['0', '1', '-1', '2.0', '٣', '99999999999999999999', '1e3', 'wren', '']),
    ).map(''.join),
    st.text(alphabet=st.characters(exclude_categories=['Cs']), max_size=12),
  ),
  max_size=5,
)


@fuzz
@given(LINES, st.sampled_from(['\n', '\r\n']))
def test_a_split_file_names_files_below_the_root_or_is_refused_in_one_line(tmp_path_factory, lines, end):
  root = tmp_path_factory.getbasetemp() / 'fuzz'
  (root / 'a').mkdir(parents=True, exist_ok=True)
  (root / 'a/1.png').touch()
  (root / 'train.txt').write_bytes(end.join(lines).encode())
  try:
    source = open_list(DataOptions('lists', str(root), on_bad_image='skip'), 'train.txt')
  except InputError as error:
    assert '\n' not in str(error)
    return
  assert len(source) > 0 and source.labels.min() >= 0
  assert source.labels.max() < len(source.classes)
  assert not any(path.startswith(('/', '..')) for path in source.ids)


FIELDS = sorted(traverse_util.flatten_dict(configs.default().to_dict(), sep='.'))
VALUES = st.one_of(
  st.sampled_from(
    ['0', '-1', '1', '0.5', 'nan', 'inf', '-inf', '1e400', 'true', 'none', '()', '(1,)', '(0.5,a)', '[', '']
  ),
  st.text(alphabet=st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=8),
)
# A command that only reads and checks its config.
CHECK = types.SimpleNamespace(
  ARGUMENTS='', define=flags.define_config, main=lambda given, rest: configs.check(given.config)
)


@fuzz
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
@example({'augment.brightness': '\n'})
def test_an_override_of_a_config_is_taken_or_refused_in_one_line(overrides):
  arguments = [f'--config.{name}={value}' for name, value in overrides.items()]
  said = io.StringIO()
  with contextlib.redirect_stderr(said):
    code = flags.run('flaxnets check', CHECK, ['--config=demo', *arguments])
  assert code in (0, 1, 2)
  assert said.getvalue().count('\n') == (code > 0), said.getvalue()
