"""Every row goes through exactly once, whatever the batch size and the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import batches, parallel


@pytest.mark.parametrize('devices', [1, 3, 4])
@pytest.mark.parametrize('batch_size', [1, 4, 7, 50])
def test_every_row_is_computed_once_and_in_order(devices, batch_size):
  rows = np.arange(11, dtype=np.float32)
  parts = batches.map_batches(
    lambda factor, x, y: {'out': factor * x + y},
    (np.float32(2),),
    (rows, rows),
    batch_size=batch_size,
    on=parallel.devices(devices),
  )
  np.testing.assert_array_equal(np.concatenate([part['out'] for part in parts]), 3 * rows)


def test_batches_may_be_fetched_long_after_they_were_given_to_the_devices(monkeypatch):
  monkeypatch.setattr(batches, 'AHEAD', 1)
  rows, on = np.arange(11, dtype=np.float32), parallel.devices(2)
  wait = batches.begin(lambda x: 3 * x, (), (rows,), batch_size=4, on=on)
  other = list(batches.map_batches(lambda x: -x, (), (rows,), batch_size=4, on=on))
  assert [len(part) for part in wait()] == [4, 4, 3]
  np.testing.assert_array_equal(np.concatenate(wait()), 3 * rows)
  np.testing.assert_array_equal(np.concatenate(other), -rows)


def test_devices_are_given_few_batches_ahead(monkeypatch):
  waited = []
  monkeypatch.setattr(batches, 'AHEAD', 2)
  monkeypatch.setattr(jax, 'block_until_ready', waited.append)
  rows, on = np.arange(11, dtype=np.float32), parallel.devices(1)
  assert len(batches.begin(lambda x: 3 * x, (), (rows,), batch_size=2, on=on)()) == 6
  assert [out.tolist() for _, out in waited] == [[[3.0 * i, 3.0 * i + 3]] for i in (0, 2, 4, 6)]


def test_means_are_over_all_devices():
  fn = parallel.parallel(parallel.mean, parallel.devices(4), (0,))
  assert fn(np.arange(8.0).reshape(4, 2)).tolist() == [3.0, 4.0]


def test_replicated_arrays_are_whole_on_each_device():
  on = parallel.devices(3)
  array = parallel.replicate(np.arange(5), on)
  assert len(array.addressable_shards) == 3
  assert all(shard.data.shape == (5,) for shard in array.addressable_shards)


def test_too_many_devices_and_odd_batches_are_refused():
  with pytest.raises(ValueError, match=r'devices must lie in \[0, 4\] on this machine, got 9'):
    parallel.devices(9)
  with pytest.raises(ValueError, match='multiple of the number of devices, 4; got 6'):
    parallel.check_batch(6, jax.devices())
  with pytest.raises(ValueError, match='batch_size must be at least 1'):
    list(batches.map_batches(abs, (), (np.ones(3),), batch_size=0, on=parallel.devices(1)))
  with pytest.raises(ValueError, match='one length'):
    arrays = (np.ones(3), np.ones(4))
    list(batches.map_batches(max, (), arrays, batch_size=2, on=parallel.devices(1)))


def test_programs_of_several_cpu_devices_run_one_after_the_other():
  """Two at once wait for each other's threads until XLA ends the process."""
  fn = lambda x, y: parallel.mean(jnp.linalg.matrix_power(x, 50) + y)  # noqa: E731
  for devices in (2, 4):
    on = parallel.devices(devices)
    run = parallel.parallel(fn, on, (None, 0), None)
    outputs = run(parallel.replicate(jnp.eye(300), on), np.zeros((devices, 1)))
    assert outputs.is_ready()


def test_a_row_that_lies_apart_is_found_on_its_device_among_others_of_that():
  on = parallel.devices(4)
  tree = parallel.place_apart(np.arange(24.0).reshape(8, 3), on)
  for i in range(8):
    found = parallel.row_apart(tree, i)
    assert found.devices() == {on[i // 2]} and found.tolist() == [[3 * i, 3 * i + 1, 3 * i + 2]]


def test_as_many_devices_as_divide_a_size_are_taken():
  on = parallel.devices(4)
  assert [len(parallel.that_divide(size, on)) for size in (8, 6, 5, 2)] == [4, 3, 1, 2]


@pytest.mark.parametrize('kind', ['threefry2x32', 'rbg'])
def test_several_processes_replicate_keys_of_any_kind(kind, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)  # which place arrays otherwise than one
  key = jax.random.key(3, impl=kind)
  found = parallel.replicate(key, tuple(jax.devices()))
  assert found.dtype == key.dtype
  assert np.array_equal(jax.random.key_data(found), jax.random.key_data(key))
