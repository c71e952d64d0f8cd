"""A plan, as the words that `dense_jobs` reads."""

import functools
import math
from collections.abc import Mapping, Sequence
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
Part = tuple[dict[int, int], list[int], list[int]]  # words, and tables of its taps in x and in w


def encode(
  shape: Sequence[int],
  frame: Frame,
  parts: Sequence[Part],
  vectors: Vectors,
  threads: int,
  images: int,
  words: Mapping[int, int],
  *,
  summed: bool = False,
  block: int = 1,
  epilogue: Epilogue = PLAIN,
  scratch: int = 0,
) -> Plan:
  """The head, the parts, and their tables.

  `words` of the head are those that the way of computing decides: NEXT_W, DEPTH, and others that
  are not as usual. With `summed` the result is a sum over the images. `scratch` is the floats of
  a thread's tiles.
  """
  rows, tables = _with_tables(parts, vectors.registers)
  blocks = -(-images // block)
  shares = 1 if summed else max(1, min(threads // blocks, shape[-1] // vectors.lanes))
  step_out = math.prod(shape if summed else shape[1:])
  sums = frame.size * frame.framed * block
  tiles = sums + step_out * summed
  own = tiles + scratch
  head = {
    **_of_frame(frame),
    word.THREADS: threads,
    word.IMAGES: images,
    word.BLOCK: block,
    word.SHARES: shares,
    word.OUTPUTS: shape[-1],
    word.STEP_OUT: step_out,
    word.SUMMED: summed,
    word.CHUNK: 1,
    word.ZEROS: word.HEAD + word.PART * len(parts) + sum(map(len, tables)),
    word.BIAS: epilogue.bias,
    word.RESIDUAL: epilogue.residual,
    word.RELU: epilogue.relu,
    word.OWN: own,
    word.SUMS: sums,
    word.TILES: tiles,
    word.PARTS: len(parts),
    **words,
  }
  zeros = [0] * 2 * vectors.lanes
  whole = np.concatenate([_row(head, word.HEAD), *rows, *tables, zeros]).astype(np.int32)
  return Plan(whole, tuple(shape), max(1, threads * own))


def _of_frame(frame: Frame) -> dict[int, int]:
  """Words of the head: the image in its frame."""
  height, width, channels = frame.image
  return {
    word.HEIGHT: height,
    word.WIDTH: width,
    word.INPUTS: channels,
    word.TOP: frame.top,
    word.LEFT: frame.left,
    word.HIGH: frame.high,
    word.WIDE: frame.wide,
    word.FRAME: frame.size * frame.framed,
    word.PLANES: frame.planes,
    word.PLANE: frame.plane,
    word.FILLED: frame.filled,
    word.EACH: frame.each,
  }


def _with_tables(
  parts: Sequence[Part], registers: int
) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
  """The words of each part, and all tables in their order, equal ones once."""
  rows, places = [], {}
  total = word.HEAD + word.PART * len(parts)
  for part, in_x, in_w in parts:
    made_of = [shapes(part[word.PIXELS], wide, registers) for wide in (2, 1)]
    counted = [(len(each), *each) for each in made_of]
    row = _row(part, word.PART)
    where = (word.PLACES, word.ROWS, word.BY_TWO, word.BY_ONE)
    for place, table in zip(where, map(tuple, (in_x, in_w, *counted)), strict=True):
      if table not in places:
        places[table] = total
        total += len(table)
      row[place] = places[table]
    rows.append(row)
  return rows, list(places)


def _row(words: Mapping[int, int], length: int) -> np.ndarray:
  """int32 [length], 0 where there is no word."""
  row = np.zeros(length, np.int32)
  row[list(words)] = list(words.values())
  return row


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
