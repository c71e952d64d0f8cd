"""One process trains a run: a lease is a file in the run's directory, made atomically.

It names the process and its host. A lease is stale when its process is gone, or, on another host,
when nobody has touched the file for ten minutes; the next process takes it over.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from random_pruning_jax.system import lock

FILE = 'lease.json'
TOUCHED_EVERY = 30.0  # seconds
STALE_AFTER = 600.0  # seconds, of a lease from another host


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[bool]:
  """Takes the lease of a run for this process; False where another process has it."""
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / FILE
  with lock.alone(directory.parent):
    mine, me = holder(directory) is None, json.dumps(_me())
    if mine:
      path.write_text(me)
  if not mine:
    yield False
    return
  over = threading.Event()
  threading.Thread(target=_touch, args=(path, over), daemon=True).start()
  try:
    yield True
  finally:
    over.set()
    with contextlib.suppress(FileNotFoundError):
      if path.read_text() == me:  # else another host took it for stale
        path.unlink()


def holder(directory: pathlib.Path) -> dict[str, Any] | None:
  """The process that trains the run: {'pid', 'host', 'started'}; None where none does."""
  found, touched = _read(directory)
  if found is None:
    return None
  if found['host'] == socket.gethostname():
    return found if _started(found['pid']) == found['started'] else None
  # A clock that was set back leaves leases of the future, which are as stale as old ones.
  return found if abs(_now(directory.parent) - touched) < STALE_AFTER else None


def pid(directory: pathlib.Path) -> int | None:
  """The process named in a run's lease, alive or not; None where there is no lease."""
  found, _ = _read(directory)
  return found['pid'] if found else None


def _read(directory: pathlib.Path) -> tuple[dict[str, Any] | None, float]:
  """What a run's lease says and when it was touched; None and 0 where there is none."""
  path = directory / FILE
  try:
    return json.loads(path.read_text()), path.stat().st_mtime
  except (FileNotFoundError, json.JSONDecodeError):  # a crash may have left it empty
    return None, 0.0


def _me() -> dict[str, Any]:
  pid = os.getpid()
  return {'pid': pid, 'host': socket.gethostname(), 'started': _started(pid)}


def _started(pid: int) -> str:
  """When a process started, to tell it from a later one of the same number; '' if it is gone."""
  try:
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return '' if fields[0] == 'Z' else fields[19]
  except FileNotFoundError:
    pass
  if pathlib.Path('/proc/self').exists():
    return ''
  try:  # no /proc: all that is known is whether there is such a process
    os.kill(pid, 0)
  except ProcessLookupError:
    return ''
  except PermissionError:
    pass
  return 'alive'


def _touch(path: pathlib.Path, over: threading.Event) -> None:
  while not over.wait(TOUCHED_EVERY):
    with contextlib.suppress(OSError):  # a network file system may fail once
      os.utime(path)


def _now(directory: pathlib.Path) -> float:
  """The file system's time, with which the leases of all hosts are stamped.

  This host's own time if it may not write there, as when someone only looks.
  """
  clock = directory / '.clock'
  try:
    clock.touch()
    return clock.stat().st_mtime
  except OSError:
    return time.time()
