"""What a training step needs of a chip, here and on chips that are not here."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from tiny import tinier_config, tiny_config

from random_pruning_jax import chips, cost, footprint, main
from random_pruning_jax.commands.footprint import DOES_NOT_FIT
from random_pruning_jax.experiment import build

ROOT = pathlib.Path(__file__).parents[1]
OF_TESTS = ('XLA_FLAGS', 'JAX_DISABLE_MOST_OPTIMIZATIONS', 'JAX_COMPILATION_CACHE_DIR')
COMPILERS = {'v5e': 'libtpu', 'v4': 'libtpu', 'h100': 'jax_cuda13_plugin'}


@pytest.fixture(scope='module')
def here():
  return footprint.footprint(tiny_config(), tuple(jax.devices()))


def test_the_state_is_weights_momentum_masks_and_statistics(here):
  """Four bytes, four and one for a parameter, four for a statistic, and two counters of steps."""
  found = build(tiny_config()).structure
  assert here.state == 9 * found.parameters + 4 * found.statistics + 2 * 4


def test_a_steps_flops_are_six_a_multiply_add(here):
  macs = cost.macs(build(tiny_config()).structure.layers)
  assert here.flops == 6 * macs * 120 / 4


def test_resident_images_are_counted_whole_on_each_chip(here):
  """1,257 digits of 8 x 8 bytes with labels, 30 indices, the epoch, and of key and rates a part."""
  count, rest = divmod(here.images - 4 * (30 + 1), 64 + 4)
  assert count == 1257 and 0 <= rest <= 4 * 4


def test_the_new_state_takes_the_memory_of_the_old_one(here):
  """What a call gives back beside it is the loss and the accuracy, and some bytes of pointers."""
  assert here.outputs < 1000 < here.state


def test_what_is_larger_than_a_chip_does_not_fit(here):
  assert here.capacity is None and here.fits  # no CPU tells how much it has
  assert dataclasses.replace(here, capacity=here.peak).fits
  assert not dataclasses.replace(here, capacity=here.peak - 1).fits


def test_of_a_chips_memory_that_counts_which_jax_takes():
  chip = chips.Chip('none', 1e12, 1e9, 1e9, 8e9, '1', tuple, share=0.75)
  assert footprint.footprint(tiny_config(), tuple(jax.devices()), chip).capacity == 6e9


def test_the_table_says_what_is_where(here):
  text = footprint.show(dataclasses.replace(here, capacity=here.peak // 2))
  assert re.search('images a step +30 ', text)
  assert '120 images on 4 x cpu' in text and '200.0%, so it does NOT fit' in text
  assert 'by the compiler' not in text  # it knows nothing of the kernels of a CPU
  assert 'all-reduces' in text
  assert 'all-reduces' not in footprint.show(dataclasses.replace(here, chips=1))


def test_the_rows_of_the_table_add_up(here):
  """Sizes are shown to three digits, hence in whole kilobytes here."""
  fields = ('state', 'images', 'temporary', 'outputs', 'program')
  found = dataclasses.replace(here, **{name: 7000 + i for i, name in enumerate(fields)})
  rows = [re.match(r'(.*?)  +([\d.]+) kB', line) for line in footprint.show(found).splitlines()]
  sizes = {row[1]: float(row[2]) for row in rows if row}
  assert sizes.pop('all together') == pytest.approx(sum(sizes.values()), abs=0.05)
  assert len(sizes) == len(fields) + 1  # the state twice


def test_a_call_is_as_long_as_the_longest_that_is_made(here):
  """In 20 steps of two epochs, with a line of the log after every fourth."""
  on = tuple(jax.devices())
  assert here.steps == 1  # on a CPU
  assert footprint.footprint(tinier_config(steps_per_call=2), on).steps == 2
  assert footprint.footprint(tinier_config(steps_per_call=5), on).steps == 1


def test_streamed_calls_are_no_longer_than_an_epoch_of_a_set_that_is_here():
  """That epoch is one step of 1,200 of the 1,257 digits."""
  streamed = {'data_loading': 'streamed', 'augment__mode': 'resized'}
  config = tinier_config(**streamed, batch_size=1200, steps_per_call=2)
  assert footprint.footprint(config, tuple(jax.devices())).steps == 1


def test_what_training_refuses_has_no_footprint():
  on = tuple(jax.devices())
  streamed = {'data_loading': 'streamed'}
  for refused, said in (
    (
      tiny_config(**streamed, augment__mode='zeros', augment__pad=1),
      'one of resized, none where images are str',
    ),
    (
      tiny_config(**streamed, augment__mode='none', batch_size=1600),
      r'batch_size must lie in \[1,',
    ),
    (tiny_config(pruning__ratio='uniform_plus', pruning__density=0.001), 'density'),
  ):
    with pytest.raises(ValueError, match=said):
      footprint.footprint(refused, on)


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    ('RESOURCE_EXHAUSTED: Ran out of memory.\nMore.', 'Ran out of memory.'),
    ('RESOURCE_EXHAUSTED', 'RESOURCE_EXHAUSTED'),
    ('RESOURCE_EXHAUSTED: \n', 'RESOURCE_EXHAUSTED: '),
  ],
)
def test_a_reason_is_the_first_line_that_a_compiler_gives(text, reason):
  assert footprint._reason(text) == reason


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('v7:2x2', "chips must be one of v4, v5e, v5p, v6e, h100, got 'v7'"),
    ('v4', 'v4 needs a layout, as in v4:2x2x4'),
    ('h100:0', 'h100 needs a layout, as in h100:8'),
    ('v5e:2x2x2', 'a layout of TPU v5e has 2 sides, got 2x2x2'),
  ],
)
def test_unknown_chips_are_refused(name, said):
  with pytest.raises(ValueError, match=said):
    chips.find(name)


def test_images_that_are_not_here_are_wanted_only_where_they_are_resident(tmp_path, capsys):
  tinier_config()  # so that its network is known
  command = ['footprint', '--config.model.name=cifar_resnet2', f'--config.data_dir={tmp_path}']
  large = '--config=configs/imagenet.py:resnet18,erk,0.2'
  size = ['--config.image_size=16', '--config.batch_size=8', '--format=json']
  assert main.main([*command, large, *size]) == 0
  assert json.loads(capsys.readouterr().out)['batch_size'] == 8
  assert main.main([*command, '--config=configs/cifar.py:resnet20,erk,0.1']) == 2
  assert 'random-pruning prepare cifar10' in capsys.readouterr().err


def test_deterministic_operations_of_gpus_that_are_not_here_are_refused(capsys):
  command = ['footprint', '--config=configs/digits.py', '--deterministic', '--chips=h100:1']
  assert main.main(command) == 2
  assert '--deterministic needs GPUs that are here' in capsys.readouterr().err


def needs_compiler(chip):
  compiler = COMPILERS[chip.partition(':')[0]]
  if not importlib.util.find_spec(compiler):
    pytest.skip(f'{compiler}, the compiler for {chip}, is not installed')


def run_python(*words):
  """Runs in a process of its own, since these compilers print and stay; it compiles as users do.

  That is without what conftest.py sets, except for the platform, and without its cache.
  """
  environment = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
  environment['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  command = [sys.executable, *words]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def compiled_for(chip, *arguments):
  needs_compiler(chip)
  options = ['--format=json', f'--chips={chip}', *arguments]
  return run_python('-m', 'random_pruning_jax', 'footprint', *options)


@pytest.mark.parametrize('chip', ['v5e:2x2', 'v4:2x2x1', 'h100:4'])
def test_the_step_compiles_for_chips_that_are_not_here(chip, here):
  small = ['--config.model.name=cifar_resnet8', '--config.model.width=2']
  batch = ['--config.batch_size=120', '--config.pruning.density=0.3']
  ran = compiled_for(chip, '--config=configs/digits.py', *small, *batch, '--mem-fraction=0.9')
  assert ran.returncode == 0, ran.stderr
  found = json.loads(ran.stdout)
  assert found['chips'] == 4 and found['steps'] > 1  # a loop of them
  assert found['flops'] == here.flops and found['fits']
  # A GPU has what JAX is told to take of it, a TPU all of its memory.
  assert found['capacity'] == {'v5e:2x2': 16e9, 'v4:2x2x1': 32e9, 'h100:4': 72e9}[chip]
  if chip == 'h100:4':
    assert found['state'] == here.state
  else:  # the arrays are small, and a TPU pads them to its tiles
    assert 1.5 * here.state < found['state'] < found['peak'] / 2
  assert found['outputs'] < 10_000 and found['all_reduces'] > 0


TOO_LARGE = ['--config=configs/imagenet.py:cifar_resnet8,erk,0.2', '--config.batch_size=65536']


def test_a_batch_that_is_too_large_for_a_gpu_ends_with_a_status_of_its_own():
  ran = compiled_for('h100:1', *TOO_LARGE)
  assert ran.returncode == DOES_NOT_FIT, ran.stderr
  found = json.loads(ran.stdout)
  assert found['fits'] is False and found['peak'] > found['capacity'] == 60e9


def test_a_batch_that_is_too_large_for_a_tpu_is_said_by_its_compiler():
  ran = compiled_for('v5e:1x1', *TOO_LARGE)
  assert ran.returncode == DOES_NOT_FIT, ran.stderr
  found = json.loads(ran.stdout)
  assert found.pop('reason').startswith('Ran out of memory') and found == {'fits': False}


COPIES = """
import jax
from jax import numpy as jnp
from random_pruning_jax import chips
from random_pruning_jax.data import resident

_, on = chips.find('v5e:1x1')
place = jax.sharding.SingleDeviceSharding(on[0])
def batch(pixels, labels, indices):
  options = dict(shape=(32, 32, 3), pad=4, mode='reflect', flip=True)
  return resident.gather(pixels, labels, indices, jax.random.key(0), **options)
shapes = [((50_000, 3072), jnp.uint8), ((50_000,), jnp.int32), ((128,), jnp.int32)]
given = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype in shapes]
print(jax.jit(batch).lower(*given).compile().memory_analysis().temp_size_in_bytes)
"""


def test_a_tpu_picks_images_without_copying_all_of_them():
  """154 MB of them; as [N, H, W, C] they would be brought into another order at each call."""
  needs_compiler('v5e')
  ran = run_python('-c', COPIES)
  assert ran.returncode == 0, ran.stderr
  assert int(ran.stdout) < 20e6
