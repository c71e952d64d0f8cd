"""Several worker processes on one sweep, each with a GPU of its own where there are any."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from random_pruning_jax.progress import say
from random_pruning_jax.sweep import agenda, lease, work
from random_pruning_jax.sweep.agenda import Job
from random_pruning_jax.system import processor

_PATIENCE = 60.0  # seconds in which an interrupted worker may finish what it writes
_LAST = 20  # lines of the log of a dead worker that are kept with its run


class Worker(NamedTuple):
  process: subprocess.Popen
  number: int
  command: Sequence[str]


def gpus() -> list[str]:
  """Names of the NVIDIA GPUs that this process may use, without starting any of them."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    return [name for name in visible.split(',') if name and name != '-1']
  found = pathlib.Path('/proc/driver/nvidia/gpus')
  return [str(i) for i in range(len(list(found.iterdir())))] if found.is_dir() else []


def environment(number: int, workers: int) -> dict[str, str]:
  """Of worker `number`: one GPU. Raises ValueError where there are fewer GPUs than workers."""
  names = [] if processor.only_cpu(os.environ) else gpus()
  if names and workers > len(names):
    raise ValueError(f'--workers must be at most the number of GPUs, {len(names)}; got {workers}.')
  return os.environ | ({'CUDA_VISIBLE_DEVICES': names[number]} if names else {})


def run(command: Sequence[str], workers: int, jobs: Sequence[Job], directory: pathlib.Path) -> int:
  """Starts `command --worker=I` for each of `workers`, and waits until nothing is left to do.

  Returns 0, or if runs are left the status of a worker that gave up, whose log is named.

  A worker that dies (out of memory, killed) costs the run that it had: that run is recorded as
  failed and the worker is started again. If it had several, it is started again to train them in
  turn, which shows which one is at fault. An interrupt ends every worker.
  """
  status = 0
  environments = [environment(i, workers) for i in range(workers)]
  alive: list[Worker] = []
  try:
    for i, own in enumerate(environments):
      alive.append(_start(command, i, own, directory))
    while alive:
      time.sleep(0.2)
      for worker in [w for w in alive if w.process.poll() is not None]:
        alive.remove(worker)
        ended, again = _after(worker, jobs, directory)
        status = ended or status
        if again:
          alive.append(_start(again, worker.number, environments[worker.number], directory))
  finally:
    _stop(alive)
  left = any(agenda.state(directory / job.tag) not in agenda.OVER for job in jobs)
  return status if left else 0


def _after(
  worker: Worker, jobs: Sequence[Job], directory: pathlib.Path
) -> tuple[int, Sequence[str] | None]:
  """The status that a worker leaves, and the command that starts it again, if any."""
  code, log = worker.process.returncode, log_file(directory, worker.number)
  if code >= 0:
    if code:
      say(f'worker {worker.number} gave up with status {code}; see {log}')
    return code, None
  had = [job for job in jobs if lease.pid(directory / job.tag) == worker.process.pid]
  held = [job for job in had if agenda.state(directory / job.tag) not in agenda.OVER]
  if not had:  # it died before it had a run, and the next would too
    say(f'worker {worker.number} was ended by {signal.Signals(-code).name}; see {log}')
    return 128 - code, None
  if len(held) == 1:
    _blame(worker, held[0], directory)
  return 0, [*worker.command, '--together=1'] if len(held) > 1 else worker.command


def log_file(directory: pathlib.Path, number: int) -> pathlib.Path:
  return directory / f'worker-{number}.log'


def _start(
  command: Sequence[str], number: int, environment: dict[str, str], directory: pathlib.Path
) -> Worker:
  with log_file(directory, number).open('a') as log:
    process = subprocess.Popen(
      [sys.executable, '-m', 'random_pruning_jax', *command, f'--worker={number}'],
      stdout=log,
      stderr=log,
      env=environment,
      start_new_session=True,  # a Ctrl-C comes through `_stop`, and so only once
    )
  return Worker(process, number, command)


def _blame(worker: Worker, job: Job, directory: pathlib.Path) -> None:
  """Records the run that a dead worker had as failed."""
  name = signal.Signals(-worker.process.returncode).name
  log = log_file(directory, worker.number)
  error = f'the worker process was ended by {name} (out of memory?); see {log}'
  end = log.read_text(errors='replace').splitlines()[-_LAST:]
  work.record_failure(job, directory / job.tag, error, '\n'.join(end))
  (directory / job.tag / lease.FILE).unlink(missing_ok=True)


def _stop(alive: Sequence[Worker]) -> None:
  for worker in alive:
    worker.process.terminate()  # a run that trains saves first
  deadline = time.monotonic() + _PATIENCE
  for worker in alive:
    try:
      worker.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      worker.process.kill()
