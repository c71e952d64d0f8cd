"""The convolutions of this package are XLA's, and so are their derivatives of any order."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from random_pruning_jax import kernels, models
from random_pruning_jax.models.convolution import by_kernels, by_pieces, fastest

NUMBERS = ('NHWC', 'HWIO', 'NHWC')
SAME_3, SAME_7 = ((1, 1), (1, 1)), ((3, 3), (3, 3))
NONE = ((0, 0), (0, 0))
# size, kernel, stride, padding, channels in and out, batch: every family of shapes in the networks.
LAYERS = {
  'cifar stem': (8, 3, 1, SAME_3, 3, 8, 3),
  'block': (8, 3, 1, SAME_3, 8, 8, 18),
  'one image': (8, 3, 1, SAME_3, 4, 4, 1),
  'pairs of pixels': (6, 3, 1, SAME_3, 8, 16, 2),
  'stride 3': (12, 5, 3, ((2, 2), (2, 2)), 4, 8, 2),
  'down': (8, 3, 2, SAME_3, 4, 8, 9),
  'down, odd size': (7, 3, 2, SAME_3, 4, 8, 3),
  'down, SAME': (8, 3, 2, 'SAME', 4, 8, 16),
  'down, VALID': (8, 3, 2, 'VALID', 4, 8, 2),
  'projection': (8, 1, 2, NONE, 4, 8, 3),
  'projection, odd size': (7, 1, 2, 'SAME', 4, 8, 3),
  'bottleneck': (4, 1, 1, NONE, 8, 2, 16),
  'imagenet stem': (16, 7, 2, SAME_7, 3, 8, 3),
  'wide': (14, 3, 1, SAME_3, 16, 48, 5),
  'pieces': (16, 3, 1, SAME_3, 16, 24, 60),
  'winograd': (12, 3, 1, SAME_3, 32, 48, 8),
  'winograd, odd size': (7, 3, 1, SAME_3, 40, 32, 17),
  'winograd, VALID': (8, 3, 1, 'VALID', 32, 32, 30),
  'winograd, one side padded': (9, 3, 1, ((0, 1), (2, 0)), 32, 32, 16),
}


LACKING = kernels.lacking()


@pytest.fixture(
  params=[
    by_pieces,
    pytest.param(by_kernels, marks=pytest.mark.skipif(bool(LACKING), reason=f'needs {LACKING}')),
  ],
  ids=['by pieces', 'by kernels'],
)
def conv(request):
  return request.param


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer(request):
  return request.param


def _operands(layer, dtype=np.float32):
  size, kernel, _, _, c, o, batch = layer
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, size, size, c)) / c
  return jnp.array(x, dtype), jnp.array(rng.normal(size=(kernel, kernel, c, o)) / kernel, dtype)


def _loss(conv, layer):
  """A scalar that is not quadratic, so that its second derivatives depend on both operands."""
  _, _, stride, padding, *_ = layer

  def loss(x, kernel):
    y = conv(x, kernel, (stride, stride), padding, dimension_numbers=NUMBERS)
    return jnp.mean(jnp.sin(y.astype(jnp.float32)))

  return loss


def _both(conv, derive, layer, *operands):
  """The same derivative by the rule and by JAX."""
  convs = (conv, lax.conv_general_dilated)
  return [jax.jit(derive(_loss(conv, layer)))(*operands) for conv in convs]


def _assert_close(ours, theirs, rounding=1e-5):
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert a.dtype == b.dtype
    b = np.asarray(b, np.float64)
    np.testing.assert_allclose(np.asarray(a, np.float64), b, 0, rounding * np.abs(b).max())


def test_values_and_gradients_are_those_of_jax_to_rounding(conv, layer):
  x, kernel = _operands(layer)
  _assert_close(*_both(conv, lambda f: jax.value_and_grad(f, (0, 1)), layer, x, kernel))


def test_gradients_are_exact_in_float64(conv, layer):
  with jax.enable_x64(True):
    x, kernel = _operands(layer, np.float64)
    _assert_close(*_both(conv, lambda f: jax.grad(f, (0, 1)), layer, x, kernel), 1e-13)


def _second(f):
  """Forward mode; a Hessian product by jvp of grad; and grad of grad, all in one program."""

  def derive(x, kernel):
    directions = (jnp.cos(x), jnp.cos(kernel))
    forward = jax.jvp(f, (x, kernel), directions)[1]
    hessian_product = jax.jvp(jax.grad(f, (0, 1)), (x, kernel), directions)[1]

    def steepness(*operands):
      return sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1))(*operands))

    return forward, hessian_product, jax.grad(steepness, (0, 1))(x, kernel)

  return derive


@pytest.mark.parametrize(
  'name', ['block', 'down, SAME', 'projection', 'pieces', 'winograd, odd size']
)
def test_second_derivatives_are_those_of_jax(conv, name):
  layer = LAYERS[name]
  _assert_close(*_both(conv, _second, layer, *_operands(layer)))


def test_the_rule_holds_in_loops_and_under_vmap(conv):
  layer = LAYERS['block']
  x, kernel = _operands(layer)
  images = jnp.stack([x, 2 * x])

  def derive(f):
    gradient = jax.grad(f, 1)

    def both(images, kernel):
      def step(kernel, x):
        return kernel - gradient(x, kernel), None

      return lax.scan(step, kernel, images)[0], jax.vmap(gradient, (0, None))(images, kernel)

    return both

  _assert_close(*_both(conv, derive, layer, images, kernel))


def test_under_vmap_no_images_have_no_gradients(conv):
  layer = LAYERS['bottleneck']
  x, kernel = _operands(layer)
  gradients = jax.vmap(jax.grad(_loss(conv, layer), (0, 1)), (0, None))(x[None][:0], kernel)
  assert [g.shape for g in gradients] == [(0, *x.shape), (0, *kernel.shape)]


def test_bfloat16_stays_bfloat16_and_near_float32(conv):
  layer = LAYERS['block']
  x, kernel = _operands(layer)
  gradients = jax.jit(jax.grad(_loss(conv, layer), (0, 1)))
  half = gradients(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
  full = gradients(x, kernel)
  assert {g.dtype for g in half} == {jnp.dtype('bfloat16')}
  full = [g.astype(jnp.bfloat16) for g in full]
  _assert_close(half, full, 0.03)


@pytest.mark.parametrize('mapped', ['pmap', 'shard_map'])
def test_several_devices_give_the_gradient_of_one(conv, mapped):
  layer = LAYERS['block']
  x, kernel = _operands(layer)
  x = x[:16]
  gradient = jax.grad(_loss(conv, layer), (0, 1))
  one = gradient(x, kernel)
  if mapped == 'pmap':
    dx, dk = jax.pmap(gradient, in_axes=(0, None))(x.reshape(4, 4, *x.shape[1:]), kernel)
    dx, dk = dx.reshape(x.shape), dk.mean(0)
  else:
    specs = (PartitionSpec('d'), PartitionSpec())
    mesh = Mesh(np.array(jax.devices()[:4]), ('d',))
    mapped_gradient = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)
    dx, dk = jax.jit(mapped_gradient)(x, kernel)
    dk = dk / 4  # shard_map sums the gradient of a replicated kernel over the devices.
  _assert_close((dx / 4, dk), one)


@pytest.mark.parametrize(
  'settings',
  [
    {'rhs_dilation': (2, 2)},
    {'lhs_dilation': (2, 2), 'padding': SAME_3},
    {'feature_group_count': 2},
    {'padding': ((4, 4), (0, 0))},
  ],
  ids=str,
)
def test_what_the_rule_does_not_cover_is_left_to_jax(conv, settings):
  settings = {'padding': 'SAME', 'dimension_numbers': NUMBERS} | settings
  groups = settings.get('feature_group_count', 1)
  x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 4))
  ours = jax.make_jaxpr(lambda x, k: conv(x, k, (1, 1), **settings))(x, kernel)
  theirs = jax.make_jaxpr(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), **settings))(
    x, kernel
  )
  assert str(ours) == str(theirs)


def test_one_dimension_works_in_a_flax_layer(conv):
  x = jnp.ones((2, 8, 3))
  ours = nn.Conv(4, (3,), conv_general_dilated=conv)
  variables = ours.init(jax.random.key(0), x)
  np.testing.assert_array_equal(ours.apply(variables, x), nn.Conv(4, (3,)).apply(variables, x))


NETWORK = models.create('cifar_resnet8', 10, width=4)


@functools.cache
def _network_gradient(conv=None):
  """By the loss of three images; by JAX alone without `conv`."""
  images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))
  variables = jax.jit(NETWORK.init)(jax.random.key(0), images)
  model = NETWORK.clone(conv_general_dilated=conv)

  def loss(params):
    weights = variables | {'params': params}
    logits, _ = model.apply(weights, images, train=True, mutable=['batch_stats'])
    return jnp.mean(nn.log_softmax(logits)[:, 0])

  return jax.jit(jax.grad(loss))(variables['params'])


def test_a_networks_gradients_do_not_depend_on_the_rule(conv):
  _assert_close(_network_gradient(conv), _network_gradient(), 1e-4)


def test_channels_that_differ_are_refused_as_by_xla(conv):
  with pytest.raises(ValueError, match='feature'):
    conv(jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 4, 16)), (1, 1), 'SAME', dimension_numbers=NUMBERS)


@pytest.mark.parametrize(
  ('images', 'padding', 'map_'), [((0, 8, 8, 4), 'SAME', (8, 8)), ((2, 2, 8, 4), 'VALID', (0, 6))]
)
def test_no_image_and_one_smaller_than_the_kernel_give_what_xla_gives(conv, images, padding, map_):
  x, kernel = jnp.ones(images), jnp.ones((3, 3, 4, 8))

  def convolve(x, kernel):
    return conv(x, kernel, (1, 1), padding, dimension_numbers=NUMBERS)

  y, pull = jax.vjp(convolve, x, kernel)
  assert y.shape == (images[0], *map_, 8)
  dx, dk = pull(y)
  assert dx.shape == x.shape and not dk.any()


def test_without_jit_a_convolution_is_the_same(conv):
  x, kernel = _operands(LAYERS['block'])
  loss = jax.value_and_grad(_loss(conv, LAYERS['block']), 1)
  with jax.disable_jit():
    found = loss(x, kernel)
  _assert_close(found, loss(x, kernel), 1e-5)


@pytest.mark.parametrize('within', [jax.jit, lambda loss: loss], ids=['jit', 'eager'])
def test_a_search_for_the_first_nan_names_the_convolution(conv, within):
  x, kernel = _operands(LAYERS['block'])
  loss = within(_loss(conv, LAYERS['block']))
  with jax.debug_nans(True), pytest.raises(FloatingPointError, match='conv'):
    loss(np.full_like(x, np.nan), kernel)


def test_the_layer_named_pieces_is_made_of_several_and_no_other():
  def pieces(name):
    program = jax.make_jaxpr(jax.grad(_loss(by_pieces, LAYERS[name]), 1))(*_operands(LAYERS[name]))
    return str(program).count('conv_general_dilated[')

  assert {name for name in LAYERS if pieces(name) > 2} == {'pieces'}  # forward, and a gradient


@pytest.mark.skipif(bool(LACKING), reason=f'needs {LACKING}')
def test_layers_named_winograd_are_made_of_tiles_and_no_others():
  from random_pruning_jax.kernels import dense, winograd_plans

  def fits(size, kernel, stride, padding, c, o, batch):
    shape, strides = (kernel, kernel, c, o), (stride, stride)
    if isinstance(padding, str):
      padding = lax.padtype_to_pads((size, size), shape[:2], strides, padding)
    return winograd_plans.fits(batch, dense.Sizes((size, size, c), shape, strides, padding))

  assert [name for name, layer in LAYERS.items() if fits(*layer)] == [
    name for name in LAYERS if name.startswith('winograd')
  ]


@pytest.mark.skipif(bool(LACKING), reason=f'needs {LACKING}')
def test_the_kernel_is_what_a_network_gets_where_it_is_made_for_the_processor():
  assert fastest() == (by_kernels if kernels.registers() else by_pieces)
