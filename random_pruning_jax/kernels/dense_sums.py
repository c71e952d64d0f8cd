"""All sums of an image, or of several: the parts of a plan, through the loop of `contract`."""

import numpy as np
from numba import types

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.contract import contract
from random_pruning_jax.kernels.llvm import INTS, compiled_for, inlined, ints
from random_pruning_jax.kernels.vectors import SHAPES, Vectors

_NO_FLOOR, _ZERO = np.float32(-np.inf), np.float32(0)


def summing(vectors: Vectors):
  """What computes all parts, in compiled code."""
  loop, lanes = contract(vectors), vectors.lanes
  pixels_of = tuple(pixels for pixels, _ in SHAPES[vectors.registers])

  @inlined
  def part(plan, tables, own, x, w, bias, residual, relu, out, lower, upper, first, taps):
    """The sums of some taps of one part of the result, from one vector of its channels to another.

    bias and residual are 0 for none.
    """
    half, out_half = own[word.X_HALF], own[word.OUT_HALF]
    vector = lower
    while vector < upper:
      wide = 2 if upper - vector >= 2 else 1
      shapes = ints(tables + 4 * own[word.BY_TWO if wide == 2 else word.BY_ONE])
      for begin in range(0, own[word.COUNT], plan[word.DEPTH]):
        start = out if plan[word.SUMMED] or begin else residual
        lift, floor = tables + 4 * plan[word.ZEROS], _NO_FLOOR
        if bias and begin == 0:
          lift = bias + 4 * vector * lanes
        if relu and begin + plan[word.DEPTH] >= own[word.COUNT]:
          floor = _ZERO
        for line in range(own[word.LINES]):
          pixel = 0
          for number in range(1, shapes[0] + 1):
            shape = shapes[number]
            lead = (pixels_of[shape] + 1) // 2
            place = (
              own[word.OUT]
              + line * own[word.OUT_LINE]
              + pixel * own[word.OUT_PIXEL]
              + vector * lanes
            )
            loop(
              shape,
              x + 4 * (own[word.X] + line * own[word.X_LINE] + pixel + begin * own[word.X_STEP]),
              half if half else lead,
              own[word.X_STEP],
              min(plan[word.DEPTH], own[word.COUNT] - begin),
              taps,
              tables + 4 * (own[word.PLACES] + first),
              tables + 4 * (own[word.ROWS] + first),
              own[word.ROW],
              w + 4 * (vector * plan[word.NEXT_W] + begin * own[word.ROW]),
              plan[word.NEXT_W],
              out + 4 * place,
              own[word.OUT_PIXEL],
              out_half if half else lead * own[word.OUT_PIXEL],
              start + 4 * place if start else 0,
              lift,
              floor,
            )
            pixel += pixels_of[shape]
      vector += wide

  @compiled_for(INTS, *[types.int64] * 10)
  def parts(plan, tables, images, x, w, bias, residual, relu, out, lower, upper):
    """All parts, some taps at a time where images are summed."""
    taps = plan[word.CHUNK]
    if plan[word.SUMMED]:
      taps = images * ints(tables + 4 * word.HEAD)[word.TAPS]
    for chunk in range(0, taps, plan[word.CHUNK]):
      for number in range(plan[word.PARTS]):
        own = ints(tables + 4 * (word.HEAD + word.PART * number))
        now = min(plan[word.CHUNK], taps - chunk) if plan[word.SUMMED] else own[word.TAPS]
        part(plan, tables, own, x, w, bias, residual, relu, out, lower, upper, chunk, now)

  return parts
