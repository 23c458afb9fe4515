"""PyTorch's training step and evaluation, tuned as its users do: the peer of benchmarks/train_step.py.

Channels-last memory, cuDNN benchmark mode, the fused optimiser, autocast for bfloat16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import torch_networks
from flaxnets.errors import InputError
from flaxnets.runtime import machine


def device_for(platform: str) -> torch.device:
  """The PyTorch device for JAX's platform 'cpu' or 'gpu'; on a CPU, also sets one thread per core.

  Raises:
    InputError: if JAX has a GPU that this PyTorch cannot use, so there is nothing to compare.
  """
  if platform == 'cpu':
    torch.set_num_threads(machine.cores())
    return torch.device('cpu')
  if not torch.cuda.is_available():
    raise InputError(
      f'JAX runs on a {platform} that this PyTorch ({torch.__version__}) cannot use; '
      'install one with CUDA, or set JAX_PLATFORMS=cpu'
    )
  torch.backends.cudnn.benchmark = True
  return torch.device('cuda')


def set_tf32(allowed: bool) -> None:
  """Sets whether GPUs may round the inputs of float32 convolutions and matrix products to TensorFloat-32."""
  # Not the newer fp32_precision: torch.compile reads the older switches and rejects a mixture.
  torch.set_float32_matmul_precision('high' if allowed else 'highest')
  torch.backends.cudnn.allow_tf32 = allowed


def channels_last(images: np.ndarray, device: torch.device) -> torch.Tensor:
  """(b, h, w, c) as a (b, c, h, w) tensor with the same memory layout."""
  return torch.from_numpy(images).permute(0, 3, 1, 2).to(device)


class _Contender:
  """A network and a batch on a device; called with n, it does n units of work and waits for the last one."""

  def __init__(
    self,
    name: str,
    sizes: Mapping[str, int],
    variables: Mapping[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    device: torch.device,
    bfloat16: bool,
    compiled: bool,
  ):
    self.device, self.bfloat16 = device, bfloat16
    self.compile_seconds = None if compiled else 0.0  # None: the first unit of work compiles
    self.network = network_on(device, name, sizes, variables)
    # Programs of earlier settings would count towards the recompilation limit.
    torch.compiler.reset()
    self.forward = torch.compile(self.network) if compiled else self.network
    self.images = channels_last(images, device)
    self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)

  def __call__(self, units: int) -> None:
    try:
      for _ in range(units):
        self.work()
    except torch._dynamo.exc.TorchDynamoException as error:
      raise InputError(f'torch.compile failed ({str(error).splitlines()[0]}); --no_compile skips it') from None
    if self.device.type == 'cuda':
      torch.cuda.synchronize()

  def work(self) -> None:
    raise NotImplementedError

  def autocast(self) -> contextlib.AbstractContextManager:
    return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

  def memory_bytes(self) -> int | None:
    """Peak allocation in bytes during one unit of work, without other contenders' tensors; None on a CPU."""
    if self.device.type != 'cuda':
      return None
    others = torch.cuda.memory_allocated() - sum(tensor.nbytes for tensor in self.held())
    torch.cuda.reset_peak_memory_stats()
    self(1)
    return torch.cuda.max_memory_allocated() - others

  def bytes_accessed(self) -> None:
    """Unknown: PyTorch does not count them."""

  def held(self) -> list[torch.Tensor]:
    """The tensors that persist between units of work."""
    gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
    return [*self.network.parameters(), *self.network.buffers(), *gradients, self.images, self.labels]


class Training(_Contender):
  """Forward, cross-entropy, backward, SGD with momentum; weight decay on everything but vectors."""

  def __init__(self, *args, learning_rate: float, momentum: float, weight_decay: float, **kwargs):
    super().__init__(*args, **kwargs)
    self.network.train()
    parameters = list(self.network.parameters())
    self.optimizer = torch.optim.SGD(
      [
        {'params': [p for p in parameters if p.ndim >= 2], 'weight_decay': weight_decay},
        {'params': [p for p in parameters if p.ndim < 2], 'weight_decay': 0.0},
      ],
      lr=learning_rate,
      momentum=momentum,
      nesterov=False,
      fused=True,
    )

  def work(self) -> None:
    self.optimizer.zero_grad(set_to_none=True)
    with self.autocast():
      loss = functional.cross_entropy(self.forward(self.images), self.labels)
    loss.backward()
    self.optimizer.step()
    self.loss = loss.detach()

  def weights(self) -> dict[str, np.ndarray]:
    """The current parameters by key."""
    return {key: value.detach().cpu().numpy() for key, value in self.network.named_parameters()}

  def held(self) -> list[torch.Tensor]:
    momentum = [state['momentum_buffer'] for state in self.optimizer.state.values()]
    return [*super().held(), *momentum]


class Evaluation(_Contender):
  """The forward pass in evaluation mode."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.network.eval()

  def work(self) -> None:
    with torch.inference_mode(), self.autocast():
      self.logits = self.forward(self.images)


class Convolution:
  """One part of one convolution (see `benchmarks.layers`) in eager mode; called with n, it runs n times."""

  def __init__(self, layer: Any, part: str, batch_size: int, device: torch.device):
    self.device, self.part = device, part
    x = torch.randn(batch_size, layer.inputs, layer.height, layer.width, device=device)
    kernel = torch.randn(layer.features, layer.inputs, layer.size, layer.size, device=device)
    self.x, self.kernel = (tensor.to(memory_format=torch.channels_last) for tensor in (x, kernel))
    self.strides, self.padding = [layer.strides] * 2, [(layer.size - 1) // 2] * 2
    self.outputs = self.forward()

  def forward(self) -> torch.Tensor:
    return torch.conv2d(self.x, self.kernel, stride=self.strides, padding=self.padding)

  def backward(self) -> Any:
    which = [self.part == 'input gradient', self.part == 'kernel gradient', False]
    return torch.ops.aten.convolution_backward(
      self.outputs, self.x, self.kernel, None, self.strides, self.padding, [1, 1], False, [0, 0], 1, which
    )

  def __call__(self, units: int) -> None:
    with torch.inference_mode():
      for _ in range(units):
        self.forward() if self.part == 'forward' else self.backward()
    if self.device.type == 'cuda':
      torch.cuda.synchronize()


def network_on(device: torch.device, name: str, sizes: Mapping[str, int], variables: Mapping[str, Any]) -> nn.Module:
  """The network from `torch_networks.build(name, **sizes)` with Flax variables, on a device."""
  network = torch_networks.load(torch_networks.build(name, **sizes), variables)
  return network.to(device, memory_format=torch.channels_last)


def by_key(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """A tree shaped like the Flax parameters, in the form of `Training.weights`."""
  return {key: value.numpy() for key, value in torch_networks.carried({'params': params}).items()}
