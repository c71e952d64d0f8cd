"""The order in which training visits images: a function of (seed, epoch), and of nothing else.

Free of JAX, because the processes that decode images need it too.
"""

import functools

import numpy as np


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
  """The order in which an epoch visits n images, int32 [n]: a function of (seed, epoch) alone."""
  # RandomState, because its stream is the one that NumPy promises never to change.
  return np.random.RandomState([seed, epoch]).permutation(n).astype(np.int32)


def steps_per_epoch(n: int, batch_size: int) -> int:
  """Full batches in an epoch; the incomplete one at its end is dropped (other images next time)."""
  if not 1 <= batch_size <= n:
    raise ValueError(f'batch_size must lie in [1, {n}], the training images; got {batch_size}')
  return n // batch_size


def batch_indices(seed: int, step: int, n: int, batch_size: int) -> np.ndarray:
  """The images of a global step (0, 1, ...), int32 [batch_size]; resuming needs nothing else."""
  epoch, position = divmod(step, steps_per_epoch(n, batch_size))
  return _recent_order(seed, epoch, n)[position * batch_size : (position + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _recent_order(seed: int, epoch: int, n: int) -> np.ndarray:
  order = epoch_order(seed, epoch, n)
  order.setflags(write=False)  # it is shared by all steps of the epoch
  return order
