"""Figures with the size of the network along the bottom."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from random_pruning_jax.report import style
from random_pruning_jax.report.curves import ACCURACY, schemes
from random_pruning_jax.report.runs import DENSE, Run, grouped
from random_pruning_jax.report.tables import Cell, cell_of, paired

AXES = {
  'kept': 'weights kept',
  'macs': 'multiply-adds an image, kept weights only',
}


def against(runs: Sequence[Run], size: str) -> Figure | None:
  """Accuracy against weights or multiply-adds: a panel a scheme, a line a network."""
  found, networks = schemes(runs), grouped(runs, lambda run: run.network)
  if not found or all(run.row.get(size) is None for run in runs):
    return None
  figure, axes = style.panels(len(found), columns=4)
  for ax, scheme in zip(axes, found, strict=True):
    for (network, members), colour, marker in style.ordered(networks.items()):
      shown = [run for run in members if run.scheme in (scheme, DENSE)]
      points = _points(shown, size)
      if not points or all(run.dense for run in shown):
        continue
      x, y, sd = zip(*points, strict=True)
      label = style.network_title(network)
      ax.errorbar(x, y, sd, color=colour, marker=marker, label=label, elinewidth=0.9)
      if any(run.dense for run in shown):  # the largest: ringed
        ax.plot(x[-1], y[-1], 'o', ms=9, mfc='none', mec=colour, mew=0.9)
    _log_axis(ax)
    ax.set_title(style.look(scheme).label)
    ax.set_xlabel(AXES[size])
  axes[0].set_ylabel(ACCURACY)
  style.legend_below(figure, axes)
  return figure


def gap(runs: Sequence[Run]) -> Figure | None:
  """Dense minus sparse accuracy, seed by seed, against the size of the dense network."""
  found, networks = schemes(runs), grouped(runs, lambda run: run.network)
  sparsities = sorted({run.sparsity for run in runs if not run.dense})
  gaps = {
    (scheme, sparsity): _gaps(networks, scheme, sparsity)
    for scheme in found
    for sparsity in sparsities
  }
  if len(networks) < 2 or not any(len(points) > 1 for points in gaps.values()):
    return None
  figure, axes = style.panels(len(found), columns=4)
  for ax, scheme in zip(axes, found, strict=True):
    for sparsity, colour, marker in style.ordered(sparsities):
      points = gaps[scheme, sparsity]
      if points:
        x, y, sd = zip(*points, strict=True)
        label = f'sparsity {sparsity:g}'
        ax.errorbar(x, y, sd, color=colour, marker=marker, label=label, elinewidth=0.9)
    ax.axhline(0, color=style.look(DENSE).colour, lw=1.2)
    _log_axis(ax)
    ax.set_title(style.look(scheme).label)
    ax.set_xlabel('parameters of the dense network')
  axes[0].set_ylabel('accuracy lost, points')
  style.legend_below(figure, axes)
  return figure


def _log_axis(ax: Axes) -> None:
  """Sizes as 50k, 2M: powers alone would leave most panels with a single number."""
  ax.set_xscale('log')
  low, high = ax.get_xlim()
  subs = (1, 2, 5) if high < 30 * low else (1,)
  if high < 5 * low:  # else a single tick may be in view, and matplotlib adds too many
    subs = (1, 1.5, 2, 3, 5, 7)
  ax.xaxis.set_major_locator(LogLocator(subs=subs))
  ax.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
  ax.xaxis.set_major_formatter(EngFormatter(sep=''))
  ax.xaxis.set_minor_formatter(NullFormatter())


def _points(runs: Sequence[Run], size: str) -> list[tuple[float, float, float]]:
  """(size, mean accuracy in percent, sd) for each sparsity, the smallest first."""
  points = []
  for members in grouped(runs, lambda run: run.sparsity).values():
    cell, at = cell_of(members, 'accuracy'), _mean_size(members, size)
    if cell.values and at:
      points.append((at, 100 * cell.mean, 100 * (cell.sd or 0.0)))
  return sorted(points)


def _mean_size(runs: Sequence[Run], size: str) -> float | None:
  found = [run.row[size] for run in runs if run.row.get(size)]
  return sum(found) / len(found) if found else None


def _gaps(
  networks: Mapping[str, Sequence[Run]], scheme: str, sparsity: float
) -> list[tuple[float, float, float]]:
  """(parameters, mean gap in points, sd) for each network, the smallest first."""
  points = []
  for members in networks.values():
    sparse = [run for run in members if run.scheme == scheme and run.sparsity == sparsity]
    differences = paired(sparse, [run for run in members if run.dense], 'accuracy')
    size = _mean_size(sparse, 'parameters')
    if differences and size:
      cell = Cell(tuple(-100 * d for d in differences.values()))
      points.append((size, cell.mean, cell.sd or 0.0))
  return sorted(points)
