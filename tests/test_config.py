"""Configs say what they mean, and what is wrong with them in one line."""

import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict
from tiny import tiny_config

from random_pruning_jax import attacks, models, pruning, scores, suites
from random_pruning_jax import config as config_lib
from random_pruning_jax.commands import arguments
from random_pruning_jax.config import checks, names
from random_pruning_jax.config import files as config_files
from random_pruning_jax.experiment import build

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / 'configs').glob('*.py'))


def load(*overrides, file='configs/digits.py'):
  root = pathlib.Path(__file__).parents[1]
  return arguments.load_config(str(root / file), overrides)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_the_fields_of_the_default_and_no_other(path):
  config = config_lib.flat(load(file=f'configs/{path.name}'))
  assert config.keys() == config_lib.flat(config_lib.default()).keys()


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_config_names_its_command(path):
  assert f'--config=configs/{path.name}' in path.read_text()


def test_a_config_file_takes_an_argument_and_overrides():
  config = load('--config.pruning.density=0.2', '--config.seed=3', file='configs/cifar.py')
  assert (config.pruning.density, config.seed, config.model.name) == (0.2, 3, 'resnet20')
  config = load(file='configs/cifar.py:resnet32,uniform,0.5,cifar100')
  assert (config.model.name, config.pruning.ratio, config.dataset) == (
    'resnet32',
    'uniform',
    'cifar100',
  )


@pytest.mark.parametrize(
  ('file', 'message'),
  [
    ('cifar.py:resnet20,erk,x', r"DENSITY must be a number in \(0, 1\], got 'x'"),
    ('imagenet.py:wrn50_2,erk,', r"DENSITY must be a number in \(0, 1\], got ''"),
    ('imagenet.py:wrn50_2,erk,0.2,1e3', r"BATCH must be a whole number of at least 1, got '1e3'"),
    ('imagenet.py:wrn50_2,erk,0.2,0', r"BATCH must be a whole number of at least 1, got '0'"),
    ('sweeps/imagenet.py:erk,-1', r"SEEDS must be a whole number of at least 1, got '-1'"),
    ('sweeps/imagenet.py:erk,x', r"SEEDS must be a whole number of at least 1, got 'x'"),
  ],
)
def test_a_part_of_an_argument_that_is_no_number_is_named_with_what_was_wanted(file, message):
  path, _, argument = file.partition(':')
  path = pathlib.Path(__file__).parents[1] / 'configs' / path
  name = 'get_sweep' if path.parent.name == 'sweeps' else 'get_config'
  with pytest.raises(ValueError, match=rf'{path}, line \d+: {message}'):
    config_files.made_by(config_files.function_of(path, name), str(path), argument)


def test_another_batch_on_imagenet_scales_the_learning_rate():
  config = load(file='configs/imagenet.py:wrn50_2,erk,0.2,4096')
  assert (config.batch_size, config.optimizer.lr) == (4096, pytest.approx(0.4 * 4096 / 768))
  usual = load(file='configs/imagenet.py:wrn50_2,erk,0.2')
  assert (usual.batch_size, usual.optimizer.lr) == (192 * 4, pytest.approx(0.4))


def test_the_default_is_the_papers_setting():
  config = config_lib.default()
  assert (config.dataset, config.model.name, config.pruning.ratio) == ('cifar10', 'resnet20', 'erk')
  assert (config.epochs, config.batch_size, config.optimizer.lr) == (160, 128, 0.1)
  assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 5e-4)
  assert (config.schedule.milestones, config.schedule.factor) == ((0.5, 0.75), 0.1)


def test_recipes_are_resolved_to_what_they_stand_for():
  clean = config_lib.resolve(config_lib.default())
  assert (clean.pruning.sampling, clean.optimizer.decay) == ('exact', 'kernels')
  assert (clean.augment.mode, clean.augment.pad, clean.augment.flip) == ('reflect', 4, 'yes')
  config = config_lib.default()
  config.recipe = 'authors'
  config.pruning.ratio = 'uniform_plus'
  authors = config_lib.resolve(config)
  assert (authors.pruning.sampling, authors.optimizer.decay) == ('bernoulli', 'all')
  assert authors.pruning.ratio == 'uniform_plus_authors'
  assert config_lib.resolve(authors) == authors


@pytest.mark.parametrize('score', ['snip', 'grasp'])
def test_scores_are_those_of_the_recipe_and_what_they_select_is_never_drawn(score):
  for recipe, name in (('clean', score), ('authors', f'{score}_authors')):
    config = config_lib.default()
    config.recipe, config.pruning.ratio, config.pruning.select = recipe, score, score
    found = config_lib.resolve(config).pruning
    assert (found.ratio, found.select, found.sampling) == (name, name, 'exact')


@pytest.mark.parametrize(
  ('dataset', 'expected'),
  [('cifar100', ('zeros', 4, 'yes')), ('digits', ('none', 0, 'no')), ('dtd', ('none', 0, 'no'))],
)
def test_a_data_set_is_augmented_as_is_usual_for_it_and_one_that_is_unknown_not_at_all(
  dataset, expected
):
  config = config_lib.default()
  config.dataset = dataset
  augment = config_lib.resolve(config).augment
  assert (augment.mode, augment.pad, augment.flip) == expected


def test_a_version_of_a_data_set_is_augmented_as_the_data_set_is():
  config = config_lib.default()
  usual = config_lib.resolve(config).augment
  config.dataset = 'cifar10:3.0.2'
  assert config_lib.resolve(config).augment == usual


@pytest.mark.parametrize('change', [{'augment__mode': 'none'}, {'augment__pad': 0}])
def test_a_padding_that_a_data_set_brings_need_not_be_used(change):
  config = config_lib.resolve(tiny_config(dataset='cifar10', **change))
  assert config_lib.resolve(config) == config
  config_lib.resolve(tiny_config(dataset='cifar10', smoke=True, augment__pad=2))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': -1}, r'seed must lie in \[0, 4294967296\), got -1'),
    ({'seed': 2**32}, r'seed must lie in \[0, 4294967296\), got 4294967296'),
    ({'pruning__density': 1.5}, r'pruning.density must lie in \(0, 1\], got 1.5'),
    ({'pruning__density': 0.0}, r'pruning.density must lie in \(0, 1\], got 0.0'),
    ({'pruning__ratio': 'erkk'}, r"pruning.ratio must be one of .*erk.*; got 'erkk'"),
    ({'pruning__select': 'chance'}, r"pruning.select must be one of .*random.*; got 'chance'"),
    ({'pruning__sampling': 'some'}, r"pruning.sampling must be one of .*exact.*; got 'some'"),
    ({'model__name': 'resnet21'}, r"model.name must be one of .*resnet20.*; got 'resnet21'"),
    ({'model__name': 'cifar_resnet21'}, r'must be 6n \+ 2'),
    ({'evaluation__suites': ('oood',)}, r"evaluation.suites must be one of .*ood.*; got 'oood'"),
    ({'dataset': 'cifar11'}, r"unknown data set 'cifar11'; did you mean cifar10"),
    ({'recipe': 'messy'}, r"recipe must be one of authors, clean; got 'messy'"),
    ({'batch_size': 122}, r'multiple of the number of devices, 4; got 122'),
    ({'schedule__name': 'steps'}, r'schedule.name must be one of'),
    ({'optimizer__momentum': 1.0}, r'optimizer.momentum must lie in \[0, 1\), got 1.0'),
    ({'optimizer__lr': float('nan')}, r'optimizer.lr must lie in \[0, inf\), got nan'),
    ({'optimizer__lr': float('inf')}, r'optimizer.lr must lie in \[0, inf\), got inf'),
    ({'optimizer__weight_decay': float('inf')}, r'weight_decay must lie in \[0, inf\), got inf'),
    ({'schedule__factor': float('inf')}, r'schedule.factor must lie in \[0, inf\), got inf'),
    ({'schedule__warmup_epochs': 2.0}, r'schedule.warmup_epochs must be less than epochs \(2\)'),
    ({'schedule__milestones': (80, 120)}, r'schedule.milestones must lie in \[0, 1\].* got 80'),
    (
      {'schedule__milestones': (0.4,), 'schedule__warmup_epochs': 1.0},
      r'schedule.milestones must not come before the end of warm-up, 1 epochs; got 0.4 of 2',
    ),
    (
      {'pruning__densty': 0.1},
      r'unknown field config.pruning.densty; config.pruning has: block',
    ),
    ({'epoch': 7}, r'unknown field config.epoch; config has: .*epochs'),
    ({'epochs': 0}, r'epochs must lie in \[1, inf\), got 0'),
    ({'resize': 10}, r'resize must be 0 for a data set whose images have one size, .* got 10'),
    ({'augment__mode': 'wrap'}, r'augment.mode must be one of'),
    ({'augment__area': (0.0, 1.0)}, r'augment.area must rise within \(0, 1.0\], got 0.0, 1.0'),
    ({'augment__aspect': (2.0, 1.0)}, r'augment.aspect must rise within \(0, inf\), got 2.0'),
    ({'augment__aspect': (2.0, float('inf'))}, r'within \(0, inf\), got 2.0, inf'),
    ({'evaluation__severities': (0,)}, r'severities must be whole numbers from 1 to 5, got 0'),
    ({'evaluation__severities': (True,)}, r'severities must be .* from 1 to 5, got True'),
    ({'augment__mode': 'reflect'}, r"augment.mode 'reflect' needs augment.pad of at least 1"),
    ({'augment__pad': 2}, r"augment.pad 2 needs augment.mode .*, got 'none'"),
    ({'evaluation__epsilons': ('8/255',)}, r"evaluation.epsilons must hold numbers, got '8/255'"),
    ({'evaluation__epsilons': (2.0,)}, r'evaluation.epsilons must lie in \[0, 1\]'),
    (
      {'evaluation__attacks__pgd_l2__epsilons': (-0.5,)},
      r'attacks.pgd_l2.epsilons must lie in \[0, inf\) \(pixels\), got -0.5',
    ),
    ({'evaluation__attacks__pgd_l2__epsilons': (float('inf'),)}, r'in \[0, inf\) .*, got inf'),
    ({'evaluation__attacks__pgd_l2__epsilons': ('1/2',)}, r"must hold numbers, got '1/2'"),
  ],
)
def test_a_wrong_value_is_refused_with_what_was_wanted_and_got(changes, message):
  with pytest.raises(ValueError, match=message):
    build(tiny_config(**changes))


def test_a_milestone_at_the_end_of_warm_up_is_none_before_it():
  config = tiny_config(epochs=100, schedule__warmup_epochs=29.0, schedule__milestones=(0.29,))
  assert config_lib.resolve(config).schedule.milestones == (0.29,)


def test_the_norm_of_an_attack_is_as_its_settings_say_or_its_name():
  wanted = {'pgd': 'linf', 'pgd_l2': 'l2', 'fgsm': 'linf'}
  assert {name: checks.norm_of(name, ConfigDict()) for name in wanted} == wanted
  assert checks.norm_of('pgd', ConfigDict({'norm': 'l2'})) == 'l2'


@pytest.mark.parametrize(
  ('file', 'module', 'table'),
  [
    ('scores.py', scores, 'SCORES'),
    ('pruning.py', pruning, 'SAMPLINGS'),
    ('models/__init__.py', models, 'MODELS'),
    ('suites/__init__.py', suites, 'SUITES'),
    ('attacks/__init__.py', attacks, 'ATTACKS'),
  ],
)
def test_names_read_from_the_source_are_those_of_the_table(file, module, table):
  assert names.keys(file, table) == tuple(getattr(module, table))


def test_a_wrong_name_is_refused_before_jax_is_imported():
  script = """
import sys
from random_pruning_jax.commands import arguments
try:
  arguments.load_config('configs/digits.py', ['--config.pruning.ratio=erkk'])
except ValueError as error:
  assert "got 'erkk'" in str(error)
  assert 'jax' not in sys.modules
else:
  raise AssertionError('erkk is no ratio')
"""
  subprocess.run([sys.executable, '-c', script], check=True, cwd=pathlib.Path(__file__).parents[1])


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('--config.prunning.density=0.1', r'unknown field config.prunning.density; config has: .*pru'),
    ('--config.pruning.densty=0.1', r'unknown field .*; config.pruning has: .*density'),
    ('--config.seed=1.5', r"config\.seed must be of type int, got '1\.5'"),
    ('--config.pruning.density=abc', r"config\.pruning\.density must be of type float, got 'abc'"),
    ('--config.evaluation.foreign=(1,', r"evaluation\.foreign must be of type tuple, got '\(1,'"),
    ('--density=0.1', r'unknown argument --density=0.1; overrides look like'),
  ],
)
def test_a_wrong_override_is_refused_with_the_fields_there_are(override, message):
  with pytest.raises(ValueError, match=message):
    load(override)


def test_a_field_that_a_sweep_would_change_must_be_there():
  with pytest.raises(ValueError, match=r'unknown field config.optimizr.lr; config has: augment'):
    config_files.changed(tiny_config(), {'optimizr.lr': 0.1})


def test_a_config_file_that_is_not_there_is_named():
  with pytest.raises(ValueError, match=r'no configs/none.py'):
    arguments.load_config('configs/none.py', [])


def test_a_config_file_that_takes_no_argument_or_returns_nothing_is_named(tmp_path):
  file = tmp_path / 'config.py'
  for code, argument, message in (
    ('return 1', 'x', "takes no argument, got 'x'"),
    ('pass', '', r'get_config\(\) of .* must return something'),
  ):
    file.write_text(f'def get_config():\n  {code}\n')
    get_config = config_files.function_of(file, 'get_config')
    with pytest.raises(ValueError, match=message):
      config_files.made_by(get_config, str(file), argument)
  with pytest.raises(ValueError, match='needs one'):
    config_files.made_by(lambda argument: argument, 'a file', '')


def test_differences_name_the_fields_that_results_depend_on():
  one, other = config_lib.flat(tiny_config()), config_lib.flat(tiny_config(seed=1, data_dir='x'))
  assert config_lib.differences(one, other) == {'seed': (0, 1)}
  names = [
    name for name in config_lib.flat(config_lib.default()) if not name.startswith('evaluation.')
  ]
  free = [name for name in names if not config_lib.is_compared(name)]
  assert free == ['data_dir', 'data_workers', 'dense_twin', 'steps_per_call']
