"""A convolution, or the gradient of its kernel, by tiles: what is done around their sums."""

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.dense_sums import NO_FLOOR, ZERO
from random_pruning_jax.kernels.llvm import inlined, jitted
from random_pruning_jax.kernels.vectors import Vectors
from random_pruning_jax.kernels.winograd import MARGIN, POSITIONS
from random_pruning_jax.kernels.winograd_code import (
  transform_pixels,
  transform_sums,
  transform_tile,
)


def tiling(vectors: Vectors, parts):
  """The compiled function that computes images by tiles; `parts` computes the sums of tiles."""
  bring_x, bring_both, finish = (
    make(vectors.lanes) for make in (_input_transform, _gradient_transform, _output_transform)
  )

  @inlined
  def tiled(plan, plan_at, own, images, source, w, bias, residual, out, lower, upper):
    """Computes bands of lines of tiles; the last begins earlier where it would be shorter."""
    x = own + 4 * (plan[word.TILES] + MARGIN)
    second = x + 4 * POSITIONS * plan[word.X_POSITION]
    for start in range(0, plan[word.DOWN], plan[word.BAND]):
      first = min(start, plan[word.DOWN] - plan[word.BAND])
      if plan[word.SUMMED]:
        bring_both(plan, plan_at, source, w, x, second, images, first, start)
        parts(plan, plan_at, 1, x, second, 0, 0, 0, out, lower, upper)
      else:
        bring_x(plan, source, x, images, first)
        parts(plan, plan_at, images, x, w, 0, 0, 0, second, lower, upper)
        finish(plan, plan_at, second, out, bias, residual, images, first, lower, upper)

  return tiled


def _input_transform(lanes: int):
  """Images in their frames, to [16, channels, tiles] of a band of their lines of tiles."""
  transform = transform_pixels(lanes)

  @jitted
  def run(plan, frame, target, images, first):
    across, band = plan[word.ACROSS], plan[word.BAND]
    pitch, position = plan[word.PLANES] * plan[word.PLANE], plan[word.X_POSITION]
    line, step = plan[word.INPUTS] * pitch, plan[word.BLOCK] * band * across
    for channel in range(plan[word.INPUTS]):
      # A vector that reaches over the end of a line writes what the next line overwrites.
      for row in range(images * band):
        image, inside = row // band, first + row % band
        source = frame + 4 * (image * plan[word.FRAME] + 2 * inside * line + channel * pitch)
        place = target + 4 * (channel * step + row * across)
        for tile in range(0, across, lanes):
          transform(place + 4 * tile, position, source + 4 * tile, line, plan[word.PLANE], 1)

  return run


def _output_transform(lanes: int):
  """[16, tiles, channels] of sums, to the result, with what follows the convolution."""
  transform = transform_sums(lanes)

  @jitted
  def run(plan, plan_at, source, out, bias, residual, images, first, lower, upper):
    across, band, channels = plan[word.ACROSS], plan[word.BAND], plan[word.OUTPUTS]
    high, wide = plan[word.MAP_HIGH], plan[word.MAP_WIDE]
    zeros, floor = plan_at + 4 * plan[word.ZEROS], ZERO if plan[word.RELU] else NO_FLOOR
    for row in range(images * band):
      image, inside = row // band, first + row % band
      rows = min(2, high - 2 * inside)
      for column in range(across):
        columns = min(2, wide - 2 * column)
        place = 4 * (image * plan[word.STEP_OUT] + 2 * (inside * wide + column) * channels)
        sums = source + 4 * (row * across + column) * channels
        for channel in range(4 * lanes * lower, 4 * lanes * upper, 4 * lanes):
          transform(
            out + place + channel,
            wide * channels,
            channels,
            sums + channel,
            plan[word.OUT_POSITION],
            bias + channel if bias else zeros,
            residual + place + channel if residual else 0,
            rows,
            columns,
            floor,
          )

  return run


def _gradient_transform(lanes: int):
  """Images, in frames if any, and maps, to [16, tiles, channels] each, of a band of lines of tiles.

  In the maps, lines before `start` become zeros, since they have been summed already, and so do
  missing images.
  """
  of_pixels, of_tile = transform_pixels(lanes), transform_tile(lanes)

  @jitted
  def run(plan, plan_at, source, maps, x, y, images, first, start):
    across, band = plan[word.ACROSS], plan[word.BAND]
    inputs, outputs = plan[word.INPUTS], plan[word.OUTPUTS]
    high, wide = plan[word.MAP_HIGH], plan[word.MAP_WIDE]
    line, zeros = plan[word.WIDE] * inputs, plan_at + 4 * plan[word.ZEROS]
    every = plan[word.HIGH] * line
    for row in range(plan[word.BLOCK] * band):
      image, inside = row // band, first + row % band
      rows = min(2, high - 2 * inside) if image < images and inside >= start else 0
      for column in range(across):
        tile = row * across + column
        if rows:
          pixels = source + 4 * (image * every + 2 * (inside * line + column * inputs))
          for begin in range(0, inputs, lanes):
            channel = min(begin, inputs - lanes)
            place = x + 4 * (tile * inputs + channel)
            position = plan[word.X_POSITION]
            of_pixels(place, position, pixels + 4 * channel, line, inputs, 2 * inputs)
        sums = maps + 4 * (image * plan[word.STEP_W] + 2 * (inside * wide + column) * outputs)
        columns = min(2, wide - 2 * column)
        for channel in range(0, outputs, lanes):
          of_tile(
            y + 4 * (tile * outputs + channel),
            plan[word.OUT_POSITION],
            sums + 4 * channel,
            wide * outputs,
            outputs,
            rows,
            columns,
            zeros,
          )

  return run
