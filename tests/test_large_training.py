"""What large runs need of a step: accumulation, averages, smoothed labels, bfloat16 and more."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import a_batch, tinier_config, tiny_config

from random_pruning_jax import evaluate, feed, masks, metrics, models, runlog, train
from random_pruning_jax.experiment import build, initial_variables
from random_pruning_jax.step import create_state, train_step


@functools.cache
def parts_of(**settings):
  model = models.create(tinier_config().model.name, 10, width=2, **settings)
  return model, initial_variables(model, jax.random.key(0), (8, 8, 1))


def stepped(batch, *, tx=None, average=False, model=None, **options):
  network, variables = parts_of(**(model or {}))
  tx = tx or optax.chain(optax.sgd(0.5), masks.keep_sparse())
  state = create_state(variables, masks.ones(variables['params']), tx, average)
  step = functools.partial(train_step, model=network, tx=tx, **options)
  return state, *jax.jit(step)(state, batch)


def close(a, b, tolerance=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=tolerance), a, b)


def test_two_equal_halves_accumulate_to_the_gradient_of_one():
  """Each part is normalised by itself, so the same images twice give what they give once."""
  half = a_batch(4)
  whole = jax.tree.map(lambda x: jnp.concatenate([x, x]), half)
  start, once, metrics = stepped(half)
  _, twice, same = stepped(whole, accumulate=2)
  close(once.params, twice.params)
  close(metrics, same)
  # Each part moves the running statistics a tenth of the way.
  moved = jax.tree.map(lambda a, b: a + 1.9 * (b - a), start.batch_stats, once.batch_stats)
  close(twice.batch_stats, moved)
  assert all(once.batch_stats['stem_norm']['mean'] != 0)


def test_the_average_follows_the_weights_and_is_what_is_evaluated():
  start, state, _ = stepped(a_batch(8), average=True, average_decay=0.75)
  expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start.params, state.params)
  close(state.average, expected)
  assert state.variables['params'] is state.average
  _, plain, _ = stepped(a_batch(8))
  close(plain.params, state.params)
  assert plain.variables['params'] is plain.params


class OneLayer(nn.Module):
  """Logits are the image's only pixel times two weights."""

  @nn.compact
  def __call__(self, images, train=False):
    del train
    self.variable('batch_stats', 'none', jnp.zeros, ())
    return nn.Dense(2, use_bias=False, name='head')(images)


def test_smoothed_labels_leave_a_share_to_every_class():
  """Probabilities 3/4 and 1/4; of the label 0, smoothing by 0.2 makes 0.9 and 0.1."""
  variables = {'params': {'head': {'kernel': jnp.array([[math.log(3), 0.0]])}}}
  variables['batch_stats'] = {'none': jnp.zeros(())}
  tx = optax.chain(optax.sgd(1.0), masks.keep_sparse())
  state = create_state(variables, masks.ones(variables['params']), tx)
  batch = {'image': jnp.ones((1, 1)), 'label': jnp.array([0])}
  step = functools.partial(train_step, state, batch, model=OneLayer(), tx=tx)
  _, plain = step()
  assert float(plain['loss']) == pytest.approx(-math.log(0.75))
  stepped, smooth = step(label_smoothing=0.2)
  assert float(smooth['loss']) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))
  expected = [[math.log(3) - (0.75 - 0.9), 0.0 - (0.25 - 0.1)]]
  np.testing.assert_allclose(stepped.params['head']['kernel'], expected, rtol=1e-5)


def test_bfloat16_computes_in_it_and_keeps_everything_in_float32():
  _, half, metrics = stepped(a_batch(8), model={'dtype': 'bfloat16'})
  _, _, expected = stepped(a_batch(8))
  assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype('float32')}
  assert {leaf.dtype for leaf in jax.tree.leaves(half.batch_stats)} == {jnp.dtype('float32')}
  assert metrics['loss'].dtype == jnp.float32
  assert float(metrics['loss']) == pytest.approx(float(expected['loss']), rel=0.03)


def test_a_run_with_all_of_it_is_restored_and_its_average_is_sparse(tmp_path):
  config = tiny_config(
    epochs=1,
    optimizer__accumulate=2,
    optimizer__average_decay=0.9,
    model__remat=True,
    model__dtype='bfloat16',
  )
  state = train.train(config, tmp_path, show=False)
  again = train.train(config, tmp_path, show=False)
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state, again)))
  kept, average = jax.device_get((state.masks, state.average))
  jax.tree.map(lambda m, a: np.testing.assert_array_equal(a[~m], 0), kept, average)
  [validated] = [line for line in runlog.read_log(tmp_path) if line['kind'] == 'validation']
  experiment = build(config)
  images, labels = feed.held_out(experiment)
  network = evaluate.Trained(experiment.model, state.variables, 120, experiment.on)
  of_average = evaluate.begin_to_predict(network, images)
  assert validated['nll'] == pytest.approx(float(metrics.nll(of_average(), labels)))


def test_parts_that_do_not_divide_a_devices_batch_are_refused():
  with pytest.raises(ValueError, match='must divide the batch of a device, 30; got 4'):
    build(tiny_config(optimizer__accumulate=4))
