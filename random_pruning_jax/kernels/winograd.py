"""Winograd: a 3x3 convolution of stride 1 with 4 products a pixel instead of 9, by tiles of 2x2.

A tile depends on 4x4 pixels. They are transformed into 4x4 other numbers and multiplied, number by
number, by the transformed kernel. The products are summed over input channels and transformed into
the tile: the algorithm F(2x2, 3x3) of Winograd (1980),

    tile = A^T m A,    m = (G kernel G^T) * (B^T pixels B) summed over channels,

with G, B and A of Lavin & Gray (2016, section 4.1). The transforms of pixels and sums are
additions.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 4  # of the square of pixels that a tile depends on
POSITIONS = SIDE * SIDE
# Floats that a vector may write, or read, beyond the end. They also separate the 16 numbers of
# tiles, which would otherwise be in the same sets of the cache.
MARGIN = 16
# Of three weights, along a line or a column of a kernel.
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def transform_kernel(kernel: jax.Array, *, rotated: bool = False) -> jax.Array:
  """[3, 3, C, O] -> [4, 4, C, O]; with `rotated` of the kernel rotated by 180 degrees."""
  along = _G[:, ::-1] if rotated else _G
  both = jnp.asarray(np.kron(along, along), kernel.dtype)
  numbers = jnp.matmul(both, kernel.reshape(9, -1), precision='highest')
  return numbers.reshape(SIDE, SIDE, *kernel.shape[2:])


def gradient_of_kernel(sums: jax.Array) -> jax.Array:
  """[4, 4, C, O] -> [3, 3, C, O]: the transpose of `transform_kernel`."""
  both = jnp.asarray(np.kron(_G, _G).T, sums.dtype)
  numbers = jnp.matmul(both, sums.reshape(POSITIONS, -1), precision='highest')
  return numbers.reshape(3, 3, *sums.shape[2:])
