"""`random-pruning compare RUN_A RUN_B`: what two runs differ in."""

import argparse
import pathlib
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('a', metavar='RUN_A', help='workdir of a run')
  parser.add_argument('b', metavar='RUN_B', help='workdir of another')
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  arguments.start_jax(args)
  from random_pruning_jax import compare

  print(compare.compare(pathlib.Path(args.a), pathlib.Path(args.b)))
  return 0
