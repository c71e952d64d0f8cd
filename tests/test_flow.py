"""Gradient flow is logged while a network trains, and training does not notice."""

import shutil
import time
import types

import jax
import numpy as np
import pytest
from tiny import log_of, tinier_config

from random_pruning_jax import (
  attacks,
  checkpoints,
  data,
  feed,
  flow,
  gradients,
  masks,
  runlog,
  train,
)
from random_pruning_jax.experiment import build, initial_variables, keys
from random_pruning_jax.system import preemption


def lines(workdir, kind):
  return [line for line in log_of(workdir) if line['kind'] == kind]


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  """A run that logs gradient flow every four steps, its workdir and last state."""
  workdir = tmp_path_factory.mktemp('measured')
  config = tinier_config(gradient_flow_every=4, checkpoint__every_steps=10)
  return workdir, train.train(config, workdir, show=False)


def test_gradient_flow_is_logged_at_initialisation_and_every_so_many_steps(measured):
  found = lines(measured[0], 'gradient')
  assert [line['step'] for line in found] == [0, 4, 8, 12, 16, 20]
  assert all({'gradient_norm', 'egf_1', 'egf_2'} <= line.keys() for line in found)


def test_measuring_gradient_flow_changes_no_number_of_training(measured, tmp_path):
  state = train.train(tinier_config(), tmp_path, show=False)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(measured[1]))
  for kind in ('train', 'validation'):
    assert lines(tmp_path, kind) == lines(measured[0], kind)


def test_gradient_flow_is_that_of_the_weights_that_train_and_not_of_their_average(
  measured, tmp_path
):
  config = tinier_config(gradient_flow_every=4, optimizer__average_decay=0.9)
  train.train(config, tmp_path, show=False)
  for line, usual in zip(lines(tmp_path, 'gradient'), lines(measured[0], 'gradient'), strict=True):
    assert line['gradient_norm'] == pytest.approx(usual['gradient_norm'], rel=0.01)


def test_what_compiling_gradient_flow_takes_is_left_out_of_the_training_time(tmp_path, monkeypatch):
  compiled, slow = flow._compiled, iter([2.0])  # which stands for a slow compiler
  monkeypatch.setattr(flow, '_compiled', lambda *args: time.sleep(next(slow, 0)) or compiled(*args))
  config = tinier_config(gradient_flow_every=4)
  train.train(config, tmp_path, show=False)
  with checkpoints.Manager(tmp_path) as saved:
    record = checkpoints.record_of(saved, saved.all_steps()[-1])
  assert record['seconds'] > record['compile_seconds'] > 2


def test_the_first_line_is_the_masked_gradient_of_the_first_batch(measured):
  experiment = build(tinier_config())
  variables = initial_variables(experiment.model, keys(0).init, experiment.spec.shape)
  kept = jax.device_get(measured[1].masks)
  params = masks.apply(variables['params'], kept)
  model = experiment.model.clone(axis_name=None)
  batch = flow.first_batch(experiment, data.load('digits', 'train'))

  @jax.jit
  def numbers(params, images, labels):
    def loss(p):
      logits, _ = model.apply(
        variables | {'params': p}, images, train=True, mutable=['batch_stats']
      )
      return attacks.cross_entropy(logits, labels).mean()

    return gradients.gradient_flow(jax.grad(loss)(params), kept)

  logged = lines(measured[0], 'gradient')[0]
  for name, value in numbers(params, batch['image'], batch['label']).items():
    assert logged[name] == pytest.approx(float(value), rel=1e-3), name


def test_gradient_flow_is_that_of_float32_whatever_training_computes_in():
  found = []
  for dtype in ('float32', 'bfloat16'):
    experiment = build(tinier_config(model__dtype=dtype, gradient_flow_every=1))
    variables = initial_variables(experiment.model, keys(0).init, experiment.spec.shape)
    log = flow.FlowLog(experiment, data.load('digits', 'train'))
    state = types.SimpleNamespace(**variables, masks=masks.ones(variables['params']))
    log.measure(0, state)
    found.append(log.take()[0][1])
  assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_the_first_batch_is_that_of_the_first_step_in_pixels_up_to_one():
  experiment, images = build(tinier_config(seed=3)), data.load('digits', 'train')
  [(indices, _)] = feed.feed(experiment).stream([(0, 1)])
  batch = flow.first_batch(experiment, images)
  np.testing.assert_array_equal(batch['label'], images.labels[indices.ravel()])
  np.testing.assert_allclose(batch['image'], images.images[indices.ravel()] / 255, rtol=1e-6)


def test_a_run_that_was_asked_to_stop_writes_its_lines_in_the_same_order(tmp_path):
  config = tinier_config(gradient_flow_every=3, log_every=4)
  train.train(config, tmp_path / 'whole', show=False)
  answers = iter([False, True])
  with pytest.MonkeyPatch.context() as patch, pytest.raises(preemption.Preempted):
    patch.setattr(preemption.Watch, 'asked', lambda self: next(answers))
    train.train(config, tmp_path / 'stopped', show=False)
  train.train(config, tmp_path / 'stopped', show=False)
  order = [
    [(line['kind'], line['step']) for line in runlog.read_log(tmp_path / name)]
    for name in ('whole', 'stopped')
  ]
  assert order[0] == order[1]


def test_a_resumed_run_logs_the_same_gradient_flow_once(measured, tmp_path):
  config = tinier_config(gradient_flow_every=4, checkpoint__every_steps=10)
  shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
  with checkpoints.Manager(tmp_path) as saved:
    saved.orbax.delete(20)
  train.train(config, tmp_path, show=False)
  assert lines(tmp_path, 'gradient') == lines(measured[0], 'gradient')
