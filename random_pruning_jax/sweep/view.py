"""What a person sees of a sweep: a block that redraws itself on a terminal, else plain lines."""

import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from random_pruning_jax import results, runlog
from random_pruning_jax.sweep import agenda
from random_pruning_jax.sweep.agenda import Job
from random_pruning_jax.sweep.estimate import Cost, duration, share_trained

_SHOWN = 8  # running jobs on the screen at most


class View:
  """Reads the jobs' directories and says what changed. Use as a context: it refreshes itself."""

  def __init__(
    self,
    jobs: Sequence[Job],
    costs: Sequence[Cost | None],
    directory: pathlib.Path,
    to: TextIO | None = None,
  ):
    self._jobs, self._directory = jobs, directory
    self._out = to or sys.stderr
    self._terminal = self._out.isatty()
    self._steps = {j.tag: c.steps if c else None for j, c in zip(jobs, costs, strict=True)}
    self._work = {j.tag: (c and c.dense_flops) or 0.0 for j, c in zip(jobs, costs, strict=True)}
    self._states = {job.tag: agenda.state(directory / job.tag) for job in jobs}
    self._seconds: dict[str, float] = {}  # {tag: seconds} of finished runs
    for job in jobs:
      if self._states[job.tag] == 'done':
        self._finished(job)
    self._before, self._began = set(self._seconds), time.monotonic()
    self._lines_drawn = 0
    self._over = threading.Event()
    self._lock = threading.Lock()

  def __enter__(self) -> 'View':
    self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
    before = self.count('done')
    failed = self.count('failed')
    notes = [f'{before} done already' if before else '']
    notes += [f'{failed} failed before (--retry tries them again)' if failed else '']
    self._say(', '.join([f'{len(self._jobs)} runs in {self._directory}', *filter(None, notes)]))
    self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._over.set()
    self._thread.join()
    self.refresh()
    self._erase()

  def count(self, state: str) -> int:
    return list(self._states.values()).count(state)

  def refresh(self) -> None:
    """Looks at every job that may have changed, and says so."""
    with self._lock:
      for job in self._jobs:
        old = self._states[job.tag]
        if old == 'done':
          continue
        new = self._states[job.tag] = agenda.state(self._directory / job.tag)
        if new == 'done':
          self._finished(job)
        if new != old and new in agenda.OVER:
          self._say(self._ended(job, new))
      if self._terminal:
        self._draw()

  def summary(self) -> str:
    """18 done, 1 running, 2 failed, 3 to do, 4 min left."""
    todo = self.count('waiting') + self.count('interrupted')
    parts = [f'{self.count("done")} done', f'{self.count("running")} running']
    parts += [f'{self.count("failed")} failed', f'{todo} to do']
    left = self.seconds_left()
    return ', '.join([*parts, *([f'{duration(left)} left'] if left else [])])

  def seconds_left(self) -> float | None:
    """Estimated from finished runs, of like networks if there are any; None before the first.

    The time of a network not trained yet is scaled by multiply-adds to the power of 3/4: small
    networks wait for other things than arithmetic. How many runs go on at once, in however many
    processes, shows in how much was done since this view began.
    """
    known: dict[str, list[float]] = {}
    for job in self._jobs:
      if job.tag in self._seconds:
        known.setdefault(job.group, []).append(self._seconds[job.tag])
    if not known:
      return None
    typical = {group: statistics.median(seconds) for group, seconds in known.items()}
    work = {job.group: self._work[job.tag] for job in self._jobs}
    left, spent = 0.0, sum(self._seconds[tag] for tag in self._seconds.keys() - self._before)
    for job in self._jobs:
      if self._states[job.tag] in agenda.OVER:
        continue
      like = min(typical, key=lambda group: abs(work[group] - self._work[job.tag]))
      scale = (self._work[job.tag] / work[like]) ** 0.75 if work[like] else 1.0
      seconds = typical.get(job.group, typical[like] * scale)
      left += (1 - self._share(job.tag)) * seconds
      spent += self._share(job.tag) * seconds if self._states[job.tag] == 'running' else 0.0
    if not spent:
      return left / max(1, self.count('running'))
    return left * (time.monotonic() - self._began) / spent

  def _finished(self, job: Job) -> None:
    row = results.row_of(self._directory / job.tag)
    self._seconds[job.tag] = sum(
      row.get(name) or 0.0 for name in ('train_seconds', 'evaluation_seconds')
    )

  def _share(self, tag: str) -> float:
    return share_trained(self._directory / tag, self._steps[tag])

  def _ended(self, job: Job, state: str) -> str:
    over = self.count('done') + self.count('failed')
    left = self.seconds_left()
    rest = f'  ({duration(left)} left)' if left and not self._terminal else ''
    return f'[{over}/{len(self._jobs)}] {state:<6} {job.tag}  {self._outcome(job, state)}{rest}'

  def _outcome(self, job: Job, state: str) -> str:
    if state == 'failed':
      found = agenda.read_failure(self._directory / job.tag)
      return (found['error'].splitlines() or [''])[0][:160]
    row = results.row_of(self._directory / job.tag)
    accuracy = row.get('metrics', {}).get('accuracy')
    seconds = row.get('train_seconds') or 0.0
    return f'accuracy {accuracy:.2%}  {duration(seconds)}' if accuracy is not None else ''

  def _keep_fresh(self) -> None:
    while not self._over.wait(1.0):
      self.refresh()

  def _draw(self) -> None:
    width = 30
    share = (self.count('done') + self.count('failed')) / max(1, len(self._jobs))
    full = round(share * width)
    lines = [f'[{"#" * full}{"." * (width - full)}] {self.summary()}']
    running = [tag for tag, state in self._states.items() if state == 'running']
    for tag in running[:_SHOWN]:
      log = runlog.read_log(self._directory / tag)
      trained = [line for line in log if line['kind'] == 'train']
      loss = f'  loss {trained[-1]["loss"]:.3f}' if trained else ''
      lines.append(f'  {self._share(tag):>4.0%}  {tag}{loss}')
    if len(running) > _SHOWN:
      lines.append(f'  and {len(running) - _SHOWN} more')
    self._erase()
    self._out.write('\n'.join(lines) + '\n')
    self._out.flush()
    self._lines_drawn = len(lines)

  def _erase(self) -> None:
    if self._lines_drawn:
      self._out.write(f'\x1b[{self._lines_drawn}F\x1b[J')  # up, and clear to the end
      self._lines_drawn = 0

  def _say(self, text: str) -> None:
    self._erase()
    self._out.write(text + '\n')
    self._out.flush()
