"""How many seeds each point, band and line of a figure is of."""

from collections.abc import Callable, Sequence

from random_pruning_jax.report import measured
from random_pruning_jax.report.curves import BEYOND
from random_pruning_jax.report.details import highest, with_layers
from random_pruning_jax.report.runs import Run, grouped
from random_pruning_jax.report.tables import cell_of, paired


def accuracies(runs: Sequence[Run]) -> list[int]:
  return [len(cell_of(members, 'accuracy').values) for members in _cells(runs)]


def gaps(runs: Sequence[Run]) -> list[int]:
  """Pairs of a sparse run and the dense run of its seed."""
  dense = grouped((run for run in runs if run.dense), lambda run: run.network)
  sparse = _cells([run for run in runs if not run.dense])
  return [len(paired(each, dense.get(each[0].network, []), 'accuracy')) for each in sparse]


def beyond(runs: Sequence[Run]) -> list[int]:
  every, found = [run.numbers for run in runs], []
  for metric in BEYOND:
    parts = measured.parts(metric, every)
    found += [len(cell_of(members, metric, parts).values) for members in _cells(runs)]
  return found


def layers(runs: Sequence[Run]) -> list[int]:
  drawn = with_layers(runs).values()
  return [len(members) for shown in drawn for members in _cells(shown)]


def at_highest(has: Callable[[Run], object]) -> Callable[[Sequence[Run]], list[int]]:
  """Runs at the highest sparsity of each scheme for which `has` says there is something to draw."""
  return lambda runs: [sum(bool(has(run)) for run in each) for each in _cells(highest(runs))]


def _cells(runs: Sequence[Run]) -> list[list[Run]]:
  return list(grouped(runs, lambda run: run.cell).values())
