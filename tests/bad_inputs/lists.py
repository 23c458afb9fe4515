"""Split files, their paths and labels, and folders of classes."""

import numpy as np
from PIL import Image

from tests.bad_inputs.case import Case

LISTS = (
  'train --config=demo --workdir=DIR/run --config.data.source=lists --config.data.root=DIR '
  '--config.data.train=train.txt --config.data.validation=train.txt --config.data.test=train.txt'
)
FOLDERS = LISTS.replace('=lists', '=folders').replace('train.txt', 'train')


def image(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)).save(path)


def _list(text):
  def make(folder):
    image(folder / 'a' / '1.png')
    (folder / 'train.txt').write_bytes(text.encode('latin-1'))

  return make


def _leaving(folder):
  image(folder / 'a' / '1.png')
  (folder / 'a' / '2.png').symlink_to('/etc/hostname')
  (folder / 'train.txt').write_text('a/1.png 0\na/2.png 1\n')


def _folders(*names):
  def make(folder):
    for name in names:
      image(folder / 'train' / name)

  return make


def _link(folder):
  _folders('a/1.png', 'b/1.png')(folder)
  (folder / 'train' / 'b' / '2.png').symlink_to('/etc/hostname')


CASES = [
  Case('no root', LISTS.replace('data.root=DIR', 'data.root='), 'data.root is empty; data.source=lists needs it'),
  Case('root that is missing', LISTS.replace('data.root=DIR', 'data.root=DIR/no'), "data.root '.*no' is not a folder"),
  Case('root in a bucket', LISTS.replace('data.root=DIR', 'data.root=gs://b'), 'data.root.*gs://b'),
  Case('split file that is missing', LISTS, 'cannot read the split file .*train.txt: No such file'),
  Case(
    'split file that is empty', LISTS, 'split file .*train.txt is empty; it must hold a path and a', _list('\n  \n')
  ),
  Case(
    'split file that is a folder',
    LISTS,
    'split file .*train.txt: Is a directory',
    lambda folder: (folder / 'train.txt').mkdir(),
  ),
  Case(
    'split file in Latin-1',
    LISTS,
    r'train.txt is not UTF-8 text \(byte 0xe9 in line 2\)',
    _list('a/1.png 0\na/\xe9.png 1\n'),
  ),
  Case(
    'split line without a label',
    LISTS,
    "train.txt, line 2: 'a/1.png' is not a path and a label",
    _list('a/1.png 0\na/1.png'),
  ),
  Case('split label that is a word', LISTS, "line 1: 'a/1.png cat' is not a path and a", _list('a/1.png cat\n')),
  Case('split label with a fraction', LISTS, "line 1: 'a/1.png 0.5' is not a path and a", _list('a/1.png 0.5\n')),
  Case('split label of 5,000 digits', LISTS, 'line 1: .* is not a path and a label', _list(f'a/1.png {"1" * 5000}\n')),
  Case('negative label', LISTS, 'line 1: label -1 is out of range; labels begin with 0', _list('a/1.png -1\n')),
  Case(
    'label 9999999', LISTS, 'label 9999999 means 10,000,000 classes; the most is', _list('a/1.png 0\na/1.png 9999999\n')
  ),
  Case(
    'absolute path',
    LISTS,
    "line 1: the path '/etc/hostname' leaves the root; paths are relative to it",
    _list('/etc/hostname 0\n'),
  ),
  Case('path with dots', LISTS, r"line 1: the path 'a/../../b' leaves the root", _list('a/../../b 0\n')),
  Case('NUL in a path', LISTS, 'line 1: .* is not a path and a label', _list('a\0.png 0\n')),
  Case(
    'file that is missing',
    LISTS,
    'line 2: there is no file .*a/2.png; data.on_bad_image=skip',
    _list('a/1.png 0\na/2.png 1\n'),
  ),
  Case('link out of the root', LISTS, "line 2: 'a/2.png' is a link that leaves the root", _leaving),
  Case('folders without a split', FOLDERS, "there is no split '.*train'"),
  Case(
    'split without folders',
    FOLDERS,
    'train has no folders; it must hold one folder of images per class',
    lambda folder: (folder / 'train').mkdir(),
  ),
  Case(
    'folders without images',
    FOLDERS,
    'train has no images in its folders; files end in',
    lambda folder: (folder / 'train' / 'a').mkdir(parents=True),
  ),
  Case(
    'missing folder of validation',
    FOLDERS.replace('data.validation=train', 'data.validation=val'),
    "there is no split '.*val'; .* has the folders train; data.train, .* and flaxnets lists divides folders of classes",
    _folders('a/1.png', 'b/1.png'),
  ),
  Case('link out of the folders', FOLDERS, 'b/2.png is a link that leaves', _link),
  Case(
    'class file that is missing',
    f'{FOLDERS} --config.data.classes=no.txt',
    'class file .*no.txt: No such file',
    _folders('a/1.png'),
  ),
]
