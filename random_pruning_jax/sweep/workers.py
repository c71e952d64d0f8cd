"""Several worker processes on one sweep, each with a GPU of its own where there are any."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from random_pruning_jax.sweep import claim, plan, work
from random_pruning_jax.sweep.plan import Job

_PATIENCE = 60.0  # seconds in which an interrupted worker may finish what it writes


class Worker(NamedTuple):
  process: subprocess.Popen
  number: int


def gpus() -> list[str]:
  """Names of the NVIDIA GPUs that this process may use, without starting any of them."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    return [name for name in visible.split(',') if name and name != '-1']
  found = pathlib.Path('/proc/driver/nvidia/gpus')
  return [str(i) for i in range(len(list(found.iterdir())))] if found.is_dir() else []


def environment(number: int, workers: int) -> dict[str, str]:
  """Of worker `number`: one GPU. Raises ValueError where there are fewer GPUs than workers."""
  names = gpus() if os.environ.get('JAX_PLATFORMS') != 'cpu' else []
  if names and workers > len(names):
    raise ValueError(f'--workers must be at most the number of GPUs, {len(names)}; got {workers}.')
  return os.environ | ({'CUDA_VISIBLE_DEVICES': names[number]} if names else {})


def run(command: Sequence[str], workers: int, jobs: Sequence[Job], directory: pathlib.Path) -> None:
  """Starts `command --worker=I` that many times and waits until nothing is left for them to do.

  A worker that dies (out of memory, killed) costs the run that it had: that run is recorded as
  failed and the worker is started again. An interrupt ends every worker.
  """
  environments = [environment(i, workers) for i in range(workers)]
  alive = [_start(command, i, environments[i], directory) for i in range(workers)]
  try:
    while alive:
      time.sleep(0.2)
      for worker in [w for w in alive if w.process.poll() is not None]:
        alive.remove(worker)
        if worker.process.returncode < 0 and _blame(worker, jobs, directory):
          alive.append(_start(command, worker.number, environments[worker.number], directory))
  finally:
    _stop(alive)


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
  return Worker(process, number)


def _blame(worker: Worker, jobs: Sequence[Job], directory: pathlib.Path) -> bool:
  """Records the run that a dead worker had as failed; False if it had none."""
  name = signal.Signals(-worker.process.returncode).name
  for job in jobs:
    held = directory / job.tag / claim.FILE
    if claim.pid(held) == worker.process.pid and plan.state(directory / job.tag) != 'done':
      log = log_file(directory, worker.number)
      error = f'the worker process was ended by {name} (out of memory?); see {log}'
      work.record_failure(job, directory / job.tag, error)
      held.unlink(missing_ok=True)
      return True
  return False


def _stop(alive: Sequence[Worker]) -> None:
  for worker in alive:
    worker.process.terminate()  # a run that trains saves first
  deadline = time.monotonic() + _PATIENCE
  for worker in alive:
    try:
      worker.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      worker.process.kill()
