"""Networks: their parameters, names, shapes and settings."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from random_pruning_jax import models
from random_pruning_jax.models.layers import Layers

IMAGE = {'cifar': (32, 32, 3), 'imagenet': (224, 224, 3)}
# name, width, images and classes -> all parameters, prunable kernels
COUNTS = [
  ('resnet20', 0, 'cifar', 272_474, 22),
  ('resnet32', 0, 'cifar', 466_906, 34),
  ('resnet44', 0, 'cifar', 661_338, 46),
  ('resnet56', 0, 'cifar', 855_770, 58),
  ('resnet110', 0, 'cifar', 1_730_714, 112),
  ('resnet20', 4, 'cifar', 17_534, 22),
  ('resnet20', 8, 'cifar', 68_786, 22),
  ('resnet20', 24, 'cifar', 611_074, 22),
  ('vgg11', 0, 'cifar', 9_228_362, 9),
  ('vgg13', 0, 'cifar', 9_413_066, 11),
  ('vgg16', 0, 'cifar', 14_724_042, 14),
  ('vgg19', 0, 'cifar', 20_035_018, 17),
  ('resnet10', 0, 'imagenet', 5_418_792, 13),
  ('resnet14', 0, 'imagenet', 10_064_936, 18),
  ('resnet18', 0, 'imagenet', 11_689_512, 21),
  ('resnet34', 0, 'imagenet', 21_797_672, 37),
  ('resnet50', 0, 'imagenet', 25_557_032, 54),
  ('resnet101', 0, 'imagenet', 44_549_160, 105),
  ('resnet152', 0, 'imagenet', 60_192_808, 156),
  ('wrn14_2', 0, 'imagenet', 21_553_960, 18),
  ('wrn50_2', 0, 'imagenet', 68_883_240, 54),
  ('wrn101_2', 0, 'imagenet', 126_886_696, 105),
]
SMALL = [('cifar_resnet8', 4, (8, 8, 3)), ('vgg11', 4, (16, 16, 3))]  # name, width, image


@functools.cache
def abstract_variables(model, image):
  images = jax.ShapeDtypeStruct((1, *image), jnp.float32)
  return jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), images)


def flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


@functools.cache
def small(name, width, image):
  """A network, variables as after some training, and 6 images."""
  model = models.create(name, 5, width=width, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == 'kernel':
      return rng.normal(0, np.sqrt(2 * leaf.shape[-1] / leaf.size), leaf.shape).astype(np.float32)
    low = 0.5 if path[-1].key in ('scale', 'var') else -0.5
    return rng.uniform(low, low + 1, leaf.shape).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, abstract_variables(model, image))
  return model, variables, rng.uniform(size=(6, *image)).astype(np.float32)


def trained(model, variables, images):
  return model.apply(variables, images, train=True, mutable=['batch_stats'])


@pytest.mark.parametrize(('name', 'width', 'images', 'parameters', 'kernels'), COUNTS)
def test_parameters_and_kernels_are_those_of_the_published_networks(
  name, width, images, parameters, kernels
):
  model = models.create(name, 10 if images == 'cifar' else 1000, width=width)
  params = flat(abstract_variables(model, IMAGE[images])['params'])
  assert sum(leaf.size for leaf in params.values()) == parameters
  assert sum(name.endswith('/kernel') for name in params) == kernels
  assert {'stem/kernel', 'head/kernel', 'head/bias'} <= set(params)


def test_every_listed_model_is_counted_above():
  assert {row[0] for row in COUNTS} == set(models.MODELS)


@pytest.mark.parametrize(
  ('name', 'blocks'),
  [
    ('resnet20', ['stage2_block0', 'stage3_block0']),
    ('resnet18', ['stage2_block0', 'stage3_block0', 'stage4_block0']),
    ('resnet50', ['stage1_block0', 'stage2_block0', 'stage3_block0', 'stage4_block0']),
  ],
)
def test_projections_stand_only_where_shapes_change(name, blocks):
  large = name != 'resnet20'
  model = models.create(name, 1000 if large else 10)
  params = abstract_variables(model, IMAGE['imagenet' if large else 'cifar'])['params']
  assert [block for block in sorted(params) if 'projection' in params[block]] == blocks


@pytest.mark.parametrize(('name', 'width', 'image'), SMALL)
def test_logits_are_the_head_applied_to_the_features(name, width, image):
  model, variables, images = small(name, width, image)
  logits, features = jax.jit(functools.partial(model.apply, features=True))(variables, images)
  head = variables['params']['head']
  np.testing.assert_allclose(logits, features @ head['kernel'] + head['bias'], atol=1e-5)
  assert logits.shape == (6, 5)
  assert np.std(logits, axis=0).min() > 0


@pytest.mark.parametrize(
  ('name', 'width', 'size', 'features'),
  [
    ('resnet20', 8, 28, 32),
    ('vgg16', 0, 32, 512),
    ('resnet18', 0, 64, 512),
    ('wrn50_2', 0, 96, 2048),
  ],
)
def test_networks_take_images_of_any_size_and_return_their_features(name, width, size, features):
  model = models.create(name, 7, width=width)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  apply = functools.partial(model.apply, features=True)
  outputs = jax.eval_shape(apply, abstract_variables(model, (32, 32, 3)), images)
  assert [output.shape for output in outputs] == [(2, 7), (2, features)]


def test_normalisation_is_the_first_line_and_can_be_left_out():
  model, variables, images = small(*SMALL[0])
  whole = jax.jit(model.apply)(variables, images)
  inner = jax.jit(functools.partial(model.apply, normalize=False))
  normalized = (images - jnp.array(model.mean)) / jnp.array(model.std)
  np.testing.assert_allclose(inner(variables, normalized), whole, rtol=1e-5, atol=1e-5)
  assert np.abs(inner(variables, images) - whole).max() > 1e-2


def test_bfloat16_computes_coarser_but_returns_and_keeps_float32():
  model, variables, images = small(*SMALL[0])
  half = model.clone(dtype='bfloat16')
  logits, state = jax.jit(functools.partial(trained, half))(variables, images)
  full, _ = jax.jit(functools.partial(trained, model))(variables, images)
  assert logits.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype('float32')}
  kinds = {leaf.dtype for leaf in jax.tree.leaves(abstract_variables(half, images.shape[1:]))}
  assert kinds == {jnp.dtype('float32')}
  error = np.abs(logits - full).max() / np.abs(full).max()
  assert 1e-5 < error < 0.1


def test_features_are_averages_in_float32_whatever_the_network_computes_in():
  model, variables, images = small(*SMALL[0])
  half = functools.partial(model.clone(dtype='bfloat16').apply, features=True)
  assert jax.eval_shape(half, variables, images)[1].dtype == jnp.float32


def test_a_tenth_of_running_statistics_is_of_the_newest_batch():
  model, variables, images = small(*SMALL[0])
  grey = np.broadcast_to(np.float32(model.mean), images.shape)  # which convolutions map to 0
  before = variables['batch_stats']['stem_norm']
  after = jax.jit(functools.partial(trained, model))(variables, grey)[1]['batch_stats']['stem_norm']
  for name in ('mean', 'var'):
    np.testing.assert_allclose(after[name], 0.9 * before[name], rtol=1e-5)


def test_batchnorm_over_three_devices_equals_one_large_batch():
  model, variables, images = small(*SMALL[0])
  logits, state = jax.jit(functools.partial(trained, model))(variables, images)
  synchronized = functools.partial(trained, model.clone(axis_name='device'), variables)
  shards = jax.jit(jax.vmap(synchronized, axis_name='device'))
  split_logits, split_state = shards(images.reshape(3, 2, *images.shape[1:]))
  np.testing.assert_allclose(split_logits.reshape(logits.shape), logits, rtol=1e-4, atol=1e-4)
  for one, many in zip(jax.tree.leaves(state), jax.tree.leaves(split_state), strict=True):
    np.testing.assert_allclose(many, np.broadcast_to(one, many.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('name', 'blocks'), [('resnet20', 9), ('vgg16', 5), ('wrn50_2', 16)])
def test_rematerialisation_is_of_every_block_and_renames_nothing(name, blocks):
  model = models.create(name, 10)
  saving = model.clone(remat=True)
  variables = abstract_variables(model, (32, 32, 3))
  assert abstract_variables(saving, (32, 32, 3)) == variables
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

  def computed_again(model):
    steps = jax.make_jaxpr(functools.partial(trained, model))(variables, images).eqns
    return sum(step.primitive.name.startswith('custom_vjp') for step in steps)

  assert computed_again(model) == 0
  assert computed_again(saving) == blocks


@pytest.mark.parametrize('name', ['cifar_resnet8', 'vgg11'])
def test_rematerialisation_changes_no_gradient_and_no_statistics(name):
  model, variables, images = small(name, 2, (16, 16, 3))

  def loss(model, params):
    logits, state = trained(model, variables | {'params': params}, images)
    return jnp.sum(logits**2), state

  found = [
    jax.jit(jax.grad(functools.partial(loss, each), has_aux=True))(variables['params'])
    for each in (model, model.clone(remat=True))
  ]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
  jax.tree.map(close, *found)


def test_strided_convolutions_pad_both_sides_as_pytorch_does():
  conv = Layers('float32', 'fan_in', None, None).conv(1, 3, 2, name='conv')
  image = jnp.arange(16.0).reshape(1, 4, 4, 1)
  output = conv.apply({'params': {'kernel': jnp.ones((3, 3, 1, 1))}}, image)
  # Rows and columns -1..1 and 1..3 of 0..15: 0+1+4+5, 1+2+3+5+6+7, 4+5+8+9+12+13, ...
  np.testing.assert_array_equal(output[0, ..., 0], [[10, 24], [51, 90]])


@pytest.mark.parametrize(('kaiming', 'fan'), [('fan_in', 9 * 32), ('fan_out', 9 * 128)])
def test_initial_weights_are_normal_with_variance_two_over_fan(kaiming, fan):
  make = Layers('float32', kaiming, None, None)
  kernel = np.asarray(make.kernel_init(jax.random.key(0), (3, 3, 32, 128), jnp.float32))
  assert kernel.var() == pytest.approx(2 / fan, rel=0.03)
  assert np.abs(kernel).max() > 3 * kernel.std()  # a truncated normal ends at 2.3


@pytest.mark.parametrize(('kaiming', 'axes'), [('fan_in', (0, 1, 2)), ('fan_out', (0, 1, 3))])
def test_every_kernel_begins_so_the_classifiers_too(kaiming, axes):
  model = models.create('cifar_resnet8', 1000, width=32, kaiming=kaiming)
  params = flat(jax.jit(model.lazy_init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params'])
  for name, kernel in params.items():
    if name.endswith('kernel'):
      fan = np.prod(np.reshape((1, 1, *kernel.shape)[-4:], -1)[list(axes)])
      assert kernel.var() == pytest.approx(2 / fan, rel=0.15), name


@pytest.mark.parametrize(
  ('name', 'convolutions'), [('resnet20', 21), ('vgg16', 13), ('wrn50_2', 53)]
)
def test_every_convolution_can_be_replaced(name, convolutions):
  calls = []

  def convolution(*args, **kwargs):
    calls.append(args[1].shape)
    return jax.lax.conv_general_dilated(*args, **kwargs)

  model = models.create(name, 10, conv_general_dilated=convolution)
  abstract_variables(model, (32, 32, 3))
  assert len(calls) == convolutions


def test_models_with_equal_settings_are_equal_and_hash_equally():
  one = models.create('resnet20', 10, mean=[0.5], std=[1], width=8)
  two = models.create('resnet20', 10, mean=(0.5,), std=(1.0,), width=8)
  assert one == two
  assert hash(one) == hash(two)
  assert one != models.create('resnet20', 10, mean=(0.5,), std=(1.0,))
  assert models.create('cifar_resnet20', 10) == models.create('resnet20', 10)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('resnet21', {}, "Unknown model 'resnet21'; known are resnet20, .*wrn101_2 and cifar_resnet"),
    ('cifar_resnet21', {}, r'must be 6n \+ 2 .*, got 21'),
    ('cifar_resnet2', {}, r'must be 6n \+ 2 .*, got 2'),
    ('resnet20', {'dtype': 'float16'}, "one of float32, bfloat16, got 'float16'"),
    ('resnet20', {'kaiming': 'xavier'}, "one of fan_in, fan_out, got 'xavier'"),
    ('resnet20', {'width': -1}, 'width must be at least 0 .*, got -1'),
    ('resnet20', {'std': (0.2, 0.0, 0.2)}, r'std must be positive, got \(0.2, 0.0, 0.2\)'),
    ('resnet20', {'num_classes': 0}, 'num_classes must be at least 1, got 0'),
  ],
)
def test_bad_settings_are_refused_with_what_was_wanted(name, settings, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, **({'num_classes': 10} | settings))


def test_images_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='std must hold 1 number or one for each of the 1 channels'):
    abstract_variables(models.create('resnet20', 10, std=(0.2, 0.2, 0.2)), (8, 8, 1))
  with pytest.raises(ValueError, match='VGG halves images four times and needs 16 x 16'):
    abstract_variables(models.create('vgg11', 10), (8, 8, 3))
