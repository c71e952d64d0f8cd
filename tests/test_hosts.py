"""Real processes on loopback: two of two devices give the numbers of one with four."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from random_pruning_jax import parallel

ROOT = pathlib.Path(__file__).parents[1]
# A run that trains and evaluates; SNIP's densities come from gradients on all the processes, as
# do the other scores' masks. A streamed run loses its last checkpoint, and goes on.
SCRIPT = """
import sys
sys.path.insert(0, 'tests')
import jax
jax.config.update('jax_num_cpu_devices', int(sys.argv[2]))
from random_pruning_jax import parallel
if len(sys.argv) > 3:
  parallel.connect(sys.argv[3], 2, int(sys.argv[4]))
from tiny import tiny_config
from random_pruning_jax import run
import pathlib
import shutil
import numpy as np
from random_pruning_jax import checkpoints, experiment, feed, masks, train
seed = int(sys.argv[5]) if len(sys.argv) > 5 else 0
workdir = pathlib.Path(sys.argv[1])
run.run(tiny_config(pruning__ratio='snip', seed=seed), workdir, show=False)
if (workdir / 'scores.npz').exists():
  sys.exit()
kept = {}
for score in ('grasp', 'synflow'):
  parts = experiment.experiment(tiny_config(pruning__ratio=score, pruning__select=score))
  images = feed.feed(parts).images
  key = experiment.keys(0).init
  variables = experiment.initial_variables(parts.model, key, parts.spec.shape)
  found = experiment.initial_masks(parts, variables, experiment.first_batch(parts, images))
  kept |= {f'{score}/{name}': mask for name, mask in masks.named_leaves(found).items()}
streamed = {'data_loading': 'streamed', 'augment__mode': 'resized', 'image_size': 8}
config = tiny_config(**streamed, data_workers=0)
place = workdir / 'streamed'
whole = train.train(config, place, show=False)
parallel.wait_for_all('the whole run is saved')
if jax.process_index() == 0:
  shutil.rmtree(place / 'checkpoints' / '20')
parallel.wait_for_all('its last checkpoint is gone')
again = train.train(config, place, show=False)
assert checkpoints.digest(again) == checkpoints.digest(whole)
if jax.process_index() == 0:
  weights = masks.named_leaves(jax.device_get(again.params))
  np.savez(workdir / 'scores.npz', **kept, **{f'weights/{n}': x for n, x in weights.items()})
"""


def start(workdir, devices, *rest):
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT, str(workdir), str(devices), *map(str, rest)],
    env=environment,
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )


def free_port():
  with socket.socket() as sock:
    sock.bind(('localhost', 0))
    return sock.getsockname()[1]


def start_two(workdir, seeds=(0, 0)):
  address = f'localhost:{free_port()}'
  return [start(workdir, 2, address, i, seed) for i, seed in enumerate(seeds)]


def row(workdir):
  return json.loads((workdir / 'results.jsonl').read_text())


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('alone')
  process = start(workdir, 4)
  assert process.wait() == 0, process.stderr.read()
  return workdir


def test_two_processes_of_two_devices_equal_one_of_four(alone, tmp_path):
  for process in start_two(tmp_path):
    _, error = process.communicate()
    assert process.returncode == 0, error
  one, two = row(alone), row(tmp_path)
  assert two['hosts'] == 2 and two['devices'] == 4
  assert two['masks'] == one['masks']
  for name, value in one['metrics'].items():
    assert two['metrics'][name] == pytest.approx(value, abs=0.02), name
  one, two = (np.load(workdir / 'scores.npz') for workdir in (alone, tmp_path))
  assert set(one) == set(two) and any(name.startswith('grasp') for name in one)
  for name in one:
    if name.startswith('weights'):  # of the streamed run, interrupted
      np.testing.assert_allclose(two[name], one[name], atol=2e-3, err_msg=name)
    else:  # a score that is nearly the threshold may round to its other side
      assert (two[name] != one[name]).sum() <= 2, name


def test_a_run_of_one_process_goes_on_in_two(alone, tmp_path):
  """The checkpoint of step 10 is all that is left; two processes take it from there."""
  import shutil

  shutil.copytree(alone, tmp_path / 'run')
  (tmp_path / 'run' / 'results.jsonl').unlink()
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '20')
  for process in start_two(tmp_path / 'run'):
    _, error = process.communicate()
    assert process.returncode == 0, error
  assert row(tmp_path / 'run')['step'] in (10, 20)
  for name, value in row(alone)['metrics'].items():
    assert row(tmp_path / 'run')['metrics'][name] == pytest.approx(value, abs=0.02), name


def test_a_process_with_another_config_is_named(tmp_path):
  errors = [process.communicate()[1] for process in start_two(tmp_path, seeds=(0, 1))]
  assert any('process 1 differs from process 0' in error for error in errors)


def test_a_part_of_an_address_is_refused():
  with pytest.raises(ValueError, match='several hosts need coordinator_address'):
    parallel.connect('localhost:1234')
  with pytest.raises(ValueError, match='several hosts need coordinator_address'):
    parallel.connect('localhost:1234', 2, 2)


@pytest.mark.parametrize(
  ('environment', 'several'),
  [
    ({}, False),
    ({'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'}, False),
    ({'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '8'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b,c,d'}, True),
    ({'JAX_COORDINATOR_ADDRESS': 'job-0-0.job:1234'}, True),
  ],
)
def test_launchers_say_whether_there_are_several_hosts(environment, several):
  assert parallel._several_hosts(environment) is several
