"""Figures with sparsity along the bottom: accuracy and what lies beyond it."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from random_pruning_jax.report import measured, paper, style
from random_pruning_jax.report.runs import DENSE, Run, grouped
from random_pruning_jax.report.tables import Cell, cell_of, scale

BEYOND = {
  'ece': 'ECE (lower is better)',
  'nll': 'NLL (lower is better)',
  'auroc': 'OoD AUROC (higher is better)',
  'fgsm': 'FGSM accuracy, % (higher is better)',
}
ACCURACY = 'test accuracy, %'


def schemes(runs: Sequence[Run]) -> list[str]:
  """Those that prune, in the order of the table of looks."""
  found = {run.scheme for run in runs if not run.dense}
  return sorted(found, key=lambda s: (list(style.LOOKS).index(s) if s in style.LOOKS else 99, s))


def cells(
  runs: Sequence[Run], metric: str, parts: Sequence[str] | None = None
) -> dict[float, Cell]:
  """{sparsity: cell} of runs that differ in sparsity and seed alone, where there are numbers."""
  found = sorted(grouped(runs, lambda run: run.sparsity).items())
  every = {sparsity: cell_of(members, metric, parts) for sparsity, members in found}
  return {sparsity: cell for sparsity, cell in every.items() if cell.values}


def by_network(runs: Sequence[Run]) -> Figure | None:
  """A panel for each network, a line for each scheme, a band for the dense network."""
  networks = grouped(runs, lambda run: run.network)
  figure, axes = style.panels(len(networks))
  drawn = False
  for ax, (network, members) in zip(axes, networks.items(), strict=True):
    drawn |= _panel(ax, members, 'accuracy')
    if _paper(ax, members):
      look = {'color': style.INK, 'mfc': 'none', 'marker': 'o', 'ls': ':', 'lw': 1.0}
      ax.add_line(Line2D([], [], label=style.PAPER, **look))
    ax.set_title(style.network_title(network))
    _sparsity_axis(ax)
  axes[0].set_ylabel(ACCURACY)
  style.legend_below(figure, axes)
  return figure if drawn else None


def by_scheme(runs: Sequence[Run]) -> Figure | None:
  """A panel for each scheme, a line for each network from light (small) to dark, dense dashed."""
  networks, found = grouped(runs, lambda run: run.network), schemes(runs)
  if not found:
    return None
  figure, axes = style.panels(len(found), columns=4)
  for ax, scheme in zip(axes, found, strict=True):
    for (network, members), colour, marker in style.ordered(networks.items()):
      line = cells([run for run in members if run.scheme == scheme], 'accuracy')
      _line(ax, line, 'accuracy', colour, marker, style.network_title(network))
      dense = cell_of([run for run in members if run.dense], 'accuracy')
      if line and dense.values:
        _across(ax, dense, 'accuracy', colour, ls='--', lw=0.9)
    ax.set_title(style.look(scheme).label)
    _sparsity_axis(ax)
  axes[0].set_ylabel(ACCURACY)
  if any(run.dense for run in runs):
    axes[-1].add_line(Line2D([], [], color=style.FAINT, ls='--', lw=0.9, label='dense'))
  style.legend_below(figure, axes)
  return figure


def beyond_accuracy(runs: Sequence[Run]) -> Figure | None:
  """Calibration, foreign images and attacks: a row for each metric, a panel for each network."""
  metrics = [m for m in BEYOND if any(run.metric(m) is not None for run in runs)]
  networks = grouped(runs, lambda run: run.network)
  if not metrics:
    return None
  width, height = style.PANEL
  size = (max(4.2, 0.85 * width * len(networks)), 0.8 * height * len(metrics) + 0.4)
  figure = Figure(figsize=size, layout='constrained')
  grid = figure.subplots(len(metrics), len(networks), sharex=True, sharey='row', squeeze=False)
  every = [run.numbers for run in runs]
  for metric, axes in zip(metrics, grid, strict=True):
    parts, on = measured.parts(metric, every), measured.on(metric, every)
    for ax, (network, members) in zip(axes, networks.items(), strict=True):
      _panel(ax, members, metric, parts)
      if metric == metrics[0]:
        ax.set_title(style.network_title(network))
    label, _, better = BEYOND[metric].partition(' (')
    more = textwrap.shorten(on, 40, placeholder=' ...')
    axes[0].set_ylabel('\n'.join(filter(None, [label, f'({better}', more])))
  for ax in grid[-1]:
    _sparsity_axis(ax)
  style.legend_below(figure, list(grid.ravel()))
  return figure


def _panel(ax: Axes, runs: Sequence[Run], metric: str, parts: Sequence[str] | None = None) -> bool:
  """Lines of one network; whether there was anything to draw."""
  dense = cell_of([run for run in runs if run.dense], metric, parts)
  if dense.values:
    _across(ax, dense, metric, style.look(DENSE).colour, lw=1.2, label='dense (mean ± sd)')
  drawn = False
  for scheme in schemes(runs):
    line = cells([run for run in runs if run.scheme == scheme], metric, parts)
    look = style.look(scheme)
    _line(ax, line, metric, look.colour, look.marker, look.label)
    drawn |= bool(line)
  return drawn


def _line(
  ax: Axes, line: dict[float, Cell], metric: str, colour: str, marker: str, label: str
) -> None:
  if not line:
    return
  percent, _ = scale(metric)
  means = [percent * cell.mean for cell in line.values()]
  sds = [percent * (cell.sd or 0.0) for cell in line.values()]
  ax.errorbar(
    list(line), means, sds, color=colour, marker=marker, label=label, elinewidth=0.9, zorder=3
  )


def _across(ax: Axes, cell: Cell, metric: str, colour: Any, **line: Any) -> None:
  """A line at the mean, whatever the sparsity, in a band of one standard deviation."""
  percent, _ = scale(metric)
  mean, sd = percent * cell.mean, percent * (cell.sd or 0.0)
  ax.axhline(mean, color=colour, zorder=1, **line)
  ax.axhspan(mean - sd, mean + sd, color=colour, alpha=0.22, lw=0, zorder=0)


def _paper(ax: Axes, runs: Sequence[Run]) -> bool:
  """Draws the paper's readings of the cells that these runs have; whether there are any."""
  drawn = False
  for scheme in [DENSE, *schemes(runs)]:
    ours = [run for run in runs if run.scheme == scheme and run.metric('accuracy') is not None]
    read = dict(sorted((run.sparsity, found) for run in ours if (found := paper.reading(run))))
    drawn |= bool(read)
    look = style.look(scheme)
    if read and scheme == DENSE:  # a line across, as ours is
      ax.axhline(100 * read[0.0].accuracy, color=look.colour, ls=':', lw=1.0, zorder=2)
    elif read:
      ax.errorbar(
        list(read),
        [100 * reading.accuracy for reading in read.values()],
        [100 * reading.uncertainty for reading in read.values()],
        color=look.colour,
        marker=look.marker,
        mfc='none',
        ls=':',
        lw=1.0,
        elinewidth=0.7,
        zorder=2,
      )
  return drawn


def _sparsity_axis(ax: Axes) -> None:
  ax.set_xlabel('sparsity')
  ax.set_xlim(None, max(1.0, ax.get_xlim()[1]))  # wide enough for a marker at 0.999
  low = ax.get_xlim()[0]
  ax.xaxis.set_major_locator(MultipleLocator(0.2 if low < 0.4 else 0.1 if low < 0.8 else 0.05))
