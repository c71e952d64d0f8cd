"""Tables: labels, which way is better, order, and the mark of the better one."""

import re

import pytest

from random_pruning_jax import metrics, ood, tables


def row(numbers, density=0.1, run='runs/a'):
  return {
    'config': {'pruning.ratio': 'erk', 'pruning.select': 'random'},
    'density': density,
    'kept': 10,
    'macs': 1e6,
    'train_seconds': 5.0,
    'metrics': numbers,
    'run': run,
  }


def marked(line):
  """Which of the columns of a line bears the mark."""
  return ['*' in cell for cell in line.split()[-2:]]


@pytest.mark.parametrize(
  ('name', 'label', 'better'),
  [
    ('accuracy', 'test accuracy', 'higher'),
    ('nll', 'NLL', 'lower'),
    ('temperature', 'temperature', ''),
    ('ood/imagenet_resized/32x32/knn/auroc', 'imagenet_resized 32x32 knn AUROC', 'higher'),
    ('ood/near/msp/fpr95_id_positive', 'near msp FPR95, ID positive', 'lower'),
    ('adversarial/worst_case/8/255', 'accuracy under worst_case 8/255', 'higher'),
    ('corruptions/fog/accuracy', 'corrupted fog accuracy', 'higher'),
    ('corruptions/mce', 'corrupted mCE', 'lower'),
    ('corruptions_regenerated/accuracy', 'corrupted (regenerated) accuracy', 'higher'),
    ('shifts/imagenet_a/accuracy', 'imagenet_a accuracy', 'higher'),
    ('gradients/egf_2', 'egf_2', ''),
    ('a_metric_of_my_own', 'a_metric_of_my_own', ''),
  ],
)
def test_a_number_is_labelled_with_its_set_and_the_way_that_is_better(name, label, better):
  shown = tables.column(name)
  assert (shown.label, shown.better) == (label, better)


def test_every_metric_has_a_direction():
  for name in metrics.METRICS:
    assert tables.column(name).better in ('higher', 'lower'), name
  for name in ood.METRICS:
    assert tables.column(f'ood/mnist/msp/{name}').better in ('higher', 'lower'), name


def test_the_better_number_is_marked_and_equals_are_not():
  text = tables.side_by_side(
    [
      row({'accuracy': 0.5, 'nll': 1.0, 'ece': 0.1}),
      row({'accuracy': 0.6, 'nll': 2.0, 'ece': 0.1}, 1),
    ]
  )
  lines = {line.split('  ')[0]: line for line in text.splitlines()}
  assert marked(lines['test accuracy']) == [False, True]
  assert marked(lines['NLL']) == [True, False]
  assert marked(lines['ECE, 15 bins']) == [False, False]


def test_numbers_that_were_measured_otherwise_are_not_marked():
  pair = [row({'accuracy': 0.5, 'nll': 1.0}), row({'accuracy': 0.6, 'nll': 2.0}, 1)]
  lines = tables.side_by_side(pair, unlike=('nll',)).splitlines()
  found = {line.split('  ')[0]: marked(line) for line in lines}
  assert found['test accuracy'] == [False, True] and found['NLL'] == [False, False]


def test_time_is_that_of_compiled_programs_and_counts_have_their_unit():
  first = row({}) | {'train_seconds': 100.0, 'compile_seconds': 40.0, 'macs': 2.5e9}
  text = tables.side_by_side([first, row({}) | {'macs': 41e6}])
  found = {line.split('  ')[0]: line.split()[-4:] for line in text.splitlines()}
  assert found['training time, once compiled'] == ['60', 's', '5', 's']
  assert found['multiply-adds an image'] == ['2.50', 'G', '41.00', 'M']


def test_a_number_that_one_run_lacks_is_a_dash():
  text = tables.side_by_side([row({'accuracy': 0.5}), row({}, 1)])
  assert any(line.split()[-2:] == ['50.00%', '-'] for line in text.splitlines())


def test_only_the_first_numbers_are_shown_unless_the_whole_is_asked_for():
  numbers = {
    'accuracy': 0.5,
    'aurc': 0.2,
    'ood/mnist/msp/auroc': 0.9,
    'ood/mnist/energy/auroc': 0.8,
    'adversarial/fgsm/8/255': 0.1,
    'adversarial/pgd/8/255': 0.0,
  }
  brief, whole = (tables.side_by_side([row(numbers)], whole=asked) for asked in (False, True))
  assert 'msp AUROC' in brief and 'energy' not in brief and 'pgd' not in brief
  assert all(word in whole for word in ('area under', 'energy AUROC', 'under pgd 8/255'))


def test_the_images_of_strong_attacks_are_said_where_they_are_not_all():
  numbers = {'adversarial/fgsm/8/255': 0.1, 'adversarial/pgd/8/255': 0.0}
  some = row(numbers) | {'notes': {'adversarial/pgd/8/255': 'the first 20 test images'}}
  assert tables.attack_note([some, row({'accuracy': 0.5})]) == (
    'attacks but fgsm: the first 20 test images'
  )
  both = tables.attack_note([some, row(numbers)])
  assert both.endswith('first 20 test images or all test images')
  assert tables.attack_note([row(numbers)]) == ''
  assert tables.side_by_side([some], whole=True).endswith('\n' + tables.attack_note([some]))
  assert 'images' not in tables.side_by_side([some])


def test_the_order_does_not_depend_on_the_rows():
  names = ['nll', 'accuracy', 'adversarial/pgd/8/255', 'adversarial/pgd/1/255', 'ood/a/msp/auroc']
  tables_of = {
    tables.side_by_side([row(dict.fromkeys(order, 0.5))], whole=True)
    for order in (names, sorted(names), names[::-1])
  }
  assert len(tables_of) == 1
  text = tables_of.pop()
  places = [text.index(word) for word in ('test acc', 'NLL', 'a msp', 'pgd 1/255', 'pgd 8/255')]
  assert places == sorted(places)


def test_a_set_comes_before_its_parts():
  names = ('shifts/cifar10_1/v6/accuracy', 'shifts/cifar10_1/accuracy', 'own/a/b/c', 'own/a/d')
  text = tables.side_by_side([row(dict.fromkeys(names, 0.5))], whole=True)
  places = [text.index(word) for word in ('cifar10_1 acc', 'cifar10_1 v6 acc', 'a d', 'a b c')]
  assert places == sorted(places)


def test_families_that_are_not_known_are_not_mixed():
  names = [f'{family}/{name}/accuracy' for family in 'zxyw' for name in 'abcd']
  text = tables.side_by_side([row(dict.fromkeys(names, 0.5))], whole=True)
  assert len(re.findall(r'^-+$', text, re.MULTILINE)) == 1 + 4  # under the head, and above each


def test_runs_of_one_kind_are_told_apart_by_their_directories():
  text = tables.side_by_side([row({}), row({}, run='runs/b')])
  assert 'erk/random (runs/a)' in text and 'erk/random (runs/b)' in text


@pytest.mark.parametrize(
  ('density', 'said'),
  [(0, '100.0%'), (1e-5, '99.999%'), (4e-4, '99.96%'), (5e-4, '99.95%'), (6e-4, '99.9%')],
)
def test_a_sparsity_below_one_is_not_said_to_be_one(density, said):
  assert tables.sparsity(density, 1) == said


@pytest.mark.parametrize(
  ('value', 'said'),
  [(996, '996 B'), (1000, '1.00 kB'), (999_990, '999.99 kB'), (999_999, '1.00 MB'), (0, '0 B')],
)
def test_a_count_that_rounds_to_a_thousand_has_the_next_prefix(value, said):
  assert tables.prefixed(value, 'B') == said
