"""The launch scripts, run with stand-ins for gcloud, sbatch, srun and others first on the PATH."""

import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time
import tomllib

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / 'launch'
SCRIPTS = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
PREEMPTED = 75
TRAIN = ['--config=configs/imagenet.py:wrn50_2,erk,0.2', '--workdir=/mnt/bucket/runs/a b']
POD = ['--name=pod', '--zone=us-central2-b', '--bucket=data', '--spot']


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  """Puts a command first on the PATH that notes how it was called and then runs `script`."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
  monkeypatch.setenv('CALLS', str(tmp_path / 'calls'))
  monkeypatch.setenv('HERE', str(tmp_path))
  monkeypatch.setenv('POLL_SECONDS', '0')

  def make(name, script=''):
    path = folder / name
    # One line a call: the name and the arguments, with the separator that no argument holds.
    note = f'{{ printf "%s" {name}; printf "\\037%s" "$@" | tr "\\n" " "; echo; }} >> "$CALLS"'
    path.write_text(f'#!/usr/bin/env bash\n{note}\n{script}\n')
    path.chmod(0o755)

  return make


@pytest.fixture
def calls(tmp_path):
  def read():
    path = tmp_path / 'calls'
    return [line.split('\037') for line in path.read_text().splitlines()] if path.exists() else []

  return read


def launch(script, *arguments, **environment):
  return subprocess.run(
    ['bash', str(LAUNCH / script), *arguments],
    capture_output=True,
    text=True,
    env=os.environ | environment,
    timeout=60,
  )


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
  if not shutil.which('shellcheck'):
    assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
    pytest.skip('shellcheck is not installed; the syntax is right')
  done = subprocess.run(['shellcheck', str(script)], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_a_dry_run_of_a_pod_prints_every_command_and_runs_none(stand_in, calls):
  for name in ('gcloud', 'git'):
    stand_in(name)
  done = launch('tpu_pod.sh', 'train', *POD, '--dry-run', '--', *TRAIN)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  wanted = ['queued-resources create pod', 'git', 'scp', 'pip', 'gcsfuse', '/random-pruning']
  assert [word for line, word in zip(lines, wanted, strict=True) if word in line] == wanted
  assert '--spot' in lines[0] and '--accelerator-type=v4-32' in lines[0]
  assert calls() == []


def test_a_bucket_is_mounted_by_its_name_however_it_is_written():
  done = launch('tpu_pod.sh', 'mount', '--name=a', '--zone=b', '--bucket=gs://data', '--dry-run')
  assert r'\ data\ /mnt/bucket' in done.stdout and 'gs://' not in done.stdout


# `describe` answers with the lines of the file `states`, one after the other, the last for good.
GCLOUD = """
case "$*" in
  *describe*)
    read -r state < "$HERE/states"
    [ "$(wc -l < "$HERE/states")" = 1 ] || sed -i 1d "$HERE/states"
    case "$state" in
      NONE) echo "ERROR: (gcloud) NOT_FOUND: Requested entity was not found" >&2; exit 1 ;;
      503) echo "ERROR: (gcloud) HTTPError 503" >&2; exit 1 ;;
    esac
    echo "WARNING: a newer gcloud is there" >&2; echo "$state" ;;
  *"${FAILS:-none of them}"*) exit 1 ;;
  *"random-pruning train"*)
    read -r status < "$HERE/statuses"; sed -i 1d "$HERE/statuses"; exit "$status" ;;
esac
"""


def pod(tmp_path, stand_in, states, statuses, *more, **environment):
  stand_in('git')
  stand_in('gcloud', GCLOUD)
  (tmp_path / 'states').write_text('\n'.join(states) + '\n')
  (tmp_path / 'statuses').write_text('\n'.join(map(str, statuses)) + '\n')
  return launch('tpu_pod.sh', 'train', *POD, *more, '--', *TRAIN, **environment)


def kinds(calls):
  """What each call to gcloud was, but for those that only ask."""
  names = ('create', 'scp', 'pip install', 'gcsfuse', 'random-pruning train', 'delete')
  texts = [' '.join(call) for call in calls if call[0] == 'gcloud' and 'describe' not in call]
  return [next(name for name in names if name in text) for text in texts]


WHOLE = ['create', 'scp', 'pip install', 'gcsfuse', 'random-pruning train', 'delete']


def test_a_pod_is_created_used_and_deleted(tmp_path, stand_in, calls):
  done = pod(tmp_path, stand_in, ['NONE', 'WAITING_FOR_RESOURCES', 'ACTIVE'], [0])
  assert done.returncode == 0, done.stderr
  assert kinds(calls()) == WHOLE
  ssh = [call for call in calls() if 'ssh' in call]
  assert all({'pod', '--zone=us-central2-b', '--worker=all'} <= set(call) for call in ssh)
  assert r'/mnt/bucket/runs/a\ b' in ssh[-1][-1]


@pytest.mark.parametrize(
  ('status', 'after'), [(PREEMPTED, []), (255, ['SUSPENDED']), (255, ['ACTIVE', 'SUSPENDING'])]
)
def test_a_preempted_pod_is_made_again_and_the_run_goes_on(
  tmp_path, stand_in, calls, status, after
):
  done = pod(tmp_path, stand_in, ['NONE', 'ACTIVE', *after, 'NONE', 'ACTIVE'], [status, 0])
  assert done.returncode == 0, done.stderr
  assert kinds(calls()) == WHOLE * 2
  assert f'run ended with status {status}, attempt 1 of 20' in done.stderr


@pytest.mark.parametrize('fails', ['none of them', 'queued-resources delete'])
def test_a_pod_preempted_in_its_last_attempt_is_deleted_once_and_ends_with_the_status_of_the_run(
  tmp_path, stand_in, calls, fails
):
  states = ['NONE', 'ACTIVE', 'SUSPENDED']
  done = pod(tmp_path, stand_in, states, [PREEMPTED], '--attempts=1', FAILS=fails)
  assert done.returncode == PREEMPTED, done.stderr
  assert kinds(calls()) == WHOLE


def test_a_pod_keeps_its_place_in_the_queue_where_gcloud_fails_to_say_its_state(
  tmp_path, stand_in, calls
):
  done = pod(tmp_path, stand_in, ['NONE', 'PROVISIONING', '503', '503', 'ACTIVE'], [0])
  assert done.returncode == 0, done.stderr
  assert kinds(calls()) == WHOLE


def test_a_pod_whose_state_gcloud_never_says_is_neither_created_nor_deleted(
  tmp_path, stand_in, calls
):
  done = pod(tmp_path, stand_in, ['503'], [])
  assert done.returncode == 1
  assert kinds(calls()) == []
  assert 'HTTPError 503' in done.stderr


@pytest.mark.parametrize(
  'error',
  [
    'PERMISSION_DENIED: on locations/us-central2-x (or it may not exist)',
    'gcloud: command not found',
  ],
)
def test_a_pod_whose_state_gcloud_will_never_say_is_asked_for_no_longer(stand_in, calls, error):
  stand_in('gcloud', f'echo "{error}" >&2; exit 1')
  done = launch('tpu_pod.sh', 'train', *POD, '--', *TRAIN)
  assert done.returncode == 1
  assert error in done.stderr and 'is kept' in done.stderr
  assert len(calls()) == 2  # before creating and after


def test_gcloud_asks_nothing_where_nobody_would_see_it(tmp_path, stand_in, calls):
  pod(tmp_path, stand_in, ['NONE', 'ACTIVE'], [0])
  asked = [call for call in calls() if 'describe' in call or 'delete' in call]
  assert asked and all('--quiet' in call for call in asked)


def test_a_worker_that_installs_updates_gets_gcsfuse_after_them(tmp_path, stand_in, calls):
  stand_in('gcloud')
  assert launch('tpu_pod.sh', 'mount', *POD).returncode == 0
  line = calls()[-1][-1].removeprefix('--command=')
  for name in ('curl', 'lsb_release', 'sleep'):
    stand_in(name)
  stand_in('mountpoint', 'exit 1')
  locked = '[ $2 = -qq ] && [ $3 = update ] && { rm "$HERE/locked" && exit 100; } 2> /dev/null'
  brings = 'cp "$HERE/bin/curl" "$HERE/bin/gcsfuse"'
  (tmp_path / 'locked').touch()
  stand_in('sudo', f'{locked}; [ $3 != install ] || {brings}')
  done = subprocess.run(['bash', '-c', line], env=os.environ, cwd=tmp_path)
  assert done.returncode == 0
  got = [call[3] for call in calls() if call[:2] == ['sudo', 'apt-get']]
  assert got == ['update', 'update', 'install']
  assert calls()[-1][-2:] == ['data', '/mnt/bucket']


@pytest.mark.parametrize(
  ('part', 'fails'), [('install', 'pip install'), ('mount', 'gcsfuse'), ('run', 'pruning train')]
)
def test_a_pod_on_which_something_fails_is_kept_to_be_looked_at(
  tmp_path, stand_in, calls, part, fails
):
  done = pod(tmp_path, stand_in, ['NONE', 'ACTIVE'], [], FAILS=fails)
  assert done.returncode == 1
  assert fails in kinds(calls())[-1]
  assert f'{part} ended with status 1' in done.stderr and 'is kept' in done.stderr


def test_a_pod_that_somebody_deletes_is_not_made_again(tmp_path, stand_in, calls):
  done = pod(tmp_path, stand_in, ['NONE', 'ACTIVE', 'NONE'], [255])
  assert done.returncode == 255
  assert kinds(calls()) == WHOLE[:-1]


@pytest.mark.parametrize(
  ('command', 'wanted'),
  [
    ('create', ['queued-resources create pod']),
    ('install', ['scp', 'pip install']),
    ('mount', ['gcsfuse --implicit-dirs']),
    ('run', ['random-pruning train --distributed --config=']),
    ('logs', ['tail -n 100 -f random-pruning.log']),
    ('delete', ['queued-resources delete pod']),
  ],
)
def test_a_command_of_a_pod_does_its_part_alone(tmp_path, stand_in, calls, command, wanted):
  stand_in('git')
  stand_in('gcloud', GCLOUD)
  (tmp_path / 'states').write_text('ACTIVE\n' if command != 'create' else 'NONE\nACTIVE\n')
  (tmp_path / 'statuses').write_text('75\n')
  done = launch('tpu_pod.sh', command, *POD, '--', *TRAIN)
  assert done.returncode == (PREEMPTED if command == 'run' else 0), done.stderr
  texts = [' '.join(call) for call in calls() if call[0] == 'gcloud' and 'describe' not in call]
  assert len(texts) == len(wanted)
  assert all(part in text for part, text in zip(wanted, texts, strict=True)), texts
  assert all(('--worker=0' in text) == (command == 'logs') for text in texts)


def test_a_worker_gets_the_python_that_the_package_needs(tmp_path, stand_in, calls):
  """The line for the workers, run twice here, where uv is a stand-in that its installer brings."""
  stand_in('git')
  stand_in('gcloud', GCLOUD)
  assert launch('tpu_pod.sh', 'install', *POD).returncode == 0
  line = calls()[-1][-1].removeprefix('--command=')
  stand_in('tar')
  stand_in('uv')
  brings = 'mkdir -p "$UV_UNMANAGED_INSTALL"; cp "$HERE/bin/uv" "$UV_UNMANAGED_INSTALL"'
  stand_in('curl', f"echo '{brings}'")
  home = os.environ | {'HOME': str(tmp_path)}
  for _ in range(2):
    assert subprocess.run(['bash', '-c', line], env=home, cwd=tmp_path).returncode == 0
  once = [call for call in calls() if call[0] in ('curl', 'uv')]
  assert [call[0] for call in once] == ['curl', 'uv', 'uv', 'uv', 'uv']
  wanted = tomllib.loads((LAUNCH.parent / 'pyproject.toml').read_text())['project']
  assert '>=' + once[1][once[1].index('--python') + 1] == wanted['requires-python']
  assert once[2][-1] == './random-pruning[tpu,stream]'
  assert {'tpu', 'stream'} <= set(wanted['optional-dependencies'])


@pytest.fixture
def worker(tmp_path, stand_in, calls):
  """Starts the line for the workers here, with `script` in place of the run; '' is the last one.

  What is left of them is killed in the end, where a test fails.
  """
  home, started = os.environ | {'HOME': str(tmp_path)}, []
  stand_in('gcloud')
  (tmp_path / 'random-pruning').mkdir()
  (tmp_path / 'venv').mkdir()
  (tmp_path / 'venv' / 'bin').symlink_to(tmp_path / 'bin')

  def start(script='', *more):
    launch('tpu_pod.sh', 'run', *POD, '--', *TRAIN, *more)
    line = calls()[-1][-1].removeprefix('--command=')
    if script:
      stand_in('random-pruning', script)
    pipes = {'stdout': subprocess.PIPE, 'start_new_session': True}
    started.append(subprocess.Popen(['bash', '-c', line], env=home, cwd=tmp_path, **pipes))
    return started[-1]

  yield start
  for process in started:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_on_a_worker_outlives_the_connection_that_shows_it(tmp_path, worker):
  process = worker('for step in 1 2 3; do echo "step $step"; sleep 0.1; done')
  process.stdout.close()
  process.wait(timeout=20)
  assert (tmp_path / 'random-pruning.log').read_text() == 'step 1\nstep 2\nstep 3\n'


def test_a_run_on_a_worker_saves_where_all_of_its_session_is_signalled(tmp_path, worker):
  trap = 'trap "echo saving; sleep 0.1; echo saved; exit 75" TERM'
  process = worker(trap + '; echo step; while :; do sleep 0.05; done')
  assert process.stdout.readline() == b'step\n'
  for number in (signal.SIGTERM, signal.SIGHUP):
    os.killpg(process.pid, number)
  process.communicate(timeout=20)
  assert (tmp_path / 'random-pruning.log').read_text().endswith('saving\nsaved\n')


RUNS = 'trap "exit 75" TERM; echo step; until [ -e "$HERE/go" ]; do sleep 0.05; done; exit 3'


@pytest.mark.parametrize('signalled', [False, True])
def test_a_command_that_a_worker_gets_again_waits_for_the_run_and_ends_with_its_status(
  tmp_path, worker, calls, signalled
):
  first = worker(RUNS)
  assert first.stdout.readline() == b'step\n'
  again = worker()
  assert again.stdout.readline().startswith(b'A run still goes on here')
  if signalled:
    os.killpg(first.pid, signal.SIGTERM)
  else:
    (tmp_path / 'go').touch()
  assert [process.wait(timeout=20) for process in (first, again)] == [75 if signalled else 3] * 2
  assert [call[0] for call in calls()].count('random-pruning') == 1


def test_another_run_on_a_worker_begins_after_the_one_that_is_there(tmp_path, worker, calls):
  first = worker(RUNS)
  assert first.stdout.readline() == b'step\n'
  other = worker('', '--config.seed=1')
  assert other.stdout.readline().startswith(b'A run still goes on here')
  (tmp_path / 'go').touch()
  assert [process.wait(timeout=20) for process in (first, other)] == [3, 3]
  one, two = (call for call in calls() if call[0] == 'random-pruning')
  assert two == [*one, '--config.seed=1']


def test_a_pod_whose_creation_is_refused_ends_the_script(tmp_path, stand_in, calls):
  done = pod(tmp_path, stand_in, ['NONE'], [], FAILS='queued-resources create')
  assert done.returncode == 1
  assert kinds(calls()) == ['create']
  assert 'create ended with status 1' in done.stderr and 'pod is NONE' in done.stderr


def test_a_pod_that_never_becomes_active_is_asked_for_as_often_as_said(tmp_path, stand_in, calls):
  states = ['NONE', 'FAILED', 'FAILED', 'NONE', 'FAILED']
  done = pod(tmp_path, stand_in, states, [], '--attempts=2')
  assert done.returncode == 1
  assert kinds(calls()) == ['create', 'delete'] * 2


def test_slurm_starts_one_process_a_gpu_and_requeues_only_when_preempted(stand_in, calls):
  for status in (0, PREEMPTED, 3):
    stand_in('srun', f'exit {status}')
    stand_in('scontrol')
    assert launch('slurm.sbatch', *TRAIN, SLURM_JOB_ID='7').returncode == status
  assert [call[0] for call in calls()] == ['srun', 'srun', 'scontrol', 'srun']
  assert calls()[0][-4:] == ['random-pruning', 'train', *TRAIN]
  assert calls()[2] == ['scontrol', 'requeue', '7']


def test_a_dry_run_of_slurm_prints_what_a_job_would_run_and_runs_nothing(stand_in, calls):
  stand_in('srun')
  done = launch('slurm.sbatch', '--dry-run', *TRAIN)
  assert done.returncode == 0, done.stderr
  assert shlex.split(done.stdout)[-4:] == ['random-pruning', 'train', *TRAIN]
  assert done.stdout.startswith('srun ') and calls() == []


@pytest.mark.parametrize(
  ('nodes', 'tasks', 'refused'), [('2', '1', 2), ('1', '4', 2), ('2', '8', 0), ('1', '1', 0)]
)
def test_slurm_leaves_no_gpu_idle_unless_one_process_takes_all(
  stand_in, calls, nodes, tasks, refused
):
  stand_in('srun')
  job = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': nodes, 'SLURM_NTASKS_PER_NODE': tasks}
  done = launch('slurm.sbatch', *TRAIN, **job, SLURM_GPUS_ON_NODE='8')
  assert done.returncode == refused and bool(calls()) == (not refused)
  assert ('--ntasks-per-node must be 8, the GPUs of a node; got' in done.stderr) == bool(refused)


@pytest.mark.parametrize('scancel_takes', [0, 0.6])
def test_slurm_passes_a_signal_on_and_requeues_what_has_saved(
  tmp_path, stand_in, calls, scancel_takes
):
  # Like srun: scancel signals its steps, and a signal to itself kills them.
  srun = 'echo $$ > "$HERE/step"; trap "exit 137" TERM; trap "sleep 0.3; exit 75" USR1; '
  stand_in('srun', srun + 'touch "$HERE/up"; sleep 30 & wait $!')
  stand_in('scancel', f'kill -USR1 "$(cat "$HERE/step")"; sleep {scancel_takes}')
  stand_in('scontrol')
  script = subprocess.Popen(
    ['bash', str(LAUNCH / 'slurm.sbatch'), *TRAIN], env=os.environ | {'SLURM_JOB_ID': '7'}
  )
  while not (tmp_path / 'up').exists():
    time.sleep(0.01)
  script.send_signal(signal.SIGTERM)
  assert script.wait(timeout=20) == PREEMPTED
  assert calls()[-2:] == [['scancel', '--signal=TERM', '7'], ['scontrol', 'requeue', '7']]


def test_steps_of_slurm_have_the_cores_that_the_job_asks_for(stand_in, calls, tmp_path):
  stand_in('srun', 'echo "$SRUN_CPUS_PER_TASK" >> "$HERE/cores"')
  stand_in('sbatch')
  launch('sweep.sh', *SWEEP, '--jobs=1')
  wrapped = calls()[-1][-1].removeprefix('--wrap=')
  for cores in ('12', ''):
    given = os.environ | {'SLURM_ARRAY_TASK_ID': '1', 'SLURM_JOB_ID': '7'}
    given |= {'SLURM_CPUS_PER_TASK': cores} if cores else {}
    subprocess.run(['bash', str(LAUNCH / 'slurm.sbatch'), *TRAIN], env=given, check=True)
    subprocess.run(['sh', '-c', wrapped], env=given, check=True)
  assert (tmp_path / 'cores').read_text().split('\n') == ['12', '12', '', '', '']


def test_gpu_chooses_devices_and_hands_arguments_on(stand_in, calls):
  stand_in('random-pruning', 'echo "$CUDA_VISIBLE_DEVICES"; exit 75')
  done = launch('gpu.sh', '--gpus=0,1', '--mem-fraction=0.9', '--', *TRAIN)
  assert (done.stdout, done.returncode) == ('0,1\n', PREEMPTED)
  assert calls() == [['random-pruning', 'train', *TRAIN, '--mem-fraction=0.9']]
  dry = launch('gpu.sh', '--gpus=1', '--dry-run', '--', *TRAIN, JAX_PLATFORMS='rocm')
  set_first = 'env JAX_PLATFORMS=rocm CUDA_VISIBLE_DEVICES=1 random-pruning train --config='
  assert dry.stdout.startswith(set_first)
  assert len(calls()) == 1


@pytest.mark.parametrize('asked', ['', 'rocm'])
def test_what_is_for_gpus_tells_jax_to_train_on_nothing_else(asked, tmp_path, stand_in, calls):
  for command in ('random-pruning', 'srun'):
    stand_in(command, 'echo "$JAX_PLATFORMS" >> "$HERE/platforms"')
  stand_in('sbatch')
  launch('gpu.sh', '--', *TRAIN, JAX_PLATFORMS=asked)
  launch('slurm.sbatch', *TRAIN, JAX_PLATFORMS=asked)
  launch('sweep.sh', *SWEEP, '--jobs=1')
  wrapped = calls()[-1][-1].removeprefix('--wrap=')
  subprocess.run(['sh', '-c', wrapped], env=os.environ | {'JAX_PLATFORMS': asked}, check=True)
  assert (tmp_path / 'platforms').read_text().split() == [asked or 'cuda'] * 3


SWEEP = ['--config=configs/sweeps/depth.py', '--workdir=runs/depth']


def test_a_sweep_is_an_array_whose_jobs_each_take_their_shard(tmp_path, stand_in, calls):
  stand_in('sbatch')
  done = launch('sweep.sh', *SWEEP, '--config.epochs=5', '--jobs=4', '--', '--partition=gpu')
  assert done.returncode == 0, done.stderr
  (call,) = calls()
  assert {'--array=1-4', '--partition=gpu', '--requeue'} <= set(call)
  # The wrapped line, run as SLURM would run the third job of the array.
  stand_in('srun', 'exit 75')
  stand_in('scontrol')
  wrapped = call[-1].removeprefix('--wrap=')
  environment = os.environ | {'SLURM_ARRAY_TASK_ID': '3', 'SLURM_JOB_ID': '12'}
  assert subprocess.run(['sh', '-c', wrapped], env=environment).returncode == PREEMPTED
  assert calls()[1:] == [
    ['srun', 'random-pruning', 'sweep', *SWEEP, '--config.epochs=5', '--shard=3/4'],
    ['scontrol', 'requeue', '12'],
  ]


def test_a_dry_run_of_a_sweep_submits_nothing_and_lists_the_runs(stand_in, calls):
  stand_in('sbatch')
  stand_in('random-pruning', 'echo the table')
  done = launch('sweep.sh', *SWEEP, '--jobs=2', '--dry-run')
  assert done.stdout.startswith('sbatch --array=1-2') and done.stdout.endswith('the table\n')
  assert calls() == [['random-pruning', 'sweep', *SWEEP, '--dry-run']]


@pytest.mark.parametrize('script', ['gpu.sh', 'slurm.sbatch', 'sweep.sh', 'tpu_pod.sh'])
def test_help_is_the_head_of_the_script_and_runs_nothing(script, stand_in, calls):
  for name in ('srun', 'sbatch', 'gcloud'):
    stand_in(name)
  done = launch(script, '--help')
  assert (done.returncode, calls()) == (0, [])
  head = [line.removeprefix('#').strip() for line in (LAUNCH / script).read_text().splitlines()]
  lines = [line.strip() for line in done.stdout.splitlines()]
  assert lines == head[1 : 1 + len(lines)]


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('tpu_pod.sh', ['train', '--zone=a'], '--name and --zone must be given'),
    ('tpu_pod.sh', ['fly', '--name=a', '--zone=b'], 'unknown command fly; known: train'),
    ('tpu_pod.sh', ['train', '--name=a', '--zone=b'], '--config=FILE must be given'),
    (
      'tpu_pod.sh',
      ['train', *POD, '--attempts=0', '--', *TRAIN],
      '--attempts must be a number from 1',
    ),
    ('gpu.sh', ['--config=a'], 'unknown argument --config=a'),
    ('sweep.sh', [*SWEEP, '--jobs=0'], '--jobs must be a number from 1'),
    ('slurm.sbatch', ['--dry-run'], '--config=FILE must be given'),
    ('slurm.sbatch', [], '--config=FILE must be given'),
  ],
)
def test_a_wrong_call_is_refused(script, arguments, message):
  done = launch(script, *arguments)
  assert done.returncode == 2
  assert message in done.stderr


def test_the_jobset_agrees_with_itself():
  """Hosts and chips of the slice; status 75 and evictions restart it without being counted."""
  spec = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  pod = job['template']['spec']
  x, y, z = map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
  chips = pod['containers'][0]['resources']['limits']['google.com/tpu']
  assert job['parallelism'] == job['completions'] == x * y * z // chips
  codes, evicted = job['podFailurePolicy']['rules']
  assert codes['onExitCodes']['values'] == [PREEMPTED]
  assert evicted['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
  assert spec['failurePolicy']['rules'][0] == {
    'action': 'RestartJobSetAndIgnoreMaxRestarts',
    'onJobFailureReasons': ['PodFailurePolicy'],
  }
