"""Runs that go on with other data, devices or versions are the same, or say what differs."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest
import started
from tiny import change_record, tinier_config

from random_pruning_jax import checkpoints, data, parallel, train
from random_pruning_jax.data import crops
from random_pruning_jax.experiment import build
from random_pruning_jax.system import processor
from random_pruning_jax.training import beginning, prepared

ROOT = pathlib.Path(__file__).parents[1]


def test_a_run_does_not_go_on_with_other_training_images(copy):
  shutil.rmtree(copy / 'checkpoints' / '10')
  change_record(copy, 20, lambda record: record | {'per_epoch': 9})
  with pytest.raises(ValueError, match='had 9 steps an epoch until step 20, and would have 10'):
    train.train(tinier_config(), copy, show=False)


def test_a_checkpoint_that_another_version_wrote_is_said_to_be_one(copy):
  shutil.rmtree(copy / 'checkpoints' / '20')
  record = copy / 'checkpoints' / '10' / 'record' / 'metadata'
  saved = record.read_text()
  for name in ('per_epoch', 'jax', 'digest', 'compile_seconds'):
    record.write_text(saved)
    change_record(copy, 10, lambda found, name=name: {k: v for k, v in found.items() if k != name})
    with pytest.raises(ValueError, match=f'step 10 has no {name!r} beside its state: another'):
      train.train(tinier_config(), copy, show=False)


def test_a_run_does_not_go_on_with_images_that_have_other_labels(copy, monkeypatch):
  load = data.load

  def turned(*arguments, **options):
    images, labels = load(*arguments, **options)
    return data.Images(images, labels[::-1])

  monkeypatch.setattr(data, 'load', turned)
  with pytest.raises(ValueError, match=r'checksum of training labels was .*, and is '):
    train.train(tinier_config(), copy, show=False)


SAVED = {'step': 5, 'per_epoch': 10, 'devices': 4, 'pixels': crops.pixels(), 'crops': crops.VERSION}


def test_other_pixels_of_the_same_labels_are_said(capsys):
  run = prepared.open_run(build(tinier_config()))
  record = SAVED | {'data': run.facts}
  beginning.check_record(run, record)
  assert not capsys.readouterr().err
  measured = {'mean': [mean + 1e-5 for mean in run.facts['mean']]}  # as decoders may differ
  beginning.check_record(run, record | {'data': run.facts | measured | {prepared.PIXELS: 'others'}})
  assert 'until step 5 training images had other pixels' in capsys.readouterr().err


def test_other_devices_are_said_where_they_change_what_is_computed(capsys):
  record = SAVED | {'devices': 2}
  beginning.check_record(prepared.open_run(build(tinier_config())), record)
  assert not capsys.readouterr().err
  run = prepared.open_run(build(tinier_config(optimizer__accumulate=2)))
  beginning.check_record(run, SAVED)
  assert not capsys.readouterr().err
  beginning.check_record(run, record)
  assert 'there were 2 devices, and now there are 4' in capsys.readouterr().err


def test_pixels_of_streamed_images_that_will_differ_after_a_resume_are_said(capsys):
  record = SAVED | {'pixels': 'another'}
  resident = prepared.open_run(build(tinier_config()))
  beginning.check_record(resident, record)
  assert 'resized' not in capsys.readouterr().err
  streamed = {'data_loading': 'streamed', 'augment__mode': 'resized', 'data_workers': 0}
  run = prepared.open_run(build(tinier_config(image_size=8, **streamed)))
  beginning.check_record(run, SAVED)
  assert 'WARNING' not in capsys.readouterr().err
  beginning.check_record(run, SAVED | {'crops': 1})
  assert 'until step 5 another version of this package cut' in capsys.readouterr().err
  beginning.check_record(run, record)
  said = capsys.readouterr().err
  assert 'WARNING: until step 5 another resized' in said and f'now {crops.pixels()} does' in said


def test_a_run_says_when_another_jax_will_go_on_with_it(copy, capsys):
  run = prepared.open_run(build(tinier_config()), copy)
  for step, said in ((20, False), (10, True)):  # at 20 it has ended
    beginning.restore_or_init(run)
    assert 'JAX' not in capsys.readouterr().err
    assert checkpoints.record_of(run.saved, step)['jax'] == jax.__version__
    change_record(copy, step, lambda record: record | {'jax': '0.1'})
    beginning.restore_or_init(run)
    warning = f'until step {step} JAX 0.1 computed, now {jax.__version__} does'
    assert (warning in capsys.readouterr().err) == said
    shutil.rmtree(copy / 'checkpoints' / str(step))
    run.saved.orbax.reload()
  run.saved.close()


EIGHT = """
import sys
sys.path.insert(0, 'tests')
from tiny import tinier_config
from random_pruning_jax import checkpoints, parallel
from random_pruning_jax.training import beginning
from random_pruning_jax.experiment import build
experiment = build(tinier_config())
like = beginning.abstract_state(experiment)
with checkpoints.Manager(sys.argv[1]) as saved:
  for devices in (1, 2, 4, 8):
    state = checkpoints.restore(saved, like, parallel.devices(devices), 20).state
    on = state.params['head']['kernel'].sharding.device_set
    print('on', len(on), checkpoints.digest(state))
"""


@pytest.fixture(scope='module')
def on_eight(whole):
  """The digests of a checkpoint of four devices, read on some of eight devices: {count: digest}."""
  command = [sys.executable, '-c', EIGHT, str(whole[0])]
  environment = started.without_devices() | {'JAX_NUM_CPU_DEVICES': '8'}
  read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
  assert read.returncode == 0, read.stderr
  lines = [line.split() for line in read.stdout.splitlines()]
  return {int(words[1]): words[2] for words in lines if words[:1] == ['on']}


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_a_checkpoint_of_four_devices_is_the_same_on_any_number(whole, on_eight, devices):
  assert on_eight[devices] == checkpoints.digest(whole[1])


ACCELERATED = """
import sys
sys.path.insert(0, 'tests')
import jax
from tiny import tinier_config
from random_pruning_jax import checkpoints, parallel, train
if jax.default_backend() == 'cpu':
  sys.exit(77)
on = parallel.devices(1)
print(checkpoints.digest(train.train(tinier_config(), sys.argv[1], on=on, show=False)))
"""


def test_a_checkpoint_of_an_accelerator_goes_on_on_a_cpu(whole, tmp_path):
  """It is the same to the bit, and its second half can be trained here. What a stand-in for one
  saves, test_accelerator.py reads and trains on."""
  environment = {name: value for name, value in os.environ.items() if name != 'JAX_PLATFORMS'}
  if processor.only_cpu(environment):
    pytest.skip('no accelerator is here that JAX is installed for')
  script = tmp_path / 'script.py'
  script.write_text(ACCELERATED)
  command = [sys.executable, str(script), str(tmp_path / 'run')]
  paths = {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
  ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment | paths)
  if ran.returncode == 77:
    pytest.skip('no accelerator was found')
  assert ran.returncode == 0, ran.stderr
  with checkpoints.Manager(tmp_path / 'run') as saved:
    read = checkpoints.restore(saved, whole[1], parallel.devices(), 20).state
  assert checkpoints.digest(read) == ran.stdout.split()[-1]
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  assert int(train.train(tinier_config(), tmp_path / 'run', show=False).step) == 20
