"""Known pictures, written by Pillow in every form, and what the decoder makes of them."""

import io
import itertools
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from flaxnets.channels import ChannelSet
from flaxnets.data import decode as decode_module
from flaxnets.data.decode import decode, decode_planes, image_planes, squash
from flaxnets.data.source import BadImage
from flaxnets.errors import InputError
from tests.bad_inputs.images import png

HEIGHT, WIDTH = 48, 64


def picture() -> np.ndarray:
  """Four flat quarters, each a colour of its own, so that any turn or swap of planes shows."""
  image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
  image[:24, :32], image[:24, 32:] = (200, 40, 40), (40, 180, 60)
  image[24:, :32], image[24:, 32:] = (30, 60, 220), (230, 220, 90)
  return image


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
  file = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
  return file.getvalue()


def canvas(data: bytes, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
  out = np.full((height, width, channels), 77, np.uint8)
  decode(data, out, name='it')
  return out


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
  return int(np.abs(one.astype(int) - other.astype(int)).max())


LOSSLESS = {'PNG': {}, 'BMP': {}, 'TIFF': {}, 'WEBP': {'lossless': True}, 'PPM': {}}


@pytest.mark.parametrize('kind', LOSSLESS)
def test_a_lossless_file_comes_out_as_it_went_in(kind):
  np.testing.assert_array_equal(canvas(encoded(picture(), kind, **LOSSLESS[kind])), picture())


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}, {'quality': 100}])
def test_a_jpeg_keeps_its_colours(options):
  inner = np.s_[2:22, 2:30]  # away from edges, where JPEG rings
  out = canvas(encoded(picture(), 'JPEG', **({'quality': 95} | options)))
  assert largest_difference(out[inner], picture()[inner]) <= 3


def test_a_gray_jpeg_has_three_equal_planes():
  out = canvas(encoded(Image.fromarray(picture()).convert('L'), 'JPEG', quality=95))
  np.testing.assert_array_equal(out[..., 0], out[..., 2])
  assert largest_difference(out[10, 10], np.full(3, round(0.299 * 200 + 0.587 * 40 + 0.114 * 40))) <= 2


@pytest.mark.parametrize('kind', ['JPEG', 'TIFF'])
def test_cmyk_is_not_inverted(kind):
  cmyk = Image.fromarray(picture()).convert('CMYK')
  out = canvas(encoded(cmyk, kind, **({'quality': 100} if kind == 'JPEG' else {})))
  inner = np.s_[2:22, 2:30]
  assert largest_difference(out[inner], picture()[inner]) <= 6


@pytest.mark.parametrize('kind', ['PNG', 'GIF'])
def test_a_palette_becomes_its_colours(kind):
  np.testing.assert_array_equal(canvas(encoded(Image.fromarray(picture()).quantize(8), kind)), picture())


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM'])
def test_sixteen_bits_of_gray_become_eight_with_white_still_white(kind):
  ramp = np.tile(np.linspace(0, 65535, WIDTH).round().astype(np.uint16), (HEIGHT, 1))
  out = canvas(encoded(ramp, kind))
  expected = np.round(ramp / 257).astype(np.uint8)
  np.testing.assert_array_equal(out, np.repeat(expected[..., None], 3, 2))
  assert out.max() == 255


def test_black_and_white_and_gray_with_alpha_come_out_gray():
  halves = np.zeros((HEIGHT, WIDTH), np.uint8)
  halves[:, 32:] = 255
  for mode in ('1', 'LA'):
    out = canvas(encoded(Image.fromarray(halves).convert(mode), 'PNG'))
    np.testing.assert_array_equal(out, np.repeat(halves[..., None], 3, 2))


def test_what_is_transparent_shows_white():
  alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
  alpha[:24] = 0
  out = canvas(encoded(np.concatenate([picture(), alpha], axis=2), 'PNG'))
  assert (out[:24] == 255).all()
  np.testing.assert_array_equal(out[24:], picture()[24:])


def test_a_transparent_entry_of_a_palette_shows_white():
  image = Image.fromarray(picture()).quantize(4)
  entry = image.getpixel((0, 0))
  out = canvas(encoded(image, 'PNG', transparency=bytes(0 if i == entry else 255 for i in range(4))))
  assert (out[:24, :32] == 255).all()
  np.testing.assert_array_equal(out[24:], picture()[24:])


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_every_exif_orientation_is_turned_upright(kind, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {'WEBP': {'lossless': True}, 'JPEG': {'quality': 95}}.get(kind, {})
  data = encoded(picture(), kind, exif=exif, **options)
  expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB'))
  out = np.zeros_like(expected)
  assert decode(data, out, name='it') == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
  assert largest_difference(out, expected) <= 4


@pytest.mark.parametrize(('order', 'endian'), [('<', b'II'), ('>', b'MM')])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_orientation_is_read_in_both_byte_orders_and_nonsense_is_upright(kind, order, endian):
  def size(value, length=22):
    block = endian + struct.pack(order + 'HIHHHIHH', 42, 8, 1, 0x0112, 3, 1, value, 0)
    data = encoded(picture(), kind, exif=b'Exif\0\0' + block[:length])
    return decode(data, np.zeros((8, 8, 3), np.uint8), name='it')

  assert size(6) == (WIDTH, HEIGHT)
  assert size(0) == size(9) == (HEIGHT, WIDTH)
  assert size(6, length=16) == (HEIGHT, WIDTH)  # cut within the entry


@pytest.mark.parametrize('side', [(24, 24), (24, 64), (48, 16), (96, 16), (30, 128), (96, 128)])
def test_any_shape_is_squashed_to_the_canvas_and_quarters_stay_quarters(side):
  for data in (encoded(picture(), 'PNG'), encoded(picture(), 'JPEG', quality=95)):
    out = canvas(data, *side)
    for row, column in itertools.product((1, 3), repeat=2):
      middle = out[row * side[0] // 4, column * side[1] // 4]
      assert largest_difference(middle, picture()[row * 12, column * 16]) <= 4


@pytest.mark.parametrize('side', [15, 25, 30, 60])
def test_more_planes_than_opencv_takes_are_squashed_like_few(side):
  pixels = np.random.default_rng(0).integers(0, 4000, (30, 30, 600)).astype(np.uint16)
  out, expected = np.empty((side, side, 600), np.uint16), np.empty((side, side, 2), np.uint16)
  squash(pixels, out)
  squash(np.ascontiguousarray(pixels[:, :, [3, 599]]), expected)
  np.testing.assert_allclose(out[:, :, [3, 599]], expected, atol=1)


def test_shrinking_one_axis_while_the_other_grows_still_averages():
  stripes = np.zeros((4, 400, 3), np.uint8)
  stripes[:, ::2] = 200
  out = canvas(encoded(stripes, 'PNG'), 8, 50)
  assert largest_difference(out, np.full_like(out, 100)) <= 1


@pytest.mark.parametrize(
  ('height', 'width', 'most'), [(32, 50, 9), (25, 34, 4), (46, 62, 2.5), (36, 64, 9), (60, 40, 8)]
)
def test_shrinking_by_less_than_two_is_pillows_antialiasing(height, width, most):
  noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
  expected = Image.fromarray(noise).resize((width, height), Image.BILINEAR)
  out = canvas(encoded(noise, 'PNG'), height, width)
  # Of noise, which is all detail, the standard deviation is 74. Averages of areas are 10.1, 9.8, 1.5, 8.6, 7.2 off.
  assert np.sqrt(np.mean((out - np.asarray(expected, float)) ** 2)) < most


def test_stripes_as_fine_as_pixels_leave_no_moire():
  stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
  stripes[:, ::2] = 200
  for width in (34, 40, 48):
    average = Image.fromarray(stripes).resize((width, HEIGHT), Image.BOX)
    assert canvas(encoded(stripes, 'PNG'), HEIGHT, width).std() < 0.6 * np.asarray(average).std()


def test_a_large_jpeg_is_decoded_small_and_close_to_the_average_of_areas():
  noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
  large = np.asarray(Image.fromarray(noise).resize((640, 480), Image.BICUBIC))
  data = encoded(large, 'JPEG', quality=95)
  pixels, size, _ = decode_module._jpeg(data, (96, 128, 3), 'it')
  assert size == (480, 640) and pixels.shape == (120, 160, 3)
  average = np.asarray(Image.open(io.BytesIO(data)).resize((128, 96), Image.BOX)).astype(float)
  out = canvas(data, 96, 128)
  assert 20 * np.log10(255 / np.sqrt(np.mean((out - average) ** 2))) > 38
  assert decode_module._jpeg(data, (241, 300, 3), 'it')[0].shape == large.shape


def test_one_channel_is_luminance_in_every_format():
  colours = picture()[12:48:24, 16:64:32].reshape(-1, 3)
  expected = np.round(colours @ [0.299, 0.587, 0.114])
  for kind, options in (('PNG', {}), ('JPEG', {'quality': 95})):
    out = canvas(encoded(picture(), kind, **options), channels=1)[12:48:24, 16:64:32]
    assert largest_difference(out.reshape(-1), expected) <= 2


def test_a_slice_of_a_batch_is_written_and_nothing_beside_it():
  for kind in ('PNG', 'JPEG'):
    batch = np.full((3, 20, 30, 3), 7, np.uint8)
    decode(encoded(picture(), kind), batch[1], name='it')
    assert (batch[[0, 2]] == 7).all()
    np.testing.assert_array_equal(batch[1], canvas(encoded(picture(), kind), 20, 30))


def test_a_view_with_strides_gets_the_same_pixels():
  wide = np.zeros((20, 60, 3), np.uint8)
  decode(encoded(picture(), 'PNG'), wide[:, ::2], name='it')
  np.testing.assert_array_equal(wide[:, ::2], canvas(encoded(picture(), 'PNG'), 20, 30))
  assert not wide[:, 1::2].any()


def jpeg(**options) -> bytes:
  noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
  return encoded(noise, 'JPEG', **options)


def large_jpeg() -> bytes:
  data = bytearray(jpeg())
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = struct.pack('>HH', 60000, 60000)
  return bytes(data)


BROKEN = {
  'empty': (b'', 'is empty'),
  'text': (b'this is no picture', 'not an image'),
  'start only': (b'\xff\xd8\xff', 'not an image'),
  'half a JPEG': (jpeg()[: len(jpeg()) // 2], 'Premature end'),
  'a JPEG without its last ten bytes': (jpeg()[:-10], 'Premature end'),
  'a JPEG with a hole': (jpeg()[:900] + bytes(300) + jpeg()[1200:], 'Corrupt JPEG'),
  'a CMYK JPEG without its end': (encoded(Image.fromarray(picture()).convert('CMYK'), 'JPEG')[:-20], 'truncated'),
  'half a PNG': (encoded(picture(), 'PNG')[:90], 'cannot be decoded'),
  'half a GIF': (encoded(picture(), 'GIF')[:100], 'cannot be decoded'),
  'half a WebP': (encoded(picture(), 'WEBP')[:60], 'cannot be decoded'),
  'float TIFF': (encoded(np.zeros((4, 4), np.float32), 'TIFF'), 'use data.source=arrays'),
  '32-bit TIFF': (encoded(np.full((4, 4), 70000, np.int32), 'TIFF'), 'use data.source=arrays'),
  'a PNG of 400 megapixels': (png(20000, 20000), '178,956,970'),
  'a PNG of one row of 70 megapixels': (png(70_000_000, 1), 'a width of 70,000,000 pixels'),
  'a JPEG of 3600 megapixels': (large_jpeg(), '178,956,970'),
}


@pytest.mark.parametrize('data, reason', BROKEN.values(), ids=BROKEN)
def test_broken_data_is_one_line_with_name_and_reason(data, reason, capfd):
  with pytest.raises(BadImage) as caught:
    decode(data, np.zeros((16, 16, 3), np.uint8), name='images/finch.jpg (train.txt, line 7)')
  message = str(caught.value).replace('images/finch.jpg (train.txt, line 7)', 'it')
  assert message.startswith('it: ') and reason in message and '\n' not in message
  assert capfd.readouterr() == ('', '')


def test_random_damage_raises_nothing_but_bad_image():
  rng, out = np.random.default_rng(0), np.zeros((8, 8, 3), np.uint8)
  whole = [jpeg(), jpeg(progressive=True), encoded(Image.fromarray(picture()).convert('CMYK'), 'JPEG')] + [
    encoded(picture(), kind) for kind in ('PNG', 'GIF', 'BMP', 'WEBP')
  ]
  outcomes = set()
  for data, _ in itertools.product(whole, range(40)):
    corrupt = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, len(data), 8)
    corrupt[places] = rng.integers(0, 256, 8)
    try:
      decode(corrupt.tobytes(), out, name='it')
      outcomes.add('read')
    except BadImage as error:
      assert '\n' not in str(error)
      outcomes.add('refused')
  assert outcomes == {'read', 'refused'}


def test_an_odd_jfif_revision_is_no_damage():
  data = bytearray(jpeg())
  data[data.index(b'JFIF\0') + 5] = 0
  with pytest.raises(ValueError, match='JFIF revision'):
    simplejpeg.decode_jpeg(bytes(data))
  np.testing.assert_array_equal(canvas(bytes(data)), canvas(jpeg()))


def test_channels_by_name_choose_planes():
  assert image_planes(ChannelSet.of('RGB')) == (0, 1, 2)
  assert image_planes(ChannelSet.of('BGR')) == (2, 1, 0)
  assert image_planes(ChannelSet.of('G')) == (1,)
  assert image_planes(ChannelSet.of('B08,B04,B03')) == (0, 1, 2)
  assert image_planes(ChannelSet.of('L')) == image_planes(ChannelSet.of('gray')) == ()
  for wrong in ('RGBN', 'R,L', 'L,A', 'R,NIR,G', 'RL', 'LA', 'rgb', 'RR'):
    with pytest.raises(InputError, match='image files hold R, G and B'):
      image_planes(ChannelSet.of(wrong))


def test_planes_are_taken_in_the_order_asked_for():
  data = encoded(picture(), 'PNG')
  out = np.zeros((HEIGHT, WIDTH, 2), np.uint8)
  assert decode_planes(data, out, (2, 0), name='it') == (HEIGHT, WIDTH)
  np.testing.assert_array_equal(out, picture()[..., [2, 0]])
