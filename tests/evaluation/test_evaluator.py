import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from sklearn import metrics as sklearn_metrics

from flaxnets.analysis import metrics
from flaxnets.channels import ChannelSet
from flaxnets.data.batches import evaluation_batches
from flaxnets.data.source import ArraySource
from flaxnets.evaluation import evaluator as evaluator_module
from flaxnets.evaluation import logit_metrics
from flaxnets.evaluation.evaluator import Evaluator, SubsetResult
from flaxnets.evaluation.logit_metrics import TOP
from flaxnets.runtime import devices
from tests.networks import MEAN, tiny

CLASSES = 7


@pytest.fixture(scope='module')
def network():
  return tiny(CLASSES)


def source_of(count, present=None, channels='RGB', seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, 12, 12, len(channels)), np.uint8)
  labels = rng.integers(0, CLASSES, count)
  return ArraySource('test', images, labels, ChannelSet.of(channels), [str(k) for k in range(CLASSES)], present), images


@functools.cache
def evaluator_of(model, subsets, order, missing, mesh):
  """An evaluator, which compiles when it is first called; `evaluator_of.__wrapped__` makes a new one."""
  return Evaluator(
    model,
    subsets,
    source_index=order,
    image_size=12,
    resize=1.0,
    fill=MEAN,
    has_missing_channels=missing,
    mesh=mesh,
  )


def judge(
  network, source, mesh, subsets=((0, 1, 2), (0, 2), (1,)), batch_size=16, batch_stats=None, made_by=evaluator_of
):
  model, variables = network
  evaluator = made_by(model, subsets, source.channels.order('RGB'), source.has_missing_channels, mesh)
  return evaluator(variables, evaluation_batches(source, batch_size=batch_size), batch_stats=batch_stats)


@functools.cache
def applied(model, subset):
  return jax.jit(lambda variables, images: model.apply(variables, images, subset=subset))


def direct(network, images, subset):
  model, variables = network
  return np.asarray(applied(model, subset)(variables, jnp.asarray(images, jnp.float32)))


def test_evaluation_needs_no_communication_between_devices(network, mesh8):
  model, variables = network
  evaluator = Evaluator(
    model,
    [(0, 2)],
    source_index=(0, 1, 2),
    image_size=12,
    resize=1.0,
    fill=MEAN,
    has_missing_channels=False,
    mesh=mesh8,
  )
  shapes = (jnp.zeros((16, 12, 12, 3)), jnp.ones((16, 3), bool), jnp.zeros(16, jnp.int32), jnp.ones(16, bool))
  function = evaluator._functions[(0, 2)]
  program = function.lower(variables, None, evaluator._zeros(), *shapes).compile().as_text()
  assert 'all-' not in program and 'collective-' not in program


@pytest.mark.parametrize('count', [37, 32, 5])
def test_every_example_counts_once_on_any_number_of_devices(network, mesh1, mesh8, count):
  source, images = source_of(count)
  for mesh in (mesh1, mesh8):
    judged, indices = judge(network, source, mesh)
    np.testing.assert_array_equal(indices, np.arange(count))
    for subset, result in judged.items():
      logits = direct(network, images[..., list(subset)], subset=subset)
      predicted = logits.argmax(-1)
      np.testing.assert_array_equal(result.predictions, predicted)
      np.testing.assert_array_equal(
        result.confusion, sklearn_metrics.confusion_matrix(source.labels, predicted, labels=range(CLASSES))
      )
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, source.labels).mean()
      np.testing.assert_allclose(result.loss, loss, rtol=1e-4)


def test_hosts_meet_as_often_for_many_batches_as_for_one(network, mesh1, monkeypatch):
  source, _ = source_of(40)
  alone = judge(network, source, mesh1, batch_size=8)
  meetings = []

  def gather(tree, tiled=False):
    meetings.append(tree)
    return jax.tree.map(lambda x: np.asarray(x) if tiled else np.asarray(x)[np.newaxis], tree)

  monkeypatch.setattr(multihost_utils, 'process_allgather', gather)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  counts = []
  for batch_size in (40, 8):
    by_subset, indices = judge(network, source, mesh1, batch_size=batch_size)
    counts.append(len(meetings))
    meetings.clear()
  assert counts[0] == counts[1] > 0
  np.testing.assert_array_equal(indices, alone[1])
  for subset, result in by_subset.items():
    np.testing.assert_array_equal(result.predictions, alone[0][subset].predictions)


def test_the_rows_of_several_hosts_are_put_in_the_order_of_the_batches(monkeypatch):
  rows = np.arange(30).reshape(3, 2, 5)  # batches, hosts, the rows of a host
  shares = [[(share, share, share >= 0, share[:, np.newaxis]) for share in rows[:, host]] for host in range(2)]
  stacked = [[np.stack(parts) for parts in zip(*share, strict=True)] for share in shares]
  gathered = [np.stack(parts) for parts in zip(*stacked, strict=True)]
  monkeypatch.setattr(multihost_utils, 'process_allgather', lambda own: gathered)
  index, label, mask, classes = evaluator_module.in_order_of_batches(shares[0])
  assert index.tolist() == label.tolist() == classes[:, 0].tolist() == list(range(30))
  assert mask.shape == (30,) and classes.shape == (30, 1)


def test_scores_equal_scikit_learn(network, mesh8):
  source, _ = source_of(50)
  judged, _ = judge(network, source, mesh8)
  for result in judged.values():
    summary = result.summary(bootstrap=10)
    options = {'labels': np.unique(source.labels), 'average': 'macro', 'zero_division': 0}
    truth, predicted = source.labels, result.predictions
    assert summary['accuracy'] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    for name in ('precision', 'recall', 'f1'):
      assert summary[name] == pytest.approx(getattr(sklearn_metrics, f'{name}_score')(truth, predicted, **options))


def top5_hits(logits, label, mask):
  """The sum of top-5 hits that the evaluator's metrics make of a batch."""
  place = [metric.per_example for metric in logit_metrics.METRICS].index(logit_metrics.top5_hit)
  zeros = jax.tree.map(lambda part: jnp.asarray(part[0]), logit_metrics.zeros(CLASSES, 1))
  return int(logit_metrics.add(zeros, jnp.asarray(logits), jnp.asarray(label), jnp.asarray(mask))[place])


def test_top_five_hits_are_scikit_learns_ties_included():
  rng = np.random.default_rng(0)
  logits = rng.integers(0, 4, (200, CLASSES)).astype(np.float32) + np.linspace(0, 1e-3, CLASSES, dtype=np.float32)
  label, mask = rng.integers(0, CLASSES, 200), rng.random(200) < 0.8
  expected = sklearn_metrics.top_k_accuracy_score(
    label[mask], logits[mask], k=TOP, labels=range(CLASSES), normalize=False
  )
  assert top5_hits(logits, label, mask) == expected
  everyone, square = np.ones(CLASSES, bool), np.zeros((CLASSES, CLASSES), np.float32)
  assert top5_hits(square, np.arange(CLASSES), everyone) == TOP  # constant logits get five classes right, not all
  assert top5_hits(square * np.nan, np.arange(CLASSES), everyone) == 0  # NaN is not among the largest


def calibration_by_hand(logits, label):
  """Expected calibration error and bins, one example after another."""
  probabilities = np.exp(logits - logits.max(-1, keepdims=True).astype(np.float64))
  probabilities /= probabilities.sum(-1, keepdims=True)
  bins = [[] for _ in range(15)]
  for row, truth in zip(probabilities, label, strict=True):
    place = next(number for number in range(15) if row.max() <= (number + 1) / 15)
    bins[place].append((row.max(), row.argmax() == truth))
  means = [tuple(np.mean(each, axis=0)) if each else (None, None) for each in bins]
  error = sum(len(each) / len(label) * abs(mean[0] - mean[1]) for each, mean in zip(bins, means, strict=True) if each)
  return error, [len(each) for each in bins], means


@pytest.mark.parametrize('devices', [1, 8])
def test_the_calibration_error_is_that_of_bins_filled_by_hand(network, mesh1, mesh8, devices):
  source, images = source_of(45)
  judged, _ = judge(network, source, mesh1 if devices == 1 else mesh8)
  for subset, result in judged.items():
    logits = direct(network, images[..., list(subset)], subset=subset)
    error, counts, means = calibration_by_hand(logits, source.labels)
    bins = result.summary(bootstrap=10)['calibration']
    assert result.values['ece'] == pytest.approx(error, rel=1e-4)
    assert [each['count'] for each in bins] == counts and sum(counts) == 45
    for each, expected in zip(bins, means, strict=True):
      found = each['confidence'], each['accuracy']
      assert found == (expected if expected[0] is None else pytest.approx(expected, rel=1e-4))


def test_a_network_that_is_sure_and_wrong_has_the_calibration_error_one_and_a_fair_one_has_none():
  metric = next(metric for metric in logit_metrics.METRICS if metric.finish is logit_metrics.calibration)

  def error(logits, label):
    sums = jax.tree.map(lambda x: np.asarray(x).sum(0), metric.per_example(jnp.asarray(logits), jnp.asarray(label)))
    return metric.finish(sums, len(label))['ece']

  sure = np.where(np.eye(4)[[0] * 8] > 0, 50.0, 0.0).astype(np.float32)
  assert error(sure, np.ones(8, int)) == pytest.approx(1)
  assert error(sure, np.zeros(8, int)) == pytest.approx(0)
  fair = np.zeros((8, 4), np.float32)  # confidence 1/4, and a quarter of the labels are the first class
  assert error(fair, np.arange(8) % 4) == pytest.approx(0, abs=1e-7)


def test_the_channels_of_a_source_and_their_presence_are_put_in_the_networks_order(network, mesh8):
  present = np.ones((20, 3), bool)
  present[::2] = [False, True, True]
  source, images = source_of(20, present)
  turned = ArraySource(
    'turned', np.roll(images, 1, -1), source.labels, ChannelSet.of('BRG'), source.classes, np.roll(present, 1, -1)
  )
  straight, _ = judge(network, source, mesh8)
  reordered, _ = judge(network, turned, mesh8)
  for subset, result in straight.items():
    np.testing.assert_array_equal(result.predictions, reordered[subset].predictions)
    np.testing.assert_allclose(result.loss, reordered[subset].loss, rtol=1e-6)


def test_an_example_is_scored_on_its_present_channels_of_a_subset(network, mesh8):
  present = np.ones((20, 3), bool)
  present[4] = [True, True, False]
  source, images = source_of(20, present)
  assert source.has_missing_channels
  judged, _ = judge(network, source, mesh8)
  for subset in ((0, 1, 2), (0, 2)):
    left = tuple(index for index in subset if index != 2)
    expected = direct(network, images[4:5][..., list(left)], subset=left).argmax(-1)
    assert judged[subset].predictions[4] == expected[0]
    others = direct(network, images[..., list(subset)], subset=subset).argmax(-1)
    np.testing.assert_array_equal(np.delete(judged[subset].predictions, 4), np.delete(others, 4))


def test_a_subset_may_have_batch_statistics_of_its_own(network, mesh8):
  model, variables = network
  other = jax.tree.map(lambda x: x * 1.5 + 0.1, variables['batch_stats'])
  source, images = source_of(20)
  subsets = ((0, 1, 2), (1,))
  judged, _ = judge(network, source, mesh8, subsets, batch_stats={(1,): other})
  plain, _ = judge(network, source, mesh8, subsets)
  np.testing.assert_array_equal(judged[(0, 1, 2)].predictions, plain[(0, 1, 2)].predictions)
  logits = direct((model, {**variables, 'batch_stats': other}), images[..., [1]], subset=(1,))
  np.testing.assert_array_equal(judged[(1,)].predictions, logits.argmax(-1))
  assert judged[(1,)].loss != pytest.approx(plain[(1,)].loss, rel=1e-3)


@pytest.mark.parametrize('stem', [('dynamic', 'linear'), ('conv', 'gray')])
def test_one_function_for_many_subsets_gives_the_numbers_of_one_for_each(network, mesh8, monkeypatch, stem):
  model, variables = network
  model = model.clone(stem=stem[0], completion=stem[1])
  if stem[0] == 'conv':
    statistics = {'stem': {'standardize': variables['channel_stats']['stem']['standardize']}}
    variables = {**variables, 'channel_stats': statistics}
  source, _ = source_of(50)
  each, _ = judge((model, variables), source, mesh8)
  monkeypatch.setattr(evaluator_module, 'MAX_COMPILED', 2)
  together, _ = judge((model, variables), source, mesh8, made_by=evaluator_of.__wrapped__)
  for subset, result in each.items():
    np.testing.assert_array_equal(together[subset].predictions, result.predictions)
    expected, found = result.values, together[subset].values
    assert {name: found[name] for name in ('loss', 'top5', 'ece')} == pytest.approx(
      {name: expected[name] for name in ('loss', 'top5', 'ece')}, abs=1e-4
    )


def test_beyond_32_subsets_one_function_is_compiled(mesh1):
  model = tiny(CLASSES)[0].clone(num_channels=6)
  subsets = ChannelSet(tuple('ABCDEF')).subsets('all')
  options = {'source_index': range(6), 'image_size': 12, 'resize': 1.0, 'fill': np.zeros(6), 'mesh': mesh1}
  counts = [
    Evaluator(model, subsets[:count], has_missing_channels=missing, **options).compilations(subsets[:count])
    for count, missing in ((32, False), (33, False), (63, False), (32, True))
  ]
  assert counts == [32, 1, 1, 1]


def test_a_call_may_ask_for_some_of_the_subsets(network, mesh1):
  model, variables = network
  source, _ = source_of(20)
  options = {'source_index': (0, 1, 2), 'image_size': 12, 'resize': 1.0, 'fill': MEAN, 'has_missing_channels': False}
  evaluator = Evaluator(model, [(0, 1, 2), (0, 2), (1,)], mesh=mesh1, **options)
  some, _ = evaluator(variables, evaluation_batches(source, batch_size=16), subsets=[(0, 2)])
  everything, _ = evaluator(variables, evaluation_batches(source, batch_size=16))
  assert list(some) == [(0, 2)] and list(everything) == evaluator.subsets
  assert some[(0, 2)].values == everything[(0, 2)].values


def test_a_call_may_ask_for_other_subsets_which_share_a_function(network, mesh1):
  model, variables = network
  source, _ = source_of(20)
  options = {'source_index': (0, 1, 2), 'image_size': 12, 'resize': 1.0, 'fill': MEAN, 'has_missing_channels': False}
  evaluator = Evaluator(model, [(0, 1, 2), (1,)], mesh=mesh1, **options)
  assert evaluator.compilations([(1,), (0,), (0, 2)]) == 2
  asked, _ = evaluator(variables, evaluation_batches(source, batch_size=16), subsets=[(1,), (0,), (0, 2)])
  known = Evaluator(model, [(1,), (0,), (0, 2)], mesh=mesh1, **options)
  expected, _ = known(variables, evaluation_batches(source, batch_size=16))
  for subset, result in expected.items():
    np.testing.assert_array_equal(asked[subset].predictions, result.predictions)
    assert asked[subset].loss == pytest.approx(result.loss, abs=1e-4)


def test_top_five_is_left_out_for_five_classes(mesh1):
  images = np.zeros((4, 12, 12, 3), np.uint8)
  source = ArraySource('five', images, np.arange(4), ChannelSet.of('RGB'), 'abcde')
  judged, _ = judge(tiny(5), source, mesh1, ((0, 1, 2),), batch_size=4)
  assert judged[(0, 1, 2)].values['top5'] is None


def test_a_batch_on_the_device_is_evaluated_without_another_transfer(network, mesh1):
  model, variables = network
  source, _ = source_of(16)
  options = {'source_index': (0, 1, 2), 'image_size': 12, 'resize': 1.0, 'fill': MEAN, 'has_missing_channels': False}
  evaluator = Evaluator(model, [(0, 1, 2), (1,)], mesh=mesh1, **options)
  placed = jax.device_put(variables, devices.replicated(mesh1))
  batch = next(devices.to_devices(evaluation_batches(source, batch_size=16), mesh1))
  sums = [evaluator._zeros() for _ in range(2)]
  for attempt, guard in enumerate(('allow', 'disallow')):  # compiling may send constants
    with jax.transfer_guard(guard):
      images, present = evaluator._view({key: batch[key] for key in ('image', 'size', 'present')})
      _, classes = evaluator._functions[(1,)](
        placed, None, sums[attempt], images, present, batch['label'], batch['mask']
      )
  assert classes.shape == (16,)


def test_classes_that_are_neither_labels_nor_predictions_need_no_memory():
  labels, predictions = np.array([0, 2, 2, 5, 5, 5], np.int32), np.array([0, 2, 5, 5, 5, 3], np.int32)
  ours = SubsetResult({'loss': 1.0}, labels, predictions, 9).summary()
  dense = metrics.summary(metrics.confusion_matrix(labels, predictions, 9))
  assert list(ours) == [*dense, 'loss']
  assert all(ours[name] == pytest.approx(value, abs=1e-12) for name, value in dense.items())
  many = SubsetResult({}, labels, predictions, 10**6).summary()  # a matrix would have 8 TB
  assert many['recall'] == ours['recall'] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
