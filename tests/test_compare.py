"""Two runs side by side: what differs is said, what is the same is not."""

import json

import jax
import numpy as np
import pytest
from tiny import tinier_config

from random_pruning_jax import compare, pruning, results, run


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  for name, seed, density in (('a', 0, 0.3), ('b', 1, 0.5)):
    config = tinier_config(
      seed=seed,
      pruning__density=density,
      epochs=1,
      evaluation__foreign=(),
      evaluation__epsilons=(),
    )
    run.run(config, root / name, show=False)
  return root / 'a', root / 'b'


def test_every_part_is_there_and_names_what_differs(two):
  text = compare.compare(*two)
  for word in ('Configs', 'Numbers', 'Masks', 'Learning', 'pruning.density', 'seed'):
    assert word in text
  assert 'batch_size' not in text
  assert 'test accuracy' in text and 'stem/kernel' in text and 'training loss' in text


def test_a_run_compared_with_itself_is_the_same(two):
  text = compare.compare(two[0], two[0])
  assert 'The same.' in text
  assert all(line.endswith('100.0%') for line in text.splitlines() if 'kernel' in line)


def test_what_is_said_of_numbers_is_of_those_that_both_have(two, tmp_path):
  (tmp_path / 'results.jsonl').write_text(
    json.dumps(
      results.row_of(two[0])
      | {'metrics': {'nll': 0.25 + 1e-9, 'adversarial/pgd/8/255': 0.5}}
      | {'notes': {'adversarial/pgd/8/255': 'the first 20 test images'}}
    )
  )
  (tmp_path / 'b').mkdir()
  row = results.row_of(two[0]) | {'metrics': {'nll': 0.25}}
  (tmp_path / 'b' / 'results.jsonl').write_text(json.dumps(row))
  text = compare.numbers(tmp_path, tmp_path / 'b')
  assert '0.0000' in text and '-0.0000' not in text and 'attacks' not in text


def test_a_higher_accuracy_and_a_lower_loss_are_better(two, tmp_path):
  for name, accuracy, nll in (('a', 0.50, 0.25), ('b', 0.75, 0.50)):
    (tmp_path / name).mkdir()
    row = results.row_of(two[0]) | {'metrics': {'accuracy': accuracy, 'nll': nll}}
    (tmp_path / name / 'results.jsonl').write_text(json.dumps(row))
  for runs, ends in (
    ('ab', [['25.00%', '+'], ['0.2500', '-']]),
    ('ba', [['-25.00%', '-'], ['-0.2500', '+']]),
  ):
    lines = compare.numbers(*(tmp_path / name for name in runs)).splitlines()
    assert [line.split()[-2:] for line in lines if '0.50' in line or '50.0' in line] == ends


def test_attacks_of_other_strength_are_not_compared(two, tmp_path):
  for name, steps in (('a', 20), ('b', 1)):
    (tmp_path / name).mkdir()
    row = results.row_of(two[0]) | {'settings': {'adversarial': {'attacks.pgd.steps': steps}}}
    row['metrics'] = {'adversarial/pgd/1/255': 1 / steps, 'accuracy': 1 / steps}
    (tmp_path / name / 'results.jsonl').write_text(json.dumps(row))
  text = compare.numbers(tmp_path / 'a', tmp_path / 'b')
  found = {line.split('  ')[0]: line[-1] for line in text.splitlines()}
  assert found['test accuracy'] == '+' and found['accuracy under pgd 1/255'] == '%'
  assert 'adversarial/pgd/1/255 (attacks.pgd.steps=20 | attacks.pgd.steps=1)' in text


def test_which_checkpoint_was_measured_is_said_though_training_does_not_depend_on_it(two, tmp_path):
  fields = (two[0] / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(
    fields.replace('"checkpoint": "best"', '"checkpoint": "latest"')
  )
  assert compare.configs(two[0], tmp_path).splitlines()[-1].split() == [
    'evaluation.checkpoint',
    'best',
    'latest',
  ]


def test_a_run_without_results_or_checkpoints_says_so(two, tmp_path):
  (tmp_path / 'config.json').write_text((two[0] / 'config.json').read_text())
  text = compare.compare(two[0], tmp_path)
  assert 'B has no results yet.' in text and 'B: ' in text and 'no log' in text


def test_overlap_counts_what_both_keep_and_what_chance_would():
  a = {'stem': {'kernel': np.array([1, 1, 0, 0], bool), 'bias': np.ones(2, bool)}}
  b = {'stem': {'kernel': np.array([1, 0, 1, 0], bool), 'bias': np.ones(2, bool)}}
  *_, layer, _, total = compare.overlap(a, b).splitlines()
  assert layer.split() == ['stem/kernel', '2', '2', '1', '1', '33.3%']
  assert total.split()[1:] == layer.split()[1:]


def test_masks_that_lie_in_each_other_are_called_nested_and_others_are_not():
  def draw(seed, ratio, density):
    params = {name: {'kernel': np.ones((20, n))} for name, n in (('stem', 9), ('head', 60))}
    return pruning.make_masks(
      jax.random.key(seed), None, params, None, ratio=ratio, density=density
    )

  nested = 'In every layer one mask lies wholly in the other'
  sparse, other, dense = draw(0, 'erk', 0.2), draw(1, 'erk', 0.2), draw(0, 'uniform', 1.0)
  assert nested in compare.overlap(sparse, draw(0, 'uniform', 0.3))
  for pair in ((sparse, other), (sparse, sparse), (sparse, dense)):
    assert nested not in compare.overlap(*pair)
  # Chance gives 222 of 222 here, and 222 / 432 * 432 is another float.
  part, whole = ({'stem': {'kernel': np.arange(432) < n}} for n in (222, 432))
  for pair in ((part, whole), (whole, part)):
    assert nested not in compare.overlap(*pair)
  # The bodies share 20 of 50, where chance would give 25; one stem lies in the other.
  a, b = (
    {'stem': {'kernel': np.arange(4) < n}, 'body': {'kernel': np.roll(np.arange(100) < 50, shift)}}
    for n, shift in ((1, 0), (2, 30))
  )
  assert nested not in compare.overlap(a, b)


def test_layers_of_other_shapes_are_left_out_by_name():
  a = {'stem': {'kernel': np.ones(4, bool)}, 'head': {'kernel': np.ones(2, bool)}}
  b = {'stem': {'kernel': np.ones(4, bool)}, 'head': {'kernel': np.ones(3, bool)}}
  assert 'of another shape: head/kernel' in compare.overlap(a, b)


def test_a_sparkline_goes_from_the_lowest_bar_to_the_highest():
  assert compare.sparkline([0.0, 0.5, 1.0], 0.0, 1.0) in ('▁▄█', '▁▅█')
  assert compare.sparkline([2.0, 2.0], 2.0, 2.0) == '▁▁'
  assert len(compare.sparkline(list(range(1000)), 0, 999)) == 48
  assert compare.sparkline([], 0, 1) == ''
