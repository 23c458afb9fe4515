"""Commands on runs, weights, studies and scenes that are missing, or that are something else."""

from tests.bad_inputs.case import Case


def _text(name):
  return lambda folder: (folder / name).write_text('hello\n')


def _study(runs):
  """A config file of a study; `runs` is the last line of its get_runs()."""
  text = f'from flaxnets.config import default as get_config\n\n\ndef get_runs():\n  {runs}\n'
  return lambda folder: (folder / 'own.py').write_text(text)


CASES = [
  Case(
    'unknown flag of eval', 'eval --workdir=DIR --subset=R', 'unknown flag --subset; did you mean --subsets', code=2
  ),
  Case('eval without a run', 'eval --workdir=DIR/no', 'no holds no trained network; train one with'),
  Case(
    'eval of an empty folder',
    'eval --workdir=DIR',
    'holds no trained network; train one with flaxnets train --workdir=',
  ),
  Case(
    'eval of a config that is not JSON',
    'eval --workdir=DIR',
    'holds no trained network; train one with flaxnets train --workdir=',
    _text('config.json'),
  ),
  Case('predict without files', 'predict DIR', r'FILE.* is missing', code=2),
  Case('predict without a run', 'predict DIR/no DIR/a.png', 'no holds no trained network; train one with'),
  Case('verify of a missing folder', 'verify DIR/no', 'no does not exist; give the folder of a run'),
  Case('verify of an empty folder', 'verify DIR', 'holds nothing to verify; give the folder of a run'),
  Case('verify without a folder', 'verify', 'PATH is missing; --help shows the usage', code=2),
  Case('unknown flag of verify', 'verify --workdir=DIR', 'unknown flag --workdir', code=2),
  Case('worth of a missing run', 'worth DIR/no', r'no cannot be read .*; flaxnets eval writes DIR/eval/test.json'),
  Case('report of a missing run', 'report DIR/no', 'no is not a folder; give the folder of a run or of a study'),
  Case(
    'report of an empty folder', 'report DIR', r'holds neither a run \(config.json, metrics.jsonl or eval\) nor a study'
  ),
  Case(
    'convert of missing weights',
    'convert DIR/a.pth --model=resnet18 --out=DIR/out',
    'a.pth cannot be read: No such file',
  ),
  Case(
    'convert of text',
    'convert DIR/a.pth --model=resnet18 --out=DIR/out',
    'a.pth.* cannot be read as a .pth file',
    _text('a.pth'),
  ),
  Case(
    'convert of text named safetensors',
    'convert DIR/a.safetensors --model=resnet18 --out=DIR/out',
    'a.safetensors cannot be read as a safetensors file',
    _text('a.safetensors'),
  ),
  Case('cost without pixels', 'cost --image_size=0', '--image_size=0: 0 is not a positive integer', code=2),
  Case(
    'study whose runs are a list',
    'study --config=DIR/own.py --out=DIR/out',
    r"own.py: get_runs\(\) must return a dict from a run's name to a dict",
    _study('return ["one"]'),
  ),
  Case(
    'study whose runs cannot be made',
    'study --config=DIR/own.py --out=DIR/out',
    'own.py, line 5: division by zero',
    _study('return 1 / 0'),
  ),
  Case(
    'study that is a config', 'study --config=demo --out=DIR/out', r'has no get_runs\(\); see configs/studies/rgb.py'
  ),
  Case(
    'study with an unknown run',
    'study --config=studies/rgb --out=DIR/out --only=none',
    '--only=none is not a run; choose from hierarchical-linear,',
  ),
  Case(
    'study with a bad shard',
    'study --config=studies/rgb --out=DIR/out --shard=3/2',
    '--shard=3/2 must be i/n with i from 1 to n, such as 1/4',
  ),
  Case('views as text', 'views --config=demo --out=DIR/a.txt', 'must end in .png, .jpg, .jpeg or .webp'),
  Case('prepare without lists', 'prepare --root=DIR --data_dir=DIR/out', 'no split files .*; --splits=FILE,FILE'),
]
