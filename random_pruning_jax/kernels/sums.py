"""Sums over all axes but the channels, and the spreading of two numbers a channel over them.

    sums(x, y) = [sum of x, sum of x y]        spread(y, [a, b]) = a + b y

As functions of x and of [a, b], each is the transpose of the other, so they are primitives of JAX
that may be differentiated to any order, in both modes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad

from random_pruning_jax.kernels import targets

SHARE = 1 << 14  # numbers that one thread sums at once
WIDE = 256  # columns, about


def sums(x: jax.Array, y: jax.Array) -> jax.Array:
  """x, y [..., C], float32 -> [2, C]."""
  return _sums.bind(x, y)


def spread(y: jax.Array, numbers: jax.Array) -> jax.Array:
  """y [..., C], numbers [2, C], float32 -> [..., C]."""
  # As in `convolution`: where shard_map replicates the numbers, their gradient is summed.
  return _spread.bind(y, numbers + jax.lax.full_like(y, 0, shape=()))


def _compute_sums(x, y, *, threads):
  # Several rows are taken as one longer row, so that its columns fill the processor's vectors.
  channels = x.shape[-1]
  rows = x.size // channels
  beside = next((n for n in (64, 32, 16, 8, 4, 2) if n * channels <= WIDE and rows % n == 0), 1)
  rows, columns = rows // beside, beside * channels
  share = max(1, SHARE // columns)
  target = targets.register('sums')
  results = (
    jax.ShapeDtypeStruct((2, columns), np.float32),
    jax.ShapeDtypeStruct((-(-rows // share) * 4 * columns,), np.float32),
  )
  plan = np.array([threads, rows, share, columns], np.int32)
  found = jax.ffi.ffi_call(target, results)(x, y, plan)[0]
  return found.reshape(2, beside, channels).sum(1)


def _compute_spread(y, numbers, *, threads):
  del threads  # XLA's own
  return numbers[0] + numbers[1] * y


_sums = targets.primitive('batch_sums', _compute_sums, lambda x, y: (2, x.shape[-1]))
_spread = targets.primitive('batch_spread', _compute_spread, lambda y, numbers: y.shape)

ad.defjvp(
  _sums,
  lambda dx, x, y: _sums.bind(dx, y),
  lambda dy, x, y: _sums.bind(x, dy) * jnp.array([[0.0], [1.0]], jnp.float32),
)
ad.defjvp(
  _spread, lambda dy, y, numbers: numbers[1] * dy, lambda dn, y, numbers: _spread.bind(y, dn)
)


def _sums_transpose(ct, x, y):
  if ad.is_undefined_primal(x):
    return _spread.bind(y, ct), None
  return None, ct[1] * x


ad.primitive_transposes[_sums] = _sums_transpose
# The derivative in y binds no `_spread`, so `_spread` is transposed in `numbers` alone.
ad.primitive_transposes[_spread] = lambda ct, y, numbers: (None, _sums.bind(ct, y))
