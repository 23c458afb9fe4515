"""How a study starts the process of a run."""

import concurrent.futures

from flaxnets.study import job


def test_outside_the_main_thread_a_study_launches_its_jobs_without_handlers(tmp_path, monkeypatch):
  class Child:
    returncode = 3

    def __init__(self, command, stdout, **_):
      stdout.write(b'first\nlast\n')

    def communicate(self, text):
      assert text == b'{}'

  monkeypatch.setattr(job.subprocess, 'Popen', Child)
  with concurrent.futures.ThreadPoolExecutor() as threads:
    assert threads.submit(job.launch, {}, tmp_path / 'log.txt').result() == (3, 'last')
