"""What is done on accelerators alone, done: on a stand-in that JAX takes for one (standin.py)."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import standin
from tiny import tinier_config

from random_pruning_jax import checkpoints, parallel, runlog, train
from random_pruning_jax.experiment import build
from random_pruning_jax.system import preemption
from random_pruning_jax.training import beginning

ROOT = pathlib.Path(__file__).parents[1]


def pair():
  """Configs of two runs, at rates that keep rounding small."""
  return [
    tinier_config(optimizer__lr=0.02),
    tinier_config(seed=3, pruning__density=0.6, optimizer__lr=0.01),
  ]


pytestmark = pytest.mark.skipif(
  standin.plugin() is None, reason=f'{standin.PACKAGE}, which brings the stand-in, is not installed'
)


@contextlib.contextmanager
def started(*words):
  """A process of the stand-in, which does not outlive what is done with it."""
  command = [sys.executable, 'tests/standin.py', *map(str, words)]
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
    try:
      yield process
    finally:
      process.kill()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Runs of the stand-in, and those of two CPU devices beside them: workdirs in one place."""
  root = tmp_path_factory.mktemp('runs')
  with started('tests/accelerated.py', root) as process:
    for i, config in enumerate(pair()):
      train.train(config, root / f'cpu{i}', on=parallel.devices(2), show=False)
    _, error = process.communicate(timeout=300)
  assert process.returncode == 0, error
  return root


@pytest.fixture(scope='module')
def facts(runs):
  return json.loads((runs / 'facts.json').read_text())


def last_state(workdir, number=0):
  """What a workdir holds, read onto the CPU."""
  experiment = build(pair()[number])
  like = beginning.abstract_state(experiment)
  with checkpoints.Manager(workdir) as saved:
    step = checkpoints.find(saved, 'latest')
    return jax.device_get(checkpoints.restore(saved, like, parallel.devices(), step).state)


def close(a, b, atol=5e-3):
  """Floats to rounding, as it grows in twenty steps; masks and counts to the bit."""

  def compare(x, y):
    if np.issubdtype(np.asarray(x).dtype, np.floating):
      np.testing.assert_allclose(x, y, rtol=1e-2, atol=atol)
    else:
      np.testing.assert_array_equal(x, y)

  jax.tree.map(compare, a, b)


def test_the_stand_in_is_taken_for_an_accelerator(facts):
  assert facts['platform'] == 'standin'
  assert facts['way'] == 'vmap' and facts['convolution'] == 'None'
  assert max(stop - start for start, stop in facts['calls']) > 1  # a loop of steps


@pytest.mark.parametrize('name', ['one', 'four', 'together0'])
def test_it_trains_the_network_that_a_cpu_trains(runs, name):
  close(last_state(runs / name), last_state(runs / 'cpu0'))


@pytest.mark.parametrize('name', ['one', 'four'])
def test_what_it_saved_is_the_same_to_the_bit_on_a_cpu(runs, facts, name):
  assert checkpoints.digest(last_state(runs / name)) == facts['digests'][name]


def test_networks_under_vmap_are_those_of_a_cpu_alone(runs):
  close(last_state(runs / 'together1', 1), last_state(runs / 'cpu1', 1))


def test_its_log_says_what_that_of_a_cpu_says(runs):
  logs = [runlog.read_log(runs / name) for name in ('one', 'together0', 'cpu0')]
  for log in logs[:2]:
    assert [(line['kind'], line['step']) for line in log] == [
      (line['kind'], line['step']) for line in logs[2]
    ]
    for line, expected in zip(log, logs[2], strict=True):
      if 'loss' in line:
        assert line['loss'] == pytest.approx(expected['loss'], rel=0.02)


def test_it_is_measured_there(facts):
  for row, config in zip(facts['rows'], pair(), strict=True):
    assert row['config']['pruning.density'] == config.pruning.density
    assert 0.1 < row['metrics']['accuracy'] <= 1 and row['metrics']['nll'] > 0


def test_a_run_that_is_asked_to_stop_there_goes_on_on_a_cpu(tmp_path):
  """What the command saved at SIGTERM becomes, on a CPU, the network of a whole run, to rounding.

  It saves after each of 60 steps, and so is far from its end when the signal comes.
  """
  # At a rate at which rounding does not grow: in 60 steps at 0.01 it came to 0.01 once.
  long = {'epochs': 6, 'checkpoint__every_steps': 1, 'optimizer__lr': 0.002}
  file = tmp_path / 'config.py'
  lines = ['import sys', "sys.path.insert(0, 'tests')", 'from tiny import tinier_config']
  lines += ['def get_config():', f'  return tinier_config(**{long})']
  file.write_text('\n'.join(lines))
  workdir = tmp_path / 'run'
  command = ['random_pruning_jax/__main__.py', 'train', f'--config={file}', f'--workdir={workdir}']
  deadline = time.monotonic() + 300
  with started(*command) as process:
    while not list((workdir / 'checkpoints').glob('[0-9]*')):
      assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline, 'no checkpoint was saved in five minutes'
      time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
  assert process.returncode == preemption.EXIT_STATUS, error
  steps = int(error.partition('saved at step ')[2].split(';')[0])
  assert 0 < steps < 60
  went_on = train.train(tinier_config(**long), workdir, show=False)
  at_once = tinier_config(**long | {'checkpoint__every_steps': 0})
  whole = train.train(at_once, tmp_path / 'whole', show=False)
  close(jax.device_get(went_on), jax.device_get(whole), atol=1e-4)
