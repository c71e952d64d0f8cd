"""Where data sets lie on this machine, found without importing TFDS (which takes a second)."""

import json
import os
import pathlib
import re
from typing import Any

from random_pruning_jax.data.specs import DataError

_FILES = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'  # TFDS's own template


def cache_dir() -> pathlib.Path:
  """This user's directory for what can be made again: $XDG_CACHE_HOME/random_pruning_jax."""
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'random_pruning_jax'


def data_root(data_dir: str = '') -> pathlib.Path:
  """The directory that holds TFDS data sets: `data_dir`, else TFDS_DATA_DIR, else TFDS's own."""
  root = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  if '://' in root:
    raise DataError(f'data_dir must be a local path, got {root}: mount the bucket, e.g. by gcsfuse')
  return pathlib.Path(root).expanduser()


def locate(name: str, root: pathlib.Path) -> pathlib.Path | None:
  """The directory of a prepared set under `root`, or None: of its newest version, unless named.

  `name` is NAME, NAME/CONFIG or either with :VERSION. Raises DataError if a config must be named.
  """
  path, _, version = name.partition(':')
  versions = _versions(root / path)
  if version:
    return versions.get(version)
  if versions:
    return versions[max(versions, key=lambda text: [int(part) for part in text.split('.')])]
  configs = [config.name for config in _folders(root / path) if _versions(config)]
  if configs:
    raise DataError(
      f'{path} in {root} comes in variants, name one: '
      + ', '.join(f'{path}/{config}' for config in sorted(configs))
    )
  return None


def prepared(root: pathlib.Path) -> list[str]:
  """Names of the sets prepared under `root`, with their variants."""
  found = [file for depth in ('*', '*/*') for file in root.glob(f'{depth}/*.*.*/dataset_info.json')]
  return sorted({file.parents[1].relative_to(root).as_posix() for file in found})


def split_sizes(path: pathlib.Path) -> dict[str, int]:
  """Number of images of each split of a prepared set."""
  return {
    split['name']: sum(int(length) for length in split.get('shardLengths', ()))
    for split in _info(path).get('splits', ())
  }


def check_files(path: pathlib.Path, split: str) -> None:
  """Raises DataError where a file of a split is not there, if they are named as TFDS names them."""
  info = _info(path)
  [found] = [each for each in info['splits'] if each['name'] == split]
  if found.get('filepathTemplate', _FILES) != _FILES:
    return
  there = {file.name for file in path.iterdir()}  # at once, since the directory may be a bucket's
  whole = {'DATASET': info['name'], 'SPLIT': split, 'FILEFORMAT': file_format(path)}
  count = len(found['shardLengths'])
  names = (_FILES.format(SHARD_X_OF_Y=f'{i:05d}-of-{count:05d}', **whole) for i in range(count))
  if lacking := next((name for name in names if name not in there), None):
    raise unreadable(path, FileNotFoundError(f'there is no {lacking}'))


def listed(path: pathlib.Path) -> str:
  """The splits and their sizes, for a message: 'train (50,000), test (10,000)'."""
  return ', '.join(f'{name} ({count:,})' for name, count in split_sizes(path).items())


def file_format(path: pathlib.Path) -> str:
  """The format of a prepared set's files; TFDS wrote tfrecord before it knew others."""
  return _info(path).get('fileFormat', 'tfrecord')


def unreadable(path: pathlib.Path, error: Exception) -> DataError:
  """What to raise where the files of a prepared set raised `error`."""
  reason = ' '.join(str(error).split()).rstrip('.')
  again = 'if it is damaged or incomplete, move it away and prepare it again'
  return DataError(f'the data set in {path} cannot be read ({reason}); {again}')


def fingerprint(path: pathlib.Path) -> list[list]:
  """Names, sizes and times of a prepared set's files: it changes when the data are made anew."""
  files = sorted(file for file in path.iterdir() if file.is_file())
  return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _info(path: pathlib.Path) -> dict[str, Any]:
  try:
    return dict(json.loads((path / 'dataset_info.json').read_text()))
  except (OSError, ValueError) as error:
    raise unreadable(path, error) from error


def _versions(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  return {
    child.name: child
    for child in _folders(folder)
    if re.fullmatch(r'\d+\.\d+\.\d+', child.name) and (child / 'dataset_info.json').is_file()
  }


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  return [child for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
