"""The code blocks of Markdown files, and a folder in which those of the documentation run."""

import os
import pathlib
import re
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]

# What may stand on the line above a block, or once on a page for all of its blocks.
_NOT_RUN = re.compile(r'<!-- not run: (.+) -->')
_PAGE_NOT_RUN = re.compile(r'^<!-- not run on this page: (.+) -->$', re.MULTILINE)
_NEEDS = re.compile(r'<!-- needs: ([\w, ]+) -->')
_FENCE = re.compile(r'( *)```(\S*)')


class Block(NamedTuple):
  """A code block.

  Attributes:
    line: of its first line of code, from 1.
    language: 'python', 'bash', 'text'; '' for a fence that names none; 'indented' for a block without a fence.
    code: its text.
    not_run: why it is not executed, as its page says; '' if it is.
    needs: modules without which it is skipped.
  """

  line: int
  language: str
  code: str
  not_run: str
  needs: tuple[str, ...]


def blocks(text: str) -> list[Block]:
  """The code blocks of a Markdown text, in order. Text in a list item is not taken for an indented block."""
  lines = text.split('\n')
  whole_page = _PAGE_NOT_RUN.search(text)
  found, index = [], 0
  while index < len(lines):
    above = lines[index - 1].strip() if index else ''
    if fence := _FENCE.fullmatch(lines[index]):
      end = next(place for place in range(index + 1, len(lines)) if lines[place].strip() == '```')
      code = '\n'.join(line.removeprefix(fence[1]) for line in lines[index + 1 : end]) + '\n'
      reason, needs = _NOT_RUN.fullmatch(above) or whole_page, _NEEDS.fullmatch(above)
      modules = tuple(name.strip() for name in needs[1].split(',')) if needs else ()
      found.append(Block(index + 2, fence[2], code, reason[1] if reason else '', modules))
      index = end
    elif lines[index].startswith('    ') and not above and not _in_list(lines[:index]):
      end = index
      while end < len(lines) and (lines[end].startswith('    ') or not lines[end].strip()):
        end += 1
      found.append(Block(index + 1, 'indented', '\n'.join(lines[index:end]), '', ()))
      index = end - 1
    index += 1
  return found


def _in_list(before: list[str]) -> bool:
  """Whether the last paragraph before is an item of a list, so that indented text continues it."""
  paragraph = next((line for line in reversed(before) if line.strip() and not line.startswith('    ')), '')
  return bool(re.match(r'\s*([-*]|\d+\.) ', paragraph)) or paragraph.startswith('  ')


def command_folder(tmp_path: pathlib.Path, monkeypatch) -> pathlib.Path:
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
