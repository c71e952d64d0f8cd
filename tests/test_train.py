"""Training keeps its promises: sparse stays sparse, devices agree, nothing is lost or repeated."""

import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from tiny import a_batch, assert_equal, change_record, log_of, tinier_config, tiny_config

from random_pruning_jax import (
  checkpoints,
  evaluate,
  kernels,
  masks,
  models,
  optimizers,
  parallel,
  runlog,
  scores,
  train,
)
from random_pruning_jax.data import crops
from random_pruning_jax.experiment import build, initial_variables
from random_pruning_jax.step import create_state, train_step
from random_pruning_jax.system import preemption
from random_pruning_jax.training import beginning, calls, prepared
from random_pruning_jax.training.meter import Meter


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run, its workdir and last state."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, train.train(tiny_config(), workdir, show=False)


def one_step(density, batch, devices=None, sync=True):
  """A training step outside any loop, on one array of images or split over devices."""
  axis = parallel.AXIS if devices and sync else None
  model = models.create(tinier_config().model.name, 10, width=2, axis_name=axis)
  variables = initial_variables(model, jax.random.key(0), (8, 8, 1))
  bits = scores.random(None, variables['params'], None, jax.random.key(1))
  kept = masks.top(bits, dict.fromkeys(['stem/kernel', 'head/kernel'], density))
  tx = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9), masks.keep_sparse()
  )
  state = create_state(variables, kept, tx)
  if devices is None:
    return jax.jit(functools.partial(train_step, model=model, tx=tx))(state, batch)

  def step(state, batch):
    return train_step(state, batch, model=model, tx=tx, axis_name=parallel.AXIS)

  on = parallel.devices(devices)
  batch = {name: parallel.split(np.asarray(array), on) for name, array in batch.items()}
  return parallel.parallel(step, on, (None, 0), (None, None))(state, batch)


def test_one_device_equals_three_and_four():
  state, metrics_of_one = one_step(0.5, a_batch())
  for devices in (3, 4):
    same, metrics_of_many = one_step(0.5, a_batch(), devices)
    for one, many in (
      (state.params, same.params),
      (state.batch_stats, same.batch_stats),
      (metrics_of_one, metrics_of_many),
    ):
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, many)


def test_weights_outside_the_masks_are_exactly_zero_after_training(whole):
  _, state = whole
  leaves = masks.named_leaves(jax.device_get(state.params))
  for name, mask in masks.named_leaves(jax.device_get(state.masks)).items():
    assert (leaves[name][~mask] == 0).all()
    if name.endswith('kernel'):
      assert (leaves[name][mask] != 0).all()


def test_training_learns_the_digits(whole):
  workdir, _ = whole
  first, *_, last = [line for line in log_of(workdir) if line['kind'] == 'train']
  assert last['loss'] < 0.9 * first['loss']
  assert last['accuracy'] > 0.2  # ten classes, two epochs, 120 weights


def test_every_step_is_in_the_log_once(whole):
  workdir, _ = whole
  for kind, expected in (
    ('train', [4, 8, 12, 16, 20]),
    ('epoch', [10, 20]),
    ('validation', [10, 20]),
  ):
    assert [line['step'] for line in log_of(workdir) if line['kind'] == kind] == expected


def test_another_ratio_density_and_seed_compile_no_second_step(whole, tmp_path, caplog):
  """The whole run was compiled in this process: only the masks may be made anew."""
  with jax.log_compiles():
    other = tiny_config(pruning__ratio='uniform', pruning__density=0.5, seed=3)
    train.train(other, tmp_path, show=False)
  said = [record.getMessage() for record in caplog.records]
  assert not [text for text in said if text.startswith('Compiling') and 'uint8[1257,64]' in text]


def test_an_interrupted_run_goes_on_to_the_very_same_numbers(whole, tmp_path):
  """Stopped by an exception between checkpoints, in the middle of an epoch and of a log line."""
  config = tiny_config(checkpoint__every_steps=7)
  taken = 0

  def stop_at_17(self, metrics):
    nonlocal taken
    taken += 1
    if taken == 17:
      raise KeyboardInterrupt
    return add(self, metrics)

  add = Meter.add
  with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Meter, 'add', stop_at_17)
    train.train(config, tmp_path, show=False)
  with checkpoints.Manager(tmp_path, config.checkpoint.keep) as saved:
    before = checkpoints.record_of(saved, saved.all_steps()[-1])
  state = train.train(config, tmp_path, show=False)
  assert_equal(state, whole[1])
  assert log_of(tmp_path) == log_of(whole[0])
  with checkpoints.Manager(tmp_path, config.checkpoint.keep) as saved:
    after = checkpoints.record_of(saved, saved.all_steps()[-1])
  assert before['pixels'] == after['pixels'] == crops.pixels()
  assert (after['per_epoch'], after['devices'], after['crops']) == (10, 4, crops.VERSION)
  assert before['seconds'] < after['seconds']
  assert before['compile_seconds'] < after['compile_seconds']  # of both


def test_a_run_on_one_device_equals_four_and_goes_on_on_two(tmp_path):
  """With a small learning rate, so that rounding stays rounding."""
  config = tinier_config(optimizer__lr=0.01)
  four = train.train(config, tmp_path / 'four', show=False)
  one = train.train(config, tmp_path / 'one', on=parallel.devices(1), show=False)
  with checkpoints.Manager(tmp_path / 'one') as saved:
    assert saved.all_steps() == [10, 20]
    saved.orbax.delete(20)
  two = train.train(config, tmp_path / 'one', on=parallel.devices(2), show=False)
  for state in (one, two):
    assert int(state.step) == 20
    assert_equal(state.masks, four.masks)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4),
      jax.device_get((state.params, state.batch_stats)),
      jax.device_get((four.params, four.batch_stats)),
    )


def test_a_finished_run_is_not_trained_again(whole):
  workdir, state = whole
  before = (workdir / runlog.LOG_FILE).read_bytes()
  assert_equal(train.train(tiny_config(), workdir, show=False), state)
  assert (workdir / runlog.LOG_FILE).read_bytes() == before


def test_a_workdir_of_another_config_is_refused_with_the_fields_that_differ(whole):
  with pytest.raises(ValueError, match=r'pruning.density is 0.3, got 0.4; seed is 0, got 5'):
    train.train(tiny_config(pruning__density=0.4, seed=5), whole[0], show=False)
  train.train(tiny_config(data_dir='/elsewhere'), whole[0], show=False)  # changes no number


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path):
  config = tiny_config(optimizer__lr=1e30)
  with pytest.raises(runlog.NotFiniteError, match=r'the loss is (nan|inf) at step [234]; .*Try'):
    train.train(config, tmp_path, show=False)


def test_altered_masks_in_a_checkpoint_are_refused(whole, tmp_path):
  _, state = whole
  with checkpoints.Manager(tmp_path) as saved:
    checkpoints.save(saved, state, {'validation': None})
    checkpoints.finish(saved)
    assert checkpoints.record_of(saved, 20)['masks'] == masks.checksum(jax.device_get(state.masks))
    change_record(tmp_path, 20, lambda record: record | {'masks': '0' * 16})
    with pytest.raises(ValueError, match='the checkpoint was altered'):
      checkpoints.restore(saved, state, parallel.devices(), 20)


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
  import orbax.checkpoint as ocp

  write, met = ocp.CheckpointManager.save, []

  def write_late(self, step, **rest):
    began = time.monotonic()
    while step < 20 and runlog.read_log(tmp_path)[-1]['step'] <= step:
      assert time.monotonic() < began + 30, 'the log waits for the checkpoint'
      time.sleep(0.01)
    met.append(step)
    return write(self, step, **rest)

  monkeypatch.setattr(ocp.CheckpointManager, 'save', write_late)
  train.train(tiny_config(), tmp_path, show=False)
  assert met == [10, 20]


def test_the_devices_have_the_next_call_before_a_validation_is_waited_for(tmp_path, monkeypatch):
  begin, add, met = evaluate.begin_to_predict, Meter.add, []

  def begin_to_predict(*arguments, **options):
    met.append('begin')
    wait = begin(*arguments, **options)
    return lambda: met.append('wait') or wait()

  monkeypatch.setattr(evaluate, 'begin_to_predict', begin_to_predict)
  monkeypatch.setattr(Meter, 'add', lambda *each: met.append('call') or add(*each))
  train.train(tiny_config(), tmp_path, show=False)
  assert met == [*['call'] * 10, 'begin', 'call', 'wait', *['call'] * 9, 'begin', 'wait']


def test_the_speed_of_a_line_is_of_its_own_steps_and_not_of_the_compiler(tmp_path, monkeypatch):
  """With a checkpoint after every step; waiting for the kernels stands for a slow compiler."""
  monkeypatch.setattr(kernels, 'wait', lambda _: time.sleep(2))
  config = tinier_config(log_every=1, checkpoint__every_steps=1, epochs=1)
  train.train(config, tmp_path, show=False)
  lines = [line for line in runlog.read_log(tmp_path) if line['kind'] == 'train']
  rates = [line['lr'] for line in lines]
  assert rates == pytest.approx(optimizers.learning_rates(config, 10)) and len(set(rates)) == 3
  speeds = [line['images_per_second'] for line in lines]
  assert speeds[0] > 120 / 2
  assert len(set(speeds)) > 7  # of 10: a validation occupies the devices


def test_a_speed_that_is_not_known_yet_is_not_logged_as_none(tmp_path):
  train.train(tiny_config(log_every=11), tmp_path, show=False)  # right after the first validation
  [line] = [line for line in runlog.read_log(tmp_path) if line['kind'] == 'train']
  assert line.get('images_per_second', 1) > 0


def test_the_last_checkpoints_stay_and_an_early_best_one(whole, tmp_path):
  found = {1: 0.5, 2: 0.9, 3: 0.9, 4: None, 5: 0.6, 6: 0.8, 7: 0.7}  # accuracy, where validated
  for part in ((1, 2, 3), (4, 5), (6, 7)):  # a process each, which goes on where the last one ended
    with checkpoints.Manager(tmp_path, keep=2) as saved:
      for step in part:
        validation = None if found[step] is None else {'accuracy': found[step]}
        state = whole[1].replace(step=jnp.int32(step))
        checkpoints.save(saved, state, {'validation': validation})
      checkpoints.finish(saved)
      assert checkpoints.find(saved, 'best') == 3  # the later of two that are equal
  with checkpoints.Manager(tmp_path, keep=2) as saved:
    assert saved.all_steps() == [3, 6, 7]
    assert checkpoints.find(saved, 'best') == 3
    (tmp_path / 'checkpoints/6/record/metadata').write_text('{"valid')  # this does no harm
    checkpoints.save(saved, whole[1].replace(step=jnp.int32(8)), {'validation': {'accuracy': 0.1}})
    checkpoints.finish(saved)
    assert saved.all_steps() == [3, 7, 8]
  on_disk = [path.name for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()]
  assert sorted(on_disk) == ['3', '7', '8']


def test_saving_asks_nothing_of_the_service_that_counts_a_runs_questions(
  whole, tmp_path, monkeypatch
):
  asked = []
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', asked.append)
  with checkpoints.Manager(tmp_path) as saved:
    for step in (1, 2):
      state = whole[1].replace(step=jnp.int32(step))
      checkpoints.save(saved, state, {'validation': None})
  assert not asked


def test_without_synchronised_statistics_each_device_has_its_own():
  halves = [{name: array[i : i + 6] for name, array in a_batch().items()} for i in (0, 6)]
  own = [one_step(0.5, half)[0].batch_stats for half in halves]
  both = one_step(0.5, a_batch(), 2, sync=False)[0].batch_stats
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *own)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), both, mean)
  assert build(tiny_config(model__sync_batch_norm=False)).model.axis_name is None


def test_calls_end_where_the_loop_must_act_and_nowhere_else_by_where_a_run_began():
  """Of a run with epochs of 10 steps and a log line every 4, in calls of 3 steps."""
  whole = list(calls.spans(0, 20, 3, (10, 4)))
  assert whole[:5] == [(0, 3), (3, 4), (4, 7), (7, 8), (8, 9)]
  assert whole[-1][1] == 20 and all(a[1] == b[0] for a, b in itertools.pairwise(whole))
  stops = {stop for _, stop in whole}
  assert {4, 8, 10, 12, 16, 20} <= stops
  for start, _ in whole:  # a checkpoint may be saved at the end of any call
    assert list(calls.spans(start, 20, 3, (10, 4))) == [call for call in whole if call[0] >= start]
  assert {6, 7} <= {stop for _, stop in calls.spans(0, 20, 4, (10,), at=(6, 7))}
  config = tiny_config(log_every=4, checkpoint__every_steps=3, gradient_flow_every=7)
  assert sorted(calls.periods_of(config, 10)) == [3, 4, 7, 10]


def test_a_config_that_was_wrong_does_not_keep_its_workdir(tmp_path):
  with pytest.raises(ValueError, match=r'must lie in \[1, 1257\]'):
    train.train(tiny_config(batch_size=5000), tmp_path, show=False)
  prepared.claim(build(tiny_config()), tmp_path)
  for kept in ('checkpoints', 'results.jsonl'):
    (tmp_path / kept).mkdir()
    with pytest.raises(ValueError, match='holds another config: seed is 0, got 1'):
      prepared.claim(build(tiny_config(seed=1)), tmp_path)
    (tmp_path / kept).rmdir()


def test_a_layer_that_keeps_nothing_is_named(tmp_path, capfd):
  experiment = build(tiny_config(pruning__ratio='uniform', pruning__density=0.02))
  run = prepared.open_run(experiment, tmp_path)
  with checkpoints.closing(run.saved):
    beginning.restore_or_init(run)
  assert 'WARNING: no weight is kept in stage2_block0/projection, stem.' in capfd.readouterr().err


def test_the_length_of_calls_is_what_makes_the_fewest():
  assert calls.fewest((400, 50)) == 25
  assert calls.fewest((390, 13)) == 13
  assert calls.fewest((64, 64)) == 32
  assert calls.fewest((1,)) == 1


@pytest.fixture(scope='module')
def in_calls(tmp_path_factory):
  """The same run as `whole`, in calls of three steps."""
  workdir = tmp_path_factory.mktemp('in calls')
  return workdir, train.train(tiny_config(steps_per_call=3), workdir, show=False)


def test_steps_in_one_call_are_the_steps_one_by_one(whole, in_calls):
  assert [(line['kind'], line['step']) for line in log_of(in_calls[0])] == [
    (line['kind'], line['step']) for line in log_of(whole[0])
  ]
  for one, other in zip(log_of(in_calls[0]), log_of(whole[0]), strict=True):
    for name in one.keys() - {'kind'}:
      assert one[name] == pytest.approx(other[name], rel=0.02, abs=0.02)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02),
    jax.device_get(in_calls[1].params),
    jax.device_get(whole[1].params),
  )
  assert_equal(in_calls[1].masks, whole[1].masks)
  assert int(in_calls[1].step) == 20
  params, kept = jax.device_get((in_calls[1].params, in_calls[1].masks))
  outside = jax.tree.map(lambda p, m: (p[~m] == 0).all(), params, kept)
  assert all(jax.tree.leaves(outside))


def test_a_run_in_calls_goes_on_to_the_very_same_numbers(in_calls, tmp_path):
  """Asked to stop in the middle of an epoch, of a log line and of what would be the next call."""
  config = tiny_config(steps_per_call=3)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted, match='step 15'):
    answers = iter([False] * 8 + [True])
    patch.setattr(preemption.Watch, 'asked', lambda self: next(answers))
    train.train(config, tmp_path, show=False)
  with checkpoints.Manager(tmp_path) as saved:
    assert saved.all_steps() == [10, 15]
  state = train.train(config, tmp_path, show=False)
  assert_equal(state, in_calls[1])
  assert log_of(tmp_path) == log_of(in_calls[0])
