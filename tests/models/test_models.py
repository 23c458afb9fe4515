import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from flaxnets import config as configs
from flaxnets import models
from flaxnets.errors import InputError
from flaxnets.models import classifier, cost
from flaxnets.nn import blocks
from flaxnets.nn.attention import MASKS, AttentionModule
from flaxnets.nn.completion import COMPLETIONS
from flaxnets.nn.norms import BatchNorm
from flaxnets.nn.stem import FILLS, fill, put_statistics


def small(name='resnet18', **kwargs):
  return models.build(name, **{'num_channels': 3, 'num_classes': 6, 'width': 8} | kwargs)


def shallow(model, stage_sizes=(1, 1, 1, 1)):
  """A network with fewer of its equal blocks, if it is a ResNet; tests/models/test_cost.py counts all of them."""
  return model.clone(stage_sizes=stage_sizes) if hasattr(model, 'stage_sizes') else model


def start(model, size=32, channels=3):
  images = jax.random.uniform(jax.random.key(1), (2, size, size, channels), maxval=255.0)
  return jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.parametrize('name', models.MODELS)
@pytest.mark.parametrize(
  'options',
  [{}, {'stem': 'conv', 'completion': 'gray'}, {'small_images': True}, {'norm': 'group'}, {'dtype': 'bfloat16'}],
)
def test_every_network_gives_a_float32_logit_a_class_for_every_kind_of_input(name, options):
  model, images = shallow(small(name, **options)), jnp.zeros((2, 32, 32, 3))
  variables = cost.initial_shapes(model, 32)
  calls = [{}, {'subset': (0, 2)}, {'present': jnp.asarray([[True, False, True], [False, True, False]])}]
  for call in calls:
    given = images[..., list(call['subset'])] if 'subset' in call else images
    logits = jax.eval_shape(lambda v, x, c=call: model.apply(v, x, **c), variables, given)
    assert logits.shape == (2, 6) and logits.dtype == jnp.float32


@pytest.mark.parametrize('mask', MASKS)
def test_every_part_of_an_attention_nets_mask_learns(mask):
  model = small('resattention', mask=mask)
  variables, images = start(model, size=16)

  def loss(params):
    logits, _ = model.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])
    return -jax.nn.log_softmax(logits)[:, 0].mean()

  gradients = jax.jit(jax.grad(loss))(variables['params'])
  of_mask = {key: value for key, value in gradients['layer2_attention'].items() if key.startswith('mask')}
  assert of_mask
  for path, leaf in jax.tree_util.tree_leaves_with_path(of_mask):
    assert jnp.isfinite(leaf).all()
    if not jax.tree_util.keystr(path).endswith("['key']['bias']"):  # which a softmax takes no notice of
      assert jnp.abs(leaf).max() > 1e-5, path


@pytest.mark.parametrize('mask', MASKS)
def test_an_attention_module_gives_its_trunk_times_one_plus_its_mask(mask):
  module = AttentionModule(16, functools.partial(BatchNorm, train=False), mask)
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 16))
  result, kept = module.init_with_output(jax.random.key(0), x, capture_intermediates=True)
  parts = {name: value['__call__'][0] for name, value in kept['intermediates'].items() if '__call__' in value}
  weights = 1 / (1 + np.exp(-parts['mask' if mask == 'squeeze_excite' else 'mask_conv']))
  np.testing.assert_allclose(result, (1 + weights) * parts['trunk2'], rtol=1e-5)


@pytest.mark.parametrize(
  ('stem', 'completion'), [*(('dynamic', name) for name in COMPLETIONS), *(('conv', name) for name in FILLS)]
)
def test_a_subset_and_a_mask_mean_the_same_to_a_whole_network(stem, completion):
  model = shallow(small(stem=stem, completion=completion), (1, 1))
  variables, images = start(model, size=16)
  correlation = np.asarray([[1, 0.9, 0.5], [0.9, 1, 0.7], [0.5, 0.7, 1]])
  statistics = {'mean': [120, 110, 100], 'std': [60, 50, 70], 'correlation': correlation}
  variables = put_statistics(variables, statistics)
  present = jnp.asarray([[True, False, True]] * 2)
  nan_where_absent = images.at[..., 1].set(jnp.nan)
  masked = model.apply(variables, nan_where_absent, present=present)
  assert jnp.isfinite(masked).all()
  np.testing.assert_allclose(masked, model.apply(variables, images[..., [0, 2]], subset=(0, 2)), rtol=2e-3, atol=1e-4)


def test_the_network_takes_raw_pixels_and_standardises_them_itself():
  model = small()
  variables, images = start(model)
  mean, std = np.asarray([120, 110, 100]), np.asarray([60, 50, 70])
  raw = put_statistics(variables, {'mean': mean, 'std': std, 'correlation': np.eye(3)})
  np.testing.assert_allclose(
    model.apply(raw, images),
    model.apply(variables, (images - mean[None, None, None]) / std[None, None, None]),
    rtol=1e-3,
    atol=1e-4,
  )


@pytest.mark.parametrize(
  ('how', 'expected'), [('mean', [1.0, 0.0, 3.0]), ('black', [1.0, -2.0, 3.0]), ('gray', [1.0, 2.0, 3.0])]
)
def test_the_naive_stems_fill_in_the_absent_channel(how, expected):
  x = jnp.asarray([[[[1.0, 3.0]]]])
  black = jnp.asarray([-1.0, -2.0, -3.0])
  np.testing.assert_allclose(fill(x, how, 3, (0, 2), None, black=black)[0, 0, 0], expected)
  full, present = jnp.asarray([[[[1.0, 0.0, 3.0]]]]), jnp.asarray([[True, False, True]])
  np.testing.assert_allclose(fill(full, how, 3, (0, 1, 2), present, black=black)[0, 0, 0], expected)


@pytest.mark.parametrize(('size', 'expected'), [(96, 24), (84, 21), (33, 9)])
def test_maps_have_the_sizes_of_the_pytorch_recipe(size, expected):
  model = small('resattention')
  _, kept = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, mutable=True, capture_intermediates=True),
    jnp.zeros((1, size, size, 3)),
  )
  assert kept['intermediates']['layer2_block']['__call__'][0].shape[1:3] == (expected, expected)


@pytest.mark.parametrize('size', [7, 8])
def test_max_pooling_is_flax_own(size):
  x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))
  expected = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
  np.testing.assert_array_equal(blocks.max_pool(x), expected)
  weights = jax.random.normal(jax.random.key(1), expected.shape)
  ours, theirs = (
    jax.grad(lambda x, pool=pool: (pool(x) * weights).sum())(x)
    for pool in (blocks.max_pool, lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_weights_begin_as_in_the_pytorch_recipe():
  model = models.build('resnet18', num_channels=3, num_classes=50)
  variables, _ = start(model)
  params = variables['params']
  kernel = params['stage3_block1']['conv1']['kernel']  # 3 x 3, 256 features: deviation sqrt(2 / (9 * 256))
  np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 256)), rtol=0.01)
  dense = params['head']['dense']
  bound = 512**-0.5
  for values in (dense['kernel'], dense['bias']):
    assert 0.85 * bound < jnp.abs(values).max() <= bound
  np.testing.assert_allclose(dense['kernel'].std(), bound / np.sqrt(3), rtol=0.02)
  assert (params['stage1_block1']['norm2']['scale'] == 1).all()
  zero = small(zero_init=True)
  assert not start(zero)[0]['params']['stage1_block1']['norm2']['scale'].any()


def test_batch_statistics_move_a_tenth_of_the_way_and_divide_by_n():
  model = small()
  variables, images = start(model)
  _, changed = model.apply(variables, images, train=True, mutable=['batch_stats'])
  captured = model.apply(
    variables,
    images,
    train=True,
    mutable=['batch_stats', 'intermediates'],
    capture_intermediates=lambda module, _: module.name == 'conv',
  )[1]
  first = captured['intermediates']['stem']['conv']['__call__'][0]
  stats = changed['batch_stats']['stem']['norm']
  np.testing.assert_allclose(stats['mean'], 0.1 * first.mean((0, 1, 2)), rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * first.var((0, 1, 2)), rtol=1e-3)


@pytest.mark.parametrize(
  ('kwargs', 'said'),
  [
    ({'name': 'vgg'}, "no model 'vgg'"),
    ({'stem': 'slice'}, "no stem 'slice'"),
    ({'name': 'resattention', 'mask': 'x'}, "no mask 'x'; there are spatial, self_attention, squeeze_excite"),
    ({'mask': 'squeeze_excite'}, "resnet18 has no option 'mask', which belongs to resattention"),
    ({'depth': 3}, "no model option 'depth'; resnet18 has norm, dtype, stem, completion, width"),
    ({'block': 'bottleneck'}, "no model option 'block'"),
    ({'num_classes': 0}, 'must be at least 1'),
    ({'completion': 'gray'}, "no completion 'gray' for the stem 'dynamic'"),
    ({'norm': 'layer'}, "no norm 'layer'"),
    ({'stem': 'conv'}, "no completion 'linear' for the stem 'conv'"),
    ({'width': 10}, 'multiple of 8'),
    ({'dtype': 'float16'}, "no dtype 'float16'"),
  ],
)
def test_names_that_do_not_exist_are_told_with_those_that_do(kwargs, said):
  with pytest.raises(InputError, match=said):
    small(**kwargs)


def test_every_field_of_the_config_is_an_option_of_a_network():
  options = configs.default().model.to_dict()
  for name in models.MODELS:
    model = models.build(num_channels=3, num_classes=6, **{**options, 'name': name, 'width': 8})
    assert model.width == 8 and model.stem == options['stem']
  assert models.build('resattention', num_channels=3, num_classes=6, mask='self_attention').mask == 'self_attention'


def test_a_network_in_bfloat16_is_built_with_the_warning_of_this_machine(monkeypatch, caplog):
  monkeypatch.setattr(models.machine, 'bfloat16_warning', lambda: 'may give wrong outputs')
  small(dtype='float32')
  assert 'may give wrong outputs' not in caplog.text
  monkeypatch.setattr(
    models.logging, 'log_first_n', lambda level, text, n, *args: models.logging.log(level, text, *args)
  )
  small(dtype='bfloat16')
  assert 'may give wrong outputs' in caplog.text


def test_an_option_of_another_network_is_ignored_at_its_default():
  assert small('resnet18', mask='spatial') == small('resnet18')


@pytest.fixture(scope='module')
def measured():
  """A network with statistics, its variables, and images."""
  model = small(small_images=True)
  variables, images = start(model, size=16)
  correlation = np.asarray([[1, 0.9, 0.5], [0.9, 1, 0.7], [0.5, 0.7, 1]])
  return model, put_statistics(variables, {'mean': [120] * 3, 'std': [60] * 3, 'correlation': correlation}), images


def test_a_network_is_called_on_a_subset_of_which_examples_lack_channels(measured):
  model, variables, images = measured
  pixels, present = images[..., jnp.asarray([0, 2])], jnp.asarray([[True, True], [False, True]])
  both = classifier.call_on_subset(model, variables, pixels, (0, 2))
  np.testing.assert_allclose(both, model.apply(variables, pixels, subset=(0, 2)), rtol=1e-5, atol=1e-5)
  lacking = classifier.call_on_subset(model, variables, pixels.at[1, ..., 0].set(jnp.nan), (0, 2), present)
  np.testing.assert_allclose(lacking[0], both[0], rtol=2e-3, atol=1e-4)
  only_blue = classifier.call_on_subset(model, variables, images[1:, ..., 2:], (2,))
  np.testing.assert_allclose(lacking[1], only_blue[0], rtol=2e-3, atol=1e-4)


def test_features_are_what_the_last_layer_sees(measured):
  model, variables, images = measured
  logits, features, _ = classifier.outputs(model, variables, images, (0, 1, 2))
  assert features.shape == (2, classifier.num_features(variables))
  dense = variables['params']['head']['dense']
  np.testing.assert_allclose(features @ dense['kernel'] + dense['bias'][None], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('stem', 'completion'), [('dynamic', 'linear'), ('conv', 'mean'), ('conv', 'gray'), ('conv', 'black')]
)
def test_the_first_kernel_is_what_the_first_layer_convolves_with(stem, completion):
  model = small(stem=stem, completion=completion)
  variables, images = start(model, size=16)
  statistics = {'mean': [0.0] * 3, 'std': [1.0] * 3, 'correlation': [[1, 0.9, 0.5], [0.9, 1, 0.7], [0.5, 0.7, 1]]}
  variables = put_statistics(variables, statistics)  # black is the mean
  kernel = model.first_kernel(variables, (0, 1, 2))
  np.testing.assert_array_equal(kernel, variables['params']['stem']['conv']['kernel'])
  _, kept = model.apply(
    variables, images[..., jnp.asarray([0, 2])], subset=(0, 2), mutable=True, capture_intermediates=True
  )
  expected = nn.Conv(8, (7, 7), 2, 3, use_bias=False).apply(
    {'params': {'kernel': model.first_kernel(variables, (0, 2))}}, images[..., jnp.asarray([0, 2])]
  )
  np.testing.assert_allclose(kept['intermediates']['stem']['conv']['__call__'][0], expected, rtol=1e-3, atol=1e-2)


def test_statistics_of_another_number_of_channels_are_refused():
  variables, _ = start(small())
  with pytest.raises(ValueError, match='statistics of shape'):
    put_statistics(variables, {'mean': np.zeros(4), 'std': np.ones(4), 'correlation': np.eye(4)})


@pytest.mark.parametrize('std', [0.0, -1.0, np.nan])
def test_a_deviation_that_is_not_above_0_is_refused(measured, std):
  _, variables, _ = measured
  with pytest.raises(ValueError, match="the statistics' 'std' is .*; it must be above 0 for every channel"):
    put_statistics(variables, {'mean': np.zeros(3), 'std': np.asarray([1, std, 1]), 'correlation': np.eye(3)})
