"""Orbax's manager of a run's checkpoints, made when there is something to read or write."""

import concurrent.futures
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from random_pruning_jax import runlog, together

if TYPE_CHECKING:
  import orbax.checkpoint as ocp


@functools.cache
def _thread() -> concurrent.futures.ThreadPoolExecutor:
  # One for all managers: two saves by Orbax that begin at the same time deadlock.
  return concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')


class NotReadableError(ValueError):
  """A checkpoint is truncated, altered, of another version or gone; the message says which."""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
  """The record with a checksum of all else in it."""
  rest = {name: value for name, value in record.items() if name != 'checksum'}
  text = json.dumps(rest, sort_keys=True)
  return rest | {'checksum': hashlib.sha256(text.encode()).hexdigest()}


class Best:
  """Preserves the checkpoint of the highest validation accuracy, the latest of equal ones.

  Orbax's own policy knows only what was saved since its manager was made, so a resumed run would
  lose the best one from before. Here its accuracy is read from its record; a checkpoint whose
  record cannot be read does not count.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory

  def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
    del context
    found = [(self._accuracy(each), each.step) for each in checkpoints]
    best = max((pair for pair in found if pair[0] is not None), default=None)
    return [pair == best for pair in found]

  def _accuracy(self, checkpoint: Any) -> float | None:
    import orbax.checkpoint as ocp

    metrics = checkpoint.metrics
    if metrics is None:
      place = self._directory / str(checkpoint.step) / 'record'
      try:
        record = ocp.JsonCheckpointHandler().restore(place)
        metrics = _unaltered(record, place)['validation']
      except Exception:  # of many kinds, as the damage is; whoever reads it is told
        return None
    return metrics['accuracy'] if metrics else None


class Manager:
  """Checkpoints in `workdir/checkpoints`: the last `keep`, and the best on validation accuracy.

  Orbax takes a quarter of a second to import, so its import waits for the first read or write.
  To be closed, or used in a `with` statement.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: int = 2):
    self.directory = pathlib.Path(workdir).absolute() / runlog.CHECKPOINTS
    self._keep = keep
    self._begun: concurrent.futures.Future | None = None

  @functools.cached_property
  def orbax(self) -> 'ocp.CheckpointManager':
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers

    class Unasking(ocp.CheckpointManager):
      """Does not ask JAX's service, which would take that for the run's own (`preemption`)."""

      def reached_preemption(self, step: int) -> bool:
        return False

    policy = checkpoint_managers.AnyPreservationPolicy(
      [checkpoint_managers.LatestN(self._keep), Best(self.directory)]
    )
    # Saves already run in a thread. One of Orbax's own would wait minutes for a save whose first
    # directory has no room, and the process, at its end, would wait for that thread.
    options = {'preservation_policy': policy, 'enable_async_checkpointing': False}
    if jax.process_count() > 1:
      # All processes hold the same state: the first writes, each reads, and Orbax must not make
      # one wait for another, which may have failed.
      own = jax.process_index()
      self.directory.mkdir(parents=True, exist_ok=True)
      options |= {'create': False, 'read_only': own > 0}
      options['multiprocessing_options'] = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f'process{own}'
      )
    return Unasking(self.directory, options=ocp.CheckpointManagerOptions(**options))

  def all_steps(self) -> list[int]:
    """Steps that have a checkpoint, in order, as the first process sees them."""

    def own() -> list[int]:
      self.wait()
      return sorted(self.orbax.all_steps()) if self.directory.exists() else []

    return together.by_first(own, OSError)

  def read(self, step: int, **items: 'ocp.args.CheckpointArgs') -> Any:
    """The record of a checkpoint, and the other `items` asked for, as this process sees them.

    Raises NotReadableError if Orbax cannot read them, or if the record was altered.
    """
    import orbax.checkpoint as ocp

    try:
      if jax.process_index() > 0:
        self.orbax.reload()  # it may have been written since Orbax looked
      args = ocp.args.Composite(record=ocp.args.JsonRestore(), **items)
      read = self.orbax.restore(step, args=args)
    except Exception as error:  # of many kinds, as the damage is
      place = self.directory / str(step)
      raise NotReadableError(f'checkpoint {place} {_why_not_read(place, error)}') from error
    _unaltered(read.record, self.directory / str(step))
    return read

  def later(self, work: Callable[[], None]) -> None:
    """Does `work` in a thread, once earlier work is done. Raises what the earlier work raised."""
    self.wait()
    self._begun = _thread().submit(work)

  def wait(self) -> None:
    """Returns when work given to `later` is done. Raises what it raised, once."""
    begun, self._begun = self._begun, None
    if begun is not None:
      begun.result()

  def close(self) -> None:
    try:
      self.wait()
    finally:
      if 'orbax' in vars(self):  # if anything was read or written
        self.orbax.close()

  def __enter__(self) -> 'Manager':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def _unaltered(record: dict[str, Any], place: pathlib.Path) -> dict[str, Any]:
  """The record, if it is as it was saved; one of an older version may have no checksum."""
  if 'checksum' in record and record != sealed(record):
    raise NotReadableError(f'checkpoint {place}: its record is not what was saved: it was altered.')
  return record


def _why_not_read(place: pathlib.Path, error: Exception) -> str:
  if not place.exists():
    return 'is no longer there: the run deleted it meanwhile, for newer ones. Ask again.'
  if 'tree structures do not match' in str(error):  # as Orbax says it
    return "holds other parts than this version's training state: another version wrote it."
  return f'cannot be read: {reason(error)}'


def reason(error: Exception) -> str:
  """What the system says, where a library wraps it in many lines."""
  text = ' '.join(str(error).split())
  for known in ('No space left on device', 'File too large', 'Disk quota exceeded'):
    if known in text:
      return known
  return f'{type(error).__name__}: {text[:300]}'
