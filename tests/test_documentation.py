"""Every block of code in the documentation runs, or its page says why not; every command in it exists."""

import importlib
import importlib.util
import pathlib
import re
import shlex
import subprocess

import pytest

from flaxnets import config as configs
from flaxnets.cli.flags import defined
from flaxnets.cli.main import COMMANDS
from tests.markdown import ROOT, blocks, command_folder

PAGES = [
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((ROOT / 'docs').rglob('*.md')),
  *sorted((ROOT / 'examples').glob('*.md')),
]
# The README's Python blocks need names that a reader has at hand; tests/test_readme.py gives them and runs the blocks.
RUN_WITH_NAMES = {'README.md'}
# What needs no run: output, formulas, drawings and files.
NO_CODE = {'text', 'json', 'toml', 'yaml'}


def page_name(path):
  return path.relative_to(ROOT).as_posix()


def runnable(path):
  """The blocks of a page that are executed here."""
  return [
    block
    for block in blocks(path.read_text())
    if not block.not_run
    and (block.language == 'bash' or (block.language == 'python' and page_name(path) not in RUN_WITH_NAMES))
  ]


@pytest.mark.parametrize('path', PAGES, ids=page_name)
def test_every_block_runs_or_says_why_not(path):
  for block in blocks(path.read_text()):
    place = f'{page_name(path)}:{block.line}'
    assert block.language != 'indented', f'{place}: put this block between ``` fences with its language'
    assert block.language in {'python', 'bash'} | NO_CODE, f'{place}: no language {block.language!r}'
    assert len(block.not_run.split()) != 1, f'{place}: say why in a sentence'
    if block.needs:
      assert not block.not_run, f'{place}: either it is not run, or it needs modules'


def test_pages_of_which_blocks_run_are_those_expected():
  """A page that lost its blocks to a typing error in a marker would pass silently."""
  found = {page_name(path): len(runnable(path)) for path in PAGES if runnable(path)}
  assert set(found) >= {f'docs/tutorials/{name}.md' for name in ('images', 'bands', 'layer', 'experts', 'deploy')}
  assert all(count >= 2 for name, count in found.items() if name.startswith('docs/tutorials/')), found
  assert {path.name for path in (ROOT / 'docs' / 'tutorials').glob('*.md')} == {
    pathlib.PurePath(name).name for name in found if name.startswith('docs/tutorials/')
  }


@pytest.mark.slow
@pytest.mark.parametrize('path', [path for path in PAGES if runnable(path)], ids=page_name)
def test_the_blocks_of_a_page_run_in_order(path, tmp_path, monkeypatch):
  folder, names, left_out = command_folder(tmp_path, monkeypatch), {}, set()
  for block in runnable(path):
    if lacking := {name for name in block.needs if importlib.util.find_spec(name) is None}:
      left_out |= lacking
      continue
    if block.language == 'python':
      # The line numbers of the page, for tracebacks.
      exec(compile('\n' * (block.line - 1) + block.code, page_name(path), 'exec'), names)
    else:
      done = subprocess.run(['bash', '-e', '-c', block.code], cwd=folder, capture_output=True, text=True)
      assert done.returncode == 0, f'{page_name(path)}:{block.line}\n{block.code}\n{done.stderr}'
  if left_out:
    pytest.skip(f'the rest ran, but {", ".join(sorted(left_out))} is not installed')


def commands_in(text):
  """The shell commands `flaxnets ...` of a page's bash blocks and its inline code, as lists of words."""
  lines = []
  for block in blocks(text):
    if block.language == 'bash':
      lines += block.code.replace('\\\n', ' ').splitlines()
  lines += [code for code in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', text)]
  for line in lines:
    words = shlex.split(line, comments=True) if line.startswith('flaxnets ') else []
    if len(words) > 1 and not words[1].startswith('-') and re.fullmatch(r'[a-z]+', words[1]):
      yield words[1:]


@pytest.mark.parametrize('path', PAGES, ids=page_name)
def test_every_command_and_flag_that_a_page_names_exists(path):
  fields = configs.flattened(configs.default())
  for command, *words in commands_in(path.read_text()):
    assert command in COMMANDS, f'{page_name(path)}: no command {command!r}'
    flags = defined(importlib.import_module(f'flaxnets.cli.{COMMANDS[command][0]}'))
    for name in (word.removeprefix('--').partition('=')[0] for word in words if word.startswith('--')):
      if name.startswith('config.'):
        assert name.removeprefix('config.') in fields, f'{page_name(path)}: no field {name}'
      elif name == 'config':
        assert 'config_file' in flags, f'{page_name(path)}: flaxnets {command} takes no --config'
      else:
        assert name in flags or name == 'help', f'{page_name(path)}: flaxnets {command} has no flag --{name}'
