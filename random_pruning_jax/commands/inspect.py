"""`random-pruning inspect FILE`: what an exported file holds, and what it would cost to run."""

import argparse
import json
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'file',
    metavar='FILE',
    help="of any format that export writes, or PyTorch's weights as safetensors",
  )
  parser.add_argument(
    '--trained-on',
    default='',
    help='data set of a PyTorch checkpoint that does not say, as cifar10',
  )
  parser.add_argument('--json', action='store_true', help='one JSON object')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  from random_pruning_jax.files import describe

  found = describe.describe(args.file, args.trained_on)
  print(json.dumps(found) if args.json else describe.show(found))
  return 0
