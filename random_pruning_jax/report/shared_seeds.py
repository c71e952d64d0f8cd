"""What goes together: a mean over cells is of the same cells in each seed."""

import collections
from collections.abc import Collection, Sequence
from typing import TypeVar

_MANY = 1000  # choices of seeds; of ten seeds there are never more than 1023

Seed = TypeVar('Seed', int, str)  # or the name of a scheme


def in_common(
  cells: Sequence[Collection[Seed]], least: int = 2
) -> tuple[list[Seed], list[Collection[Seed]]]:
  """The seeds, and the cells that have all of them, such that seeds times cells is largest.

  Cells are {seed: number}. A seed that failed in one of many cells costs that cell, and one that
  few cells have is left out. At least `least` seeds, or as many of these as possible, since fewer
  decide nothing. Where there are more than `_MANY` choices, the largest of many.
  """
  count = collections.Counter(seed for cell in cells for seed in cell)
  ranked = sorted(count, key=lambda seed: (-count[seed], seed))
  frequent = [ranked[:size] for size in range(1, len(ranked) + 1)]
  choices = []
  for seeds in [*frequent, *_shared(cells)]:
    choices.append((seeds, [cell for cell in cells if set(seeds) <= set(cell)]))

  def worth(choice):
    seeds, whole = choice
    return min(len(seeds), least) * bool(whole), len(seeds) * len(whole)

  return max(choices, key=worth, default=([], []))


def _shared(cells: Sequence[Collection[Seed]]) -> list[list[Seed]]:
  """Seeds of each cell, and those that several cells share; the best choice is one of them."""
  found: set[frozenset[Seed]] = set()
  for own in dict.fromkeys(frozenset(cell) for cell in cells):
    found |= {own & other for other in found} if len(found) < _MANY else set()
    found.add(own)
  return sorted(map(sorted, found - {frozenset()}))
