"""Writes a report about a run, several runs or a study: a page that opens from a file, Markdown or JSON.

    flaxnets report runs/demo                           writes runs/demo/report.html
    flaxnets report runs/rgb --out=rgb.html             a study's folder: all its runs and its table
    flaxnets report runs/one runs/two --against=one     differences with intervals

The page shows the table of subsets, learning curves, accuracy against MACs, the contribution of each channel,
confusions, calibration, kernels, images that one subset classifies correctly and another does not, the configs, and the
origin of the numbers. For missing results it names the command that produces them. Runs may still be in progress.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from flaxnets.cli import flags as cli_flags

ARGUMENTS = 'DIR [DIR...]'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string(
    'out',
    '',
    'file to write, or a folder for report.html, report.md or report.json. Without this flag the folder DIR, or the '
    'current folder for several',
  )
  add.enum(
    'format',
    '',
    ['', 'html', 'md', 'json'],
    "format of the file; by default that of --out's suffix. md writes its pictures to files beside it",
  )
  add.string('result', '', 'NAME of the result file DIR/eval/NAME.json to show; without this flag test or the latest')
  add.string('against', '', 'reference run for differences; without this flag the first that is not an expert')
  add.string('root', '', 'folder or file of the images, if they have moved since the evaluation')


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.report import write  # Matplotlib is slow to import

  out = pathlib.Path(flags.out) if flags.out else None
  path = write.write(arguments, out, flags.format, result=flags.result, against=flags.against, root=flags.root)
  print(path)
