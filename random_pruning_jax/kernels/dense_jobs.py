"""A convolution, or one of its gradients, of all channels: threads divide the images.

Where pixels are multiplied by weights, a thread turns an image into a frame of its own: each line
holds its pixels channel by channel, with zeros around the image, so that every tap of every pixel
is there to be read. For the gradient of a kernel the frame holds them as the image does.
"""

import functools

from random_pruning_jax.kernels import llvm
from random_pruning_jax.kernels.contract import SHAPES, contract
from random_pruning_jax.kernels.handler import (
  DONE,
  FIRST,
  ITEM,
  ITEMS,
  REFERENCES,
  SEAT,
  WORKERS,
  Kind,
)
from random_pruning_jax.kernels.llvm import compiled, floats, ints, words
from random_pruning_jax.kernels.turn import turn

# Words of a plan, int32: sizes of an image of `x` and of its frame, whether there is a frame, into
# how many planes its columns are turned (every second into one of two), the length of a plane, how
# many of them are filled and every how many-th row; how many images at once; channels of the
# result; floats from one vector of `w` to the next, of an image of `w` and of the result; how many
# taps, and products of each, at once; and the number of parts, with which the plan goes on.
THREADS, IMAGES, HEIGHT, WIDTH, INPUTS, TOP, LEFT, HIGH, WIDE, FRAMED, PLANES, PLANE = range(12)
FILLED, EACH, BLOCK, OUTPUTS, NEXT_W, STEP_W, STEP_OUT, SUMMED = range(12, 20)
CHUNK, DEPTH, PARTS, HEAD = range(20, 24)

# Words of a part: `lines` of `pixels` of the result, each with `taps` of `count` products. In an
# image of x, of w and of the result: where it begins, and steps of a line, a pixel, a product and
# the second half of the pixels, where that is a line of its own.
LINES, PIXELS, TAPS, COUNT, X, X_LINE, X_STEP, X_HALF, OUT, OUT_LINE, OUT_PIXEL, OUT_HALF = range(
  12
)
ROW, PLACES, ROWS, PART = range(12, 16)

_PIXELS = tuple(pixels for pixels, _ in SHAPES)
_LEAD = tuple((pixels + 1) // 2 for pixels, _ in SHAPES)

# Words of a job, int64.
IN, WEIGHTS, PLAN, RESULT, SCRATCH, JOB = range(FIRST, FIRST + 6)


@compiled
def begin(frame):
  place = llvm.allocate(8 * JOB)
  job = words(place)
  arguments, results = words(frame[9]), words(frame[14])
  for number in range(3):
    job[IN + number] = words(arguments[number])[3]
  for number in range(2):
    job[RESULT + number] = words(results[number])[3]
  plan = ints(job[PLAN])
  job[ITEM] = job[DONE] = job[SEAT] = 0
  # A kernel is summed over shares of the images that do not depend on which thread takes them.
  job[ITEMS] = min(plan[THREADS], plan[IMAGES]) if plan[SUMMED] else plan[IMAGES]
  job[REFERENCES], job[WORKERS] = 1, plan[THREADS]
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


@compiled
def _turn(plan, source, frame):
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


@compiled
def _pixels(left, vectors):
  """How many of `left` pixels to compute next: the number of a shape of `contract.SHAPES`."""
  if vectors == 2:
    if left % 14 == 0:
      return 9
    if left >= 20 or left == 12:
      return 10
    return 11 if left >= 8 else 12 if left == 7 else 13 if left >= 4 else 14 if left >= 2 else 15
  if left == 28 or left == 14 or left == 15:
    return 1
  if left == 18 or left == 9:
    return 3
  if left >= 16:
    return 0
  if left >= 12:
    return 2
  return 4 if left >= 8 else 5 if left == 7 else 6 if left >= 4 else 7 if left >= 2 else 8


@functools.cache
def kind(lanes: int) -> Kind:
  """The job, for vectors of `lanes` channels of the result."""
  loop = contract(lanes)

  @compiled
  def part(plan, tables, own, x, w, out, first, taps):
    """The sums of some taps of one part of the result."""
    half, out_half = own[X_HALF], own[OUT_HALF]
    vectors, vector = plan[OUTPUTS] // lanes, 0
    while vector < vectors:
      wide = 2 if vectors - vector >= 2 else 1
      for begin in range(0, own[COUNT], plan[DEPTH]):
        for line in range(own[LINES]):
          pixel = 0
          while pixel < own[PIXELS]:
            shape = _pixels(own[PIXELS] - pixel, wide)
            lead = _LEAD[shape]
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
              plan[SUMMED] + begin,
            )
            pixel += _PIXELS[shape]
      vector += wide

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
              _turn(plan, job[IN] + one * image, target)
            else:
              _fill(plan, job[IN] + one * image, target)
          x = frame
        w = job[WEIGHTS] + 4 * start * plan[STEP_W]
        out = _sums(job, seat) if plan[SUMMED] else job[RESULT] + 4 * start * plan[STEP_OUT]
        tables = job[PLAN]
        taps = plan[CHUNK]
        if plan[SUMMED]:
          taps = (stop - start) * ints(tables + 4 * HEAD)[TAPS]
        for chunk in range(0, taps, plan[CHUNK]):
          for number_of in range(plan[PARTS]):
            own = ints(tables + 4 * (HEAD + PART * number_of))
            some = min(plan[CHUNK], taps - chunk) if plan[SUMMED] else own[TAPS]
            part(plan, tables, own, x, w, out, chunk, some)
      llvm.add(place + 8 * DONE, 1)
      number = llvm.add(place + 8 * ITEM, 1)

  return Kind(begin, work, finish)
