"""PyTorch's weight files that are not those of a ResNet, or that would execute something."""

import pickle
import zipfile

import numpy as np
import safetensors.numpy

from tests.bad_inputs.arrays import Evil
from tests.bad_inputs.case import Case

CONVERT = 'convert DIR/a.safetensors --model=resnet18 --out=DIR/out'


def _tensors(**tensors):
  return lambda folder: safetensors.numpy.save_file(tensors, folder / 'a.safetensors')


def _pickle(folder):
  with zipfile.ZipFile(folder / 'a.pth', 'w') as archive:
    archive.writestr('x/data.pkl', pickle.dumps({'conv1.weight': Evil()}, protocol=2))


def _old_pickle(folder):
  (folder / 'a.pth').write_bytes(pickle.dumps(Evil(), protocol=2))


def _claim(folder):
  header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
  (folder / 'a.safetensors').write_bytes(len(header).to_bytes(8, 'little') + header)


KERNEL = np.zeros((64, 3, 7, 7), np.float32)
PTH = CONVERT.replace('safetensors', 'pth')
CASES = [
  Case('pickle that executes something', PTH, 'a.pth is refused: it asks for io.open to be loaded', _pickle),
  Case('old pickle that executes something', PTH, 'a.pth is refused: it asks for io.open to be loaded', _old_pickle),
  Case('safetensors that claim 4 TB', CONVERT, 'a.safetensors cannot be read as a safetensors file', _claim),
  Case('safetensors without a tensor', CONVERT, r'a.safetensors has no head .* among its tensors \(none\)', _tensors()),
  Case(
    'weights with missing tensors',
    CONVERT,
    r'a.safetensors.*(missing|lacks)',
    _tensors(
      **{'conv1.weight': KERNEL, 'fc.weight': np.zeros((10, 512), np.float32), 'fc.bias': np.zeros(10, np.float32)}
    ),
  ),
  Case(
    'weights of another network',
    CONVERT,
    r'has no head .* \(patch_embed.proj.weight\)',
    _tensors(**{'patch_embed.proj.weight': KERNEL}),
  ),
  Case('unknown architecture', CONVERT.replace('18', '19'), 'value should be one of', code=2),
  Case('weights without an architecture', CONVERT.replace('--model=resnet18 ', ''), '--model', code=2),
  Case('weights without an output', CONVERT.replace(' --out=DIR/out', ''), '--out', code=2),
  Case(
    'weights that are a folder',
    CONVERT,
    'a.safetensors cannot be read',
    lambda folder: (folder / 'a.safetensors').mkdir(),
  ),
  Case(
    'weights with another ending',
    CONVERT.replace('.safetensors', '.txt'),
    "ends in '.txt'; a .safetensors or .pth",
    lambda folder: (folder / 'a.txt').write_text(''),
  ),
]
