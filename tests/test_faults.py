"""What goes wrong on real machines, done to real runs: they go on to the very same numbers."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_hosts import free_port
from tiny import tiny_config

from random_pruning_jax import checkpoints, parallel, preemption, runlog, train

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, 'tests')
from tiny import tiny_config

def get_config():
  return tiny_config(checkpoint__every_steps=1)
"""


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def trained(workdir):
  """What the log says of the network, without what it says of the clock."""
  return [
    {name: value for name, value in line.items() if name not in ('images_per_second', 'waiting')}
    for line in runlog.read_log(workdir)
  ]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run, its workdir and last state; checkpoints of steps 10 and 20."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(tiny_config(), workdir, show=False)


@pytest.fixture
def copy(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / 'copy')
  return tmp_path / 'copy'


@pytest.fixture
def start(tmp_path):
  """Starts `random-pruning train` on the tiny config, with a checkpoint after every step."""
  file = tmp_path / 'config.py'
  file.write_text(CONFIG)

  def command(workdir, *arguments, prefix=(), **options):
    train = [sys.executable, '-m', 'random_pruning_jax', 'train', f'--config={file}']
    return subprocess.Popen(
      [*prefix, *train, f'--workdir={workdir}', *arguments],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )

  return command


def wait_for_steps(workdir, process, steps=1):
  """Returns when the run has saved that many steps more, or has ended."""

  def newest():
    saved = (workdir / 'checkpoints').glob('*')
    return max((int(path.name) for path in saved if path.name.isdigit()), default=0)

  before = newest()
  while process.poll() is None and newest() < before + steps:
    time.sleep(0.005)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(whole, tmp_path):
  add, taken = runlog.Meter.add, []

  def signal_at_7(self, figures):
    taken.append(figures)
    if len(taken) == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    return add(self, figures)

  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 7'):
    patch.setattr(runlog.Meter, 'add', signal_at_7)
    train.train(tiny_config(), tmp_path, show=False)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  state = train.train(tiny_config(), tmp_path, show=False)
  assert_equal(state, whole[1])
  assert trained(tmp_path) == trained(whole[0])


def test_sigterm_ends_the_command_with_its_own_status(start, tmp_path):
  process = start(tmp_path / 'run', '--config.epochs=200')
  wait_for_steps(tmp_path / 'run', process)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS == 75, error
  assert 'saved at step' in error and 'the same command goes on' in error


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(start, tmp_path):
  address = f'localhost:{free_port()}'
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  processes = [
    start(
      tmp_path / 'run',
      '--config.epochs=200',
      '--cpu_devices=2',
      f'--coordinator_address={address}',
      '--num_processes=2',
      f'--process_id={i}',
      env=environment,
    )
    for i in range(2)
  ]
  wait_for_steps(tmp_path / 'run', processes[0])
  processes[1].send_signal(signal.SIGTERM)
  errors = [process.communicate(timeout=180)[1] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], errors
  steps = {error.partition('saved at step ')[2].split(';')[0] for error in errors}
  assert len(steps) == 1
  assert (tmp_path / 'run' / 'checkpoints' / steps.pop()).exists()


def test_kills_at_random_moments_lose_nothing(whole, start, tmp_path):
  """SIGKILL while every step is being saved: a checkpoint of some step is always whole."""
  random.seed(0)
  workdir = tmp_path / 'run'
  for _ in range(2):
    process = start(workdir)
    wait_for_steps(workdir, process, steps=2)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()
  state = train.train(tiny_config(checkpoint__every_steps=1), workdir, show=False)
  assert_equal(state, whole[1])
  assert trained(workdir) == trained(whole[0])


def damaged(workdir, step, how):
  """Truncates, alters or removes the largest file of a checkpoint's state."""
  files = [path for path in (workdir / 'checkpoints' / str(step) / 'state').rglob('*')]
  largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  if how == 'missing':
    largest.unlink()
  elif how == 'truncated':
    largest.write_bytes(content[: len(content) // 2])
  else:
    content[len(content) // 2] ^= 255
    largest.write_bytes(content)


@pytest.mark.parametrize('how', ['truncated', 'altered', 'missing'])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, copy, how, capsys):
  damaged(copy, 20, how)
  state = train.train(tiny_config(), copy, show=False)
  said = capsys.readouterr().err
  assert f'checkpoint {copy}/checkpoints/20' in said and 'going on from step 10' in said
  assert_equal(state, whole[1])
  assert trained(copy) == trained(whole[0])
  assert (copy / checkpoints.UNREADABLE / '20').exists()


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew(copy, capsys):
  for step in (10, 20):
    damaged(copy, step, 'truncated')
  with pytest.raises(checkpoints.NotReadableError, match=r'none .* can be read.*checkpoints/10'):
    train.train(tiny_config(), copy, show=False)
  assert (copy / 'checkpoints' / '20').exists()


def test_one_altered_weight_is_refused(whole, tmp_path):
  """A checkpoint that can be read, but is not what was saved."""
  _, state = whole
  with checkpoints.manager(tmp_path) as saved:
    digest = checkpoints.digest
    with pytest.MonkeyPatch.context() as patch:
      other = state.replace(step=state.step + 1)
      patch.setattr(checkpoints, 'digest', lambda tree: digest(jax.device_get(other)))
      checkpoints.save(saved, state, {'validation': None})
    checkpoints.finish(saved)
    with pytest.raises(checkpoints.NotReadableError, match=r'/20: the state has checksum'):
      checkpoints.restore(saved, state, parallel.devices())


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_a_checkpoint_is_the_same_on_any_number_of_devices(whole, devices):
  workdir, state = whole
  with checkpoints.manager(workdir) as saved:
    read = checkpoints.restore(saved, state, parallel.devices(devices)).state
  assert_equal(read, state)
  assert len(read.params['head']['kernel'].sharding.device_set) == devices


def test_a_full_disk_ends_the_run_with_the_reason_and_loses_nothing(whole, start, copy):
  """Files can grow to 4 kB only, which the log stays under and a checkpoint does not."""
  shutil.rmtree(copy / 'checkpoints' / '20')
  shutil.rmtree(copy / 'tensorboard')

  config = copy / 'config.json'
  config.write_text(config.read_text().replace('"every_steps": 0', '"every_steps": 1'))
  process = start(copy, prefix=['bash', '-c', 'ulimit -f 4; exec "$@"', 'bash'])
  _, error = process.communicate(timeout=180)
  assert process.returncode == 2, error
  assert 'could not be written' in error and 'File too large' in error
  assert 'that of step 10 is there' in error
  state = train.train(tiny_config(checkpoint__every_steps=1), copy, show=False)
  assert_equal(state, whole[1])
  assert trained(copy) == trained(whole[0])
