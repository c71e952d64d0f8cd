"""Every config runs from its first line to its row, shrunk to seconds by --config.smoke=true."""

import pathlib

import jax
import pytest

from random_pruning_jax import config as config_lib
from random_pruning_jax import cost, main, optimizers, results, run
from random_pruning_jax.commands import sweep as command
from random_pruning_jax.config import files as config_files
from random_pruning_jax.data import crops
from random_pruning_jax.experiment import build, check_budget
from random_pruning_jax.sweep import agenda, estimate

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
FILES = sorted(CONFIGS.glob('*.py'))
NETWORKS = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'wrn50_2')
SAME = {'resnet34': 'resnet18', 'resnet101': 'resnet50'}  # deeper, and the same in smoke mode


def load(path, *arguments, smoke=True):
  config = config_files.function_of(path, 'get_config')(*arguments)
  return config_files.override(config, ['--config.smoke=true'] if smoke else [])


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_config_trains_and_is_measured_in_smoke_mode(path, tmp_path):
  rows = run.run(load(path), tmp_path, show=False)
  for row in rows:
    assert row['config']['smoke'] and row['config']['dataset'] == 'digits'
    assert 0 <= row['metrics']['accuracy'] <= 1
  assert len(results.read([tmp_path])) == len(rows)


@pytest.mark.parametrize(
  'changes',
  [
    {'evaluation.validation_foreign': 'natural_patches'},
    {'evaluation.validation_foreign': 'digits'},
    {'dataset': 'a_folder', 'image_size': 32, 'resize': 40},
    {'schedule.milestones': (0.1, 0.3, 0.5, 0.7, 0.9), 'schedule.warmup_epochs': 5.0},
  ],
)
def test_what_suits_the_images_of_a_config_is_fitted_to_the_digits(changes):
  config = config_files.changed(load(CONFIGS / 'cifar.py'), changes)
  assert config_lib.resolve(config).dataset == 'digits'


@pytest.mark.parametrize('row', ['resnet18,erk,1.0', 'wrn50_2,erk,1.0'])
def test_a_row_of_the_paper_on_imagenet_takes_its_smoke_run(row, tmp_path):
  """Either kind of block, in threads and without attacks, which are in the run above."""
  config = load(CONFIGS / 'imagenet.py', row)
  config.data_workers, config.evaluation.suites = 0, ('calibration',)
  (found,) = run.run(config, tmp_path, show=False)
  assert found['density'] == pytest.approx(float(row.split(',')[-1]), abs=0.01)
  assert 0 <= found['metrics']['accuracy'] <= 1


def fields_of(row):
  return config_lib.flat(config_lib.resolve(load(CONFIGS / 'imagenet.py', row)))


@pytest.mark.parametrize('density', ['1.0', '0.2'])
@pytest.mark.parametrize('name', SAME)
def test_a_row_of_a_deeper_network_takes_the_smoke_run_of_a_shallower_one(name, density):
  assert fields_of(f'{name},erk,{density}') == fields_of(f'{SAME[name]},erk,{density}')


@pytest.mark.parametrize('name', NETWORKS)
def test_a_dense_row_takes_the_smoke_run_of_the_sparse_one_but_for_its_density(name):
  dense, sparse = (fields_of(f'{name},erk,{density}') for density in ('1.0', '0.2'))
  assert {field for field in dense if dense[field] != sparse[field]} == {'pruning.density'}


@pytest.mark.parametrize('density', ['1.0', '0.2'])
@pytest.mark.parametrize('name', NETWORKS)
def test_every_row_of_the_paper_on_imagenet_is_a_config(name, density):
  config = load(CONFIGS / 'imagenet.py', f'{name},erk,{density}')
  experiment = build(config)
  assert (experiment.config.data_loading, experiment.config.augment.mode) == ('streamed', 'resized')
  assert cost.macs(experiment.structure.layers) < 1e7
  bottlenecks = any('conv3' in layer for layer in experiment.structure.shapes)
  assert bottlenecks == (name not in ('resnet18', 'resnet34'))
  whole = load(CONFIGS / 'imagenet.py', f'{name},erk,{density}', smoke=False)
  assert whole.epochs == (90 if density == '1.0' else 100)
  schedule = optimizers.schedule(whole, 10)
  drops = (30, 60, 80) if density == '1.0' else (30, 60, 90)
  for power, epoch in enumerate(drops):
    assert float(schedule(10 * epoch - 1)) == pytest.approx(0.4 * 0.1**power)
    assert float(schedule(10 * epoch)) == pytest.approx(0.4 * 0.1 ** (power + 1))


def test_smoking_a_config_twice_changes_no_more():
  once = config_lib.resolve(load(CONFIGS / 'imagenet.py'))
  assert config_lib.flat(config_lib.resolve(once)) == config_lib.flat(once)


@pytest.mark.parametrize('path', sorted((CONFIGS / 'sweeps').glob('*.py')), ids=lambda p: p.stem)
def test_every_sweep_is_planned_in_smoke_mode_and_spends_its_budgets(path):
  jobs, experiments = agenda.make(command.load_sweep(str(path), ['--config.smoke=true']))
  assert {cost.infeasible for cost in estimate.costs(jobs, experiments)} == {''}


@pytest.mark.parametrize(
  ('file', 'argument', 'changes'),
  [
    (
      'imagenet',
      'resnet50,uniform,0.25',
      {'pruning.sampling': 'n_m', 'pruning.dense': ('stem',)},
    ),
    ('imagenet', 'resnet50,erk,0.2', {'pruning.dense': ('stage4_block2/conv1', 'stem')}),
    ('imagenet', 'resnet50,erk_plus,0.05', {'pruning.dense': ('stem',)}),
    ('cifar', 'vgg16,erk,0.2', {'pruning.dense': ('conv12', 'conv8/kernel')}),
    ('cifar', 'resnet20,erk_plus,0.05', {}),
    ('cifar', 'resnet20,uniform_plus,0.02', {}),
    ('cifar', 'resnet20,erk,0.0005', {}),
    ('cifar', 'resnet20,erk,0.1', {'batch_size': 33, 'optimizer.accumulate': 3}),
  ],
)
def test_what_a_full_network_can_do_its_smoke_run_can(file, argument, changes):
  fields = {'dataset': 'digits', 'image_size': 32, **changes}  # data that are on every machine
  for smoke in (False, True):
    full = load(CONFIGS / f'{file}.py', argument, smoke=False)
    config = config_files.changed(full, fields | {'smoke': smoke})
    check_budget(build(config, tuple(jax.devices()[:1])))


@pytest.mark.parametrize(
  ('ratio', 'asked', 'trained'),
  [('erk_plus', 0.05, 0.08), ('erk_plus', 0.1, 0.1), ('uniform_plus', 0.05, 0.05)],
)
def test_only_a_density_that_the_small_network_cannot_meet_is_raised(ratio, asked, trained):
  config = load(CONFIGS / 'cifar.py', f'resnet20,{ratio},{asked}')
  assert config_lib.resolve(config).pruning.density == trained


def test_the_input_of_a_smoke_config_is_measured(capsys):
  config = f'--config={CONFIGS / "imagenet.py"}'
  arguments = ['--config.smoke=true', '--config.data_workers=0', '--images=8']
  assert main.main(['benchmark-input', config, *arguments]) == 0
  head, _, *rows = capsys.readouterr().out.splitlines()
  assert 'images/s' in head and len(rows) == len(crops.DECODERS) + 1
  *decoders, whole = rows
  assert whole.startswith('batches of 64, threads')
  for row in [*decoders, whole]:
    assert 'not installed' in row or float(row.split()[-2].replace(',', '')) > 0
