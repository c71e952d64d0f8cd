"""Calibration metrics against golden numbers (NumPy in float64) and cases worked by hand."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import metrics

GOLDEN = {
  'accuracy': 0.4880,
  'nll': 1.485732,
  'brier': 0.659888,
  'ece': 0.124770,
  'ece_equal_mass': 0.117711,
  'classwise_ece': 0.032671,
  'mce': 0.189110,
}


@pytest.fixture(scope='module')
def data():
  labels = np.random.RandomState(1).randint(0, 10, 1000)
  logits = np.random.RandomState(0).randn(1000, 10) * 2
  logits[np.arange(1000), labels] += 3
  return logits, labels


@functools.cache
def compiled(name, **settings):
  return jax.jit(functools.partial(getattr(metrics, name), **settings))


def measure(name, logits, labels, **settings):
  return float(compiled(name, **settings)(logits, labels))


def two_classes(confidences, correct):
  """Logits of two classes whose first has the given probability, and labels right or wrong."""
  p = np.asarray(confidences)
  return np.stack([np.log(p), np.log1p(-p)], axis=1), 1 - np.asarray(correct)


@pytest.mark.parametrize('name', GOLDEN)
def test_metrics_have_their_golden_values(data, name):
  assert measure(name, *data) == pytest.approx(GOLDEN[name], abs=1e-6)


@pytest.mark.parametrize(('n_bins', 'expected'), [(14, 0.119299), (10, 0.119417)])
def test_ece_with_other_bins_has_its_golden_value(data, n_bins, expected):
  assert measure('ece', *data, n_bins=n_bins) == pytest.approx(expected, abs=1e-6)
  assert float(metrics.ece(*data, n_bins)) == pytest.approx(expected, abs=1e-6)


def test_temperature_has_its_golden_value_and_calibrates(data):
  logits, labels = data
  t = measure('temperature', logits, labels)
  assert t == pytest.approx(1.33662, abs=1e-5)
  assert measure('nll', logits / t, labels) == pytest.approx(1.437654, abs=1e-6)
  assert measure('ece', logits / t, labels) == pytest.approx(0.044299, abs=1e-6)


def test_temperature_undoes_a_scaling_of_the_logits(data):
  logits, labels = data
  t = measure('temperature', logits, labels)
  assert measure('temperature', 5 * logits, labels) == pytest.approx(5 * t, rel=1e-5)


def test_temperature_without_a_minimum_ends_at_a_bound():
  logits = 3.0 * np.eye(4)
  low, high = metrics.TEMPERATURE_RANGE
  assert measure('temperature', logits, np.arange(4)) == pytest.approx(low, rel=1e-5)
  assert measure('temperature', logits, (np.arange(4) + 1) % 4) == pytest.approx(high, rel=1e-5)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('name', [*metrics.METRICS, 'temperature'])
def test_logits_that_are_not_finite_are_right_in_no_metric(name, value, data):
  logits, labels = np.array(data[0]), np.zeros(1000, int)
  logits[3] = value
  assert np.isnan(measure(name, logits, labels))


def test_a_logit_of_minus_infinity_is_a_probability_of_0_and_leaves_no_temperature():
  logits, labels = np.array([[0.0, 0.0, -np.inf]]), np.array([0])
  assert measure('nll', logits, labels) == pytest.approx(np.log(2))
  assert np.isnan(measure('temperature', logits, labels))


def test_aurc_agrees_with_numpy(data):
  logits, labels = data
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  order = np.argsort(-p.max(1))
  errors = (p.argmax(1) != labels)[order]
  expected = np.mean(np.cumsum(errors) / np.arange(1, 1001))
  assert measure('aurc', logits, labels) == pytest.approx(expected, abs=1e-6)


def test_a_certain_and_right_network_loses_nothing_and_not_minus_nothing():
  assert str(float(measure('nll', 200.0 * np.eye(4), np.arange(4)))) == '0.0'


def test_a_uniform_guess_has_known_numbers():
  logits, labels = np.zeros((8, 4)), np.array([0, 0, 0, 0, 1, 1, 2, 3])
  assert measure('nll', logits, labels) == pytest.approx(np.log(4))
  assert measure('brier', logits, labels) == pytest.approx(0.75)
  assert measure('accuracy', logits, labels) == 0.5
  assert measure('ece', logits, labels) == pytest.approx(0.25)
  # One-vs-rest accuracies .5, .25, .125, .125 against p = .25.
  assert measure('classwise_ece', logits, labels) == pytest.approx((0.25 + 0 + 0.125 + 0.125) / 4)


def test_bins_of_a_case_worked_by_hand():
  # Ten bins: .55 and .58 share (.5, .6], .95 is alone in (.9, 1].
  logits, labels = two_classes([0.55, 0.58, 0.95], [1, 0, 0])
  gap = abs(0.5 - 0.565)
  assert measure('ece', logits, labels, n_bins=10) == pytest.approx((2 * gap + 0.95) / 3, abs=1e-6)
  assert measure('mce', logits, labels, n_bins=10) == pytest.approx(0.95, abs=1e-6)
  # Three bins of one image each.
  each = (0.45 + 0.58 + 0.95) / 3
  assert measure('ece_equal_mass', logits, labels, n_bins=3) == pytest.approx(each, abs=1e-6)
  # Most confident first: wrong, wrong, right.
  assert measure('aurc', logits, labels) == pytest.approx((1 + 1 + 2 / 3) / 3)


def test_a_bin_holds_its_upper_edge_and_not_its_lower():
  # Confidence is exactly one half: in (0, .5] of two bins.
  diagram = metrics.reliability_diagram(np.zeros((3, 2)), np.zeros(3, int), n_bins=2)
  np.testing.assert_array_equal(diagram['count'], [3, 0])


def test_reliability_diagram_sums_to_the_ece(data):
  diagram = jax.tree.map(np.asarray, compiled('reliability_diagram')(*data))
  assert diagram['count'].sum() == 1000
  gaps = diagram['count'] * np.abs(diagram['accuracy'] - diagram['confidence'])
  assert gaps.sum() / 1000 == pytest.approx(measure('ece', *data), abs=1e-6)
  np.testing.assert_array_equal(diagram['low'][1:], diagram['high'][:-1])


@pytest.mark.parametrize('name', metrics.METRICS)
def test_metrics_do_not_depend_on_the_order_of_images(name):
  # Saturated and tied: every confidence is 1 or one half.
  rng = np.random.RandomState(3)
  logits = np.where(rng.rand(101, 1) < 0.5, [[60.0, 0.0]], [[0.0, 0.0]])
  labels = rng.randint(0, 2, 101)
  order = rng.permutation(101)
  value = measure(name, logits, labels)
  assert measure(name, logits[order], labels[order]) == pytest.approx(value, abs=1e-6)


def test_tied_confidences_give_the_mean_aurc_over_their_orders():
  # One right, one wrong, equally confident: (1 + 1/2) / 2 or (0 + 1/2) / 2.
  assert measure('aurc', np.zeros((2, 2)), np.array([0, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize('name', metrics.METRICS)
def test_huge_logits_and_a_million_images_stay_exact(name):
  n = 1_000_000
  logits = jnp.tile(jnp.asarray([[1e4, 0.0], [0.0, 0.2]], jnp.float32), (n // 2, 1))
  labels = jnp.zeros(n, jnp.int32)  # right with p = 1, wrong with p = .549834
  p = 1 / (1 + np.exp(-0.2))
  expected = {
    'accuracy': 0.5,
    'nll': -np.log(1 - p) / 2,
    'brier': p * p,
    'ece': p / 2,
    # The boundary between 0 and p falls within bin 8 of 15, whose images mix both.
    'ece_equal_mass': p / 2,
    'classwise_ece': p / 2,
    'mce': p,
    'aurc': np.mean(np.maximum(0, 1 - (n / 2) / np.arange(1, n + 1))),
  }[name]
  value = measure(name, logits, labels)
  assert value == pytest.approx(expected, abs=2e-6)


def test_fewer_images_than_bins_are_enough():
  logits, labels = two_classes([0.9, 0.8], [1, 0])
  assert measure('ece_equal_mass', logits, labels) == pytest.approx((0.1 + 0.8) / 2, abs=1e-6)
  assert measure('ece', logits, labels, n_bins=1) == pytest.approx(abs(0.5 - 0.85), abs=1e-6)


def test_bfloat16_logits_are_measured_in_float32(data):
  logits, labels = jnp.asarray(data[0], jnp.bfloat16), data[1]
  assert compiled('nll')(logits, labels).dtype == jnp.float32
  expected = measure('nll', logits.astype(jnp.float32), labels)
  assert measure('nll', logits, labels) == pytest.approx(expected)


def test_logits_and_labels_that_do_not_belong_together_are_refused():
  with pytest.raises(ValueError, match=r'got \[3, 2\] and \[2\]'):
    measure('nll', np.zeros((3, 2)), np.zeros(2, int))
  with pytest.raises(ValueError, match=r'N > 0, got \[0, 2\] and \[0\]'):
    measure('nll', np.zeros((0, 2)), np.zeros(0, int))
  with pytest.raises(ValueError, match='labels must be integers, got float32'):
    measure('nll', np.zeros((3, 2)), np.zeros(3, np.float32))
  for label in (-1, 2):
    with pytest.raises(ValueError, match=rf'labels must lie in \[0, 2\), got .*{label}'):
      metrics.accuracy(np.zeros((3, 2)), np.array([0, 1, label]))
    assert np.isnan(jax.jit(metrics.accuracy)(np.zeros((3, 2)), np.array([0, 1, label])))
  for name, bins in (('ece', 0), ('mce', 2.5), ('ece_equal_mass', 0), ('ece_equal_mass', 2.5)):
    with pytest.raises(ValueError, match=f'n_bins must be a whole number of .*, got {bins}'):
      measure(name, np.zeros((3, 2)), np.zeros(3, int), n_bins=bins)


def test_labels_may_be_of_the_smallest_type_that_holds_them():
  logits, labels = np.eye(256)[[0, 1, 2, 255]], np.array([0, 1, 2, 255])
  for name in ('accuracy', 'nll'):
    found = measure(name, logits, labels.astype(np.uint8))
    assert found == measure(name, logits, labels) and np.isfinite(found)


def test_the_examples_of_the_documentation_run():
  page = pathlib.Path(__file__).parent.parent / 'docs' / 'evaluation.md'
  examples = re.findall(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL)
  assert len(examples) == 3
  for example in examples:
    exec(compile(example, str(page), 'exec'), {})
