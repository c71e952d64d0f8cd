"""Whether runs support a claim, contradict it or cannot decide.

Every test is a paired t-test over seeds, or a sign test where their differences are equal: a sparse
run and the dense run of its seed begin with the same weights. Two kinds of claim, two rules, both
at 5 %:

- "can": something holds in some cell (network, ratio, sparsity). Supported if it does in one cell
  after Holm's correction for looking at many; contradicted if its opposite does in every cell.
- "tends": something holds on average. Differences are averaged over cells for each seed, and one
  test decides.

A test needs seeds: with fewer than two it cannot decide, and with two it hardly ever does.
"""

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

LEVEL = 0.05
EQUAL = 1e-6  # below one image of any test set, and above the rounding of float32
SUPPORTED, CONTRADICTED, UNDECIDED = 'supported', 'contradicted', 'cannot decide'

Differences = Mapping[int, float]  # {seed: difference}


class Evidence(NamedTuple):
  """One comparison: what, its differences over seeds, and one-sided p-values either way."""

  what: str
  mean: float | None
  sd: float | None
  n: int
  p_for: float | None  # small: the difference is above the threshold
  p_against: float | None  # small: it is below


class Answer(NamedTuple):
  claim: str
  verdict: str
  why: str
  evidence: list[Evidence]
  unit: str  # of the means
  source: str = ''  # who says so


def evidence(what: str, differences: Differences, above: float = 0.0) -> Evidence:
  """Paired t-tests that the mean difference lies above (below) a threshold."""
  values = list(differences.values())
  n = len(values)
  if not n:
    return Evidence(what, None, None, 0, None, None)
  mean = statistics.fmean(values)
  if n < 2:
    return Evidence(what, mean, None, n, None, None)
  sd = statistics.stdev(values)
  if sd < EQUAL:
    # Accuracies are multiples of one image, so that a few differences may be equal by chance. A
    # t-test would have no doubt; a sign test has.
    same = 0.5**n
    p_for, p_against = (same if side > EQUAL else 1.0 for side in (mean - above, above - mean))
    return Evidence(what, mean, sd, n, p_for, p_against)
  t = (mean - above) / (sd / n**0.5)
  return Evidence(what, mean, sd, n, float(stats.t.sf(t, n - 1)), float(stats.t.cdf(t, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values adjusted for their number (Holm, 1979), in their order."""
  adjusted, largest = [0.0] * len(p_values), 0.0
  for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
    largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
    adjusted[i] = largest
  return adjusted


def can(claim: str, found: Sequence[Evidence], unit: str) -> Answer:
  """A claim of the kind "can"."""
  tested = [each for each in found if each.p_for is not None]
  if not tested:
    return Answer(claim, UNDECIDED, _no_seeds(found), list(found), unit)
  adjusted = holm([each.p_for for each in tested])
  wins = [each for each, p in zip(tested, adjusted, strict=True) if p < LEVEL]
  losses = sum(each.p_against < LEVEL for each in tested)
  count = f'{len(tested)} cell{"s" * (len(tested) > 1)}'
  if wins:
    why = f'It holds in {len(wins)} of {count} (p < {LEVEL} after correction for their number).'
    return Answer(claim, SUPPORTED, why, list(found), unit)
  if losses == len(tested):
    return Answer(
      claim, CONTRADICTED, f'The opposite holds in every one of {count}.', list(found), unit
    )
  least = min(adjusted)
  why = f'It holds clearly in none of {count} (smallest corrected p = {least:.2g}).'
  return Answer(claim, UNDECIDED, why, list(found), unit)


def tends(claim: str, what: str, cells: Sequence[Differences], unit: str) -> Answer:
  """A claim of the kind "tends": per seed, the mean over the cells that have all of the seeds."""
  cells = [cell for cell in cells if cell]
  seeds, whole = _in_common(cells)
  means = {seed: statistics.fmean(cell[seed] for cell in whole) for seed in seeds}
  some = f'{len(whole)} of {len(cells)}' if len(whole) < len(cells) else f'{len(cells)}'
  each = evidence(f'{what}, mean over {some} cells', means)
  if each.p_for is None:
    return Answer(claim, UNDECIDED, _no_seeds([each] if cells else []), [each] * bool(cells), unit)
  if each.p_for < LEVEL:
    return Answer(claim, SUPPORTED, f'p = {each.p_for:.2g}, one-sided.', [each], unit)
  if each.p_against < LEVEL:
    return Answer(claim, CONTRADICTED, f'The opposite, p = {each.p_against:.2g}.', [each], unit)
  return Answer(claim, UNDECIDED, f'p = {each.p_for:.2g}, one-sided.', [each], unit)


def _in_common(cells: Sequence[Differences]) -> tuple[list[int], list[Differences]]:
  """The seeds, and the cells that have all of them, such that seeds times cells is largest.

  So a seed that failed in one of many cells costs that cell, and one that few cells have is left
  out. Two seeds at least, where there are such, since one decides nothing.
  """
  count = collections.Counter(seed for cell in cells for seed in cell)
  ranked = sorted(count, key=lambda seed: (-count[seed], seed))
  choices = []
  for size in range(1, len(ranked) + 1):
    whole = [cell for cell in cells if cell.keys() >= set(ranked[:size])]
    choices.append((bool(whole) and size > 1, size * len(whole), ranked[:size], whole))
  return max(choices, key=lambda choice: choice[:2], default=(False, 0, [], []))[2:]


def _no_seeds(found: Sequence[Evidence]) -> str:
  if not any(each.n for each in found):
    return 'These runs hold no such comparison.'
  return 'A test over seeds needs at least two; there is one, or one in common.'
