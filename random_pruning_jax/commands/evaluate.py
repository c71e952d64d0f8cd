"""`random-pruning evaluate --workdir=DIR`: measures a checkpoint and prints every number."""

import argparse
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--workdir', required=True, help='of a run; its dense twin is measured too')
  parser.add_argument(
    '--checkpoint', default='', help="'best', 'latest' or a step (default: as the config says)"
  )
  parser.add_argument('--data_dir', default='', help='where the data lies, if it has moved')
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  arguments.start_jax(args)
  import pathlib

  import jax

  from random_pruning_jax import run as run_lib
  from random_pruning_jax import tables

  twin = pathlib.Path(args.workdir) / run_lib.TWIN
  places = [args.workdir, *([twin] if twin.exists() else [])]
  rows = [
    run_lib.evaluate_run(place, checkpoint=args.checkpoint, data_dir=args.data_dir)
    for place in places
  ]
  if jax.process_index() == 0:
    print(tables.side_by_side(rows))
  return 0
