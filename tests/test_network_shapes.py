"""Both rules of `convolution` for every convolution of every network, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from random_pruning_jax import kernels, models
from random_pruning_jax.models.convolution import by_kernels, by_pieces

NUMBERS = ('NHWC', 'HWIO', 'NHWC')
SIDE, BATCH = 4, 2
# All of a kind of network together, since they share most of their layers: (name, width).
KINDS = {
  'CIFAR ResNets': [*(('resnet20', width) for width in (4, 8, 16, 32)), ('resnet110', 16)],
  'VGG': [('vgg19', 64)],
  'ResNets': [('resnet34', 64), ('resnet14', 64), ('resnet152', 64)],
  'wide ResNets': [('wrn14_2', 64), ('wrn101_2', 64)],
}
LACKING = kernels.lacking()


@functools.cache
def layers(kind):
  """(kernel shape, strides, padding) of the convolutions new with this kind, each once."""
  before = list(KINDS)[: list(KINDS).index(kind)]
  known = {layer for other in before for layer in layers(other)}
  found = {}

  def note(x, kernel, strides, padding, **options):
    pads = padding if isinstance(padding, str) else tuple(map(tuple, padding))
    found[kernel.shape, tuple(strides), pads] = None
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)

  for name, width in KINDS[kind]:
    model = models.create(name, 10, width=width, conv_general_dilated=note)
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  return tuple(layer for layer in found if layer not in known)


def derivatives(conv, kind, dtype):
  """Result and both gradients of each layer, as NumPy arrays."""

  def run(operands):
    out = []
    for (x, kernel), (_, strides, padding) in zip(operands, layers(kind), strict=True):
      forward = functools.partial(
        conv, window_strides=strides, padding=padding, dimension_numbers=NUMBERS
      )
      y, pull = jax.vjp(forward, x, kernel)
      out.append((y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
    return out

  rng = np.random.default_rng(0)
  operands = []
  for (high, wide, inputs, outputs), _, _ in layers(kind):
    x = rng.normal(size=(BATCH, SIDE, SIDE, inputs)).astype(np.float32)
    kernel = rng.normal(size=(high, wide, inputs, outputs)).astype(np.float32)
    operands.append((jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)))
  return jax.device_get(jax.jit(run)(operands))


@functools.cache
def exact(kind):
  with jax.enable_x64(True):
    return derivatives(lax.conv_general_dilated, kind, jnp.float64)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
  'conv',
  [
    by_pieces,
    pytest.param(by_kernels, marks=pytest.mark.skipif(bool(LACKING), reason=f'needs {LACKING}')),
  ],
  ids=['by pieces', 'by kernels'],
)
def test_results_and_gradients_are_exact_to_rounding(conv, kind):
  for layer, ours, theirs in zip(
    layers(kind), derivatives(conv, kind, jnp.float32), exact(kind), strict=True
  ):
    for a, b in zip(ours, theirs, strict=True):
      assert a.dtype == np.float32 and b.dtype == np.float64
      assert np.abs(a - b).max() < 1e-5 * np.abs(b).max(), layer
