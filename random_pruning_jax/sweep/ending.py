"""What a person is told where a sweep ends: of runs that failed, are left, or lack a number."""

import collections
import pathlib
import shlex
from collections.abc import Sequence

from random_pruning_jax import config as config_lib
from random_pruning_jax import results
from random_pruning_jax.config import files as config_files
from random_pruning_jax.progress import say
from random_pruning_jax.sweep import agenda, lease
from random_pruning_jax.sweep.agenda import Job


def tell(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  for job in jobs:
    place = directory / job.tag
    if agenda.state(place) == 'failed':
      say(f'failed: {place / results.FAILED}')
  _say_leased(jobs, directory)
  _say_measured_otherwise(jobs, directory)
  _say_skipped(jobs, directory)
  say(f'Tables and figures: random-pruning report {directory}')


def _say_leased(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  running = [job.tag for job in jobs if agenda.state(directory / job.tag) == 'running']
  holders = {tag: lease.holder(directory / tag) for tag in running}
  found = [(tag, holder) for tag, holder in holders.items() if holder]
  if not found:
    return
  tag, holder = found[0]
  say(
    f'left to other processes: {len(found)}, such as {tag}, left to process {holder["pid"]} on '
    f'{holder["host"]}. Of one that is gone, the same command takes the run over: on its host at '
    f'once, elsewhere {lease.STALE_AFTER / 60:.0f} minutes after its last sign of life.'
  )


def _say_measured_otherwise(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  found = []
  for job in jobs:
    row = results.row_of(directory / job.tag)
    fields = results.measured_otherwise(row, config_lib.flat(job.config)) if row else []
    if fields:
      found.append((job, fields))
  if not found:
    return
  job, fields = found[0]
  asked = config_lib.flat(job.config)
  changes = [config_files.argument(field, asked[field]) for field in fields]
  command = shlex.join(['random-pruning', 'evaluate', str(directory / job.tag), *changes])
  say(
    f'done runs that were measured otherwise than this file asks: {len(found)}; this measures one '
    f'anew: {command}'
  )


def _say_skipped(jobs: Sequence[Job], directory: pathlib.Path) -> None:
  rows = filter(None, (results.row_of(directory / job.tag) for job in jobs))
  final = [row.get('skipped', {}) for row in rows if results.is_final(row)]
  found = collections.Counter(each for skipped in final for each in skipped.items())
  for (name, why), count in found.items():
    say(f'skipped in {count} run{"s" * (count > 1)}: {name}: {why}')
