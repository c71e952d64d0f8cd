"""`random-pruning plan --config=FILE[:ARGUMENT]`: what pruning does to each layer and in all."""

import argparse
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = 'Nothing is trained; data is read where the ratio is a score of data alone.'
  arguments.add_config(parser)
  parser.add_argument(
    '--ratios', default='', metavar='A,B', help="several side by side (default: the config's)"
  )
  parser.add_argument('--densities', default='', metavar='0.1,0.2', help='likewise')
  parser.add_argument('--format', default='table', choices=('table', 'json', 'csv'))
  parser.add_argument('--plot', default='', metavar='FILE', help='density by depth, .png or .svg')
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  config = arguments.load_config(args.config, rest)
  arguments.start_jax(args)
  from random_pruning_jax import plan, plan_figure
  from random_pruning_jax.progress import say

  ratios = args.ratios.split(',') if args.ratios else [config.pruning.ratio]
  densities = _numbers(args.densities) if args.densities else [config.pruning.density]
  found, impossible = plan.plans(config, ratios, densities)
  for name, why in impossible.items():
    say(f'not possible: {name}: {why}')
  print(plan.show(found, args.format))
  if args.plot:
    plan_figure.draw(found, args.plot)
    say(f'wrote {args.plot}')
  return 0


def _numbers(text: str) -> list[float]:
  try:
    return [float(part) for part in text.split(',')]
  except ValueError:
    raise ValueError(f'--densities must be numbers like 0.1,0.2, got {text!r}.') from None
