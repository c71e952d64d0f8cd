"""Which seeds and cells go together: a mean over cells is of the same cells in each seed."""

import collections
from collections.abc import Mapping, Sequence

_MANY = 1000  # choices of seeds; of ten seeds there are never more than 1023

Cell = Mapping[int, float]  # {seed: number}


def in_common(cells: Sequence[Cell]) -> tuple[list[int], list[Cell]]:
  """The seeds, and the cells that have all of them, such that seeds times cells is largest.

  So a seed that failed in one of many cells costs that cell, and one that few cells have is left
  out. At least two seeds, if possible, since one decides nothing. Where there are more than
  `_MANY` choices, the largest of many.
  """
  count = collections.Counter(seed for cell in cells for seed in cell)
  ranked = sorted(count, key=lambda seed: (-count[seed], seed))
  frequent = [ranked[:size] for size in range(1, len(ranked) + 1)]
  choices = []
  for seeds in [*frequent, *_shared(cells)]:
    choices.append((seeds, [cell for cell in cells if cell.keys() >= set(seeds)]))

  def worth(choice):
    seeds, whole = choice
    return bool(whole) and len(seeds) > 1, len(seeds) * len(whole)

  return max(choices, key=worth, default=([], []))


def _shared(cells: Sequence[Cell]) -> list[list[int]]:
  """Seeds of each cell, and those that several cells share; the best choice is one of them."""
  found: set[frozenset[int]] = set()
  for own in dict.fromkeys(frozenset(cell) for cell in cells):
    found |= {own & other for other in found} if len(found) < _MANY else set()
    found.add(own)
  return sorted(map(sorted, found - {frozenset()}))
