"""TensorBoard event files, written where they are asked for and by no other thread.

tensorboardX's own SummaryWriter hands each number to a thread through a queue. Ctrl-C between two
lines of `Queue.put` leaves the queue's lock taken, and closing the writer then waits for ever.
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

FLUSH_EVERY = 10.0  # seconds


class Events:
  """A new event file in `directory`; it supersedes what older ones hold of `step` and later."""

  def __init__(self, directory: str | os.PathLike, step: int):
    # Here, because they are slow to import.
    with _without('torch'):
      from tensorboardX import event_file_writer, summary
      from tensorboardX.proto import event_pb2

    self._event, self._scalar = event_pb2.Event, summary.scalar
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # The name holds the time in seconds; a second attempt within one second needs more to differ.
    more = f'.{os.getpid()}.{time.time_ns()}'
    self._file = event_file_writer.EventsWriter(str(directory / 'events'), more)
    self._flushed = time.monotonic()
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(step, session_log=start)

  def write(self, step: int, name: str, value: float) -> None:
    self._write(step, summary=self._scalar(name, value))
    if time.monotonic() - self._flushed > FLUSH_EVERY:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()

  def _write(self, step: int, **what: Any) -> None:
    self._file.write_event(self._event(step=step, wall_time=time.time(), **what))


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
  """Inside, `module` cannot be imported, unless it already has been.

  tensorboardX imports PyTorch wherever it is installed, which takes seconds, for tensors alone. Not
  thread-safe: imports in other threads may not find the module either.
  """
  if module in sys.modules:
    yield
    return
  sys.modules[module] = None
  try:
    yield
  finally:
    sys.modules.pop(module, None)
