"""What `dense_jobs` is told: which products make which part of the result, as numbers."""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from random_pruning_jax.kernels import dense_jobs as jobs

CACHE = 1 << 18  # bytes of a core's own memory that images take, while a kernel is summed over them


class Sizes(NamedTuple):
  """Sizes of images and kernel, and how one passes over the other."""

  image: tuple[int, int, int]  # H, W, C
  kernel: tuple[int, int, int, int]  # h, w, C, O
  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]

  @property
  def map(self) -> tuple[int, int, int]:
    """h', w', O of the output."""
    sides = zip(self.image[:2], self.kernel[:2], self.strides, self.pads, strict=True)
    return (*((n + sum(pad) - k) // s + 1 for n, k, s, pad in sides), self.kernel[3])


class Plan(NamedTuple):
  words: np.ndarray  # int32
  shape: tuple[int, ...]  # of the result
  scratch: int  # floats


class Frame(NamedTuple):
  """An image [height, width, channels] inside zeros [high, wide], or as it is."""

  image: tuple[int, int, int]
  top: int
  left: int
  high: int
  wide: int

  @property
  def framed(self) -> bool:
    return (self.high, self.wide) != self.image[:2] or self.top > 0 or self.left > 0

  @property
  def size(self) -> int:
    return self.high * self.wide * self.image[2]

  def place(self, row: int, column: int) -> int:
    return (row * self.wide + column) * self.image[2]


@functools.lru_cache(maxsize=256)
def forward(images: int, sizes: Sizes, threads: int) -> Plan:
  """y = the kernel over x: a part, whose taps are those of the kernel."""
  (rows, columns, inputs, outputs), (high, wide, _) = sizes.kernel, sizes.map
  (down, right), frame = sizes.strides, _frame(sizes)
  taps = list(itertools.product(range(rows), range(columns)))
  part = {
    jobs.LINES: high,
    jobs.PIXELS: wide,
    jobs.TAPS: len(taps),
    jobs.COUNT: inputs,
    jobs.X_LINE: frame.place(down, 0),
    jobs.X_PIXEL: frame.place(0, right),
    jobs.X_STEP: 1,
    jobs.OUT_LINE: wide * outputs,
    jobs.OUT_PIXEL: outputs,
    jobs.ROW: outputs,
  }
  places = [frame.place(row, column) for row, column in taps]
  lines = [(row * columns + column) * inputs * outputs for row, column in taps]
  return _plan((images, *sizes.map), frame, [(part, places, lines)], threads)


@functools.lru_cache(maxsize=256)
def to_input(images: int, sizes: Sizes, threads: int) -> Plan:
  """x = what meets y under the kernel [h, w, O, C]: a part for each pixel of a stride's step.

  Pixel s r + a of a side is reached from r + (a + pad - k) / s by those taps k for which that is a
  whole number.
  """
  (rows, columns, inputs, outputs), (height, width, _) = sizes.kernel, sizes.image
  sides = [
    [
      [(k, (a + low - k) // s) for k in range(size) if (a + low - k) % s == 0]
      for a in range(min(s, n))
    ]
    for n, size, s, (low, _) in zip(
      (height, width), (rows, columns), sizes.strides, sizes.pads, strict=True
    )
  ]
  counts = [
    [-(-(n - a) // s) for a in range(len(side))]
    for n, s, side in zip((height, width), sizes.strides, sides, strict=True)
  ]
  edges = [_edges(side, count, n) for side, count, n in zip(sides, counts, sizes.map, strict=False)]
  (top, high), (left, wide) = edges
  frame = Frame(sizes.map, top, left, high, wide)
  down, right = sizes.strides
  parts = []
  for a, b in itertools.product(range(len(sides[0])), range(len(sides[1]))):
    taps = list(itertools.product(sides[0][a], sides[1][b]))
    part = {
      jobs.LINES: counts[0][a],
      jobs.PIXELS: counts[1][b],
      jobs.TAPS: len(taps),
      jobs.COUNT: outputs,
      jobs.X_LINE: frame.place(1, 0),
      jobs.X_PIXEL: frame.place(0, 1),
      jobs.X_STEP: 1,
      jobs.OUT: (a * width + b) * inputs,
      jobs.OUT_LINE: down * width * inputs,
      jobs.OUT_PIXEL: right * inputs,
      jobs.ROW: inputs,
    }
    places = [frame.place(top + i, left + j) for (_, i), (_, j) in taps]
    lines = [(row * columns + column) * outputs * inputs for (row, _), (column, _) in taps]
    parts.append((part, places, lines))
  return _plan((images, *sizes.image), frame, parts, threads)


@functools.lru_cache(maxsize=256)
def to_kernel(images: int, sizes: Sizes, threads: int) -> Plan:
  """kernel = x times y, summed over pixels and images: a part for each tap."""
  (rows, columns, inputs, outputs), (high, wide, _) = sizes.kernel, sizes.map
  (down, right), frame = sizes.strides, _frame(sizes)
  block = max(1, min(CACHE // (4 * frame.size), -(-images // threads)))
  places = [i * frame.size + frame.place(j * down, 0) for i in range(block) for j in range(high)]
  lines = [i * wide * outputs for i in range(block * high)]
  parts = []
  for row, column in itertools.product(range(rows), range(columns)):
    part = {
      jobs.LINES: 1,
      jobs.PIXELS: inputs,
      jobs.TAPS: high,  # of each image
      jobs.COUNT: wide,
      jobs.X: frame.place(row, column),
      jobs.X_PIXEL: 1,
      jobs.X_STEP: frame.place(0, right),
      jobs.OUT: (row * columns + column) * inputs * outputs,
      jobs.OUT_PIXEL: outputs,
      jobs.ROW: outputs,
    }
    parts.append((part, places, lines))
  return _plan(sizes.kernel, frame, parts, threads, images, block, math.prod(sizes.map))


def _frame(sizes: Sizes) -> Frame:
  """What the kernel reads of an image and the zeros around it."""
  if sizes.pads == ((0, 0), (0, 0)):
    return Frame(sizes.image, 0, 0, *sizes.image[:2])
  high, wide = (
    (m - 1) * s + k for m, s, k in zip(sizes.map[:2], sizes.strides, sizes.kernel[:2], strict=True)
  )
  return Frame(sizes.image, sizes.pads[0][0], sizes.pads[1][0], high, wide)


def _edges(side: list[list[tuple[int, int]]], counts: list[int], n: int) -> tuple[int, int]:
  """Zeros before the first pixel that any tap meets, and pixels from there to the last one."""
  first = min((d for taps in side for _, d in taps), default=0)
  last = max(
    (count - 1 + d for taps, count in zip(side, counts, strict=True) for _, d in taps), default=0
  )
  before = max(0, -first)
  return before, max(n if not before else 0, before + last + 1)


def _plan(shape, frame, parts, threads, images=0, block=1, step_w=0) -> Plan:
  """Words of the plan: its head, the parts, and their tables, each of them once."""
  tables: dict[tuple, int] = {}
  total = jobs.HEAD + jobs.PART * len(parts)
  words, body = [], []
  for part, *lists in parts:
    own = np.zeros(jobs.PART, np.int32)
    own[list(part)] = list(part.values())
    for word, table in zip((jobs.PLACES, jobs.ROWS), lists, strict=True):
      if tuple(table) not in tables:
        tables[tuple(table)] = total
        total += len(table)
        body.append(table)
      own[word] = tables[tuple(table)]
    words.append(own)
  summed = bool(images)
  height, width, channels = frame.image
  head = {
    jobs.THREADS: threads,
    jobs.IMAGES: images or shape[0],
    jobs.HEIGHT: height,
    jobs.WIDTH: width,
    jobs.INPUTS: channels,
    jobs.TOP: frame.top,
    jobs.LEFT: frame.left,
    jobs.HIGH: frame.high,
    jobs.WIDE: frame.wide,
    jobs.FRAMED: frame.framed,
    jobs.BLOCK: block,
    jobs.OUTPUTS: shape[-1],
    jobs.STEP_W: step_w,
    jobs.STEP_OUT: math.prod(shape if summed else shape[1:]),
    jobs.SUMMED: summed,
    jobs.PARTS: len(parts),
  }
  front = np.zeros(jobs.HEAD, np.int32)
  front[list(head)] = list(head.values())
  own = frame.size * block * frame.framed + head[jobs.STEP_OUT] * summed
  return Plan(
    np.concatenate([front, *words, *body]).astype(np.int32), tuple(shape), max(1, threads * own)
  )
