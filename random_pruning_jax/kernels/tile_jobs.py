"""What `dense_jobs` does before and after its sums where a convolution is made of tiles."""

import functools

import numpy as np

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels import tiles
from random_pruning_jax.kernels.llvm import compiled

POSITIONS, MARGIN = tiles.POSITIONS, 16  # floats that a vector may write, or read, beyond the end
_NO_FLOOR, _ZERO = np.float32(-np.inf), np.float32(0)


@functools.cache
def taking(lanes: int):
  """Images in their frames, to [16, channels, tiles] of a band of their lines of tiles."""
  turn = tiles.turn_pixels(lanes)

  @compiled
  def take(plan, frame, size, target, images, first):
    across, band = plan[word.ACROSS], plan[word.BAND]
    pitch, position = plan[word.PLANES] * plan[word.PLANE], plan[word.X_POSITION]
    line, step = plan[word.INPUTS] * pitch, plan[word.BLOCK] * band * across
    for channel in range(plan[word.INPUTS]):
      # A vector that reaches over the end of a line writes what the next line writes once more.
      for row in range(images * band):
        image, inside = row // band, first + row % band
        source = frame + 4 * (image * size + 2 * inside * line + channel * pitch)
        place = target + 4 * (channel * step + row * across)
        for tile in range(0, across, lanes):
          turn(place + 4 * tile, position, source + 4 * tile, line, plan[word.PLANE])

  return take


@functools.cache
def giving(lanes: int):
  """[16, tiles, channels] of sums, to the result, with what follows the convolution."""
  turn = tiles.turn_sums(lanes)

  @compiled
  def give(plan, tables, source, out, offset, beside, images, first):
    across, band, channels = plan[word.ACROSS], plan[word.BAND], plan[word.OUTPUTS]
    high, wide = plan[word.MAP_HIGH], plan[word.MAP_WIDE]
    zeros, floor = tables + 4 * plan[word.ZEROS], _ZERO if plan[word.CUT] else _NO_FLOOR
    for row in range(images * band):
      image, inside = row // band, first + row % band
      rows = min(2, high - 2 * inside)
      for column in range(across):
        columns = min(2, wide - 2 * column)
        place = 4 * (image * plan[word.STEP_OUT] + 2 * (inside * wide + column) * channels)
        sums = source + 4 * (row * across + column) * channels
        for channel in range(0, 4 * channels, 4 * lanes):
          turn(
            out + place + channel,
            wide * channels,
            channels,
            sums + channel,
            plan[word.OUT_POSITION],
            offset + channel if offset else zeros,
            beside + place + channel if beside else 0,
            rows,
            columns,
            floor,
          )

  return give
