"""`random-pruning plan --config=FILE[:ARGUMENT]`: what pruning does to each layer and in all."""

import argparse
import importlib
import os
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = 'Nothing is trained; data is read only where the ratio is a score of data.'
  arguments.add_config(parser)
  parser.add_argument(
    '--ratios', default='', metavar='A,B', help="several side by side (default: the config's)"
  )
  parser.add_argument('--densities', default='', metavar='0.1,0.2', help='likewise')
  parser.add_argument('--format', default='table', choices=('table', 'json', 'csv'))
  parser.add_argument('--plot', default='', metavar='FILE', help='density by depth, .png or .svg')
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  if args.plot:
    check_plot(args.plot)
  config = arguments.load_config(args.config, rest)
  arguments.start_jax(args)
  from random_pruning_jax import plan
  from random_pruning_jax.progress import say

  ratios = args.ratios.split(',') if args.ratios else [config.pruning.ratio]
  densities = _numbers(args.densities) if args.densities else [config.pruning.density]
  found, impossible = plan.plans(config, ratios, densities)
  for name, why in impossible.items():
    say(f'not possible: {name}: {why}')
  print(plan.show(found, args.format))
  if args.plot:
    draw(found, args.plot)
    say(f'wrote {args.plot}')
  return 0


def _numbers(text: str) -> list[float]:
  try:
    return [float(part) for part in text.split(',')]
  except ValueError:
    raise ValueError(f'--densities must be numbers like 0.1,0.2, got {text!r}.') from None


def check_plot(path: str) -> None:
  """Raises ValueError where `draw` could not write: another ending, no folder, no matplotlib."""
  if os.path.splitext(path)[1] not in ('.png', '.svg'):
    raise ValueError(f'--plot must name a .png or .svg file, got {path}.')
  if not os.path.isdir(os.path.dirname(path) or '.'):
    raise ValueError(f'--plot must name a file in a folder that is there, got {path}.')
  try:
    importlib.import_module('matplotlib.figure')
  except ImportError as error:
    raise ValueError('--plot needs matplotlib: pip install -e ".[report]".') from error


def draw(found: Sequence, path: str) -> None:
  """The figure of plans, density by depth, as .png or .svg."""
  from matplotlib.figure import Figure

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
