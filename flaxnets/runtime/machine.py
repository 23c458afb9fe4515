"""The machine under the program: cores, memory and where compiled programs are kept.

Imports no JAX, so that worker processes that only decode images can use it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
import platform

# (option of <malloc.h>, value): M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX.
_KEEP_FREED = ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20), (-8, 1))


def cores() -> int:
  """CPU cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def has_accelerator_plugin() -> bool:
  """Whether JAX may find a device other than the CPU here, without starting JAX to find out."""
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


def keep_freed_memory() -> None:
  """Tells glibc to keep freed blocks for the next step, however large; elsewhere it does nothing.

  XLA on CPUs takes the temporaries of every step from malloc, half a gigabyte for a ResNet-18, and glibc returns blocks
  of that size to the system at once: each step then faults its pages in anew, which is a fifth of its time. One arena,
  since only the main one can grow that far. Has no effect on threads that ran before; MALLOC_ARENA_MAX or
  GLIBC_TUNABLES in the environment say that somebody decided otherwise.
  """
  if platform.system() != 'Linux' or {'MALLOC_ARENA_MAX', 'GLIBC_TUNABLES'} & set(os.environ):
    return
  try:
    mallopt = ctypes.CDLL('libc.so.6').mallopt
  except (OSError, AttributeError):  # another C library
    return
  for option, value in _KEEP_FREED:
    mallopt(option, value)


def cache_folder() -> pathlib.Path:
  """Where compiled programs are kept. XLA compiles for the CPU's own instructions: another kind, another folder."""
  root = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    description = [line for line in lines if line.startswith(('model name', 'flags'))][:2]
  except OSError:
    description = [platform.processor()]
  key = hashlib.sha256('\n'.join([platform.machine(), *description]).encode()).hexdigest()[:16]
  return root / 'flaxnets' / f'jax-{importlib.metadata.version("jax")}-{key}'
