"""Networks that train together: each is what it is alone, and none disturbs another."""

import os
import signal
import types

import jax
import numpy as np
import pytest
from tiny import log_of, tinier_config, tiny_config

from random_pruning_jax import checkpoints, many, masks, parallel, runlog, train
from random_pruning_jax.experiment import build
from random_pruning_jax.system import preemption
from random_pruning_jax.training import groups, room
from random_pruning_jax.training.beginning import abstract_state
from random_pruning_jax.training.prepared import open_run
from random_pruning_jax.training.recorder import Recorder

ONE_DEVICE = parallel.devices(1)


def configs(**changes):
  """Three runs that differ in every way they may, at rates that keep rounding small."""
  return [
    tinier_config(**{'epochs': 1, 'optimizer__lr': 0.02, **fields, **changes})
    for fields in (
      {},
      {'seed': 3, 'pruning__density': 0.6, 'optimizer__lr': 0.01},
      {'seed': 5, 'pruning__ratio': 'uniform', 'optimizer__weight_decay': 0.0},
    )
  ]


def places(root, count=3):
  return [root / str(i) for i in range(count)]


def close(a, b):
  """Floats to rounding, as it grows in ten steps; masks and counts to the bit.

  Where rounding moves an activation over a ReLU's corner, gradients jump. Momentum, a sum of them,
  shows it at once, and is large where a channel hardly varies, as with few weights many do not.
  """

  def compare(share, atol=0.0):
    def of(x, y):
      if np.issubdtype(np.asarray(x).dtype, np.floating):
        np.testing.assert_allclose(x, y, rtol=1e-2, atol=atol + share * np.abs(y).max())
      else:
        np.testing.assert_array_equal(x, y)

    return of

  a, b = jax.device_get((a, b))
  jax.tree.map(compare(0.05, 2e-3), a.opt_state, b.opt_state)
  jax.tree.map(compare(0.0, 2e-3), a.replace(opt_state=()), b.replace(opt_state=()))


def same_lines(found, expected):
  assert [(line['kind'], line['step']) for line in found] == [
    (line['kind'], line['step']) for line in expected
  ]
  for one, other in zip(found, expected, strict=True):
    for name, value in one.items():
      if isinstance(value, float):
        assert value == pytest.approx(other[name], rel=0.02, abs=0.02), (name, one, other)


def saved_steps(workdir):
  with checkpoints.Manager(workdir) as saved:
    return saved.all_steps()


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """Each run by itself on one device: workdirs and last states."""
  root = tmp_path_factory.mktemp('alone')
  states = [
    train.train(config, place, on=ONE_DEVICE, show=False)
    for config, place in zip(configs(), places(root), strict=True)
  ]
  return places(root), states


@pytest.mark.parametrize(
  ('way', 'devices', 'apart', 'steps_per_call'),
  [('vmap', 1, False, 4), ('vmap', 2, False, 1), ('turn', 2, True, 1)],
)
def test_each_network_is_what_it_is_alone(alone, tmp_path, way, devices, apart, steps_per_call):
  found = many.train_many(
    configs(steps_per_call=steps_per_call),
    places(tmp_path),
    on=parallel.devices(devices),
    way=way,
    apart=apart,
    show=False,
  )
  for state, expected, place, other in zip(
    found, alone[1], places(tmp_path), alone[0], strict=True
  ):
    close(state, expected)
    same_lines(log_of(place), log_of(other))
    assert saved_steps(place) == saved_steps(other)
    kept = jax.device_get(state.masks)
    zeros = jax.tree.map(lambda p, m: (p[~m] == 0).all(), jax.device_get(state.params), kept)
    assert all(jax.tree.leaves(zeros))
  assert len({masks.checksum(state.masks) for state in found}) == 3


def test_networks_of_blocks_are_under_vmap_what_they_are_alone(tmp_path):
  some = [tiny_config(epochs=1, optimizer__lr=0.01, seed=seed) for seed in (0, 3)]
  found = many.train_many(some, places(tmp_path, 2), on=ONE_DEVICE, way='vmap', show=False)
  close(found[1], train.train(some[1], tmp_path / 'alone', on=ONE_DEVICE, show=False))


@pytest.mark.parametrize('way', ['turn', 'vmap'])  # as CPUs do, and as GPUs and TPUs do
def test_a_network_that_diverges_stands_still_and_the_others_do_not_notice(alone, tmp_path, way):
  first, _, last = configs()
  absurd = tinier_config(epochs=1, seed=3, pruning__density=0.6, optimizer__lr=1e30)
  some = [first, absurd, last]
  found = many.train_many(some, places(tmp_path), on=ONE_DEVICE, way=way, show=False)
  assert isinstance(found[1], runlog.NotFiniteError)
  with pytest.raises(runlog.NotFiniteError) as by_itself:
    train.train(absurd, tmp_path / 'by itself', on=ONE_DEVICE, show=False)
  if way == 'turn':  # vmap sums in another order, and so overflows in another step
    assert str(found[1]) == str(by_itself.value)
    assert log_of(tmp_path / '1') == log_of(tmp_path / 'by itself')
  close(found[0], alone[1][0])
  close(found[2], alone[1][2])


def test_a_network_that_ends_by_two_errors_is_told_of_the_first_and_the_others_do_not_notice(
  tmp_path,
):
  """Its loss is no number while a thread finds that its weights, to be saved, are none either."""
  changes = {'epochs': 1, 'log_every': 1, 'checkpoint__every_steps': 1}
  some = [tinier_config(**changes)]
  some.append(tinier_config(optimizer__lr=3e38, optimizer__weight_decay=1e3, **changes))
  found = many.train_many(some, places(tmp_path, 2), on=ONE_DEVICE, show=False)
  assert int(found[0].step) == 10
  assert isinstance(found[1], runlog.NotFiniteError)


def test_an_interrupt_waits_for_no_save_that_other_processes_may_never_come_to(
  tmp_path, monkeypatch
):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(groups.Group, 'call', interrupted)
  monkeypatch.setattr(checkpoints, 'finish', lambda _: pytest.fail('waits'))
  with pytest.raises(KeyboardInterrupt):
    many.train_many([tinier_config()], [tmp_path], on=ONE_DEVICE, show=False)


def test_networks_go_on_alone_and_together_from_wherever_each_is(alone, tmp_path):
  """Stopped after seven steps together; then each is brought somewhere else alone."""
  changes = {'checkpoint__every_steps': 4}
  some = places(tmp_path)
  train_some = {'on': ONE_DEVICE, 'show': False}
  signalled = []
  call_ended = Recorder.call_ended

  def stop_at_7(self, step, *arguments, **options):
    call_ended(self, step, *arguments, **options)
    if step == 6 and not signalled:
      signalled.append(step)
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 7'):
    patch.setattr(Recorder, 'call_ended', stop_at_7)
    many.train_many(configs(**changes), some, **train_some)
  assert [saved_steps(place) for place in some] == [[4, 7]] * 3
  with checkpoints.Manager(some[2]) as saved:
    saved.orbax.delete(7)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 5'):
    patch.setattr(preemption.Watch, 'asked', lambda self: True)
    train.train(configs(**changes)[2], some[2], **train_some)  # alone, from step 4
  assert int(train.train(configs(**changes)[0], some[0], **train_some).step) == 10
  found = many.train_many(configs(**changes), some, **train_some)
  for i, state in enumerate(found):
    assert int(state.step) == 10
    close(state, alone[1][i])
    same_lines(log_of(some[i]), log_of(alone[0][i]))
  assert many.train_many(configs(**changes), some, **train_some)[1].step == 10  # all are done


def test_calls_of_several_steps_end_where_each_network_is_to_go_on():
  run = open_run(build(tinier_config(epochs=1, steps_per_call=4)))
  members = [
    types.SimpleNamespace(run=run, recorder=types.SimpleNamespace(step=step)) for step in (7, 0)
  ]
  starts, ends = zip(*groups.calls_of(members), strict=True)
  assert starts[0] == 0 and 7 in starts and ends[-1] == 10


def test_networks_that_are_asked_to_stop_in_their_last_validations_stop(tmp_path):
  write = runlog.RunLog.write

  def signal_at_10(self, kind, step, metrics):
    write(self, kind, step, metrics)
    if kind == 'validation':
      os.kill(os.getpid(), signal.SIGTERM)

  some, where = configs()[:2], places(tmp_path, 2)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 10'):
    patch.setattr(runlog.RunLog, 'write', signal_at_10)
    many.train_many(some, where, on=ONE_DEVICE, show=False)
  assert [saved_steps(place) for place in where] == [[10]] * 2


def test_configs_that_cannot_train_together_are_refused_with_the_fields_that_differ(tmp_path):
  with pytest.raises(ValueError, match='configs 0 and 1 batch_size is 120 and 60'):
    many.train_many([tinier_config(), tinier_config(batch_size=60)], places(tmp_path, 2))
  smooth = tinier_config(optimizer__label_smoothing=0.1)
  with pytest.raises(ValueError, match=r'0 and 1 optimizer.label_smoothing is 0.0 and 0.1'):
    many.train_many([tinier_config(), smooth], places(tmp_path, 2))
  with pytest.raises(ValueError, match='each of 2 networks must have its own workdir'):
    many.train_many([tinier_config(), tinier_config(seed=1)], [tmp_path, tmp_path])
  (tmp_path / 'link').symlink_to(tmp_path)
  with pytest.raises(ValueError, match='each of 2 networks must have its own workdir'):
    many.train_many([tinier_config(), tinier_config(seed=1)], [tmp_path / 'link', tmp_path])
  (tmp_path / 'link').unlink()
  with pytest.raises(ValueError, match='each of 2 networks must have a workdir, got 1'):
    many.train_many([tinier_config(), tinier_config(seed=1)], [tmp_path])
  with pytest.raises(ValueError, match='way must be one of turn, vmap'):
    many.train_many([tinier_config()], [tmp_path], way='all')
  with pytest.raises(ValueError, match='at least one network'):
    many.train_many([], [])
  assert not list(tmp_path.iterdir())


def test_networks_of_which_the_number_of_devices_changes_numbers_are_not_put_on_one_each():
  on = parallel.devices(2)
  assert many._by_itself(tinier_config(), on)
  assert not many._by_itself(tinier_config(model__sync_batch_norm=False), on)
  assert not many._by_itself(tinier_config(optimizer__accumulate=2), on)


def test_what_is_wrong_with_one_network_stops_no_other(alone, tmp_path):
  first, second, _ = configs()
  train.train(tinier_config(epochs=1, seed=9), tmp_path / '1', on=ONE_DEVICE, show=False)
  found = many.train_many([first, second], places(tmp_path, 2), on=ONE_DEVICE, show=False)
  assert 'holds another config' in str(found[1])
  close(found[0], alone[1][0])


def test_a_group_is_as_large_as_the_memory_that_is_free():
  gib = 1 << 30
  assert room.fitting(free=10 * gib, shared=2 * gib, member=gib // 2) == 10  # (0.7 * 10 - 2) * 2
  assert room.fitting(free=gib, shared=2 * gib, member=gib) == 1
  assert room.fitting(free=1000 * gib, shared=0, member=gib) == room.MOST
  assert room.group_size(tinier_config(), on=parallel.devices(2)) == 2
  assert room.group_size(tinier_config(), 5, on=ONE_DEVICE) == 5
  streamed = tinier_config(data_loading='streamed', augment__mode='resized')
  assert room.group_size(streamed, 5, on=ONE_DEVICE) == 1


def test_what_a_network_needs_is_more_than_its_state_and_less_without_its_images():
  run = open_run(build(tinier_config(), ONE_DEVICE))
  images = sum(array.nbytes for array in run.feed.images)
  found = room.of_one(run, images)
  state = abstract_state(run.experiment)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  activations = 120 * 8 * 8 * 2 * 4  # of the first layer, at least
  assert 2 * size + activations < found < room.of_one(run, 0)
