"""Whether runs support a claim, contradict it or cannot decide.

Most tests are paired t-tests over seeds, or sign tests where their differences are equal: a sparse
run and the dense run of its seed begin with the same weights. Three kinds of claim, each decided at
5 % by itself, so that of many claims a few may be decided by chance:

- "can": something holds in some cell (network, ratio, sparsity). Supported if it does in one cell
  after Holm's correction for looking at many. Where its opposite holds in every cell, none of which
  is left untested, it does not hold in these runs, which says nothing of others.
- "tends": something holds on average. Differences are averaged over cells for each seed, and one
  test decides.
- "ranks": two numbers of a scheme rise together. Schemes are the sample: seeds, and other networks
  and sparsities, repeat what the same schemes say. A permutation test decides.

A t-test needs seeds: with fewer than two it cannot decide, and with two it hardly ever does; ranks
need four schemes of the same groups. Runs that failed, were measured as no number, or only guess
(`claims.py` says where that matters) are in no test, and counted beside it.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from random_pruning_jax.report.shared_seeds import in_common

LEVEL = 0.05
EQUAL = 1e-6  # below one image of any test set, and above the rounding of float32
SUPPORTED, CONTRADICTED, UNDECIDED = 'supported', 'contradicted', 'cannot decide'
NOT_HERE = 'not in these runs'  # verdict on a "can" claim, which no run can contradict
ORDERS = 9999  # permutations of schemes to draw, if there are more
FEWEST = 4  # schemes that ranks can decide by: three are in the best of their orders once in six

Pair = tuple[float, float]


class Comparison(NamedTuple):
  """What is compared, its differences by seed, and the seeds that a run of theirs costs."""

  what: str
  differences: Mapping[int, float]
  lost: frozenset[int] = frozenset()


class Evidence(NamedTuple):
  """What a comparison says: of n seeds (or schemes), and one-sided p-values either way."""

  what: str
  mean: float | None
  sd: float | None
  n: int
  p_for: float | None  # small: the difference is above the threshold
  p_against: float | None  # small: it is below
  lost: int = 0


class Answer(NamedTuple):
  claim: str
  verdict: str
  why: str
  evidence: list[Evidence]
  unit: str  # of the means
  source: str = ''  # who says so


def evidence(comparison: Comparison, above: float = 0.0) -> Evidence:
  """Paired t-tests that the mean difference lies above (below) a threshold."""
  what, lost = comparison.what, len(comparison.lost)
  values = list(comparison.differences.values())
  n = len(values)
  mean = statistics.fmean(values) if values else None
  if n < 2:
    return Evidence(what, mean, None, n, None, None, lost)
  sd = statistics.stdev(values)
  if sd < EQUAL:
    # Accuracies are multiples of one image, so a few differences may be equal by chance. A t-test
    # would then be certain; a sign test is not.
    sides = [0.5**n if side > EQUAL else 1.0 for side in (mean - above, above - mean)]
  else:
    t = (mean - above) / (sd / n**0.5)
    sides = [float(stats.t.sf(t, n - 1)), float(stats.t.cdf(t, n - 1))]
  return Evidence(what, mean, sd, n, *sides, lost)


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values adjusted for their number (Holm, 1979), in their order."""
  adjusted, largest = [0.0] * len(p_values), 0.0
  for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
    largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
    adjusted[i] = largest
  return adjusted


def can(claim: str, cells: Sequence[Comparison], unit: str, above: float = 0.0) -> Answer:
  """A claim of the kind "can": in some cell, the mean difference lies above the threshold."""
  found = [evidence(cell, above) for cell in cells]
  tested = [each for each in found if each.p_for is not None]
  if not tested:
    return Answer(claim, UNDECIDED, _no_seeds(found) + _left_out(found), found, unit)
  adjusted = holm([each.p_for for each in tested])
  wins = sum(p < LEVEL for p in adjusted)
  losses = sum(each.p_against < LEVEL for each in tested)
  count = f'{len(tested)} cell{"s" * (len(tested) > 1)}'
  if wins:
    verdict = SUPPORTED
    why = f'It holds in {wins} of {count} (p < {LEVEL} after correction for their number).'
  elif losses == len(found):
    verdict, why = NOT_HERE, f'The opposite holds in every one of {count}.'
  else:
    verdict = UNDECIDED
    why = (
      f'It holds clearly in none of {count} (smallest corrected p = {min(adjusted):.2g}). '
      f'{_needed(tested)}'
    )
  return Answer(claim, verdict, why + _untested(found) + _left_out(found), found, unit)


def tends(claim: str, what: str, cells: Sequence[Comparison], unit: str) -> Answer:
  """A claim of the kind "tends": per seed, the mean over the cells that have all of the seeds."""
  found = [evidence(cell) for cell in cells]
  seeds, whole = in_common([cell.differences for cell in cells])
  means = {seed: statistics.fmean(cell[seed] for cell in whole) for seed in seeds}
  some = f'{len(whole)} of {len(cells)}' if len(whole) < len(cells) else f'{len(cells)}'
  mean = evidence(Comparison(f'{what}, mean over {some} cell{"s" * (len(cells) > 1)}', means))
  verdict, why = _one_test(mean) if mean.p_for is not None else (UNDECIDED, _no_seeds(found))
  return Answer(claim, verdict, why + _left_out(found), [mean, *found] if cells else [], unit)


def ranks(claim: str, what: str, groups: Mapping[str, Mapping[str, Pair]]) -> Answer:
  """A claim of the kind "ranks": within groups, the two numbers of a scheme rise together.

  `groups` are {group: {scheme: (x, y)}}. Spearman's rank correlation in each group that has all
  schemes which most groups have, averaged over groups. p-values come from permuting schemes, alike
  in every group; a scheme that some groups lack could not stand for another there.
  """
  schemes, whole = in_common([group for group in groups.values() if len(group) > 2], FEWEST)
  products, found = np.zeros((len(schemes), len(schemes))), []
  for name, group in groups.items():
    if len(schemes) > 2 and group.keys() >= set(schemes):
      pairs = [group[scheme] for scheme in schemes]
      x, y = (_standard_ranks(values) for values in zip(*pairs, strict=True))
      if x.any() and y.any():
        found.append(Evidence(name, float(x @ y), None, len(schemes), None, None))
        products += np.outer(x, y)
  if not found:
    why = 'These runs hold no three of a group to rank.'
    return Answer(claim, UNDECIDED, why, [], 'rank correlation')
  orders = _orders(len(schemes))
  sums = products[orders, np.arange(len(schemes))].sum(axis=1)  # the first is that of the runs
  p_for, p_against = (float(np.mean(s >= s[0] - 1e-9)) for s in (sums, -sums))
  rho = statistics.fmean(each.mean for each in found)
  mean = Evidence(f'{what}, mean over {len(found)}', rho, None, len(schemes), p_for, p_against)
  verdict, why = _one_test(mean)
  if len(schemes) < FEWEST:
    why += ' Three can be in any order by chance; it takes four in the same groups.'
  if left := len(groups) - len(whole):
    why += f' Left out, as they do not rank all {len(schemes)} of these: {left} of {len(groups)}.'
  return Answer(claim, verdict, why, [mean, *found], 'rank correlation')


def _standard_ranks(values: Sequence[float]) -> np.ndarray:
  """Ranks of mean 0 and length 1, or all 0 where the values are equal."""
  ranks = stats.rankdata(values)
  ranks -= ranks.mean()
  return ranks / (np.linalg.norm(ranks) or 1)


def _orders(n: int) -> np.ndarray:
  """Permutations [M, n] of n, the identity first: all of them, or `ORDERS` random ones besides."""
  if math.factorial(n) <= ORDERS:
    return np.array(list(itertools.permutations(range(n))))
  drawn = np.random.default_rng(0).permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)
  return np.concatenate([np.arange(n)[None], drawn])


def _one_test(found: Evidence) -> tuple[str, str]:
  """Verdict and reason where one test decides."""
  if found.p_for < LEVEL:
    return SUPPORTED, f'p = {found.p_for:.2g}, one-sided.'
  if found.p_against < LEVEL:
    return CONTRADICTED, f'The opposite, p = {found.p_against:.2g}.'
  return UNDECIDED, f'p = {found.p_for:.2g}, one-sided.'


def _needed(tested: Sequence[Evidence]) -> str:
  """What the correction for many cells asks of a single one, which few seeds can hardly reach."""
  n = max(each.n for each in tested)
  sds = float(stats.t.isf(LEVEL / len(tested), n - 1)) / n**0.5
  times = f'{sds:.2g}' if sds < 10 else f'{sds:,.0f}'
  return (
    f'A mean over {n} seeds is clear here once it lies {times} of its standard deviations above '
    'what is asked.'
  )


def _no_seeds(found: Sequence[Evidence]) -> str:
  if not any(each.n for each in found):
    lost = any(each.lost for each in found)
    return 'No comparison is left.' if lost else 'These runs hold no such comparison.'
  return 'A test over seeds needs at least two; there is one, or one in common.'


def _untested(found: Sequence[Evidence]) -> str:
  counts = {seeds: sum(each.n == n for each in found) for n, seeds in enumerate(('no', 'one'))}
  said = [f'{count} with {seeds} seed to compare' for seeds, count in counts.items() if count]
  return f' Cells in no test: {", ".join(said)}.' if said else ''


def _left_out(found: Sequence[Evidence]) -> str:
  lost = sum(each.lost for each in found)
  cells = sum(each.lost > 0 for each in found)
  if not lost:
    return ''
  seeds = 'a seed is' if lost == 1 else f'{lost} seeds are'
  of = 'a cell' if cells == 1 else f'{cells} cells'
  return f' In {of}, {seeds} left out: a run of theirs failed, gave no number or only guesses.'
