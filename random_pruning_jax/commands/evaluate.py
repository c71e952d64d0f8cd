"""`random-pruning evaluate --workdir=DIR [--suite=ood,adversarial]`: measures checkpoints.

Each run's dense twin is measured too, and one table shows every number of all of them.
"""

import argparse
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('runs', nargs='*', metavar='WORKDIR', help='of a run')
  parser.add_argument(
    '--workdir',
    action='append',
    default=[],
    help='of a run, or several with commas; may be given again',
  )
  parser.add_argument(
    '--suite',
    action='append',
    default=[],
    help='quick, calibration, ood, adversarial, corruptions, shifts, gradients, or several with '
    'commas (default: evaluation.suites of the config)',
  )
  arguments.add_checkpoint(parser)
  parser.add_argument_group(
    'overrides', '--config.evaluation.FIELD=VALUE changes how it is measured'
  )
  parser.set_defaults(takes_config=True)
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  named = [place for text in [*args.runs, *args.workdir] for place in text.split(',') if place]
  if not named:
    raise ValueError('evaluate must be given the workdir of a run, as --workdir=runs/digits.')
  suite = tuple(name for text in args.suite for name in text.split(',') if name)
  arguments.start_jax(args)
  import jax

  from random_pruning_jax import measure, tables, together
  from random_pruning_jax.report import measured

  places = _distinct(place for name in named for place in _with_twin(pathlib.Path(name)))
  configs = [measure.config_of(place) for place in places]
  with together.failing_together():
    changes = [_changes(config, rest) for config in configs]
    for config, change in zip(configs, changes, strict=True):
      _check_sets(dict(change), args.data_dir or config.data_dir)
  for place, config in zip(places, configs, strict=True):  # before hours of work
    _check(place, args.checkpoint or config.evaluation.checkpoint, config.checkpoint.keep)
  rows = [
    measure.evaluate_run(
      place, suite=suite, checkpoint=args.checkpoint, data_dir=args.data_dir, changes=change
    )
    for place, change in zip(places, changes, strict=True)
  ]
  if jax.process_index() == 0:
    unlike = measured.unlike(rows)
    print(tables.side_by_side(rows, whole=True, unlike=unlike))
    if unlike:
      print(measured.unlike_note(unlike))
  return 0


def _with_twin(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The run, and its dense twin if that was trained to its end."""
  from random_pruning_jax import results, together
  from random_pruning_jax.run import TWIN

  row = together.by_first(lambda: results.row_of(workdir / TWIN))
  return [workdir, *([workdir / TWIN] if row and results.is_final(row) else [])]


def _distinct(places: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  """The directories in order, each once, however it is written."""
  found: dict[pathlib.Path, pathlib.Path] = {}
  for place in places:
    found.setdefault(place.resolve(), place)
  return list(found.values())


def _check(workdir: pathlib.Path, checkpoint: str, keep: int) -> None:
  """ValueError where a run has no such checkpoint, OSError where no row can be added to it."""
  from random_pruning_jax import checkpoints, results, together

  together.by_first(lambda: results.check_writable(workdir), OSError)
  with checkpoints.Manager(workdir, keep) as saved:
    checkpoints.find(saved, checkpoint)


def _check_sets(changes: dict[str, Any], data_dir: str) -> None:
  """DataError for a set that the overrides name and nothing knows."""
  from random_pruning_jax import data
  from random_pruning_jax.suites.bench import ALWAYS

  names = [changes.get('evaluation.validation_foreign') or '']
  for field in ('foreign', 'near', 'shifts'):
    names += changes.get(f'evaluation.{field}', ())
  for name in dict.fromkeys(names):
    if name and name not in ALWAYS:
      data.check_known(name, data_dir)


def _changes(config, rest: Sequence[str]) -> list[tuple[str, Any]]:
  """('evaluation.FIELD', value) of each override; ValueError in one line for what is wrong."""
  from random_pruning_jax.config import files as config_files
  from random_pruning_jax.config import flat

  names = [argument.removeprefix('--config.').partition('=')[0] for argument in rest]
  for name, argument in zip(names, rest, strict=True):
    if not name.startswith('evaluation.'):
      raise ValueError(
        f'unknown argument {argument}; a checkpoint takes --config.evaluation.FIELD=VALUE.'
      )
  changed = flat(config_files.override(config, rest))
  return [(name, changed[name]) for name in names]
