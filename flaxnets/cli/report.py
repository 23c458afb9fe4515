"""Writes a report about a run, several runs or a study: a page that opens from a file, Markdown or JSON.

    flaxnets report runs/demo
    flaxnets report runs/rgb --out=rgb.html             a study's folder: all its runs and its table
    flaxnets report runs/one runs/two --against=one     differences with intervals

The page holds the table of subsets, learning curves, accuracy against MACs, the worth of channels, confusions,
calibration, kernels, images that one subset gets right and another wrong, the configs and where the numbers come from.
What a run lacks is named with the command that gives it; a run that still goes on can be reported.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

ARGUMENTS = 'DIR [DIR...]'


def define(flags: absl_flags.FlagValues) -> None:
  values = {'flag_values': flags}
  absl_flags.DEFINE_string('out', '', 'the file to write; report.html, .md or .json if left out', **values)
  absl_flags.DEFINE_enum(
    'format', '', ['', 'html', 'md', 'json'], "as --out's ending says if left out; md has its pictures beside", **values
  )
  absl_flags.DEFINE_string(
    'result', '', 'the result to show, DIR/eval/NAME.json; test, or the latest, if left out', **values
  )
  absl_flags.DEFINE_string('against', '', 'the run that differences are taken to; the first if left out', **values)
  absl_flags.DEFINE_string('root', '', 'where the images are, if not where the result says', **values)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> None:
  from flaxnets.report import write  # matplotlib takes a while to import

  path = write.write(
    arguments, pathlib.Path(flags.out), flags.format, result=flags.result, against=flags.against, root=flags.root
  )
  print(path)
