"""Numbers of a report are those of the rows, and what is missing is said to be missing."""

import dataclasses
import json
import re
import sys

import pytest
import synthetic
from synthetic import done

from random_pruning_jax import runlog
from random_pruning_jax.commands import plan
from random_pruning_jax.config import default
from random_pruning_jax.config.files import function_of
from random_pruning_jax.config.files import override as with_overrides
from random_pruning_jax.main import main
from random_pruning_jax.report import formats, paper, reading, repeat, runs, tables

pytest.importorskip('matplotlib')
from random_pruning_jax.report import curves, figures


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
  directory = tmp_path_factory.mktemp('sweep')
  synthetic.write_runs(directory)
  return directory


def a_row(**fields):
  return synthetic.row_of(synthetic.config_of(**fields))


def test_cells_are_mean_and_sample_deviation_over_seeds(tmp_path):
  for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
    row = a_row(seed=seed) | {'metrics': {'accuracy': accuracy}}
    synthetic.write(tmp_path / str(seed), row)
  (table,) = tables.pivot(reading.read([tmp_path]), 'scheme', 'sparsity', 'accuracy')
  cell = table.cells['erk', 0.9]
  assert cell.mean == pytest.approx(0.92) and cell.sd == pytest.approx(0.02)
  assert formats.show(cell, 'accuracy') == '92.00 ± 2.00 (n=3)'
  assert formats.show(tables.Cell((0.5,)), 'nll') == '0.5000 (n=1)'
  assert formats.show(tables.Cell((1290.0,) * 3), 'kept') == '1290 ± 0 (n=3)'
  assert formats.show(None, 'nll') == '-'


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path):
  for i, epochs in enumerate((5, 160)):
    for seed in (0, 1):
      synthetic.write(tmp_path / f'{i}{seed}', a_row(epochs=epochs, seed=seed))
  found = tables.pivot(reading.read([tmp_path]), 'scheme', 'sparsity', 'accuracy')
  assert sorted(re.search(r'epochs=\d+', table.title)[0] for table in found) == [
    'epochs=160',
    'epochs=5',
  ]
  assert all(len(cell.values) == 2 for table in found for cell in table.cells.values())


def test_dense_runs_join_the_tables_of_every_ratio(swept):
  found = tables.pivot(reading.read([swept]), 'network', 'sparsity', 'accuracy')
  assert len(found) == 2  # uniform and ERK
  assert all(len(table.cells['resnet20', 0.0].values) == 3 for table in found)
  found = tables.pivot(reading.read([swept]), 'scheme', 'network', 'accuracy')
  assert len(found) == 3  # sparsities
  assert all(len(table.cells['dense', 'resnet20'].values) == 3 for table in found)


@pytest.mark.parametrize(
  ('rows', 'columns'),
  [('scheme', 'sparsity'), ('network', 'density'), ('depth', 'ratio'), ('seed', 'sparsity')],
)
def test_any_two_fields_make_a_table_that_holds_every_run(swept, rows, columns):
  found = reading.read([swept])
  pivots = tables.pivot(found, rows, columns, 'nll')
  seen = {value for table in pivots for cell in table.cells.values() for value in cell.values}
  assert seen == {run.metric('nll') for run in found}


def test_unknown_fields_and_metrics_are_refused_with_the_known_ones(swept):
  found = reading.read([swept])
  with pytest.raises(ValueError, match=r'nonsense must be network, .*pruning\.ratio'):
    tables.pivot(found, 'nonsense', 'sparsity', 'accuracy')
  with pytest.raises(ValueError, match=r'--metric must be one of accuracy, .*nll'):
    tables.pivot(found, 'scheme', 'sparsity', 'nonsense')
  blank = [dataclasses.replace(run, row=run.row | {'metrics': {}}) for run in found if run.row]
  with pytest.raises(ValueError, match=r'--metric must be one of kept, .*macs.*; got accuracy'):
    tables.pivot(blank, 'scheme', 'sparsity', 'accuracy')


def test_formats_hold_the_same_numbers(swept):
  pivots = tables.pivot(reading.read([swept]), 'scheme', 'sparsity', 'accuracy')
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
  found = reading.read([tmp_path])
  assert [run.state for run in found] == ['done', 'done', 'failed', 'missing']
  assert len(reading.read([tmp_path, tmp_path / 'run0' / '..'])) == 4
  (table,) = tables.pivot(found, 'scheme', 'sparsity', 'accuracy')
  assert formats.show(table.cells['erk', 0.9], 'accuracy').endswith('(n=2, 1 failed, 1 missing)')


def test_a_planned_run_that_another_sweep_has_is_not_missing(only, tmp_path, capsys):
  only('accuracy_by_depth')
  configs = {f'run{seed}': synthetic.config_of(seed=seed) for seed in range(3)}
  (tmp_path / 'sweep').mkdir()
  (tmp_path / 'sweep' / 'sweep.json').write_text(json.dumps({'format': 1, 'runs': configs}))
  for other in ('other', 'copy'):
    synthetic.write(tmp_path / other / 'run', synthetic.row_of(configs['run0']))
  assert main(['report', str(tmp_path), '--csv', f'--html={tmp_path / "page.html"}']) == 0
  assert 'missing: 2 planned runs are not there yet' in capsys.readouterr().err
  assert '1 runs done, <strong>2 missing</strong>' in (tmp_path / 'page.html').read_text()


def test_rows_of_older_versions_are_read(tmp_path):
  row = a_row()
  for name in ('format', 'layers', 'macs', 'validation', 'versions', 'commit', 'time', 'device'):
    del row[name]
  for name in ('schedule.warmup_epochs', 'pruning.dense'):
    del row['config'][name]
  synthetic.write(tmp_path / 'old', row)
  synthetic.write(tmp_path / 'new', a_row(seed=1))
  found = reading.read([tmp_path])
  assert len(found) == 2
  assert len({run.setting for run in found}) == 1
  assert main(['report', str(tmp_path)]) == 0


def test_a_directory_without_runs_is_refused(tmp_path, capsys):
  assert main(['report', str(tmp_path)]) == 2
  assert 'there is no run at or below' in capsys.readouterr().err


def test_a_run_that_has_not_come_to_its_end_is_named_where_there_is_no_other(tmp_path):
  runlog.claim(tmp_path / 'r5', default())
  with pytest.raises(ValueError, match=r'no run at or below .* to its end; begun: .*/r5\.'):
    reading.read([tmp_path])


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('sweep.json', '', 'is damaged: Expecting value'),
    ('sweep.json', '{"tasks": []}', 'must hold runs, got tasks'),
    ('failed.json', '{"error": "no"}', 'must hold config and error, got error'),
    ('failed.json', '[]', 'must hold config and error, got list'),
    ('results.jsonl', '{"task": "arc", "score": 1}', 'must hold config and metrics, got task'),
    (
      'results.jsonl',
      '{"metrics": {"accuracy": 0.5}}',
      'must hold config and metrics, got metrics',
    ),
    (
      'results.jsonl',
      '{"config": {"lr": 0.1}, "metrics": {}}',
      'must hold configs of runs, got one without dataset',
    ),
    (
      'failed.json',
      '{"config": {}, "error": ""}',
      'must hold configs of runs, got one without dataset',
    ),
    (
      'sweep.json',
      '{"runs": {"a": 1}}',
      'must hold configs of runs, got one without dataset',
    ),
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


def test_the_papers_readings_are_those_of_its_figure_and_only_of_its_data_set():
  assert len(paper.readings()) == 5 + 5 * 4 * 9
  seen, covered = (paper.reading(done(pruning__density=density)) for density in (0.1, 0.2))
  assert seen == (pytest.approx(0.8778), 0.0002) and covered == (pytest.approx(0.8990), 0.001)
  dense = done(model__name='resnet110', pruning__density=1.0)
  assert paper.reading(dense).accuracy == 0.9334
  for other in (
    {'dataset': 'cifar100'},
    {'dataset': 'digits'},
    {'model__width': 8},
    {'pruning__density': 0.05},
    {'pruning__select': 'magnitude'},
  ):
    assert paper.reading(done(**other)) is None


def test_the_paper_is_drawn_beside_ours_on_its_data_set_alone(only, tmp_path):
  only('accuracy_by_depth')
  captions = {}
  for dataset in ('cifar10', 'cifar100'):
    small = {'networks': ('resnet20',), 'ratios': ('erk',), 'sparsities': (0.9,), 'seeds': (0,)}
    synthetic.write_runs(tmp_path / dataset, dataset=dataset, **small)
    drawn = {f.name: f for f in figures.draw(reading.read([tmp_path / dataset]))}
    captions[dataset] = drawn[f'accuracy_by_depth-{dataset}'].caption
  assert 'Liu et al.' in captions['cifar10'] and '± 0.02' in captions['cifar10']
  assert 'Liu et al.' not in captions['cifar100']


def test_a_caption_names_the_paper_where_its_network_is_drawn(only):
  only('accuracy_by_depth', 'accuracy_by_width')
  found = [done(model__name=name, model__width=8) for name in ('resnet20', 'resnet32')]
  captions = {figure.name: figure.caption for figure in figures.draw([*found, done()])}
  assert 'Liu et al.' in captions['accuracy_by_width-cifar10']
  assert 'Liu et al.' not in captions['accuracy_by_depth-cifar10']  # of width 8 alone


@pytest.mark.parametrize(
  'other',
  [
    {'epochs': 5},
    {'optimizer__lr': 0.01},
    {'batch_size': 512},
    {'augment__mode': 'none'},
    {'optimizer__nesterov': False},
    {'optimizer__label_smoothing': 0.1},
    {'optimizer__accumulate': 2},
    {'optimizer__average_decay': 0.999},
    {'schedule__name': 'cosine'},
    {'schedule__warmup_epochs': 5.0},
    {'checkpoint__every_epochs': 160},
    {'evaluation__checkpoint': 'latest'},
  ],
)
def test_the_paper_is_not_drawn_beside_runs_of_another_recipe(other):
  figure = next(figures.draw([done(**other)]))
  assert 'Liu et al.' not in figure.caption
  _, labels = curves.by_network([done(**other)]).axes[0].get_legend_handles_labels()
  assert labels == ['ERK']


def test_a_scheme_has_one_name_in_either_recipe():
  for recipe in ('clean', 'authors'):
    fields = {'recipe': recipe, 'pruning.ratio': 'snip', 'pruning.select': 'snip'}
    assert runs.Run('done', '', synthetic.config_of(**fields), {}).scheme == 'snip/snip'


def test_figures_of_the_caller_are_left_alone(swept):
  import matplotlib.pyplot as plt

  own, backend = plt.figure(), plt.get_backend()
  assert next(figures.draw(reading.read([swept]))).svg
  assert plt.get_fignums() == [own.number] and plt.get_backend() == backend
  plt.close(own)


def test_seeds_are_paired_and_those_without_a_partner_left_out():
  sparse = [runs.Run('done', '', {'seed': s}, {'metrics': {'accuracy': 0.5}}) for s in (0, 1, 2)]
  dense = [runs.Run('done', '', {'seed': s}, {'metrics': {'accuracy': 0.6}}) for s in (1, 2, 3)]
  from random_pruning_jax.report.sizes import paired

  assert paired(sparse, dense, 'accuracy') == pytest.approx({1: -0.1, 2: -0.1})
  none_right = [runs.Run('done', '', {'seed': 1}, {'metrics': {'accuracy': 0.0}})]
  assert paired(none_right, none_right, 'accuracy') == {1: 0.0}


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


def test_attacks_that_no_argument_adds_or_takes_away_are_said_beside_the_command_to_repeat_a_run():
  config = synthetic.config_of()
  del config['evaluation.attacks.square.epsilons'], config['evaluation.attacks.square.queries']
  config['evaluation.attacks.pgd.norm'] = 'l2'
  assert repeat.command(runs.Run('done', '', config, a_row())).splitlines()[-1] == (
    "# no argument says this of its config: evaluation.attacks.pgd.norm='l2', "
    'no evaluation.attacks.square.epsilons, no evaluation.attacks.square.queries'
  )


def test_where_the_data_lay_is_said_beside_the_command_to_repeat_a_run():
  config = synthetic.config_of(**{'data_dir': '/data/tfds'})
  *_, again, said = repeat.command(runs.Run('done', '', config, a_row())).splitlines()
  assert again.endswith('--workdir=runs/again') and said.startswith('# its data lay in /data/tfds;')


def test_a_commit_with_changes_beside_it_is_checked_out_without_them(tmp_path):
  synthetic.write(tmp_path / '0', a_row() | {'commit': '0123abc+'})
  [run] = reading.read([tmp_path])
  assert repeat.command(run).splitlines()[0] == 'git checkout 0123abc'


def test_a_list_that_was_written_as_json_is_a_tuple_in_the_command_to_repeat_a_run(tmp_path):
  synthetic.write(tmp_path / '0', a_row(**{'evaluation.foreign': ('mnist',)}))
  [run] = reading.read([tmp_path])
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
    plan.check_plot('plan.png')


def test_everything_is_written(swept, tmp_path, capsys):
  assert main(['report', str(swept), f'--out={tmp_path}']) == 0
  names = {path.name for path in tmp_path.rglob('*')}
  assert {'report.html', 'runs.csv', 'table.csv', 'table.md', 'table.tex'} <= names
  for name in ('accuracy_by_depth', 'accuracy_by_ratio', 'gap_by_size', 'beyond_accuracy'):
    assert {f'{name}-cifar10.png', f'{name}-cifar10.svg'} <= names
  lines = (tmp_path / 'runs.csv').read_text().splitlines()
  assert len(lines) == 1 + len(reading.read([swept]))
