"""Every command and every Python block of the tutorials, executed in order, page by page."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs' / 'tutorials').glob('*.md'))
BLOCK = re.compile(r'(<!-- not run: [^>]+ -->\n)?```(\w*)\n(.*?)```', flags=re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty folder to work in, with this checkout's `flaxnets` on the path."""
  program = tmp_path / 'bin' / 'flaxnets'
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flaxnets "$@"\n')
  program.chmod(0o755)
  work = tmp_path / 'work'
  work.mkdir()
  monkeypatch.setenv('PATH', f'{program.parent}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '1')
  monkeypatch.chdir(work)
  return work


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_tutorial_runs(page, folder):
  names = {}
  ran = 0
  for skipped, language, code in BLOCK.findall(page.read_text()):
    if skipped:
      continue
    assert language in ('python', 'bash'), f'{page.name}: a block without a language cannot be run:\n{code}'
    if language == 'python':
      exec(compile(code, page.name, 'exec'), names)
    else:
      done = subprocess.run(['bash', '-e', '-c', code], cwd=folder, capture_output=True, text=True)
      assert done.returncode == 0, f'{code}\n{done.stderr}'
    ran += 1
  assert ran >= 2
