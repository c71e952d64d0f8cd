"""2-D convolutions that are fast on a CPU, to be passed to `flax.linen.Conv`.

`compiled` has a kernel of its own (`kernels/dense.py`), where Numba is installed and the processor
has vectors for it. `by_pieces` is made of XLA's operations and runs everywhere: XLA's own weight
gradient is one convolution with a kernel as large as the image, which its CPU backend runs at a
fifth of the speed of the forward pass; in a loop it is slower still, since there it does not bring
the operands into the order that the fast routine wants. Here the operands are brought into that
order by hand, and the weight gradient is summed over small pieces of the batch. The values of both
are those of `jax.lax.conv_general_dilated`, to rounding.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from random_pruning_jax import kernels

_NHWC = ('NHWC', 'HWIO', 'NHWC')
_LITTLE = 50_000_000  # products
_Pads = tuple[tuple[int, int], tuple[int, int]]


def fastest(platform: str = '') -> Callable | None:
  """The convolution for a platform (default: of the devices here); None for XLA's own."""
  if (platform or jax.default_backend()) != 'cpu':
    return None
  return compiled if not kernels.lacking() and kernels.registers() else by_pieces


def by_pieces(*arguments: Any, **options: Any) -> jax.Array:
  """`jax.lax.conv_general_dilated` with a derivative rule of its own, of any order.

  The rule is for images [N, H, W, C] and kernels [h, w, C, O], without dilation or groups and with
  a padding less than the kernel; everything else goes to JAX's own function as it is.
  """
  return _general(_convolve, *arguments, **options)


def compiled(*arguments: Any, **options: Any) -> jax.Array:
  """The same for what `by_pieces` is for, where that is float32; else as `by_pieces`.

  Raises RuntimeError where the kernel cannot be compiled (`kernels.lacking`).
  """
  return _general(_compiled, *arguments, **options)


def _general(
  convolve: Callable,
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
  **options: Any,
) -> jax.Array:
  plain = (
    lhs.ndim == 4
    and lhs.dtype == rhs.dtype
    and lhs.shape[3] == rhs.shape[2]
    and lhs.size
    and rhs.size
    and jnp.issubdtype(lhs.dtype, jnp.floating)
    and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    and feature_group_count == batch_group_count == 1
    and preferred_element_type in (None, lhs.dtype)
    and not any(option is not None for option in options.values())
  )
  if plain:
    strides = tuple(window_strides)
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    sides = zip(lhs.shape[1:3], rhs.shape[:2], pads, strict=True)
    if all(n + sum(pair) >= k and all(0 <= p < k for p in pair) for n, k, pair in sides):
      # Where shard_map replicates the kernel, this zero makes it vary as the images do, so that its
      # gradient is summed over the devices; elsewhere it is compiled away.
      return convolve(lhs, rhs + lax.full_like(lhs, 0, shape=()), strides, pads, precision)
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    precision,
    preferred_element_type,
    **options,
  )


def _compiled(x, kernel, strides, pads, precision):
  if x.dtype != jnp.float32:
    return _convolve(x, kernel, strides, pads, precision)
  from random_pruning_jax.kernels import dense

  sizes = dense.Sizes(x.shape[1:], kernel.shape, strides, pads)
  return dense.convolve(x, kernel, sizes, dense.Fallback(_forward, _to_input, _to_kernel))


def _forward(x, kernel, sizes):
  return _convolve(x, kernel, sizes.strides, sizes.pads, None)


def _to_input(g, kernel, sizes):
  shape = (len(g), *sizes.image)
  return _input_gradient(g, kernel, shape, sizes.strides, sizes.pads, None)


def _to_kernel(x, g, sizes):
  return _kernel_gradient(x, g, sizes.kernel, sizes.strides, sizes.pads, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: _Pads, precision: Any
) -> jax.Array:
  size = [
    (n + low + high - k) // s + 1
    for n, k, s, (low, high) in zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
  ]
  return _widened(x, kernel, size, strides, [low for low, _ in pads], (1, 1), precision)


def _convolve_jvp(strides, pads, precision, primals, tangents):
  """The convolution is linear in each operand; each tangent is the transpose of a gradient below.

  So reverse mode, which transposes once more, runs exactly these gradients, and as they are made of
  JAX's own operations, derivatives of them of any order are JAX's own.
  """
  x, kernel = primals
  y = _convolve(x, kernel, strides, pads, precision)
  gradients = (
    lambda g: _input_gradient(g, kernel, x.shape, strides, pads, precision),
    lambda g: _kernel_gradient(x, g, kernel.shape, strides, pads, precision),
  )
  terms = [
    jax.linear_transpose(gradient, y)(tangent)[0]
    for gradient, tangent in zip(gradients, tangents, strict=True)
    if not isinstance(tangent, SymbolicZero)
  ]
  return y, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(y)


_convolve.defjvp(_convolve_jvp, symbolic_zeros=True)


def _input_gradient(g, kernel, shape, strides, pads, precision):
  """g [N, h', w', O] -> [N, H, W, C]: g spread by the strides, with the kernel rotated."""
  size = kernel.shape[:2]
  if size == (1, 1):
    product = lax.dot_general(g, kernel[0, 0], (((3,), (1,)), ((), ())), precision=precision)
    sides = zip(shape[1:3], g.shape[1:3], strides, strict=True)
    spread = [(0, n - 1 - (m - 1) * s, s - 1) for n, m, s in sides]
    return lax.pad(product, jnp.zeros((), g.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
  rotated = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  lows = [k - 1 - low for k, (low, _) in zip(size, pads, strict=True)]
  return _widened(g, rotated, shape[1:3], (1, 1), lows, strides, precision)


def _widened(x, kernel, size, strides, lows, dilation, precision):
  """Convolves x, spread by `dilation` and padded by `lows` in front, to a map of `size`.

  Few output channels O fill a part of the processor's vectors only. So `group` neighbouring pixels
  of a row are computed as one of `group` times the channels, by a kernel that holds the given one
  `group` times, each shifted by a pixel: [N, h, w / group, group O] is [N, h, w, O] in memory. And
  where groups step over whole spread pixels, the zeros between them are left out.

  So x [N, 32, 32, 16] with a kernel [3, 3, 16, 16] and strides (1, 1) has groups of 2: a kernel
  [3, 4, 16, 32] and strides (1, 2) give [N, 32, 16, 32], which is read as [N, 32, 32, 16].
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


def _kernel_gradient(x, g, shape, strides, pads, precision):
  """x [N, H, W, C], g [N, h', w', O] -> [h, w, C, O]."""
  if shape[:2] == (1, 1):
    x = x[:, :: strides[0], :: strides[1]]
    return lax.dot_general(x, g, (((0, 1, 2),) * 2, ((), ())), precision=precision)[None, None]
  # Pieces of 8 to 32 images are fastest: the routine packs vectors of 8, and a piece should stay in
  # the cache. Few of them, because they are unrolled and each is compiled on its own; and of little
  # work one, which is then as fast.
  products = g.size * math.prod(shape[:3])
  size = min(max(8, len(x) // 8), 32) if products > _LITTLE else len(x)
  cuts = [*range(size, len(x), size)]
  pieces = zip(jnp.split(x, cuts), jnp.split(g, cuts), strict=True)
  return sum(_piece(x, g, shape, strides, pads, precision) for x, g in pieces)


def _piece(x, g, shape, strides, pads, precision):
  """Convolves x, as C images of N channels, with g as a kernel of the whole image's size."""
  sides = zip(x.shape[1:3], g.shape[1:3], shape[:2], strides, pads, strict=True)
  edges = [(low, (m - 1) * s + k - n - low) for n, m, k, s, (low, _) in sides]
  gradient = lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0),
    g.transpose(1, 2, 0, 3),
    (1, 1),
    edges,
    rhs_dilation=strides,
    dimension_numbers=_NHWC,
    precision=precision,
  )
  return gradient.transpose(1, 2, 0, 3)
