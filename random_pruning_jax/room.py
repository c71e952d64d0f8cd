"""How many networks train together: as many as the memory of a device has room for."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from random_pruning_jax import feed, parallel, stacked
from random_pruning_jax.beginning import abstract_state
from random_pruning_jax.experiment import build
from random_pruning_jax.prepared import Run, open_run

MOST = 64  # beyond, a network gains nothing from more beside it, and all are lost with one process
# Of the memory that is free. Of several networks XLA's program for an H100 needs up to a sixth more
# for each than its program of one, which is what is measured; the rest is for evaluation and the
# allocator's gaps.
SHARE = 0.7


def group_size(config: ConfigDict, asked: int = 0, on: tuple[jax.Device, ...] | None = None) -> int:
  """Networks like the config's that train at once: as asked, or for 0 as these devices allow.

  On CPUs that is one for each device, which trains it by itself; and one where images are streamed.
  """
  experiment = build(config, on)
  stats = parallel.memory(experiment.on)
  if feed.loading_of(experiment.config) == 'streamed':
    return 1
  if asked or experiment.on[0].platform == 'cpu' or 'bytes_limit' not in stats:
    return asked or len(experiment.on)
  run = open_run(experiment)
  shared = sum(array.nbytes for array in run.feed.images)
  return fitting(stats['bytes_limit'] - stats['bytes_in_use'], shared, of_one(run, shared))


def fitting(free: int, shared: int, member: int) -> int:
  """Members of `member` bytes each that fit beside `shared` bytes; at least 1, at most `MOST`."""
  return int(min(max((SHARE * free - shared) // member, 1), MOST))


def of_one(run: Run, shared: int) -> int:
  """Bytes that one network needs of each device, as its compiled program says, without `shared`.

  That is its state, what a call computes, and the state again, which is what a checkpoint reads.
  """
  experiment = run.experiment
  state = abstract_state(experiment)
  images = jax.eval_shape(run.feed.shared)
  flags = jax.ShapeDtypeStruct((1,), bool)
  state, own = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *jnp.shape(x)), x.dtype), (state, run.own)
  )
  inputs = stacked.inputs([next(run.feed.stream([next(run.calls(0))]))], run.feed.axes)
  program = stacked.compiled(
    run.step, run.feed.axes, experiment.on, stacked.default_way(experiment.on), 1
  )
  found = program.lower(state, flags, flags, images, own, *inputs).compile().memory_analysis()
  # The new state takes the memory of the old one: counted as an output, it stands for the copy.
  made = found.temp_size_in_bytes + found.output_size_in_bytes
  return found.argument_size_in_bytes - shared + made
