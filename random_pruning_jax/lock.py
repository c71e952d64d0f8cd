"""One process at a time in a directory; the system ends that when a process dies."""

import contextlib
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def alone(directory: pathlib.Path, wait: bool = True, name: str = '.lock') -> Iterator[None]:
  """Only one process is inside, for a directory and a name of what is done there.

  Others wait or, without `wait`, get BlockingIOError. Raises ImportError on Windows, and OSError
  where the file system has no locks.
  """
  import fcntl

  with (directory / name).open('a') as file:
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    yield
