"""What a run writes while it trains: its config, `train.jsonl`, and TensorBoard event files."""

import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax.events import Events
from random_pruning_jax.system import atomic

CONFIG_FILE = 'config.json'
LOG_FILE = 'train.jsonl'
CHECKPOINTS = 'checkpoints'
KEPT = (CHECKPOINTS, 'results.jsonl')  # in a workdir only once its run has saved something


class NotFiniteError(ArithmeticError):
  """The loss became infinite or nan; the message names the step and what to try."""


def check_local(workdir: str | os.PathLike) -> None:
  """Raises ValueError for a file, and for the address of a bucket, which would become a local
  directory of that name."""
  if pathlib.Path(workdir).is_file():
    raise ValueError(f'workdir must be a directory, got the file {os.fspath(workdir)}.')
  if '://' in os.fspath(workdir):
    raise ValueError(
      f'workdir must be a local path, got {os.fspath(workdir)}: mount the bucket, e.g. by gcsfuse.'
    )


def claim(workdir: str | os.PathLike, config: ConfigDict) -> None:
  """Writes the config into a new workdir, or checks that the workdir's run was trained with it.

  How a run is evaluated may change later, and is then written anew. Raises ValueError with the
  fields that differ in anything else.
  """
  check_claim(workdir, config)
  path = pathlib.Path(workdir) / CONFIG_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(path, json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n')


def check_claim(workdir: str | os.PathLike, config: ConfigDict) -> None:
  """Raises ValueError where `claim` would."""
  here = pathlib.Path(workdir)
  # A run that never saved anything may be given another config: its own may have been wrong.
  if not (here / CONFIG_FILE).exists() or not any((here / name).exists() for name in KEPT):
    return
  changed = config_lib.differences(config_lib.flat(read_config(workdir)), config_lib.flat(config))
  if changed:
    fields = '; '.join(f'{name} is {old!r}, got {new!r}' for name, (old, new) in changed.items())
    raise ValueError(f'{workdir} holds another config: {fields}. Choose another workdir.')


def read_config(workdir: str | os.PathLike) -> ConfigDict:
  """The resolved config of a run; a field that is newer than the run has its default.

  Attacks and their settings are those of the run alone.

  Raises ValueError where there is no config, or none that can be read.
  """
  path = pathlib.Path(workdir) / CONFIG_FILE
  if not path.exists():
    raise ValueError(f'{workdir} must be the workdir of a run; it has no {CONFIG_FILE}.')

  try:
    fields = _tuples(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}.') from error
  config = config_lib.default()
  with config.unlocked(), config.ignore_type():
    if 'attacks' in fields.get('evaluation', {}):
      config.evaluation.attacks = ConfigDict()  # a config may leave out those of the default
    config.update(fields)
  return config


def _tuples(value: Any) -> Any:
  """A value of JSON with tuples for its lists, as fields of a config are."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


class RunLog:
  """Appends to `train.jsonl` and event files; drops lines after `step`, of a lost attempt."""

  def __init__(self, workdir: str | os.PathLike, step: int, write: bool = True):
    self._lines = self._events = None
    if not write:
      return
    path = pathlib.Path(workdir) / LOG_FILE
    # At step 0 nothing is kept: a line of step 0 is written again.
    kept = [line for line in read_log(workdir) if line['step'] <= step and step]
    atomic.write(path, ''.join(json.dumps(line) + '\n' for line in kept))
    self._lines = path.open('a')
    self._events = Events(path.parent / 'tensorboard', step + 1)

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
    if not self._lines:
      return
    try:
      with self._lines:
        self._events.close()
    except OSError:
      if error is None:  # else that error already says what was lost
        raise

  def write(self, kind: str, step: int, metrics: dict[str, float]) -> None:
    """One line; `kind` is 'train', 'epoch', 'validation' or 'gradient'."""
    if self._lines:
      self._lines.write(json.dumps({'kind': kind, 'step': step} | metrics) + '\n')
      self._lines.flush()
      for name, value in metrics.items():
        self._events.write(step, f'{kind}/{name}', value)

  def sync(self) -> None:
    """Puts all lines on the disk, or into the bucket: before a checkpoint that comes after them."""
    if self._lines:
      os.fsync(self._lines.fileno())


def read_log(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The lines of `train.jsonl`, without one that a crash cut short; [] where there is no file."""
  path = pathlib.Path(workdir) / LOG_FILE
  lines = path.read_text(errors='replace').splitlines() if path.exists() else []
  out = []
  for line in lines:
    try:
      out.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return out
