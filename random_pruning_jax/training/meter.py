"""Training metrics on their way from the devices to the log, and how fast steps are made."""

import contextlib
import math
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np

from random_pruning_jax import runlog


class Meter:
  """Training metrics of the steps since the last line of the log, and of the epoch so far.

  Metrics stay on the device until they are asked for, so that the loop does not wait for each call.
  `snapshot()` is all that a resumed run needs to write the same lines.
  """

  def __init__(self, step: int, snapshot: dict[str, Any] | None = None):
    snapshot = snapshot or {'pending': [], 'epoch': [0.0, 0.0, 0]}
    self._fetched = step  # the newest step whose metrics are here
    self._metrics: list[list[float]] = list(snapshot['pending'])  # [loss, accuracy] of each step
    self._coming: list[dict[str, Any]] = []  # {'loss': [S], 'accuracy': [S]}, on the device
    self._epoch = list(snapshot['epoch'])  # sums of loss and accuracy, and steps
    self._speed = 0.0
    self._leaves_out = False  # the next call
    self._watch = futures.ThreadPoolExecutor(1)
    self.restart_clock()

  def add(self, metrics: dict[str, Any]) -> None:
    """Adds loss and accuracy [S] of the steps of one call."""
    if not self._leaves_out:
      self._new += np.size(metrics['loss'])
    self._leaves_out = False
    self._coming.append(metrics)

  def snapshot(self) -> dict[str, Any]:
    """What is not written yet, for `Meter(step, snapshot)`.

    Raises runlog.NotFiniteError naming the first step whose loss is not a number.
    """
    self._fetch()
    return {'pending': list(self._metrics), 'epoch': list(self._epoch)}

  def mean(self) -> dict[str, float]:
    """Mean loss and accuracy since this was last asked, steps per second, and the share of the time
    in which the devices waited for images; begins anew."""
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
    """Context around the wait for the images of a call.

    The wait counts from when the devices are idle: calls are dispatched ahead on accelerators, and
    images that come while those are busy keep nobody waiting.
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
    """Measures speed from here on: after a line, and after a program was compiled."""
    self._since = time.perf_counter()
    self._new = 0
    self._waited = 0.0

  @contextlib.contextmanager
  def untimed_with_next(self) -> Iterator[None]:
    """`untimed`, around other work that is dispatched between two calls. The call that the devices
    took meanwhile, the next to be added, is left out too."""
    with self.untimed():
      yield
    self._leaves_out = True

  @contextlib.contextmanager
  def untimed(self) -> Iterator[None]:
    """Context around other work than steps, whose time is left out of the speed."""
    began = time.perf_counter()
    yield
    self._since += time.perf_counter() - began

  def _fetch(self) -> None:
    coming, self._coming = jax.device_get(self._coming), []
    for call in coming:
      pairs = np.stack([np.ravel(call['loss']), np.ravel(call['accuracy'])], axis=1)
      for loss, accuracy in pairs.tolist():
        self._fetched += 1
        if not math.isfinite(loss):
          raise runlog.NotFiniteError(
            f'the loss is {loss} at step {self._fetched}; what was saved is intact. Try a lower '
            'optimizer.lr, or schedule.warmup_epochs of 5.'
          )
        self._metrics.append([loss, accuracy])
        self._epoch = [self._epoch[0] + loss, self._epoch[1] + accuracy, self._epoch[2] + 1]


def _ready_at(array: Any) -> float:
  array.block_until_ready()
  return time.perf_counter()
