"""Plans for `dense_jobs`: which products make which part of the result, as numbers."""

import functools
import itertools
import math

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.dense_frames import Frame, Sizes, around
from random_pruning_jax.kernels.encoding import PLAIN, Epilogue, Plan, encode
from random_pruning_jax.kernels.vectors import SHAPES, Vectors

NEAREST, CACHE = 20 << 10, 1 << 18  # bytes to keep in a core's nearest cache, and in the next


@functools.lru_cache(maxsize=256)
def forward(
  images: int, sizes: Sizes, vectors: Vectors, threads: int, epilogue: Epilogue = PLAIN
) -> Plan:
  """y = the kernel [O / lanes, h w C, lanes] over x: a part with the taps of the kernel."""
  lanes = vectors.lanes
  (rows, columns, inputs, outputs), (high, wide, _) = sizes.kernel, sizes.map
  down, right = sizes.strides
  frame = around(sizes)._replace(
    planes=right, filled=right if columns > 1 else 1, each=down if rows == 1 else 1
  )
  taps = list(itertools.product(range(rows), range(columns)))
  part = {
    word.LINES: high,
    word.PIXELS: wide,
    word.TAPS: len(taps),
    word.COUNT: inputs,
    word.X_LINE: frame.place(down, 0),
    word.X_STEP: frame.channel,
    word.OUT_LINE: wide * outputs,
    word.OUT_PIXEL: outputs,
    word.ROW: lanes,
  }
  places = [frame.place(row, column) for row, column in taps]
  lines = [number * inputs * lanes for number in range(len(taps))]
  parts = [(half, places, lines) for half in _pairs(part, outputs, vectors)]
  words = {
    word.NEXT_W: len(taps) * inputs * lanes,
    word.DEPTH: channels_at_once(inputs, len(taps), lanes),
  }
  shape = (images, *sizes.map)
  return encode(shape, frame, parts, vectors, threads, images, words, epilogue=epilogue)


@functools.lru_cache(maxsize=256)
def input_gradient(images: int, sizes: Sizes, vectors: Vectors, threads: int) -> Plan:
  """x = what meets y under the kernel [C / lanes, h w O, lanes].

  There is one part per phase (row % stride, column % stride): pixel s r + a of a side is reached
  from r + (a + pad - k) / s by those taps k for which that is a whole number.
  """
  lanes = vectors.lanes
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
  (top, high), (left, wide) = map(_edges, sides, counts, sizes.map[:2])
  frame = Frame(sizes.map, top, left, high, wide, planes=1, filled=1)
  down, right = sizes.strides
  parts = []
  for a, b in itertools.product(range(len(sides[0])), range(len(sides[1]))):
    taps = list(itertools.product(sides[0][a], sides[1][b]))
    part = {
      word.LINES: counts[0][a],
      word.PIXELS: counts[1][b],
      word.TAPS: len(taps),
      word.COUNT: outputs,
      word.X_LINE: frame.place(1, 0),
      word.X_STEP: frame.channel,
      word.OUT: (a * width + b) * inputs,
      word.OUT_LINE: down * width * inputs,
      word.OUT_PIXEL: right * inputs,
      word.ROW: lanes,
    }
    places = [frame.place(top + i, left + j) for (_, i), (_, j) in taps]
    lines = [(row * columns + column) * outputs * lanes for (row, _), (column, _) in taps]
    parts += [(half, places, lines) for half in _pairs(part, inputs, vectors)]
  words = {
    word.NEXT_W: rows * columns * outputs * lanes,
    word.DEPTH: channels_at_once(outputs, rows * columns, lanes),
  }
  return encode((images, *sizes.image), frame, parts, vectors, threads, images, words)


@functools.lru_cache(maxsize=256)
def kernel_gradient(images: int, sizes: Sizes, vectors: Vectors, threads: int) -> Plan:
  """kernel = x times y, summed over pixels and images: a part for each of the kernel's rows.

  Columns of a row and their channels follow each other in the image as they do in the kernel.
  """
  (rows, columns, inputs, outputs), (high, wide, _) = sizes.kernel, sizes.map
  (down, right), frame = sizes.strides, around(sizes)
  block = max(1, min(CACHE // (4 * frame.size), -(-images // threads)))
  places = [i * frame.size + frame.place(j * down, 0) for i in range(block) for j in range(high)]
  lines = [i * wide * outputs for i in range(block * high)]
  parts = [
    (
      {
        word.LINES: 1,
        word.PIXELS: columns * inputs,
        word.TAPS: high,  # of each image
        word.COUNT: wide,
        word.X: frame.place(row, 0),
        word.X_STEP: frame.place(0, right),
        word.OUT: row * columns * inputs * outputs,
        word.OUT_PIXEL: outputs,
        word.ROW: outputs,
      },
      places,
      lines,
    )
    for row in range(rows)
  ]
  line = 4 * (frame.place(down, 0) + wide * outputs)
  words = {
    word.NEXT_W: vectors.lanes,
    word.STEP_W: math.prod(sizes.map),
    word.CHUNK: max(NEAREST // line, -(-128 // wide), 1),
    word.DEPTH: wide,
  }
  return encode(
    sizes.kernel, frame, parts, vectors, threads, images, words, summed=True, block=block
  )


def _pairs(part: dict, channels: int, vectors: Vectors) -> list[dict]:
  """The part with two lines at a time, where a call can compute two; an odd last line is alone."""
  lines, pixels = part[word.LINES], part[word.PIXELS]
  wide = min(channels // vectors.lanes, 2)
  if (2 * pixels, wide) not in SHAPES[vectors.registers] or lines < 2:
    return [part]
  pairs = {
    **part,
    word.LINES: lines // 2,
    word.PIXELS: 2 * pixels,
    word.X_LINE: 2 * part[word.X_LINE],
    word.OUT_LINE: 2 * part[word.OUT_LINE],
    word.X_HALF: part[word.X_LINE],
    word.OUT_HALF: part[word.OUT_LINE],
  }
  if lines % 2 == 0:
    return [pairs]
  last = {
    word.LINES: 1,
    word.X: part.get(word.X, 0) + (lines - 1) * part[word.X_LINE],
    word.OUT: part.get(word.OUT, 0) + (lines - 1) * part[word.OUT_LINE],
  }
  return [pairs, {**part, **last}]


def channels_at_once(channels: int, taps: int, lanes: int) -> int:
  """How many input channels to take at once, so that their weights stay in the nearest cache."""
  blocks = -(-4 * channels * taps * lanes // NEAREST)
  return -(-channels // max(blocks, 1))


def _edges(side: list[list[tuple[int, int]]], counts: list[int], n: int) -> tuple[int, int]:
  """Zeros before the first pixel that any tap meets, and pixels from there to the last one."""
  first = min((d for taps in side for _, d in taps), default=0)
  last = max(
    (count - 1 + d for taps, count in zip(side, counts, strict=True) for _, d in taps), default=0
  )
  before = max(0, -first)
  return before, max(n if not before else 0, before + last + 1)
