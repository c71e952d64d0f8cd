"""Reading runs for a report: rows of any version, runs that failed, runs that are missing."""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from random_pruning_jax import results, runlog
from random_pruning_jax.config import spellings
from random_pruning_jax.report.runs import DENSE, Run, with_settings

# Fields that a report reads of every run, planned ones too, and that no version lacked.
IN_EVERY_CONFIG = (
  'dataset',
  'model.name',
  'model.width',
  'pruning.density',
  'pruning.ratio',
  'pruning.sampling',
  'pruning.select',
  'recipe',
  'seed',
)


def read(paths: Sequence[str | pathlib.Path]) -> list[Run]:
  """Every run at or below the paths, in a fixed order.

  Raises ValueError if there is none, or none that has ended or is planned, and for files that are
  damaged or that no run wrote.
  """
  rows = results.read(paths)
  for row in rows:
    file = pathlib.Path(row['run']) / results.FILE
    _check(file, row, config=dict, metrics=dict)
    _check_config(file, row['config'])
  final = [row for row in rows if results.is_final(row)]
  done = [Run('done', row['run'], row['config'], row) for row in final]
  # The numbers of a run that has not ended are not its result.
  begun = [Run('missing', row['run'], row['config'], {}) for row in rows]
  known: dict[pathlib.Path, Run] = {}  # by directory, as the first that knows of it says
  for run in [*done, *_failed(paths), *_planned(paths), *begun]:
    known.setdefault(pathlib.Path(run.place).resolve(), run)
  runs = list(known.values())
  if not runs:
    where = ', '.join(map(str, paths))
    if under_way := ', '.join(sorted(str(f.parent) for f in _files(paths, runlog.CONFIG_FILE))):
      raise ValueError(f'no run at or below {where} has come to its end; begun: {under_way}.')
    raise ValueError(f'there is no run at or below {where}.')
  return sorted(with_settings(runs), key=order)


def order(run: Run) -> tuple:
  return (
    run.dataset,
    run.setting,
    run.depth or 0,
    run.width or spellings.own_width(run.model),
    run.network,
    run.scheme != DENSE,
    run.scheme,
    run.sparsity,
    run.seed,
    run.place,
  )


def _failed(paths: Sequence[str | pathlib.Path]) -> Iterator[Run]:
  for file in _files(paths, results.FAILED):
    failure = _read(file, config=dict, error=str)
    _check_config(file, failure['config'])
    yield Run('failed', str(file.parent), failure['config'], {}, failure['error'])


def _planned(paths: Sequence[str | pathlib.Path]) -> Iterator[Run]:
  """Runs of sweeps, which may have come to an end meanwhile."""
  for file in _files(paths, results.MANIFEST):
    for tag, config in _read(file, runs=dict)['runs'].items():
      _check_config(file, config)
      yield Run('missing', str(file.parent / tag), config, {})


def _files(paths: Sequence[str | pathlib.Path], name: str) -> list[pathlib.Path]:
  return [file for path in paths for file in results.find(path, name)]


def _read(file: pathlib.Path, **kinds: type) -> dict[str, Any]:
  try:
    content = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is damaged: {error}.') from error
  _check(file, content, **kinds)
  return content


def _check(file: pathlib.Path, content: Any, **kinds: type) -> None:
  """Raises ValueError for a file that has the name of one of ours, but not its fields."""
  if not isinstance(content, dict) or any(
    not isinstance(content.get(field), kind) for field, kind in kinds.items()
  ):
    got = ', '.join(list(content)[:5]) if isinstance(content, dict) else type(content).__name__
    raise ValueError(f'{file} must hold {" and ".join(kinds)}, got {got or "nothing"}.')


def _check_config(file: pathlib.Path, config: Any) -> None:
  """Raises ValueError for a config that lacks what that of every run has."""
  lacking = [name for name in IN_EVERY_CONFIG if not isinstance(config, dict) or name not in config]
  if lacking:
    raise ValueError(f'{file} must hold configs of runs, got one without {", ".join(lacking)}.')
