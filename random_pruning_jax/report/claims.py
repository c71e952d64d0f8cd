"""The paper's claims as statements that runs support, contradict or cannot decide.

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
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from random_pruning_jax.report.runs import Run
from random_pruning_jax.report.sizes import paired
from random_pruning_jax.report.style import look, network_title

LEVEL = 0.05
MARGIN = 0.005  # accuracies that differ by less than half a point match
HIGH = 0.8  # sparsities from here on are high
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
  if sd == 0:
    # Accuracies are multiples of one image, so that a few differences may be equal by chance. A
    # t-test would have no doubt; a sign test has.
    same = 0.5**n
    return Evidence(what, mean, sd, n, same if mean > above else 1.0, same if mean < above else 1.0)
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
  """A claim of the kind "tends": per seed, the mean over cells.

  The seeds are those of half the cells or more; cells that lack one of them are left out.
  """
  cells = [cell for cell in cells if cell]
  count = collections.Counter(seed for cell in cells for seed in cell)
  seeds = sorted(seed for seed, times in count.items() if 2 * times >= len(cells))
  whole = [cell for cell in cells if cell.keys() >= set(seeds)] if seeds else []
  means = {seed: statistics.fmean(cell[seed] for cell in whole) for seed in seeds if whole}
  some = f'{len(whole)} of {len(cells)}' if len(whole) < len(cells) else f'{len(cells)}'
  each = evidence(f'{what}, mean over {some} cells', means)
  if each.p_for is None:
    why = _no_seeds([each]) if whole or not cells else 'Its cells have no seeds in common.'
    return Answer(claim, UNDECIDED, why, [each] * bool(cells), unit)
  if each.p_for < LEVEL:
    return Answer(claim, SUPPORTED, f'p = {each.p_for:.2g}, one-sided.', [each], unit)
  if each.p_against < LEVEL:
    return Answer(claim, CONTRADICTED, f'The opposite, p = {each.p_against:.2g}.', [each], unit)
  return Answer(claim, UNDECIDED, f'p = {each.p_for:.2g}, one-sided.', [each], unit)


def _no_seeds(found: Sequence[Evidence]) -> str:
  if not any(each.n for each in found):
    return 'These runs hold no such comparison.'
  return 'A test over seeds needs at least two; there is one.'


class Cell(NamedTuple):
  """Random masks of one network, scheme and sparsity, with the dense runs beside them."""

  sparse: list[Run]
  dense: list[Run]

  @property
  def name(self) -> str:
    run = self.sparse[0]
    title = f'{network_title(run.network)}, {look(run.scheme).label}, sparsity {run.sparsity:g}'
    return f'{run.dataset}: {title}' + (f' ({run.setting})' if run.setting else '')

  def differences(self, metric: str, sign: float = 1.0) -> Differences:
    found = paired(self.sparse, self.dense, metric)
    return {seed: sign * difference for seed, difference in found.items()}


def cells_of(runs: Sequence[Run]) -> list[Cell]:
  sparse: dict[tuple, list[Run]] = {}
  dense: dict[tuple, list[Run]] = {}
  for run in runs:
    if run.state == 'done' and run.dense:
      dense.setdefault((run.dataset, run.setting, run.network), []).append(run)
    elif run.state == 'done' and run.random:
      key = (run.dataset, run.setting, run.network, run.scheme, run.sparsity)
      sparse.setdefault(key, []).append(run)
  return [Cell(members, dense.get(key[:3], [])) for key, members in sparse.items()]


def matches(claim: str, cells: Sequence[Cell]) -> Answer:
  """Whether accuracy is no more than the margin below the dense network's somewhere."""
  above = [evidence(c.name, c.differences('accuracy'), -MARGIN) for c in cells]
  return can(claim, above, 'accuracy')


def better(claim: str, cells: Sequence[Cell], metric: str, sign: float = 1.0) -> Answer:
  """Whether a metric is better than the dense network's somewhere; sign -1: less is better."""
  return can(claim, [evidence(c.name, c.differences(metric, sign)) for c in cells], metric)


def size_matters(claim: str, cells: Sequence[Cell], size: Callable[[Run], float | None]) -> Answer:
  """Whether the gap of the smallest network of a kind exceeds that of the largest."""
  alike: dict[tuple, dict[float, Cell]] = {}
  for cell in cells:
    run = cell.sparse[0]
    other = run.config.get('model.width', 0) if size is by_depth else run.config.get('model.name')
    key = (run.dataset, run.setting, run.scheme, run.sparsity, run.family, other)
    if run.sparsity >= HIGH - 1e-9 and size(run) is not None:
      alike.setdefault(key, {})[size(run)] = cell
  found = []
  for members in alike.values():
    small, large = members[min(members)], members[max(members)]
    if small is not large:
      ours, theirs = small.differences('accuracy', -1.0), large.differences('accuracy', -1.0)
      found.append({seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()})
  what = f'gap of the smallest minus gap of the largest network, sparsity {HIGH:g} and more'
  return tends(claim, what, found, 'accuracy')


def by_depth(run: Run) -> float | None:
  return run.depth


def by_width(run: Run) -> float | None:
  """Parameters, which rise with width in networks of one name: width 0 is each family's own."""
  return run.row.get('parameters')


def ratio_matters(claim: str, cells: Sequence[Cell], scheme: str) -> Answer:
  """Whether a ratio beats uniform at high sparsity, in the same networks."""
  found: dict[tuple, dict[str, Cell]] = {}
  for cell in cells:
    run = cell.sparse[0]
    if run.sparsity >= HIGH - 1e-9:
      key = (run.dataset, run.setting, run.network, run.sparsity)
      found.setdefault(key, {})[run.scheme] = cell
  pairs = [c for c in found.values() if scheme in c and 'uniform' in c]
  differences = [paired(c[scheme].sparse, c['uniform'].sparse, 'accuracy') for c in pairs]
  what = f'{look(scheme).label} minus Uniform, sparsity {HIGH:g} and more'
  return tends(claim, what, differences, 'accuracy')


def flow_matters(claim: str, cells: Sequence[Cell]) -> Answer:
  """Whether sparse networks with a larger gradient at initialisation lose less accuracy.

  For each seed, Spearman's rank correlation over the cells of that seed, three at least, between
  the norm of the masked gradient before the first step and accuracy minus the dense network's.
  """
  points: dict[int, list[tuple[float, float]]] = {}
  for cell in cells:
    lost = cell.differences('accuracy')
    for run in cell.sparse:
      flow = run.row.get('gradient') or {}
      if run.seed in lost and flow.get('gradient_norm') and flow['step'][0] == 0:
        points.setdefault(run.seed, []).append((flow['gradient_norm'][0], lost[run.seed]))
  found = {
    seed: float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    for seed, pairs in points.items()
    if all(len(set(values)) > 2 for values in zip(*pairs, strict=True))
  }
  what = 'rank correlation of gradient norm at initialisation and accuracy minus dense'
  return tends(claim, what, [found] if found else [], 'rank correlation')


def answers(runs: Sequence[Run]) -> list[Answer]:
  """The paper's claims (abstract of arXiv 2202.02643) in the light of these runs."""
  cells = cells_of(runs)
  wide = [
    cell
    for cell in cells
    if cell.sparse[0].dataset.partition(':')[0] == 'imagenet2012'
    and cell.sparse[0].config.get('model.name') == 'wrn50_2'
  ]
  points = f'{100 * MARGIN:g} points'
  return [
    matches(
      f'A randomly pruned network, trained from scratch, can match its dense equivalent (within '
      f'{points} of test accuracy).',
      cells,
    ),
    size_matters('The deeper the network, the less random pruning costs.', cells, by_depth),
    size_matters('The wider the network, the less random pruning costs.', cells, by_width),
    ratio_matters('Layer-wise ratios matter: ERK is better than Uniform.', cells, 'erk'),
    ratio_matters('The SNIP ratio, with random masks, is better than Uniform.', cells, 'snip'),
    matches(
      f'On ImageNet a randomly pruned Wide ResNet-50 can match a dense one (within {points}).', wide
    ),
    better(
      'Random pruning can detect out-of-distribution images better than dense.', cells, 'auroc'
    ),
    better('Random pruning can be better calibrated than dense (ECE).', cells, 'ece', -1.0),
    better('Random pruning can have a better likelihood than dense (NLL).', cells, 'nll', -1.0),
    better('Random pruning can be more robust than dense to FGSM.', cells, 'fgsm'),
    flow_matters(
      'Gradient flow explains the gap to dense: the larger the gradient at initialisation, the '
      'smaller the gap.',
      cells,
    ),
  ]
