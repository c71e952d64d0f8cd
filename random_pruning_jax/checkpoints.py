"""Checkpoints of a run: the latest ones and the best on validation, written by Orbax.

A checkpoint is a training state and a small JSON record: the step, what the log had not yet
written, validation metrics, and checksums of the masks, of the whole state and of the record, which
are checked when they are read back.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import masks, parallel, runlog, together
from random_pruning_jax.data import crops
from random_pruning_jax.progress import say
from random_pruning_jax.training.checkpoint_manager import Manager, NotReadableError, reason, sealed

UNREADABLE = 'unreadable'  # directory of checkpoints that a run could not go on from


class NotWrittenError(OSError):
  """A checkpoint could not be written; the message says why and what is still there."""


class Record(dict[str, Any]):
  """What was saved beside a state; asking for a field that was not raises ValueError."""

  def __missing__(self, name: str) -> Any:
    raise ValueError(
      f'the checkpoint of step {self.get("step")} has no {name!r} beside its state: another '
      'version of this package wrote it, and can go on with it.'
    )


class Restored(NamedTuple):
  state: Any  # TrainState
  record: Record


def save(manager: Manager, state: Any, record: dict[str, Any]) -> None:
  """Fetches and writes in a thread; `record['validation']` may hold the accuracy that ranks it.

  So do not donate `state` before the next `save`, `finish`, or `close` of the manager. Only the
  first process writes. Raises NotWrittenError, on all processes, if the checkpoint before could not
  be written (a full disk).
  """
  finish(manager)
  if jax.process_index() == 0:
    manager.later(functools.partial(_write, manager, state, record))


def _write(manager: Manager, state: Any, record: dict[str, Any]) -> None:
  import orbax.checkpoint as ocp

  step = int(state.step)
  host = jax.device_get(state)  # Orbax would compile a slice of every array, and fetch it
  record = record | {'step': step, 'masks': masks.checksum(host.masks), 'digest': digest(host)}
  record |= {'jax': jax.__version__, 'pixels': crops.pixels(), 'crops': crops.VERSION}
  _check_finite(host, step)
  try:
    manager.orbax.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(host), record=ocp.args.JsonSave(sealed(record))
      ),
      metrics=record['validation'],
      force=True,
    )
  except Exception as error:
    raise _not_written(manager, step, error) from error


def _check_finite(state: Any, step: int) -> None:
  """Raises runlog.NotFiniteError naming a leaf: a loss may be finite when weights no longer are."""
  for name, leaf in masks.named_leaves(state).items():
    if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
      raise runlog.NotFiniteError(
        f'{name} holds nan or infinity at step {step}; what was saved is intact. Try a lower '
        'optimizer.lr, or schedule.warmup_epochs of 5.'
      )


def finish(manager: Manager) -> None:
  """Returns when all is written. Raises NotWrittenError, on all processes, where that fails."""
  with together.failing_together(NotWrittenError):
    manager.wait()


@contextlib.contextmanager
def closing(manager: Manager) -> Iterator[Manager]:
  """Closes the manager on leaving. Raises NotWrittenError if its last write failed.

  An error raised inside is not hidden by one from closing.
  """
  try:
    yield manager
  except BaseException:
    with contextlib.suppress(Exception):
      manager.close()
    raise
  finish(manager)
  manager.close()


def _not_written(manager: Manager, step: int, error: Exception) -> NotWrittenError:
  whole = sorted(int(path.name) for path in manager.directory.glob('*') if path.name.isdecimal())
  there = 'there is none before it, and the same command begins anew'
  if whole:
    there = f'that of step {whole[-1]} is there, and the same command goes on from it'
  return NotWrittenError(
    f'the checkpoint at step {step} could not be written to {manager.directory} '
    f'({reason(error)}); {there}.'
  )


def restore(manager: Manager, like: Any, on: tuple[jax.Device, ...], step: int) -> Restored:
  """The state at `step`, a copy on each device of `on`.

  `like` is a state of the same shape. Raises ValueError where there is no such checkpoint, or not
  the same one on all processes, and NotReadableError for one that is truncated or altered.
  """
  steps = manager.all_steps()
  if step not in steps:
    raise ValueError(f'{manager.directory} must hold a checkpoint of step {step}; it has {steps}.')
  several = jax.process_count() > 1
  if several:  # each reads for itself, onto the host
    target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  else:
    target = parallel.abstract_replicated(like, on)
  state, record = together.read_same(
    f'checkpoint {step}',
    lambda: _checked(manager, step, target),
    lambda read: json.dumps(read.record, sort_keys=True),
    NotReadableError,
  )
  return Restored(parallel.replicate(state, on) if several else state, record)


def _checked(manager: Manager, step: int, target: Any) -> Restored:
  """A checkpoint whose state is what its record says."""
  import orbax.checkpoint as ocp

  read = manager.read(step, state=ocp.args.StandardRestore(target))
  host = jax.device_get(read.state)
  record = Record(read.record)
  checked = {'masks': masks.checksum(host.masks), 'state': digest(host)}
  saved = {'masks': record['masks'], 'state': record['digest']}
  for what, checksum in checked.items():
    if checksum != saved[what]:
      raise NotReadableError(
        f'checkpoint {manager.directory}/{step}: the {what} has checksum {checksum}, saved as '
        f'{saved[what]}: the checkpoint was altered.'
      )
  return Restored(read.state, record)


def restore_newest(
  manager: Manager, like: Callable[[dict[str, Any]], Any], on: tuple[jax.Device, ...]
) -> Restored | None:
  """The newest checkpoint that can be read, or None where there is none at all.

  `like(record)` gives a state of the same shape, or raises if the record is of another run. It is
  called before arrays are read, since those of another run may have other shapes.

  Newer checkpoints that cannot be read are named, and moved to `UNREADABLE`. Raises
  NotReadableError if none can be read.
  """
  refused: dict[int, NotReadableError] = {}
  for step in reversed(manager.all_steps()):
    try:
      read = restore(manager, like(record_of(manager, step)), on, step)
    except NotReadableError as error:
      refused[step] = error
      say(f'WARNING: {error} Trying the one before it.')
      continue
    if refused:
      _set_aside(manager, refused)
      say(f'WARNING: going on from step {step}.')
    return read
  if refused:
    raise NotReadableError(
      f'none of the checkpoints can be read. {refused[min(refused)]} To begin anew, choose another '
      'workdir.'
    )
  return None


def _set_aside(manager: Manager, steps: dict[int, Exception]) -> None:
  """Moves checkpoints away, since the run will come to their steps again."""
  home = manager.directory
  if jax.process_index() == 0:
    for step in steps:
      to = home.parent / UNREADABLE / f'{step}'
      while to.exists():
        to = to.with_name(f'{to.name}.again')
      to.parent.mkdir(exist_ok=True)
      (home / str(step)).rename(to)
      say(f'WARNING: checkpoint {step} was moved to {to}.')
  together.wait_for_all('checkpoints were set aside')
  manager.orbax.reload()


def digest(tree: chex.ArrayTree) -> str:
  """SHA-256 over the names, shapes and bytes of all leaves."""
  total = hashlib.sha256()
  for name, leaf in masks.named_leaves(jax.device_get(tree)).items():
    total.update(f'{name}{leaf.shape}{leaf.dtype}'.encode())
    total.update(np.ascontiguousarray(leaf).tobytes())
  return total.hexdigest()


def find(manager: Manager, which: str) -> int:
  """The step of the checkpoint 'best' on validation accuracy, the 'latest', or a step itself.

  'best' skips a checkpoint whose record cannot be read, and says so: a process killed while it
  deletes an old checkpoint leaves part of it. Raises ValueError if there is no such checkpoint and
  NotReadableError if no record can be read.
  """
  steps = manager.all_steps()
  if not steps:
    raise ValueError(f'{manager.directory} must hold a checkpoint; it has none.')
  if which == 'latest':
    return steps[-1]
  if which == 'best':
    return together.by_first(lambda: _best(manager, steps), NotReadableError)
  if not which.isdecimal() or int(which) not in steps:
    raise ValueError(f"checkpoint must be 'best', 'latest' or one of {steps}, got {which!r}.")
  return int(which)


def record_of(manager: Manager, step: int) -> Record:
  """What was saved beside the state at `step`; all processes get what the first one reads.

  Raises NotReadableError if it cannot be read.
  """
  return Record(together.by_first(lambda: manager.read(step).record, NotReadableError))


def _best(manager: Manager, steps: list[int]) -> int:
  found, refused = [], None
  for step in steps:
    try:
      validation = manager.read(step).record['validation']
    except NotReadableError as error:
      refused = error
      say(f'WARNING: {error} It is left out.')
      continue
    found.append((validation['accuracy'] if validation else -1.0, step))
  if refused and not found:
    raise refused
  return max(found)[1]
