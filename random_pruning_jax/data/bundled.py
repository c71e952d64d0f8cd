"""Sets made from images that come with scikit-learn: they prepare themselves, with no network."""

import contextlib
import importlib
import io
import os
import pathlib

from random_pruning_jax.data import missing, places
from random_pruning_jax.data.specs import DataError, spec_of
from random_pruning_jax.system import atomic


def find(name: str, data_dir: str = '') -> pathlib.Path:
  """The directory of a bundled set, prepared now if it is nowhere yet.

  It is read from `data_dir` if it is there, and otherwise lives in the user's cache: reading never
  writes to a data directory, which others may share.
  """
  own = places.cache_dir() / 'tfds'
  for root in (places.data_root(data_dir), own):
    path = places.locate(name, root)
    if path is not None:
      return path
  try:
    return prepare(name, own)
  except OSError as error:
    raise DataError(
      f'{name} must be prepared once, and {own} cannot be written ({error}); '
      'set XDG_CACHE_HOME to a directory that can'
    ) from error


def prepare(name: str, root: pathlib.Path) -> pathlib.Path:
  """Builds a bundled set beside its place and renames it into place: whole or not at all.

  Of several processes one does so, and the others wait for it. Where files cannot be locked, all
  do; the first to rename wins and the others' copies are dropped.
  """
  import tensorflow_datasets as tfds

  importlib.import_module(spec_of(name).module)  # registers the builder
  root.mkdir(parents=True, exist_ok=True)
  with atomic.aside(root / name, locks=root) as aside:
    found = places.locate(name, root)  # another process may have made it meanwhile
    if found is not None:
      return found
    builder = missing.create(name, aside)
    chatter = io.StringIO()  # TFDS announces its steps and draws bars; this takes a second
    with contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
      builder.download_and_prepare(
        file_format='array_record',
        download_dir=aside,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
    made = pathlib.Path(builder.data_path)
    path = root / made.relative_to(aside)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
      os.rename(made, path)
  if places.locate(name, root) is None:
    raise DataError(f'{name} was prepared but could not be moved to {path}')
  return path
