"""What a confusion matrix tells, against scikit-learn and against resampled examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from flaxnets.analysis import metrics
from flaxnets.errors import InputError

shapes = st.integers(1, 6).map(lambda classes: (classes, classes))
confusions = hnp.arrays(np.int64, shapes, elements=st.integers(0, 4)).filter(np.any)


def examples_of(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """True and predicted labels that a matrix counts."""
  truth, predicted = np.indices(confusion.shape).reshape(2, -1)
  return truth.repeat(confusion.ravel()), predicted.repeat(confusion.ravel())


def confusion_of(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def noisy(classes: int, examples: int, seed: int = 0) -> np.ndarray:
  random = np.random.default_rng(seed)
  truth = random.integers(0, classes, examples)
  predicted = np.where(random.random(examples) < 0.6, truth, random.integers(0, classes, examples))
  return confusion_of(truth, predicted, classes)


@settings(max_examples=60)
@given(confusions)
def test_scores_equal_scikit_learn_for_classes_without_examples_too(confusion):
  truth, predicted = examples_of(confusion)
  accuracy = sklearn_metrics.accuracy_score(truth, predicted)
  assert metrics.accuracy(confusion) == pytest.approx(accuracy, abs=1e-12)
  every, with_examples = range(len(confusion)), np.unique(truth)
  for average, labels, ours in (
    ('macro', with_examples, metrics.macro(confusion)),
    (None, every, metrics.per_class(confusion)),
  ):
    theirs = sklearn_metrics.precision_recall_fscore_support(
      truth, predicted, labels=labels, average=average, zero_division=0
    )[:3]
    for mine, other in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(mine, other, atol=1e-12)


def test_classes_that_a_split_lacks_do_not_lower_its_scores():
  truth = np.repeat([1, 3], 20)
  perfect = metrics.summary(confusion_of(truth, truth, 10))
  assert [perfect[name] for name in ('accuracy', 'precision', 'recall', 'f1', 'f1_low', 'f1_high')] == [1.0] * 6
  missed = metrics.macro(confusion_of(truth, np.where(np.arange(40) < 10, 7, truth), 10))  # a class without examples
  assert missed.recall == 0.75 and missed.precision == 1


@pytest.mark.parametrize(
  ('hits', 'trials', 'low', 'high'),
  [
    # From the example in R. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (29, 29, 0.8830, 1.0),
  ],
)
def test_wilsons_interval_is_the_published_one(hits, trials, low, high):
  assert metrics.wilson(hits, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_wilsons_interval_holds_its_share(trials, share):
  hits = round(share * trials)
  low, high = metrics.wilson(hits, trials)
  assert 0 <= low <= hits / trials <= high <= 1


def test_drawing_cells_is_drawing_examples():
  confusion = noisy(4, 300)
  truth, predicted = examples_of(confusion)
  random = np.random.default_rng(3)
  drawn = []
  for _ in range(2000):
    chosen = random.integers(0, len(truth), len(truth))
    drawn.append(metrics.macro(confusion_of(truth[chosen], predicted[chosen], 4)))
  expected_low, expected_high = np.quantile(drawn, [0.025, 0.975], axis=0)
  low, high = metrics.bootstrap_macro(confusion, samples=2000)
  np.testing.assert_allclose(low, expected_low, atol=0.007)
  np.testing.assert_allclose(high, expected_high, atol=0.007)


@pytest.mark.parametrize(('classes', 'examples'), [(2, 100), (10, 200), (50, 250)])
def test_nearly_95_of_100_intervals_hold_the_truth(classes, examples):
  random = np.random.default_rng(0)
  shares = noisy(classes, 200_000) / 200_000
  truth = np.array(metrics.macro(noisy(classes, 200_000)))[:2]  # F1 itself is biased where examples are few
  held = []
  for _ in range(150):
    confusion = random.multinomial(examples, shares.ravel()).reshape(shares.shape)
    low, high = metrics.bootstrap_macro(confusion, samples=200)
    held.append((np.array(low)[:2] <= truth) & (truth <= np.array(high)[:2]))
  assert 0.88 < np.mean(held) <= 1


@settings(max_examples=30)
@given(confusions)
def test_every_value_lies_within_its_interval_within_0_and_1(confusion):
  result = metrics.summary(confusion, bootstrap=50)
  assert list(result) == [
    f'{name}{end}' for name in ('accuracy', 'precision', 'recall', 'f1') for end in ('', '_low', '_high')
  ]
  for name in ('accuracy', 'precision', 'recall', 'f1'):
    assert 0 <= result[f'{name}_low'] <= result[name] <= result[f'{name}_high'] <= 1
  assert all(type(value) is float for value in result.values())


def test_with_five_examples_a_class_the_intervals_still_lie_around_the_scores():
  result = metrics.summary(noisy(300, 1500))
  for name in ('precision', 'recall', 'f1'):
    assert result[f'{name}_low'] < result[name] - 0.01 < result[name] + 0.01 < result[f'{name}_high']


def test_the_same_seed_gives_the_same_intervals_in_any_portions(monkeypatch):
  confusion = noisy(5, 400)
  whole = metrics.summary(confusion, seed=1)
  assert metrics.summary(confusion, seed=1) == whole != metrics.summary(confusion, seed=2)
  monkeypatch.setattr(metrics, '_CELLS_AT_ONCE', 1000)
  assert metrics.summary(confusion, seed=1) == whole


def test_of_a_thousand_classes_only_pairs_that_occur_are_drawn_in_portions_that_fit_in_memory(monkeypatch):
  confusion, drawn = noisy(1000, 50_000), []

  class Watched(np.random.Generator):
    def multinomial(self, n, pvals, size):
      drawn.append((len(pvals), size))
      return super().multinomial(n, pvals, size)

  monkeypatch.setattr(metrics.np.random, 'default_rng', lambda seed: Watched(np.random.PCG64(seed)))
  metrics.bootstrap_macro(confusion, samples=200)
  assert {cells for cells, _ in drawn} == {np.count_nonzero(confusion)}
  assert sum(size for _, size in drawn) == 200
  assert max(cells * size for cells, size in drawn) <= metrics._CELLS_AT_ONCE


@pytest.mark.parametrize(
  ('confusion', 'words'),
  [
    (np.zeros((3, 3)), 'of 3 classes is empty; no example was evaluated'),
    (np.ones((2, 3)), r'square, but this one is \(2, 3\)'),
    (np.array([[1, -1], [0, 2]]), 'negative or fractional'),
    (np.array([[0.5, 0.5], [0, 2]]), 'negative or fractional'),
    (np.array([[np.nan, 1], [0, 2]]), 'negative or fractional'),
  ],
)
def test_a_matrix_that_counts_nothing_is_refused(confusion, words):
  with pytest.raises(InputError, match=words):
    metrics.summary(confusion)


def test_an_interval_of_nothing_is_refused():
  with pytest.raises(InputError, match='no interval for 3 hits in 2 trials'):
    metrics.wilson(3, 2)
  with pytest.raises(InputError, match='bootstrap of 0 samples'):
    metrics.bootstrap_macro(np.eye(2), samples=0)
