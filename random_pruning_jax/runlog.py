"""What a run writes while it trains: its config, `train.jsonl`, and TensorBoard event files."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from random_pruning_jax import atomic
from random_pruning_jax import config as config_lib
from random_pruning_jax.events import Events

CONFIG_FILE = 'config.json'
LOG_FILE = 'train.jsonl'
KEPT = ('checkpoints', 'results.jsonl')  # what a workdir has of a run that came so far


class NotFiniteError(ArithmeticError):
  """The loss became infinite or nan; the message names the step and what to try."""


def check_local(workdir: str | os.PathLike) -> None:
  """Raises ValueError for what is a file, and for the address of a bucket, which would become a
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
  # Where a run never saved anything, its config may have been what was wrong.
  if not (here / CONFIG_FILE).exists() or not any((here / name).exists() for name in KEPT):
    return
  changed = config_lib.differences(config_lib.flat(read_config(workdir)), config_lib.flat(config))
  if changed:
    fields = '; '.join(f'{name} is {old!r}, got {new!r}' for name, (old, new) in changed.items())
    raise ValueError(f'{workdir} holds another config: {fields}. Choose another workdir.')


def read_config(workdir: str | os.PathLike) -> ConfigDict:
  """The resolved config of a run; a field that is newer than the run has its default.

  Raises ValueError where there is no config, or none that can be read.
  """
  path = pathlib.Path(workdir) / CONFIG_FILE
  if not path.exists():
    raise ValueError(f'{workdir} must be the workdir of a run; it has no {CONFIG_FILE}.')

  def tuples(value: Any) -> Any:
    if isinstance(value, dict):
      return {name: tuples(item) for name, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value

  def update(config: ConfigDict, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
      if isinstance(value, dict) and name in config:
        update(config[name], value)
      else:
        config[name] = ConfigDict(value) if isinstance(value, dict) else value

  try:
    fields = tuples(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f'{path} is damaged: {error}.') from error
  config = config_lib.default()
  with config.unlocked(), config.ignore_type():
    update(config, fields)
  return config


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
      if error is None:  # one that is already on its way says what was lost
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


class Meter:
  """Training metrics of the steps since the last line of the log, and of the epoch so far.

  Metrics stay on the device until they are asked for, so that the loop does not wait for each call.
  `record()` is all that a checkpoint needs for a resumed run to write the same lines.
  """

  def __init__(self, step: int, record: dict[str, Any] | None = None):
    record = record or {'pending': [], 'epoch': [0.0, 0.0, 0]}
    self._fetched = step  # the newest step whose metrics are here
    self._metrics: list[list[float]] = list(record['pending'])  # [loss, accuracy] of each step
    self._coming: list[dict[str, Any]] = []  # {'loss': [S], 'accuracy': [S]}, on the device
    self._epoch = list(record['epoch'])  # sums of loss and accuracy, and steps
    self._speed = 0.0
    self._paused = False
    self._watch = futures.ThreadPoolExecutor(1)
    self.restart_clock()

  def add(self, metrics: dict[str, Any]) -> None:
    """Of one call: loss and accuracy [S] of its steps."""
    if not self._paused:
      self._new += np.size(metrics['loss'])
    self._paused = False
    self._coming.append(metrics)

  def record(self) -> dict[str, Any]:
    """Raises NotFiniteError naming the first step whose loss is not a number."""
    self._fetch()
    return {'pending': list(self._metrics), 'epoch': list(self._epoch)}

  def mean(self) -> dict[str, float]:
    """Mean loss and accuracy since the last call, steps per second, and the share of the time in
    which the devices waited for images; begins anew."""
    self._fetch()
    loss, accuracy = np.mean(self._metrics, axis=0).tolist()
    seconds = time.perf_counter() - self._since
    if self._new:
      self._speed = self._new / seconds
    waiting = min(self._waited / seconds, 1.0)
    self._metrics = []
    self.restart_clock()
    metrics = {'loss': loss, 'accuracy': accuracy}
    return metrics | {'steps_per_second': self._speed, 'waiting': waiting}

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around what waits for the images of a call.

    It counts from when the devices have nothing left to do: accelerators take calls ahead, and
    images that come while they are busy keep nobody waiting.
    """
    began = time.perf_counter()
    last = self._coming[-1]['loss'] if self._coming else None
    # In a thread, since the loop must not wait for the devices.
    idle = None if last is None or last.is_ready() else self._watch.submit(_ready_at, last)
    yield
    ended = time.perf_counter()
    if idle is not None:
      began = idle.result() if idle.done() else ended
    self._waited += max(ended - began, 0.0)

  def epoch_mean(self) -> dict[str, float]:
    """Mean loss and accuracy of the epoch; begins a new one."""
    self._fetch()
    loss, accuracy, steps = self._epoch
    self._epoch = [0.0, 0.0, 0]
    return {'loss': loss / steps, 'accuracy': accuracy / steps}

  def restart_clock(self) -> None:
    """Speed is of what comes from here on: after a line, and after a program was compiled."""
    self._since = time.perf_counter()
    self._new = 0
    self._waited = 0.0

  @contextlib.contextmanager
  def pausing(self) -> Iterator[None]:
    """Around what gives the devices other work between two calls: see `stopped`. The call that
    they took meanwhile, which is the next to be added, is left out too."""
    with self.stopped():
      yield
    self._paused = True

  @contextlib.contextmanager
  def stopped(self) -> Iterator[None]:
    """Around what waits for such work, whose time is left out of the speed."""
    began = time.perf_counter()
    yield
    self._since += time.perf_counter() - began

  def _fetch(self) -> None:
    import jax  # here, because who only reads logs does not need it

    coming = jax.device_get(self._coming)
    loss = np.concatenate([[], *(np.ravel(each['loss']) for each in coming)]).tolist()
    accuracy = np.concatenate([[], *(np.ravel(each['accuracy']) for each in coming)]).tolist()
    for i, value in enumerate(loss, 1):
      if not math.isfinite(value):
        raise NotFiniteError(
          f'the loss is {value} at step {self._fetched + i}; the last checkpoint is intact. Try a '
          'lower optimizer.lr, or schedule.warmup_epochs of 5.'
        )
    for pair in zip(loss, accuracy, strict=True):
      self._metrics.append(list(pair))
      self._epoch = [self._epoch[0] + pair[0], self._epoch[1] + pair[1], self._epoch[2] + 1]
    self._fetched += len(loss)
    self._coming = []


def _ready_at(array: Any) -> float:
  array.block_until_ready()
  return time.perf_counter()
