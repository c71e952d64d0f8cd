"""Trains the jobs that are not done, in this process: in turn, or some of a kind together."""

import contextlib
import datetime
import json
import pathlib
import time
import traceback
from collections.abc import Callable, Sequence

from random_pruning_jax import config as config_lib
from random_pruning_jax import results, run
from random_pruning_jax.progress import say
from random_pruning_jax.sweep import agenda, lease
from random_pruning_jax.sweep.agenda import Job
from random_pruning_jax.system import atomic, preemption
from random_pruning_jax.training import room

QUICK = 120.0  # seconds; runs this short gain less from all devices than another compilation takes


def forget_failures(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  """Lets failed runs be tried again, from their last checkpoint."""
  for job in jobs:
    (directory / job.tag / results.FAILED).unlink(missing_ok=True)


def work(
  jobs: Sequence[Job],
  directory: pathlib.Path,
  more: Callable[[], bool] = lambda: True,
  together: int = 1,
) -> None:
  """Trains and evaluates every job that is neither done, failed nor another process's.

  Up to `together` jobs of a group train at once; 0 is as many as the devices have room for. `more`
  is asked before each group whether to go on. A run that raises is recorded and left. Runs that
  another process held are looked at again at the end, and taken over if that process is gone.
  Raises preemption.Preempted after SIGTERM.
  """
  left = [job for job in jobs if not _over(job, directory)]
  sizes: dict[str, int] = {}
  seconds: dict[str, float] = {}  # {group: seconds} of the last jobs trained together
  tried: set[str] = set()  # tags; none is tried twice here
  while left and more():
    preemption.check()  # of a run that failed after it was asked to stop
    first = left[0]
    chosen = [first]
    if not first.error:
      if first.group not in sizes:
        sizes[first.group] = _size(first, together)
      like = [job for job in left if job.group == first.group and not job.error]
      chosen = like[: sizes[first.group]]
    tags = {job.tag for job in chosen}
    left = [job for job in left if job.tag not in tags]
    with contextlib.ExitStack() as held:
      mine = [job for job in chosen if held.enter_context(lease.hold(directory / job.tag))]
      mine = [job for job in mine if not _over(job, directory)]  # as it may be since we looked
      tried.update(job.tag for job in mine)
      # A single leftover is done sooner in the program at hand than alone in a new one (if quick).
      if len(mine) > 1 or (mine and seconds.get(first.group, QUICK) < QUICK):
        began = time.monotonic()
        _run_together(mine, directory)
        seconds[first.group] = time.monotonic() - began
      elif mine:
        _run(mine[0], directory / mine[0].tag)
    left = left or [job for job in jobs if job.tag not in tried and _free(job, directory)]


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
  atomic.write(place / results.FAILED, json.dumps(found, indent=2, sort_keys=True) + '\n')


def _over(job: Job, directory: pathlib.Path) -> bool:
  return agenda.state(directory / job.tag) in agenda.OVER


def _free(job: Job, directory: pathlib.Path) -> bool:
  return agenda.state(directory / job.tag) in ('waiting', 'interrupted')


def _size(job: Job, together: int) -> int:
  """How many jobs like this one train at once."""
  try:
    return together if together == 1 else room.group_size(job.config, together)
  except Exception as error:  # not of one run, or it would be recorded: no room for even one, say
    say(f'how many runs there is room for is not known, and they train in turn: {error}')
    return 1


def _run_together(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  places = [directory / job.tag for job in jobs]
  try:
    ends = run.run_many([job.config for job in jobs], places, show=False)
  except Exception as error:  # not of one run: too little memory for all at once, say
    say(f'{len(jobs)} runs could not train together, and train in turn: {error}')
    ends = None
  if ends is None:  # only here: the error held on to what had filled the memory
    for job, place in zip(jobs, places, strict=True):
      _run(job, place)
    return
  for job, place, end in zip(jobs, places, ends, strict=True):
    if isinstance(end, Exception):
      _record(job, place, end)


def _run(job: Job, place: pathlib.Path) -> None:
  if job.error:
    record_failure(job, place, f'ValueError: {job.error}', job.trace)
    return
  try:
    run.run(job.config, place, show=False)
  except Exception as error:  # whatever it is, it is this run's alone
    _record(job, place, error)


def _record(job: Job, place: pathlib.Path, error: Exception) -> None:
  if isinstance(error, run.InUseError):  # its process was slow to touch the lease, but lives
    say(f'{error}')
    return
  trace = ''.join(traceback.format_exception(error))
  record_failure(job, place, f'{type(error).__name__}: {error}', trace)
