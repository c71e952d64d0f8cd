"""All sums of an image, or of several: the parts of a plan, through the loop of `contract`."""

import numpy as np
from numba import types

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.contract import Operands, contract
from random_pruning_jax.kernels.llvm import INTS, inlined, ints, jitted_for
from random_pruning_jax.kernels.vectors import SHAPES, Vectors

NO_FLOOR, ZERO = np.float32(-np.inf), np.float32(0)


def summing(vectors: Vectors):
  """The compiled function that computes all parts."""
  loop, lanes = contract(vectors), vectors.lanes
  pixels_of = tuple(pixels for pixels, _ in SHAPES[vectors.registers])

  @inlined
  def some_taps(plan, plan_at, part, x, w, bias, residual, relu, out, lower, upper, first, taps):
    """The sums of some taps of one part of the result, from one vector of its channels to another.

    bias and residual are 0 for none.
    """
    half, out_half = part[word.X_HALF], part[word.OUT_HALF]
    for vector in range(lower, upper, 2):
      wide = min(2, upper - vector)
      shapes = ints(plan_at + 4 * part[word.BY_TWO if wide == 2 else word.BY_ONE])
      for begin in range(0, part[word.COUNT], plan[word.DEPTH]):
        start = out if plan[word.SUMMED] or begin else residual
        added, floor = plan_at + 4 * plan[word.ZEROS], NO_FLOOR
        if bias and begin == 0:
          added = bias + 4 * vector * lanes
        if relu and begin + plan[word.DEPTH] >= part[word.COUNT]:
          floor = ZERO
        for line in range(part[word.LINES]):
          pixel = 0
          for number in range(1, shapes[0] + 1):
            shape = shapes[number]
            lead = (pixels_of[shape] + 1) // 2
            source = part[word.X] + line * part[word.X_LINE] + pixel + begin * part[word.X_STEP]
            place = part[word.OUT] + line * part[word.OUT_LINE] + pixel * part[word.OUT_PIXEL]
            place += vector * lanes
            operands = Operands(
              x=x + 4 * source,
              half=half if half else lead,
              step=part[word.X_STEP],
              count=min(plan[word.DEPTH], part[word.COUNT] - begin),
              taps=taps,
              places=plan_at + 4 * (part[word.PLACES] + first),
              rows=plan_at + 4 * (part[word.ROWS] + first),
              row=part[word.ROW],
              w=w + 4 * (vector * plan[word.NEXT_W] + begin * part[word.ROW]),
              next_w=plan[word.NEXT_W],
              out=out + 4 * place,
              pixel=part[word.OUT_PIXEL],
              out_half=out_half if half else lead * part[word.OUT_PIXEL],
              start=start + 4 * place if start else 0,
              bias=added,
            )
            loop(shape, operands, floor)
            pixel += pixels_of[shape]

  @jitted_for(INTS, *[types.int64] * 10)
  def parts(plan, plan_at, images, x, w, bias, residual, relu, out, lower, upper):
    """All parts, some taps at a time where images are summed."""
    taps = plan[word.CHUNK]
    if plan[word.SUMMED]:
      taps = images * ints(plan_at + 4 * word.HEAD)[word.TAPS]
    for chunk in range(0, taps, plan[word.CHUNK]):
      for number in range(plan[word.PARTS]):
        part = ints(plan_at + 4 * (word.HEAD + word.PART * number))
        now = min(plan[word.CHUNK], taps - chunk) if plan[word.SUMMED] else part[word.TAPS]
        some_taps(plan, plan_at, part, x, w, bias, residual, relu, out, lower, upper, chunk, now)

  return parts
