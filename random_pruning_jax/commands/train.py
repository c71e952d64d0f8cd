"""`random-pruning train --config=FILE[:ARGUMENT] --workdir=DIR [--config.FIELD=VALUE ...]`."""

import argparse
from collections.abc import Sequence

from random_pruning_jax import kernels
from random_pruning_jax.commands import arguments
from random_pruning_jax.system import preemption


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    'The same command goes on where an interrupted run stopped. Exit status 75: it was asked to '
    'stop (SIGTERM) and has saved.'
  )
  arguments.add_config(parser)
  parser.add_argument(
    '--workdir', default='', help='where the run lives (default: runs/ and the name of the config)'
  )
  parser.add_argument(
    '--profile', default='', metavar='START:STOP', help='trace these steps into WORKDIR/profile'
  )
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  with preemption.raise_when_asked():
    config = arguments.load_config(args.config, rest)
    kernels.begin()
    arguments.start_jax(args)
    import jax

    from random_pruning_jax import run as run_lib
    from random_pruning_jax import tables
    from random_pruning_jax.training import profiling

    profile = profiling.span(args.profile) if args.profile else None
    workdir = args.workdir or arguments.default_workdir(args.config)
    with preemption.raise_when_asked():  # again: JAX's service takes the signal even on one host
      rows = run_lib.run(config, workdir, profile=profile)
  if jax.process_index() == 0:
    print(tables.side_by_side(rows))
  return 0
