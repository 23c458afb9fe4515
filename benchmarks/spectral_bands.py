"""How well wavelengths predict the correlation of bands: each band in turn as one that was never seen with the others.

python -m benchmarks.spectral_bands --data=eurosat_13band.npz --out=docs/results/spectral [--run=RUN]

Compared with the correlation of the nearest band, and of the mean over all bands. With --run, a run of these bands that
flaxnets trained, the accuracy on test images without one band: with the measured correlation, with the predicted one,
and with completion none, which leaves the band out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from flaxnets.analysis import spectral
from flaxnets.analysis.covariance import channel_statistics
from flaxnets.analysis.intervals import difference_interval
from flaxnets.data.bands import SENTINEL2


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
  """Measures, prints and writes OUT/NAME.json, NAME the archive's; returns what it wrote."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, help='.npz of bands of Sentinel-2, as EuroSAT')
  parser.add_argument('--out', required=True, help='folder for the result')
  parser.add_argument('--run', default='', help='folder of a run of these bands, to be judged without each of them')
  options = parser.parse_args(argv)
  with np.load(options.data) as file:
    names = [str(name) for name in file['bands']]
    images = np.concatenate([file[key] for key in sorted(file.files) if key.startswith('X_')]).transpose(0, 2, 3, 1)
    test, labels = file['X_test'].transpose(0, 2, 3, 1), file['y_test']
  wavelengths = [SENTINEL2[name] for name in names]
  measured = channel_statistics(images)['correlation'].astype(np.float64)
  predicted = spectral.leave_one_out(measured, wavelengths)
  guesses = {'wavelengths': predicted, **baselines(measured, np.asarray(wavelengths))}
  off = ~np.eye(len(names), dtype=bool)
  errors = {way: np.sqrt(np.square(rows - measured)[off].mean()) for way, rows in guesses.items()}
  result: dict[str, Any] = {
    'data': {'file': Path(options.data).name, 'images': len(images), 'bands': names, 'wavelengths': wavelengths},
    'length': spectral.LENGTH,
    'nugget': spectral.NUGGET,
    'root_mean_square_error': {way: round(float(error), 4) for way, error in errors.items()},
    'mean_absolute_error': round(float(np.abs(predicted - measured)[off].mean()), 4),
    'bands': {
      name: {
        'root_mean_square_error': round(float(np.sqrt(np.square(predicted - measured)[band][off[band]].mean())), 4),
        'measured': measured[band].round(3).tolist(),
        'predicted': predicted[band].round(3).tolist(),
      }
      for band, name in enumerate(names)
    },
    **measure.record(),
  }
  if options.run:
    result['accuracy'] = accuracies(options.run, names, measured, predicted, test, labels)
  print(json.dumps({key: result[key] for key in ('root_mean_square_error', 'mean_absolute_error')}))
  measure.write(Path(options.out, f'{Path(options.data).stem}.json'), result)
  return result


def baselines(measured: np.ndarray, wavelengths: np.ndarray) -> dict[str, np.ndarray]:
  """Row c is for band c as unknown: the row of its nearest band, and the mean correlation of each other band."""
  count = len(measured)
  nearest, mean = np.ones_like(measured), np.ones_like(measured)
  for band in range(count):
    others = np.delete(np.arange(count), band)
    closest = others[np.abs(np.log(wavelengths[others] / wavelengths[band])).argmin()]
    nearest[band, others] = measured[closest, others]
    mean[band, others] = (measured[np.ix_(others, others)].sum(1) - 1) / (count - 2)
  return {'nearest band': nearest, 'mean': mean}


def accuracies(
  run: str, names: Sequence[str], measured: np.ndarray, predicted: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
  """Accuracy without each band in turn, by how it is completed, with paired differences from the measured one."""
  import flaxnets
  from flaxnets.nn import stem as stems

  nets = {
    way: flaxnets.load(run, completion='none' if way == 'none' else '') for way in ('measured', 'predicted', 'none')
  }
  order = nets['measured'].channels.order(list(names))
  rows = {}
  for band, name in enumerate(names):
    others = [index for index in range(len(names)) if index != band]
    hits = {}
    for way, net in nets.items():
      correlation = measured.copy()
      if way == 'predicted':
        correlation[band, others] = correlation[others, band] = predicted[band, others]
        correlation = spectral.semidefinite(correlation)
      places = np.argsort(order)
      variables = {**net.variables, 'channel_stats': {stems.STEM: {**net.variables['channel_stats'][stems.STEM]}}}
      variables['channel_stats'][stems.STEM][stems.CONV] = {
        'correlation': correlation[np.ix_(places, places)].astype(np.float32)
      }
      net.variables = variables
      hits[way] = (net.predict(images[..., others], channels=[names[index] for index in others]) == labels).astype(
        float
      )
    rows[name] = {
      way: {
        'accuracy': round(float(hit.mean()), 4),
        'difference_interval': [round(end, 4) for end in difference_interval(hit - hits['measured'])],
      }
      for way, hit in hits.items()
    }
  return rows


if __name__ == '__main__':
  main()
