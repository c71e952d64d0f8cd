"""A convolution, or one of its gradients, of all channels: threads divide the images.

Where the kernel is wider than a pixel, a thread copies an image into a frame of zeros of its own,
so that every tap of every pixel is there to be read.
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

# Words of a plan, int32: sizes of an image of `x` and of its frame, whether there is a frame; how
# many images at once; channels of the result; floats of an image of `w` and of the result; and
# where in the plan the parts begin, of which there are so many.
THREADS, IMAGES, HEIGHT, WIDTH, INPUTS, TOP, LEFT, HIGH, WIDE, FRAMED = range(10)
BLOCK, OUTPUTS, STEP_W, STEP_OUT, SUMMED, PARTS, HEAD = range(10, 17)

# Words of a part: `lines` of `pixels` of the result, each with `taps` of `count` products. In an
# image of x, of w and of the result: where it begins, and steps of a line, a pixel and a product.
LINES, PIXELS, TAPS, COUNT, X, X_LINE, X_PIXEL, X_STEP, OUT, OUT_LINE, OUT_PIXEL = range(11)
ROW, PLACES, ROWS, PART = range(11, 15)

_PIXELS = tuple(pixels for pixels, _ in SHAPES)

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
def _frame(job, seat):
  plan = ints(job[PLAN])
  size = plan[HIGH] * plan[WIDE] * plan[INPUTS] * plan[BLOCK] * plan[FRAMED]
  return job[SCRATCH] + 4 * seat * (size + plan[STEP_OUT] * plan[SUMMED])


@compiled
def _sums(job, seat):
  plan = ints(job[PLAN])
  size = plan[HIGH] * plan[WIDE] * plan[INPUTS] * plan[BLOCK] * plan[FRAMED]
  return job[RESULT] if seat == 0 else _frame(job, seat) + 4 * size


@compiled
def _fill(job, frame, first, last):
  """Copies images into the frame, whose borders are zeros already."""
  plan = ints(job[PLAN])
  line = plan[WIDTH] * plan[INPUTS]
  for image in range(first, last):
    source = job[IN] + 4 * image * plan[HEIGHT] * line
    target = frame + 4 * (image - first) * plan[HIGH] * plan[WIDE] * plan[INPUTS]
    rows = min(plan[HEIGHT], plan[HIGH] - plan[TOP])
    length = min(plan[WIDTH], plan[WIDE] - plan[LEFT]) * plan[INPUTS]
    for row in range(rows):
      inside = (row + plan[TOP]) * plan[WIDE] + plan[LEFT]
      llvm.move(target + 4 * inside * plan[INPUTS], source + 4 * row * line, length)


@compiled
def _pixels(left, vectors):
  """How many of `left` pixels to compute next: the number of a shape of `contract.SHAPES`."""
  if vectors == 1:
    if left >= 16:
      return 0
    if left == 14 or left == 7:
      return 2
    return 1 if left >= 8 else 3 if left >= 4 else 4 if left >= 2 else 5
  if left >= 20 or left == 12:
    return 6
  if left == 14 or left == 7:
    return 8
  return 7 if left >= 8 else 9 if left >= 4 else 10 if left >= 2 else 11


@functools.cache
def kind(lanes: int) -> Kind:
  """The job, for vectors of `lanes` channels of the result."""
  loop = contract(lanes)

  @compiled
  def part(job, plan, number, x, w, out, taps):
    """The sums of one part of the result, of one image or, for a kernel, of a block of them."""
    own = ints(job[PLAN] + 4 * (HEAD + PART * number))
    tables = job[PLAN]
    vectors = plan[OUTPUTS] // lanes
    done = 0
    while done < vectors:
      wide = 2 if vectors - done >= 2 else 1
      for line in range(own[LINES]):
        pixel = 0
        while pixel < own[PIXELS]:
          shape = _pixels(own[PIXELS] - pixel, wide)
          loop(
            shape,
            x + 4 * (own[X] + line * own[X_LINE] + pixel * own[X_PIXEL]),
            own[X_PIXEL],
            own[X_STEP],
            own[COUNT],
            taps * own[TAPS],
            tables + 4 * own[PLACES],
            tables + 4 * own[ROWS],
            own[ROW],
            w + 4 * done * lanes,
            out + 4 * (own[OUT] + line * own[OUT_LINE] + pixel * own[OUT_PIXEL] + done * lanes),
            own[OUT_PIXEL],
            plan[SUMMED],
          )
          pixel += _PIXELS[shape]
      done += wide

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
      if clear and plan[FRAMED]:
        llvm.clear(_frame(job, seat), plan[HIGH] * plan[WIDE] * plan[INPUTS] * plan[BLOCK])
      clear = False
      for start in range(first, last, plan[BLOCK]):
        stop = min(start + plan[BLOCK], last)
        x = job[IN] + 4 * start * plan[HEIGHT] * plan[WIDTH] * plan[INPUTS]
        if plan[FRAMED]:
          _fill(job, _frame(job, seat), start, stop)
          x = _frame(job, seat)
        w = job[WEIGHTS] + 4 * start * plan[STEP_W]
        out = _sums(job, seat) if plan[SUMMED] else job[RESULT] + 4 * start * plan[STEP_OUT]
        for one in range(plan[PARTS]):
          part(job, plan, one, x, w, out, stop - start if plan[SUMMED] else 1)
      llvm.add(place + 8 * DONE, 1)
      number = llvm.add(place + 8 * ITEM, 1)

  return Kind(begin, work, finish)
