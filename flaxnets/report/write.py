"""From folders to a report's file."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from flaxnets.errors import InputError
from flaxnets.report.gather import gather
from flaxnets.runtime import atomic

FORMATS = ('html', 'md', 'json')


def write(folders: Sequence[str], out: pathlib.Path = pathlib.Path(), form: str = '', **options: str) -> pathlib.Path:
  """Writes a report.

  Args:
    folders: of runs and studies.
    out: the file; report.html, .md or .json in the current folder where it is empty.
    form: html, md or json; '' for what the file's ending says, html where it says nothing.
    options: as of `flaxnets.report.gather.gather`.

  Returns:
    The file.

  Raises:
    InputError: for folders that hold nothing to report, or a file that cannot be written.
  """
  form = form or (out.suffix[1:] if out.suffix[1:] in FORMATS else 'html')
  out = out if out.name else pathlib.Path(f'report.{form}')
  if not out.parent.is_dir():
    raise InputError(f'--out={out} cannot be written: there is no folder {out.parent}')
  report = gather(folders, **options)
  with atomic.writing(f'--out={out}'):
    if form == 'md':
      from flaxnets.report import markdown

      markdown.write(report, out)
    elif form == 'json':
      atomic.write_text(out, json.dumps(report, indent=1) + '\n')
    else:
      from flaxnets.report import page

      atomic.write_text(out, page.html(report))
  return out
