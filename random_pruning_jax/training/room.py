"""How many networks train together: as many as the memory of a device has room for."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from random_pruning_jax import feed, parallel
from random_pruning_jax.experiment import build
from random_pruning_jax.training import stacked
from random_pruning_jax.training.beginning import abstract_state
from random_pruning_jax.training.prepared import Run, open_run

MOST = 64  # beyond, more networks gain nothing, and all are lost with their process
# Share of the free memory to use. The program of one network is what is measured; XLA's program of
# several needs, for an H100, up to a sixth more for each. The rest is for evaluation and the
# allocator's gaps.
SHARE = 0.7


def group_size(config: ConfigDict, asked: int = 0, on: tuple[jax.Device, ...] | None = None) -> int:
  """How many networks like the config's train at once: `asked`, or for 0 what the devices allow.

  On CPUs they allow one for each device, which trains it by itself. With streamed images it is 1,
  whatever was asked.
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

  That is its state, what a call computes, and a copy of the state for checkpoints.
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
  # The old state is donated to the new one, whose bytes among the outputs stand for the copy.
  made = found.temp_size_in_bytes + found.output_size_in_bytes
  return found.argument_size_in_bytes - shared + made
