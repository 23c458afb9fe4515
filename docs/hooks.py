"""Fills the command reference with the commands' own help when the documentation is built."""

import importlib

from flaxnets.cli import flags
from flaxnets.cli.main import COMMANDS

MARK = '<!-- the help of every command -->'


def on_page_markdown(markdown: str, **_) -> str:
  """Replaces MARK in a page; mkdocs calls this for every page."""
  if MARK not in markdown:
    return markdown
  sections = []
  for command, (module, text) in COMMANDS.items():
    shown = flags.help_text(f'flaxnets {command}', importlib.import_module(f'flaxnets.cli.{module}'))
    sections.append(f'## {command}\n\n{text[0].upper()}{text[1:]}.\n\n```text\n{shown}\n```')
  return markdown.replace(MARK, '\n\n'.join(sections))
