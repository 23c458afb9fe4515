"""Evaluation of many subsets a chunk at a time. Each chunk is written when done, so that an interrupted run resumes."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from flaxnets.analysis import results
from flaxnets.analysis.result_names import result_path
from flaxnets.analysis.text import counted
from flaxnets.channels import Subset
from flaxnets.evaluation.judge import SplitEvaluation
from flaxnets.runtime import atomic

CHUNK = 32  # subsets; each chunk is one pass over the data


def evaluate_missing(
  evaluation: SplitEvaluation, folder: str | os.PathLike[str], subsets: Sequence[Subset] | None = None
) -> pathlib.Path:
  """Evaluates the subsets that a run's result file lacks, CHUNK at a time, and adds each chunk to the file.

  Args:
    evaluation: the network and the split.
    folder: of the run.
    subsets: which; those of the evaluation if None.

  Returns:
    The path of the result file.

  Raises:
    InputError: if something cannot be evaluated or written.
  """
  folder = pathlib.Path(folder)
  wanted, label = evaluation.subsets if subsets is None else subsets, evaluation.net.channels.label
  # A second time where the file turned out to be of other examples, and was renamed with the subsets that it held.
  for _ in range(2):
    done = results.labels_done(folder, evaluation.identity)
    if missing := [subset for subset in wanted if label(subset) not in done]:
      known = f' ({len(wanted) - len(missing)} already evaluated)' if len(missing) < len(wanted) else ''
      announce(f'evaluating {counted(len(missing), "subset")}{known}; compiling {functions(evaluation, missing)}')
      _evaluate_chunks(evaluation, folder, missing)
  return result_path(folder, evaluation.identity)


def _evaluate_chunks(evaluation: SplitEvaluation, folder: pathlib.Path, missing: Sequence[Subset]) -> None:
  chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
  with progress(len(chunks) * evaluation.steps, counted(len(missing), 'subset')) as bar:
    for chunk in chunks:
      scores, arrays = evaluation.evaluate(chunk, on_batch=bar.update)
      if jax.process_index() == 0:
        write(scores, arrays, folder)


def write(scores: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: str | os.PathLike[str]) -> pathlib.Path:
  """`results.write`, with an InputError where the folder cannot be written."""
  with atomic.writing(f'{folder}/eval'):
    return results.write(scores, arrays, pathlib.Path(folder))


def functions(evaluation: SplitEvaluation, subsets: Sequence[Subset]) -> str:
  """How many functions an evaluation of some subsets compiles, as text."""
  return counted(evaluation.evaluator.compilations(subsets), 'function')


def announce(text: str) -> None:
  """Prints a line on stderr, on process 0."""
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)


def progress(total: int, text: str, *, unit: str = 'batch') -> tqdm:
  """A progress bar on stderr for work of more than a second, on process 0. In a log file, a line every 30 s."""
  return tqdm(
    total=total,
    desc=text,
    unit=unit,
    disable=jax.process_index() != 0,
    delay=1,
    dynamic_ncols=True,
    mininterval=0.2 if sys.stderr.isatty() else 30,
  )
