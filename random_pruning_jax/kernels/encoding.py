"""A plan, as the words that `dense_jobs` reads."""

import functools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from random_pruning_jax.kernels import dense_words as word
from random_pruning_jax.kernels.dense_frames import Frame
from random_pruning_jax.kernels.vectors import SHAPES, Vectors


class Plan(NamedTuple):
  words: np.ndarray  # int32
  shape: tuple[int, ...]  # of the result
  scratch: int  # floats


class Epilogue(NamedTuple):
  """What is done to the sums of a convolution, in this order."""

  bias: bool = False  # of each channel, is added
  residual: bool = False  # an array like the result, is added
  relu: bool = False  # max(., 0) of that


PLAIN = Epilogue()


def encode(
  shape: Sequence[int],
  frame: Frame,
  parts: Sequence[tuple[dict[int, int], list[int], list[int]]],
  vectors: Vectors,
  threads: int,
  images: int,
  *,
  next_w: int,
  depth: int,
  summed: bool = False,
  block: int = 1,
  chunk: int = 1,
  epilogue: Epilogue = PLAIN,
  more: Mapping[int, int] = MappingProxyType({}),
  scratch: int = 0,
) -> Plan:
  """The head, the parts, and their tables, with equal tables stored once.

  Each part is its words, and the tables of its taps in x and in w. With `summed` the result is a
  sum over the images. `more` overrides words of the head, and `scratch` adds floats to the memory
  of each thread.
  """
  tables: dict[tuple, int] = {}
  total = word.HEAD + word.PART * len(parts)
  words, body = [], []
  for part, *lists in parts:
    row = np.zeros(word.PART, np.int32)
    row[list(part)] = list(part.values())
    for wide in (2, 1):
      made_of = shapes(part[word.PIXELS], wide, vectors.registers)
      lists.append([len(made_of), *made_of])
    where = (word.PLACES, word.ROWS, word.BY_TWO, word.BY_ONE)
    for place, table in zip(where, lists, strict=True):
      if tuple(table) not in tables:
        tables[tuple(table)] = total
        total += len(table)
        body.append(table)
      row[place] = tables[tuple(table)]
    words.append(row)
  blocks = -(-images // block)
  shares = 1 if summed else max(1, min(threads // blocks, shape[-1] // vectors.lanes))
  height, width, channels = frame.image
  head = {
    word.THREADS: threads,
    word.IMAGES: images,
    word.HEIGHT: height,
    word.WIDTH: width,
    word.INPUTS: channels,
    word.TOP: frame.top,
    word.LEFT: frame.left,
    word.HIGH: frame.high,
    word.WIDE: frame.wide,
    word.FRAMED: frame.framed,
    word.PLANES: frame.planes,
    word.PLANE: frame.plane,
    word.FILLED: frame.filled,
    word.EACH: frame.each,
    word.BLOCK: block,
    word.SHARES: shares,
    word.OUTPUTS: shape[-1],
    word.NEXT_W: next_w,
    word.STEP_OUT: math.prod(shape if summed else shape[1:]),
    word.SUMMED: summed,
    word.CHUNK: chunk,
    word.DEPTH: depth,
    word.ZEROS: total,
    word.BIAS: epilogue.bias,
    word.RESIDUAL: epilogue.residual,
    word.RELU: epilogue.relu,
    word.PARTS: len(parts),
    **more,
  }
  body.append([0] * 2 * vectors.lanes)
  front = np.zeros(word.HEAD, np.int32)
  front[list(head)] = list(head.values())
  floats = frame.size * block * frame.framed + head[word.STEP_OUT] * summed + scratch
  front[word.OWN] = floats
  return Plan(
    np.concatenate([front, *words, *body]).astype(np.int32), tuple(shape), max(1, threads * floats)
  )


@functools.cache
def shapes(pixels: int, wide: int, registers: int) -> tuple[int, ...]:
  """Indices of the SHAPES of `wide` vectors that make up a line of pixels, the longest first.

  They are as few as possible, and then as even as possible: a short shape does not hide the latency
  of its additions.
  """
  numbers = {size: n for n, (size, vectors) in enumerate(SHAPES[registers]) if vectors == wide}
  # For every length: how many shapes, the sum of their squares, and the last of them.
  best = [(0, 0, 0)]
  for length in range(1, pixels + 1):
    best.append(
      min(
        (best[length - size][0] + 1, best[length - size][1] + size * size, size)
        for size in numbers
        if size <= length
      )
    )
  found = []
  while pixels:
    found.append(best[pixels][2])
    pixels -= found[-1]
  return tuple(numbers[size] for size in sorted(found, reverse=True))
