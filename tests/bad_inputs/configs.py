"""Config files, fields of configs, and flags."""

from tests.bad_inputs.case import Case

TRAIN = 'train --config=demo --workdir=DIR/run'


def _file(text):
  return lambda folder: (folder / 'own.py').write_text(text)


def _field(override, says, code=1):
  return Case(f'config {override}', f'{TRAIN} --config.{override}', says, code=code)


OWN = 'train --config=DIR/own.py --workdir=DIR/run'
CASES = [
  Case('no config', 'study --out=DIR/runs', '--config is required: the name of a config, such as demo', code=2),
  Case('no config and no data', 'train --workdir=DIR/run', 'data.root is empty; data.source=lists needs it'),
  Case('unknown config', 'train --config=dem --workdir=DIR/run', "no config 'dem'; give the path of a file or one of"),
  Case('config with a syntax error', OWN, r'own.py: invalid syntax \(own.py, line 1\)', _file('def get_config(:\n')),
  Case('config without get_config', OWN, r'own.py has no get_config\(\); see configs/demo.py', _file('a = 1\n')),
  Case(
    'config that returns a dict',
    OWN,
    r'get_config\(\) returns a dict; it must return a ConfigDict',
    _file('def get_config():\n  return {}\n'),
  ),
  Case('config that raises', OWN, 'own.py, line 2: division by zero', _file('def get_config():\n  return 1 / 0\n')),
  Case('config that is JSON', OWN, r'own.py has no get_config\(\); see configs/demo.py', _file('{"seed": 1}\n')),
  Case(
    'config with a misspelt field',
    OWN,
    "own.py, line 4: there is no field 'sed'; did you mean 'seed'",
    _file('from flaxnets import config\ndef get_config():\n  made = config.default()\n  made.sed = 1\n'),
  ),
  Case(
    'config with an unknown name',
    OWN,
    "own.py, line 2: name 'confg' is not defined",
    _file('def get_config():\n  return confg\n'),
  ),
  Case(
    'config that reads a missing file',
    OWN,
    r"own.py, line 2: \[Errno 2\] No such file or directory: '/data/none.txt'",
    _file("def get_config():\n  return open('/data/none.txt')\n"),
  ),
  Case('no workdir', 'train --config=demo', 'DIR is missing; give the folder as an argument or as --workdir$', code=2),
  Case('empty workdir', 'train --config=demo --workdir=', '--workdir is empty; it needs a value', code=2),
  Case(
    'workdir that is a file',
    'train --config=demo --workdir=DIR/file',
    '--workdir=.*file cannot be written',
    lambda folder: (folder / 'file').write_text(''),
  ),
  Case('workdir in a bucket', 'train --config=demo --workdir=gs://bucket/run', 'gs://bucket/run.*'),
  Case('field as a flag', f'{TRAIN} --epochs=3', 'unknown flag --epochs; did you mean --config.train.epochs', code=2),
  Case('unknown flag', f'{TRAIN} --wrkdir=a', 'unknown flag --wrkdir; did you mean --workdir', code=2),
  Case('flag given twice', f'{TRAIN} --workdir=DIR/other', '--workdir is given twice', code=2),
  Case('field given twice', f'{TRAIN} --config.seed=1 --config.seed=2', '--config.seed is given twice', code=2),
  Case('unexpected argument', f'{TRAIN} demo', "unexpected argument 'demo'; flags start with --", code=2),
  Case('processes is not a number', f'{TRAIN} --processes=two', 'processes', code=2),
  Case('processes is negative', f'{TRAIN} --processes=-1', 'processes', code=2),
  Case('process is negative', f'{TRAIN} --process=-1', 'process', code=2),
  _field('sed=1', "config has no field 'sed'; did you mean config.seed", 2),
  _field('train=1', 'config.train is a group; give one of its fields: accumulate', 2),
  _field('seed.a=1', "config.seed is a value and has no field 'a'", 2),
  _field('learning_rate=1', 'did you mean config.train.learning_rate', 2),
  _field('train.batch_size=many', r'config.train.batch_size must be a value like 64 \(int\)', 2),
  _field(
    'train.epochs=many', r'--config.train.epochs=many: config.train.epochs must be a value like [\d.]+ \(float\)', 2
  ),
  _field('train.drops=(0.5,a)', 'train.drops is .*; it must be numbers'),
  _field('seed=-1', r'seed is -1; it must be 0 to 2\^32 - 1'),
  _field('seed=4294967296', r'seed is 4294967296; it must be 0 to 2\^32 - 1'),
  _field('data.canvas=-1', 'data.canvas is -1; it must be 0 or more'),
  _field('image_size=0', 'image_size is 0; it must be above 0'),
  _field('image_size=100000', 'image_size is 100000; it must be'),
  _field('train.epochs=0', 'train.epochs is 0.0; it must be above 0 and finite'),
  _field('train.epochs=inf', 'train.epochs is inf; it must be'),
  _field('train.learning_rate=-1', 'train.learning_rate is -1.0; it must be'),
  _field('train.learning_rate=inf', 'train.learning_rate is inf; it must be'),
  _field('train.learning_rate=nan', 'train.learning_rate is nan; it must be'),
  _field('train.weight_decay=-1', 'train.weight_decay is -1.0; it must be'),
  _field('train.weight_decay=nan', 'train.weight_decay is nan; it must be'),
  _field('train.clip_norm=-1', 'train.clip_norm is -1.0; it must be'),
  _field('train.batch_size=-4', 'train.batch_size (is|of) -4'),
  _field('evaluate.batch_size=0', 'evaluate.batch_size (is|of) 0'),
  _field('train.accumulate=0', 'train.accumulate is 0; it must be 1 or more'),
  _field('train.patience=-1', 'train.patience is -1; it must be 0 or more'),
  _field('train.class_weights=even', "train.class_weights is 'even'; it must be '' or 'balanced'"),
  _field('train.max_loss=0', 'train.max_loss is 0.0; it must be above 0'),
  _field('train.log_every=0', 'train.log_every is 0; it must be 1 or more'),
  _field('train.checkpoint_every=-1', 'train.checkpoint_every is -1; it must be 0 or more'),
  _field('train.label_smoothing=1', 'train.label_smoothing is 1.0; it must be from 0 to below 1'),
  _field('train.ema=1', 'train.ema is 1.0; it must be from 0 to below 1'),
  _field('train.momentum=1.5', 'momentum is 1.5'),
  _field('train.schedule=linear', "schedule.*'linear'.*cosine"),
  _field('presence.probability=2', 'presence.probability is 2.0; it must be from 0 to 1'),
  _field('presence.mode=some', "'some'.*hierarchical"),
  _field('presence.mode=listed', "'listed' needs the subsets to draw from; list them in presence.subsets"),
  _field('presence.subsets=full;R', 'no effect with presence.mode=hierarchical; set presence.mode=listed'),
  _field('augment.evaluation_resize=0.5', 'augment.evaluation_resize is 0.5; it must be 1 or more'),
  _field('model.name=resnet19', "'resnet19'.*resnet18"),
  _field('model.dtype=int8', 'int8'),
  _field('evaluate.subsets=RX', "evaluate.subsets: no channel 'X'; the channels are R, G, B; subsets are"),
  _field('evaluate.subsets=RR', "channel 'R' is repeated"),
  _field('evaluate.subsets=size>3', "'size>3' matches no subset of the 3 channels"),
  _field('evaluate.subsets=sample:0', "'sample:0' is no subset; the number must be at least 1"),
  _field('evaluate.subsets=RG;;', "cannot read the subset ''; subsets are"),
  _field('train.subset=X', "no channel 'X'; the channels are R, G, B"),
  _field('data.source=folder', "unknown data.source 'folder'; choose one of"),
  _field('data.train=train', "cannot read the synthetic split 'train'"),
  _field('data.validation=validation[:0]', "the synthetic split 'validation\\[:0\\]' has no examples"),
  _field('data.channels=RGBN', 'synthetic images have the channels RGB, not RGBN'),
  _field('data.on_bad_image=ignore', "on_bad_image is 'ignore'; it must be 'error' or 'skip'"),
  _field('data.statistics_examples=0', 'data.statistics_examples is 0; it must be 1 or more'),
  _field('data.threads=-1', 'data.threads is -1; it must be 0 or more'),
  _field('augment.crop_scale=0.5', r'augment.crop_scale is \(0.5,\); it must be two numbers, as \(0.5, 1.0\)'),
  _field('augment.crop_scale=(0.5,0.2)', r'augment: crop_scale is \(0.5, 0.2\); it must be'),
  _field('augment.brightness=nan', 'augment.brightness is nan; it must be a number'),
  _field('train.drop_factor=10', 'train.drop_factor is 10.0; it must be above 0 and at most 1'),
  _field('train.warmup_epochs=inf', 'train.warmup_epochs is inf; it must be 0 or more and finite'),
  _field('train.frozen=trunk', 'train.frozen needs train.init_from, the run whose weights and statistics it keeps'),
]
