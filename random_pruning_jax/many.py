"""Many networks in one program: runs that differ in masks, seed and rates alone train together.

Each is computed as it is alone, to rounding, from its own images in its own order, and keeps its
own log and checkpoints: a run that was begun here goes on in `train.train`, and the other way
round. A network whose loss is no number any more stands still, and the others do not notice.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import checkpoints, feed, parallel, preemption, runlog, stacked
from random_pruning_jax import config as config_lib
from random_pruning_jax.book import Book
from random_pruning_jax.experiment import Experiment, experiment
from random_pruning_jax.progress import Progress
from random_pruning_jax.step import TrainState
from random_pruning_jax.train import Run, begin, prepare

# Fields, or beginnings of fields, in which networks that train together may differ.
FREE = ('seed', 'pruning.', 'optimizer.lr', 'optimizer.weight_decay', 'evaluation.', 'data_workers')


def train_many(
  configs: Sequence[ConfigDict],
  workdirs: Sequence[str | os.PathLike],
  *,
  on: tuple[jax.Device, ...] | None = None,
  way: str = '',
  spread: bool | None = None,
  show: bool = True,
) -> list[TrainState | Exception]:
  """Trains the networks of several configs at once; each goes on from its own latest checkpoint.

  `way` is one of `stacked.WAYS`; '' is 'vmap' on GPU and TPU, and 'turn' on a CPU. With `spread`,
  each device has some of the networks and not a part of each batch, which is faster where they need
  no more than a device (default: on CPUs, where that changes no number). Returns for each its last
  state, or the error that ended it: what `train.train` raises, which stops no other. Raises
  ValueError naming the fields in which configs differ that must not, and for streamed images; and
  preemption.Preempted after SIGTERM, once all are saved.
  """
  on = parallel.devices() if on is None else on
  spread = all(_by_itself(config, on) for config in configs) if spread is None else spread
  every = [
    experiment(config, (on[i % len(on)],) if spread else on) for i, config in enumerate(configs)
  ]
  check_alike([parts.config for parts in every])
  if feed.loading(every[0].config) != 'resident':
    raise ValueError("data_loading must be 'resident' where networks train together.")
  places = [os.path.abspath(workdir) for workdir in workdirs]
  if len(set(places)) != len(configs):
    raise ValueError(f'each of {len(configs)} networks must have its own workdir, got {places}.')
  way = config_lib.choice('way', way or stacked.default_way(on), stacked.WAYS)
  members = [_Member(parts, place) for parts, place in zip(every, places, strict=True)]
  with contextlib.ExitStack() as stack:
    for member in members:
      with member.guarded():
        member.open(stack)
    if going := [member for member in members if member.outcome is None]:
      _loop(going, way, show)
  return [member.outcome for member in members]


def key(config: ConfigDict) -> str:
  """Equal for configs whose networks can train together."""
  return json.dumps(_common(config), sort_keys=True)


def check_alike(configs: Sequence[ConfigDict]) -> None:
  """Raises ValueError naming the fields that differ, of those that must not."""
  if not configs:
    raise ValueError('there must be at least one network to train, got none.')
  first, *others = [_common(config) for config in configs]
  for number, other in enumerate(others, 1):
    differ = [
      f'{name} is {first.get(name)!r} and {other.get(name)!r}'
      for name in sorted(first.keys() | other.keys())
      if first.get(name) != other.get(name)
    ]
    if differ:
      raise ValueError(
        f'networks that train together may differ in {", ".join(FREE)} alone; of configs 0 and '
        f'{number} {"; ".join(differ)}.'
      )


def _by_itself(config: ConfigDict, on: Sequence[jax.Device]) -> bool:
  """Whether a CPU may train it on one device, which gives what several give, to rounding."""
  whole = config.model.sync_batch_norm and config.optimizer.accumulate == 1
  return on[0].platform == 'cpu' and jax.process_count() == 1 and whole


def _common(config: ConfigDict) -> dict[str, Any]:
  return {k: v for k, v in config_lib.flat(config).items() if not k.startswith(FREE)}


class _Member:
  """One of the networks: what it has of its own, and how it ended."""

  run: Run
  state: TrainState
  book: Book

  def __init__(self, parts: Experiment, workdir: str):
    self.parts, self.workdir = parts, workdir
    self.outcome: TrainState | Exception | None = None

  def open(self, stack: contextlib.ExitStack) -> None:
    first = jax.process_index() == 0
    if first:
      runlog.claim(self.workdir, self.parts.config)
    parallel.check_same('the config', self.parts.config.to_json())
    self.run = prepare(self.parts, self.workdir)
    stack.enter_context(checkpoints.closing(self.run.saved))
    self.state, record = begin(self.run)
    done = int(self.state.step)
    if done == self.run.last_step:
      self.outcome = self.state
      return
    log = stack.enter_context(runlog.RunLog(self.workdir, done, write=first))
    silent = stack.enter_context(Progress(self.run.last_step, done=done, show=False))
    self.book = Book(self.run, self.state, record, log, silent)

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """An error inside is this network's alone, and ends it."""
    try:
      yield
    except Exception as error:
      self.outcome = error

  def takes(self, step: int) -> bool:
    return self.outcome is None and self.book.step == step

  def settle(self) -> None:
    if self.outcome is None:
      with self.guarded():
        self.book.settle()


class _Group:
  """Networks of one program: their states are one tree, with a leading axis."""

  def __init__(self, members: list[_Member], shared: tuple, ends: list[tuple[int, int]], way: str):
    run, on, count = members[0].run, members[0].parts.on, len(members)
    self._members, self._axes = members, run.feed.axes
    self._program = stacked.compiled(run.step, run.feed.axes, on, way, count)
    states, own = zip(*((member.state, member.run.own) for member in members), strict=True)
    self._states, self._own = parallel.replicate((stacked.stack(states), stacked.stack(own)), on)
    for member in members:
      del member.state  # the devices' memory
    self._alive, self._shared = np.ones(count, bool), shared
    self._streams = [member.run.feed.stream(ends) for member in members]

  def call(self, start: int) -> None:
    """Gives the devices the call that begins after `start` steps."""
    inputs = []
    for member, stream in zip(self._members, self._streams, strict=True):
      with member.book.waiting():
        inputs.append(next(stream))
    self._going = np.array([member.takes(start) for member in self._members])
    self._states, self._alive, self._figures = self._program(
      self._states,
      self._alive,
      self._going,
      self._shared,
      self._own,
      *stacked.batches(inputs, self._axes),
    )

  def tell(self, end: int, save: bool) -> None:
    """Tells the books of those that took the call, once what was due before it is done."""
    for i, member in enumerate(self._members):
      member.settle()
      if self._going[i] and member.outcome is None:
        seen = save or member.book.wants_state(end)
        with member.guarded():
          state = parallel.row(self._states, i) if seen else None
          member.book.took(end, state, self._figures[i], save=save)

  def finish(self) -> None:
    for i, member in enumerate(self._members):
      member.settle()
      if member.outcome is None:
        with member.guarded():
          checkpoints.finish(member.run.saved)
          member.outcome = parallel.row(self._states, i)


def _loop(members: list[_Member], way: str, show: bool) -> None:
  """Until the last step of all; who has come further than others waits for them, standing still."""
  run, steps = members[0].run, [member.book.step for member in members]
  ends = list(run.calls(min(steps), at=tuple(steps)))
  first = {member.parts.on: member.run.feed for member in reversed(members)}
  shared = {on: fed.shared() for on, fed in first.items()}  # the images, once
  shares = [[member for member in members if member.parts.on == on] for on in shared]
  if way == 'turn':
    shares = [[member] for member in members]
  groups = [_Group(share, shared[share[0].parts.on], ends, way) for share in shares]
  show, stop = show and jax.process_index() == 0, False
  with Progress(run.last_step, done=min(steps), show=show) as bar, preemption.Watch() as watch:
    bar.figures(f'{len(members)} networks')
    for number, (start, end) in enumerate(ends, 1):
      for group in groups:
        group.call(start)
      stop = watch.asked(number)
      for group in groups:
        group.tell(end, save=stop)
      bar.advance(end - start)
      if stop or all(member.outcome is not None for member in members):
        break
    for group in groups:
      group.finish()
  if stop:
    raise preemption.Preempted(
      f'asked to stop (SIGTERM); saved {len(members)} networks at step {end}'
    )
