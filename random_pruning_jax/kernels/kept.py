"""A convolution that reads kept weights only, compiled by Numba and called by XLA's programs.

The sums of one output channel for a run of pixels stay in registers. Each kept weight multiplies
the run of input pixels that it meets, and the products are added. To make such a run contiguous in
memory, images are stored channels first, and a kernel wider than one pixel reads copies of its
input shifted by each column of the kernel, with zeros beyond the border.
"""

from typing import NamedTuple

import jax
import numpy as np

from random_pruning_jax.kernels import kept_words as word
from random_pruning_jax.kernels import targets
from random_pruning_jax.system import processor


class Layer(NamedTuple):
  """The kept weights of one layer in the order in which the kernel reads them."""

  shape: tuple[int, ...]  # of its input
  values: np.ndarray  # f32[kept], an output channel after the other
  offsets: np.ndarray  # i32[kept]: where its input begins, in floats
  starts: np.ndarray  # i32[outputs + 1]
  plan: np.ndarray  # i32: kept_words
  scratch: int  # floats


def layer(kernel: np.ndarray, shape: tuple[int, ...], stride: int, pad: int) -> Layer:
  """Lays out `kernel` [h, w, in, out] or [in, out] for inputs [B, H, W, in] or [B, in]."""
  if kernel.ndim == 2:  # the batch takes the place of pixels
    kernel, (width, inputs) = kernel[None, None], shape
    images = height = 1
  else:
    images, height, width, inputs = shape
  rows, columns, _, outputs = kernel.shape
  high = (height + 2 * pad - rows) // stride + 1
  wide = (width + 2 * pad - columns) // stride + 1
  phase = -(-((high - 1) * stride + rows) // stride)
  output, channel, row, column = np.nonzero(kernel.transpose(3, 2, 0, 1))
  line = (channel * columns + column) * stride * phase + row % stride * phase + row // stride
  workers = processor.cores()
  mode = word.SHARED if images < 4 * workers else word.ALONE
  if (rows, columns, stride, pad) == (1, 1, 1, 0) and high * wide >= word.LANES:
    mode = word.DIRECT
  room = {word.DIRECT: 0, word.SHARED: images, word.ALONE: workers}[mode]
  size = columns * stride * phase * wide
  tiles = -(-high * wide // (word.LANES * word.VECTORS))
  blocks = min(outputs, -(-4 * workers // max(1, images * tiles)))
  plan = [images, inputs, height, width, rows, columns, stride, pad, outputs, high, wide]
  plan += [workers, mode, phase, size, room, tiles, blocks]
  return Layer(
    shape,
    kernel[row, column, channel, output].astype(np.float32),
    (line * wide).astype(np.int32),
    np.searchsorted(output, np.arange(outputs + 1)).astype(np.int32),
    np.array(plan, np.int32),
    room * inputs * size + word.LANES * (1 + images * tiles * blocks),
  )


def call(parts: Layer, x: jax.Array) -> jax.Array:
  """The layer's output [B, h, w, out] or [B, out] for x [B, H, W, in] or [B, in], both float32.

  In memory both are channels first, [B, out, h, w] and [out, B]. XLA keeps this layout between two
  layers, and transposes where a network begins and ends. Raises ValueError for another shape than
  the layer was laid out for.
  """
  if x.shape != parts.shape:
    raise ValueError(f'the layer was laid out for inputs {parts.shape}, got {x.shape}.')
  target = targets.register('kept')
  order = (0, 3, 1, 2) if x.ndim == 4 else (1, 0)
  sizes = [word.HIGH, word.WIDE, word.OUTPUTS] if x.ndim == 4 else [word.OUTPUTS]
  shape = (len(x), *parts.plan[sizes].tolist())
  run = jax.ffi.ffi_call(
    target,
    (
      jax.ShapeDtypeStruct(shape, np.float32),
      jax.ShapeDtypeStruct((parts.scratch,), np.float32),
    ),
    input_layouts=[order, *[(0,)] * 4],
    output_layouts=[order, (0,)],
  )
  return run(x, parts.values, parts.offsets, parts.starts, parts.plan)[0]
