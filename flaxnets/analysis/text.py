"""Text for people: numbers with a noun, tables in columns for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def columns(lines: Sequence[Sequence[str]]) -> str:
  """Rows of cells in columns; the first is aligned left, the others right."""
  widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]

  def padded(first: str, *others: str) -> list[str]:
    return [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]

  return '\n'.join('  '.join(padded(*line)).rstrip() for line in lines)


def markdown_grid(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
  """A Markdown table; vertical bars inside cells are escaped."""
  rows = [header, ['---'] * len(header), *lines]
  return '\n'.join('| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in row) + ' |' for row in rows)


def counted(count: int, noun: str) -> str:
  """A number with its noun, such as '1 subset' or '2,000 subsets'. The plural must end in a plain s."""
  return f'{count:,} {noun}' if count == 1 else f'{count:,} {noun}s'
