"""Text for people: numbers with a noun, short commits, tables in columns for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def counted(count: float, noun: str) -> str:
  """A number with its noun, such as '1 subset', '1.5 epochs' or '2,000 steps'. The plural must end in a plain s."""
  shown = f'{int(count) if count == int(count) else count:,}'
  return f'{shown} {noun}' if count == 1 else f'{shown} {noun}s'


def over_some(values: Mapping[str, float | None]) -> str:
  """' (1 of 7 subsets)' behind a mean over some of the subsets alone; '' where all are known, or none."""
  known = sum(value is not None for value in values.values())
  return f' ({known} of {counted(len(values), "subset")})' if 0 < known < len(values) else ''


def short_commit(commit: str) -> str:
  """The first ten digits of a full commit hash, and '-dirty' where that follows it."""
  return commit[:10] + commit[40:]


def labels_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """The labels of the subsets in the 'accuracy' of some rows, in the order of the row that has most."""
  by_number = sorted(rows, key=lambda row: -len(row['accuracy']))  # one with all subsets has them in order
  return list(dict.fromkeys(label for row in by_number for label in row['accuracy']))
