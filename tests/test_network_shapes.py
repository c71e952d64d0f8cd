"""Both rules of `convolution` for every convolution of every network, against NumPy in float64."""

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
# All of a kind of network together, since they share most of their layers: (name, width). Deeper
# ones have more of the same.
KINDS = {
  'CIFAR ResNets': [('resnet20', width) for width in (4, 8, 16, 32)],
  'VGG': [('vgg19', 64)],
  'ResNets': [('resnet34', 64), ('resnet14', 64), ('resnet50', 64)],
  'wide ResNets': [('wrn14_2', 64), ('wrn50_2', 64)],
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


@functools.cache
def operands(kind):
  """Images and a kernel in float32 for each layer."""
  rng = np.random.default_rng(0)
  shapes = [((BATCH, SIDE, SIDE, kernel[2]), kernel) for kernel, _, _ in layers(kind)]
  return [tuple(rng.standard_normal(shape, np.float32) for shape in pair) for pair in shapes]


def derivatives(conv, kind):
  """Result and both gradients of each layer, of all layers in one program."""

  def run(given):
    out = []
    for (x, kernel), (_, strides, padding) in zip(given, layers(kind), strict=True):
      forward = functools.partial(
        conv, window_strides=strides, padding=padding, dimension_numbers=NUMBERS
      )
      y, pull = jax.vjp(forward, x, kernel)
      out.append((y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))))
    return out

  return jax.device_get(jax.jit(run)(operands(kind)))


@functools.cache
def exact(kind):
  """The same in float64, pixel of the kernel by pixel."""
  out = []
  for (x, kernel), (shape, strides, padding) in zip(operands(kind), layers(kind), strict=True):
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    if isinstance(padding, str):
      padding = lax.padtype_to_pads((SIDE, SIDE), shape[:2], strides, padding)
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    high, wide = (
      (size - pixels) // stride + 1
      for size, pixels, stride in zip(x.shape[1:3], shape[:2], strides, strict=True)
    )
    seen = {  # by each pixel of the kernel, of the padded image
      (i, j): np.s_[
        :, i : i + high * strides[0] : strides[0], j : j + wide * strides[1] : strides[1]
      ]
      for i, j in np.ndindex(shape[:2])
    }
    y = sum(np.tensordot(x[part], kernel[pixel], 1) for pixel, part in seen.items())
    of_y = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    of_x, of_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for pixel, part in seen.items():
      of_x[part] += np.tensordot(of_y, kernel[pixel].T, 1)
      of_kernel[pixel] = np.tensordot(x[part], of_y, ((0, 1, 2), (0, 1, 2)))
    (top, _), (left, _) = padding
    out.append((y, of_x[:, top : top + SIDE, left : left + SIDE], of_kernel))
  return out


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
  for layer, ours, theirs in zip(layers(kind), derivatives(conv, kind), exact(kind), strict=True):
    for a, b in zip(ours, theirs, strict=True):
      assert a.dtype == np.float32 and b.dtype == np.float64
      assert np.abs(a - b).max() < 1e-5 * np.abs(b).max(), layer
