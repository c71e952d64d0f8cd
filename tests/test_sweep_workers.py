"""Sweeps as processes: killed, interrupted, shared by workers that may die."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest
from sweeping import planned, small, states

from random_pruning_jax import results, runlog
from random_pruning_jax.commands import sweep as command
from random_pruning_jax.sweep import agenda, lease, work, workers
from random_pruning_jax.system import preemption, processor

ROOT = pathlib.Path(__file__).parents[1]


SWEEP_FILE = """
import sys; sys.path.insert(0, {tests!r})
from tiny import tinier_config
def get_sweep():
  fields = {{'epochs': 1, 'evaluation__epsilons': (), 'evaluation__foreign': (), **{more!r}}}
  return [tinier_config(seed=seed, **fields) for seed in (10, 11, 12)]
"""


def start(tmp_path, more, *arguments, text=SWEEP_FILE, **environment):
  file = tmp_path / 'file.py'
  file.write_text(text.format(tests=str(ROOT / 'tests'), more=more))
  words = ['sweep', f'--config={file}', f'--workdir={tmp_path / "runs"}', *arguments]
  # Tests in the background of a shell ignore Ctrl-C, and what they start would inherit that.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    return subprocess.Popen(
      [sys.executable, '-m', 'random_pruning_jax', *words],
      stderr=subprocess.PIPE,
      text=True,
      env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
      cwd=ROOT,
    )
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_sweep_that_was_killed_goes_on_where_it_stopped(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {})
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  process.kill()
  process.communicate()
  assert not list(directory.glob(f'*/{results.FAILED}'))
  jobs = planned(*command.load_sweep(str(tmp_path / 'file.py'), []))
  assert agenda.read_manifest(directory).keys() == {job.tag for job in jobs}
  work.work(jobs, directory)
  assert sorted(row['seed'] for row in results.read([directory])) == [10, 11, 12]
  assert not list(directory.glob(f'*/{lease.FILE}'))


def test_workers_share_the_runs_and_the_status_says_that_some_failed(tmp_path):
  """Runs that cannot be, so that nothing is trained: what is tested is who takes which."""
  process = start(tmp_path, {'pruning__ratio': 'nonsense'}, '--workers=2', '--skip-invalid')
  _, said = process.communicate()
  assert process.returncode == 1, said
  assert '0 done, 0 running, 3 failed, 0 to do' in said
  failures = sorted((tmp_path / 'runs').glob(f'*/{results.FAILED}'))
  assert len(failures) == 3 and all('nonsense' in path.read_text() for path in failures)
  assert not workers.log_file(tmp_path / 'runs', 0).read_text()


def test_ctrl_c_ends_the_sweep_and_leaves_no_lease(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {'epochs': 40, 'checkpoint__every_epochs': 40}, '--together=1')
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=120)
  assert process.returncode != 0
  assert not list(directory.glob(f'*/{lease.FILE}'))
  states = [agenda.state(place) for place in directory.glob('digits-*')]
  assert 'interrupted' in states and 'done' not in states and 'failed' not in states


def test_sigterm_outside_of_a_step_ends_the_sweep_with_its_own_status(
  tmp_path,
):
  process = start(tmp_path, {})
  while process.poll() is None and not list((tmp_path / 'runs').glob('*/config.json')):
    time.sleep(0.005)  # its program is not compiled yet
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS, said


# Code of a sweep that is asked to stop while it builds the network of its runs.
STOPPED = """
import os, signal
from random_pruning_jax import models
def stop(**_):
  os.kill(os.getpid(), signal.SIGTERM)
models.MODELS['resnet20'] = stop
"""


def test_sigterm_while_the_runs_are_planned_ends_the_sweep_with_its_own_status(tmp_path):
  process = start(tmp_path, {'model__name': 'resnet20'}, text=SWEEP_FILE + STOPPED)
  _, said = process.communicate(timeout=120)
  assert process.returncode == preemption.EXIT_STATUS, said


def test_workers_that_give_up_are_named_and_the_status_says_so(tmp_path):
  process = start(tmp_path, {}, '--workers=2', JAX_PLATFORMS='nonsense')
  _, said = process.communicate(timeout=120)
  assert process.returncode == 2, said
  assert 'worker 0 gave up with status 2' in said and 'worker 1 gave up' in said
  assert '0 done, 0 running, 0 failed, 3 to do' in said
  assert 'nonsense' in workers.log_file(tmp_path / 'runs', 0).read_text()


def test_the_status_of_workers_that_gave_up_counts_where_runs_are_left_alone(tmp_path):
  jobs = agenda.make([small(pruning__ratio='nonsense')], skip_invalid=True).jobs
  assert workers.run(['no-command'], 1, jobs, tmp_path) == 2
  work.record_failure(jobs[0], tmp_path / jobs[0].tag, 'it cannot be')
  assert workers.run(['no-command'], 1, jobs, tmp_path) == 0


def test_where_one_worker_cannot_start_none_goes_on(tmp_path, monkeypatch):
  started, start_one = [], workers._start
  monkeypatch.setattr(workers, '_start', lambda *a: started.append(start_one(*a)) or started[-1])
  (tmp_path / 'waits.py').write_text('import time; time.sleep(60)')
  workers.log_file(tmp_path, 1).mkdir()
  with pytest.raises(IsADirectoryError):
    workers.run(['train', f'--config={tmp_path / "waits.py"}'], 2, [], tmp_path)
  assert [worker.process.poll() is None for worker in started] == [False]


def test_workers_that_are_killed_before_they_have_a_run_are_said(tmp_path):
  process = start(tmp_path, {}, '--workers=2')
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  log, alive = workers.log_file(tmp_path / 'runs', 1), []
  while process.poll() is None and not (log.exists() and len(alive) == 2):  # first there is a log
    time.sleep(0.005)
    alive = children.read_text().split()
  for child in alive:
    os.kill(int(child), signal.SIGKILL)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGKILL, said
  assert 'worker 1 was ended by SIGKILL' in said and '3 to do' in said


def test_a_worker_that_is_killed_costs_its_run_and_begins_again(tmp_path):
  directory = tmp_path / 'runs'
  process = start(tmp_path, {'epochs': 2}, '--workers=2', '--together=1')
  while process.poll() is None and not any(map(runlog.read_log, directory.glob('digits-*'))):
    time.sleep(0.005)
  [place, *_] = [found for found in directory.glob('digits-*') if runlog.read_log(found)]
  os.kill(lease.pid(place), signal.SIGKILL)
  _, said = process.communicate()
  assert process.returncode == 1, said
  assert '2 done, 0 running, 1 failed, 0 to do' in said
  assert 'ended by SIGKILL (out of memory?)' in agenda.read_failure(place)['error']
  assert len(results.read([directory])) == 2


def test_of_several_runs_that_a_dead_worker_had_none_is_blamed_before_it_is_alone(tmp_path):
  jobs = planned(small(), small(seed=1), small(seed=2))
  dead = workers.Worker(types.SimpleNamespace(pid=1, returncode=-signal.SIGKILL), 0, ['sweep'])
  for job in jobs:
    (tmp_path / job.tag).mkdir()
    (tmp_path / job.tag / lease.FILE).write_text(
      json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'})
    )
  work.record_failure(jobs[2], tmp_path / jobs[2].tag, 'for another reason')
  assert workers._after(dead, jobs, tmp_path) == (0, ['sweep', '--together=1'])
  assert states(tmp_path, jobs) == ['running', 'running', 'failed']
  (tmp_path / jobs[1].tag / lease.FILE).unlink()
  workers.log_file(tmp_path, 0).write_text('of an earlier run\n' * 99 + 'its last word\n')
  assert workers._after(dead, jobs, tmp_path) == (0, ['sweep'])
  assert states(tmp_path, jobs) == ['failed', 'waiting', 'failed']
  (tmp_path / jobs[0].tag / lease.FILE).write_text(
    json.dumps({'pid': 1, 'host': 'elsewhere.invalid', 'started': '1'})
  )  # of a run that is over: it died between two
  assert workers._after(dead, jobs, tmp_path) == (0, ['sweep'])
  said = agenda.read_failure(tmp_path / jobs[0].tag)['traceback'].splitlines()
  assert len(said) == 20 and said[-1] == 'its last word'


def test_more_workers_than_gpus_are_refused(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  assert workers.environment(1, 2)['CUDA_VISIBLE_DEVICES'] == '5'
  with pytest.raises(ValueError, match='number of GPUs, 2; got 3'):
    workers.environment(0, 3)


def test_gpus_that_jax_cannot_use_are_not_counted(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  if not processor.only_cpu(os.environ):
    pytest.skip('an accelerator is here that JAX is installed for')
  assert workers.environment(0, 3) == os.environ
