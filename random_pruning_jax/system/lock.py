"""One process at a time in a directory; the system frees the lock when a process dies."""

import contextlib
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def alone(directory: pathlib.Path, wait: bool = True, name: str = '.lock') -> Iterator[None]:
  """Only one process is inside at a time, for a directory and the `name` of what is done there.

  Others wait or, without `wait`, get BlockingIOError. Raises ImportError on Windows, and an OSError
  that names the directory where the file system has no locks.
  """
  import fcntl

  with (directory / name).open('a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      raise
    except OSError as error:
      raise OSError(
        error.errno,
        f'{directory} must be on a file system with locks (flock), by which processes keep each '
        f'other out; got: {error.strerror}.',
      ) from error
    yield
