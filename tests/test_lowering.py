"""Training, evaluation and prediction of every network lower for GPUs and TPUs, on a machine that has neither.

Lowering writes the program out for a platform. It finds operations that the platform lacks; what it doesn't find is a
program that its compiler rejects or that needs more memory than there is.
"""

import jax
import numpy as np
import optax
import pytest

from flaxnets import experiment, models
from flaxnets.channels import ChannelSet
from flaxnets.evaluation.evaluator import Evaluator
from flaxnets.inference.metadata import Metadata
from flaxnets.inference.network import Network
from flaxnets.models import cost
from flaxnets.training.step import initial_state, make_train_step
from tests.small import small_config

PLATFORMS = ('cuda', 'tpu')
SIDE, CANVAS, CLASSES, BATCH = 32, (48, 48), 6, 2
RGB = ChannelSet.of('RGB')
FILL = np.full(3, 120, np.float32)


def shape(*sizes, dtype=np.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def canvases():
  """A batch as the host hands it over, as shapes."""
  return {
    'image': shape(BATCH, *CANVAS, 3, dtype=np.uint8),
    'size': shape(BATCH, 2, dtype=np.int32),
    'present': shape(BATCH, 3, dtype=bool),
    'label': shape(BATCH, dtype=np.int32),
    'skipped': shape(BATCH, dtype=bool),
  }


def lower(function, *args):
  """The text of a function's program for the platforms: one program, with what is specific to each of them."""
  return function.trace(*args).lower(lowering_platforms=PLATFORMS).as_text()


def check(program, dtype):
  assert 'stablehlo.convolution' in program
  assert ('bf16' in program) == (dtype == 'bfloat16')


@pytest.fixture(params=models.DTYPES)
def dtype(request):
  return request.param


# A ResNet-34 with a block a stage, as `model` has it, is a ResNet-18.
@pytest.fixture(params=['resnet18', 'resnet50', 'resattention'])
def config(request, dtype):
  return small_config(**{'model.name': request.param, 'model.dtype': dtype, 'image_size': SIDE})


@pytest.fixture
def model(config):
  """The config's network; of a ResNet's equal blocks one a stage, since what lowers once lowers again."""
  network = experiment.build_network(config, RGB, CLASSES)
  return network.clone(stage_sizes=(1, 1, 1, 1)) if hasattr(network, 'stage_sizes') else network


def test_a_training_step_lowers(config, dtype, model, mesh1):
  optimizer = optax.sgd(0.1, momentum=0.9)
  state = jax.eval_shape(lambda v: initial_state(v, optimizer, ema=True), cost.initial_shapes(model, SIDE))
  statistics = {'mean': FILL, 'std': np.ones(3, np.float32)}
  view = experiment.training_view_of(config, (0, 1, 2), CANVAS, statistics)
  step = make_train_step(model, optimizer, optax.constant_schedule(0.1), mesh1, view, masked=True, ema=0.9)
  check(lower(step, state, canvases()), dtype)


@pytest.mark.parametrize('missing', [False, True], ids=['subset', 'mask'])
def test_evaluation_lowers(dtype, model, mesh1, missing):
  evaluator = Evaluator(
    model,
    [(0, 2)],
    source_index=(0, 1, 2),
    image_size=SIDE,
    resize=1.0,
    fill=FILL,
    has_missing_channels=missing,
    mesh=mesh1,
  )
  batch = canvases()
  seen = {key: batch[key] for key in ('image', 'size', 'present')}
  lower(evaluator._view, seen)
  images, present = jax.eval_shape(evaluator._view, seen)
  variables, sums = cost.initial_shapes(model, SIDE), evaluator._zeros()
  function = evaluator._shared if missing else evaluator._functions[0, 2]
  inside = shape(3, dtype=bool) if missing else None
  check(lower(function, variables, inside, sums, images, present, batch['label'], shape(BATCH, dtype=bool)), dtype)


@pytest.mark.parametrize('missing', [False, True], ids=['subset', 'mask'])
def test_prediction_lowers(config, dtype, model, missing):
  metadata = Metadata(RGB, tuple('abcdef'), 'uint8', (0.0,) * 3, (255.0,) * 3)
  variables = cost.initial_shapes(model, SIDE)
  net = Network(config, metadata, variables, step=1, ema=False)
  net.model = model
  images, sizes = shape(BATCH, *CANVAS, 2, dtype=np.uint8), shape(BATCH, 2, dtype=np.int32)
  present = shape(BATCH, 2, dtype=bool) if missing else None
  check(lower(net.compiled, variables, images, sizes, present, (0, 2)), dtype)
