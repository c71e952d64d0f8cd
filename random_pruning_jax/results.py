"""Result rows: one JSON object for each evaluated run, appended to a file `results.jsonl`."""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterable
from typing import Any

from random_pruning_jax import runlog

FORMAT = 1  # of a row; raised when a field changes its meaning
FILE = 'results.jsonl'
FAILED = 'failed.json'  # in a sweep's run: its error, traceback and config
MANIFEST = 'sweep.json'  # in a sweep's directory: every run that was ever planned there
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets', 'numpy')


def origin() -> dict[str, Any]:
  """Where a row comes from: versions, commit, device and its precision, time."""
  import jax  # here, so that reading rows needs no JAX

  return {
    'format': FORMAT,
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'commit': commit(),
    'versions': {name: _version(name) for name in ('random-pruning-jax', *PACKAGES)},
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'matmul_precision': jax.config.jax_default_matmul_precision,  # None: the device's own
    'hosts': jax.process_count(),
  }


def commit() -> str:
  """Git commit of the source, with '+' where the tree has changes; '' outside a checkout."""
  here = pathlib.Path(__file__).resolve().parent

  def git(*arguments: str) -> str:
    done = subprocess.run(
      ['git', '-C', str(here), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()

  try:
    if not git('ls-files', __file__):  # a repository that only holds a virtual environment
      return ''
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '-uno') else '')
  except (OSError, subprocess.CalledProcessError):
    return ''


def check_writable(workdir: str | os.PathLike) -> None:
  """Raises OSError where no row can be added to a run."""
  path = pathlib.Path(workdir) / FILE
  if path.exists():
    path.open('a').close()
  else:
    tempfile.TemporaryFile(dir=workdir).close()


def append(workdir: str | os.PathLike, row: dict[str, Any]) -> None:
  """Adds a row; numbers that are not finite become null, since JSON has no name for them."""
  path = pathlib.Path(workdir) / FILE
  with path.open('a+b') as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
    cut_short = file.read() not in (b'', b'\n')  # by a crash: this row begins a line of its own
    file.write(b'\n' * cut_short + json.dumps(_finite(row), allow_nan=False).encode() + b'\n')
    file.flush()
    os.fsync(file.fileno())


def read(paths: Iterable[str | os.PathLike]) -> list[dict[str, Any]]:
  """The row of every `results.jsonl` at or below the paths, with the run's directory in it.

  That is the last final row, or the last row if none is final. A line cut short by a crash, or
  damaged, is passed over. Raises ValueError where a path does not exist and for rows of a later
  format than this code knows.
  """
  rows = []
  for path in map(pathlib.Path, paths):
    if not path.exists():
      raise ValueError(f'{path} must be a run or a directory of runs; it does not exist.')
    for file in find(path, FILE) if path.is_dir() else [path]:
      whole = _rows(file)
      chosen = [row for row in whole if is_final(row)] or whole
      rows += [row | {'run': str(file.parent)} for row in chosen[-1:]]
  return rows


def find(directory: str | os.PathLike, name: str) -> list[pathlib.Path]:
  """The files of that name at or below a directory, in order; [] where it is none.

  Runs may train meanwhile: a directory that is gone once it is looked into has none. The
  checkpoints of a run are not looked into.
  """
  found = []
  for place, below, files in os.walk(directory):
    if runlog.CONFIG_FILE in files and runlog.CHECKPOINTS in below:
      below.remove(runlog.CHECKPOINTS)
    if name in files:
      found.append(pathlib.Path(place) / name)
  return sorted(found)


def row_of(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The row of a run, as `read` chooses it; None where there is none yet."""
  path = pathlib.Path(workdir) / FILE
  rows = read([path]) if path.exists() else []
  return rows[0] if rows else None


def is_final(row: dict[str, Any]) -> bool:
  """Whether the row is of a run that came to its end, and of the checkpoint that its config names.

  `evaluate` may measure others too. Rows from before this was written count as final.
  """
  return row.get('final', True)


def is_done(row: dict[str, Any]) -> bool:
  """Whether its run needs no more: the row is final, and of every suite that its config names.

  Of a run that was interrupted before its own row, `evaluate` may have measured fewer.
  """
  measured = row.get('settings')  # by suite; older rows have none
  asked = row.get('config', {}).get('evaluation.suites', ())
  return is_final(row) and (not measured or measured.keys() >= set(asked))


def measured_otherwise(row: dict[str, Any], asked: dict[str, Any]) -> list[str]:
  """Fields by which a row was measured in another way than a flat config asks.

  'evaluation.suites' is one of them where the config names some that were not run. Of a row that
  does not say how each suite was run, as older ones do not, none is known.
  """
  settings = row.get('settings', {})
  wanted = evaluation_fields(asked)
  suites = wanted.pop('suites')
  fields = {'suites'} if settings and not settings.keys() >= set(suites) else set()
  for suite in settings.keys() & suites:
    own = settings[suite]
    fields |= {field for field in wanted if own.get(field, wanted[field]) != wanted[field]}
  return sorted(f'evaluation.{field}' for field in fields)


def evaluation_fields(config: dict[str, Any]) -> dict[str, Any]:
  """How a flat config asks to measure: {'suites': ['quick'], 'attacks.pgd.steps': 50, ...}."""
  start = 'evaluation.'
  return {k.removeprefix(start): value for k, value in config.items() if k.startswith(start)}


def of_checkpoint(workdir: str | os.PathLike, step: int, masks: str) -> dict[str, Any] | None:
  """The last row of the checkpoint at `step` with masks of that checksum; None without any."""
  path = pathlib.Path(workdir) / FILE
  rows = _rows(path) if path.exists() else []
  found = [row for row in rows if (row.get('step'), row.get('masks')) == (step, masks)]
  return found[-1] if found else None


def _rows(file: pathlib.Path) -> list[dict[str, Any]]:
  rows = [row for row in map(_parse, file.read_text(errors='replace').splitlines()) if row]
  for row in rows:
    if row.get('format', 0) > FORMAT:
      raise ValueError(f'{file} holds rows of format {row["format"]}; known: up to {FORMAT}.')
  return rows


def _parse(line: str) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  except json.JSONDecodeError:
    return None
  return row if isinstance(row, dict) else None


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''
