"""Trains the jobs that are not done, one after the other, in this process."""

import datetime
import json
import os
import pathlib
import traceback
from collections.abc import Callable, Sequence

from random_pruning_jax import config as config_lib
from random_pruning_jax import results, run
from random_pruning_jax.sweep import claim, plan
from random_pruning_jax.sweep.plan import Job


def forget_failures(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  """So that failed runs are tried again, from their last checkpoint."""
  for job in jobs:
    (directory / job.tag / plan.FAILED).unlink(missing_ok=True)


def work(
  jobs: Sequence[Job], directory: pathlib.Path, more: Callable[[], bool] = lambda: True
) -> None:
  """Trains and evaluates every job that is neither done, failed nor another process's.

  `more` is asked before each run whether to go on. A run that raises is recorded and left.
  """
  for job in jobs:
    place = directory / job.tag
    if not more():
      return
    if plan.state(place) in ('done', 'failed'):
      continue
    with claim.hold(place) as mine:
      if mine and plan.state(place) not in ('done', 'failed'):  # as it may be since we looked
        _run(job, place)


def record_failure(job: Job, place: pathlib.Path, error: str, trace: str = '') -> None:
  """Writes what went wrong into the run's directory."""
  place.mkdir(parents=True, exist_ok=True)
  found = {
    'tag': job.tag,
    'error': error,
    'traceback': trace,
    'config': config_lib.flat(job.config),
    'seed': job.config.seed,
    'commit': results.commit(),
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }
  whole = place / f'{plan.FAILED}.{os.getpid()}.tmp'
  whole.write_text(json.dumps(found, indent=2, sort_keys=True) + '\n')
  whole.replace(place / plan.FAILED)


def _run(job: Job, place: pathlib.Path) -> None:
  if job.error:
    record_failure(job, place, f'ValueError: {job.error}')
    return
  try:
    run.run(job.config, place, show=False)
  except Exception as error:  # whatever it is, it is this run's alone
    record_failure(job, place, f'{type(error).__name__}: {error}', traceback.format_exc())
