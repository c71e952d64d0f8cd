"""Checkpoints of a run: the latest ones and the best on validation, written by Orbax.

A checkpoint is a training state and a small JSON record: the step, what the log had not yet
written, validation figures, and a checksum of the masks that is checked when they are read back.
"""

import hashlib
import pathlib
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from random_pruning_jax import masks, parallel


class Restored(NamedTuple):
  state: Any  # TrainState
  record: dict[str, Any]


def manager(workdir: str | pathlib.Path, keep: int = 2) -> ocp.CheckpointManager:
  """Checkpoints in `workdir/checkpoints`: the last `keep`, and the best on validation accuracy."""
  policy = checkpoint_managers.AnyPreservationPolicy(
    [
      checkpoint_managers.LatestN(keep),
      checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics['accuracy'],
        n=1,
        reverse=False,
        keep_checkpoints_without_metrics=False,
      ),
    ]
  )
  return ocp.CheckpointManager(
    pathlib.Path(workdir).absolute() / 'checkpoints',
    options=ocp.CheckpointManagerOptions(preservation_policy=policy),
  )


def save(to: ocp.CheckpointManager, state: Any, record: dict[str, Any]) -> None:
  """Writes in the background; `record['validation']` may hold the accuracy that ranks it."""
  if jax.process_count() > 1:  # pmap gives each process arrays of its own; Orbax wants common ones
    state = parallel.replicate(state, parallel.devices())
  step = int(state.step)
  record = record | {'step': step, 'masks': masks.checksum(jax.device_get(state.masks))}
  to.save(
    step,
    args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)),
    metrics=record['validation'],
    force=True,
  )


def restore(
  of: ocp.CheckpointManager, like: Any, on: tuple[jax.Device, ...], step: int | None = None
) -> Restored:
  """The state at `step` (default: the latest), a copy on each device of `on`.

  `like` is a state of the same shape. Raises ValueError where there is no such checkpoint and where
  the masks are not those that were saved.
  """
  steps = sorted(of.all_steps())
  step = of.latest_step() if step is None else step
  if step not in steps:
    raise ValueError(f'{of.directory} must hold a checkpoint of step {step}; it has {steps}.')
  place = parallel.sharding(on)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), like
  )
  read = of.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
    ),
  )
  checksum = masks.checksum(jax.device_get(read.state.masks))
  if checksum != read.record['masks']:
    raise ValueError(
      f'the masks of step {step} in {of.directory} have checksum {checksum}, '
      f'saved as {read.record["masks"]}: the checkpoint was altered.'
    )
  return Restored(read.state, read.record)


def digest(tree: chex.ArrayTree) -> str:
  """SHA-256 over the names, shapes and bytes of all leaves."""
  total = hashlib.sha256()
  for name, leaf in masks.named_leaves(jax.device_get(tree)).items():
    total.update(f'{name}{leaf.shape}{leaf.dtype}'.encode())
    total.update(np.ascontiguousarray(leaf).tobytes())
  return total.hexdigest()


def find(of: ocp.CheckpointManager, which: str) -> int:
  """The step of the checkpoint 'best' on validation accuracy, the 'latest', or a step itself."""
  steps = sorted(of.all_steps())
  if not steps:
    raise ValueError(f'{of.directory} must hold a checkpoint; it has none.')
  if which == 'latest':
    return steps[-1]
  if which == 'best':
    return max(steps, key=lambda step: (_validation_accuracy(of, step), step))
  if not which.isdigit() or int(which) not in steps:
    raise ValueError(f"checkpoint must be 'best', 'latest' or one of {steps}, got {which!r}.")
  return int(which)


def _validation_accuracy(of: ocp.CheckpointManager, step: int) -> float:
  read = of.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))
  validation = read.record['validation']
  return validation['accuracy'] if validation else -1.0
