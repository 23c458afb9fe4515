"""The wheel, installed into an environment without the checkout and used from an empty folder."""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.small import flags

ROOT = pathlib.Path(__file__).parents[1]
STUDY = """
from flaxnets.config import named

def get_config():
  return named('demo')

def get_runs():
  return {'whole': {}, 'one channel': {'train.subset': 'R', 'presence.mode': 'none', 'evaluate.subsets': 'all'}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  out = tmp_path_factory.mktemp('wheel')
  options = ['--no-deps', '--no-build-isolation', '--quiet', '--disable-pip-version-check']
  subprocess.run([sys.executable, '-m', 'pip', 'wheel', *options, '-w', out, ROOT], check=True)
  return next(out.glob('flaxnets-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """The bin folder of a new environment with the wheel, which borrows this environment's dependencies."""
  home = tmp_path_factory.mktemp('environment')
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', home], check=True)
  site = next(home.glob('lib/python*/site-packages'))
  subprocess.run([
    sys.executable, '-m', 'pip', '--python', home / 'bin' / 'python', 'install', '--no-deps', '--quiet',
    '--disable-pip-version-check', wheel], env=without_checkout(), check=True)  # fmt: skip
  # A path in a .pth file is searched, but .pth files found there are not read: the editable install stays out of sight.
  (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
  return home / 'bin'


def without_checkout():
  """The environment variables without PYTHONPATH, by which pip and Python could find the checkout."""
  return {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}


def run(program, *arguments, folder):
  done = subprocess.run([program, *arguments], cwd=folder, env=without_checkout(), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_every_config_and_no_more(wheel):
  held = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
  package = {path for path in (ROOT / 'flaxnets').rglob('*') if path.is_file() and path.suffix != '.pyc'}
  configs = {f'flaxnets/{path.relative_to(ROOT).as_posix()}' for path in (ROOT / 'configs').rglob('*.py')}
  assert held == {path.relative_to(ROOT).as_posix() for path in package} | configs


def test_an_installed_program_trains_evaluates_reports_and_studies_from_an_empty_folder(installed, tmp_path):
  program = installed / 'flaxnets'
  where = run(installed / 'python', '-c', 'import flaxnets; print(flaxnets.__file__)', folder=tmp_path)
  assert str(ROOT / 'flaxnets') not in where
  run(program, 'train', '--config=demo', '--workdir=run', *flags(), folder=tmp_path)
  run(program, 'eval', '--workdir=run', '--subsets=RGB;R', folder=tmp_path)
  scores = json.loads((tmp_path / 'run' / 'eval' / 'test.json').read_text())
  assert [row['channels'] for row in scores['subsets']] == ['RGB', 'R']
  run(program, 'report', 'run', '--out=report.html', folder=tmp_path)
  assert '</html>' in (tmp_path / 'report.html').read_text()
  (tmp_path / 'two.py').write_text(STUDY)
  run(program, 'study', '--config=two.py', '--out=study', *flags(), folder=tmp_path)
  rows = json.loads((tmp_path / 'study' / 'table.json').read_text())['rows']
  assert [(row['name'], row['status']) for row in rows] == [('whole', 'done'), ('one channel', 'done')]
