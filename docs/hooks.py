"""Fills the reference pages when the documentation is built: the commands' help, and the fields of a config."""

import importlib
import inspect

from flaxnets import config
from flaxnets.cli import flags
from flaxnets.cli.main import COMMANDS

COMMANDS_MARK = '<!-- the help of every command -->'
FIELDS_MARK = '<!-- the fields of a config -->'


def on_page_markdown(markdown: str, **_) -> str:
  """Replaces the marks in a page; mkdocs calls this for every page."""
  if COMMANDS_MARK in markdown:
    return markdown.replace(COMMANDS_MARK, _commands())
  return markdown.replace(FIELDS_MARK, f'```python\n{inspect.getsource(config.default)}```')


def _commands() -> str:
  sections = []
  for command, (module, text) in COMMANDS.items():
    shown = flags.help_text(f'flaxnets {command}', importlib.import_module(f'flaxnets.cli.{module}'))
    sections.append(f'## {command}\n\n{text[0].upper()}{text[1:]}.\n\n```text\n{shown}\n```')
  return '\n\n'.join(sections)
