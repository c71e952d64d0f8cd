"""Which runs a report puts into one cell, and which it compares."""

import dataclasses
import itertools
import json
import pathlib
import re

import pytest
import synthetic
from synthetic import accuracies, done

pytest.importorskip('matplotlib')

from random_pruning_jax.config import flat, resolve, spellings
from random_pruning_jax.config.files import function_of
from random_pruning_jax.models import MODELS
from random_pruning_jax.ratios import RATIOS
from random_pruning_jax.report import (
  claims,
  curves,
  details,
  figures,
  formats,
  reading,
  runs,
  sizes,
  style,
  tables,
)
from random_pruning_jax.scores import SCORES


def test_what_a_config_chooses_of_pruning_has_a_scheme_of_its_own():
  schemes = [
    done(pruning__ratio='uniform').scheme,
    done(pruning__ratio='uniform', pruning__dense=('stem', 'head')).scheme,
    done(pruning__sampling='n_m', pruning__density=0.5, pruning__block=4).scheme,
    done(pruning__sampling='n_m', pruning__density=0.5, pruning__block=2).scheme,
    done(pruning__ratio='uniform_plus_authors').scheme,
    done(recipe='authors', pruning__ratio='uniform_plus').scheme,
    done(recipe='authors', pruning__sampling='exact').scheme,
    done(recipe='authors', pruning__ratio='snip', pruning__select='snip').scheme,
  ]
  assert schemes == [
    'uniform',
    'uniform, dense stem head',
    'erk, n_m of 4',
    'erk, n_m of 2',
    'uniform_plus_authors',
    'uniform_plus',
    'erk, exact',
    'snip/snip',
  ]
  assert len({style.look(scheme).label for scheme in schemes}) == len(schemes)


def test_a_seed_that_two_sweeps_trained_counts_once():
  copies = [done(seed=s, metrics={'accuracy': 0.5}, time='1') for s in (0, 1)]
  newer = [done(seed=s, metrics={'accuracy': 0.6}, time='2') for s in (0,)]
  failed = runs.Run('failed', '', copies[1].config, {})
  cell = tables.cell_of([*newer, failed, *copies], 'accuracy')
  assert sorted(cell.values) == [0.5, 0.6] and not cell.failed and not cell.missing


def test_a_network_and_a_data_set_are_one_however_they_are_spelled():
  one = done(model__name='resnet20', dataset='cifar10')
  for name, width, dataset in (('cifar_resnet20', 0, 'cifar10'), ('resnet20', 16, 'cifar10:3.0.2')):
    other = done(model__name=name, model__width=width, dataset=dataset)
    assert other.cell == one.cell and other.family == one.family
    assert 'Liu et al.' in next(figures.draw([other])).caption


@pytest.mark.parametrize('rows', ['name', 'width', 'model.name', 'model.width'])
def test_a_network_is_in_one_row_however_it_is_spelled(rows):
  networks = itertools.product(('resnet20', 'cifar_resnet20'), (0, 16))
  found = [done(seed=i, model__name=n, model__width=w) for i, (n, w) in enumerate(networks)]
  [table] = tables.pivot(found, rows, 'sparsity', 'accuracy')
  assert table.rows == ['resnet20' if 'name' in rows else 16]
  [cell] = table.cells.values()
  assert len(cell.values) == 4


def test_a_run_without_the_number_is_told_from_one_that_is_missing():
  cell = tables.cell_of([done(seed=0, metrics={'ece': None}), done(seed=1)], 'ece')
  assert (len(cell.values), cell.missing, cell.failed) == (1, 0, 0)
  assert formats.show(cell, 'ece').endswith('(n=1, 1 without)')
  missing = runs.Run('missing', '', done().config, {})
  assert formats.show(tables.cell_of([missing], 'ece'), 'ece') == '1 missing'


def test_a_setting_that_is_each_networks_own_is_named_and_parts_their_figures(only):
  only('gap_by_size')
  found = [done(pruning__density=d, seed=s) for d in (1.0, 0.1) for s in (0, 1)]
  found += [
    done(pruning__density=d, seed=s, model__name='resnet56', model__remat=True)
    for d in (1.0, 0.1)
    for s in (0, 1)
  ]

  def drawn(every):
    return [figure.name for figure in figures.draw(runs.with_settings(every))]

  assert drawn(found) == ['gap_by_size-cifar10']  # to compute again what is not kept is no setting
  longer = [
    dataclasses.replace(run, config=run.config | {'epochs': 200})
    for run in found
    if run.model == 'resnet56'
  ]
  assert not drawn([run for run in found if run.model != 'resnet56'] + longer)
  named = runs.with_settings([done(epochs=5), done(model__name='vgg16', epochs=7)])
  assert [run.setting for run in named] == ['epochs=5', 'epochs=7']


def test_how_often_is_validated_is_a_setting_and_what_is_logged_is_none():
  often = runs.with_settings([done(checkpoint__every_epochs=n) for n in (1, 5)])
  assert [run.setting for run in often] == [f'checkpoint.every_epochs={n}' for n in (1, 5)]
  logged = runs.with_settings([done(), done(gradient_flow_every=7, log_every=9)])
  assert [run.setting for run in logged] == ['', '']


def test_the_mean_over_foreign_sets_is_of_sets_alone():
  names = ('near', 'far', 'gaussian_noise', 'pixel_shuffled')
  found = {f'ood/{name}/msp/auroc': 1.0 for name in names}
  run = done(metrics=found | {'ood/svhn_cropped/msp/auroc': 0.9, 'ood/cifar100/msp/auroc': 0.8})
  assert run.metric('auroc') == (0.9 + 0.8) / 2


def test_two_runs_are_compared_on_the_sets_and_the_epsilon_that_both_have():
  more = {'ood/svhn_cropped/msp/auroc': 0.9, 'ood/cifar100/msp/auroc': 0.5}
  sparse = done(metrics=more | {'adversarial/fgsm/1/255': 0.7, 'adversarial/fgsm/8/255': 0.1})
  dense = done(pruning__density=1.0, metrics={'ood/svhn_cropped/msp/auroc': 0.9})
  dense.row['metrics']['ood/cifar100/msp/auroc'] = None
  dense.row['metrics'] |= {'adversarial/fgsm/1/255': 0.7, 'adversarial/fgsm/8/255': None}
  assert sizes.paired([sparse], [dense], 'auroc') == {0: 0.0}
  assert sizes.paired([sparse], [dense], 'fgsm') == {0: 0.0}


def test_a_setting_that_differs_in_one_data_set_is_named_in_no_other():
  imagenet = {'dataset': 'imagenet2012', 'model__name': 'wrn50_2'}
  found = runs.with_settings(
    [
      done(epochs=100, **imagenet),
      done(epochs=90, pruning__density=1.0, **imagenet),
      done(epochs=5, dataset='digits'),
      done(epochs=30, dataset='digits'),
    ]
  )
  assert [run.setting for run in found] == ['', '', 'epochs=5', 'epochs=30']


def test_a_look_beside_imagenets_two_schedules_parts_no_dense_network_from_its_sparse_ones():
  file = pathlib.Path(__file__).parents[1] / 'configs' / 'sweeps' / 'imagenet.py'
  get_sweep = function_of(file, 'get_sweep')
  full = [flat(resolve(config)) for config in get_sweep() if config.model.name == 'resnet18']
  both = full + [config | {'epochs': 20, 'schedule.milestones': [0.5]} for config in full]
  rows = [json.loads(json.dumps(synthetic.row_of(config))) for config in both]
  found = runs.with_settings([runs.Run('done', '', row['config'], row) for row in rows])
  assert {run.setting for run in found} == {
    "epochs=the paper's, schedule.milestones=the paper's",
    'epochs=20, schedule.milestones=[0.5]',
  }
  cells = claims.cells_of(found)
  assert len(cells) == 8 and all(cell.compared('accuracy').differences for cell in cells)


def test_imagenet_networks_of_one_schedule_are_compared_however_many_schedules_there_are():
  every = [
    done(
      dataset='imagenet2012',
      pruning__density=density,
      epochs=epochs,
      schedule__milestones=[0.3, 0.6, 0.9],
    )
    for density in (1.0, 0.2)
    for epochs in (100, 50)
  ]
  cells = claims.cells_of(runs.with_settings(every))
  assert len(cells) == 2 and all(cell.compared('accuracy').differences for cell in cells)


def means(runs_, rows, columns):
  """Mean accuracies of all cells of all tables."""
  found = tables.pivot(runs_, rows, columns, 'accuracy')
  return [round(cell.mean, 4) for table in found for cell in table.cells.values()]


@pytest.mark.parametrize(
  ('rows', 'columns'),
  [
    ('ratio', 'network'), ('depth', 'ratio'), ('ratio', 'sparsity'), ('depth', 'sparsity'),
    ('width', 'depth'), ('select', 'network'), ('name', 'density'), ('network', 'sparsity'),
    ('scheme', 'depth'), ('select', 'ratio'), ('width', 'scheme'), ('depth', 'network'),
  ],
)  # fmt: skip
def test_no_cell_of_any_table_holds_runs_that_differ_in_more_than_their_seed(rows, columns):
  kinds = [
    {'pruning__density': 1.0},
    {'pruning__density': 0.1},
    {'pruning__density': 0.2},
    {'pruning__density': 0.1, 'pruning__ratio': 'uniform'},
    {'pruning__density': 0.1, 'pruning__select': 'magnitude'},
    {'pruning__density': 0.5, 'pruning__sampling': 'n_m'},
  ]
  networks = [{}, {'model__width': 64}, {'model__name': 'resnet56'}, {'model__name': 'vgg16'}]
  every = []
  for number, (kind, network) in enumerate(itertools.product(kinds, networks)):
    for seed in (0, 1):  # seeds of one cell agree, so that a mean of others would show
      numbers = {'accuracy': 0.5 + number / 100}
      every.append(done(seed=seed, time=str(number), metrics=numbers, **kind, **network))
  # A dense network is in each table where it can be told from sparse ones.
  assert set(means(every, rows, columns)) == {round(0.5 + n / 100, 4) for n in range(24)}


def test_how_a_run_is_chosen_and_how_long_it_trains_are_never_averaged_or_compared():
  best = accuracies({}, (0.5, 0.6))
  latest = [
    dataclasses.replace(run, config=run.config | {'evaluation.checkpoint': 'latest'})
    for run in accuracies({}, (0.1, 0.2))
  ]
  longer = accuracies({'pruning__density': 1.0, 'epochs': 200}, (0.9, 0.9))
  found = runs.with_settings([*best, *latest, *longer])
  assert len({run.setting for run in found}) == 3
  assert not any(cell.compared('accuracy').differences for cell in claims.cells_of(found))


def test_a_run_that_could_not_begin_names_no_setting_and_no_scheme():
  unresolved = {'augment.flip': 'dataset', 'augment.pad': -1, 'pruning.sampling': 'recipe'}
  good = done()
  failed = runs.Run('failed', '', good.config | unresolved, {}, 'it was wrong')
  found = runs.with_settings([good, failed])
  assert [(run.setting, run.scheme) for run in found] == [('', 'erk')] * 2


def test_a_mean_over_foreign_sets_is_over_those_that_all_runs_of_a_cell_have():
  one, other = (done(seed=s, metrics={'ood/svhn_cropped/msp/auroc': 0.9}) for s in (0, 1))
  other.row['metrics'].pop('ood/cifar100/msp/auroc')
  assert tables.cell_of([one, other], 'auroc').values == (0.9, 0.9)


def test_a_report_of_runs_that_are_all_missing_has_its_tables():
  missing = runs.Run('missing', '', done().config, {})
  [table] = tables.pivot([missing], 'scheme', 'sparsity', 'accuracy')
  assert [formats.show(cell, 'accuracy') for cell in table.cells.values()] == ['1 missing']


def test_names_of_figures_that_are_too_long_stay_different():
  long = [figures._slug('accuracy' * 20 + end) for end in 'ab']
  assert len(set(long)) == 2 and all(len(name) == 120 for name in long)


def test_figures_count_a_seed_that_two_sweeps_trained_once(only, tmp_path):
  only('learning_curves', 'layer_density')

  def trained(name, accuracy, density, **fields):
    (tmp_path / name).mkdir()
    lines = [{'kind': 'validation', 'step': step, 'accuracy': accuracy} for step in (1, 2)]
    (tmp_path / name / 'train.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    run = done(place=str(tmp_path / name), **fields)
    run.row['layers'] = {f'{i}/kernel': {'density': density} for i in range(3)}
    return run

  def drawn(*found):
    return [figure.svg for figure in figures.draw(found)]

  old, new = trained('old', 0.5, 0.1, time='1'), trained('new', 0.6, 0.2, time='2')
  other = trained('other', 0.8, 0.3, seed=1)
  both = drawn(new, other)
  assert len(both) == 2 and drawn(old, new, other) == both != drawn(new)


def test_captions_count_the_seeds_that_are_drawn():
  found = [done(seed=s, model__name=n) for n in ('resnet20', 'resnet56') for s in (2, 3, 4)]
  found += [
    done(seed=s, model__name=n, pruning__density=1.0)
    for n in ('resnet20', 'resnet56')
    for s in (0, 1, 2)
  ]
  for run in found[1:]:
    if run.seed != 2:
      del run.row['metrics']['adversarial/fgsm/8/255'], run.row['metrics']['adversarial/fgsm/1/255']
  for run in found[:2]:
    run.row['reliability'] = {'count': [1], 'confidence': [0.5], 'accuracy': [0.5]}
  captions = {figure.name.partition('-')[0]: figure.caption for figure in figures.draw(found)}
  said = {name: re.search(r'n = [^.;]*', caption)[0] for name, caption in captions.items()}
  assert said['accuracy_by_depth'] == said['accuracy_by_flops'] == said['layer_density'] == 'n = 3'
  assert said['gap_by_size'] == 'n = 1'
  assert said['beyond_accuracy'] == 'n = 1 to 3 (unequal)'
  assert said['reliability'] == 'n = 2'


def test_a_field_that_is_a_list_may_be_an_axis():
  found = [done(), done(pruning__dense=('stem', 'head'))]
  pivots = tables.pivot(found, 'pruning.dense', 'schedule.milestones', 'accuracy')
  places = [place for table in pivots for place in table.cells]
  assert places == [('none', '0.5, 0.75'), ('stem, head', '0.5, 0.75')]


@pytest.mark.parametrize('rows', ['optimizer.lr', 'lr'])
def test_a_field_along_an_axis_parts_no_tables(rows):
  found = runs.with_settings([done(optimizer__lr=lr, seed=s) for lr in (0.1, 0.2) for s in (0, 1)])
  [table] = tables.pivot(found, rows, 'sparsity', 'accuracy')
  assert table.rows == [0.1, 0.2] and all(len(cell.values) == 2 for cell in table.cells.values())
  assert len(tables.pivot(found, 'scheme', 'sparsity', 'accuracy')) == 2


def bars(container):
  """Numbers along the bottom, means and half the lengths of their bars, as they are drawn."""
  line, _, [lengths] = container
  return *line.get_data(), [(top - low) / 2 for (_, low), (_, top) in lengths.get_segments()]


def test_a_gap_is_what_the_dense_network_has_more_in_points_seed_by_seed():
  found = []
  for name in ('resnet20', 'resnet56'):
    found += accuracies({'model__name': name, 'pruning__density': 1.0}, (0.90, 0.80))
    found += accuracies({'model__name': name}, (0.88, 0.74))
  [container] = sizes.gap(found).axes[0].containers
  _, means, deviations = bars(container)
  assert means == pytest.approx([4, 4]) and deviations == pytest.approx([8**0.5] * 2)


def test_a_curve_of_gaps_goes_from_the_smallest_network_to_the_largest():
  found = []
  for name, width in (('resnet20', 16), ('resnet20', 64), ('resnet56', 16)):
    for density in (1.0, 0.1):
      of = {'model__name': name, 'model__width': width, 'pruning__density': density}
      found += accuracies(of, (0.9,))
  sizes_drawn = bars(sizes.gap(found).axes[0].containers[0])[0]
  assert list(sizes_drawn) == sorted(sizes_drawn) and len(sizes_drawn) == 3


def test_networks_are_ordered_by_width_and_0_is_the_familys_own():
  found = sorted((done(model__width=width) for width in (24, 0, 8)), key=reading.order)
  assert [run.width for run in found] == [8, 0, 24]


def test_of_layers_a_caption_counts_the_panels_that_are_drawn(only):
  only('layer_density')
  densities = (0.5, 0.4, 0.3, 0.2, 0.1)  # the first, the last and the one between
  found = [done(seed=0, pruning__density=density) for density in densities]
  found += [done(seed=1, pruning__density=density) for density in (0.5, 0.3, 0.1)]
  [figure] = figures.draw(found)
  assert 'n = 2.' in figure.caption


def test_every_network_has_a_title_of_its_own():
  depths = [f'cifar_resnet{6 * n + 2}' for n in range(1, 40)]
  found = {spellings.network(name, 0)[0] for name in [*MODELS, *depths]}
  assert len({style.network_title(name) for name in found}) == len(found)
  assert style.network_title('cifar_resnet8-w4') == 'ResNet-8, width 4'


def test_every_ratio_looks_different_under_every_score():
  of = itertools.product([*RATIOS, *SCORES], SCORES)
  schemes = {ratio if score == 'random' else f'{ratio}/{score}' for ratio, score in of}
  found = [style.look(scheme) for scheme in schemes - {'random'} if 'random/' not in scheme]
  assert len({(look.colour, look.marker) for look in found}) == len(found)


def test_ratios_that_are_sampled_in_other_ways_look_different():
  ratios = ('uniform', 'er', 'erk', 'snip', 'erk/synflow', 'snip/magnitude')
  ways = ('', ', fan_in', ', bernoulli', ', n_m of 2', ', n_m of 4', ', n_m of 8', ', dense stem')
  looks = [style.look(ratio + way) for ratio in ratios for way in ways]
  assert len({(look.colour, look.marker) for look in looks}) == len(looks)


def test_the_ring_is_around_the_dense_network_wherever_it_is_among_the_runs():
  found = [done(pruning__density=density) for density in (0.1, 1.0, 0.5)]
  [panel] = sizes.against(found, 'kept').axes
  [ring] = [line for line in panel.lines if len(line.get_xdata()) == 1]
  assert list(ring.get_xdata()) == [found[1].row['kept']]


@pytest.mark.parametrize('densities', [(0.1, 0.5), (0.1, 0.5, 1.0)])
def test_what_marks_the_dense_network_is_said_where_there_is_one(densities, only):
  only('accuracy_by_ratio', 'accuracy_by_parameters')
  found = [done(pruning__density=density) for density in densities]
  said = [figure.caption for figure in figures.draw(found)]
  _, labels = curves.by_scheme(found).axes[0].get_legend_handles_labels()
  assert ['dense' in text for text in (*said, labels)] == [1.0 in densities] * 3


def test_accuracies_and_their_deviations_are_drawn_in_percent():
  found = accuracies({}, (0.88, 0.92)) + accuracies({'pruning__density': 1.0}, (0.90, 0.96))
  [panel] = curves.by_network(found).axes
  _, means, deviations = bars(panel.containers[0])
  assert means == pytest.approx([90]) and deviations == pytest.approx([8**0.5])
  [band] = panel.patches
  assert band.get_y() + band.get_height() / 2 == pytest.approx(93)
  assert band.get_height() == pytest.approx(2 * 18**0.5)
  _, paper, uncertain = bars(panel.containers[1])
  assert paper == pytest.approx([87.78]) and uncertain == pytest.approx([0.02])
  [dense] = [
    line for line in panel.lines if line.get_linestyle() == ':' and line.get_marker() == 'None'
  ]
  assert list(dense.get_ydata()) == pytest.approx([92.37] * 2)
  [panel] = curves.by_scheme(found).axes
  dashed = [list(line.get_ydata()) for line in panel.lines if line.get_linestyle() == '--']
  assert dashed[0] == pytest.approx([93, 93])
  assert [patch.get_height() for patch in panel.patches] == pytest.approx([2 * 18**0.5])
  [panel] = sizes.against(found, 'kept').axes
  _, means, deviations = bars(panel.containers[0])
  assert means == pytest.approx([90, 93]) and deviations == pytest.approx([8**0.5, 18**0.5])


def test_the_size_of_a_point_is_the_mean_over_seeds():
  found = accuracies({}, (0.9, 0.9))
  for run, kept in zip(found, (100, 300), strict=True):
    run.row['kept'] = kept
  assert list(bars(sizes.against(found, 'kept').axes[0].containers[0])[0]) == [200]


def test_learning_is_validation_accuracy_in_percent(tmp_path):
  kinds = (('validation', 1), ('train', 1), ('validation', 2))
  lines = [{'kind': kind, 'step': step, 'accuracy': step / 2} for kind, step in kinds]
  (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  [line] = details.learning([done(place=str(tmp_path))]).axes[0].lines
  assert [list(numbers) for numbers in line.get_data()] == [[1, 2], [50, 100]]
  (tmp_path / 'train.jsonl').write_text(json.dumps(lines[0]))
  assert details.learning([done(place=str(tmp_path))]) is None  # one point is no curve


def test_reliability_is_of_all_images_of_all_seeds_at_the_highest_sparsity():
  found = []
  for seed, density, count, accuracy in ((0, 0.1, 1, 0.0), (1, 0.1, 3, 0.8), (0, 0.5, 9, 1.0)):
    found.append(done(seed=seed, pruning__density=density))
    bins = {'count': [count, 0], 'confidence': [accuracy / 2, None], 'accuracy': [accuracy, None]}
    found[-1].row['reliability'] = bins
  [panel] = details.reliability(found).axes
  [line] = [line for line in panel.lines if 'sparsity' in str(line.get_label())]
  assert line.get_label().endswith('sparsity 0.9')
  assert list(line.get_xdata()) == pytest.approx([0.3])
  assert list(line.get_ydata()) == pytest.approx([0.6])


def test_gradient_norms_are_means_at_the_steps_that_all_seeds_have():
  found = [done(seed=0), done(seed=1)]
  found[0].row['gradient'] = {'step': [10, 20, 30], 'gradient_norm': [1.0, 2.0, 3.0]}
  found[1].row['gradient'] = {'step': [20, 30, 40], 'gradient_norm': [4.0, 5.0, 8.0]}
  [line] = details.gradient_norm(found).axes[0].lines
  assert [list(numbers) for numbers in line.get_data()] == [[20, 30], [3, 4]]


@pytest.mark.parametrize('across', [1, 4])
@pytest.mark.parametrize('names', [style.LOOKS, ['uniform', 'erk', 'snip'], ['n_m of 4' * 4, 'er']])
def test_a_legend_lies_wholly_in_its_figure_and_leaves_panels_their_height(across, names):
  with style.paper_style(''):
    figure, axes = style.panels(across)
    for name in names:
      axes[0].plot([0, 1], label=f'{style.look(name).label}, sparsity 0.95')
    style.legend_below(figure, axes)
    figure.draw_without_rendering()
  [legend] = figure.legends
  box, whole = legend.get_window_extent(), figure.bbox
  assert box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0
  assert axes[0].bbox.height > 1.5 * figure.dpi


def test_no_panel_of_layers_is_empty_where_networks_have_other_sparsities():
  found = [done(pruning__density=d) for d in (0.2, 0.05)]
  found += [done(model__name='resnet56', pruning__density=d) for d in (0.5, 0.1, 0.01)]
  panels = details.layers(found).axes
  assert len(panels) == 5 and all(panel.lines for panel in panels)


def test_a_marker_beyond_99_percent_is_not_cut_off_by_the_axis():
  found = [done(pruning__density=density) for density in (0.1, 0.001)]
  [panel] = curves.by_network(found).axes
  assert panel.get_xlim()[1] > 1
