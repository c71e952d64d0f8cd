"""From a data set's name to a TFDS builder whose data lies on this machine, or a clear error."""

from __future__ import annotations

import importlib
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING

from random_pruning_jax.data.specs import SPECS, DataError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def cache_dir() -> pathlib.Path:
  """This user's directory for what can be made again: $XDG_CACHE_HOME/random_pruning_jax."""
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'random_pruning_jax'


def find(name: str, data_dir: str = '') -> tfds.core.DatasetBuilder:
  """The builder of a prepared data set; `data_dir` '' means TFDS_DATA_DIR.

  Sets that this package bundles prepare themselves on first use, in `data_dir` if that is given
  and writable and in `cache_dir` otherwise. Raises DataError if there is nothing to read.
  """
  if name in SPECS and SPECS[name].module:
    return _bundled(name, data_dir)
  builder = create(name, data_dir)
  if not builder.data_path.exists():
    raise DataError(f'no data set {name} in {builder.data_path}')
  return builder


def create(name: str, data_dir: str = '') -> tfds.core.DatasetBuilder:
  """The builder of a data set, prepared or not."""
  import tensorflow_datasets as tfds

  if name in SPECS and SPECS[name].module:
    importlib.import_module(SPECS[name].module)  # registers the builder
  return tfds.builder(name, data_dir=data_dir or None)


def _bundled(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  places = [pathlib.Path(data_dir).expanduser()] if data_dir else []
  places.append(cache_dir() / 'tfds')
  for place in places:
    builder = create(name, str(place))
    if builder.data_path.exists():
      return builder
  place = next((place for place in places if _writable(place)), None)
  if place is None:
    raise DataError(f'{name} must be prepared, but none of {places} can be written')
  prepare_bundled(name, place)
  return create(name, str(place))


def _writable(place: pathlib.Path) -> bool:
  try:
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place):
      return True
  except OSError:
    return False


def prepare_bundled(name: str, data_dir: pathlib.Path) -> None:
  """Builds a bundled set beside its place and renames it into place: whole or not at all.

  Two processes may do so at once; the first to rename wins and the other's copy is dropped.
  """
  import tensorflow_datasets as tfds

  with tempfile.TemporaryDirectory(dir=data_dir, prefix=f'incomplete.{name}.') as aside:
    builder = create(name, aside)
    builder.download_and_prepare(
      file_format='array_record',
      download_dir=aside,
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    place = data_dir / builder.data_path.relative_to(aside)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
      os.rename(builder.data_path, place)
    except OSError:
      if not place.exists():
        raise
