"""Plans of 3x3 convolutions of stride 1 that are made of tiles: 16 products of one tap."""

import functools
import math

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.dense_frames import Sizes, around
from random_pruning_jax.kernels.dense_plans import channels_at_once
from random_pruning_jax.kernels.encoding import PLAIN, Epilogue, Plan, encode
from random_pruning_jax.kernels.vectors import Vectors
from random_pruning_jax.kernels.winograd import MARGIN, POSITIONS

BYTES = 1 << 18  # of the transformed pixels and the sums of a band, unless TILES need more
TILES = 32  # computed at once, at least, for each time that the kernel is read
SUMMED = 64  # tiles computed at once, where they are summed over
CHANNELS, WORTH = 32, 256  # fewer channels, or tiles in all, are not worth the transforms
KERNELS = 1 << 28  # bytes of the sums of all threads, at most


def fits(images: int, sizes: Sizes) -> bool:
  """Whether a convolution can be made of tiles, and is faster that way."""
  rows, columns, *channels = sizes.kernel
  tiles = images * math.prod(_grid(sizes))
  possible = (rows, columns) == (3, 3) and sizes.strides == (1, 1)
  return possible and min(channels) >= CHANNELS and tiles >= WORTH


def fits_gradient(images: int, sizes: Sizes, threads: int) -> bool:
  """The same for the gradient of a kernel, of which each thread has sums of its own."""
  inputs, outputs = sizes.kernel[2:]
  return fits(images, sizes) and 4 * POSITIONS * inputs * outputs * threads <= KERNELS


@functools.lru_cache(maxsize=256)
def forward(
  images: int, sizes: Sizes, vectors: Vectors, threads: int, epilogue: Epilogue = PLAIN
) -> Plan:
  """y = the transformed kernel [O / lanes, 16 C, lanes] over x."""
  (inputs, outputs), lanes = sizes.kernel[2:], vectors.lanes
  down, across = _grid(sizes)
  frame = around(sizes)._replace(high=2 * down + 2, wide=2 * across + 2, planes=2, filled=2)
  most = max(-(-TILES // across), BYTES // (4 * POSITIONS * (inputs + outputs) * across))
  bands = -(-down // most)
  band = -(-down // bands)
  block = 1 if bands > 1 else max(1, min(-(-TILES // (down * across)), images // threads))
  tiles = block * band * across
  x_position, out_position = inputs * tiles + MARGIN, outputs * tiles + MARGIN
  part = {
    word.PIXELS: tiles,
    word.COUNT: inputs,
    word.X_STEP: tiles,
    word.OUT_PIXEL: outputs,
    word.ROW: lanes,
  }
  words = {
    **_words(sizes, band, x_position, out_position),
    word.NEXT_W: POSITIONS * inputs * lanes,
    word.DEPTH: channels_at_once(inputs, 1, lanes),
  }
  return encode(
    (images, *sizes.map),
    frame,
    _parts(part, x_position, out_position, inputs * lanes),
    vectors,
    threads,
    images,
    words,
    block=block,
    epilogue=epilogue,
    scratch=MARGIN + POSITIONS * (x_position + out_position),
  )


@functools.lru_cache(maxsize=256)
def kernel_gradient(images: int, sizes: Sizes, vectors: Vectors, threads: int) -> Plan:
  """The transformed kernel [4, 4, C, O] = x times y, summed over tiles and images."""
  inputs, outputs = sizes.kernel[2:]
  down, across = _grid(sizes)
  frame = around(sizes)._replace(high=2 * down + 2, wide=2 * across + 2)
  band = max(1, min(down, SUMMED // across))
  band = -(-down // -(-down // band))
  share = -(-images // threads)
  block = max(1, min(SUMMED // (down * across), share)) if band == down else 1
  tiles = block * band * across
  x_position, y_position = inputs * tiles + MARGIN, outputs * tiles + MARGIN
  part = {
    word.PIXELS: inputs,
    word.COUNT: tiles,
    word.X_STEP: inputs,
    word.OUT_PIXEL: outputs,
    word.ROW: outputs,
  }
  words = {
    **_words(sizes, band, x_position, y_position),
    word.NEXT_W: vectors.lanes,
    word.STEP_W: math.prod(sizes.map),
    word.DEPTH: tiles,
  }
  return encode(
    (4, 4, inputs, outputs),
    frame,
    _parts(part, x_position, inputs * outputs, y_position),
    vectors,
    threads,
    images,
    words,
    summed=True,
    block=block,
    scratch=MARGIN + POSITIONS * (x_position + y_position),
  )


def _grid(sizes: Sizes) -> tuple[int, int]:
  """Lines of tiles, and tiles of a line, of a map."""
  high, wide, _ = sizes.map
  return -(-high // 2), -(-wide // 2)


def _parts(part: dict, x: int, out: int, w: int) -> list:
  """A part for each of a tile's numbers, which are `x`, `out` and `w` floats apart."""
  return [
    (
      {**part, word.LINES: 1, word.TAPS: 1, word.X: number * x, word.OUT: number * out},
      [0],
      [number * w],
    )
    for number in range(POSITIONS)
  ]


def _words(sizes: Sizes, band: int, x_position: int, out_position: int) -> dict[int, int]:
  (down, across), (high, wide, _) = _grid(sizes), sizes.map
  return {
    word.BAND: band,
    word.DOWN: down,
    word.ACROSS: across,
    word.MAP_HIGH: high,
    word.MAP_WIDE: wide,
    word.X_POSITION: x_position,
    word.OUT_POSITION: out_position,
  }
