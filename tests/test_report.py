"""Numbers of a report are those of the rows, and what is missing is said to be missing."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import synthetic

from random_pruning_jax.commands import plan
from random_pruning_jax.config_files import function_of
from random_pruning_jax.config_files import override as with_overrides
from random_pruning_jax.main import main
from random_pruning_jax.report import claims, formats, paper, repeat, runs, tables, verdicts

pytest.importorskip('matplotlib')
from random_pruning_jax.report import figures


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  directory = tmp_path_factory.mktemp('sweep')
  synthetic.write_runs(directory)
  return directory


def only(found, **fields):
  return [run for run in found if all(run.field(name) == v for name, v in fields.items())]


def a_row(**fields):
  return synthetic.row_of(synthetic.config_of(**fields))


def test_cells_are_mean_and_sample_deviation_over_seeds(tmp_path):
  for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
    row = a_row(seed=seed) | {'metrics': {'accuracy': accuracy}}
    synthetic.write(tmp_path / str(seed), row)
  (table,) = tables.pivot(runs.read([tmp_path]), 'scheme', 'sparsity', 'accuracy')
  cell = table.cells['erk', 0.9]
  assert cell.mean == pytest.approx(0.92) and cell.sd == pytest.approx(0.02)
  assert formats.show(cell, 'accuracy') == '92.00 ± 2.00 (n=3)'
  assert formats.show(tables.Cell((0.5,)), 'nll') == '0.5000 (n=1)'
  assert formats.show(None, 'nll') == '-'


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path):
  for i, epochs in enumerate((5, 160)):
    for seed in (0, 1):
      synthetic.write(tmp_path / f'{i}{seed}', a_row(epochs=epochs, seed=seed))
  found = tables.pivot(runs.read([tmp_path]), 'scheme', 'sparsity', 'accuracy')
  assert sorted(re.search(r'epochs=\d+', table.title)[0] for table in found) == [
    'epochs=160',
    'epochs=5',
  ]
  assert all(len(cell.values) == 2 for table in found for cell in table.cells.values())


def test_dense_runs_join_the_tables_of_every_ratio(swept):
  found = tables.pivot(runs.read([swept]), 'network', 'sparsity', 'accuracy')
  assert len(found) == 2  # uniform and ERK
  assert all(len(table.cells['resnet20', 0.0].values) == 3 for table in found)


@pytest.mark.parametrize(
  ('rows', 'columns'),
  [('scheme', 'sparsity'), ('network', 'density'), ('depth', 'ratio'), ('seed', 'sparsity')],
)
def test_any_two_fields_make_a_table_that_holds_every_run(swept, rows, columns):
  found = runs.read([swept])
  pivots = tables.pivot(found, rows, columns, 'nll')
  seen = {value for table in pivots for cell in table.cells.values() for value in cell.values}
  assert seen == {run.metric('nll') for run in found}


def test_unknown_fields_and_metrics_are_refused_with_the_known_ones(swept):
  found = runs.read([swept])
  with pytest.raises(ValueError, match=r'nonsense must be network, .*pruning\.ratio'):
    tables.pivot(found, 'nonsense', 'sparsity', 'accuracy')
  with pytest.raises(ValueError, match=r'--metric must be one of accuracy, .*nll'):
    tables.pivot(found, 'scheme', 'sparsity', 'nonsense')
  blank = [dataclasses.replace(run, row=run.row | {'metrics': {}}) for run in found if run.row]
  with pytest.raises(ValueError, match=r'--metric must be one of kept, .*macs.*; got accuracy'):
    tables.pivot(blank, 'scheme', 'sparsity', 'accuracy')


def test_formats_hold_the_same_numbers(swept):
  pivots = tables.pivot(runs.read([swept]), 'scheme', 'sparsity', 'accuracy')
  (erk,) = [t.cells['erk', 0.9] for t in pivots if 'resnet56' in t.title]
  shown = f'{100 * erk.mean:.2f}'
  for name in ('text', 'markdown', 'latex'):
    assert shown in formats.FORMATS[name](pivots)
  assert repr(erk.mean) in formats.FORMATS['csv'](pivots)
  assert r'\pm' in formats.FORMATS['latex'](pivots) and '±' not in formats.FORMATS['latex'](pivots)


def test_failed_missing_and_unequal_runs_appear_as_such(tmp_path):
  configs = {f'run{seed}': synthetic.config_of(seed=seed) for seed in range(4)}
  (tmp_path / 'sweep.json').write_text(json.dumps({'format': 1, 'runs': configs}))
  for name in ('run0', 'run1'):
    synthetic.write(tmp_path / name, synthetic.row_of(configs[name]))
  (tmp_path / 'run2').mkdir()
  failure = {'config': configs['run2'], 'error': 'NotFiniteError: the loss is nan', 'tag': 'run2'}
  (tmp_path / 'run2' / 'failed.json').write_text(json.dumps(failure))
  found = runs.read([tmp_path])
  assert [run.state for run in found] == ['done', 'done', 'failed', 'missing']
  (table,) = tables.pivot(found, 'scheme', 'sparsity', 'accuracy')
  assert formats.show(table.cells['erk', 0.9], 'accuracy').endswith('(n=2, 1 failed, 1 missing)')


def test_rows_of_older_versions_are_read(tmp_path):
  row = a_row()
  for name in ('format', 'layers', 'macs', 'validation', 'versions', 'commit'):
    del row[name]
  del row['config']['schedule.warmup_epochs']
  synthetic.write(tmp_path / 'old', row)
  synthetic.write(tmp_path / 'older', {'density': 0.5, 'metrics': {'accuracy': 0.5}})
  synthetic.write(tmp_path / 'new', a_row(seed=1))
  found = runs.read([tmp_path])
  assert len(found) == 3
  assert len({run.setting for run in only(found, network='resnet20')}) == 1
  assert main(['report', str(tmp_path)]) == 0
  assert 'old version' in (tmp_path / 'report' / 'report.html').read_text()


def test_a_directory_without_runs_is_refused(tmp_path, capsys):
  assert main(['report', str(tmp_path)]) == 2
  assert 'there is no run at or below' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('sweep.json', '', 'is damaged: Expecting value'),
    ('sweep.json', '{"tasks": []}', 'must hold runs, got tasks'),
    ('failed.json', '{"error": "no"}', 'must hold config and error, got error'),
    ('failed.json', '[]', 'must hold config and error, got list'),
    ('results.jsonl', '{"task": "arc", "score": 1}', 'must hold metrics, got task, score'),
  ],
)
def test_files_that_are_damaged_or_of_another_program_are_refused_by_name(
  tmp_path, capsys, name, content, said
):
  synthetic.write(tmp_path / 'run', a_row())
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / name).write_text(content)
  assert main(['report', str(tmp_path), '--markdown']) == 2
  [line] = capsys.readouterr().err.strip().splitlines()
  assert f'{tmp_path / "other" / name} {said}' in line


def test_every_claim_says_whose_it_is():
  sources = {answer.claim: answer.source for answer in claims.answers([])}
  assert all(sources.values())
  for word, source in (
    ('outperform', 'the abstract'),
    ('Wide ResNet-50 can match', "the authors' README"),
    ('SNIP', claims.FIGURE),
    ('Gradient flow', "somebody else's summary of the paper, unchecked"),
  ):
    assert [source] == [sources[claim] for claim in sources if word in claim]


def test_the_papers_readings_are_those_of_its_figure_and_only_of_its_data_set():
  assert len(paper.readings()) == 5 + 5 * 4 * 9
  assert str(paper.reading('cifar10', 'resnet20', 'erk', 0.9)) == '87.78'
  assert str(paper.reading('cifar10', 'resnet20-w16', 'erk', 0.8)) == '~89.90'
  seen, covered = (paper.reading('cifar10', 'resnet20', 'erk', x) for x in (0.9, 0.8))
  assert (seen.uncertainty, covered.uncertainty) == (0.0002, 0.001)
  assert paper.reading('cifar10', 'resnet110', 'dense', 0.0).accuracy == 0.9334
  for other in (
    ('cifar100', 'resnet20', 'erk', 0.9),
    ('digits', 'resnet20', 'erk', 0.9),
    ('cifar10', 'resnet20-w8', 'erk', 0.9),
    ('cifar10', 'resnet20', 'erk', 0.95),
    ('cifar10', 'resnet20', 'erk/magnitude', 0.9),
  ):
    assert paper.reading(*other) is None


def test_the_paper_is_drawn_beside_ours_on_its_data_set_alone(tmp_path):
  captions = {}
  for dataset in ('cifar10', 'cifar100'):
    small = {'networks': ('resnet20',), 'ratios': ('erk',), 'sparsities': (0.9,), 'seeds': (0,)}
    synthetic.write_runs(tmp_path / dataset, dataset=dataset, **small)
    drawn = {f.name: f for f in figures.draw(runs.read([tmp_path / dataset]))}
    captions[dataset] = drawn[f'accuracy_by_depth-{dataset}'].caption
  assert 'Liu et al.' in captions['cifar10'] and '± 0.02' in captions['cifar10']
  assert 'Liu et al.' not in captions['cifar100']


def test_the_paper_is_not_drawn_beside_runs_of_other_epochs(tmp_path):
  small = {'networks': ('resnet20',), 'ratios': ('erk',), 'sparsities': (0.9,), 'seeds': (0,)}
  synthetic.write_runs(tmp_path, epochs=5, **small)
  drawn = {f.name: f for f in figures.draw(runs.read([tmp_path]))}
  figure = drawn['accuracy_by_depth-cifar10']
  assert 'Liu et al.' not in figure.caption and 'read off' not in figure.svg


def test_claims_are_supported_contradicted_or_undecided_by_the_numbers(tmp_path):
  def verdicts(name, **settings):
    synthetic.write_runs(tmp_path / name, sparsities=(0.5, 0.9), **settings)
    found = claims.answers(runs.read([tmp_path / name]))
    return {answer.claim.split(':')[0][:24]: answer.verdict for answer in found}

  clear = verdicts('clear', noise=1e-4)
  assert clear['A randomly pruned networ'] == 'supported'
  assert clear['The deeper the network, '] == 'supported'
  assert clear['Layer-wise ratios matter'] == 'supported'
  assert clear['The wider the network, t'] == 'cannot decide'
  assert clear['On ImageNet a randomly p'] == 'cannot decide'
  opposite = verdicts('opposite', noise=1e-4, gap=-1.0)
  assert opposite['The deeper the network, '] == 'contradicted'
  assert opposite['Layer-wise ratios matter'] == 'contradicted'
  hopeless = verdicts('hopeless', noise=1e-4, gap=100.0)
  assert hopeless['A randomly pruned networ'] == 'contradicted'
  single = verdicts('single', seeds=(0,))
  assert set(single.values()) == {'cannot decide'}


def size_verdict(tmp_path, size, *networks):
  """What runs of networks (name, width) say of size, where smaller ones lose more."""
  for i, (name, width) in enumerate(networks):
    fields = {'networks': (name,), 'model.width': width, 'sparsities': (0.9,), 'noise': 1e-4}
    synthetic.write_runs(tmp_path / str(i), **fields)
  return claims.size_matters('', claims.cells_of(runs.read([tmp_path])), size).verdict


def test_a_width_of_zero_is_the_familys_own(tmp_path):
  assert size_verdict(tmp_path, claims.by_width, ('resnet20', 0), ('resnet20', 8)) == 'supported'


def test_depths_are_compared_within_a_family_alone(tmp_path):
  two = ('resnet20', 0), ('vgg19', 0)  # the deeper one has fewer parameters here, and loses more
  assert size_verdict(tmp_path, claims.by_depth, *two) == 'cannot decide'
  found = [
    runs.Run('done', '', {'model.name': name}, {}).family
    for name in ('resnet20', 'cifar_resnet8', 'resnet18', 'vgg16', 'wrn50_2', 'wrn14_2')
  ]
  assert found == ['cifar_resnet', 'cifar_resnet', 'resnet', 'vgg', 'wrn_2', 'wrn_2']


def test_a_scheme_has_one_name_in_either_recipe():
  for recipe in ('clean', 'authors'):
    fields = {'recipe': recipe, 'pruning.ratio': 'snip', 'pruning.select': 'snip'}
    assert runs.Run('done', '', synthetic.config_of(**fields), {}).scheme == 'snip/snip'


def test_figures_of_the_caller_are_left_alone(swept):
  import matplotlib.pyplot as plt

  own, backend = plt.figure(), plt.get_backend()
  assert next(figures.draw(runs.read([swept]))).svg
  assert plt.get_fignums() == [own.number] and plt.get_backend() == backend
  plt.close(own)


def test_gradient_flow_explains_the_gap_where_the_two_rank_alike():
  def a_run(seed, density, accuracy, norm):
    config = synthetic.config_of(**{'seed': seed, 'pruning.density': density})
    flow = {'step': [0, 100], 'gradient_norm': [norm, 7.0]}
    row = synthetic.row_of(config) | {'metrics': {'accuracy': accuracy}, 'gradient': flow}
    return runs.Run('done', '', config, row)

  def verdict(norms):
    found = [a_run(seed, 1.0, 0.9, 1.0) for seed in range(5)]
    for density, accuracy, norm in zip((0.1, 0.2, 0.5), (0.7, 0.8, 0.89), norms, strict=True):
      found += [a_run(seed, density, accuracy, norm) for seed in range(5)]
    return claims.flow_matters('', claims.cells_of(found))

  assert verdict((1.0, 2.0, 3.0)).verdict == 'supported'
  assert verdict((3.0, 2.0, 1.0)).verdict == 'contradicted'
  assert verdict((3.0, 2.0, 1.0)).evidence[0].mean == -1.0
  assert verdict((2.0, 2.0, 2.0)).verdict == 'cannot decide'


def test_a_paired_test_is_the_textbooks():
  found = verdicts.evidence('', {0: 1.0, 1: 2.0, 2: 3.0})
  assert found.mean == 2 and found.sd == 1 and found.n == 3
  assert found.p_for == pytest.approx(0.0370901, abs=1e-6)  # t = 3.4641 with 2 degrees of freedom
  assert found.p_for + found.p_against == pytest.approx(1)
  assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_a_claim_is_supported_below_five_percent():
  for values, verdict in (((1.0, 2.0, 3.0), 'supported'), ((0.5, 2.0, 3.5), 'cannot decide')):
    differences = dict(enumerate(values))  # p = 0.037 and 0.074
    assert verdicts.can('', [verdicts.evidence('', differences)], '').verdict == verdict
    assert verdicts.tends('', '', [differences], '').verdict == verdict


def test_equal_differences_decide_by_their_number_alone():
  """Accuracies of few images may be equal by chance, which is no certainty."""
  for n, p in ((2, 0.25), (3, 0.125), (5, 0.03125)):
    right = [(331 - 7 * seed, 334 - 7 * seed) for seed in range(n)]  # of 360, always three apart
    for kind in (float, np.float32):  # as rows hold them
      differences = {
        seed: float(kind(b / 360)) - float(kind(a / 360)) for seed, (a, b) in enumerate(right)
      }
      found = verdicts.evidence('', differences)
      assert found.sd > 0 and (found.p_for, found.p_against) == (p, 1)
  same = verdicts.evidence('', {0: 0.0, 1: 0.0})
  assert (same.p_for, same.p_against) == (1, 1)
  cells = [same, *(verdicts.evidence('', {0: -0.03, 1: -0.03 - i / 360}) for i in range(1, 18))]
  assert verdicts.can('', cells, 'accuracy').verdict == 'cannot decide'


def test_seeds_are_paired_and_those_without_a_partner_left_out():
  sparse = [runs.Run('done', '', {'seed': s}, {'metrics': {'accuracy': 0.5}}) for s in (0, 1, 2)]
  dense = [runs.Run('done', '', {'seed': s}, {'metrics': {'accuracy': 0.6}}) for s in (1, 2, 3)]
  from random_pruning_jax.report.sizes import paired

  assert paired(sparse, dense, 'accuracy') == pytest.approx({1: -0.1, 2: -0.1})


def test_the_command_to_repeat_a_run_makes_its_config_again():
  import pathlib
  import shlex

  from random_pruning_jax.config import differences, flat, resolve

  root = pathlib.Path(__file__).parents[1]
  row = a_row(**{'evaluation.foreign': ('mnist',), 'pruning.ratio': 'uniform', 'seed': 3})
  run = runs.Run('done', '', row['config'], row)
  first, *rest = repeat.command(run).split('\n')
  assert first == 'git checkout 0123456789abcdef'
  words = shlex.split(' '.join(rest).replace('\\', ''))
  assert words[:3] == ['random-pruning', 'train', '--config=configs/cifar.py']
  config = function_of(root / 'configs' / 'cifar.py', 'get_config')()
  again = resolve(with_overrides(config, [w for w in words[3:] if w.startswith('--config.')]))
  assert differences(row['config'], flat(again)) == {}


def test_a_commit_with_changes_beside_it_is_checked_out_without_them(tmp_path):
  synthetic.write(tmp_path / '0', a_row() | {'commit': '0123abc+'})
  [run] = runs.read([tmp_path])
  assert repeat.command(run).splitlines()[0] == 'git checkout 0123abc'


def test_a_list_that_was_written_as_json_is_a_tuple_in_the_command_to_repeat_a_run(tmp_path):
  synthetic.write(tmp_path / '0', a_row(**{'evaluation.foreign': ('mnist',)}))
  [run] = runs.read([tmp_path])
  assert "'--config.evaluation.foreign=('" in repeat.command(run) and '[' not in repeat.command(run)


def test_printing_a_format_writes_nothing(swept, capsys):
  assert main(['report', str(swept), '--markdown', '--metric=ece']) == 0
  assert '| erk |' in capsys.readouterr().out
  assert not (swept / 'report').exists()


def test_without_matplotlib_the_command_that_installs_it_is_said(swept, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'random_pruning_jax.report.write', None)
  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  assert main(['report', str(swept)]) == 2
  assert 'pip install -e ".[report]";' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r'pip install -e "\.\[report\]"\.'):
    plan.draw([], 'plan.png')


def test_everything_is_written(swept, tmp_path, capsys):
  assert main(['report', str(swept), f'--out={tmp_path}']) == 0
  names = {path.name for path in tmp_path.rglob('*')}
  assert {'report.html', 'runs.csv', 'table.csv', 'table.md', 'table.tex'} <= names
  for name in ('accuracy_by_depth', 'accuracy_by_ratio', 'gap_by_size', 'beyond_accuracy'):
    assert {f'{name}-cifar10.png', f'{name}-cifar10.svg'} <= names
  lines = (tmp_path / 'runs.csv').read_text().splitlines()
  assert len(lines) == 1 + len(runs.read([swept]))
