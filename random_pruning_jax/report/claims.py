"""The paper's claims as statements about runs, which `verdicts.py` decides."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from random_pruning_jax.report import measured
from random_pruning_jax.report.runs import Run, grouped
from random_pruning_jax.report.style import look, network_title
from random_pruning_jax.report.tables import one_a_seed, paired
from random_pruning_jax.report.verdicts import Answer, Comparison, can, ranks, tends

MARGIN = 0.005  # accuracies that differ by less than half a point match
GUESS = 0.01  # accuracies no further than this above chance are luck
FIGURE = "the figure of CIFAR-10 by depth in the authors' repository"
HIGH = 0.8  # sparsities from here on are high
# How networks grow: their size, and what those that are compared share. Parameters rise with width
# in networks of one name; a width may be 0, the family's own.
SIZES = {
  'depth': (lambda run: run.depth, lambda run: run.width),
  'width': (lambda run: run.row.get('parameters'), lambda run: run.model),
}


class Cell(NamedTuple):
  """Random masks of one network, scheme and sparsity, with the dense runs beside them.

  Runs that failed are among them, so that what is left of a cell is never taken for all of it.
  """

  sparse: list[Run]
  dense: list[Run]

  @property
  def name(self) -> str:
    return self._named(f', {look(self.sparse[0].scheme).label}')

  @property
  def group(self) -> str:
    """What cells of all schemes have in common."""
    return self._named()

  def _named(self, scheme: str = '') -> str:
    run = self.sparse[0]
    setting = f' ({run.setting})' if run.setting else ''
    network = network_title(run.network)
    return f'{run.dataset}: {network}{scheme}, sparsity {run.sparsity:g}{setting}'

  def compared(self, metric: str, sign: float = 1.0) -> Comparison:
    """Sparse minus dense, or dense minus sparse for a sign of -1."""
    return _compared(self.name, self.sparse, self.dense, metric, sign)


def _compared(
  what: str, ours: Sequence[Run], theirs: Sequence[Run], metric: str, sign: float = 1.0
) -> Comparison:
  found = paired(ours, theirs, metric)
  first, second = one_a_seed(ours), one_a_seed(theirs)

  def costs(seed: int) -> bool:
    useless = _uninformative if seed in found else _lost
    return useless(first[seed], metric) or useless(second[seed], metric)

  lost = frozenset(filter(costs, first.keys() & second.keys()))
  return Comparison(what, {seed: sign * found[seed] for seed in found.keys() - lost}, lost)


def _lost(run: Run, metric: str) -> bool:
  """Whether the run failed, or was measured and the metric, or a part of it, is no number."""
  found = run.row.get('metrics', {})
  parts = measured.parts(metric, [found])
  return run.state == 'failed' or any(x in found and x not in run.numbers for x in parts)


def _uninformative(run: Run, metric: str) -> bool:
  """Whether the run only guesses: it is calibrated, and no attack costs it anything.

  Its accuracy says something, but not that of a dense one, which any network would match.
  """
  return _guesses(run) and (run.dense or metric != 'accuracy')


def _guesses(run: Run) -> bool:
  """Whether accuracy is no more than a point above that of one class for all images."""
  head = run.row.get('layers', {}).get('head/kernel')  # which rows of older versions lack
  accuracy = run.metric('accuracy')
  return bool(head) and accuracy is not None and accuracy <= 1 / head['shape'][-1] + GUESS


def cells_of(runs: Sequence[Run]) -> list[Cell]:
  begun = [run for run in runs if run.state != 'missing']
  dense = grouped((run for run in begun if run.dense), lambda run: run.cell[:3])
  sparse = grouped((run for run in begun if run.random), lambda run: run.cell)
  return [Cell(members, dense.get(key[:3], [])) for key, members in sparse.items()]


def matches(claim: str, cells: Sequence[Cell]) -> Answer:
  """Whether accuracy is no more than the margin below the dense network's somewhere."""
  return can(claim, [cell.compared('accuracy') for cell in cells], 'accuracy', -MARGIN)


def better(
  claim: str, cells: Sequence[Cell], metric: str = 'accuracy', sign: float = 1.0
) -> Answer:
  """Whether a metric is better than the dense network's somewhere; sign -1: less is better."""
  return can(claim, [cell.compared(metric, sign) for cell in cells], metric)


def size_matters(claim: str, cells: Sequence[Cell], by: str) -> Answer:
  """Whether the smallest networks, by 'depth' or 'width', have a larger gap than the largest."""
  size, common = SIZES[by]
  alike: dict[tuple, dict[float, Cell]] = {}
  apart: dict[tuple, dict[str, Run]] = {}  # {setting: a run} of cells that are alike but for it
  found = []
  for cell in cells:
    run = cell.sparse[0]
    if run.sparsity < HIGH:
      continue
    key = (run.dataset, run.scheme, run.sparsity, run.family, common(run))
    apart.setdefault(key, {})[run.setting] = run
    key += (run.setting,)
    sizes = {size(each) for each in (*cell.sparse, *cell.dense)} - {None}
    if sizes:
      alike.setdefault(key, {})[min(sizes)] = cell
    elif lost := cell.compared('accuracy').lost:  # no run is left to tell its size
      found.append(Comparison(cell.name, {}, lost))
  for members in alike.values():
    if len(members) > 1:
      found.append(_gap_closed(members[min(members)], members[max(members)]))
  what = f'gap of the smallest minus gap of the largest network, sparsity {HIGH:g} and more'
  answer = tends(claim, what, found, 'accuracy')
  several = [run for runs in apart.values() if len(runs) > 1 for run in runs.values()]
  if found or not several:
    return answer
  fields = ', '.join(sorted({name for run in several for name, _ in run.settings}))
  return answer._replace(why=f'{answer.why} They differ in {fields}, and so are not compared.')


def _gap_closed(small: Cell, large: Cell) -> Comparison:
  """The gap of the smaller network minus that of the larger, seed by seed."""
  ours, theirs = (cell.compared('accuracy', -1.0) for cell in (small, large))
  both = ours.differences.keys() & theirs.differences.keys()
  differences = {seed: ours.differences[seed] - theirs.differences[seed] for seed in both}
  what = f'{small.name}, against {network_title(large.sparse[0].network)}'
  return Comparison(what, differences, ours.lost | theirs.lost)


def ratio_matters(claim: str, cells: Sequence[Cell], scheme: str) -> Answer:
  """Whether a ratio beats uniform at high sparsity, in the same networks."""
  found: dict[tuple, dict[str, Cell]] = {}
  for cell in cells:
    run = cell.sparse[0]
    if run.sparsity >= HIGH:
      key = (run.dataset, run.setting, run.network, run.sparsity)
      found.setdefault(key, {})[run.scheme] = cell
  pairs = [c for c in found.values() if scheme in c and 'uniform' in c]
  compared = [
    _compared(c[scheme].name, c[scheme].sparse, c['uniform'].sparse, 'accuracy') for c in pairs
  ]
  what = f'{look(scheme).label} minus Uniform, sparsity {HIGH:g} and more'
  return tends(claim, what, compared, 'accuracy')


def flow_matters(claim: str, cells: Sequence[Cell]) -> Answer:
  """Whether sparse networks with a larger gradient at initialisation lose less accuracy.

  Spearman's rank correlation between two means over seeds: the norm of the masked gradient before
  the first step, and accuracy minus the dense network's. Only the ratios of one network and
  sparsity are ranked together, because network and sparsity move both numbers.
  """
  points: dict[str, dict[str, tuple[float, float]]] = {}
  for cell in cells:
    lost = cell.compared('accuracy').differences
    norms = {}
    for seed, run in one_a_seed(cell.sparse).items():
      flow = run.row.get('gradient') or {}
      first = dict(zip(flow.get('step', ()), flow.get('gradient_norm', ()), strict=False)).get(0)
      if seed in lost and first is not None:
        norms[seed] = first
    if norms:
      point = statistics.fmean(norms.values()), statistics.fmean(lost[seed] for seed in norms)
      points.setdefault(cell.group, {})[cell.sparse[0].scheme] = point
  what = (
    'rank correlation over ratios of gradient norm at initialisation and accuracy minus dense, of '
    'each network and sparsity'
  )
  return ranks(claim, what, points)


def answers(runs: Sequence[Run]) -> list[Answer]:
  """The claims of the paper, and of what is known of it, in the light of these runs."""
  cells = cells_of(runs)
  wide = [
    cell
    for cell in cells
    if cell.sparse[0].dataset == 'imagenet2012' and cell.sparse[0].model == 'wrn50_2'
  ]
  points = f'{100 * MARGIN:g} points'
  found = {
    'the abstract': [
      matches(
        f'A randomly pruned network, trained from scratch, can match its dense equivalent (within '
        f'{points} of test accuracy).',
        cells,
      ),
      size_matters('The deeper the network, the less random pruning costs.', cells, 'depth'),
      size_matters('The wider the network, the less random pruning costs.', cells, 'width'),
      better('A randomly pruned Wide ResNet-50 can outperform a dense one on ImageNet.', wide),
      better(
        'Random pruning can detect out-of-distribution images better than dense.', cells, 'auroc'
      ),
      better('Random pruning can be better calibrated than dense (ECE).', cells, 'ece', -1.0),
      better('Random pruning can have a better likelihood than dense (NLL).', cells, 'nll', -1.0),
      better('Random pruning can be more robust than dense to FGSM.', cells, 'fgsm'),
    ],
    f'the abstract, of ratios in general; of these two, {FIGURE}': [
      ratio_matters('Layer-wise ratios matter: ERK is better than Uniform.', cells, 'erk')
    ],
    FIGURE: [
      ratio_matters('The SNIP ratio, with random masks, is better than Uniform.', cells, 'snip')
    ],
    "the authors' README": [
      matches(
        f'On ImageNet a randomly pruned Wide ResNet-50 can match a dense one (within {points}).',
        wide,
      )
    ],
    "somebody else's summary of the paper, unchecked": [
      flow_matters(
        'Gradient flow explains the gap to dense: the larger the gradient at initialisation, the '
        'smaller the gap.',
        cells,
      )
    ],
  }
  return [answer._replace(source=who) for who, said in found.items() for answer in said]
