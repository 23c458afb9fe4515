"""Image files that cannot be read."""

import os
import struct
import zlib

from tests.bad_inputs.case import Case
from tests.bad_inputs.lists import LISTS, image

ONE = f'{LISTS} --config.data.threads=1'


def png(width, height):
  """A PNG that claims to have this size and holds nothing."""

  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def _bytes(data, name='a.jpg'):
  def make(folder):
    (folder / name).write_bytes(data)
    (folder / 'train.txt').write_text(f'{name} 0\n')

  return make


def _fifo(folder):
  os.mkfifo(folder / 'a.jpg')
  (folder / 'train.txt').write_text('a.jpg 0\n')


def _device(folder):
  (folder / 'b').mkdir()
  os.mkfifo(folder / 'b' / 'a.png')
  image(folder / 'b' / 'b.png')
  (folder / 'train.txt').write_text('b/b.png 0\nb/a.png 1\n')


def _sparse(folder):
  with open(folder / 'a.jpg', 'wb') as file:
    file.truncate(6 * 2**30)
  (folder / 'train.txt').write_text('a.jpg 0\n')


def _cut(folder):
  image(folder / 'a.png')
  data = (folder / 'a.png').read_bytes()
  _bytes(data[: len(data) // 2], 'a.png')(folder)


CASES = [
  Case('empty image', ONE, r'a.jpg \(.*train.txt, line 1\)', _bytes(b'')),
  Case('text named jpg', ONE, r'a.jpg \(.*train.txt, line 1\)', _bytes(b'hello\n' * 20)),
  Case('cut PNG', ONE, r'a.png \(.*train.txt, line 1\)', _cut),
  Case('PNG that claims 10 billion pixels', ONE, r'a.png \(.*line 1\).*pixels', _bytes(png(100_000, 100_000), 'a.png')),
  Case('named pipe', ONE, r'a.jpg.*not a regular file', _fifo),
  Case('named pipe beside an image', ONE, r'a.png.*not a regular file', _device),
  Case('file of 6 GiB', ONE, r'a.jpg.*6,442,450,944 bytes', _sparse),
  Case(
    'image that is a folder',
    ONE,
    r'a.jpg.*(not a regular file|Is a directory)',
    lambda folder: (
      _bytes(b'', 'b.jpg')(folder),
      (folder / 'a.jpg').mkdir(),
      (folder / 'train.txt').write_text('a.jpg 0\n'),
    ),
  ),
]
