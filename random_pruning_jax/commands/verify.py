"""`random-pruning verify --workdir=DIR`: whether a trained checkpoint is sparse as planned."""

import argparse
import pathlib
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    'Exit status 1 where something does not hold; 2 where the checkpoint is unreadable.'
  )
  parser.add_argument('--workdir', required=True, help='of a run; its dense twin is checked too')
  arguments.add_checkpoint(parser)
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  arguments.start_jax(args)
  from random_pruning_jax import verify
  from random_pruning_jax.progress import say
  from random_pruning_jax.run import TWIN

  twin = pathlib.Path(args.workdir) / TWIN
  places = [args.workdir, *([twin] if twin.exists() else [])]
  failed = False
  for place in places:
    verdict = verify.verify(place, args.checkpoint, data_dir=args.data_dir)
    print(_table(verdict), end='\n\n' if place != places[-1] else '\n', flush=True)
    for failure in verdict.failures:
      say(f'FAILED: {verdict.workdir}: {failure}')
    failed |= bool(verdict.failures)
  return int(failed)


def _table(verdict) -> str:
  from random_pruning_jax import tables

  head = ['layer', 'parameters', 'planned', 'kept', 'outside not 0', 'effective', 'dead units']
  lines = [
    [
      layer.name.removesuffix('/kernel'),
      f'{layer.parameters:,}',
      '-' if layer.planned is None else f'{layer.planned:,}',
      f'{layer.kept:,}',
      f'{layer.outside:,}',
      f'{layer.effective:,}',
      f'{layer.dead_units:,} / {layer.units:,}',
    ]
    for layer in verdict.layers
  ]
  state = f'{len(verdict.failures)} failed' if verdict.failures else 'all holds'
  return (
    f'{verdict.workdir}, step {verdict.step}: {state}\n\n{tables.text([head, *lines])}\n\n'
    f'density {verdict.density:.4f}, effective density {verdict.effective_density:.4f}, '
    f'masks {verdict.checksum}'
  )
