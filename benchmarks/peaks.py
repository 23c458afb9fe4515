"""What GPUs can do at most."""

from __future__ import annotations

# Dense peak FLOP/s, and bytes/s of memory, by JAX's name of the GPU, from NVIDIA's data sheets. The first name that is
# part of the GPU's name counts, so longer names come first.
PEAKS = {
  'H100 PCIe': {'bfloat16': 756e12, 'tf32': 378e12, 'float32': 51e12, 'memory': 2.0e12},
  'H100': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12, 'memory': 3.35e12},
  'H200': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12, 'memory': 4.8e12},
  'A100': {'bfloat16': 312e12, 'tf32': 156e12, 'float32': 19.5e12, 'memory': 2.0e12},
}


def peak_of(kind: str, what: str) -> float | None:
  """Peak FLOP/s for a precision, or bytes/s for 'memory', of a device kind in JAX's naming; None if unknown."""
  return next((peaks[what] for name, peaks in PEAKS.items() if name in kind), None)
