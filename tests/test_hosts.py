"""Real processes on loopback: two of two devices give the numbers of one with four."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from tiny import tiny_config

from random_pruning_jax import checkpoints, optimizers, parallel, train
from random_pruning_jax.experiment import experiment

ROOT = pathlib.Path(__file__).parents[1]
# A run that trains and evaluates; SNIP's densities come from gradients on all the processes, as
# do the other scores' masks. A streamed run loses its last checkpoint, and goes on. So does a run
# of one process, where there is one; and processes that disagree stop. All in one start of the
# processes, since each of them compiles for itself.
SCRIPT = """
import sys
sys.path.insert(0, 'tests')
import jax
jax.config.update('jax_num_cpu_devices', int(sys.argv[2]))
from random_pruning_jax import parallel
if len(sys.argv) > 3:
  parallel.connect(sys.argv[3], 2, int(sys.argv[4]))
from test_hosts import SNIP, STREAMED
from tiny import tiny_config
import pathlib
import shutil
import numpy as np
from random_pruning_jax import checkpoints, cost, experiment, feed, masks, run, train
from random_pruning_jax import footprint, room
workdir = pathlib.Path(sys.argv[1])
first = jax.process_index() == 0
run.run(tiny_config(**SNIP), workdir, show=False)
kept = {}
for score in ('grasp', 'synflow'):
  parts = experiment.experiment(tiny_config(pruning__ratio=score, pruning__select=score))
  shallow = parts.model.clone(depth=2, width=8)  # no block: stem, BatchNorm, head
  structure = cost.structure(shallow, parts.spec.shape)
  parts = parts._replace(model=shallow, structure=structure)
  images = feed.feed(parts).images
  key = experiment.keys(0).init
  variables = experiment.initial_variables(parts.model, key, parts.spec.shape)
  found = experiment.initial_masks(parts, variables, experiment.first_batch(parts, images))
  kept |= {f'{score}/{name}': mask for name, mask in masks.named_leaves(found).items()}
place = workdir / 'streamed'
whole = train.train(tiny_config(**STREAMED), place, show=False)
parallel.wait_for_all('the whole run is saved')
if first:
  shutil.rmtree(place / 'checkpoints' / '20')
parallel.wait_for_all('its last checkpoint is gone')
again = train.train(tiny_config(**STREAMED), place, show=False)
assert checkpoints.digest(again) == checkpoints.digest(whole)
if first:
  weights = masks.named_leaves(jax.device_get(again.params))
  np.savez(workdir / 'scores.npz', **kept, **{f'weights/{n}': x for n, x in weights.items()})
  (workdir / 'digest').write_text(checkpoints.digest(again))
if jax.process_count() > 1:
  (workdir / f'together{jax.process_index()}').write_text(str(room.group_size(tiny_config())))
  try:
    footprint.footprint(tiny_config(), tuple(jax.devices()))
  except ValueError as error:
    (workdir / f'refused{jax.process_index()}').write_text(str(error))
  run.run(tiny_config(**SNIP), workdir / 'of_one', show=False)
  try:
    train.train(tiny_config(seed=jax.process_index()), workdir / 'other', show=False)
  except RuntimeError as error:
    (workdir / f'error{jax.process_index()}').write_text(str(error))
"""
# A small learning rate, so that rounding stays rounding.
SNIP = {'pruning__ratio': 'snip', 'optimizer__lr': 0.01}
STREAMED = {
  'data_loading': 'streamed',
  'augment__mode': 'resized',
  'image_size': 8,
  'data_workers': 0,
}


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


def row(workdir):
  return json.loads((workdir / 'results.jsonl').read_text())


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The workdir of one process of four devices."""
  workdir = tmp_path_factory.mktemp('alone')
  process = start(workdir, 4)
  _, error = process.communicate()
  assert process.returncode == 0, error
  return workdir


@pytest.fixture(scope='module')
def two(alone, tmp_path_factory):
  """That of two processes of two; in `of_one` is the run of one process, from its step 10 on."""
  workdir = tmp_path_factory.mktemp('two')
  kept = ('config.json', 'train.jsonl', 'checkpoints')
  others = [path.name for path in alone.iterdir() if path.name not in kept]
  shutil.copytree(alone, workdir / 'of_one', ignore=shutil.ignore_patterns(*others))
  shutil.rmtree(workdir / 'of_one' / 'checkpoints' / '20')
  address = f'localhost:{free_port()}'
  for process in [start(workdir, 2, address, i) for i in range(2)]:
    _, error = process.communicate()
    assert process.returncode == 0, error
  return workdir


def test_two_processes_of_two_devices_equal_one_of_four(alone, two):
  one, both = row(alone), row(two)
  assert both['hosts'] == 2 and both['devices'] == 4
  assert both['masks'] == one['masks']
  for name, value in one['metrics'].items():
    assert both['metrics'][name] == pytest.approx(value, abs=0.02), name
  one, both = (np.load(workdir / 'scores.npz') for workdir in (alone, two))
  assert set(one) == set(both) and any(name.startswith('grasp') for name in one)
  for name in one:
    if name.startswith('weights'):  # of the streamed run, interrupted
      np.testing.assert_allclose(both[name], one[name], atol=2e-3, err_msg=name)
    else:  # a score that is nearly the threshold may round to its other side
      assert (both[name] != one[name]).sum() <= 2, name


def test_a_run_of_one_process_goes_on_in_two(alone, two):
  """The checkpoint of step 10 was all that was left; two processes took it from there."""
  assert (two / 'of_one' / 'checkpoints' / '20').exists()
  assert row(two / 'of_one')['step'] in (10, 20)
  for name, value in row(alone)['metrics'].items():
    assert row(two / 'of_one')['metrics'][name] == pytest.approx(value, abs=0.02), name


def test_every_process_looks_at_the_memory_of_a_device_of_its_own(two):
  assert [(two / f'together{i}').read_text() for i in range(2)] == ['4', '4']


def test_a_footprint_is_for_one_process(two):
  for i in range(2):
    assert 'by one process' in (two / f'refused{i}').read_text()


def read(workdir, devices):
  """The last state of the streamed run in `workdir`, on that many devices of this process."""
  parts = experiment(tiny_config(**STREAMED))
  like = train.blank_state(parts, optimizers.make(parts.config, 10))
  with checkpoints.manager(workdir / 'streamed') as saved:
    return checkpoints.restore(saved, like, parallel.devices(devices), 20).state


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_a_checkpoint_of_two_processes_is_the_same_in_one(two, devices):
  state = read(two, devices)
  assert checkpoints.digest(state) == (two / 'digest').read_text()
  assert len(state.params['head']['kernel'].sharding.device_set) == devices


# What Orbax notes of where arrays were: ids of a mesh's devices, or the name of a single one.
ELSEWHERE = {
  'a larger mesh': lambda at: at | {'device_mesh': {'mesh': [{'id': 64 + i} for i in range(8)]}},
  'a GPU': lambda at: {'sharding_type': 'SingleDeviceSharding', 'device_str': 'cuda:0'},
  'a TPU': lambda at: {
    'sharding_type': 'SingleDeviceSharding',
    'device_str': 'TPU_0(process=0,(0,0,0,0))',
  },
}


@pytest.mark.parametrize('where', ELSEWHERE)
def test_a_checkpoint_written_on_devices_that_are_not_here_is_the_same(two, where, tmp_path):
  shutil.copytree(two / 'streamed', tmp_path / 'streamed')
  file = tmp_path / 'streamed' / 'checkpoints' / '20' / 'state' / '_sharding'
  noted = {name: json.loads(at) for name, at in json.loads(file.read_text()).items()}
  assert all(len(at['device_mesh']['mesh']) == 4 for at in noted.values())
  elsewhere = {name: json.dumps(ELSEWHERE[where](at)) for name, at in noted.items()}
  file.write_text(json.dumps(elsewhere))
  assert checkpoints.digest(read(tmp_path, 4)) == (two / 'digest').read_text()


def test_a_process_with_another_config_is_named(two):
  for i in range(2):
    assert 'process 1 differs from process 0' in (two / f'error{i}').read_text()


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
