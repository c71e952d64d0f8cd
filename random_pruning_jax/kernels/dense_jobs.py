"""A convolution, or one of its gradients, of all channels: threads divide the images.

Where pixels are multiplied by weights, a thread turns an image into a frame of its own: each line
holds its pixels channel by channel, with zeros around the image, so that every tap of every pixel
is there to be read. For the gradient of a kernel the frame holds them as the image does.
"""

import functools

import numpy as np

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels import llvm, tile_jobs
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

# Words of a job, int64.
IN, WEIGHTS, PLAN, OFFSET, ADDED, RESULT, SCRATCH, JOB = range(FIRST, FIRST + 8)

_NO_FLOOR, _ZERO = np.float32(-np.inf), np.float32(0)


@compiled
def begin(frame):
  place = started(frame, JOB, IN, 5, 2)
  job = words(place)
  plan = ints(job[PLAN])
  # A kernel is summed over shares of the images that do not depend on which thread takes them.
  blocks = (plan[word.IMAGES] + plan[word.BLOCK] - 1) // plan[word.BLOCK]
  job[ITEMS] = min(plan[word.THREADS], plan[word.IMAGES]) if plan[word.SUMMED] else blocks
  job[WORKERS] = plan[word.THREADS]
  return place


@compiled
def finish(place):
  """Adds the sums of each share to those of the first, which are in the result."""
  job = words(place)
  plan = ints(job[PLAN])
  if not plan[word.SUMMED]:
    return
  total = floats(job[RESULT])
  for share in range(1, job[ITEMS]):
    more = floats(_sums(job, share))
    for number in range(plan[word.STEP_OUT]):
      total[number] += more[number]


@compiled
def _size(plan):
  """Floats of the frame of one image."""
  wide = plan[word.PLANES] * plan[word.PLANE] if plan[word.PLANES] else plan[word.WIDE]
  return plan[word.HIGH] * wide * plan[word.INPUTS] * plan[word.FRAMED]


@compiled
def _frame(job, seat):
  plan = ints(job[PLAN])
  return job[SCRATCH] + 4 * seat * plan[word.OWN]


@compiled
def _sums(job, seat):
  plan = ints(job[PLAN])
  return job[RESULT] if seat == 0 else _frame(job, seat) + 4 * _size(plan) * plan[word.BLOCK]


@compiled
def _fill(plan, source, frame):
  """Copies an image into its frame, whose borders are zeros already."""
  rows = min(plan[word.HEIGHT], plan[word.HIGH] - plan[word.TOP])
  length = min(plan[word.WIDTH], plan[word.WIDE] - plan[word.LEFT]) * plan[word.INPUTS]
  for row in range(rows):
    inside = (row + plan[word.TOP]) * plan[word.WIDE] + plan[word.LEFT]
    line = source + 4 * row * plan[word.WIDTH] * plan[word.INPUTS]
    llvm.move(frame + 4 * inside * plan[word.INPUTS], line, length)


def _turning(vectors: Vectors):
  turn = turning(vectors)

  @compiled
  def turned(plan, source, frame):
    """The same, channel by channel, with columns that are a stride apart beside each other."""
    planes, inputs = plan[word.PLANES], plan[word.INPUTS]
    rows = min(plan[word.HEIGHT], plan[word.HIGH] - plan[word.TOP])
    columns = min(plan[word.WIDTH], plan[word.WIDE] - plan[word.LEFT])
    pitch = planes * plan[word.PLANE]
    for row in range(0, rows, plan[word.EACH]):
      for first in range(min(plan[word.FILLED], columns)):
        column = first + plan[word.LEFT]
        line = (row + plan[word.TOP]) * inputs * pitch
        turn(
          frame + 4 * (line + column % planes * plan[word.PLANE] + column // planes),
          pitch,
          source + 4 * (row * plan[word.WIDTH] + first) * inputs,
          planes * inputs,
          (columns - first + planes - 1) // planes,
          inputs,
        )

  return turned


def _summing(vectors: Vectors):
  loop, lanes = contract(vectors), vectors.lanes
  pixels_of = tuple(pixels for pixels, _ in SHAPES[vectors.registers])

  @compiled
  def part(plan, tables, own, x, w, offset, beside, cut, out, first, taps):
    """The sums of some taps of one part of the result; offset and beside are 0 for none."""
    half, out_half = own[word.X_HALF], own[word.OUT_HALF]
    channels, vector = plan[word.OUTPUTS] // lanes, 0
    while vector < channels:
      wide = 2 if channels - vector >= 2 else 1
      shapes = ints(tables + 4 * own[word.BY_TWO if wide == 2 else word.BY_ONE])
      for begin in range(0, own[word.COUNT], plan[word.DEPTH]):
        start = out if plan[word.SUMMED] or begin else beside
        lift, floor = tables + 4 * plan[word.ZEROS], _NO_FLOOR
        if offset and begin == 0:
          lift = offset + 4 * vector * lanes
        if cut and begin + plan[word.DEPTH] >= own[word.COUNT]:
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

  @compiled
  def parts(plan, tables, images, x, w, offset, beside, cut, out):
    """All of them, some taps at a time where images are summed."""
    taps = plan[word.CHUNK]
    if plan[word.SUMMED]:
      taps = images * ints(tables + 4 * word.HEAD)[word.TAPS]
    for chunk in range(0, taps, plan[word.CHUNK]):
      for number in range(plan[word.PARTS]):
        own = ints(tables + 4 * (word.HEAD + word.PART * number))
        some = min(plan[word.CHUNK], taps - chunk) if plan[word.SUMMED] else own[word.TAPS]
        part(plan, tables, own, x, w, offset, beside, cut, out, chunk, some)

  return parts


def _tiling(vectors: Vectors, parts):
  take, give = tile_jobs.taking(vectors.lanes), tile_jobs.giving(vectors.lanes)

  @compiled
  def tiled(plan, tables, frame, images, w, offset, beside, out):
    """Bands of lines of tiles: turned, multiplied, and turned back; the last begins early."""
    x = frame + 4 * (_size(plan) * plan[word.BLOCK] + tile_jobs.MARGIN)
    sums = x + 4 * tile_jobs.POSITIONS * plan[word.X_POSITION]
    for start in range(0, plan[word.DOWN], plan[word.BAND]):
      first = min(start, plan[word.DOWN] - plan[word.BAND])
      take(plan, frame, _size(plan), x, images, first)
      parts(plan, tables, images, x, w, 0, 0, 0, sums)
      give(plan, tables, sums, out, offset, beside, images, first)

  return tiled


@functools.cache
def kind(vectors: Vectors) -> Kind:
  """The job, for such vectors of channels of the result."""
  turn, parts = _turning(vectors), _summing(vectors)
  tiled = _tiling(vectors, parts)

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
      first = number * plan[word.BLOCK]
      last = min(first + plan[word.BLOCK], plan[word.IMAGES])
      if plan[word.SUMMED]:
        first = plan[word.IMAGES] * number // job[ITEMS]
        last = plan[word.IMAGES] * (number + 1) // job[ITEMS]
        seat, clear = number, True
        llvm.clear(_sums(job, seat), plan[word.STEP_OUT])
      frame = _frame(job, seat)
      if clear and plan[word.FRAMED]:
        llvm.clear(frame, _size(plan) * plan[word.BLOCK])
      clear = False
      for start in range(first, last, plan[word.BLOCK]):
        stop = min(start + plan[word.BLOCK], last)
        image = 4 * plan[word.HEIGHT] * plan[word.WIDTH] * plan[word.INPUTS]
        x = job[IN] + start * image
        if plan[word.FRAMED]:
          for one in range(start, stop):
            target = frame + 4 * (one - start) * _size(plan)
            if plan[word.PLANES]:
              turn(plan, job[IN] + one * image, target)
            else:
              _fill(plan, job[IN] + one * image, target)
          x = frame
        w = job[WEIGHTS] + 4 * start * plan[word.STEP_W]
        out = (
          _sums(job, seat) if plan[word.SUMMED] else job[RESULT] + 4 * start * plan[word.STEP_OUT]
        )
        offset, beside = 0, 0
        if plan[word.OFFSETS]:
          offset = job[OFFSET]
        if plan[word.BESIDE]:
          beside = job[ADDED] + 4 * start * plan[word.STEP_OUT]
        if plan[word.BAND]:
          tiled(plan, job[PLAN], frame, stop - start, w, offset, beside, out)
        else:
          parts(plan, job[PLAN], stop - start, x, w, offset, beside, plan[word.CUT], out)
      llvm.add(place + 8 * DONE, 1)
      number = llvm.add(place + 8 * ITEM, 1)

  return Kind(begin, work, finish)
