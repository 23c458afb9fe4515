"""The table of a study: table.json for programs, table.md for people."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxnets import experiment
from flaxnets.analysis import comparison
from flaxnets.analysis.results import Hits, read_hits
from flaxnets.augment import presence
from flaxnets.errors import InputError
from flaxnets.runtime import atomic, locks, records
from flaxnets.study import table_text
from flaxnets.study.folder import Study, recorded
from flaxnets.study.plan import PlannedRun
from flaxnets.training import resolution

# MACs of a training step relative to its forward pass: gradients of weights and of activations cost one more each.
TRAINING_TO_FORWARD = 3


def make_table(study: Study, against: str = '') -> dict[str, Any]:
  """The results of a study's runs so far.

  Args:
    study: the study; some or all of its runs may be unfinished.
    against: the reference run (its name without a seed) that differences are computed against; '' for the first run
      that is not an expert.

  Returns:
    'split'; 'examples', their number; 'reference', the name of the reference run; 'rows', one per run in the study's
    order; 'means', one per run with finished seeds, averaged over these seeds.
    A row has 'name', 'run' (the name without a seed), 'seed', 'changes', 'status' (done, failed, interrupted or
    waiting), 'error', and its cost: 'epochs', 'batch_size', 'passes' per step, 'images_seen', 'forward_macs' of one
    image with all channels at image_size, 'training_macs' = 3 x the forward MACs of all images seen (at the sizes of
    train.image_sizes) x passes, 'seconds', 'commits', 'versions', 'device'. A finished run also has 'params', 'step',
    'skipped_steps' (whose loss was not usable), 'recalibrated' and the fields of
    `flaxnets.analysis.comparison.compared`. Accuracies are fractions. The accuracy of an expert is the mean over its
    seeds.

  A run that was evaluated on other images than the first finished one is a failed row.

  Raises:
    InputError: if `against` is not a run.
  """
  reference = reference_of(study.runs, against)
  rows, hits_of = _rows(study)
  finished = [run for run in study.runs if run.name in hits_of]
  compared = _comparing(finished, hits_of, reference)
  for run in finished:
    rows[run.name].update(compared([run]))
  return {
    'split': pathlib.PurePath(study.split).name,  # without the folder of its file: a table is shared with others
    'examples': len(hits_of[finished[0].name].ids) if finished else 0,
    'reference': reference,
    'rows': list(rows.values()),
    'means': _means(finished, rows, compared),
  }


def reference_of(runs: Sequence[PlannedRun], against: str) -> str:
  """The stem of the run that differences are computed against; '' if all runs are experts.

  Raises:
    InputError: if `against` is not the stem of a run.
  """
  stems = list(dict.fromkeys(run.stem for run in runs))
  if against and against not in stems:
    raise InputError(f'--against={against} is not a run; choose one of {", ".join(stems)}')
  return against or next((run.stem for run in runs if not run.config.train.subset), '')


def _rows(study: Study) -> tuple[dict[str, dict[str, Any]], dict[str, Hits]]:
  """The row of each run without comparisons, and the hits of each finished run, by the run's name."""
  rows: dict[str, dict[str, Any]] = {}
  hits_of: dict[str, Hits] = {}
  for run in study.runs:
    rows[run.name], hits = _row(study, run)
    if hits is not None:
      hits_of[run.name] = hits
  _set_apart_other_images(rows, hits_of)
  return rows, hits_of


def _row(study: Study, run: PlannedRun) -> tuple[dict[str, Any], Hits | None]:
  """A run's row without comparisons, and the hits of a finished run."""
  record, trained = recorded(study.folder(run)), study.named(run.weights) if run.weights else run
  train = trained.config.train
  row = {
    'name': run.name,
    'run': run.stem,
    'seed': run.config.seed,
    'changes': run.changes,
    'status': 'waiting',
    'error': record.get('error', ''),
    'epochs': train.epochs,
    'batch_size': train.batch_size,
    'passes': presence.PASSES.get(trained.config.presence.mode, 1),
    'seconds': record.get('seconds'),
    'commits': record.get('commits', []),
    'versions': record.get('versions', {}),
    'device': record.get('device', ''),
  }
  if conflict := study.conflict(run):
    return {**row, 'status': 'failed', 'error': f'its folder holds a different run: {conflict}'}, None
  if not study.finished(run):
    started = (study.folder(run) / 'config.json').exists()
    unfinished = 'interrupted' if started else 'waiting'
    return {**row, 'status': 'failed' if row['error'] else unfinished}, None
  try:
    scores, hits = read_hits(study.scores_file(run))
    steps, skipped = _steps(study, trained)
  except InputError as error:
    return {**row, 'status': 'failed', 'error': str(error)}, None
  largest, side = scores['subsets'][0], str(run.config.image_size)  # subsets are sorted by size
  return {
    **row,
    'status': 'done',
    'images_seen': steps * train.batch_size,
    'forward_macs': recorded(study.folder(trained)).get('training_macs', {}).get(side, largest['macs']),
    'params': largest['params'],
    'training_macs': TRAINING_TO_FORWARD * _seen_macs(study, trained, largest['macs'], steps) * row['passes'],
    'step': scores['step'],
    'skipped_steps': skipped,
    'recalibrated': scores['recalibrated'],
  }, hits


def _set_apart_other_images(rows: Mapping[str, dict[str, Any]], hits_of: dict[str, Hits]) -> None:
  """Takes runs out of `hits_of` that cannot be compared with the first one, and says why in their rows."""
  first = next(iter(hits_of), '')
  for name, row in rows.items():
    if name in hits_of and not hits_of[name].same_images(hits_of[first]):
      del hits_of[name]
      row.update(status='failed', error=f'was evaluated on other images than {first}; give all runs the same split')


def _seen_macs(study: Study, trained: PlannedRun, macs: int, steps: int) -> int:
  """The MACs of one forward pass of every image that a run's weights were trained on.

  Args:
    study, trained: the run that trained them.
    macs: of one image of image_size, for a run of a version that did not record those of its training images.
    steps: of its training.
  """
  by_side, config = recorded(study.folder(trained)).get('training_macs', {}), trained.config
  return config.train.batch_size * sum(
    by_side.get(str(side), macs) * length
    for side, length in resolution.steps_per_side(experiment.training_sides(config), steps)
  )


def _steps(study: Study, trained: PlannedRun) -> tuple[int, int]:
  """The number of training steps of a run, and of those that changed nothing, from its metrics.jsonl."""
  path = study.folder(trained) / 'metrics.jsonl'
  try:
    lines = list(map(records.loads, path.read_text('utf-8').splitlines()))
    return max(line['step'] for line in lines), max(line.get('skipped_steps') or 0 for line in lines)
  except (OSError, ValueError, KeyError) as error:
    raise InputError(f'{path}: the number of training steps cannot be read ({error})') from None


def _comparing(
  finished: Sequence[PlannedRun], hits_of: Mapping[str, Hits], reference: str
) -> Callable[[Sequence[PlannedRun]], dict[str, Any]]:
  """A function that compares the average of some seeds of a run with the run's experts and with the reference."""

  def averaged(seeds: Sequence[PlannedRun]) -> Hits:
    return comparison.mean_of([hits_of[seed.name] for seed in seeds])

  experts = comparison.experts_by_network(
    (run.network, hits_of[run.name]) for run in finished if run.config.train.subset
  )
  reference_seeds = [run for run in finished if run.stem == reference]
  reference_hits = averaged(reference_seeds) if reference_seeds else None

  def compared(seeds: Sequence[PlannedRun]) -> dict[str, Any]:
    run = seeds[0]
    own_experts = {} if run.config.train.subset else experts.get(run.network, {})
    return comparison.compared(averaged(seeds), own_experts, None if run.stem == reference else reference_hits)

  return compared


def _means(
  finished: Sequence[PlannedRun],
  rows: Mapping[str, Mapping[str, Any]],
  compared: Callable[[Sequence[PlannedRun]], dict[str, Any]],
) -> list[dict[str, Any]]:
  """A row for each run with finished seeds: their average, compared, and their mean cost."""
  means = []
  for stem in dict.fromkeys(run.stem for run in finished):
    seeds = [run for run in finished if run.stem == stem]
    first = rows[seeds[0].name]
    shared = {key: first[key] for key in ('epochs', 'batch_size', 'passes', 'forward_macs', 'params')}
    spent = {
      key: round(statistics.mean(rows[seed.name][key] for seed in seeds)) for key in ('images_seen', 'training_macs')
    }
    numbers = [seed.config.seed for seed in seeds]
    means.append({'run': stem, 'seeds': numbers, **shared, **spent, **compared(seeds)})
  return means


def write_table(study: Study, against: str = '') -> None:
  """Writes table.json and table.md, each atomically. Raises InputError if the folder cannot be written."""
  # The lock, so that an older table never replaces a newer one.
  with atomic.writing(f'the table in --out={study.out}'), locks.exclusive(study.out / '.table-lock'):
    table = make_table(study, against)
    records.write(study.out / 'table.json', table, indent=1)
    atomic.write_text(study.out / 'table.md', table_text.markdown(table))
