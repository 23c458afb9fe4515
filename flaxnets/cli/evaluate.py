"""Evaluates a trained network on subsets of its channels, prints a table and writes DIR/eval/SPLIT.json.

flaxnets eval --workdir=runs/demo                  or: flaxnets eval runs/demo
flaxnets eval --workdir=runs/demo --subsets='RGB;singles' --split=validation --latency
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from flaxnets.analysis.text import counted
from flaxnets.cli import flags as cli_flags
from flaxnets.errors import InputError

if TYPE_CHECKING:
  from flaxnets.inference.network import Network

ARGUMENTS = 'DIR'


def define(flags: absl_flags.FlagValues) -> None:
  add = cli_flags.definers(flags)
  add.string(
    'subsets',
    '',
    "subsets separated by ';': 'all', 'full', 'singles', 'pairs', 'RG', 'B02,B03', 'size>=2', 'sample:64'. Without "
    "this flag: all subsets for up to ten channels, otherwise the full set and the config's evaluate.subsets (64 "
    'random ones where it is all)',
  )
  add.string('split', 'test', 'train, validation, test, or a split as the data source names it')
  add.string('root', '', "replaces the config's data.root")
  add.string('step', 'best', 'checkpoint to evaluate: best, latest or a step')
  add.integer('batch_size', 0, "examples per batch; 0 for the config's evaluate.batch_size", lower_bound=0)
  add.boolean(
    'recalibrate',
    False,
    're-estimate BatchNorm statistics for each subset on training images, and use them where they help',
  )
  add.enum(
    'recalibrate_view',
    'evaluation',
    ['evaluation', 'training'],
    'augmentation of the images that statistics are estimated on',
  )
  add.integer(
    'recalibrate_images',
    2048,
    'images that statistics are estimated on; half as many others decide whether they help',
    lower_bound=1,
  )
  add.boolean('latency', False, 'measure the median time of one image on one device for each subset as well')
  add.string('completion', '', "how absent channels are treated, such as unit; left out: the run's model.completion")
  cli_flags.define_process_flags(flags)


def main(flags: absl_flags.FlagValues, arguments: Sequence[str]) -> int:
  (folder,) = arguments
  from flaxnets.runtime import devices, workdir  # JAX takes seconds to import

  devices.start(
    [flags.batch_size or workdir.stored_batch_size(folder)],
    coordinator=flags.coordinator,
    processes=flags.processes,
    process=flags.process,
  )
  from flaxnets.evaluation import recalibrate, splits
  from flaxnets.inference.restore import load

  if flags.recalibrate and flags.completion:
    raise InputError("--recalibrate is for the run's own completion; leave out --completion")
  with devices.ending_with_others('flaxnets eval'):
    if flags.recalibrate:
      net = load(folder, flags.step)
      source = splits.open_split(net, flags.split, flags.root)
      recalibrate.run(
        folder,
        subsets=splits.subsets_in(net, source, flags.subsets),
        step=flags.step,
        view=flags.recalibrate_view,
        images=flags.recalibrate_images,
        batch_size=flags.batch_size,
      )
    return run(
      folder,
      subsets=flags.subsets,
      split=flags.split,
      root=flags.root,
      step=flags.step,
      batch_size=flags.batch_size,
      recalibrated=flags.recalibrate,
      latency=flags.latency,
      completion=flags.completion,
    )


def run(
  workdir: str,
  *,
  subsets: str = '',
  split: str = 'test',
  root: str = '',
  step: str = 'best',
  batch_size: int = 0,
  recalibrated: bool = False,
  latency: bool = False,
  completion: str = '',
) -> int:
  """Evaluates a restored network, prints the table and writes the result; returns the exit code."""
  import jax

  from flaxnets.data import summary
  from flaxnets.evaluation import incremental
  from flaxnets.evaluation.judge import SplitEvaluation, table
  from flaxnets.inference.restore import load

  net = load(workdir, step, recalibrated=recalibrated, completion=completion)
  evaluation = SplitEvaluation(net, subsets=subsets, split=split, root=root, batch_size=batch_size)
  for line in summary.warnings_for_test(evaluation.source):
    incremental.announce(f'warning: {line}')
  count = len(evaluation.subsets)
  compiled = incremental.functions(evaluation, evaluation.subsets)
  incremental.announce(f'evaluating {counted(count, "subset")}; compiling {compiled}')
  with incremental.progress(evaluation.steps, f'step {net.step}') as bar:
    scores, arrays = evaluation.evaluate(on_batch=bar.update)
  if jax.process_index() == 0:
    path = incremental.write(scores, arrays, workdir)
    if latency:
      incremental.announce(f'measuring one image at a time on {counted(count, "subset")}')
      add_latencies(net, scores['subsets'])
      incremental.write(scores, arrays, workdir)
    print(
      f'{scores["model"]}, step {scores["step"]}, {scores["examples"]:,} examples of {split!r}'
      + (f', {evaluation.lacking}' if evaluation.lacking else '')
      + (f', completion {net.switched}' if net.switched else '')
      + (', recalibrated where that helps (*)' if recalibrated else '')
      + (f', {counted(scores["unreadable"], "unreadable example")} skipped' if scores['unreadable'] else '')
    )
    print(table(scores))
    print(f'written to {path}')
    if len(net.channels) > 1 and not net.config.train.subset and not recalibrated and not net.switched:
      options = [('--split', split, 'test'), ('--root', root, ''), ('--step', step, 'best')]
      others = [f'{name}={value}' for name, value, default in options if value != default]
      print(f'next: {shlex.join(["flaxnets", "worth", *others, str(workdir)])}')
  return 0


def add_latencies(net: Network, rows: Sequence[dict[str, Any]]) -> None:
  """Adds 'latency' to the rows of a result: the median seconds for one decoded image; see `Predictor.latency`."""
  from flaxnets.inference.predictor import Predictor

  for row in rows:
    row['latency'] = Predictor(net, row['channels']).latency()
