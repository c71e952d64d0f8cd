"""The step is compiled once, while the rest of a run begins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tinier_config, tiny_config

from random_pruning_jax import checkpoints, feed, masks, parallel, train
from random_pruning_jax.data import order, resident
from random_pruning_jax.experiment import build, keys
from random_pruning_jax.training import beginning, prepared
from random_pruning_jax.training.program import ahead, compiled


def test_the_first_call_finds_its_program_compiled(tmp_path, caplog):
  config = tinier_config(optimizer__label_smoothing=0.07)  # whose step no other test compiles
  for on in (jax.devices()[:1], jax.devices()):  # from the start, and going on from step 10
    caplog.clear()
    with jax.log_compiles():
      train.train(config, tmp_path, on=tuple(on), show=False)
    with checkpoints.Manager(tmp_path) as saved:
      saved.orbax.delete(20)
    said = [record.getMessage() for record in caplog.records]
    steps = [text for text in said if text.startswith('Compiling') and 'uint8[1257,64]' in text]
    assert len(steps) == 1  # programs that are given the training images


def test_a_call_takes_the_memory_of_the_state_before_it(tmp_path):
  run = prepared.open_run(build(tinier_config()), tmp_path)
  on = run.experiment.on
  state, _ = beginning.restore_or_init(run)
  given = (state, run.feed.shared(), parallel.replicate(run.own, on))
  new, _ = compiled(run.step, run.feed.axes, on)(*given, *next(run.feed.stream([(0, 1)])))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, given[1:])))


def test_a_step_smooths_labels_and_takes_a_batch_in_parts_as_its_config_says(tmp_path):
  def first_step(**fields):
    config = tinier_config(**{f'optimizer__{name}': value for name, value in fields.items()})
    run = prepared.open_run(build(config, parallel.devices(1)), tmp_path / str(fields))
    given = (beginning.restore_or_init(run)[0], run.feed.shared(), run.own)
    state, metrics = compiled(run.step, run.feed.axes, run.experiment.on)(
      *given, *next(run.feed.stream([(0, 1)]))
    )
    return state.batch_stats['stem_norm']['mean'].tolist(), float(metrics['loss'][0])

  means, loss = first_step()
  smooth_means, smooth_loss = first_step(label_smoothing=0.5)
  assert smooth_means == means and smooth_loss != loss
  assert first_step(accumulate=2)[0] != means  # a tenth of the way with each part


@pytest.mark.parametrize('loading', ['resident', 'streamed'])
def test_shapes_of_a_feed_are_those_of_its_inputs(loading):
  experiment = build(tiny_config(data_loading=loading, augment__mode='none', data_workers=0))
  [inputs] = feed.feed(experiment).stream([(2, 5)])
  expected = feed.shapes(experiment, loading, 3)
  found = [jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)) for x in inputs]
  assert found == list(expected)


def test_resident_images_are_augmented_as_the_config_says_and_otherwise_in_each_epoch():
  fields = {'augment__mode': 'zeros', 'augment__pad': 2, 'augment__flip': 'yes'}
  fed = feed.feed(build(tiny_config(**fields)))
  shared = fed.shared()
  key, indices = jax.random.key(0), jnp.arange(50)
  options = {'shape': (8, 8, 1), 'pad': 2, 'mode': 'zeros', 'flip': True}
  for epoch in (0, 1):
    of_epoch = jax.random.fold_in(key, epoch)
    wanted = jax.jit(functools.partial(resident.gather, **options))(*shared, indices, of_epoch)
    found = jax.jit(fed.gather)(shared, key, indices, epoch)
    np.testing.assert_array_equal(found['image'], wanted['image'])
  # Digits are neither cut nor mirrored.
  digits = feed.feed(build(tiny_config())).gather(shared, key, indices, 1)
  stored = resident.gather(*shared, indices, shape=(8, 8, 1))
  np.testing.assert_array_equal(digits['image'], stored['image'])


def test_resident_images_come_in_the_order_of_their_seed_and_epoch():
  fed, calls = feed.feed(build(tiny_config(seed=7), parallel.devices(2))), [(2, 4), (12, 13)]
  for (start, stop), (indices, epochs) in zip(calls, fed.stream(calls), strict=True):
    assert epochs.tolist() == [start // 10] * (stop - start)  # 10 steps an epoch
    for place, step in enumerate(range(start, stop)):
      wanted = order.batch_indices(7, step, 1257, 120)
      np.testing.assert_array_equal(indices[:, place].ravel(), wanted)


def test_a_run_augments_by_a_key_of_its_seed_which_is_that_of_nothing_else():
  found = []
  for seed in (0, 1):
    own, of_seed = prepared.open_run(build(tiny_config(seed=seed))).own, keys(seed)
    found += [
      tuple(jax.random.key_data(key).tolist()) for key in (own.key, of_seed.init, of_seed.masks)
    ]
  assert len(set(found)) == 6


def test_another_seed_begins_with_other_weights_and_other_masks(tmp_path):
  def begun(seed, density):
    config = tinier_config(seed=seed, pruning__density=density)
    run = prepared.open_run(build(config), tmp_path / f'{seed} {density}')
    return jax.device_get(beginning.restore_or_init(run)[0])

  weights = [begun(seed, 1.0).params['head']['kernel'] for seed in (0, 1)]
  assert (weights[0] != weights[1]).all()
  assert len({masks.checksum(begun(seed, 0.5).masks) for seed in (0, 1)}) == 2


def test_what_a_compiler_refuses_is_said_by_who_waits():
  unknown = jax.ffi.ffi_call('nobody_registered_this', jax.ShapeDtypeStruct((3,), np.float32))
  wait = ahead(jax.jit(unknown), jnp.zeros(3))
  with pytest.raises(Exception, match='nobody_registered_this'):
    wait()
