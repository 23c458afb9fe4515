"""A network written to a run's folder, without training: what `flaxnets.load` and all commands take."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxnets import config as configs
from flaxnets.errors import InputError
from flaxnets.inference.network import Network
from flaxnets.runtime import atomic, records
from flaxnets.runtime.checkpoint import Checkpoints, SaveFailed
from flaxnets.runtime.workdir import INCOMPLETE, locked


def check_free(folder: str | os.PathLike[str]) -> None:
  """Raises InputError if a folder holds a run already, other than one that `write` was killed in the middle of."""
  path = pathlib.Path(folder)
  if (path / INCOMPLETE).exists():
    return
  if (path / 'config.json').exists() or (path / 'checkpoints').exists():
    raise InputError(f'{path} holds a network already; choose another folder (--out)')


def write(net: Network, folder: str | os.PathLike[str], origin: Mapping[str, Any]) -> None:
  """Writes a network as step 0 of a run that was not trained here.

  The checkpoint holds no optimiser, so that training cannot resume it; it starts from it with `train.init_from`.

  Args:
    net: with its config, metadata and variables. Recalibrated statistics are not written.
    folder: of the run, new or without a run in it.
    origin: where the network comes from, JSON values, stored in the checkpoint beside its metadata.

  Raises:
    InputError: if the folder holds a run or cannot be written.
  """
  path, fields = pathlib.Path(folder), configs.to_json(net.config)
  with locked(path, '--out'):
    check_free(folder)
    with atomic.writing(path, SaveFailed):
      (path / INCOMPLETE).touch()
      (path / 'config.json').unlink(missing_ok=True)  # this and the next are of an earlier attempt that was killed
      with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path / 'checkpoints')
      checkpoints = Checkpoints(path / 'checkpoints')
      state = {**net.variables, 'step': np.zeros((), np.int32)}
      try:
        checkpoints.save(0, state, {'config': fields, 'metadata': net.metadata.to_json(), 'origin': dict(origin)})
      finally:
        checkpoints.close()
      records.write(path / 'config.json', fields, indent=1)
      (path / INCOMPLETE).unlink()
