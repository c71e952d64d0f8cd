"""Devices of all hosts. The only file that says pmap or shard_map.

User code sees no device axis: state goes in and comes out whole (replicated), batches are split
over the devices on the way in and joined on the way out.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from random_pruning_jax.system import hosts

AXIS = 'devices'


def devices(count: int = 0) -> tuple[jax.Device, ...]:
  """The first `count` devices of all hosts, or all for 0. Raises ValueError if there are fewer."""
  known = jax.devices()
  # JAX lists the devices of a whole TPU slice, whether or not its processes have found each other.
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise ValueError(
      f'the devices are those of {jax.process_count()} processes that have not found each other: '
      f'{hosts.WANTED}'
    )
  if not 0 <= count <= len(known):
    raise ValueError(f'devices must lie in [0, {len(known)}] on this machine, got {count}.')
  if count and jax.process_count() > 1 and count != len(known):
    raise ValueError(f'a run on several hosts uses all {len(known)} devices, got {count}.')
  # Those of one process side by side: in that order `batches` joins what processes make.
  return tuple(sorted(known, key=lambda device: device.process_index)[: count or len(known)])


def memory(on: Sequence[jax.Device]) -> dict[str, int]:
  """JAX's memory statistics of one of these devices that is this process's own; {} on CPUs."""
  # Other processes' devices have none here, and asking raises.
  own = [device for device in on if device.process_index == jax.process_index()]
  return own[0].memory_stats() or {}


def peak_bytes() -> int | None:
  """Most memory in use at once on a device of this process; None where none tells, as on CPUs."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((found.get('peak_bytes_in_use', 0) for found in stats), default=0) or None


def check_batch(batch_size: int, on: Sequence[jax.Device]) -> None:
  if batch_size < 1 or batch_size % len(on):
    raise ValueError(
      f'batch_size must be a positive multiple of the number of devices, {len(on)}; '
      f'got {batch_size}.'
    )


def that_divide(size: int, on: tuple[jax.Device, ...]) -> tuple[jax.Device, ...]:
  """All of these devices if they divide `size`, else as many of this process's as do."""
  if size % len(on) == 0:
    return on
  local = tuple(device for device in on if device.process_index == jax.process_index())
  return local[: max(n for n in range(1, len(local) + 1) if size % n == 0)]


@functools.lru_cache(maxsize=64)
def parallel(
  fn: Callable,
  on: tuple[jax.Device, ...],
  in_axes: tuple,
  out_axes: Any = None,
  donate: tuple[int, ...] = (),
) -> Callable:
  """`fn` compiled as one program on every device, joined by the axis `AXIS`.

  An argument with axis None is replicated; one with axis 0 has a leading device axis (`split`). An
  output with axis None must be the same on every device (averaged or summed over `AXIS`): this is
  not checked, and device 0's value is returned. Cached by its arguments, so that the runs of a
  sweep share one compilation.
  """
  mapped = jax.pmap(
    fn, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, devices=on, donate_argnums=donate
  )
  if len(on) == 1 or on[0].platform != 'cpu':
    return mapped

  # CPU devices share their threads. Two programs at once may hold all of them, each waiting for a
  # device that has no thread left, and XLA then ends the process. So they run one by one.
  @functools.wraps(fn)
  def blocking(*arguments):
    return jax.block_until_ready(mapped(*arguments))

  blocking.lower = mapped.lower
  return blocking


@functools.lru_cache(maxsize=64)
def apart(
  fn: Callable, on: tuple[jax.Device, ...], in_axes: tuple, donate: tuple[int, ...] = ()
) -> Callable:
  """`fn` compiled once, for devices that do not need each other: each is alone on its `AXIS`.

  Arguments with axis 0, and all outputs, are cut along it over the devices (`place_apart`); one
  with axis None is replicated.
  """
  cut = _apart(on)
  specs = tuple(jax.sharding.PartitionSpec() if axis is None else cut.spec for axis in in_axes)
  mapped = jax.shard_map(fn, mesh=cut.mesh, in_specs=specs, out_specs=cut.spec, check_vma=False)
  return jax.jit(mapped, donate_argnums=donate)


def place_apart(tree: chex.ArrayTree, on: tuple[jax.Device, ...]) -> chex.ArrayTree:
  """Arrays whose leading axis is a multiple of the devices, an equal part of it on each."""
  return jax.device_put(tree, _apart(on))


def row_apart(array: jax.Array, i: int) -> jax.Array:
  """Row i, [1, ...], of an array sharded over devices, on its device; the host does not wait."""
  for shard in array.addressable_shards:
    start, stop, _ = shard.index[0].indices(len(array))
    if start <= i < stop:
      return shard.data if stop - start == 1 else shard.data[i - start : i - start + 1]
  raise IndexError(f'row {i} of {array.shape} is on no device of this process.')


def _apart(on: tuple[jax.Device, ...]) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(np.array(on)[:, None], ('groups', AXIS))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('groups'))


def mean(tree: chex.ArrayTree) -> chex.ArrayTree:
  """Mean over the devices, inside a `parallel` function."""
  return jax.lax.pmean(tree, AXIS)


def sharding(on: tuple[jax.Device, ...]) -> jax.sharding.NamedSharding:
  """Where replicated arrays live: a whole copy on each device."""
  mesh = jax.sharding.Mesh(np.array(on), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def replicate(tree: chex.ArrayTree, on: tuple[jax.Device, ...]) -> chex.ArrayTree:
  """The same arrays, a copy on each device."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding(on))

  def place(leaf):  # device_put reaches the devices of this process alone
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data, kind = jax.random.key_data(leaf), jax.random.key_impl(leaf)
      return jax.random.wrap_key_data(place(data), impl=kind)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding(on), lambda index: whole[index])

  return jax.tree.map(place, tree)


def abstract_replicated(tree: chex.ArrayTree, on: tuple[jax.Device, ...]) -> chex.ArrayTree:
  """What `replicate` gives, as shapes, types and places alone."""
  place = sharding(on)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), tree)


def split(array: np.ndarray, on: Sequence[jax.Device]) -> np.ndarray:
  """[B, ...] of the whole batch -> [D, B / D, ...] for the devices of this process."""
  return mine(array.reshape(len(on), -1, *array.shape[1:]), on)


def mine(array: np.ndarray, on: Sequence[jax.Device]) -> np.ndarray:
  """Out of one row for each device, those [D, ...] of this process's devices."""
  return array[[i for i, device in enumerate(on) if device.process_index == jax.process_index()]]


@jax.jit
def copy(tree: chex.ArrayTree) -> chex.ArrayTree:
  """A replicated tree again, in memory of its own; the host does not wait for it."""
  return jax.tree.map(jnp.copy, tree)


@jax.jit
def row(tree: chex.ArrayTree, i: int) -> chex.ArrayTree:
  """Row i of every leaf [M, ...] of a replicated tree, copied; the host does not wait for it."""
  return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)
