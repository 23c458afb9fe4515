"""Digests of arrays and of JSON values, by which a change of a single bit is noticed.

All are BLAKE2b of 16 bytes: two different contents have the same digest with a probability of 2**-128.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxnets.runtime import machine

_THREADS = 4  # hashlib releases the interpreter's lock, so that arrays are hashed in parallel


def array_digest(array: np.ndarray) -> str:
  """A digest of the dtype, the shape and the bytes of an array."""
  array = np.asarray(array)
  if array.dtype.hasobject:
    raise ValueError('an array of Python objects has no digest')
  digest = hashlib.blake2b(f'{array.dtype.str}{array.shape}'.encode(), digest_size=16)
  # As bytes: a buffer of bfloat16 or of text has no format that hashlib knows.
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b'')
  return digest.hexdigest()


def array_digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  """The digest of each array, by its name."""
  with concurrent.futures.ThreadPoolExecutor(min(_THREADS, machine.cores())) as pool:
    return dict(zip(arrays, pool.map(array_digest, arrays.values()), strict=True))


def text_digest(values: Any) -> str:
  """A digest of JSON values; it does not depend on the order of keys."""
  return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
