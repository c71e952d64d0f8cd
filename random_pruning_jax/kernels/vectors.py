"""The processor's vectors, and how much one call of the loop of `contract` computes with them."""

from typing import NamedTuple


class Vectors(NamedTuple):
  """The vectors of a processor."""

  lanes: int  # floats of a vector
  registers: int  # how many hold a vector each


def _shapes(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
  return (*((pixels, 1) for pixels in one), *((pixels, 2) for pixels in two))


# For each number of registers, how many (pixels, vectors of channels) one call can compute: the
# sums fit into the registers beside the weights. Long shapes have enough of them to hide the
# latency of an addition; short ones fill up a line of pixels.
SHAPES = {
  32: _shapes((16, 14, 12, 9, 8, 7, 4, 2, 1), (14, 12, 8, 7, 4, 2, 1)),
  16: _shapes((12, 9, 8, 7, 6, 4, 2, 1), (6, 4, 3, 2, 1)),
}
