"""Trains a small network, evaluates it, exports it for red and green images, and serves one request from the exports.

python examples/serve.py [--workdir=runs/serve]

The images are drawn by flaxnets. Red and green show the shape in every image, and the hue in two thirds of them. The
script takes about a minute on two CPU cores. If the run exists, it is not trained again.
ONNX is exported and served if jax2onnx, onnx and onnxruntime are installed; see `flaxnets export --help`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import flaxnets
from flaxnets.data import synthetic

SUBSET = 'RG'
TRAINING = (
  '--config=demo',
  '--config.model.name=resattention',
  '--config.image_size=24',
  '--config.data.train=train[:3000]',
  '--config.data.validation=validation[:240]',
  '--config.data.test=test[:600]',
  '--config.train.epochs=6',
  '--config.evaluate.every=100',
)

Logits = Callable[[np.ndarray], np.ndarray]  # of raw pixels (1, height, width, m) to logits (1, K)


def main() -> None:
  parser = argparse.ArgumentParser(description='Trains, evaluates, exports and serves a small network.')
  parser.add_argument('--workdir', type=pathlib.Path, default=pathlib.Path('runs/serve'), help='folder of the run')
  workdir = parser.parse_args().workdir
  run('train', f'--workdir={workdir}', *TRAINING)
  run('eval', f'--workdir={workdir}')

  request, label = one_request()
  expected = flaxnets.load(workdir).logits(request, SUBSET)
  servers = {'StableHLO': stablehlo(workdir)}
  missing = [name for name in ('jax2onnx', 'onnx', 'onnxruntime') if importlib.util.find_spec(name) is None]
  if missing:
    print(
      f'ONNX is skipped, because {", ".join(missing)} cannot be imported; flaxnets export --help says what to install'
    )
  else:
    servers['ONNX'] = onnx(workdir)
  for name, (logits, classes) in servers.items():
    found, milliseconds = serve(logits, request)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    print(
      f'{name}: {classes[found.argmax()]!r} for an image of class {label!r} in {milliseconds:.2f} ms; '
      f'differs from the network by {difference:.0e} of the largest logit'
    )


def run(command: str, *arguments: str) -> None:
  """Runs a command of flaxnets, as a terminal would; leaves this program where that fails."""
  code = subprocess.run([sys.executable, '-m', 'flaxnets', command, *arguments]).returncode
  if code:
    sys.exit(code)


def one_request() -> tuple[np.ndarray, str]:
  """The red and green planes of one test image, (1, height, width, 2) uint8 raw pixels, and its class."""
  source = synthetic.source('test[:1]')
  image = np.empty((*source.canvas, 3), np.uint8)
  source.read(0, image)
  return image[np.newaxis, ..., :2], source.classes[source.labels[0]]


def stablehlo(workdir: pathlib.Path) -> tuple[Logits, list[str]]:
  """The network from its StableHLO file, which needs jax and flaxnets but neither the run nor its config."""
  file = workdir / 'rg.stablehlo'
  run('export', str(workdir), f'--subset={SUBSET}', *canvas(), f'--out={file}')
  network = flaxnets.load_exported(file)
  return network.logits, list(network.classes)


def onnx(workdir: pathlib.Path) -> tuple[Logits, list[str]]:
  """The network from its ONNX file. From here on, neither jax nor flaxnets is needed."""
  file = workdir / 'rg.onnx'
  run('export', str(workdir), f'--subset={SUBSET}', *canvas(), '--format=onnx', f'--out={file}')
  import onnxruntime

  session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
  description: dict[str, Any] = session.get_modelmeta().custom_metadata_map
  return lambda images: session.run(['logits'], {'images': images})[0], json.loads(description['classes'])


def canvas() -> tuple[str, str]:
  """The flags that say how large raw images are; resizing to the network's input is part of the exported file."""
  height, width = one_request()[0].shape[1:3]
  return f'--height={height}', f'--width={width}'


def serve(logits: Logits, request: np.ndarray) -> tuple[np.ndarray, float]:
  """The logits of one request, and the median milliseconds of 20 after the first, which compiles."""
  logits(request)
  seconds = []
  for _ in range(20):
    start = time.perf_counter()
    found = logits(request)
    seconds.append(time.perf_counter() - start)
  return found, 1e3 * float(np.median(seconds))


if __name__ == '__main__':
  main()
