"""Plans of 3x3 convolutions of stride 1 that are made of tiles: 16 products of one tap."""

import functools

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.contract import Vectors
from random_pruning_jax.kernels.dense_frames import Sizes, around
from random_pruning_jax.kernels.dense_plans import PLAIN, Ending, Plan, channels_at_once, written
from random_pruning_jax.kernels.tile_jobs import MARGIN, POSITIONS

BAND = 1 << 18  # bytes of what a band of tiles is turned into, with its sums
TILES = 32  # of a band, at least, where there are so many in one image or in several
CHANNELS, WORTH = 32, 256  # fewer channels, or tiles in all, are not worth the turns


def fits(images: int, sizes: Sizes) -> bool:
  """Whether a convolution can be made of tiles, and is faster so."""
  (rows, columns, *channels), (high, wide, _) = sizes.kernel, sizes.map
  tiles = images * -(-high // 2) * -(-wide // 2)
  possible = (rows, columns) == (3, 3) and sizes.strides == (1, 1)
  return possible and min(channels) >= CHANNELS and tiles >= WORTH


@functools.lru_cache(maxsize=256)
def forward(
  images: int, sizes: Sizes, vectors: Vectors, threads: int, ending: Ending = PLAIN
) -> Plan:
  """y = the turned kernel [O / lanes, 16 C, lanes] over x."""
  (high, wide, outputs), inputs, lanes = sizes.map, sizes.kernel[2], vectors.lanes
  down, across = -(-high // 2), -(-wide // 2)
  frame = around(sizes)._replace(high=2 * down + 2, wide=2 * across + 2, planes=2, filled=2)
  most = max(1, BAND // (4 * POSITIONS * (inputs + outputs) * across))
  bands = -(-down // most)
  band = -(-down // bands)
  block = 1 if bands > 1 else max(1, min(-(-TILES // (down * across)), images // threads))
  tiles = block * band * across
  x_position, out_position = inputs * tiles + MARGIN, outputs * tiles + MARGIN
  parts = [
    (
      {
        word.LINES: 1,
        word.PIXELS: tiles,
        word.TAPS: 1,
        word.COUNT: inputs,
        word.X: position * x_position,
        word.X_STEP: tiles,
        word.OUT: position * out_position,
        word.OUT_PIXEL: outputs,
        word.ROW: lanes,
      },
      [0],
      [position * inputs * lanes],
    )
    for position in range(POSITIONS)
  ]
  more = {
    word.DOWN: down,
    word.BAND: band,
    word.ACROSS: across,
    word.MAP_HIGH: high,
    word.MAP_WIDE: wide,
    word.X_POSITION: x_position,
    word.OUT_POSITION: out_position,
  }
  return written(
    (images, *sizes.map),
    frame,
    parts,
    vectors,
    threads,
    next_w=POSITIONS * inputs * lanes,
    depth=channels_at_once(inputs, 1, lanes),
    block=block,
    ending=ending,
    more=more,
    scratch=MARGIN + POSITIONS * (x_position + out_position),
  )
