"""Properties of the machine: cores, accelerators, memory allocation and the folder of compiled programs.

Does not import JAX, so that worker processes that only decode images start quickly.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import pkgutil
import platform

# (option of <malloc.h>, value): M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX.
_KEEP_FREED = ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20), (-8, 1))

# Microseconds of CPU time, or 'max', and of the period in which they may be used: Linux's control groups, version 2.
CPU_QUOTA = pathlib.Path('/sys/fs/cgroup/cpu.max')

YNN = '--xla_cpu_experimental_ynn_fusion_type'  # a flag of XLA; empty for no YNNPACK fusions


def cores() -> int:
  """The number of CPU cores that this process may use, with a container's quota rounded up to whole cores."""
  count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  try:
    quota, period = CPU_QUOTA.read_text('utf-8').split()
    return min(count, math.ceil(int(quota) / int(period)))
  except (OSError, ValueError):  # no control groups of version 2, or 'max': no quota
    return count


def has_accelerator_plugin() -> bool:
  """Whether JAX may find a device other than the CPU. Does not initialise JAX."""
  platforms = os.environ.get('JAX_PLATFORMS', '')
  if platforms:
    return platforms != 'cpu'
  plugins = importlib.util.find_spec('jax_plugins')
  folders = plugins.submodule_search_locations if plugins else None
  return (
    bool(folders and list(pkgutil.iter_modules(folders)))
    or bool(importlib.metadata.entry_points(group='jax_plugins'))
    or importlib.util.find_spec('libtpu') is not None
  )


def bfloat16_warning() -> str:
  """Why bfloat16 should not be used on this machine, in one line; '' if nothing is known against it.

  XLA's YNNPACK fusions of jaxlib 0.11.2 compute some convolutions of bfloat16 wrongly on CPUs: ResAttentionNet's logits
  are NaN, or wrong and finite, from a batch of four on.
  """
  version = importlib.metadata.version('jaxlib')
  if not version.startswith('0.11.') or YNN in os.environ.get('XLA_FLAGS', '') or has_accelerator_plugin():
    return ''
  return (
    f'model.dtype=bfloat16 may give wrong outputs on CPUs with jaxlib {version}; use float32, or set '
    f'XLA_FLAGS={YNN}= before the start'
  )


def keep_freed_memory() -> None:
  """Makes glibc keep freed blocks of any size for the next step. Does nothing with another C library.

  On CPUs, XLA allocates the temporaries of every step with malloc, half a gigabyte for a ResNet-18. By default glibc
  returns blocks of that size to the system immediately, and the page faults of the next step take a fifth of its time.
  All threads share one arena, because only the main arena can grow that large. Threads that already run are not
  affected. If MALLOC_ARENA_MAX or GLIBC_TUNABLES is set, the user's settings stay as they are.
  """
  if platform.system() != 'Linux' or {'MALLOC_ARENA_MAX', 'GLIBC_TUNABLES'} & set(os.environ):
    return
  try:
    mallopt = ctypes.CDLL('libc.so.6').mallopt
  except (OSError, AttributeError):  # another C library
    return
  for option, value in _KEEP_FREED:
    mallopt(option, value)


def cache_folder() -> pathlib.Path | None:
  """The folder of compiled programs, one per CPU type, because XLA compiles for the instructions of the CPU.

  It is made if it does not exist. None if the user has no home, or none to write to, as in some containers.
  """
  key = hashlib.sha256('\n'.join([platform.machine(), _cpu()]).encode()).hexdigest()[:16]
  try:
    root = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    folder = root / 'flaxnets' / f'jax-{importlib.metadata.version("jax")}-{key}'
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: no home
    return None
  return folder if os.access(folder, os.W_OK | os.X_OK) else None


@functools.cache
def _cpu() -> str:
  """Model and instruction sets of the CPU, in Linux's words; elsewhere only what Python knows of it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  return '\n'.join([line for line in lines if line.startswith(('model name', 'flags'))][:2])
