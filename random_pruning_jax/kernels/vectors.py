"""What the processor computes with, and how much of it one call of the loop of `contract` takes."""

from typing import NamedTuple


class Vectors(NamedTuple):
  """What the processor computes with."""

  lanes: int  # floats of one
  registers: int  # that hold them


def _shapes(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
  return (*((pixels, 1) for pixels in one), *((pixels, 2) for pixels in two))


# How many pixels and vectors of channels one call computes: what fits into so many registers beside
# the weights, and is enough of them to hide how long an addition takes.
SHAPES = {
  32: _shapes((16, 14, 12, 9, 8, 7, 4, 2, 1), (14, 12, 8, 7, 4, 2, 1)),
  16: _shapes((12, 9, 8, 7, 6, 4, 2, 1), (6, 4, 3, 2, 1)),
}
