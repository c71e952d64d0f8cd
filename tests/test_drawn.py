"""Kernels are drawn together, and are those that each layer draws by itself."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from random_pruning_jax import cost, models
from random_pruning_jax.experiment import initial_shapes, initial_structure, initial_variables, keys
from random_pruning_jax.models import drawn

KEY = jax.random.key(7)
SHAPES = ((3, 5), (5, 3), (2, 2), (1, 3))
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)


def lazily(model):
  return lambda key: model.lazy_init(key, IMAGE)


def draws(function):
  """How many draws, and how many keys, the program of a function of a key makes."""
  equations = jax.make_jaxpr(function)(KEY).eqns
  names = [equation.params.get('name', equation.primitive.name) for equation in equations]
  # Alone it is a primitive, together they are JAX's function under `vmap`.
  draws = names.count(drawn._row.name) + names.count('_normal')
  return draws, names.count('random_fold_in')


def test_variables_are_those_of_flax():
  model = models.create('resnet10', 10, width=4)
  flaxs = jax.jit(lazily(model))(KEY)
  chex.assert_trees_all_close(initial_variables(model, KEY, IMAGE.shape[1:]), flaxs, rtol=1e-6)


def test_kernels_of_a_like_size_are_one_draw_and_all_keys_one_more():
  model = models.create('resnet20', 10, width=4)
  variables = jax.eval_shape(lazily(model), KEY)
  sizes = {kernel.size for kernel in jax.tree.leaves(variables['params']) if kernel.ndim > 1}
  assert draws(lazily(model))[0] == 22
  # 2304, 1152, 576; 288, 160, 144, 128; 36, 32
  assert len(sizes) == 9
  assert draws(drawn.batched(lazily(model))) == (3, 1)


def several(key):
  return [drawn.normal(jax.random.fold_in(key, n), shape) for n, shape in enumerate(SHAPES)]


def test_where_draws_may_not_be_cut_those_of_one_size_alone_are_one():
  assert draws(drawn.batched(several)) == (2, 1)
  chex.assert_trees_all_close(drawn.batched(several)(KEY), several(KEY), rtol=1e-6)
  with jax.threefry_partitionable(False):
    assert draws(drawn.batched(several)) == (3, 1)
    chex.assert_trees_all_close(drawn.batched(several)(KEY), several(KEY), rtol=1e-6)


def test_an_array_holds_no_more_numbers_than_there_is_room_for(monkeypatch):
  monkeypatch.setattr(drawn, 'MOST', 15)  # 15; 15; 4 and 3
  assert draws(drawn.batched(several)) == (3, 1)


def test_numbers_of_two_types_are_two_draws():
  def both(key):
    kinds = (jnp.float32, jnp.bfloat16)
    return [drawn.normal(jax.random.fold_in(key, n), (8,), kind) for n, kind in enumerate(kinds)]

  assert draws(drawn.batched(both)) == (2, 1)
  chex.assert_trees_all_close(drawn.batched(both)(KEY), both(KEY), rtol=1e-6)


@pytest.mark.parametrize('kind', ['rbg', 'unsafe_rbg'])
def test_a_generator_whose_draws_vmap_changes_draws_one_by_one(kind):
  key = jax.random.key(7, impl=kind)
  chex.assert_trees_all_close(drawn.batched(several)(key), several(key), rtol=1e-6)


@pytest.mark.parametrize('partitionable', [True, False])
def test_the_keys_of_a_seed_are_the_same_whatever_jax_is_set_to(partitionable):
  words = [1797259609, 2579123966], [928981903, 3453687069]
  with jax.default_prng_impl('rbg'), jax.threefry_partitionable(partitionable):
    found = keys(0)
  assert [jax.random.key_data(key).tolist() for key in found[:2]] == list(words)


def test_old_keys_give_the_same_numbers():
  key = jax.random.PRNGKey(7)
  chex.assert_trees_all_close(drawn.normal(key, (3, 5)), jax.random.normal(key, (3, 5)), rtol=1e-6)
  chex.assert_trees_all_close(drawn.batched(several)(key), several(KEY), rtol=1e-6)


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x, _=None):
    return nn.Dense(5, kernel_init=lambda *of: drawn.normal(*of))(x), None


class Lifted(nn.Module):
  """Layers inside a transform of Flax's, which is one equation of the program, or many draws."""

  lift: str

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(5, kernel_init=lambda *of: drawn.normal(*of))(x.reshape(len(x), -1))
    options = {'variable_axes': {'params': 0}, 'split_rngs': {'params': True}}
    lifted = {
      'remat': lambda: nn.remat(Layer),
      'jit': lambda: nn.jit(Layer),
      'scan': lambda: nn.scan(Layer, length=3, **options),
      'vmap': lambda: nn.vmap(Layer, in_axes=None, axis_size=3, **options),
    }
    return lifted[self.lift]()()(x)[0]


@pytest.mark.parametrize('lift', ['remat', 'jit', 'scan', 'vmap'])
def test_layers_inside_transforms_of_flax_are_drawn_as_flax_draws_them(lift):
  init = lazily(Lifted(lift))
  chex.assert_trees_all_close(drawn.batched(init)(KEY), init(KEY), rtol=1e-6)


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
