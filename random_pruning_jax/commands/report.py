"""`random-pruning report DIR...`: tables, figures and a page of finished runs."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from random_pruning_jax.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('runs', nargs='+', metavar='DIR', help='runs, sweeps, or directories of them')
  parser.add_argument(
    '--out', default='', help='where files go (default: report/ in the first DIR)'
  )
  parser.add_argument('--html', default='', help='the page (default: report.html in --out)')
  parser.add_argument(
    '--title', default='', help='of the page (default: the name of the first DIR)'
  )
  parser.add_argument('--rows', default='scheme', metavar='FIELD', help='of tables (scheme)')
  parser.add_argument('--columns', default='sparsity', metavar='FIELD', help='(sparsity)')
  parser.add_argument('--metric', default='accuracy', metavar='NAME', help='(accuracy)')
  parser.epilog = (
    'FIELD is network, scheme, sparsity, density, depth, dataset, seed, setting, or a field of the '
    'config, as optimizer.lr. NAME is a number of a row, as nll or ood/mnist/msp/auroc, or auroc, '
    'fgsm, validation_accuracy, train_seconds, kept or macs.'
  )
  formats = parser.add_mutually_exclusive_group()
  for name in ('csv', 'markdown', 'latex'):
    formats.add_argument(
      f'--{name}',
      dest='format',
      action='store_const',
      const=name,
      help=f'print the tables as {name} and write no files, unless --out or --html says where',
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  from random_pruning_jax.report import formats, reading, tables

  runs = reading.read(args.runs)
  pivots = tables.pivot(runs, args.rows, args.columns, args.metric)
  print(formats.FORMATS[args.format or 'text'](pivots))
  for each in runs:
    if each.state == 'failed':
      say(f'failed: {each.place}: {(each.error.splitlines() or [""])[0]}')
  if missing := tables.missing(runs):
    say(f'missing: {missing} planned runs are not there yet')
  if args.format and not args.out and not args.html:
    return 0
  return _write(args, runs, pivots)


def _write(args: argparse.Namespace, runs: Sequence, pivots: Sequence) -> int:
  try:
    from random_pruning_jax.report.write import write
  except ModuleNotFoundError as error:
    raise ValueError(
      f'figures need {error.name}: pip install -e ".[report]"; '
      '--csv, --markdown and --latex do without.'
    ) from error
  first = pathlib.Path(args.runs[0])
  home = first if first.is_dir() else first.parent
  out = pathlib.Path(args.out or home / 'report')
  page = pathlib.Path(args.html or out / 'report.html')
  files = write(runs, pivots, out, page, args.title or f'Random pruning: {first.resolve().name}')
  print(f'\n{files[0]} and {len(files) - 1} files in {out}', file=sys.stderr)
  return 0
