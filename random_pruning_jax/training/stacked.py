"""Programs of many networks: arrays that these do not share have a leading axis of networks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax import parallel
from random_pruning_jax.step import scan_steps


def default_way(on: Sequence[jax.Device]) -> str:
  """The key of WAYS for these devices.

  On a CPU, one operation with the kernels of many networks is slow, and calls are cheap.
  """
  return 'turn' if on[0].platform == 'cpu' else 'vmap'


def inputs(each: Sequence[tuple], axes: tuple) -> list[np.ndarray]:
  """Inputs of a call [D, M, S, ...] or, for axis None, [M, S, ...], from those of each network."""
  return [
    np.stack(arrays, axis=0 if axis is None else 1)
    for arrays, axis in zip(zip(*each, strict=True), axes, strict=True)
  ]


@functools.lru_cache(maxsize=64)
def compiled(step: Callable, axes: tuple, on: tuple[jax.Device, ...], way: str, count: int):
  """A call of M networks, for every device.

  `call(states [M, ...], alive bool [M], going bool [M], shared, own [M, ...], *inputs)` gives the
  states, `alive` and the metrics of each network. A network that is not `going`, or whose loss is
  not finite, keeps its state.
  """

  def call(*arguments):
    *carry, metrics = _call(step, way, *arguments)
    return *carry, [jax.tree.map(lambda x, i=i: x[i], metrics) for i in range(count)]

  return parallel.parallel(call, on, (*[None] * 5, *axes), None, donate=(0, 1))


@functools.lru_cache(maxsize=64)
def compiled_apart(step: Callable, inputs: int, on: tuple[jax.Device, ...], way: str):
  """A call of networks split over the devices: every array but the shared ones is [M, ...]."""
  call = functools.partial(_call, step, way)
  return parallel.apart(call, on, (0, 0, 0, None, 0, *[0] * inputs), donate=(0, 1))


def _call(step, way, states, alive, going, shared, own, *inputs):
  def one_network(state, alive, going, own, inputs):
    def one_step(carry, inputs):
      state, alive = carry
      following, metrics = step(state, shared, own, inputs)
      alive &= jnp.isfinite(metrics['loss']) | ~going
      moves = alive & going
      state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), following, state)
      return (state, alive), metrics

    return scan_steps(one_step, (state, alive), inputs)

  carry, metrics = WAYS[way](one_network)(states, alive, going, own, inputs)
  return *carry, metrics


def _one(fn: Callable) -> Callable:
  def run(*arguments):
    return jax.tree.map(lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], arguments)))

  return run


# How a function of one network becomes one of arrays with a leading axis of networks.
WAYS: dict[str, Callable[[Callable], Callable]] = {
  'vmap': jax.vmap,  # each operation for all networks
  'turn': _one,  # one network a device: `many.train_many` gives each its own group, and call
}


def stack(trees: Sequence[Any]) -> Any:
  """Joins trees of one structure to a tree whose leaves have a leading axis."""

  def joined(*leaves):
    if jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
      return jnp.stack(leaves)
    return np.stack(jax.device_get(leaves))

  return jax.tree.map(joined, *trees)
