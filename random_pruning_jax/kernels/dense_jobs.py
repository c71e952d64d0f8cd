"""A convolution, or one of its gradients, of all channels: threads divide the images.

Where pixels are multiplied by weights, a thread turns an image into a frame of its own: each line
holds its pixels channel by channel, with zeros around the image, so that every tap of every pixel
is there to be read. For the gradient of a kernel the frame holds them as the image does.
"""

import functools

import numpy as np

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.contract import SHAPES, Vectors, contract
from random_pruning_jax.kernels.handler import (
  DONE,
  FIRST,
  ITEM,
  ITEMS,
  SEAT,
  WORKERS,
  Kind,
  started,
)
from random_pruning_jax.kernels.llvm import compiled, floats, ints, words
from random_pruning_jax.kernels.turn import turning

# Words of a plan, int32: sizes of an image of `x` and of its frame, whether there is a frame, into
# how many planes its columns are turned (every second into one of two), the length of a plane, how
# many of them are filled and every how many-th row; how many images at once; channels of the
# result; floats from one vector of `w` to the next, of an image of `w` and of the result; how many
# taps, and products of each, at once; where the plan has zeros; whether offsets of the channels are
# added, and numbers beside the result, and whether what is below zero then becomes that; and the
# number of parts, with which the plan goes on.
THREADS, IMAGES, HEIGHT, WIDTH, INPUTS, TOP, LEFT, HIGH, WIDE, FRAMED, PLANES, PLANE = range(12)
FILLED, EACH, BLOCK, OUTPUTS, NEXT_W, STEP_W, STEP_OUT, SUMMED = range(12, 20)
CHUNK, DEPTH, ZEROS, OFFSETS, BESIDE, CUT, PARTS, HEAD = range(20, 28)

# Words of a part: `lines` of `pixels` of the result, each with `taps` of `count` products. In an
# image of x, of w and of the result: where it begins, and steps of a line, a pixel, a product and
# the second half of the pixels, where that is a line of its own. Then where the plan has tables: of
# taps in x and in w; and of the shapes that make up a line, how many and the number of each, where
# two vectors of channels are computed and where one is.
LINES, PIXELS, TAPS, COUNT, X, X_LINE, X_STEP, X_HALF, OUT, OUT_LINE, OUT_PIXEL, OUT_HALF = range(
  12
)
ROW, PLACES, ROWS, BY_TWO, BY_ONE, PART = range(12, 18)

# Words of a job, int64.
IN, WEIGHTS, PLAN, OFFSET, ADDED, RESULT, SCRATCH, JOB = range(FIRST, FIRST + 8)

_NO_FLOOR, _ZERO = np.float32(-np.inf), np.float32(0)


@compiled
def begin(frame):
  place = started(frame, JOB, IN, 5, 2)
  job = words(place)
  plan = ints(job[PLAN])
  # A kernel is summed over shares of the images that do not depend on which thread takes them.
  job[ITEMS] = min(plan[THREADS], plan[IMAGES]) if plan[SUMMED] else plan[IMAGES]
  job[WORKERS] = plan[THREADS]
  return place


@compiled
def finish(place):
  """Adds the sums of each share to those of the first, which are in the result."""
  job = words(place)
  plan = ints(job[PLAN])
  if not plan[SUMMED]:
    return
  total = floats(job[RESULT])
  for share in range(1, job[ITEMS]):
    more = floats(_sums(job, share))
    for number in range(plan[STEP_OUT]):
      total[number] += more[number]


@compiled
def _size(plan):
  """Floats of the frame of one image."""
  wide = plan[PLANES] * plan[PLANE] if plan[PLANES] else plan[WIDE]
  return plan[HIGH] * wide * plan[INPUTS] * plan[FRAMED]


@compiled
def _frame(job, seat):
  plan = ints(job[PLAN])
  return job[SCRATCH] + 4 * seat * (_size(plan) * plan[BLOCK] + plan[STEP_OUT] * plan[SUMMED])


@compiled
def _sums(job, seat):
  plan = ints(job[PLAN])
  return job[RESULT] if seat == 0 else _frame(job, seat) + 4 * _size(plan) * plan[BLOCK]


@compiled
def _fill(plan, source, frame):
  """Copies an image into its frame, whose borders are zeros already."""
  rows = min(plan[HEIGHT], plan[HIGH] - plan[TOP])
  length = min(plan[WIDTH], plan[WIDE] - plan[LEFT]) * plan[INPUTS]
  for row in range(rows):
    inside = (row + plan[TOP]) * plan[WIDE] + plan[LEFT]
    line = source + 4 * row * plan[WIDTH] * plan[INPUTS]
    llvm.move(frame + 4 * inside * plan[INPUTS], line, length)


def _turning(vectors: Vectors):
  turn = turning(vectors)

  @compiled
  def turned(plan, source, frame):
    """The same, channel by channel, with columns that are a stride apart beside each other."""
    planes, inputs = plan[PLANES], plan[INPUTS]
    rows = min(plan[HEIGHT], plan[HIGH] - plan[TOP])
    columns = min(plan[WIDTH], plan[WIDE] - plan[LEFT])
    pitch = planes * plan[PLANE]
    for row in range(0, rows, plan[EACH]):
      for first in range(min(plan[FILLED], columns)):
        column = first + plan[LEFT]
        line = (row + plan[TOP]) * inputs * pitch
        turn(
          frame + 4 * (line + column % planes * plan[PLANE] + column // planes),
          pitch,
          source + 4 * (row * plan[WIDTH] + first) * inputs,
          planes * inputs,
          (columns - first + planes - 1) // planes,
          inputs,
        )

  return turned


def _summing(vectors: Vectors):
  loop, lanes = contract(vectors), vectors.lanes
  pixels_of = tuple(pixels for pixels, _ in SHAPES[vectors.registers])

  @compiled
  def part(plan, tables, own, x, w, offset, beside, out, first, taps):
    """The sums of some taps of one part of the result."""
    half, out_half = own[X_HALF], own[OUT_HALF]
    channels, vector = plan[OUTPUTS] // lanes, 0
    while vector < channels:
      wide = 2 if channels - vector >= 2 else 1
      shapes = ints(tables + 4 * own[BY_TWO if wide == 2 else BY_ONE])
      for begin in range(0, own[COUNT], plan[DEPTH]):
        start, lift, floor = 0, tables + 4 * plan[ZEROS], _NO_FLOOR
        if plan[SUMMED] or begin:
          start = out
        elif plan[BESIDE]:
          start = beside
        if plan[OFFSETS] and begin == 0:
          lift = offset + 4 * vector * lanes
        if plan[CUT] and begin + plan[DEPTH] >= own[COUNT]:
          floor = _ZERO
        for line in range(own[LINES]):
          pixel = 0
          for number in range(1, shapes[0] + 1):
            shape = shapes[number]
            lead = (pixels_of[shape] + 1) // 2
            place = own[OUT] + line * own[OUT_LINE] + pixel * own[OUT_PIXEL] + vector * lanes
            loop(
              shape,
              x + 4 * (own[X] + line * own[X_LINE] + pixel + begin * own[X_STEP]),
              half if half else lead,
              own[X_STEP],
              min(plan[DEPTH], own[COUNT] - begin),
              taps,
              tables + 4 * (own[PLACES] + first),
              tables + 4 * (own[ROWS] + first),
              own[ROW],
              w + 4 * (vector * plan[NEXT_W] + begin * own[ROW]),
              plan[NEXT_W],
              out + 4 * place,
              own[OUT_PIXEL],
              out_half if half else lead * own[OUT_PIXEL],
              start + 4 * place if start else 0,
              lift,
              floor,
            )
            pixel += pixels_of[shape]
      vector += wide

  return part


@functools.cache
def kind(vectors: Vectors) -> Kind:
  """The job, for such vectors of channels of the result."""
  turn, part = _turning(vectors), _summing(vectors)

  @compiled
  def work(place):
    job = words(place)
    plan = ints(job[PLAN])
    number = llvm.add(place + 8 * ITEM, 1)
    if number >= job[ITEMS]:
      return
    seat = llvm.add(place + 8 * SEAT, 1)
    clear = True
    while number < job[ITEMS]:
      first, last = number, number + 1
      if plan[SUMMED]:
        first = plan[IMAGES] * number // job[ITEMS]
        last = plan[IMAGES] * (number + 1) // job[ITEMS]
        seat, clear = number, True
        llvm.clear(_sums(job, seat), plan[STEP_OUT])
      frame = _frame(job, seat)
      if clear and plan[FRAMED]:
        llvm.clear(frame, _size(plan) * plan[BLOCK])
      clear = False
      for start in range(first, last, plan[BLOCK]):
        stop = min(start + plan[BLOCK], last)
        image = 4 * plan[HEIGHT] * plan[WIDTH] * plan[INPUTS]
        x = job[IN] + start * image
        if plan[FRAMED]:
          for one in range(start, stop):
            target = frame + 4 * (one - start) * _size(plan)
            if plan[PLANES]:
              turn(plan, job[IN] + one * image, target)
            else:
              _fill(plan, job[IN] + one * image, target)
          x = frame
        w = job[WEIGHTS] + 4 * start * plan[STEP_W]
        out = _sums(job, seat) if plan[SUMMED] else job[RESULT] + 4 * start * plan[STEP_OUT]
        beside, tables = job[ADDED] + 4 * start * plan[STEP_OUT], job[PLAN]
        taps = plan[CHUNK]
        if plan[SUMMED]:
          taps = (stop - start) * ints(tables + 4 * HEAD)[TAPS]
        for chunk in range(0, taps, plan[CHUNK]):
          for number_of in range(plan[PARTS]):
            own = ints(tables + 4 * (HEAD + PART * number_of))
            some = min(plan[CHUNK], taps - chunk) if plan[SUMMED] else own[TAPS]
            part(plan, tables, own, x, w, job[OFFSET], beside, out, chunk, some)
      llvm.add(place + 8 * DONE, 1)
      number = llvm.add(place + 8 * ITEM, 1)

  return Kind(begin, work, finish)
