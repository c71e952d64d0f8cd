"""A network whose convolutions finish what follows them is the same network."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from random_pruning_jax import kernels, models, parallel
from random_pruning_jax.models import convolution, folding

if kernels.lacking() or not kernels.registers():
  pytest.skip('needs the kernels for convolutions', allow_module_level=True)

NAMES = {'cifar_resnet8': 9, 'vgg11': 8, 'resnet14': 17}  # and how many convolutions they have
rng = np.random.default_rng(0)
IMAGES = jnp.array(rng.random((4, 16, 16, 3)), jnp.float32)


@functools.cache
def network(name='cifar_resnet8', width=8):
  """The model, and variables whose statistics and offsets are not the initial ones."""
  model = models.create(name, 5, width=width, conv_general_dilated=convolution.by_kernels)
  draws = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == 'kernel':
      scale = np.sqrt(2 * leaf.shape[-1] / leaf.size)
      return jnp.array(draws.normal(0, scale, leaf.shape), jnp.float32)
    least = 1 if path[-1].key in ('scale', 'var') else 0
    return jnp.array(least + draws.random(leaf.shape) / 4, jnp.float32)

  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  return model, jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def logits_of(name='cifar_resnet8'):
  """By its folded convolutions."""
  model, variables = network(name)
  return jax.jit(folding.evaluation(model))(variables, IMAGES)


def finished(function, *arguments):
  """How many convolutions its program has that finish something, and how many that do not."""
  program = str(jax.make_jaxpr(function)(*arguments))
  return program.count('= convolve_and_finish['), program.count('= convolve[')


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_the_network_and_every_convolution_finishes(name):
  model, variables = network(name)
  apply = folding.evaluation(model)
  assert finished(apply, variables, IMAGES) == (NAMES[name], 0)
  expected = jax.jit(model.apply)(variables, IMAGES)
  found, largest = logits_of(name), np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize('width', [8, 6])  # channels that fill vectors, and that fill none
def test_derivatives_are_those_of_the_network(width):
  model, variables = network(width=width)

  def derivatives(apply):
    def loss(params, images):
      logits, pooled = apply({**variables, 'params': params}, images)
      return jnp.sum(jnp.tanh(logits)) + jnp.sum(pooled**2)

    def all_of(images):
      gradients = jax.grad(loss, (0, 1))(variables['params'], images)
      slope = lambda images: jax.grad(loss, 1)(variables['params'], images)  # noqa: E731
      return gradients, jax.jvp(slope, (images,), (jnp.ones_like(images),))[1]

    return jax.jit(all_of)(IMAGES)

  ours = derivatives(folding.evaluation(model, features=True))
  plain = derivatives(lambda *of: model.apply(*of, features=True))
  scale = jax.tree.map(lambda x: jnp.abs(x).max() + 1e-9, plain)
  divided = [jax.tree.map(jnp.divide, tree, scale) for tree in (ours, plain)]
  chex.assert_trees_all_close(*divided, atol=1e-3)


def test_images_of_a_network_whose_blocks_are_computed_again_have_gradients():
  model, variables = network()
  attacked = lambda apply: jax.jit(jax.grad(lambda x: apply(variables, x).sum()))(IMAGES)  # noqa: E731
  expected = attacked(folding.evaluation(model))
  found = attacked(folding.evaluation(model.clone(remat=True)))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_many_devices_and_many_networks_give_what_one_gives():
  model, variables = network()
  apply, on = folding.evaluation(model), parallel.devices(2)
  expected = logits_of()
  spread = parallel.parallel(apply, on, (None, 0), 0)
  found = spread(parallel.replicate(variables, on), parallel.split(np.asarray(IMAGES), on))
  np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-5)
  twice = jax.tree.map(lambda x: jnp.stack([x, x]), variables)
  found = jax.jit(jax.vmap(apply, (0, None)))(twice, IMAGES)
  np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-5)


def test_under_shard_map_gradients_are_those_of_one_device():
  model, variables = network()
  gradient = jax.grad(lambda *of: jnp.sum(jnp.tanh(folding.evaluation(model)(*of))))
  expected = jax.jit(gradient)(variables, IMAGES)
  mesh, specs = Mesh(np.array(parallel.devices(2)), 'd'), (PartitionSpec(), PartitionSpec('d'))
  mapped = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
  found = jax.jit(mapped)(variables, IMAGES)
  scale = jax.tree.map(lambda x: jnp.abs(x).max() + 1e-9, expected)
  divided = [jax.tree.map(jnp.divide, tree, scale) for tree in (found, expected)]
  chex.assert_trees_all_close(*divided, atol=1e-3)


def test_not_a_number_stays_none():
  model, variables = network()
  logits = jax.jit(folding.evaluation(model))(variables, IMAGES.at[1].set(jnp.nan))
  assert np.isnan(logits).all(1).tolist() == [False, True, False, False]


KERNEL = jnp.array(rng.normal(size=(3, 3, 3, 16)), jnp.float32)
CHANNELS = jnp.array(rng.normal(size=(1, 1, 1, 16)), jnp.float32)


def convolved(x):
  return convolution.by_kernels(
    x, KERNEL, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.custom_jvp
def cut_with_slope_one(x):
  return jnp.maximum(x, 0.0)


cut_with_slope_one.defjvps(lambda dx, y, x: dx)
LEFT_ALONE = {
  'nothing follows': convolved,
  'it is read twice': lambda x: (y := convolved(x)) * jnp.cos(y),
  'it is given back too': lambda x: ((y := convolved(x)), jax.nn.relu(y)),
  'it is taken from something': lambda x: CHANNELS - convolved(x),
  'something else than channels is a factor': lambda x: convolved(x) * x[..., :1],
  'it is cut off elsewhere': lambda x: lax.max(convolved(x), 1.0),
  'the maximum has no derivative of its own': lambda x: jnp.maximum(convolved(x), 0.0),
  'the maximum has another derivative': lambda x: cut_with_slope_one(convolved(x)),
  'a call cuts it in vain': lambda x: jax.jit(lambda y: (jax.nn.relu(y), y)[1])(convolved(x)),
  'it is divided': lambda x: convolved(x) / CHANNELS,
}


@pytest.mark.parametrize('why', LEFT_ALONE)
def test_a_convolution_is_left_alone_where(why):
  apply = folding.folded(LEFT_ALONE[why])
  assert finished(apply, IMAGES) == (0, 1)
  chex.assert_trees_all_close(apply(IMAGES), LEFT_ALONE[why](IMAGES), rtol=1e-6)


FINISHED = {
  'an offset alone': lambda x: convolved(x) + CHANNELS,
  'a factor on the left': lambda x: CHANNELS * convolved(x) - CHANNELS,
  'only cut': lambda x: jax.nn.relu(convolved(x)),
  'cut inside a call': lambda x: jax.jit(jax.nn.relu)(convolved(x)),
  'itself beside': lambda x: (lambda y: jax.nn.relu(convolved(x) * CHANNELS + y))(
    jnp.cos(x[..., :1]) * CHANNELS
  ),
  'nothing after what is beside': lambda x: (
    (convolved(x) + jnp.cos(x[..., :1]) * CHANNELS) * CHANNELS
  ),
}


@pytest.mark.parametrize('what', FINISHED)
def test_a_convolution_finishes(what):
  apply = folding.folded(FINISHED[what])
  assert finished(apply, IMAGES) == (1, 0)
  np.testing.assert_allclose(apply(IMAGES), FINISHED[what](IMAGES), rtol=1e-4, atol=1e-4)


def test_a_network_of_other_convolutions_is_applied_as_it_is():
  model = models.create('cifar_resnet8', 5, width=4)
  assert folding.evaluation(model).func == model.apply
