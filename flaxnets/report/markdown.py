"""A report as Markdown, its pictures as files in a folder beside it."""

from __future__ import annotations

import base64
import html
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from flaxnets.analysis.text import markdown_grid
from flaxnets.report import figures, plots, tables
from flaxnets.report.page import SECTIONS
from flaxnets.runtime import atomic


def write(report: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes the Markdown to `path` and the pictures to a folder of the same name with '_files' behind it."""
  text, pictures = markdown(report, f'{path.stem}_files')
  folder = path.with_name(f'{path.stem}_files')
  folder.mkdir(exist_ok=True)
  for name, data in pictures.items():
    with atomic.replacing(folder / name) as beside:
      beside.write_bytes(data)
  atomic.write_text(path, text)


def markdown(report: Mapping[str, Any], folder: str) -> tuple[str, dict[str, bytes]]:
  """The text, with links to pictures in `folder`, and these pictures by file name."""
  pictures: dict[str, bytes] = {}
  drawn = plots.of_report(report)
  writers = {
    'summary': _summary(report),
    'subsets': [_table(tables.of_subsets(report))],
    'comparison': _comparison(report),
    'curves': _absent(report, 'curves'),
    'macs': [],
    'worth': [
      *_absent(report, 'worth'),
      *(_table(tables.of_worth(run)) for run in report['runs'] if 'absent' not in run['worth']),
    ],
    'confusions': list(_confusions(report)),
    'calibration': _absent(report, 'calibration'),
    'kernels': [*_absent(report, 'kernels'), *_kernels(report, folder, pictures)],
    'examples': [*_absent(report, 'examples'), *_examples(report, folder, pictures)],
    'channels': [
      *_absent(report, 'channel_stats'),
      *(_table(tables.of_channels(run)) for run in report['runs'] if 'absent' not in run['channel_stats']),
    ],
    'config': _config(report),
    'provenance': [_table(tables.of_provenance(report))],
  }
  parts = [f'# {_plain(report["title"])}', f'flaxnets {report["versions"].get("flaxnets", "")}, {report["date"]}']
  for name, title in SECTIONS.items():
    parts.append(f'## {title}')
    for plot in drawn.get(name, []):
      parts.append(_picture(plot.caption, f'{plot.name}.png', figures.png(plot), folder, pictures))
    parts += filter(None, writers[name])
    if parts[-1].startswith('## '):
      parts.append('The folders hold nothing for this section; `flaxnets eval --workdir=DIR` evaluates a run.')
  return '\n\n'.join(parts) + '\n', pictures


def _plain(value: Any) -> str:
  """Text that neither Markdown nor HTML takes for more than text; `markdown_grid` escapes the bars in cells."""
  return re.sub(r'([\\`*_\[\]#])', r'\\\1', html.escape(str(value), quote=False)).replace('\n', ' ')


def _code(text: str) -> str:
  """A code span, between more backticks than follow each other in the text."""
  inside = re.findall('`+', text)
  fence, space = '`' * (max(map(len, inside), default=0) + 1), ' ' if inside else ''
  return f'{fence}{space}{text}{space}{fence}'.replace('\n', ' ')


def _picture(caption: str, name: str, data: bytes, folder: str, pictures: dict[str, bytes]) -> str:
  pictures[name] = data
  return f'![{_plain(caption)}]({urllib.parse.quote(folder)}/{name})'


def _table(table: tables.Table) -> str:
  if not table.rows:
    return ''
  rows = [[_plain(f'{cell.text} ({cell.small})' if cell.small else cell.text) for cell in row] for row in table.rows]
  return f'{_plain(table.caption)}\n\n' + markdown_grid([_plain(name) for name in table.columns], rows)


def _absent(report: Mapping[str, Any], key: str) -> list[str]:
  """For each run without data for a section the sentence that says so."""
  said = []
  for run in report['runs']:
    found = run[key]
    if 'absent' in found:
      command = f' {_code(found["command"])}' if found['command'] else ''
      said.append(f'{_plain(run["name"])}: {_plain(found["absent"])}{command}')
  return said


def _summary(report: Mapping[str, Any]) -> list[str]:
  return [
    *map(_plain, report['summary']),
    *(f'**{_plain(run["name"])}**: {_plain(" ".join(run["summary"]))}' for run in report['runs']),
  ]


def _comparison(report: Mapping[str, Any]) -> list[str]:
  found = report['comparison']
  shown = [*map(_table, tables.of_comparison(report))]
  return shown or [f'{_plain(found["absent"])} {_code(found["command"])}']


def _confusions(report: Mapping[str, Any]) -> Iterator[str]:
  """The worst confusions of each run's first subset."""
  yield from _absent(report, 'confusions')
  for run in report['runs']:
    found = run['confusions']
    for label, subset in list(found['subsets'].items())[:1]:
      names = found['classes']
      rows = [
        [
          tables.text(names[truth]),
          tables.text(names[predicted]),
          tables.text(count),
          tables.share(count / found['examples'][truth]),
        ]
        for truth, predicted, count in subset['worst']
      ]
      caption = f'{run["name"]}: the worst confusions on {label}'
      yield _table(tables.Table('worst', caption, ['true', 'predicted', 'times', 'of the class'], rows))


def _kernels(report: Mapping[str, Any], folder: str, pictures: dict[str, bytes]) -> Iterator[str]:
  for number, run in enumerate(report['runs']):
    for place, sheet in enumerate(run['kernels'].get('sheets', [])):
      caption = f'Kernels of {run["name"]} on {sheet["subset"]}, a row a channel: {", ".join(sheet["channels"])}'
      yield _picture(caption, f'kernels-{number}-{place}.png', _bytes(sheet['uri']), folder, pictures)


def _examples(report: Mapping[str, Any], folder: str, pictures: dict[str, bytes]) -> Iterator[str]:
  for number, run in enumerate(report['runs']):
    for place, image in enumerate(run['examples'].get('images', [])):
      shown = [
        _picture(picture['name'], f'image-{number}-{place}-{index}.jpg', _bytes(picture['uri']), folder, pictures)
        for index, picture in enumerate(image.get('pictures', []))
      ]
      predicted = '; '.join(f'{label}: {name}' for label, name in image['predictions'].items())
      yield _plain(f'{image["label"]} ({image["id"]}): {predicted}') + ('\n\n' + ' '.join(shown) if shown else '')


def _config(report: Mapping[str, Any]) -> list[str]:
  differences = tables.of_differences(report)
  shown = [differences] if differences else []
  return [_table(table) for table in [*shown, *(tables.of_config(run) for run in report['runs'] if run['config'])]]


def _bytes(uri: str) -> bytes:
  return base64.b64decode(uri.partition(',')[2])
