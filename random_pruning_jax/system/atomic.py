"""Files and directories that are there whole or not at all, whatever kills who writes them."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from random_pruning_jax.system import lock


def write(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces the file at once; several processes may write it, and the last one's stays.

  Raises OSError where it cannot be written; what was there before stays.
  """
  part = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
  except BaseException as error:  # Ctrl-C too
    if isinstance(error, OSError):
      error.filename = error.filename or str(path)  # the error of a full disk names none
    with contextlib.suppress(OSError):
      part.unlink()
    raise


@contextlib.contextmanager
def aside(path: pathlib.Path, locks: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new directory beside `path`, for making what is then renamed to `path`; removed at the end.

  One process at a time is inside, and what a killed one left is removed, if files in the directory
  `locks` can be locked.
  """
  prefix = f'incomplete.{path.name}.'
  with contextlib.ExitStack() as inside:
    with contextlib.suppress(ImportError, OSError):
      inside.enter_context(lock.alone(locks, name=f'.{path.name}.lock'))
      for left in path.parent.glob(f'{prefix}*'):
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix)
    yield pathlib.Path(inside.enter_context(made))
