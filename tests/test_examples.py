"""The notebooks and the script of examples/ run as they stand, on images that they draw."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.markdown import ROOT, command_folder

NOTEBOOKS = sorted((ROOT / 'examples').glob('*.ipynb'))
ONNX = all(importlib.util.find_spec(name) for name in ('jax2onnx', 'onnx', 'onnxruntime'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
  cells = [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']
  assert len(cells) >= 5
  assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells)


def test_the_readme_of_the_examples_lists_each_of_them():
  text = (ROOT / 'examples' / 'README.md').read_text()
  names = [path.name for path in (ROOT / 'examples').iterdir() if path.suffix in ('.ipynb', '.py')]
  assert len(names) >= 3
  assert [name for name in names if f']({name})' not in text] == []


def run_notebook(name, folder):
  nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  notebook = nbformat.read(ROOT / 'examples' / name, as_version=4)
  nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(folder)}}).execute()
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
  assert sum('image/png' in output.get('data', {}) for output in outputs) >= 2
  assert any(output['output_type'] == 'stream' and '%' in output['text'] for output in outputs)


@pytest.mark.slow
def test_the_notebook_of_a_network_of_your_own_runs(tmp_path, monkeypatch):
  run_notebook('own_network.ipynb', command_folder(tmp_path, monkeypatch))


@pytest.mark.slow
def test_the_script_serves_a_request_from_the_run_that_the_notebook_of_an_analysis_shows(tmp_path, monkeypatch):
  """Both train the same network: the notebook finds the script's run, and would refuse it if the commands differed."""
  folder = command_folder(tmp_path, monkeypatch)
  run, script = folder / 'runs' / 'notebook', ROOT / 'examples' / 'serve.py'
  command = [sys.executable, script, '--workdir=runs/notebook']
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  served = [line for line in done.stdout.splitlines() if ' of the largest logit' in line and ' ms; ' in line]
  assert [line.partition(':')[0] for line in served] == ['StableHLO', *(['ONNX'] if ONNX else [])]
  assert ('ONNX is skipped, because ' in done.stdout) == (not ONNX)
  assert (run / 'rg.stablehlo.json').exists() and (run / 'rg.onnx').exists() == ONNX
  trained = (run / 'metrics.jsonl').read_text()
  run_notebook('analysis.ipynb', folder)
  assert (run / 'metrics.jsonl').read_text() == trained


def test_every_notebook_is_run_by_a_test():
  assert {path.name for path in NOTEBOOKS} == {'analysis.ipynb', 'own_network.ipynb'}
