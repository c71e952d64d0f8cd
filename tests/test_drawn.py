"""Kernels are drawn together, and are those that each layer draws by itself."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from random_pruning_jax import cost, drawn, models
from random_pruning_jax.experiment import initial_shapes, initial_structure, initial_variables

KEY = jax.random.key(7)
SHAPES = ((3, 5), (5, 3), (2, 2), (1, 3))
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)


def draws(function):
  """How many draws, and how many keys, the program of a function of a key makes."""
  equations = jax.make_jaxpr(function)(jax.random.key(0)).eqns
  names = [equation.params.get('name', equation.primitive.name) for equation in equations]
  return names.count(drawn.NAME), names.count('random_fold_in')


def test_variables_are_those_of_flax():
  model = models.create('resnet10', 10, width=4)
  # In Python, one layer after the other, and as one program.
  ours, flaxs = initial_variables(model, KEY, IMAGE.shape[1:]), model.init(KEY, _image())
  chex.assert_trees_all_close(ours, flaxs, rtol=1e-6)


def _image():
  return jnp.zeros(IMAGE.shape, IMAGE.dtype)


def test_kernels_of_a_like_size_are_one_draw_and_all_keys_one_more():
  model = models.create('resnet20', 10, width=4)
  sizes = {
    kernel.size
    for kernel in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), IMAGE)['params'])
    if kernel.ndim > 1
  }
  assert draws(lambda key: model.init(key, _image()))[0] == 22
  # 2304, 1152, 576; 288, 160, 144, 128; 36, 32
  assert len(sizes) == 9
  assert draws(drawn.together(model.init, IMAGE)) == (3, 1)


def test_where_draws_may_not_be_cut_those_of_one_size_alone_are_one():
  def init(key):
    return [drawn.normal(jax.random.fold_in(key, n), shape) for n, shape in enumerate(SHAPES)]

  assert draws(drawn.together(init)) == (2, 1)
  chex.assert_trees_all_close(drawn.together(init)(KEY), init(KEY), rtol=1e-6)
  with jax.threefry_partitionable(False):
    assert draws(drawn.together(init)) == (3, 1)
    chex.assert_trees_all_close(drawn.together(init)(KEY), init(KEY), rtol=1e-6)


def test_what_the_result_does_not_need_is_not_computed():
  def init(key, image):
    jax.debug.callback(pytest.fail, image.sum())
    return drawn.normal(key, (2, image.shape[0]))

  assert drawn.together(init, IMAGE)(KEY).shape == (2, 1)


traces = []


class Network(models.Network):
  """Remembers that it was traced."""

  @nn.compact
  def __call__(self, images, train=False):
    traces.append(images.shape)
    return self.classify(self.layers.conv(4, name='stem')(self.normalized(images)), False)


def test_structure_shapes_and_variables_come_of_one_trace():
  model, shape = Network(10), IMAGE.shape[1:]
  structure = initial_structure(model, shape)
  shapes, variables = initial_shapes(model, shape), initial_variables(model, KEY, shape)
  assert traces == [IMAGE.shape]
  assert structure == cost.structure(model, shape)
  chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)
