"""A convolution and its two gradients in XLA's operations, for any float type on any device."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from random_pruning_jax.kernels.dense_frames import Sizes

_NHWC = ('NHWC', 'HWIO', 'NHWC')
_LITTLE = 50_000_000  # multiplications up to which a batch is not cut into pieces


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, sizes: Sizes, precision: Any = None) -> jax.Array:
  """x [N, H, W, C], kernel [h, w, C, O] -> [N, h', w', O]."""
  lows = [low for low, _ in sizes.pads]
  return _widened(x, kernel, sizes.map[:2], sizes.strides, lows, (1, 1), precision)


def _convolve_jvp(sizes, precision, primals, tangents):
  """The convolution is linear in each operand; each tangent is the transpose of a gradient below.

  Reverse mode transposes once more, and so runs exactly these gradients. They are made of JAX's own
  operations, so JAX can differentiate them to any order.
  """
  x, kernel = primals
  y = convolve(x, kernel, sizes, precision)
  gradients = (
    lambda g: input_gradient(g, kernel, sizes, precision),
    lambda g: kernel_gradient(x, g, sizes, precision),
  )
  terms = [
    jax.linear_transpose(gradient, y)(tangent)[0]
    for gradient, tangent in zip(gradients, tangents, strict=True)
    if not isinstance(tangent, SymbolicZero)
  ]
  return y, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(y)


convolve.defjvp(_convolve_jvp, symbolic_zeros=True)


def input_gradient(
  g: jax.Array, kernel: jax.Array, sizes: Sizes, precision: Any = None
) -> jax.Array:
  """g [N, h', w', O] -> [N, H, W, C]: g spread by the strides, with the kernel rotated."""
  if sizes.kernel[:2] == (1, 1):
    product = lax.dot_general(g, kernel[0, 0], (((3,), (1,)), ((), ())), precision=precision)
    sides = zip(sizes.image[:2], sizes.map[:2], sizes.strides, strict=True)
    spread = [(0, n - 1 - (m - 1) * s, s - 1) for n, m, s in sides]
    return lax.pad(product, jnp.zeros((), g.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
  rotated = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  lows = [k - 1 - low for k, (low, _) in zip(sizes.kernel[:2], sizes.pads, strict=True)]
  return _widened(g, rotated, sizes.image[:2], (1, 1), lows, sizes.strides, precision)


def _widened(x, kernel, size, strides, lows, dilation, precision):
  """Convolves x, spread by `dilation` and padded by `lows` in front, to a map of `size`.

  Few output channels O fill only a part of the processor's vectors. So `group` neighbouring pixels
  of a row are computed as one pixel with `group` times the channels. Its kernel holds `group`
  copies of the given one, each shifted by a pixel; [N, h, w / group, group O] is [N, h, w, O] in
  memory. Where groups step over whole spread pixels, the zeros between them are left out.

  For example, x [N, 32, 32, 16] with a kernel [3, 3, 16, 16] and strides (1, 1) has groups of 2: a
  kernel [3, 4, 16, 32] and strides (1, 2) give [N, 32, 16, 32], which is read as [N, 32, 32, 16].
  """
  (height, width), (rows, columns) = size, strides
  group = _group(kernel.shape, width, columns, dilation[1])
  shifted = [
    jnp.pad(kernel, ((0, 0), (columns * i, columns * (group - 1 - i)), (0, 0), (0, 0)))
    for i in range(group)
  ]
  kernel = jnp.concatenate(shifted, 3) if group > 1 else kernel
  columns, low = columns * group, lows[1]
  if columns % dilation[1] == 0:
    kernel = kernel[:, low % dilation[1] :: dilation[1]]
    columns, low = columns // dilation[1], low // dilation[1]
    dilation = (dilation[0], 1)
  edges = [
    (low, (m - 1) * s + k - ((n - 1) * d + 1) - low)
    for n, m, k, s, low, d in zip(
      x.shape[1:3],
      (height, width // group),
      kernel.shape[:2],
      (rows, columns),
      (lows[0], low),
      dilation,
      strict=True,
    )
  ]
  y = lax.conv_general_dilated(
    x,
    kernel,
    (rows, columns),
    edges,
    lhs_dilation=dilation,
    dimension_numbers=_NHWC,
    precision=precision,
  )
  return y.reshape(len(x), height, width, -1)


def _group(shape, width, stride, dilation):
  """How many neighbouring pixels make about 32 channels, or hold a whole spread pixel."""
  if shape[1] == 1:
    return 1
  wanted = max(dilation // math.gcd(stride, dilation), min(4, math.ceil(32 / shape[3])))
  return next((n for n in (4, 2) if n <= wanted and width % n == 0), 1)


def kernel_gradient(x: jax.Array, g: jax.Array, sizes: Sizes, precision: Any = None) -> jax.Array:
  """x [N, H, W, C], g [N, h', w', O] -> [h, w, C, O]."""
  if sizes.kernel[:2] == (1, 1):
    x = x[:, :: sizes.strides[0], :: sizes.strides[1]]
    return lax.dot_general(x, g, (((0, 1, 2),) * 2, ((), ())), precision=precision)[None, None]
  # Pieces of 8 to 32 images are fastest: the routine packs vectors of 8, and a piece should stay in
  # the cache. There are few, because they are unrolled and each is compiled on its own. Little work
  # is one piece, which is then as fast.
  products = g.size * math.prod(sizes.kernel[:3])
  size = min(max(8, len(x) // 8), 32) if products > _LITTLE else len(x)
  cuts = [*range(size, len(x), size)]
  pieces = zip(jnp.split(x, cuts), jnp.split(g, cuts), strict=True)
  return sum(_piece(x, g, sizes, precision) for x, g in pieces)


def _piece(x, g, sizes, precision):
  """Convolves x, as C images of N channels, with g as a kernel of the whole image's size."""
  each = (sizes.image[:2], sizes.map[:2], sizes.kernel[:2], sizes.strides, sizes.pads)
  edges = [(low, (m - 1) * s + k - n - low) for n, m, k, s, (low, _) in zip(*each, strict=True)]
  gradient = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0),
    g.transpose(1, 2, 0, 3),
    (1, 1),
    edges,
    rhs_dilation=sizes.strides,
    dimension_numbers=_NHWC,
    precision=precision,
  )
  return gradient.transpose(1, 2, 0, 3)
