"""Networks that train together: what each has of its own, and calls of the program they share."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from random_pruning_jax import checkpoints, parallel, runlog
from random_pruning_jax.experiment import Experiment
from random_pruning_jax.progress import Progress
from random_pruning_jax.step import TrainState
from random_pruning_jax.training import stacked
from random_pruning_jax.training.beginning import restore_or_init
from random_pruning_jax.training.prepared import Run, claim, open_run
from random_pruning_jax.training.recorder import Recorder


class Member:
  """One of the networks, and how it ended."""

  run: Run
  state: TrainState
  recorder: Recorder

  def __init__(self, experiment: Experiment, workdir: str):
    self.experiment, self.workdir = experiment, workdir
    self.outcome: TrainState | Exception | None = None
    self._held = contextlib.ExitStack()

  def open(self) -> None:
    first = jax.process_index() == 0
    claim(self.experiment, self.workdir)
    self.run = open_run(self.experiment, self.workdir)
    self._held.enter_context(checkpoints.closing(self.run.saved))
    self.state, record = restore_or_init(self.run)
    done = int(self.state.step)
    if done == self.run.last_step:
      self.outcome = self.state
      return
    log = self._held.enter_context(runlog.RunLog(self.workdir, done, write=first))
    silent = self._held.enter_context(Progress(self.run.last_step, done=done, show=False))
    self.recorder = Recorder(self.run, self.state, record, log, silent)

  def close(self, *raised: Any) -> None:
    """As a context's `__exit__`: the last save waits for other processes, unless an error came."""
    with self.guarded():
      self._held.__exit__(*raised)

  @contextlib.contextmanager
  def guarded(self) -> Iterator[None]:
    """An error inside ends this network alone; the first one becomes its outcome."""
    try:
      yield
    except Exception as error:
      if not isinstance(self.outcome, Exception):
        self.outcome = error

  def takes(self, step: int) -> bool:
    return self.outcome is None and self.recorder.step == step


def calls_of(members: list[Member]) -> list[tuple[int, int]]:
  """Steps before and after each call; calls also end at each step where a member stands."""
  steps = [member.recorder.step for member in members]
  return list(members[0].run.calls(min(steps), at=tuple(steps)))


class Group:
  """Networks on the same devices: their states are one tree, with a leading axis.

  Of M networks on D devices, states [M, ...] are replicated and indices are [D, M, S, B / D].
  """

  def __init__(
    self,
    members: list[Member],
    spans: list[tuple[int, int]],
    shared: tuple,
    on: tuple[jax.Device, ...],
    way: str,
  ):
    self._members, self._shared, self._on, self._way = members, shared, on, way
    rows = self._rows()
    states, own = zip(*((member.state, member.run.own) for member in rows), strict=True)
    # Placed as the program will return them, or its second call would compile it again.
    self._states, self._own, self._alive = self._place(
      (stacked.stack(states), stacked.stack(own), np.ones(len(rows), bool))
    )
    for member in members:
      del member.state  # frees the devices' memory
    self._going = np.zeros(len(rows), bool)
    self._streams = [member.run.feed.stream(spans) for member in members]
    self._program = self._compiled()

  def call(self, start: int) -> None:
    """Gives the devices the call that begins after `start` steps."""
    inputs = []
    for member, stream in zip(self._members, self._streams, strict=True):
      with member.recorder.waiting():
        inputs.append(next(stream))
    self._going[: len(inputs)] = [member.takes(start) for member in self._members]
    given = self._inputs(inputs)
    with contextlib.ExitStack() as stack:
      for member in self._members:
        stack.enter_context(member.recorder.compiling(f'{given[0].shape} of images'))
      self._states, self._alive, self._metrics = self._program(
        self._states, self._alive, self._going.copy(), self._shared, self._own, *given
      )

  def tell(self, end: int, save: bool) -> None:
    """Does what was due before the call, then tells the recorders of those that took it."""
    for i, member in enumerate(self._members):
      if member.outcome is None:
        with member.guarded():
          member.recorder.write_due()
          if self._going[i]:
            copy = functools.partial(self._state, i)
            member.recorder.call_ended(end, copy, self._metrics_of(i), save=save)

  def finish(self) -> None:
    for i, member in enumerate(self._members):
      if member.outcome is None:
        with member.guarded():
          member.recorder.finish()
          member.outcome = self._state(i)

  def _rows(self) -> list[Member]:
    return self._members

  def _place(self, tree: Any) -> Any:
    return parallel.replicate(tree, self._on)

  def _compiled(self) -> Any:
    run, count = self._members[0].run, len(self._members)
    return stacked.compiled(run.step, run.feed.axes, self._on, self._way, count)

  def _inputs(self, each: list[tuple]) -> list[np.ndarray]:
    return stacked.inputs(each, self._members[0].run.feed.axes)

  def _state(self, i: int) -> TrainState:
    return parallel.row(self._states, i)

  def _metrics_of(self, i: int) -> dict[str, jax.Array]:
    return self._metrics[i]


class Apart(Group):
  """Networks divided over the devices, equally many on each.

  If they do not divide evenly, copies of the first fill up the rest and stand still: another number
  of networks would be another program to compile. States [M, ...] and indices [M, S, B] are sharded
  over the devices; M counts the copies too.
  """

  def _rows(self) -> list[Member]:
    missing = -len(self._members) % len(self._on)
    return self._members + self._members[:1] * missing

  def _place(self, tree: Any) -> Any:
    return parallel.place_apart(tree, self._on)

  def _compiled(self) -> Any:
    run = self._members[0].run
    return stacked.compiled_apart(run.step, len(run.feed.axes), self._on, self._way)

  def _inputs(self, each: list[tuple]) -> list[np.ndarray]:
    """[M, S, ...], of streams for one device."""
    each = each + each[:1] * (len(self._going) - len(each))
    return [
      np.stack([array if axis is None else array[0] for array in arrays])
      for arrays, axis in zip(zip(*each, strict=True), self._members[0].run.feed.axes, strict=True)
    ]

  def _state(self, i: int) -> TrainState:
    """On the host: a program to cut it out on each device would take longer to compile."""
    return jax.tree.map(lambda x: np.array(parallel.row_apart(x, i))[0], self._states)

  def _metrics_of(self, i: int) -> dict[str, jax.Array]:
    return jax.tree.map(lambda x: parallel.row_apart(x, i), self._metrics)
