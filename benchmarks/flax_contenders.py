"""flaxnets' training step and evaluation, repeated on one batch, for benchmarks/train_step.py."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from flaxnets import config as configs
from flaxnets import experiment
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.nn.stem import put_statistics
from flaxnets.runtime import devices
from flaxnets.training import optim
from flaxnets.training.step import initial_state, make_train_step

RATE = 0.01
MEAN, STD = np.asarray([123.0, 117.0, 104.0], np.float32), np.asarray([58.0, 57.0, 57.0], np.float32)
CORRELATION = np.asarray([[1, 0.9, 0.8], [0.9, 1, 0.9], [0.8, 0.9, 1]], np.float32)
FULL = (0, 1, 2)


def variables_of(model: nn.Module, image_size: int, seed: int = 0) -> dict[str, Any]:
  """Initial variables on the host. The norm layers are randomised as if trained, since their ones and zeros
  would hide an error in the conversion to PyTorch."""
  variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, image_size, image_size, len(FULL))))
  variables = put_statistics(variables, {'mean': MEAN, 'std': STD, 'correlation': CORRELATION})
  rng = np.random.default_rng(seed)

  def stirred(path: tuple, value: jax.Array) -> np.ndarray:
    value = np.asarray(value)
    if path[0].key == 'channel_stats' or value.ndim != 1:
      return value
    if path[-1].key in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
    return 0.1 * rng.standard_normal(value.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(stirred, variables)


def network_batch(batch_size: int, image_size: int, num_classes: int, seed: int = 0) -> dict[str, np.ndarray]:
  """Float images of raw pixels at the network's input size, and labels."""
  rng = np.random.default_rng(seed)
  return {
    'image': rng.uniform(0, 255, (batch_size, image_size, image_size, len(FULL))).astype(np.float32),
    'label': rng.integers(0, num_classes, batch_size, np.int32),
    'present': np.ones((batch_size, len(FULL)), bool),
    'skipped': np.zeros(batch_size, bool),
  }


def canvas_batch(config: ml_collections.ConfigDict, num_classes: int, seed: int = 0) -> dict[str, np.ndarray]:
  """A batch as `flaxnets.data.batches` makes it: uint8 canvases, and the original image sizes."""
  rng, side, count = np.random.default_rng(seed), configs.canvas_side(config), config.train.batch_size
  return {
    'image': rng.integers(0, 256, (count, side, side, len(FULL)), np.uint8),
    'size': np.full((count, 2), (375, 500), np.int32),
    'label': rng.integers(0, num_classes, count, np.int32),
    'present': np.ones((count, len(FULL)), bool),
    'skipped': np.zeros(count, bool),
    'index': np.arange(count, dtype=np.int32),
    'mask': np.ones(count, bool),
  }


class Training:
  """The compiled training step; called with n, it takes n steps and waits for the last one.

  Args:
    model, variables: a network and its initial variables.
    batch: from `network_batch` or `canvas_batch`.
    mesh: the devices.
    config: the settings of SGD and, with `full_step`, of augmentation and channel sampling.
    full_step: True if the batch contains canvases and the step includes augmentation and sampling; False if the images
      go straight into the network.
    learning_rate: constant over all steps.

  Attributes:
    state, metrics: after the latest step; see `flaxnets.training.step`.
    compile_seconds: the time of tracing and compiling; None if the first unit of work compiles.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping[str, Any],
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
    config: ml_collections.ConfigDict,
    *,
    full_step: bool,
    learning_rate: float = RATE,
  ):
    schedule = optim.schedule('constant', learning_rate=learning_rate, steps=1)
    optimizer = _optimizer(schedule, config)
    statistics = {'mean': MEAN, 'std': STD}
    seen = experiment.training_view_of(config, FULL, batch['image'].shape[1:3], statistics)
    view = seen if full_step else _as_they_are
    step = make_train_step(
      model,
      optimizer,
      schedule,
      mesh,
      view,
      masked=full_step and config.presence.mode != 'none',
      label_smoothing=config.train.label_smoothing,
      accumulate=config.train.accumulate,
      ema=config.train.ema,
    )
    self.batch = jax.device_put(dict(batch), devices.sharded(mesh))
    self.state = jax.jit(
      lambda variables: initial_state(variables, optimizer, ema=config.train.ema > 0),
      out_shardings=devices.replicated(mesh),
    )(variables)
    self.step, self.compile_seconds = _compiled(step, self.state, self.batch)
    self.mesh = mesh

  def __call__(self, units: int) -> None:
    for _ in range(units):
      self.state, self.metrics = self.step(self.state, self.batch)
    jax.block_until_ready(self.state)

  def memory_bytes(self) -> int | None:
    return _memory(self.step, self.mesh)

  def bytes_accessed(self) -> float | None:
    return _bytes_accessed(self.step)


def _as_they_are(step: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
  del step
  return batch['image'], batch['present'][:, None]  # one pass of the network


def _optimizer(schedule: optax.Schedule, config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  names = ('momentum', 'nesterov', 'weight_decay', 'clip_norm')
  return optim.optimizer(schedule, **{name: config.train[name] for name in names})


class Evaluation:
  """The compiled forward pass in evaluation mode; attributes as in Training."""

  def __init__(self, model: nn.Module, variables: Mapping[str, Any], images: np.ndarray, mesh: Mesh):
    batch, everywhere = devices.sharded(mesh), devices.replicated(mesh)
    self.variables = jax.device_put(dict(variables), everywhere)
    self.images = jax.device_put(images, batch)
    forward = jax.jit(model.apply, in_shardings=(everywhere, batch), out_shardings=batch)
    self.forward, self.compile_seconds = _compiled(forward, self.variables, self.images)
    self.mesh = mesh

  def __call__(self, units: int) -> None:
    for _ in range(units):
      self.logits = self.forward(self.variables, self.images)
    jax.block_until_ready(self.logits)

  def memory_bytes(self) -> int | None:
    return _memory(self.forward, self.mesh)

  def bytes_accessed(self) -> float | None:
    return _bytes_accessed(self.forward)


class FullEvaluation:
  """The evaluator on all channels: host batch to device, warp, network, sums, predictions to the host."""

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping[str, Any],
    batch: Mapping[str, np.ndarray],
    mesh: Mesh,
    config: ml_collections.ConfigDict,
  ):
    self.evaluator = Evaluator(
      model,
      [FULL],
      source_index=FULL,
      image_size=config.image_size,
      resize=config.augment.evaluation_resize,
      fill=MEAN,
      has_missing_channels=False,
      mesh=mesh,
    )
    self.variables = jax.device_put(dict(variables), devices.replicated(mesh))
    self.batch, self.compile_seconds = batch, None

  def __call__(self, units: int) -> None:
    self.evaluator(self.variables, itertools.repeat(self.batch, units))

  def memory_bytes(self) -> None:
    """Unknown: the evaluator does not expose its compiled programs."""

  def bytes_accessed(self) -> None:
    """Unknown, as above."""


def _compiled(function: Any, *args: Any) -> tuple[Any, float]:
  begin = time.perf_counter()
  compiled = function.lower(*args).compile()
  return compiled, time.perf_counter() - begin


def _memory(compiled: Any, mesh: Mesh) -> int | None:
  """Bytes of the compiled program on all devices: arguments, results and temporaries, as XLA plans them."""
  planned = compiled.memory_analysis()
  if planned is None:
    return None
  return mesh.size * (
    planned.argument_size_in_bytes
    + planned.output_size_in_bytes
    + planned.temp_size_in_bytes
    - planned.alias_size_in_bytes
  )


def _bytes_accessed(compiled: Any) -> float | None:
  """Bytes that the compiled program reads and writes on one device, as counted by XLA."""
  return (compiled.cost_analysis() or {}).get('bytes accessed')
