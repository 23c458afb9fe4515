"""Peak memory of a class map: a scene of 10,000 x 10,000 pixels and 13 bands of 16 bits, 2.6 GB, by a tiny network.

    python -m benchmarks.map_memory --side=10000 --json=docs/results/benchmarks/map_memory.json

The scene is a sparse GeoTIFF with noise in every tenth block; blocks that were never written read as zeros, which count
as data. The network is untrained, since its size and not its quality matters. The peak is that of this whole process,
Python, JAX and GDAL included.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import resource
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks import measure
from flaxnets import experiment
from flaxnets.channels import ChannelSet
from flaxnets.config import named
from flaxnets.data.bands import EUROSAT
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.runtime import provenance

CLASSES = tuple(f'class {index}' for index in range(10))
LAYOUTS = {'tiled': {'tiled': True, 'blockxsize': 512, 'blockysize': 512}, 'striped': {'blockysize': 1}}


def network() -> Network:
  """An untrained network of 13 bands and ten classes at 16 pixels."""
  config = named('demo')
  config.model.name, config.model.width, config.image_size = 'resattention', 8, 16
  channels = ChannelSet(EUROSAT)
  model = experiment.build_network(config, channels, len(CLASSES))
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 13), np.float32))
  metadata = Metadata(channels, CLASSES, 'uint16', (0.0,) * 13, (10_000.0,) * 13, (16, 16))
  return Network(config, metadata, jax.device_get(variables), step=0, ema=False)


def write_scene(path: pathlib.Path, side: int, layout: str) -> None:
  """A sparse GeoTIFF, compressed where its blocks are square."""
  profile = {'driver': 'GTiff', 'width': side, 'height': side, 'count': 13, 'dtype': 'uint16', 'crs': 'EPSG:32631'}
  profile |= {'transform': rasterio.Affine(10, 0, 6e5, 0, -10, 5.4e6), 'SPARSE_OK': True, 'BIGTIFF': 'YES'}
  profile |= {'interleave': 'pixel', **LAYOUTS[layout]} | ({'compress': 'deflate'} if layout == 'tiled' else {})
  noise = np.random.default_rng(0).integers(0, 3000, (13, 512, 512), np.uint16)
  with rasterio.open(path, 'w', **profile) as file:
    for index, name in enumerate(EUROSAT, 1):
      file.set_band_description(index, name)
    for number, (row, column) in enumerate(itertools.product(range(0, side, 512), repeat=2)):
      if number % 10 == 0:
        height, width = min(512, side - row), min(512, side - column)
        file.write(noise[:, :height, :width], window=Window(column, row, width, height))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Makes the scene and its map, prints and writes the row, and returns it."""
  parser = measure.parser('map_memory', (__doc__ or '').splitlines()[0], repeats=None, seconds=None)
  parser.add_argument('--side', type=measure.positive, default=10_000, help='of the scene, pixels')
  parser.add_argument('--tile', type=measure.positive, default=64, help='side of a tile, pixels')
  parser.add_argument('--stride', type=measure.positive, default=32, help='from tile to tile, pixels')
  parser.add_argument('--layout', choices=LAYOUTS, default='tiled', help='blocks of the scene: squares or rows')
  parser.add_argument('--probabilities', choices=('top', 'all', 'none'), default='top', help='as for flaxnets predict')
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    scene = pathlib.Path(folder, 'scene.tif')
    write_scene(scene, args.side, args.layout)
    net, start = network(), time.perf_counter()
    options = {'tile': args.tile, 'stride': args.stride, 'probabilities': args.probabilities, 'batch_size': 512}
    summary = net.predict_map(scene, pathlib.Path(folder, 'map.tif'), **options)
    row = {
      **vars(args),
      'tiles': summary.tiles,
      'seconds': round(time.perf_counter() - start, 1),
      'peak_rss_mib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
      'scene_mib': round(args.side**2 * 13 * 2 / 2**20),
      **measure.record((*provenance.PACKAGES, 'rasterio')),
      'machine': measure.machine(),
    }
  row.pop('json')
  print(json.dumps(row, indent=1))
  if args.json:
    measure.write(args.json, row)
  return row


if __name__ == '__main__':
  main()
