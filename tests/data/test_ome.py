"""TIFFs of microscopes: OME-XML names the channels, and tells them from focal planes and time points."""

import numpy as np
import pytest

from flaxnets.data import ome
from flaxnets.data.source import BadImage
from tests.data.made import noise, open_folder, read, write_pages

NAMES = ('DAPI', 'Alexa 488', 'Ph3 (µ)')
DATA = '<TiffData IFD="0" PlaneCount="3"/>'
ENTITIES = '<!DOCTYPE OME [<!ENTITY a "x"><!ENTITY b "&a;&a;"><!ENTITY c "&b;&b;">]>'


def pixels(names=NAMES, data=DATA, **sizes):
  """What describes one image, as tifffile and Bio-Formats write it."""
  sizes = ''.join(f' {axis}="{size}"' for axis, size in ({'SizeC': 3, 'SizeZ': 1, 'SizeT': 1} | sizes).items())
  channels = ''.join(f'<Channel ID="Channel:0:0" Name="{name}"><LightPath/></Channel>' for name in names)
  channels = channels.replace(' Name=""', '')
  return f'<Image ID="Image:0"><Pixels DimensionOrder="XYCZT" Type="uint16"{sizes}>{channels}{data}</Pixels></Image>'


def described(*images, declared=''):
  return (
    f'<?xml version="1.0" encoding="UTF-8"?>{declared}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
    f'Creator="a microscope">{"".join(images)}</OME>'
  )


def test_channels_are_named_in_the_order_of_the_pages():
  assert ome.planes(described(pixels()), 3) == ome.Planes(1, 1, NAMES)
  each = ''.join(f'<TiffData IFD="{page}" FirstC="{page}" FirstZ="0" FirstT="0"/>' for page in range(3))
  assert ome.planes(described(pixels(data=each)), 3).names == NAMES
  prefixed = described(pixels()).replace('<', '<ome:').replace('<ome:/', '</ome:').replace('<ome:?', '<?')
  assert ome.planes(prefixed.replace('xmlns=', 'xmlns:ome='), 3).names == NAMES


@pytest.mark.parametrize(
  'description',
  [
    'ImageJ=1.54f\nimages=3\nchannels=3',
    described(pixels(NAMES[:2])),
    described(pixels((*NAMES, 'Cy5'))),
    described(pixels((*NAMES[:2], ''))),
    described(pixels((*NAMES[:2], ' '))),
    described(pixels((*NAMES[:2], 'DAPI'))),
    described(pixels(data='<TiffData IFD="0" FirstC="2"/><TiffData IFD="2" FirstC="0"/>')),
    described(pixels(), pixels()),
    described(),
    described(pixels())[:-5],
  ],
)
def test_names_that_are_not_one_for_each_page_are_ignored(description):
  assert ome.planes(description, 3) == ome.Planes()


@pytest.mark.parametrize('name', ['&c;', 'DAPI'])
def test_a_description_that_declares_entities_is_ignored_unread(name, monkeypatch):
  monkeypatch.setattr(ome.ElementTree, 'fromstring', lambda text: pytest.fail('parsed'))
  assert ome.planes(described(pixels((name, 'b', 'c'), SizeZ=2), declared=ENTITIES), 3) == ome.Planes()


def test_a_description_without_end_is_ignored_unread(monkeypatch):
  monkeypatch.setattr(ome.ElementTree, 'fromstring', lambda text: pytest.fail('parsed'))
  assert ome.planes(described(pixels(), ' ' * ome.MAX_TEXT), 3) == ome.Planes()


@pytest.mark.parametrize(('size', 'expected'), [('5', 5), ('0', 1), ('-2', 1), ('many', 1), ('9' * 5000, 1)])
def test_focal_planes_are_counted_where_the_text_is_a_number(size, expected):
  assert ome.planes(described(pixels(SizeZ=size)), 3).depths == expected


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
def test_the_channels_of_an_ome_tiff_need_no_names_in_the_config(tmp_path):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  image = noise(count=3, dtype=np.uint8)
  write_pages(tmp_path / 'train/cell/0.ome.tif', image, described(pixels()).encode())
  source = open_folder(tmp_path)
  assert source.channels.names == ('DAPI', 'Alexa_488', 'Ph3_(µ)')
  np.testing.assert_array_equal(read(source)[1], image)
  source = open_folder(tmp_path, bands='blue,green,phase', channels='phase')
  np.testing.assert_array_equal(read(source)[1], image[..., 2:])


@pytest.mark.filterwarnings('ignore:Dataset has no geotransform')
@pytest.mark.parametrize('options', [{}, {'bands': 'a,b,c'}])
@pytest.mark.parametrize('sizes', [{'SizeZ': 3}, {'SizeT': 3}])
def test_focal_planes_and_time_points_are_not_read_as_channels(tmp_path, sizes, options):
  pytest.importorskip('rasterio', reason='rasterio (the extra geo) is not installed')
  write_pages(tmp_path / 'train/cell/0.ome.tif', noise(count=3), described(pixels(NAMES[:1], **sizes)).encode())
  depths, times = sizes.get('SizeZ', 1), sizes.get('SizeT', 1)
  said = rf'0.ome.tif: its OME-XML says that its 3 pages have {depths} focal planes \(Z\) and {times} time points \(T\)'
  with pytest.raises(BadImage, match=said):
    open_folder(tmp_path, **options)
