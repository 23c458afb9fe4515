"""Arrays in .npz and .npy files."""

import zipfile

import numpy as np

from tests.bad_inputs.case import Case

TRAIN = (
  'train --config=demo --workdir=DIR/run --config.data.source=arrays --config.data.root=DIR/a.npz '
  '--config.data.channels= --config.data.train=train --config.data.validation=train --config.data.test=train'
)


def _npz(**changes):
  def make(folder):
    rng = np.random.default_rng(0)
    arrays = {
      'X_train': rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8),
      'y_train': np.arange(8) % 2,
      'bands': np.array(['B02', 'B03', 'B08']),
      'classes': np.array(['forest', 'water']),
      **changes,
    }
    np.savez(folder / 'a.npz', **{key: value for key, value in arrays.items() if value is not None})

  return make


class Evil:
  """Its pickle makes a file in the current folder when it is executed."""

  def __reduce__(self):
    return open, ('executed', 'w')


def _claims(numbers):
  """An array of 8-byte numbers that are not there."""

  def make(folder):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({numbers}, 1, 1, 1), }}".ljust(117) + '\n'
    data = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode()
    _npz(X_train=None)(folder)
    with zipfile.ZipFile(folder / 'a.npz', 'a') as archive:
      archive.writestr('X_train.npy', data)

  return make


def _cut(folder):
  _npz()(folder)
  data = (folder / 'a.npz').read_bytes()
  (folder / 'a.npz').write_bytes(data[:300])


def _labels(values):
  return _npz(y_train=np.array(values))


CASES = [
  Case('arrays that are missing', TRAIN, 'cannot read .*a.npz: No such file or directory'),
  Case(
    'arrays that are text',
    TRAIN,
    'a.npz is not an .npz file, or a corrupt one; data.root must be',
    lambda folder: (folder / 'a.npz').write_text('hello'),
  ),
  Case(
    'arrays that are empty',
    TRAIN,
    'a.npz is not an .npz file, or a corrupt one; data.root must be',
    lambda folder: (folder / 'a.npz').write_bytes(b''),
  ),
  Case('arrays that are cut', TRAIN, 'a.npz is not an .npz file, or a corrupt one; data.root must be', _cut),
  Case('arrays without images', TRAIN, 'X_train', _npz(X_train=None)),
  Case('arrays without labels', TRAIN, 'y_train', _npz(y_train=None)),
  Case('arrays without names of bands', TRAIN, "no channel names: .*a.npz has no array 'bands'", _npz(bands=None)),
  Case('arrays of pickles', TRAIN, 'X_train.*', _npz(X_train=np.array([Evil()] * 8, object))),
  Case(
    'labels that are pickles',
    TRAIN,
    'y_train in .*a.npz: it holds pickled Python objects, which may run code',
    _npz(y_train=np.array([Evil()] * 8, object)),
  ),
  Case(
    'header that claims 72 TiB',
    TRAIN,
    r'X_train in .*a.npz: it does not fit into memory \(.* 72.0 TiB',
    _claims(9 * 2**40),
  ),
  Case('header that claims 4 GiB', TRAIN, r'cannot read X_train in .*a.npz', _claims(2**29)),
  Case(
    'images without height',
    TRAIN,
    r'images of \(0, 16, 3\) have no pixels',
    _npz(X_train=np.zeros((8, 0, 16, 3), np.uint8)),
  ),
  Case(
    'images of two axes',
    TRAIN,
    r'a.npz is \(8, 16\), but images are \(N, C, H, W\)',
    _npz(X_train=np.zeros((8, 16), np.uint8)),
  ),
  Case(
    'images of other planes',
    TRAIN,
    'neither axis 1 nor axis 3 has the 3 channels',
    _npz(X_train=np.zeros((8, 16, 16, 4), np.uint8)),
  ),
  Case('images of text', TRAIN, 'images must be numbers', _npz(X_train=np.full((8, 16, 16, 3), 'a'))),
  Case(
    'images that may be read two ways',
    TRAIN,
    r'may be \(N, C, H, W\) or',
    _npz(X_train=np.zeros((8, 3, 16, 3), np.uint8)),
  ),
  Case('images of complex numbers', TRAIN, 'images must be numbers', _npz(X_train=np.zeros((8, 16, 16, 3), complex))),
  Case(
    'images above float32',
    TRAIN,
    r'example 0 has pixels beyond \+-3.4e38 in channel B02, too large for float32',
    _npz(X_train=np.full((8, 16, 16, 3), 1e300)),
  ),
  Case(
    'images with infinity',
    TRAIN,
    'example 0 has NaN or infinite pixels in channel B02',
    _npz(X_train=np.full((8, 16, 16, 3), np.inf, np.float32)),
  ),
  Case('no examples', TRAIN, 'no examples', _npz(X_train=np.zeros((0, 16, 16, 3), np.uint8), y_train=np.zeros(0, int))),
  Case(
    'one label too few',
    TRAIN,
    r'the labels have the shape \(7,\), but there are 8 examples; they must be \(8,\)',
    _labels([0, 1] * 3 + [0]),
  ),
  Case(
    'labels of floats', TRAIN, 'labels must be integers or class names, but they are float64', _labels([0.0, 1.0] * 4)
  ),
  Case('one-hot labels', TRAIN, r'one-hot.*argmax', _npz(y_train=np.eye(2, dtype=int)[np.arange(8) % 2])),
  Case('labels from 1', TRAIN, 'example 1 has label 2, but 2 classes have labels 0 to 1', _labels([1, 2] * 4)),
  Case('negative labels', TRAIN, 'example 1 has label -1, but 2 classes have labels 0 to 1', _labels([0, -1] * 4)),
  Case(
    'label of an unknown class',
    TRAIN,
    "the label of example 1 is 'sea', which is not one of the 2 classes",
    _labels(['water', 'sea'] * 4),
  ),
  Case(
    'class name in Latin-1',
    TRAIN,
    r"names in arrays must be text or UTF-8 bytes, but one is b'for\\xeat'",
    _npz(classes=np.array([b'for\xeat', b'water'])),
  ),
  Case('class name twice', TRAIN, "'water'.*(twice|repeated)", _npz(classes=np.array(['water', 'water']))),
  Case('band twice', TRAIN, "channel 'B02' is repeated", _npz(bands=np.array(['B02', 'B02', 'B08']))),
  Case(
    'band with a space',
    TRAIN,
    "channel name 'B 2' is empty or contains a space",
    _npz(bands=np.array(['B 2', 'B03', 'B08'])),
  ),
  Case('presence as integers', TRAIN, 'presence must be a bool array', _npz(present_train=np.ones((8, 3), int))),
  Case(
    'presence of another shape',
    TRAIN,
    r'presence must be a bool array \(8, 3\)',
    _npz(present_train=np.ones((8, 2), bool)),
  ),
  Case('band that is missing', TRAIN.replace('channels=', 'channels=B01,'), "no channel 'B01' in .*a.npz", _npz()),
]
