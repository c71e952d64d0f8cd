"""Whatever way a layer takes, the logits are those of the dense network."""

import concurrent.futures
import importlib.util
import itertools
import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import network
from small import two_layers

from random_pruning_jax import kernels, sparse_inference, sparse_ways
from random_pruning_jax.models import convolution

SHAPE = (2, 8, 8, 1)
IMAGES = np.random.default_rng(0).random(SHAPE, np.float32)
needs_numba = pytest.mark.skipif(
  importlib.util.find_spec('numba') is None, reason='the way compiled needs Numba'
)


def test_sparse_ways_give_the_dense_logits():
  stored = network(width=4, density=0.2)
  layers = list(stored.about.structure.shapes)
  ways = {}
  for number, layer in enumerate(layers):
    ways[layer.removesuffix('/kernel')] = ('columns', 'taps')[number % 2]
  found = sparse_inference.predictor(stored.model, stored.variables, SHAPE, ways=ways)
  assert found.ways == ways
  expected = stored.logits(IMAGES)
  assert np.abs(found.logits(IMAGES) - expected).max() < 1e-5 * max(1, np.abs(expected).max())


def test_ways_and_layers_that_are_unknown_are_named():
  stored = network()
  for ways, message in (
    ({'stem': 'fast'}, 'dense, columns, taps, compiled'),
    ({'tail': 'dense'}, 'no tail'),
  ):
    with pytest.raises(ValueError, match=message):
      sparse_inference.predictor(stored.model, stored.variables, SHAPE, ways=ways)


class Convolutions(nn.Module):
  """Some that WAYS can compute, as Flax lets one write them, and four that they cannot."""

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Conv(8, (3, 3), strides=(2, 2), padding=1, name='usual')(x)
    x = nn.Conv(8, (3, 3), kernel_dilation=2, name='dilated')(x)
    x = nn.Conv(8, (3, 3), kernel_dilation=(1, 2), name='dilated in one axis')(x)
    x = nn.Conv(8, (3, 3), feature_group_count=2, name='grouped')(x)
    x = nn.Conv(8, (3, 3), strides=2, name='padded on one side')(x)
    x = nn.Conv(8, (3, 3), kernel_dilation=(1, 1), name='same')(x)
    x = nn.Conv(8, (3, 3), padding=(1, (1, 1)), name='padded')(x)
    return nn.Dense(3, name='head')(x.reshape(len(x), -1))


def test_layers_that_no_way_can_compute_stay_dense():
  model = Convolutions()
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), IMAGES))
  usual = ('usual', 'same', 'padded', 'head')
  found = sparse_inference.predictor(model, variables, SHAPE, ways=dict.fromkeys(usual, 'columns'))
  assert tuple(found.ways) == usual
  np.testing.assert_allclose(found.logits(IMAGES), model.apply(variables, IMAGES), atol=1e-4)
  with pytest.raises(ValueError, match='no dilated that could'):
    sparse_inference.predictor(model, variables, SHAPE, ways={'dilated': 'columns'})


def test_a_model_that_does_not_take_train_is_refused():
  model = nn.Dense(3)
  variables = model.init(jax.random.key(0), IMAGES)
  with pytest.raises(ValueError, match=r"called as model\(images, train=False\), got: .*'train'"):
    sparse_inference.predictor(model, variables, SHAPE)


class Standardised(nn.Conv):
  """A convolution by other weights than those that are stored."""

  def param(self, name, *of, **options):
    value = super().param(name, *of, **options)
    return value - value.mean((0, 1, 2)) if name == 'kernel' else value


class Repeated(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.relu(nn.Dense(8, name='inner')(x)), None


class Unusual(nn.Module):
  """A network of one usual layer among those that look like it."""

  @nn.compact
  def __call__(self, x, train=True):
    x = Standardised(4, (3, 3), padding=1, name='standardised')(x)
    x = nn.Conv(4, (3,), name='lines')(x)
    shared = nn.Conv(4, (3, 3), padding=1, name='shared')
    x = shared(inputs=shared(x)[:, ::2, ::2])
    x = nn.Conv(4, (3, 3), strides=(2, 1), padding=1, name='two strides')(x)
    half = np.tile([0.0, 1.0], 72).reshape(3, 3, 4, 4)
    x = nn.Conv(4, (3, 3), padding=1, mask=half, name='masked')(x)
    x = nn.Conv(8, (3, 3), padding=1, dtype='bfloat16', name='in 16 bits')(x)
    x = nn.Dense(8, name='usual')(x.astype('float32').mean((1, 2)))
    loop = nn.scan(Repeated, variable_axes={'params': 0}, split_rngs={'params': True}, length=2)
    return nn.Dense(3, name='head')(loop(name='loop')(x, None)[0])


def test_layers_that_look_like_others_stay_dense():
  model = Unusual()
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), IMAGES))
  ways = dict.fromkeys(('usual', 'head'), 'columns')
  found = sparse_inference.predictor(model, variables, SHAPE, ways=ways)
  assert found.ways == ways
  wanted = model.apply(jax.tree.map(jnp.asarray, variables), IMAGES)
  np.testing.assert_allclose(found.logits(IMAGES), wanted, atol=1e-4)


class Around(nn.Module):
  """Has the name of the layer that it calls."""

  def setup(self):
    self.layer = nn.Dense(3)
    nn.share_scope(self, self.layer)

  def __call__(self, x):
    return nn.relu(self.layer(x))


class Named(nn.Module):
  @nn.compact
  def __call__(self, x, train=True):
    return Around(name='head')(x.reshape(len(x), -1))


def test_a_module_that_shares_the_name_of_its_layer_is_called_as_it_is():
  variables = Named().init(jax.random.key(0), IMAGES)
  found = sparse_inference.predictor(Named(), variables, SHAPE, ways={'head': 'columns'})
  np.testing.assert_allclose(found.logits(IMAGES), Named().apply(variables, IMAGES), atol=1e-6)


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, x, train=True):
    return nn.WeightNorm(nn.Dense(3, name='head'))(x.reshape(len(x), -1))


def test_logits_that_are_not_the_models_are_refused():
  model = Normalised()
  variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), IMAGES))
  variables['params']['head']['kernel'] = 2 * variables['params']['head']['kernel']
  sparse_inference.predictor(model, variables, SHAPE, ways={'head': 'dense'})
  with pytest.raises(ValueError, match=r"logits must be the model's to .* of the largest"):
    sparse_inference.predictor(model, variables, SHAPE, ways={'head': 'columns'})


def test_a_network_of_16_bits_is_computed_in_float32():
  stored = network(width=2, density=0.2)
  ways = {name.removesuffix('/kernel'): 'taps' for name in stored.about.structure.shapes}
  model = stored.model.clone(dtype='bfloat16')
  found = sparse_inference.predictor(model, stored.variables, SHAPE, ways=ways)
  np.testing.assert_allclose(found.logits(IMAGES), stored.logits(IMAGES), atol=1e-4)


@pytest.mark.parametrize('way', ['columns', 'taps'])
def test_images_that_are_not_square_are_computed_too(way):
  x, kernel = layer((2, 6, 9, 5), (3, 2), 6)
  site = sparse_ways.Site('', x.shape, 1, 1)
  expected = sparse_ways.dense(kernel, site)(x)
  np.testing.assert_allclose(sparse_ways.WAYS[way](kernel, site)(x), expected, atol=1e-4)


@needs_numba
@pytest.mark.parametrize(('size', 'kernel', 'pad'), [(1, 5, 2), (2, 5, 2), (1, 3, 1)])
def test_maps_smaller_than_the_kernel_are_computed_too(size, kernel, pad):
  x, weights = layer((3, size, size, 4), (kernel, kernel), 6)
  site = sparse_ways.Site('', x.shape, 1, pad)
  expected = sparse_ways.dense(weights, site)(x)
  np.testing.assert_allclose(sparse_ways.compiled(weights, site)(x), expected, atol=1e-4)


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_alone(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  x, kernel = layer((1, 20), (), 7)
  site = sparse_ways.Site('', x.shape, 1, 0)
  sparse_inference.fastest(kernel, site)
  (file,) = tmp_path.rglob('sparse_inference/*.json')
  for damaged in ('', '{}', 'null', '[1]', '{"nosuch": 0.01}', '{"dense": null, "columns": 1}'):
    file.write_text(damaged)
    assert sparse_inference.fastest(kernel, site) in json.loads(file.read_text())
  (tmp_path / 'a file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'a file'))
  assert sparse_inference.fastest(kernel, site) in sparse_ways.WAYS


def test_a_layer_is_timed_once_and_its_times_kept(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  kernel = np.random.default_rng(0).standard_normal((64, 16), np.float32)
  kernel *= np.random.default_rng(1).random(kernel.shape) < 0.1
  site = sparse_ways.Site('head', (1, 64), 1, 0)
  first = sparse_inference.fastest(kernel, site)
  (file,) = tmp_path.rglob('sparse_inference/*.json')
  file.write_text('{"dense": 2.0, "columns": 1.0}')
  assert first in sparse_ways.WAYS
  assert sparse_inference.fastest(kernel, site) == 'columns'
  sparse_inference.fastest(np.ones_like(kernel), site)  # of which more weights are kept
  assert len(list(tmp_path.rglob('sparse_inference/*.json'))) == 2


@pytest.mark.parametrize('slow_calls', [1, 2])
def test_a_way_that_the_machine_held_up_once_or_twice_is_timed_again(monkeypatch, slow_calls):
  clock = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])

  def takes(*milliseconds):
    times = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))

    def run():
      clock[0] += next(times) / 1e3

    return run

  runs = {'held up': takes(1, *[50] * slow_calls, 1), 'steady': takes(2), 'hopeless': takes(9)}
  found = sparse_inference.least_milliseconds(runs, 7)
  assert found == pytest.approx({'held up': 1, 'steady': 2, 'hopeless': 9})
  spent = {'held up': 8 + 49 * slow_calls, 'steady': 8 * 2, 'hopeless': 4 * 9}
  assert 1e3 * clock[0] == pytest.approx(sum(spent.values()))


def test_the_measured_predictor_is_right_whatever_it_chose(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  model, variables = two_layers()
  found = sparse_inference.predictor(model, variables, SHAPE)
  assert set(found.ways) == {'stem', 'head'}
  assert set(found.ways.values()) <= {'dense', 'columns', 'compiled', 'dense_compiled'}
  expected = model.apply(variables, IMAGES)
  assert np.abs(found.logits(IMAGES) - expected).max() < 1e-4


def layer(shape, size, outputs, density=0.3):
  """Images and a kernel whose second output has no weight."""
  generator = np.random.default_rng(0)
  x = generator.standard_normal(shape, np.float32)
  kernel = generator.standard_normal((*size, shape[-1], outputs), np.float32)
  kernel *= generator.random(kernel.shape) < density
  kernel[..., 1] = 0
  return x, kernel


@needs_numba
@pytest.mark.parametrize(
  'shape, size, stride, pad',
  [
    ((1, 8, 8, 5), 3, 1, 1),
    ((3, 9, 7, 5), 3, 1, 1),
    ((3, 8, 8, 5), 3, 2, 1),
    ((1, 9, 9, 5), 3, 2, 1),
    ((3, 2, 2, 5), 3, 1, 1),
    ((3, 6, 6, 5), 3, 1, 0),
    ((1, 14, 14, 5), 1, 1, 0),
    ((3, 9, 9, 5), 1, 2, 0),
    ((2, 20, 19, 3), 7, 2, 3),
    ((1, 33, 33, 4), 5, 1, 2),
    ((20, 6, 6, 5), 3, 1, 1),
    ((40, 3, 3, 5), 3, 2, 1),
    ((20, 3, 3, 5), 1, 1, 0),
  ],
)
def test_the_compiled_convolution_is_the_dense_one(shape, size, stride, pad):
  x, kernel = layer(shape, (size, size), 6)
  site = sparse_ways.Site('', shape, stride, pad)
  expected = sparse_ways.dense(kernel, site)(x)
  found = jax.jit(sparse_ways.compiled(kernel, site))(x)
  assert found.shape == expected.shape
  assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
  assert not np.any(found[..., 1])


@needs_numba
@pytest.mark.parametrize('images', [1, 3, 16, 40])
def test_the_compiled_product_is_the_dense_one(images):
  x, kernel = layer((images, 20), (), 7)
  site = sparse_ways.Site('', x.shape, 1, 0)
  found = jax.jit(sparse_ways.compiled(kernel, site))(x)
  assert np.abs(found - x @ kernel).max() < 1e-5


@needs_numba
@pytest.mark.parametrize(
  'model, width, shape',
  [('cifar_resnet8', 4, (16, 16, 3)), ('vgg11', 4, (32, 32, 3)), ('resnet10', 4, (33, 33, 3))],
)
def test_compiled_networks_give_the_dense_logits(model, width, shape):
  stored = network(model=model, width=width, shape=shape, density=0.2, dataset='cifar10')
  images = np.random.default_rng(1).random((2, *shape), np.float32)
  expected = stored.model.apply(stored.variables, images)
  layers = [name.removesuffix('/kernel') for name in stored.about.structure.shapes]
  mixed = dict(zip(layers, itertools.cycle(['compiled', 'dense_compiled', 'dense']), strict=False))
  kernels_of = ['compiled', 'dense_compiled'] if kernels.registers() else ['compiled']
  for ways in (*(dict.fromkeys(layers, way) for way in kernels_of), mixed):
    if set(ways.values()) <= {'dense', *kernels_of}:
      found = sparse_inference.predictor(stored.model, stored.variables, images.shape, ways=ways)
      assert found.ways == ways
      assert np.abs(found.logits(images) - expected).max() < 1e-5 * np.abs(expected).max()


@needs_numba
def test_images_of_another_shape_are_refused():
  x, kernel = layer((1, 8, 8, 5), (3, 3), 6)
  run = jax.jit(sparse_ways.compiled(kernel, sparse_ways.Site('', x.shape, 1, 1)))
  with pytest.raises(ValueError, match=r'laid out for inputs \(1, 8, 8, 5\), got \(2, 8, 8, 5\)'):
    run(np.zeros((2, 8, 8, 5), np.float32))


@needs_numba
def test_threads_may_call_one_predictor_at_once():
  stored = network(width=4, density=0.2)
  ways = {name.removesuffix('/kernel'): 'compiled' for name in stored.about.structure.shapes}
  found = sparse_inference.predictor(stored.model, stored.variables, SHAPE, ways=ways)
  batches = np.random.default_rng(1).random((8, *SHAPE), np.float32)
  alone = [np.asarray(found.logits(images)) for images in batches]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    together = list(pool.map(lambda i: np.asarray(found.logits(batches[i % 8])), range(64)))
  for number, logits in enumerate(together):
    np.testing.assert_array_equal(logits, alone[number % 8])


def test_without_numba_the_way_is_left_out_and_what_to_install_is_said(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  x, kernel = layer((1, 20), (), 7)
  site = sparse_ways.Site('', x.shape, 1, 0)
  with pytest.raises(RuntimeError, match=r'needs Numba: pip install .*\[cpu\]'):
    sparse_ways.compiled(kernel, site)
  assert 'compiled' not in sparse_inference.timed(kernel, site, rounds=1)
  assert convolution.fastest() == convolution.by_pieces
