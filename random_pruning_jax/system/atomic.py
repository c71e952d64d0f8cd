"""Files that are there whole or not at all, whatever kills the process that writes them."""

import contextlib
import os
import pathlib


def write(path: pathlib.Path, content: str | bytes) -> None:
  """Replaces the file at once; several processes may write it, and the last one's stays.

  Raises OSError where it cannot be written; what was there before stays.
  """
  part = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
  except OSError as error:
    error.filename = error.filename or str(path)  # the error of a full disk names none
    with contextlib.suppress(OSError):
      part.unlink()
    raise
