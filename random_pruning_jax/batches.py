"""Functions of all rows of arrays, batch by batch, on all devices."""

import math
from collections.abc import Callable, Iterator

import chex
import jax
import numpy as np

from random_pruning_jax import parallel, together

AHEAD = 8  # batches dispatched beyond the last one that is done


def map_batches(
  fn: Callable,
  arguments: tuple,
  arrays: tuple[np.ndarray, ...],
  *,
  batch_size: int,
  on: tuple[jax.Device, ...],
) -> Iterator[chex.ArrayTree]:
  """Runs `fn(*arguments, *batch)` over all rows of `arrays`, each row exactly once.

  `arguments` are replicated; `arrays` have equal lengths N and are cut into batches of at most
  `batch_size` rows, rounded up to a multiple of the devices. The last batch is filled up with
  copies of its first row, whose outputs are dropped. Yields outputs [rows, ...] in order.
  The next batch is dispatched before the outputs of the last one are fetched.
  """
  pending = None
  for given in _given(fn, arguments, arrays, batch_size, on):
    if pending is not None:
      yield _fetch(*pending, on)
    pending = given
  if pending is not None:
    yield _fetch(*pending, on)


def begin(
  fn: Callable,
  arguments: tuple,
  arrays: tuple[np.ndarray, ...],
  *,
  batch_size: int,
  on: tuple[jax.Device, ...],
) -> Callable[[], list[chex.ArrayTree]]:
  """`map_batches` in two parts: dispatches all batches, returns what fetches the outputs.

  So other work may be dispatched before they are fetched.
  """
  given = []
  for each in _given(fn, arguments, arrays, batch_size, on):
    given.append(each)
    if len(given) > AHEAD:  # bounds the images on the devices
      jax.block_until_ready(given[-AHEAD - 1])
  return lambda: [_fetch(*each, on) for each in given]


def _given(
  fn: Callable,
  arguments: tuple,
  arrays: tuple[np.ndarray, ...],
  batch_size: int,
  on: tuple[jax.Device, ...],
) -> Iterator[tuple[int, chex.ArrayTree]]:
  """Rows and outputs of each batch, which is dispatched and may not be done."""
  n = len(arrays[0])
  if any(len(array) != n for array in arrays):
    raise ValueError(f'arrays must have one length, got {[len(array) for array in arrays]}.')
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  size = math.ceil(batch_size / len(on)) * len(on)  # also where n is less: one compilation
  compiled = parallel.parallel(fn, on, (None,) * len(arguments) + (0,) * len(arrays), 0)
  for start in range(0, n, size):
    rows = min(size, n - start)
    batch = [_fill(array[start : start + rows], size) for array in arrays]
    yield rows, compiled(*arguments, *(parallel.split(array, on) for array in batch))


def _fill(array: np.ndarray, size: int) -> np.ndarray:
  missing = size - len(array)
  return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


def _fetch(rows: int, outputs: chex.ArrayTree, on: tuple[jax.Device, ...]) -> chex.ArrayTree:
  outputs = jax.tree.map(np.asarray, outputs)  # of the devices of this process
  if len({device.process_index for device in on}) > 1:
    outputs = jax.tree.map(together.gather, outputs)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], outputs)
