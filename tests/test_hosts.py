"""How processes find each other by what launchers set, and what is said where they do not."""

import contextlib
import http.server
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest
import started

from random_pruning_jax import parallel
from random_pruning_jax.system import hosts, preemption

ROOT = pathlib.Path(__file__).parents[1]
# What launchers set, and nothing else: no address, number or id is given by hand.
JOINED = """
import sys
import jax
from random_pruning_jax import parallel
from random_pruning_jax import together
from random_pruning_jax.system import hosts
hosts.connect()
jax.config.update('jax_platforms', 'cpu')  # else JAX would look for the TPU that it was told of
together.check_same('a word', 'word')
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
  foreign = ('JAX_', 'SLURM_', 'TPU_', 'KUBERNETES_')
  environment = started.without_devices()
  kept = {name: value for name, value in environment.items() if not name.startswith(foreign)}
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
  try:
    errors = [process.communicate(timeout=120)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0] * len(processes), errors
  return [(place / f'{i}').read_text() for i in range(len(processes))]


@pytest.mark.parametrize('launcher', [slurm, indexed_job])
def test_processes_find_each_other_by_what_their_launcher_sets(launcher, tmp_path):
  # JAX gives SLURM's jobs the ports from 61440 on. One that a launcher left must not be met again.
  port = started.free_port(61440 + os.getpid() % 4000) if launcher is slurm else started.free_port()
  assert joined(tmp_path, [launcher(i, port) for i in range(2)]) == ['0 2 4', '1 2 4']


def test_workers_of_a_tpu_slice_find_each_other_by_their_metadata_servers(metadata, tmp_path):
  port = str(started.free_port())
  vm = {'JAX_FORCE_TPU_INIT': '1', 'JAX_COORDINATOR_PORT': port}
  each = [vm | {'GCE_METADATA_IP': address} for address in metadata]
  assert joined(tmp_path, each, ON_A_TPU_VM) == ['0 2 4', '1 2 4']


def test_a_tpu_without_a_metadata_server_is_alone(tmp_path):
  vm = {'JAX_FORCE_TPU_INIT': '1', 'GCE_METADATA_IP': f'127.0.0.1:{started.free_port()}'}
  assert joined(tmp_path, [vm], ON_A_TPU_VM) == ['0 1 2']


def test_a_part_of_an_address_is_refused():
  for part in (('localhost:1234',), ('localhost:1234', 2, 2), ('', 2, 0), ('', 0, 0), ('', 1, 1)):
    with pytest.raises(ValueError, match='several hosts need coordinator_address'):
      hosts.connect(*part)
  hosts.connect('', 1, 0)  # alone


@pytest.mark.parametrize(
  'address', ['localhost', ':1234', '::1:1234', 'http://a:1234', 'a b:1234', 'a:0', 'a:65536']
)
def test_an_address_that_all_would_wait_for_in_vain_is_refused(monkeypatch, address):
  monkeypatch.setattr(hosts, 'WAIT', 0.0)
  with pytest.raises(ValueError, match=r'must be HOST:PORT, and \[HOST\]:PORT for IPv6, got '):
    hosts.connect(address, 2, 1)


def test_a_process_0_that_does_not_answer_is_named(monkeypatch):
  monkeypatch.setattr(hosts, 'WAIT', 0.0)
  with pytest.raises(ConnectionError, match='process 1 got no answer from process 0 at localhost'):
    hosts.connect(f'localhost:{started.free_port()}', 2, 1)


@pytest.mark.parametrize(
  ('environment', 'several'),
  [
    ({}, False),
    ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '8'}, False),  # in sbatch's script, not a step
    ({'SLURM_STEP_NUM_TASKS': '8'}, False),
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
    ({'TPU_PROCESS_ADDRESSES': 'localhost:1'}, 'tpu,cpu', False),
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
    ({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JOB_COMPLETION_INDEX': '3'}, ('a:1', None, None)),
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


# Processes that wait only a second for each other.
IMPATIENT = """
import sys
from random_pruning_jax import main
from random_pruning_jax.system import hosts
hosts.WAIT = 1.0
sys.exit(main.main())
"""


@pytest.fixture
def first_of_two(tmp_path):
  """Starts process 0 of a command whose process 1 never comes, and waits until it listens."""
  processes = []

  def start(*python):
    port = started.free_port()
    train = ['train', '--config=configs/digits.py', f'--workdir={tmp_path}']
    joined = [f'--coordinator-address=localhost:{port}', '--num-processes=2', '--process-id=0']
    process = subprocess.Popen(
      [sys.executable, *python, *train, *joined], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    processes.append(process)
    while process.poll() is None:
      with contextlib.suppress(OSError), socket.create_connection(('localhost', port)):
        break
      time.sleep(0.05)
    time.sleep(0.5)  # from listening to waiting
    return process

  yield start
  for process in processes:
    process.kill()
    process.communicate()


def test_sigterm_while_others_are_waited_for_ends_with_the_status_of_one_to_start_again(
  first_of_two,
):
  process = first_of_two('-m', 'random_pruning_jax')
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=60)
  assert process.returncode == preemption.EXIT_STATUS, error


def test_processes_that_do_not_all_come_end_with_one_line(first_of_two):
  process = first_of_two('-c', IMPATIENT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 2, error
  assert 'random-pruning: the other processes were not reached: not all of them came in' in error
  assert 'Traceback' not in error


def test_devices_of_processes_that_have_not_met_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 4)  # as a TPU slice says by itself
  with pytest.raises(ValueError, match='those of 4 processes that have not found each other'):
    parallel.devices()


@pytest.mark.parametrize(
  ('arguments', 'environment', 'message'),
  [
    (['--distributed'], {}, 'coordinator_address should be defined'),
    ([], {'JAX_COORDINATOR_ADDRESS': 'localhost:1'}, 'Number of processes must be defined'),
    (['--num-processes=2', '--process-id=0'], {}, 'process 0 cannot listen on port'),
  ],
)
def test_processes_that_do_not_meet_end_with_one_line(arguments, environment, message, tmp_path):
  with socket.create_server(('', 0)) as taken:
    if '--process-id=0' in arguments:
      arguments = [*arguments, f'--coordinator-address=localhost:{taken.getsockname()[1]}']
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
