"""What a report compares was measured on the same sets, at the same epsilon, by the same attack."""

import dataclasses

import pytest
import synthetic

pytest.importorskip('matplotlib')

from random_pruning_jax.report import figures, formats, measured, page, runs, sizes, tables

EIGHT, ONE = 'adversarial/fgsm/8/255', 'adversarial/fgsm/1/255'
PGD = 'adversarial/pgd/8/255'


def done(numbers, settings=None, **fields):
  config = synthetic.config_of(**{name.replace('__', '.'): value for name, value in fields.items()})
  row = synthetic.row_of(config) | {'metrics': {'accuracy': 0.9} | numbers}
  return runs.Run('done', '', config, row | {'settings': {'adversarial': settings or {}}})


def cells(tables_):
  return {
    (table.title, row): cell.values for table in tables_ for (row, _), cell in table.cells.items()
  }


def test_one_table_has_one_epsilon_and_the_same_foreign_sets_and_says_which():
  sets = {'ood/svhn_cropped/msp/auroc': 0.9}
  dense = done({ONE: 0.6, EIGHT: 0.2} | sets, pruning__density=1.0)
  sparse = done({ONE: 0.5} | sets | {'ood/cifar100/msp/auroc': 0.1})
  title = 'cifar10, resnet20: accuracy under FGSM (1/255)'
  found = tables.pivot([dense, sparse], 'scheme', 'sparsity', 'fgsm')
  assert cells(found) == {(title, 'dense'): (0.6,), (title, 'erk'): (0.5,)}
  [table] = tables.pivot([dense, sparse], 'scheme', 'sparsity', 'auroc')
  assert table.title.endswith('foreign sets (svhn_cropped)')
  assert {cell.values for cell in table.cells.values()} == {(0.9,)}


def test_where_no_epsilon_is_common_the_title_says_so():
  dense, sparse = done({EIGHT: 0.2}, pruning__density=1.0), done({ONE: 0.5})
  [table] = tables.pivot([dense, sparse], 'scheme', 'sparsity', 'fgsm')
  assert table.title.endswith('FGSM (no epsilon up to 8/255 that all runs have)')
  assert not any(cell.values for cell in table.cells.values())
  drawn = {figure.name: figure for figure in figures.draw([dense, sparse])}
  assert 'FGSM at no epsilon up to 8/255' in drawn['beyond_accuracy-cifar10'].caption


def test_a_claim_is_tested_at_one_epsilon_over_all_seeds():
  dense = [done({ONE: 0.6, EIGHT: 0.2}, seed=seed, pruning__density=1.0) for seed in (0, 1)]
  sparse = [done({ONE: 0.5, EIGHT: 0.2}, seed=0), done({ONE: 0.5}, seed=1)]
  assert sizes.paired(sparse, dense, 'fgsm') == pytest.approx({0: -0.1, 1: -0.1})


def test_figures_and_the_page_have_one_epsilon_and_say_which():
  found = [done({ONE: 0.61, EIGHT: 0.2}, pruning__density=1.0), done({ONE: 0.52})]
  drawn = {figure.name: figure for figure in figures.draw(found)}
  assert 'FGSM at 1/255' in drawn['beyond_accuracy-cifar10'].caption
  text = page.page('', found, [], [], [])
  assert 'cifar10: FGSM at 1/255.' in text and '>61.00<' in text and '>20.00<' not in text


@pytest.mark.parametrize(
  ('field', 'values'), [('attacks.pgd.steps', (1, 50)), ('attacked_images', (100, 1000))]
)
def test_numbers_of_attacks_of_other_strength_share_no_table(field, values):
  found = [done({PGD: 0.1 * value}, {field: value}, seed=value) for value in values]
  pivots = tables.pivot(found, 'scheme', 'sparsity', PGD)
  assert {table.title.split(', ')[-1].split(':')[0] for table in pivots} == {
    f'{field}={value}' for value in values
  }
  assert [cell.values for table in pivots for cell in table.cells.values()] == [
    (0.1 * value,) for value in values
  ]
  [table] = tables.pivot(found, 'scheme', 'sparsity', 'accuracy')
  assert len(table.cells['erk', 0.9].values) == 2


def test_the_title_says_how_many_images_were_attacked():
  worst = 'adversarial/worst_case/8/255'
  notes = {PGD: 'the first 20 test images', worst: 'of fgsm 8/255, pgd 8/255; 20 test images'}
  run = done({PGD: 0.5, EIGHT: 0.7, worst: 0.5})
  run = dataclasses.replace(run, row=run.row | {'notes': notes})
  for metric, said in ((PGD, '(the first 20 test images)'), (worst, '(20 test images)')):
    assert tables.pivot([run], 'scheme', 'sparsity', metric)[0].title.endswith(said)
  assert 'images' not in tables.pivot([run], 'scheme', 'sparsity', EIGHT)[0].title


def test_another_attacks_strength_and_another_epsilon_part_nothing():
  differing = {'attacks.apgd.steps': (1, 50), 'attacks.pgd.epsilons': ([0.1], [0.1, 0.2])}
  found = [
    done({PGD: 0.5}, {name: values[seed] for name, values in differing.items()}, seed=seed)
    for seed in (0, 1)
  ]
  [table] = tables.pivot(found, 'scheme', 'sparsity', PGD)
  assert len(table.cells['erk', 0.9].values) == 2


def test_a_number_depends_on_the_settings_that_its_name_does_not_say():
  fields = {'attacks.pgd_l2.steps': 3, 'attacked_images': 9, 'severities': 1, 'corrupted_images': 5}
  fields |= {'foreign': ['mnist', 'cifar100'], 'near': ['cifar100'], 'validation_foreign': 'dtd'}
  row = {'settings': dict.fromkeys(('adversarial', 'corruptions', 'ood'), fields)}
  row['notes'] = {f'ood/{of}/odin': 'epsilon=0.002, chosen on dtd' for of in ('mnist', 'near')}
  row['notes']['ood/near'] = 'mean of cifar100'
  for metric, names in (
    ('adversarial/worst_case_l2/0.5', ['attacked_images', 'attacks.pgd_l2.steps']),
    ('corruptions/accuracy', ['severities']),
    ('corruptions_regenerated/accuracy', ['corrupted_images', 'severities']),
    ('ood/mnist/msp/auroc', []),
    ('ood/mnist/odin/auroc', ['validation_foreign']),
    ('ood/near/msp/auroc', ['sets']),
    ('ood/near/odin/fpr95', ['sets', 'validation_foreign']),
  ):
    assert sorted(measured.how(metric, row)) == names
  assert measured.how('ood/near/msp/auroc', row) == {'sets': 'cifar100'}


def test_an_epsilon_of_zero_is_no_attack():
  assert done({'adversarial/fgsm/0/255': 0.9}).metric('fgsm') is None


def test_the_largest_epsilon_up_to_8_255_is_taken_however_it_is_written():
  numbers = {'1/255': 0.6, '0.03': 0.4, '4/255': 0.5, '16/255': 0.1}
  run = done({f'adversarial/fgsm/{epsilon}': value for epsilon, value in numbers.items()})
  assert run.metric('fgsm') == 0.4


def test_foreign_sets_are_those_of_the_runs_that_count():
  old, new = {'ood/stripes/msp/auroc': 0.5}, {'ood/svhn_cropped/msp/auroc': 0.9}
  found = [done(old), done(old | new)]
  found[1].row['time'] = '2026-02-01'
  [table] = tables.pivot(found, 'scheme', 'sparsity', 'auroc')
  assert table.title.endswith('(stripes, svhn_cropped)')


def test_runs_that_were_not_attacked_are_missing_from_the_tables_of_every_strength():
  found = [done({PGD: 0.5}, {'attacks.pgd.steps': steps}, seed=steps) for steps in (1, 50)]
  missing = runs.Run('missing', '', found[0].config | {'seed': 7}, {})
  pivots = tables.pivot([missing, *found], 'scheme', 'sparsity', PGD)
  assert [formats.show(t.cells['erk', 0.9], PGD) for t in pivots] == ['50.00 (n=1, 1 missing)'] * 2
