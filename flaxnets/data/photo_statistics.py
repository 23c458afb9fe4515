"""Statistics of R, G and B in photos, for networks that were trained on ImageNet elsewhere."""

from __future__ import annotations

import numpy as np

CHANNELS = ('R', 'G', 'B')
SCALE = 255.0  # of 8-bit pixels, where PyTorch's networks take 0..1

# What torchvision, timm and most others standardise ImageNet's photos with, for pixels in 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Measured with `flaxnets.data.statistics.measure` over all pixels of 18,000 photos of 84 x 84 pixels: 360 training
# images of each of 50 classes of ImageNet, as miniImageNet has them. On 1,500 photos of the ten classes of
# Imagenette at 224 x 224 pixels, the correlations are 0.917 (RG), 0.805 (RB) and 0.915 (GB).
CORRELATION = (
  (1.0, 0.8882, 0.7348),
  (0.8882, 1.0, 0.8781),
  (0.7348, 0.8781, 1.0),
)


def photo_statistics(channels: tuple[str, ...] = CHANNELS) -> dict[str, np.ndarray]:
  """'mean' and 'std' (3,) in 0..255 and 'correlation' (3, 3), float32, of R, G and B in the given order."""
  order = [CHANNELS.index(name) for name in channels]
  mean, std, correlation = (np.asarray(values, np.float64) for values in (MEAN, STD, CORRELATION))
  return {
    'mean': (SCALE * mean[order]).astype(np.float32),
    'std': (SCALE * std[order]).astype(np.float32),
    'correlation': correlation[np.ix_(order, order)].astype(np.float32),
  }
