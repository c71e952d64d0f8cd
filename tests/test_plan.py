"""The plan says what masks will keep, from shapes alone."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from tiny import tinier_config, tiny_config

from random_pruning_jax import config as config_lib
from random_pruning_jax import data, main, masks, models, plan
from random_pruning_jax.experiment import (
  build,
  initial_masks,
  initial_variables,
  score_batches,
)
from random_pruning_jax.experiment import keys as keys_of

ROOT = pathlib.Path(__file__).parents[1]
CIFAR = f'--config={ROOT}/configs/cifar.py:resnet20,erk,0.1'


def planned(config):
  [found], _ = plan.plans(config, [config.pruning.ratio], [config.pruning.density])
  return found


def printed(capsys, *arguments):
  assert main.main(['plan', *arguments]) == 0
  return capsys.readouterr().out


@pytest.mark.parametrize('network', [*models.MODELS, 'cifar_resnet14'])
def test_every_network_has_a_plan_on_budget(network):
  depths = (18, 26, 34, 50, 101, 152)
  large = 'wrn' in network or network in [f'resnet{depth}' for depth in depths]
  config = config_lib.default()
  config.dataset = 'imagenet2012' if large else 'cifar10'
  config.model.name = network
  found = planned(config)
  total = found.totals
  assert total['density'] == pytest.approx(0.1, abs=1e-4)
  assert total['sparsity'] == 1 - total['density']
  assert sum(layer.kept for layer in found.layers) == total['kept']
  assert total['dense_parameters'] - total['prunable'] == total['parameters'] - total['kept']
  assert total['dense_bytes'] - total['bytes'] == 4 * (total['prunable'] - total['kept'])


def test_the_plan_is_of_the_network_that_trains_in_smoke_mode_too():
  config = config_lib.default()
  config.smoke = True
  assert [layer.shape for layer in planned(config).layers] == [
    layer.shape for layer in build(config).structure.layers
  ]


def test_resnet20_has_the_published_numbers():
  config = config_lib.default()
  total = planned(config).totals
  assert (total['dense_parameters'], total['prunable']) == (272_474, 270_896)
  assert (
    f'{total["dense_macs"] / 1e6:.2f} {total["macs"] / total["dense_macs"]:.3f}' == '40.81 0.177'
  )


@pytest.mark.parametrize(
  'changes',
  [
    {'ratio': 'erk'},
    {'ratio': 'synflow'},
    {'ratio': 'snip', 'select': 'magnitude'},
    {'sampling': 'fan_in', 'dense': ('stem',)},
    {'ratio': 'uniform', 'sampling': 'n_m', 'density': 0.5, 'dense': ('stem', 'head'), 'block': 2},
  ],
)
def test_the_masks_keep_what_the_plan_says(changes):
  config = tiny_config(seed=3, **{f'pruning__{name}': value for name, value in changes.items()})
  experiment = build(config)
  images = data.load('digits', 'train')
  variables = initial_variables(experiment.model, keys_of(3).init, experiment.spec.shape)
  drawn = initial_masks(experiment, variables, score_batches(experiment, images))
  kept = masks.count(drawn)
  for layer in planned(config).layers:
    assert layer.kept == kept[layer.name]
  if config.pruning.select == 'magnitude':
    size, mask = abs(variables['params']['head']['kernel']), drawn['head']['kernel']
    assert size[mask].min() > size[~mask].max(initial=0)


def test_a_table_has_every_layer_and_the_totals(capsys):
  lines = printed(capsys, CIFAR, '--config.pruning.density=0.2').splitlines()
  assert lines[0] == 'resnet20, ratio erk, density 0.2, exact sampling'
  assert sum('stage' in line for line in lines) == 20
  assert any(
    line.split()[:4] == ['stage3_block0/conv1', '3x3x32x64', '18,432', '0.1992'] for line in lines
  )
  assert 'density 0.2000, sparsity 80.00% of the prunable weights' in lines
  assert any(line.startswith('bytes of values') for line in lines)


def test_json_and_csv_hold_the_same_numbers(capsys):
  as_json = json.loads(printed(capsys, CIFAR, '--format=json', '--densities=0.1,0.2'))
  rows = list(
    csv.DictReader(io.StringIO(printed(capsys, CIFAR, '--format=csv', '--densities=0.1,0.2')))
  )
  assert [one['target_density'] for one in as_json] == [0.1, 0.2]
  assert len(rows) == 2 * 22
  assert [int(row['kept']) for row in rows[:22]] == [
    layer['kept'] for layer in as_json[0]['layers']
  ]
  assert as_json[0]['totals']['kept'] == sum(int(row['kept']) for row in rows[:22])


def test_ratios_and_densities_stand_side_by_side_and_impossible_ones_are_named(capsys, tmp_path):
  figure = tmp_path / 'depth.svg'
  pytest.importorskip('matplotlib', reason='matplotlib, of the extra `report`, is not installed')
  assert main.main(
    ['plan', CIFAR, '--ratios=erk,erk_plus', '--densities=0.002,0.1', f'--plot={figure}']
  ) == 0  # fmt: skip
  out, err = capsys.readouterr()
  assert 'erk 0.002    erk 0.1  erk_plus 0.1' in out
  [layer] = [line.split() for line in out.splitlines() if 'stage3_block0/conv1' in line]
  assert layer[1] == '18,432' and layer[3] == '0.0940'
  assert 'not possible: erk_plus at 0.002: density 0.002 keeps 542' in err
  assert '<svg' in figure.read_text()


def test_what_cannot_be_is_said_in_one_line(capsys):
  for arguments, message in (
    (['--ratios=erc'], 'ratio must be one of'),
    (['--densities=0.1,x'], "--densities must be numbers like 0.1,0.2, got '0.1,x'"),
    (['--config.pruning.density=1.5'], 'density must lie in (0, 1], got 1.5'),
    (['--config.pruning.dense=("stern",)'], "dense must name layers; got ['stern']"),
    (['--plot=figure.doc'], '--plot must name a .png or .svg file'),
    (['--plot=missing/figure.svg'], '--plot must name a file in a folder that is there, got miss'),
    (['--ratios=erk_plus', '--densities=0.001'], 'the density must lie above 0.00236'),
  ):
    assert main.main(['plan', CIFAR, *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and not out


def test_a_data_dependent_ratio_says_that_it_looks(capsys):
  planned(tinier_config(pruning__ratio='snip'))
  assert 'snip looks at initial weights and digits images.' in capsys.readouterr().err


def test_the_authors_recipe_gives_expected_counts(capsys):
  for ratios in ((), ('--ratios=erk,er',)):
    said = printed(capsys, CIFAR, '--config.recipe=authors', *ratios)
    assert 'counts are expected values' in said.splitlines()[0]


def test_counts_of_a_score_are_said_to_be_the_draw_of_the_seed():
  changed = tiny_config(pruning__sampling='bernoulli')
  found, _ = plan.plans(changed, ['magnitude', 'erk'], [0.1])
  drawn, both = (plan.show(some, 'table').splitlines()[0] for some in (found[:1], found))
  said = '; counts of magnitude are those that the seed draws'
  assert drawn.endswith(f'bernoulli sampling{said}')
  assert both.endswith(f'bernoulli sampling; counts are expected values{said}')


def test_a_share_that_is_not_zero_is_not_said_to_be_zero(capsys):
  said = printed(capsys, f'--config={ROOT}/configs/cifar.py:vgg19,balanced,0.00001')
  assert 'density 1.0e-05, sparsity 99.999% of the prunable weights' in said
  assert '0.0000' not in said
  both = printed(capsys, CIFAR.replace('resnet20', 'vgg19'), '--densities=0.00001,0.1')
  assert ['sparsity', '99.999%', '90.00%'] in [line.split() for line in both.splitlines()]


def test_layers_that_keep_nothing_are_named():
  found, _ = plan.plans(config_lib.default(), ['uniform'], [0.001, 0.002])
  few, more = (plan.show([one], 'table') for one in found)
  assert 'no weight is kept in stem' in few and 'kept in' not in more


def test_a_plan_of_an_imagenet_network_imports_no_tfds():
  script = (
    'import sys; from random_pruning_jax import plan, models, config\n'
    'c = config.default(); c.model.name = "resnet18"; c.dataset = "imagenet2012"\n'
    'plan.show(plan.plans(c, ["erk"], [0.1])[0], "table")\n'
    'assert "tensorflow_datasets" not in sys.modules'
  )
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT, env=os.environ.copy()
  )
  assert done.returncode == 0, done.stderr
