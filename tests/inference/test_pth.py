"""PyTorch's .pth files, read without PyTorch; nothing in them is executed."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from flaxnets.errors import InputError
from flaxnets.inference import pth, tensor_files
from tests.inference.torch_reference import make

BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize('name', ['archive.pth', 'stream.pth'])
def test_both_formats_hold_the_tensors_that_pytorch_saved(name):
  tensors = tensor_files.read(make.FOLDER / name).tensors
  np.testing.assert_array_equal(tensors['plain'], BASE)
  np.testing.assert_array_equal(tensors['transposed'], BASE.T)
  np.testing.assert_array_equal(tensors['slice'], BASE[1:, ::2])
  np.testing.assert_array_equal(tensors['half'], BASE.astype(np.float16))
  np.testing.assert_array_equal(tensors['bfloat'].astype(np.float32), BASE)
  np.testing.assert_array_equal(tensors['parameter'], BASE[0])
  assert tensors['scalar'] == 7 and tensors['empty'].shape == (0, 3)
  assert [str(tensors[kind].dtype) for kind in ('plain', 'half', 'bfloat', 'scalar')] == [
    'float32', 'float16', 'bfloat16', 'int64']  # fmt: skip
  assert 'epoch' not in tensors and len(tensors) == 8


class Touch:
  """A pickle that makes a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.path),)


class Evaluate:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return eval, (f'__import__("pathlib").Path({str(self.path)!r}).touch()',)


def archive_of(path, pickled, **files):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', pickled)
    for name, data in files.items():
      archive.writestr(f'x/data/{name}', data)
  return path


def stream_of(path, pickled):
  start = b''.join(pickle.dumps(value, 2) for value in (pth._STREAM_MAGIC, 1001, {'little_endian': True}))
  path.write_bytes(start + pickled + pickle.dumps([], 2))
  return path


@pytest.mark.parametrize('form', [archive_of, stream_of], ids=['archive', 'stream'])
@pytest.mark.parametrize('attack', [Touch, Evaluate])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(form, attack, tmp_path):
  mark = tmp_path / 'ran'
  attacked = pickle.dumps({'state_dict': {'conv1.weight': attack(mark)}}, 2)
  pickle.loads(attacked)
  assert mark.exists()  # read by pickle, it runs
  mark.unlink()
  path = form(tmp_path / 'bad.pth', attacked)
  with pytest.raises(
    InputError, match=r'bad\.pth is refused: it asks for .* to be loaded, which is no tensor'
  ) as error:
    tensor_files.read(path)
  assert not mark.exists() and '\n' not in str(error.value)


def test_what_a_pickle_may_call_cannot_be_changed_for_the_next_file(tmp_path):
  # BUILD with a state for a function: its __defaults__ would be set on what find_class gave.
  code = b'\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b.'
  with pytest.raises(InputError):
    tensor_files.read(archive_of(tmp_path / 'x.pth', code))
  assert len(tensor_files.read(make.FOLDER / 'archive.pth').tensors) == 8


class Tensor:
  """A tensor as PyTorch pickles it."""

  def __init__(self, offset=0, shape=(2, 2), strides=(2, 1), count=4):
    self.arguments = (('storage', 'FloatStorage', '0', 'cpu', count), offset, shape, strides, False, {})


class Pickler(pickle._Pickler):
  def persistent_id(self, obj):
    return obj if isinstance(obj, tuple) and obj[:1] == ('storage',) else None

  def save(self, obj, save_persistent_id=True):
    if isinstance(obj, Tensor):
      self.write(b'ctorch._utils\n_rebuild_tensor_v2\n')
      self.save(obj.arguments)
      self.write(pickle.REDUCE)
    elif obj == 'FloatStorage':
      self.write(b'ctorch\nFloatStorage\n')
    else:
      super().save(obj, save_persistent_id)


def pickled(value):
  file = io.BytesIO()
  Pickler(file, 2).dump(value)
  return file.getvalue()


def test_a_tensor_is_read_from_its_storage(tmp_path):
  data = np.arange(4, dtype=np.float32)
  path = archive_of(tmp_path / 'x.pth', pickled({'a': Tensor()}), **{'0': data.tobytes()})
  np.testing.assert_array_equal(tensor_files.read(path).tensors['a'], data.reshape(2, 2))


@pytest.mark.parametrize(
  ('tensor', 'said'),
  [
    (Tensor(offset=1), 'a tensor reaches beyond its storage'),
    (Tensor(shape=(2, 200)), 'a tensor reaches beyond its storage'),
    (Tensor(strides=(2, -1)), 'a tensor reaches beyond its storage'),
    (Tensor(offset=-1), 'a tensor reaches beyond its storage'),
    (Tensor(count=400), 'the storage 0 has another size than its tensors need'),
  ],
)
def test_a_tensor_beyond_its_storage_is_refused(tensor, said, tmp_path):
  path = archive_of(tmp_path / 'x.pth', pickled({'a': tensor}), **{'0': np.zeros(4, np.float32).tobytes()})
  with pytest.raises(InputError, match=f'cannot be read as a .pth file: {said}'):
    tensor_files.read(path)


@pytest.mark.parametrize('name', ['archive.pth', 'stream.pth'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.7, 0.99])
def test_a_file_that_was_cut_is_an_error_in_one_line(name, share, tmp_path):
  data = (make.FOLDER / name).read_bytes()
  (tmp_path / 'cut.pth').write_bytes(data[: int(share * len(data))])
  with pytest.raises(InputError, match=r'cut\.pth cannot be read as a \.pth file') as error:
    tensor_files.read(tmp_path / 'cut.pth')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('numbers.pth', pickle.dumps({'epoch': 3}, 2), 'holds no state dict but epoch; save one with torch.save'),
    ('model.pth', pickle.dumps([1, 2], 2), 'holds no state dict; save one'),
  ],
)
def test_a_file_of_something_else_than_weights_is_refused(name, content, said, tmp_path):
  archive_of(tmp_path / name, content)
  with pytest.raises(InputError, match=said):
    tensor_files.read(tmp_path / name)


def test_a_prefix_that_all_names_share_is_left_out(tmp_path):
  safetensors.numpy.save_file({f'module.net.{name}': BASE for name in 'ab'}, tmp_path / 'x.safetensors')
  assert sorted(tensor_files.read(tmp_path / 'x.safetensors').tensors) == ['a', 'b']
