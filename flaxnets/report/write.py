"""From folders to a report's file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from flaxnets.errors import InputError
from flaxnets.report.gather import gather
from flaxnets.runtime import atomic, records

FORMATS = ('html', 'md', 'json')


def write(folders: Sequence[str], out: pathlib.Path | None = None, form: str = '', **options: str) -> pathlib.Path:
  """Writes a report.

  Args:
    folders: of runs and studies.
    out: the file, or an existing folder for report.html, .md or .json in it. None for the folder that the report is
      about, or the current one where it is about several.
    form: html, md or json; '' for what the file's ending says, html where it says nothing.
    options: as of `flaxnets.report.gather.gather`.

  Returns:
    The file.

  Raises:
    InputError: for folders that hold nothing to report, or a file that cannot be written.
  """
  if out is None:
    out = pathlib.Path(folders[0] if len(set(folders)) == 1 else '.')
  elif not out.parent.is_dir():
    raise InputError(f'--out={out} cannot be written: there is no folder {out.parent}')
  form = form or (out.suffix[1:] if out.suffix[1:] in FORMATS else 'html')
  report = gather(folders, **options)
  if out.is_dir():
    out /= f'report.{form}'
  with atomic.writing(f'--out={out}'):
    if form == 'md':
      from flaxnets.report import markdown

      markdown.write(report, out)
    elif form == 'json':
      records.write(out, report, indent=1)
    else:
      from flaxnets.report import page

      atomic.write_text(out, page.html(report))
  return out
