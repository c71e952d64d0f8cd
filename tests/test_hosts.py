"""Real processes on loopback: two of two devices give the numbers of one with four."""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from tiny import tiny_config

from random_pruning_jax import checkpoints, hosts, optimizers, parallel, train
from random_pruning_jax.experiment import experiment

ROOT = pathlib.Path(__file__).parents[1]
# A run that trains and evaluates; SNIP's densities come from gradients on all the processes, as
# do the other scores' masks. A streamed run loses its last checkpoint, and goes on. So does a run
# of one process, where there is one; and processes that disagree stop. All in one start of the
# processes, since each of them compiles for itself.
SCRIPT = """
import json
import sys
sys.path.insert(0, 'tests')
import jax
jax.config.update('jax_num_cpu_devices', int(sys.argv[2]))
from random_pruning_jax import hosts, parallel
if len(sys.argv) > 3:
  hosts.connect(sys.argv[3], 2, int(sys.argv[4]))
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
  number = jax.process_index()
  mine = {'kernel': np.arange(6.0) + number}
  same = {'kernel': np.ones(6, bool)}
  def only_here():
    with parallel.failing_together():
      if number == 1:
        raise OSError('no space is left here')
  other = workdir / 'other'
  disagreements = {
    'config': lambda: train.train(tiny_config(seed=number), other, show=False),
    'weights': lambda: train.check_beginning(mine, same),
    'masks': lambda: train.check_beginning(same, {'kernel': mine['kernel'] > 0}),
    # Which process 0 alone finds.
    'workdir': lambda: run.run(tiny_config(epochs=3, **SNIP), workdir, show=False),
    'disk': only_here,
  }
  said = {}
  for name, disagree in disagreements.items():
    try:
      disagree()
    except (ValueError, OSError) as error:
      said[name] = str(error)
  assert not other.exists()
  (workdir / f'said{number}').write_text(json.dumps(said))
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


def free_port(above=0):
  """One that is free, of all or of those from `above` on."""
  for port in range(above, 65536):
    with socket.socket() as sock, contextlib.suppress(OSError):
      sock.bind(('localhost', port))
      return sock.getsockname()[1]
  raise OSError(f'no port from {above} on is free.')


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


def read(workdir, devices, config):
  """The last state of a run in `workdir`, on that many devices of this process."""
  parts = experiment(tiny_config(**config))
  like = train.blank_state(parts, optimizers.make(parts.config, 10))
  with checkpoints.manager(workdir) as saved:
    return checkpoints.restore(saved, like, parallel.devices(devices), 20).state


def assert_close(one, other, tolerance):
  """Weights that differ in the order in which gradients were summed, and nothing else."""
  pairs = jax.device_get((one.params, other.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), *pairs)


def assert_same_numbers(one, other):
  """Of all 360 test images, each once; rounding may change the answer to one of them."""
  for found in (one, other):
    assert found['images'] == sum(found['reliability']['count']) == 360
  assert one['metrics'].keys() == other['metrics'].keys()
  for name, value in one['metrics'].items():
    assert other['metrics'][name] == pytest.approx(value, abs=1.1 / 360), name


def test_two_processes_of_two_devices_equal_one_of_four(alone, two):
  one, both = row(alone), row(two)
  assert both['hosts'] == 2 and both['devices'] == 4
  assert both['masks'] == one['masks']
  assert_same_numbers(both, one)
  assert_close(read(two, 4, SNIP), read(alone, 4, SNIP), 2e-4)
  one, both = (np.load(workdir / 'scores.npz') for workdir in (alone, two))
  assert set(one) == set(both) and any(name.startswith('grasp') for name in one)
  for name in one:
    if name.startswith('weights'):  # of the streamed run, interrupted
      np.testing.assert_allclose(both[name], one[name], atol=2e-5, err_msg=name)
    else:  # two weights swap places where their scores differ by less than rounding
      assert (both[name] != one[name]).sum() <= 2, name


def test_a_run_of_one_process_goes_on_in_two(alone, two):
  """The checkpoint of step 10 was all that was left; two processes took it from there."""
  assert (two / 'of_one' / 'checkpoints' / '20').exists()
  assert row(two / 'of_one')['step'] == row(alone)['step']
  assert_same_numbers(row(two / 'of_one'), row(alone))
  assert_close(read(two / 'of_one', 4, SNIP), read(alone, 4, SNIP), 2e-4)


def test_every_process_looks_at_the_memory_of_a_device_of_its_own(two):
  assert [(two / f'together{i}').read_text() for i in range(2)] == ['4', '4']


def test_a_footprint_is_for_one_process(two):
  for i in range(2):
    assert 'by one process' in (two / f'refused{i}').read_text()


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_a_checkpoint_of_two_processes_is_the_same_in_one(two, devices):
  state = read(two / 'streamed', devices, STREAMED)
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
  state = read(tmp_path / 'streamed', 4, STREAMED)
  assert checkpoints.digest(state) == (two / 'digest').read_text()


@pytest.fixture(scope='module')
def said(two):
  """What each of the two was told where they did not agree."""
  return [json.loads((two / f'said{i}').read_text()) for i in range(2)]


@pytest.mark.parametrize(
  ('what', 'whole'),
  [('config', 'the config'), ('masks', 'the masks'), ('weights', 'the initial weights')],
)
def test_a_process_that_begins_with_another_is_named(said, what, whole):
  wanted = f'{whole} must be the same on all 2 processes; process 1 differs from process 0.'
  assert [each[what] for each in said] == [wanted] * 2


def test_what_is_refused_on_one_process_ends_all(said):
  assert 'holds another config: epochs is 2, got 3' in said[0]['workdir']
  assert said[1]['workdir'] == f'process 0: {said[0]["workdir"]}'
  assert [each['disk'] for each in said] == [
    'process 1: no space is left here',
    'no space is left here',
  ]


# What launchers set, and nothing else: no address, number or id is given by hand.
JOINED = """
import sys
import jax
from random_pruning_jax import hosts, parallel
hosts.connect()
jax.config.update('jax_platforms', 'cpu')  # else JAX would look for the TPU that it was told of
parallel.check_same('a word', 'word')
# In a file, since Gloo writes to the same output from other threads.
with open(sys.argv[1], 'w') as file:
  print(jax.process_index(), jax.process_count(), len(parallel.devices()), file=file, end='')
"""


def slurm(i, port):
  """JAX takes the port from the number of the job."""
  return {
    'SLURM_JOB_ID': str(port - 61440),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_PROCID': str(i),
    'SLURM_LOCALID': str(i),
  }


def indexed_job(i, port):
  return {
    'KUBERNETES_SERVICE_HOST': '10.0.0.1',
    'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
    'JAX_NUM_PROCESSES': '2',
    'JOB_COMPLETION_INDEX': str(i),
  }


class Metadata(http.server.BaseHTTPRequestHandler):
  """What a TPU VM's metadata server says: the number of this worker, and where all are."""

  def do_GET(self):
    known = {
      'agent-worker-number': self.server.worker,
      'worker-network-endpoints': 'unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.1',
      'tpu-env': '',
    }
    self.send_response(200)
    self.end_headers()
    self.wfile.write(known[self.path.rpartition('/')[2]].encode())

  def log_message(self, *_):
    pass


@pytest.fixture
def metadata():
  """Addresses of the metadata servers of two TPU VMs."""
  with contextlib.ExitStack() as stack:
    servers = []
    for worker in '01':
      server = stack.enter_context(http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata))
      server.worker = worker
      threading.Thread(target=server.serve_forever, daemon=True).start()
      stack.callback(server.shutdown)
      servers.append(f'127.0.0.1:{server.server_port}')
    yield servers


# JAX is told that this is a TPU VM; as there are no chips, it would then ask no metadata server.
ON_A_TPU_VM = "import os, jax; del os.environ['TPU_SKIP_MDS_QUERY']\n"


def joined(place, environments, before=''):
  """What each of the processes says of itself, each with an environment of its own."""
  foreign = ('XLA_FLAGS', 'JAX_', 'SLURM_', 'TPU_', 'KUBERNETES_')
  kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', before + JOINED, place / f'{i}'],
      env=kept | {'JAX_NUM_CPU_DEVICES': '2', 'NO_PROXY': '*'} | environment,
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, environment in enumerate(environments)
  ]
  errors = [process.communicate(timeout=120)[1] for process in processes]
  assert [process.returncode for process in processes] == [0] * len(processes), errors
  return [(place / f'{i}').read_text() for i in range(len(processes))]


@pytest.mark.parametrize('launcher', [slurm, indexed_job])
def test_processes_find_each_other_by_what_their_launcher_sets(launcher, tmp_path):
  port = free_port(61440 + os.getpid() % 4000)  # from 61440 on JAX counts those of SLURM's jobs
  assert joined(tmp_path, [launcher(i, port) for i in range(2)]) == ['0 2 4', '1 2 4']


def test_workers_of_a_tpu_slice_find_each_other_by_their_metadata_servers(metadata, tmp_path):
  port = str(free_port())
  vm = {'JAX_FORCE_TPU_INIT': '1', 'JAX_COORDINATOR_PORT': port}
  each = [vm | {'GCE_METADATA_IP': address} for address in metadata]
  assert joined(tmp_path, each, ON_A_TPU_VM) == ['0 2 4', '1 2 4']


def test_a_tpu_without_a_metadata_server_is_alone(tmp_path):
  vm = {'JAX_FORCE_TPU_INIT': '1', 'GCE_METADATA_IP': f'127.0.0.1:{free_port()}'}
  assert joined(tmp_path, [vm], ON_A_TPU_VM) == ['0 1 2']


def test_a_part_of_an_address_is_refused():
  with pytest.raises(ValueError, match='several hosts need coordinator_address'):
    hosts.connect('localhost:1234')
  with pytest.raises(ValueError, match='several hosts need coordinator_address'):
    hosts.connect('localhost:1234', 2, 2)
  with pytest.raises(ValueError, match="must be HOST:PORT, got 'localhost'"):
    hosts.connect('localhost', 2, 0)


def test_a_process_0_that_does_not_answer_is_named(monkeypatch):
  monkeypatch.setattr(hosts, 'WAIT', 0.0)
  with pytest.raises(ConnectionError, match='process 1 got no answer from process 0 at localhost'):
    hosts.connect(f'localhost:{free_port()}', 2, 1)


@pytest.mark.parametrize(
  ('environment', 'several'),
  [
    ({}, False),
    ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '8'}, False),  # in sbatch's script, not a step
    ({'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'}, False),
    ({'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '8'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, False),
    ({'TPU_WORKER_HOSTNAMES': 'a,b,c,d'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost', 'MEGASCALE_NUM_SLICES': '2'}, True),
    ({'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_PROCESS_ADDRESSES': 'a:1,b:1'}, True),
    ({'JAX_COORDINATOR_ADDRESS': 'job-0-0.job:1234'}, True),
    ({'JAX_NUM_PROCESSES': '2'}, True),
    ({'JAX_COORDINATOR_ADDRESS': 'job-0-0.job:1234', 'JAX_NUM_PROCESSES': '1'}, False),
  ],
)
def test_launchers_say_whether_there_are_several_hosts(environment, several):
  assert hosts.several(environment) is several


@pytest.mark.parametrize(
  ('environment', 'platforms', 'asks'),
  [
    ({}, 'tpu,cpu', True),
    ({}, None, False),
    ({}, 'cpu', False),  # as the person chose
    ({'TPU_SKIP_MDS_QUERY': '1'}, 'tpu', False),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, 'tpu,cpu', False),
  ],
)
def test_a_metadata_server_is_asked_on_tpu_vms_alone(environment, platforms, asks):
  assert hosts.on_tpu_vm(environment, platforms) is asks


@pytest.mark.parametrize(
  ('environment', 'found'),
  [
    ({}, (None, None, None)),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, ('a:1', None, None)),
    ({'JAX_COORDINATOR_ADDRESS': 'a', 'JAX_COORDINATOR_PORT': '1'}, ('a:1', None, None)),
    ({'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}, (None, 4, 3)),
    ({'JAX_PROCESS_COUNT': '4', 'JOB_COMPLETION_INDEX': '3'}, (None, 4, 3)),
    ({'JAX_NUM_PROCESSES': '8', 'JAX_PROCESS_ID': '7', 'JOB_COMPLETION_INDEX': '3'}, (None, 8, 7)),
  ],
)
def test_the_variables_of_a_job_say_who_a_process_is(environment, found):
  assert hosts.given(environment) == found


def test_variables_that_are_wrong_are_named():
  with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be a number, got 'two'"):
    hosts.several({'JAX_NUM_PROCESSES': 'two'})
  with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS must be HOST:PORT, got 'a'"):
    hosts.given({'JAX_COORDINATOR_ADDRESS': 'a'})


def test_a_pod_of_an_indexed_job_without_an_address_does_not_train_alone(monkeypatch):
  monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.1')
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '0')
  hosts.connect()  # it may be the only one
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '2')
  with pytest.raises(ValueError, match=r'pod 2 of an Indexed Job.*JAX_COORDINATOR_ADDRESS'):
    hosts.connect()
  hosts.connect(processes=1)
  monkeypatch.setenv('JAX_NUM_PROCESSES', '1')
  hosts.connect()


def test_devices_of_processes_that_have_not_met_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)  # as a TPU slice says by itself
  with pytest.raises(ValueError, match='those of 4 processes that have not found each other'):
    parallel.devices()


@pytest.mark.parametrize(
  ('arguments', 'environment', 'message'),
  [
    (['--distributed'], {}, 'coordinator_address should be defined'),
    ([], {'JAX_COORDINATOR_ADDRESS': 'localhost:1'}, 'Number of processes must be defined'),
    (['--num_processes=2', '--process_id=0'], {}, 'process 0 cannot listen on port'),
  ],
)
def test_processes_that_do_not_meet_end_with_one_line(arguments, environment, message, tmp_path):
  with socket.create_server(('', 0)) as taken:
    if '--process_id=0' in arguments:
      arguments = [*arguments, f'--coordinator_address=localhost:{taken.getsockname()[1]}']
    train = ['train', '--config=configs/digits.py', f'--workdir={tmp_path}', *arguments]
    done = subprocess.run(
      [sys.executable, '-m', 'random_pruning_jax', *train],
      env=os.environ | environment,
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=120,
    )
  assert done.returncode == 2, done.stderr
  (line,) = [line for line in done.stderr.splitlines() if line.startswith('random-pruning: ')]
  assert message in line
  assert 'Traceback' not in done.stderr
