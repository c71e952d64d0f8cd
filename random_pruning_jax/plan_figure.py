"""The figure of a plan: density of each layer against its depth, a line a scheme."""

import os
from collections.abc import Sequence

from random_pruning_jax.plan import Plan


def draw(found: Sequence[Plan], path: str | os.PathLike) -> None:
  """Writes a .png or .svg. Raises ValueError for another ending, and without matplotlib."""
  if os.path.splitext(path)[1] not in ('.png', '.svg'):
    raise ValueError(f'--plot must name a .png or .svg file, got {path}.')
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ValueError(
      "--plot needs matplotlib: pip install 'random-pruning-jax[report]'."
    ) from error
  figure = Figure(figsize=(9, 4.5), layout='constrained')
  axes = figure.subplots()
  markers = 'osv^Dp*XP<>h'
  depth = range(1, len(found[0].layers) + 1)
  for i, one in enumerate(found):
    label = f'{one.ratio}, density {one.target_density:g}'
    values = [layer.density for layer in one.layers]
    size = max(1.5, 5 - len(depth) / 40)
    axes.plot(depth, values, marker=markers[i % len(markers)], markersize=size, lw=1.2, label=label)
  smallest = min(layer.density for one in found for layer in one.layers)
  if 0 < smallest < 0.1:
    axes.set_yscale('log')
    axes.set_ylim(smallest / 1.5, 1.3)
  else:
    axes.set_ylim(-0.02, 1.05)
  axes.set_xlabel('layer, in the order in which an image meets them')
  axes.set_ylabel('density (fraction of weights kept)')
  axes.set_title(found[0].model)
  axes.grid(alpha=0.3)
  figure.legend(loc='outside right upper', frameon=False, fontsize='small')
  figure.savefig(path, dpi=150)
