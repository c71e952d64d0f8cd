"""What a run writes while it trains: its config, `train.jsonl`, and TensorBoard event files."""

import json
import os
import pathlib
import time
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib

CONFIG_FILE = 'config.json'
LOG_FILE = 'train.jsonl'


class NotFiniteError(ArithmeticError):
  """The loss became infinite or nan; the message names the step and what to try."""


def claim(workdir: str | os.PathLike, config: ConfigDict) -> None:
  """Writes the config into a new workdir, or checks that the workdir holds this very config."""
  path = pathlib.Path(workdir) / CONFIG_FILE
  wanted = config_lib.flat(config)
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f'.{os.getpid()}.tmp')
    whole.write_text(json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n')
    whole.replace(path)  # at once, so that a killed process leaves no half of it
    return
  changed = config_lib.differences(config_lib.flat(read_config(workdir)), wanted)
  if changed:
    fields = '; '.join(f'{name} is {old!r}, got {new!r}' for name, (old, new) in changed.items())
    raise ValueError(f'{workdir} holds another config: {fields}. Choose another workdir.')


def read_config(workdir: str | os.PathLike) -> ConfigDict:
  """The resolved config of a run. Raises ValueError where there is none."""
  path = pathlib.Path(workdir) / CONFIG_FILE
  if not path.exists():
    raise ValueError(f'{workdir} must be the workdir of a run; it has no {CONFIG_FILE}.')
  fields = json.loads(path.read_text())

  def tuples(value: Any) -> Any:
    if isinstance(value, dict):
      return {name: tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value

  return ConfigDict(tuples(fields))


class RunLog:
  """Appends to `train.jsonl` and event files; drops lines after `step`, of a lost attempt."""

  def __init__(self, workdir: str | os.PathLike, step: int, write: bool = True):
    self._lines = self._events = None
    if not write:
      return
    from tensorboardX import SummaryWriter  # here, because it is slow to import

    path = pathlib.Path(workdir) / LOG_FILE
    kept = [line for line in read_log(workdir) if line['step'] <= step]
    whole = path.with_suffix('.tmp')
    whole.write_text(''.join(json.dumps(line) + '\n' for line in kept))
    whole.replace(path)
    self._lines = path.open('a')
    self._events = SummaryWriter(str(path.parent / 'tensorboard'), purge_step=step + 1)

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(self, *_: Any) -> None:
    if self._lines:
      self._lines.close()
      self._events.close()

  def write(self, kind: str, step: int, figures: dict[str, float]) -> None:
    """One line; `kind` is 'train' or 'validation'."""
    if self._lines:
      self._lines.write(json.dumps({'kind': kind, 'step': step} | figures) + '\n')
      self._lines.flush()
      for name, value in figures.items():
        self._events.add_scalar(f'{kind}/{name}', value, step)


def read_log(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The lines of `train.jsonl`, without one that a crash cut short; [] where there is no file."""
  path = pathlib.Path(workdir) / LOG_FILE
  lines = path.read_text().splitlines() if path.exists() else []
  out = []
  for line in lines:
    try:
      out.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return out


class Meter:
  """Training figures of the steps since the last line of the log.

  Figures stay on the device until they are asked for, so that the loop does not wait for each step.
  """

  def __init__(self, step: int, pending: list[list[float]]):
    self._step = step  # of the newest figures
    self._figures: list[Any] = list(pending)  # [loss, accuracy], or still arrays on the device
    self._since = time.perf_counter()
    self._new = 0

  def add(self, figures: dict[str, Any]) -> None:
    self._step += 1
    self._new += 1
    self._figures.append(figures)

  def pending(self) -> list[list[float]]:
    """[loss, accuracy] of each step, fetched. Raises NotFiniteError naming the first bad step."""
    self._figures = [
      figures if isinstance(figures, list) else [float(figures['loss']), float(figures['accuracy'])]
      for figures in self._figures
    ]
    for back, (loss, _) in zip(range(len(self._figures) - 1, -1, -1), self._figures, strict=True):
      if not np.isfinite(loss):
        raise NotFiniteError(
          f'the loss is {loss} at step {self._step - back}; the last checkpoint is intact. Try a '
          'lower optimizer.lr, or schedule.warmup_epochs of 5.'
        )
    return self._figures

  def mean(self) -> dict[str, float]:
    """Mean loss and accuracy, and steps per second; begins anew."""
    loss, accuracy = np.mean(np.array(self.pending(), np.float64), axis=0).tolist()
    now = time.perf_counter()
    steps_per_second = self._new / (now - self._since)
    self._figures, self._since, self._new = [], now, 0
    return {'loss': loss, 'accuracy': accuracy, 'steps_per_second': steps_per_second}

  def pause(self) -> None:
    """Call after validating and saving: that time is no time of training steps."""
    if not self._new:
      self._since = time.perf_counter()
