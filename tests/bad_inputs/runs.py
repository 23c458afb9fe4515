"""Trained runs whose files are corrupt, and what is asked of an intact one."""

import functools
import json
import os
import shutil
import tempfile

from tests.bad_inputs.case import Case
from tests.bad_inputs.images import png
from tests.bad_inputs.lists import image
from tests.damage import cut, flip, largest_arrays

EVAL = 'eval --workdir=DIR/run --batch_size=40'
PREDICT = 'predict DIR/run'


@functools.cache
def _trained():
  """A run of three steps with checkpoints at steps 2 and 3, and its evaluation; made once a process."""
  from flaxnets.cli import evaluate
  from flaxnets.training import loop
  from tests.small import small_config

  folder = tempfile.TemporaryDirectory(prefix='flaxnets-bad-inputs-')
  loop.run(small_config(), folder.name)
  assert evaluate.run(folder.name, subsets='RGB') == 0
  return folder


def trained(folder):
  shutil.copytree(_trained().name, folder / 'run')


def _with(change):
  def make(folder):
    trained(folder)
    change(folder / 'run')

  return make


def _each(*steps, change=cut):
  return lambda run: [change(largest_arrays(run / 'checkpoints' / str(step))) for step in steps]


def _field(name, value):
  def change(run):
    fields = json.loads((run / 'config.json').read_text())
    fields[name] = value
    (run / 'config.json').write_text(json.dumps(fields))

  return change


def _file(name, data):
  def make(folder):
    trained(folder)
    (folder / name).write_bytes(data)

  return make


def _pipe(name):
  def make(folder):
    trained(folder)
    os.mkfifo(folder / name)

  return make


def _big(folder):
  trained(folder)
  with open(folder / 'a.jpg', 'wb') as file:
    file.truncate(6 * 2**30)


def _photo(folder):
  trained(folder)
  image(folder / 'a.png')


def _predict(name, says, make, flags=''):
  return Case(f'predict of {name}', f'{PREDICT} DIR/{flags or "a.jpg"}', says, make, lines=2)


CASES = [
  Case('checkpoints that are cut', EVAL, r'checkpoint .*run/checkpoints/\d cannot be read', _with(_each(2, 3))),
  Case('checkpoints with a flipped bit', EVAL, r'checkpoint .*run/checkpoints/\d', _with(_each(2, 3, change=flip))),
  Case(
    'run without checkpoints',
    EVAL,
    'checkpoints is empty; the run has not saved yet',
    _with(lambda run: [shutil.rmtree(path) for path in (run / 'checkpoints').iterdir()]),
  ),
  Case(
    'checkpoints without arrays',
    EVAL,
    r'checkpoint .*run/checkpoints/\d',
    _with(lambda run: [shutil.rmtree(path) for path in (run / 'checkpoints').glob('*/state')]),
  ),
  Case(
    'checkpoints without metadata',
    EVAL,
    r'checkpoint .*run/checkpoints/\d',
    _with(lambda run: [shutil.rmtree(path) for path in (run / 'checkpoints').glob('*/meta')]),
  ),
  Case(
    'checkpoints that are files',
    EVAL,
    'run holds no trained network; train one with',
    _with(lambda run: (shutil.rmtree(run / 'checkpoints'), (run / 'checkpoints').write_text(''))),
  ),
  Case(
    'step that was not saved',
    f'{EVAL} --step=5',
    'run has no checkpoint of step 5; there are best, latest, 2, 3',
    trained,
  ),
  Case('step that is a word', f'{EVAL} --step=first', 'has no checkpoint of step first; there are best', trained),
  Case('eval on an unknown channel', f'{EVAL} --subsets=RX', "no channel 'X'; the channels are R, G, B", trained),
  Case('eval on an unknown split', f'{EVAL} --split=all', "split 'all'", trained),
  Case('eval with an unknown completion', f'{EVAL} --completion=guess', 'completion.*guess', trained),
  Case(
    'export of an unknown channel',
    'export DIR/run --subset=RX --format=stablehlo --out=DIR/a',
    "no channel 'X'",
    trained,
  ),
  Case(
    'export in an unknown format',
    'export DIR/run --subset=RG --format=tflite --out=DIR/a',
    'value should be one of',
    trained,
    code=2,
  ),
  Case(
    'export of ResAttentionNet for PyTorch',
    'export DIR/run --subset=RGB --format=torch --out=DIR/a.pt',
    r"format='torch' \(--format=torch\) is for resnet18, resnet34, resnet50",
    trained,
  ),
  Case(
    'export into a folder',
    'export DIR/run --format=safetensors --out=DIR/run',
    'run cannot be written: Is a directory',
    trained,
  ),
  Case(
    'start from a run of other channels',
    'train --config=demo --workdir=DIR/new --config.train.init_from=DIR/run --config.train.subset=RG',
    'train.init_from=.*run: its channels are R, G, B, but this run has R, G',
    trained,
  ),
  Case(
    'start from a run of another network',
    'train --config=demo --workdir=DIR/new --config.train.init_from=DIR/run',
    "take a run with the same 'model' fields",
    trained,
  ),
  Case(
    'start from no run',
    'train --config=demo --workdir=DIR/new --config.train.init_from=DIR/no',
    'no holds no trained network',
  ),
  Case(
    'resume with another config', 'train --config=demo --workdir=DIR/run', 'holds a run with another config', trained
  ),
  Case(
    'resume with a changed config.json',
    'train --config=demo --workdir=DIR/run',
    'config.json is corrupt, or was changed by hand',
    _with(_field('seed', 7)),
  ),
  Case(
    'resume with an unknown field',
    'train --config=demo --workdir=DIR/run',
    'config.json: the stored config has fields that this version of flaxnets does not know: sed',
    _with(lambda run: (run / 'config.json').write_text('{"sed": 1}')),
  ),
  Case('adapt of no run', 'adapt DIR/no --out=DIR/new', 'no holds no trained network'),
  Case(
    'adapt to an unknown band',
    'adapt DIR/run --out=DIR/new --config.data.source=synthetic --config.data.train=train[:9] --map=R:B04',
    "no channel 'B04'; the channels are R, G, B",
    trained,
  ),
  Case(
    'adapt into a run',
    'adapt DIR/run --out=DIR/run',
    r'run holds a network already; choose another folder \(--out\)',
    trained,
  ),
  _predict('a missing file', r'a.jpg: cannot be read \(No such file', trained),
  _predict('text', 'a.jpg: ', _file('a.jpg', b'hello\n' * 30)),
  _predict('an empty file', 'a.jpg: ', _file('a.jpg', b'')),
  _predict('a named pipe', r'a.jpg: cannot be read \(it is not a regular file\)', _pipe('a.jpg')),
  _predict('a named pipe as PNG', r'a.png: cannot be read \(it is not a regular file\)', _pipe('a.png'), 'a.png'),
  _predict('a named pipe as TIFF', r'a.tif: cannot be read \(it is not a regular file\)', _pipe('a.tif'), 'a.tif'),
  _predict('a named pipe of arrays', 'a.npy: it is not a regular file', _pipe('a.npy'), 'a.npy'),
  _predict('a file of 6 GiB', 'a.jpg: cannot be read .it has 6,442,450,944 bytes', _big),
  _predict('10 billion pixels', 'a.png: .*pixels', _file('a.png', png(100_000, 100_000)), 'a.png'),
  _predict(
    'arrays that are text', 'a.npz: it is not an .npz file, or a corrupt one', _file('a.npz', b'hello'), 'a.npz'
  ),
  Case(
    'predict in another format', f'{PREDICT} DIR/a.png --out=DIR/a.txt', 'ends in none of .csv, .jsonl, .tif', _photo
  ),
  Case(
    'predict into a missing folder',
    f'{PREDICT} DIR/a.png --out=DIR/no/a.csv',
    'no/a.csv cannot be written: No such file',
    _photo,
  ),
  Case(
    'predict of an unknown channel',
    f'{PREDICT} DIR/a.png --channels=RX',
    "no channel 'X'; the channels are R, G, B",
    _photo,
  ),
  Case(
    'predict of an unknown subset',
    f'{PREDICT} DIR/a.png --channels=RG --subset=B',
    "no channel 'B'; the channels are R, G",
    _photo,
  ),
  Case(
    'predict of an empty folder',
    f'{PREDICT} DIR/none',
    'none holds no images or arrays; files end in',
    _with(lambda run: (run.parent / 'none').mkdir()),
  ),
  Case('predict with batches of none', f'{PREDICT} DIR/a.png --batch_size=0', '--batch_size=0', _photo, code=2),
]
