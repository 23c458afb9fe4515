"""`flaxnets verify`: what is damaged is named, in one line, and nothing else is."""

import collections
import contextlib
import json
import pathlib
import random
import shutil

import numpy as np
import pytest

from flaxnets import config as configs
from flaxnets.analysis import results
from flaxnets.cli import main
from flaxnets.inference.verify import Undigested, parts, verify
from flaxnets.runtime import records
from flaxnets.runtime.checkpoint import Checkpoints, digests
from flaxnets.training.journal import Board, Journal
from tests.damage import flip, largest_arrays


def make_run(folder: pathlib.Path) -> pathlib.Path:
  """A folder as a run of 20 steps leaves it, with arrays that are made up."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  records.write(folder / 'config.json', configs.to_json(configs.default()), indent=1)
  with contextlib.closing(Checkpoints(folder / 'checkpoints')) as checkpoints:
    for step, accuracy in ((10, 0.75), (20, 0.5)):
      state = {'params': {'kernel': rng.normal(size=(40, 50)).astype(np.float32), 'bias': np.zeros(50, np.float32)}}
      meta = {'progress': {'best': 0.75, 'waited': 0}}
      checkpoints.save(step, state, meta, {'accuracy': accuracy})
  with contextlib.closing(Checkpoints(folder / 'recalibrated')) as recalibrated:
    recalibrated.save(10, {'R': {'mean': rng.normal(size=8)}}, {'weights': 'x'})
  with (
    contextlib.closing(Journal(folder / 'metrics.jsonl', 0)) as lines,
    contextlib.closing(Board(folder / 'tensorboard', 0)) as board,
  ):
    for step in range(1, 21):
      lines.append(step, 'train', {'loss': 1 / step})
      board.add(step, 'train', {'loss': 1 / step})
  scores = {
    'split': 'test', 'root': '', 'step': 10, 'classes': ['a', 'b'], 'channels': ['R'],
    'subsets': [{'channels': 'R', 'accuracy': 0.5}],
  }  # fmt: skip
  arrays = {'id': np.array(['x', 'y']), 'label': np.array([0, 1]), 'prediction/R': np.array([0, 0])}
  results.write(scores, arrays, folder)
  (folder / 'parameters.txt').write_text('an overview\n')
  return folder


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp('made') / 'run')


@pytest.fixture
def run(made, tmp_path):
  return pathlib.Path(shutil.copytree(made, tmp_path / 'run'))


def test_a_whole_run_has_no_problem_and_every_part_of_it_is_counted(run):
  outcome = verify(run)
  assert outcome.problems == [] and outcome.undigested == []
  assert outcome.summary() == '2 checkpoints, 1 recalibration, 1 record, 1 journal, 1 result, 1 event file'


def array_file(run):
  return largest_arrays(run / 'checkpoints' / '20')


def replace(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (lambda run: flip(array_file(run)), 'checkpoints/20 is corrupt: it differs from what was saved in params/kernel'),
    (lambda run: array_file(run).unlink(), 'checkpoints/20 cannot be read'),
    (lambda run: array_file(run).write_bytes(b''), 'checkpoints/20 cannot be read'),
    (lambda run: shutil.rmtree(run / 'checkpoints' / '20' / 'state'), 'checkpoints/20 cannot be read'),
    (lambda run: (run / 'checkpoints' / '30').mkdir(), 'checkpoints/30 cannot be read'),
    (lambda run: replace(run / 'checkpoints' / '10' / 'meta' / 'metadata', '0.75', '0.25'), 'in meta'),
    (lambda run: shutil.rmtree(run / 'checkpoints' / '10'), 'the best validation (0.7500) is missing'),
    (lambda run: flip(next((run / 'recalibrated').glob('10/**/d/*'))), 'recalibrated/10 '),
    (lambda run: replace(run / 'config.json', '"seed": 0', '"seed": 8'), 'config.json: is corrupt: its content'),
    (lambda run: (run / 'config.json').write_text(''), 'config.json: is corrupt: the file is empty'),
    (lambda run: (run / 'config.json').write_text('{"seed":'), 'config.json: is corrupt: not JSON'),
    (lambda run: (run / 'config.json').unlink(), 'config.json is missing'),
    (lambda run: replace(run / 'eval' / 'test.json', '0.5', '0.9'), 'test.json: is corrupt: its content differs'),
    (lambda run: (run / 'eval' / 'test.npz').unlink(), 'test.npz cannot be read (No such file or directory)'),
    (lambda run: (run / 'eval' / 'test.npz').write_bytes(b''), 'test.npz cannot be read'),
    (lambda run: flip(run / 'eval' / 'test.npz', bit=8 * 60), 'test.npz cannot be read'),
    (lambda run: np.savez(run / 'eval' / 'test.npz', id=['x', 'z'], label=[0, 1]), 'id differs from its digest'),
    (lambda run: replace(run / 'metrics.jsonl', '"step": 3', '"step": 2'), 'metrics.jsonl, line 3: its content'),
    (lambda run: (run / 'metrics.jsonl').write_text(''), 'metrics.jsonl ends at step 0, but there is a checkpoint of'),
    (lambda run: (run / 'metrics.jsonl').unlink(), 'metrics.jsonl is missing'),
    (lambda run: flip(next((run / 'tensorboard').iterdir())), 'differs from its checksum'),
  ],
)  # fmt: skip
def test_damage_is_named_in_one_line(run, damage, said):
  damage(run)
  (problem,) = verify(run).problems
  assert said in problem and '\n' not in problem and str(run) in problem


def test_a_killed_run_is_not_taken_for_a_damaged_one(run):
  """Half a checkpoint has another name, half a file a hidden one; TensorBoard's file ends within a record."""
  (run / 'checkpoints' / '30.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
  events = next((run / 'tensorboard').iterdir())
  events.write_bytes(events.read_bytes()[:-7])
  for name in ('.0123456789abcdef.config.json', 'eval/.0123456789abcdef.test.json'):
    (run / name).write_text('{"model": ')
  assert verify(run).problems == []


def test_files_that_people_put_into_a_run_are_not_taken_for_its_own(run):
  whole = verify(run).intact
  (run / 'labels.json').write_text('["cat", "dog"]')
  (run / 'predictions.jsonl').write_text('{"path": "a.jpg"}\n')
  (run / 'notes.json').write_text('not JSON')
  outcome = verify(run)
  assert (outcome.problems, outcome.undigested, outcome.intact) == ([], [], whole)


def test_files_of_an_earlier_version_are_read_and_counted_as_not_compared(run):
  fields = records.read(run / 'config.json')
  (run / 'config.json').write_text(json.dumps(fields))
  outcome = verify(run)
  assert outcome.problems == [] and outcome.undigested == [run / 'config.json']


def test_the_command_says_what_is_wrong_and_ends_with_1(run, capsys):
  assert main.run('verify', [str(run)]) == 0
  assert 'run: intact: 2 checkpoints, ' in capsys.readouterr().out
  flip(array_file(run))
  assert main.run('verify', [str(run)]) == 1
  first, last = capsys.readouterr().out.splitlines()
  assert 'checkpoints/20 is corrupt' in first and '1 part corrupt or missing; intact: 1 checkpoint, ' in last


def test_a_study_and_single_files_are_compared_too(run, tmp_path, capsys):
  study = tmp_path / 'study'
  shutil.copytree(run, study / 'first')
  records.write(study / 'study.json', {'runs': ['first']}, indent=1)
  records.write(study / 'table.json', {'rows': [0.25]}, indent=1)
  result = run / 'eval' / 'test.json'
  assert main.run('verify', [str(study), str(result)]) == 0
  (first, second) = capsys.readouterr().out.splitlines()
  assert first.startswith(f'{study}: intact: 3 records, 2 checkpoints')
  assert second.startswith(f'{result}: intact: 1 result')
  table = study / 'table.json'
  table.write_text(table.read_text().replace('0.25', '0.75'))
  assert main.run('verify', [str(study), str(result)]) == 1
  assert f'{table}: is corrupt' in capsys.readouterr().out


def owner(all_parts, file):
  """The part that a file belongs to; None for a file that holds nothing that is read again."""
  for part in all_parts:
    related = {part.path, part.path.with_suffix('.npz') if part.kind == 'result' else part.path}
    described = part.path.with_name(part.path.name.removesuffix('.json')) if part.kind == 'record' else part.path
    if part.kind != 'run' and (file in related or file == described or part.path in file.parents):
      return part
  return None


def restored(part):
  """Digests of what a checkpoint restores."""
  store = Checkpoints(part.path.parent, writing=False)
  with contextlib.closing(store):
    state, meta = store.restore(int(part.path.name))
  return digests(state), meta


def flips(folder, count, seed):
  """Flips bits in random files, one at a time, each of which is found or changes nothing that is read.

  Returns how many were found in files of each kind of part. Files that are read as no part are of the kind ''.
  """
  rng, all_parts = random.Random(seed), list(parts(folder))
  files = sorted(path for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
  good = {part.path: restored(part) for part in all_parts if part.kind in ('checkpoint', 'recalibration')}
  tally = collections.Counter()
  for _ in range(count):
    file = rng.choice(files)
    before = file.read_bytes()
    bit = rng.randrange(8 * len(before))
    flip(file, bit)
    part = owner(all_parts, file)
    try:
      problem = '' if part is None else part.problem()
    except Undigested:  # the name of the digest has changed
      problem = ''
    if not problem and part is not None and part.path in good:
      assert restored(part) == good[part.path], f'bit {bit} of {file} changes what is restored'
    elif not problem and part is not None:
      assert unchanged(part, file, before), f'bit {bit} of {file} was not found'
    tally[part.kind if part else ''] += bool(problem)
    file.write_bytes(before)
  return tally


def unchanged(part, file, before):
  """Whether a JSON or an .npz holds the same values as before; only its spelling differs."""
  after = file.read_bytes()
  if file.suffix == '.npz':
    results.read_arrays(part.path, records.read(part.path))  # raises for arrays that differ from their digest
    return True
  lines = zip(before.splitlines(), after.splitlines(), strict=True) if part.kind == 'journal' else [(before, after)]

  def values(text):
    return list(json.loads(text).items())[:-1]  # without the digest, which comes last

  return all(values(one) == values(other) for one, other in lines)


def test_no_flipped_bit_of_a_made_run_goes_unnoticed(run):
  found = flips(run, count=60, seed=1)
  assert found['checkpoint'] and found['recalibration'] and not found['']


@pytest.mark.slow
def test_none_of_200_flipped_bits_in_a_real_run_goes_unnoticed(tmp_path):
  from flaxnets.cli import evaluate
  from flaxnets.evaluation import recalibrate
  from flaxnets.inference.export import export
  from flaxnets.inference.restore import load
  from flaxnets.training import loop
  from tests.small import small_config

  folder = tmp_path / 'run'
  assert loop.run(small_config(**{'model.name': 'resattention', 'evaluate.subsets': 'RGB'}), folder) == 0
  recalibrate.run(folder, subsets='R', images=64)
  evaluate.run(str(folder), subsets='R')
  net = load(folder)
  export(net, folder / 'R.stablehlo', 'R')
  export(net, folder / 'all.safetensors', format='safetensors')
  assert verify(folder).problems == []
  found = flips(folder, count=200, seed=2)
  kinds = ('checkpoint', 'recalibration', 'result', 'record', 'journal', 'export', 'event file')
  assert all(found[kind] for kind in kinds) and not found[''], found


def test_a_folder_without_anything_of_flaxnets_is_not_called_intact(tmp_path, capsys):
  (tmp_path / 'notes.txt').write_text('none of ours')
  assert main.run('verify', [str(tmp_path)]) == 1
  assert 'holds nothing to verify; give the folder of a run or a study' in capsys.readouterr().err
