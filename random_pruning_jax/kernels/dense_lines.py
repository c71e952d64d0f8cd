"""How a line of pixels falls into the shapes that the loop of `contract` has."""

import functools

from random_pruning_jax.kernels.vectors import SHAPES


@functools.cache
def shapes(pixels: int, wide: int, registers: int) -> tuple[int, ...]:
  """Numbers of the shapes of `wide` vectors that make up a line, the longest first.

  They are as few as can be, and of those the most even: a short one does not hide how long its
  additions take.
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
