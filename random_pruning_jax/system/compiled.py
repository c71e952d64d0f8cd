"""JAX's cache of compiled programs, without those that were cut short."""

import contextlib
import os
import pathlib
import zlib
from collections.abc import Callable

import jax

_BLOCK = 512  # bytes; every file system writes multiples of it


def keep(directory: pathlib.Path) -> None:
  """Keeps what JAX compiles for the next start, small programs too: a run has over a hundred.

  JAX never writes an entry again that exists, also where it cannot be read because a full disk or
  the end of a process cut it short. So those are removed here.
  """
  with contextlib.suppress(OSError):  # no directory yet, or not ours to read
    for entry in os.scandir(directory):
      with contextlib.suppress(OSError):  # not ours to remove, or another process was faster
        if entry.name.endswith('-cache') and _is_cut_short(entry):
          os.remove(entry)
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


def _is_cut_short(entry: os.DirEntry) -> bool:
  """Whether JAX's cache cannot read it; only files that end with a block are read to find out."""
  if entry.stat().st_size % _BLOCK:
    return False
  try:
    _decompressor()(pathlib.Path(entry).read_bytes())
  except OSError:
    raise
  except Exception:  # each library raises its own
    return True
  return False


def _decompressor() -> Callable[[bytes], bytes]:
  """That of JAX's cache: Zstandard's where Python or a package has it."""
  with contextlib.suppress(ImportError):
    from compression import zstd

    return zstd.decompress
  with contextlib.suppress(ImportError):
    import zstandard

    return zstandard.ZstdDecompressor().decompress
  return zlib.decompress
