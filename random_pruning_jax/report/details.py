"""Figures of what happens inside: layers, confidence, gradients, learning."""

import collections
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from random_pruning_jax import runlog
from random_pruning_jax.report import style
from random_pruning_jax.report.curves import schemes
from random_pruning_jax.report.runs import DENSE, Run, grouped

Series = tuple[np.ndarray, np.ndarray]  # x, y


def layers_of(run: Run) -> dict | None:
  """Layers of a pruned network, where the row holds them."""
  return None if run.dense else run.row.get('layers')


def bins_of(run: Run) -> dict | None:
  """Bins of reliability."""
  return run.row.get('reliability')


def flow_of(run: Run) -> Series | None:
  flow = run.row.get('gradient')
  if not flow or 'gradient_norm' not in flow:
    return None
  return np.array(flow['step'], float), np.array(flow['gradient_norm'], float)


def log_of(run: Run) -> Series | None:
  found = [x for x in runlog.read_log(pathlib.Path(run.place)) if x['kind'] == 'validation']
  if not found:
    return None
  x = np.array([line['step'] for line in found], float)
  return x, 100 * np.array([line['accuracy'] for line in found], float)


def highest(runs: Sequence[Run]) -> list[Run]:
  """Runs at the highest sparsity of each network and scheme."""
  groups = grouped(runs, lambda run: (run.network, run.scheme)).values()
  ends = [(alike, max(run.sparsity for run in alike)) for alike in groups]
  return [run for alike, end in ends for run in alike if run.sparsity == end]


def with_layers(runs: Sequence[Run]) -> dict[tuple[str, float], list[Run]]:
  """Pruned runs by network and sparsity: of each at most three, the first and the last too."""
  networks = grouped(filter(layers_of, runs), lambda run: run.network)
  names = list(networks)
  places = {}
  for network in names if len(names) <= 3 else (names[0], names[-1]):
    found = grouped(networks[network], lambda run: run.sparsity)
    every = sorted(found)
    for sparsity in sorted({every[i] for i in (0, len(every) // 2, -1)}):
      places[network, sparsity] = found[sparsity]
  return places


def layers(runs: Sequence[Run]) -> Figure | None:
  """Density of each layer as trained: a panel a network and sparsity, a line a scheme."""
  places = with_layers(runs)
  if not places:
    return None
  columns = max(collections.Counter(network for network, _ in places).values())
  figure, axes = style.panels(len(places), columns=columns)
  for ax, ((network, sparsity), members) in zip(axes, places.items(), strict=True):
    for scheme in schemes(members):
      alike = [run for run in members if run.scheme == scheme]
      densities = np.mean(
        [[layer['density'] for layer in run.row['layers'].values()] for run in alike], axis=0
      )
      look = style.look(scheme)
      x = np.arange(1, len(densities) + 1)
      ax.plot(x, densities, color=look.colour, lw=1.1, label=look.label)
      if len(x) <= 40:
        ax.plot(x, densities, look.marker, color=look.colour, ms=3)
    ax.set_title(f'{style.network_title(network)}, sparsity {sparsity:g}')
    ax.set_ylim(-0.03, 1.05)
    ax.set_xlabel('layer, from the image on')
  for ax in axes[::columns]:
    ax.set_ylabel('density')
  style.legend_below(figure, axes)
  return figure


def reliability(runs: Sequence[Run]) -> Figure | None:
  """Accuracy of images of like confidence, all seeds together."""

  def series(members: Sequence[Run]) -> Series | None:
    bins = [each for each in map(bins_of, members) if each]
    if not bins:
      return None
    count = np.array([each['count'] for each in bins], float)
    total = count.sum(0)
    held = total > 0
    weight = count[:, held] / total[held]
    means = [
      (np.array([each[name] for each in bins], float)[:, held] * weight).sum(0)
      for name in ('confidence', 'accuracy')
    ]
    return means[0], means[1]

  def axis(ax: Axes) -> None:
    ax.plot([0, 1], [0, 1], color=style.FAINT, lw=0.9, ls='--')
    ax.set_xlabel('confidence')
    ax.set_aspect('equal')

  return _by_scheme_at_highest_sparsity(runs, series, axis, 'accuracy', marked=True)


def gradient_norm(runs: Sequence[Run]) -> Figure | None:
  """Norm of the masked gradient along training, where the runs logged it; mean over seeds."""

  def axis(ax: Axes) -> None:
    ax.set_yscale('log')
    ax.set_xlabel('step')

  return _by_scheme_at_highest_sparsity(runs, _mean_of(flow_of), axis, 'gradient norm')


def learning(runs: Sequence[Run]) -> Figure | None:
  """Validation accuracy along training; mean over seeds."""

  def axis(ax: Axes) -> None:
    ax.set_xlabel('step')

  return _by_scheme_at_highest_sparsity(runs, _mean_of(log_of), axis, 'validation accuracy, %')


def _mean_of(of: Callable[[Run], Series | None]) -> Callable[[Sequence[Run]], Series | None]:
  """Mean over runs, at the steps that all of them have; a line needs two."""

  def mean(members: Sequence[Run]) -> Series | None:
    curves = [dict(zip(*series, strict=True)) for series in map(of, members) if series]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if len(steps) < 2:
      return None
    return np.array(steps), np.mean([[curve[step] for step in steps] for curve in curves], axis=0)

  return mean


def _by_scheme_at_highest_sparsity(
  runs: Sequence[Run],
  series: Callable[[Sequence[Run]], Series | None],
  axis: Callable[[Axes], None],
  label: str,
  marked: bool = False,
) -> Figure | None:
  """A panel for each network: its dense runs, and each scheme at its highest sparsity."""
  done = [run for run in runs if run.state == 'done']
  lines: dict[str, list[tuple[str, str, Series]]] = {}
  for network, members in grouped(highest(done), lambda run: run.network).items():
    for scheme in [DENSE, *schemes(members)]:
      alike = [run for run in members if run.scheme == scheme]
      found = series(alike)
      if found is not None and len(found[0]):
        name = style.look(scheme).label
        text = name if scheme == DENSE else f'{name}, sparsity {alike[0].sparsity:g}'
        lines.setdefault(network, []).append((scheme, text, found))
  if not lines:
    return None
  figure, axes = style.panels(len(lines))
  for ax, (network, members) in zip(axes, lines.items(), strict=True):
    for scheme, text, (x, y) in members:
      look = style.look(scheme)
      marker = look.marker if marked or len(x) <= 20 else None
      ax.plot(x, y, color=look.colour, marker=marker, ms=3, lw=1.2, label=text)
    axis(ax)
    ax.set_title(style.network_title(network))
  axes[0].set_ylabel(label)
  style.legend_below(figure, axes)
  return figure
