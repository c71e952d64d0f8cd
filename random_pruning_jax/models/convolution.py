"""2-D convolutions that are fast on a CPU, to be passed to `flax.linen.Conv`.

`by_kernels` runs machine code of its own (`kernels/dense.py`), where Numba is installed and the
processor has the vector instructions. `by_pieces` is made of XLA's operations
(`kernels/pieces.py`) and runs everywhere. Both give the values of `jax.lax.conv_general_dilated`,
to rounding.

XLA's own weight gradient is one convolution with a kernel as large as the image. XLA's CPU backend
runs it at a fifth of the speed of the forward pass, and slower still in a loop, where it does not
bring the operands into the order that its fast routine wants. `by_pieces` brings them into that
order by hand, and sums the weight gradient over small pieces of the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from random_pruning_jax import kernels
from random_pruning_jax.kernels import pieces
from random_pruning_jax.kernels.dense_frames import Sizes

_NHWC = ('NHWC', 'HWIO', 'NHWC')


def fastest(platform: str = '') -> Callable | None:
  """The convolution for a platform (default: of the devices here); None for XLA's own."""
  if (platform or jax.default_backend()) != 'cpu':
    return None
  return by_kernels if not kernels.lacking() and kernels.registers() else by_pieces


def by_pieces(*arguments: Any, **options: Any) -> jax.Array:
  """`jax.lax.conv_general_dilated` with its own derivative rule, differentiable to any order.

  The rule is for images [N, H, W, C] and kernels [h, w, C, O], without dilation or groups and with
  a padding less than the kernel; everything else goes to JAX's own function as it is.
  """
  return _general(pieces.convolve, *arguments, **options)


def by_kernels(*arguments: Any, **options: Any) -> jax.Array:
  """Runs kernels where the rule of `by_pieces` applies and images are float32; else `by_pieces`.

  Raises RuntimeError where the kernel cannot be compiled (`kernels.lacking`).
  """
  return _general(_by_kernels, *arguments, **options)


def _by_kernels(x, kernel, sizes, precision):
  if x.dtype != jnp.float32:
    return pieces.convolve(x, kernel, sizes, precision)
  from random_pruning_jax.kernels import dense

  return dense.convolve(x, kernel, sizes)


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
    sizes = Sizes(lhs.shape[1:], rhs.shape, strides, pads)
    sides = zip(sizes.image[:2], sizes.kernel[:2], pads, strict=True)
    if all(n + sum(pair) >= k and all(0 <= p < k for p in pair) for n, k, pair in sides):
      # Where shard_map replicates the kernel, this zero makes it vary as the images do, so that its
      # gradient is summed over the devices; elsewhere it is compiled away.
      return convolve(lhs, rhs + lax.full_like(lhs, 0, shape=()), sizes, precision)
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
