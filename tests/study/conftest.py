"""A study whose jobs only pretend, for the tests of its runner and of its table."""

import pathlib

import pytest

from flaxnets.study import runner
from flaxnets.study.folder import Study
from flaxnets.study.plan import plan
from tests.study.made import RUNS, pretend, two_steps


@pytest.fixture
def done(tmp_path, monkeypatch):
  """A study that was cut in its second run, went on, and was asked a third time; with its exit codes and jobs."""
  wanted = Study(plan(two_steps(), RUNS), tmp_path)
  codes, jobs = [], []

  def launch(job, log, locks=()):
    jobs.append(pathlib.Path(job['workdir']).name)
    if len(jobs) == 2:
      return 75, 'stopped'
    if job['config']['model']['completion'] == 'cubic':
      return 1, "no completion 'cubic'"
    pretend(job)
    return 0, ''

  monkeypatch.setattr(runner, 'launch', launch)
  for _ in range(3):
    codes.append(runner.run_study(wanted))
    jobs.append(None)
  return wanted, codes, jobs
