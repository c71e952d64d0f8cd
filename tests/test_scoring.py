"""Scores of networks of this package: the images they see, and their parts on devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scored import (
  TinyNetwork,
  a_batch,
  apply_tiny,
  as_floats,
  close,
  mlp,
  tanh_mlp,
  tiny_params,
)
from tiny import tinier_config

from random_pruning_jax import (
  data,
  experiment,
  masks,
  models,
  parallel,
  scores,
  scoring,
)


def on_devices(name, model, params, batches, devices, most=40, **options):
  found = scoring.on_devices(model, batches, parallel.devices(devices), most)
  return found[name](None, params, None, jax.random.key(0), **options)


@pytest.mark.parametrize('name', sorted(scores.OF_DATA))
def test_one_device_equals_four(name):
  """Statistics are over all devices, even where training takes each device's own."""
  model = TinyNetwork(10)
  labels = np.arange(400, dtype=np.int32) % 10
  images = data.Images(np.random.RandomState(0).randint(0, 256, (400, 6, 6, 1), np.uint8), labels)
  spec = data.SPECS['digits']
  batches = scoring.batches([name], images, spec, seed=0, batch_size=40)
  one, four = (on_devices(name, model, tiny_params(), batches, n) for n in (1, 4))
  close(one, four, 1e-4)
  whole = scores.SCORES[name](
    functools.partial(apply_tiny, model), tiny_params(), as_floats(batches[name]), jax.random.key(0)
  )
  if name.startswith('snip'):  # GraSP's 250 images are taken in parts of 25
    close(one, whole, 1e-4)


def test_a_batch_in_parts_is_the_whole_batch_where_images_do_not_meet():
  params, batch = mlp(4, 5, 3), a_batch(30)
  average = functools.partial(scoring._average, on=parallel.devices(4), most=7)  # 5 parts of 6
  close(
    scores.grasp(tanh_mlp, params, batch, None, average=average),
    scores.grasp(tanh_mlp, params, batch, None),
    1e-4,
  )


@pytest.mark.parametrize('name', ['snip', 'grasp'])
def test_a_score_sees_no_more_images_at_once_than_a_step_that_accumulates(name):
  options = {'model__width': 16, 'pruning__ratio': name, 'pruning__select': name}
  config = tinier_config(optimizer__accumulate=24, **options)  # 24 parts of 5
  made = experiment.build(config, parallel.devices(1))
  network, spec, seed = made.model, made.spec, experiment.keys(0)
  variables = experiment.initial_variables(network, seed.init, spec.shape)
  batches = experiment.score_batches(made, data.load('digits', 'train'))
  found = experiment.initial_masks(made, variables, batches)
  params = variables['params']
  scored = on_devices(name, network, params, batches, 1, most=5)
  named = {layer: masks.named_leaves(scored)[layer] for layer in made.structure.shapes}
  wanted = masks.top(scored, masks.layer_densities(named, 0.3))
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_images_of_a_power_of_ten_classes_or_of_half_of_them_are_in_equal_parts():
  for classes, most in itertools.product((1, 5, 10, 50, 100, 500, 1000), (24, 64, 120, 128, 768)):
    images = 25 * classes
    equal = [n for n in range(1, images + 1) if images % n == 0 and images // n <= most]
    assert scoring._parts(images, most) == equal[0]


def test_parts_have_room_and_are_never_much_smaller_than_they_may_be():
  for images, most in itertools.product(range(1, 3000), (32, 128, 768)):
    parts = scoring._parts(images, most)
    assert images <= parts * most
    assert images // parts >= min(images, most // 5)


def test_parts_of_two_sizes_weigh_as_many_images_as_they_have():
  """137 images are a prime number: 69 and 68 on one device, 23 on each of three and 17 of four."""

  def label_and_size(part):
    return jnp.stack([part['label'].mean(), jnp.float32(len(part['label']))])

  batch = {'label': np.arange(137, dtype=np.float32)}
  for devices, sizes in ((1, (69, 68)), (4, (23, 17))):
    on = parallel.devices(devices)
    mean, size = scoring._average(label_and_size, (), batch, on=on, most=128)
    assert mean == pytest.approx(68)
    assert size == pytest.approx((69 * sizes[0] + 68 * sizes[1]) / 137)


def test_a_batch_is_cut_into_the_fewest_equal_parts_that_have_room():
  def size(part):
    return jnp.float32(len(part['label']))

  batch, on = {'label': np.zeros(250, np.int32)}, parallel.devices(1)
  found = [scoring._average(size, (), batch, on=on, most=most) for most in (100, 128, 250, 300)]
  assert found == [50, 125, 250, 250]


def test_a_part_of_grasp_needs_less_memory_than_the_gradient_of_a_training_step():
  """Bytes of the compiled program's own arrays, on whatever backend this is."""
  model = models.create('cifar_resnet14', 10, width=8)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))['params']
  batch = {'image': jnp.zeros((64, 16, 16, 3)), 'label': jnp.zeros((64,), int)}

  def scratch(of, network, *arguments):
    function = of(scoring._logits(network.clone(axis_name=None)))
    compiled = (
      jax.jit(function).lower(*arguments, batch).compile({'xla_backend_optimization_level': 0})
    )
    return compiled.memory_analysis().temp_size_in_bytes

  step = scratch(scores.Gradient, model, params)
  assert scratch(scores.HessianProduct, scoring._as_scored(model, 'grasp'), params, params) < step


@pytest.mark.parametrize('name', ['snip', 'grasp', 'synflow'])
def test_scores_are_those_of_float32_whatever_training_computes_in(name):
  labels = np.arange(40) % 10
  batch = {'image': np.random.RandomState(0).rand(40, 6, 6, 1).astype(np.float32), 'label': labels}
  options = {'density': 0.5} if name == 'synflow' else {}
  half, full = (
    on_devices(name, TinyNetwork(10, dtype=dtype), tiny_params(), {name: batch}, 1, **options)
    for dtype in ('bfloat16', 'float32')
  )
  close(half, full, 1e-5)


def test_grasp_sees_the_first_25_images_of_each_class_and_snip_the_first_batch():
  images = data.load('digits', 'train')
  spec = data.SPECS['digits']
  found = scoring.batches(['grasp', 'grasp_authors', 'snip'], images, spec, seed=1, batch_size=64)
  for name in ('grasp', 'grasp_authors'):
    assert np.bincount(found[name]['label']).tolist() == [25] * 10
    assert len(np.unique(found[name]['image'].reshape(250, -1), axis=0)) == 250
  assert found['grasp']['label'][:20].tolist() == [*range(10)] * 2
  assert found['grasp_authors']['label'].tolist() == sorted(found['grasp']['label'])
  order = np.random.RandomState([1, 0]).permutation(len(images.labels))
  np.testing.assert_array_equal(found['snip']['image'], images.images[order[:64]])
  by_class = [order[images.labels[order] == label][:25] for label in range(10)]
  np.testing.assert_array_equal(
    found['grasp_authors']['image'], images.images[np.concatenate(by_class)]
  )
  assert np.unique(scoring._balanced(np.arange(250) % 10, 10, 0)).tolist() == [*range(250)]  # all
  few = data.Images(images.images[:100], images.labels[:100])
  with pytest.raises(ValueError, match='GraSP needs 25 training images of each class, but class'):
    scoring.batches(['grasp'], few, spec, seed=0, batch_size=64)


def test_no_score_reads_images_it_does_not_need():
  assert scoring.batches(['random', 'magnitude'], None, data.SPECS['digits'], 0, 64) == {}
  ones = scoring.batches(['synflow'], None, data.SPECS['digits'], 0, 64)['synflow']
  assert ones['image'].shape == (1, 8, 8, 1)


def test_synflow_of_a_network_here_needs_no_data():
  batches = scoring.batches(['synflow'], None, data.SPECS['digits'], 0, 64)
  layers = ['stem/kernel', 'head/kernel']
  order = on_devices(
    'synflow', TinyNetwork(10), tiny_params(), batches, 4, density=0.05, layers=layers
  )
  own = {name: leaf for name, leaf in masks.named_leaves(order).items() if name in layers}
  assert min(masks.layer_densities(own, 0.05).values()) > 0
  large = jax.tree.map(lambda w: w * 1e20, tiny_params())  # beyond float32, if not rescaled between
  again = on_devices('synflow', TinyNetwork(10), large, batches, 4, density=0.05, layers=layers)
  own = {name: leaf for name, leaf in masks.named_leaves(again).items() if name in layers}
  assert min(masks.layer_densities(own, 0.05).values()) > 0
