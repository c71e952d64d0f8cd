"""Downloads and prepares a data set as array_record files, which training reads."""

import importlib.util
import logging
import pathlib
import urllib.parse

from random_pruning_jax.data import bundled, missing, places
from random_pruning_jax.data.specs import DataError, spec_of

WAIT = 10  # seconds until a server counts as out of reach


def prepare(name: str, data_dir: str = '', manual_dir: str = '') -> pathlib.Path:
  """Makes `name` ready in `data_dir` (default TFDS_DATA_DIR) and returns its directory.

  Files that were downloaded by hand are taken from `manual_dir`, under the names that a failure
  lists. Nothing is done if the set is there. Raises DataError with what is missing and where to
  get it, and where `name` leaves open which of several variants is meant.
  """
  root = places.data_root(data_dir)
  spec = spec_of(name)
  if spec is not None and spec.module:
    root = root if data_dir else places.cache_dir() / 'tfds'
    return places.locate(name, root) or bundled.prepare(name, root)
  try:
    path = places.locate(name, root)
  except DataError:
    missing.check_name(name)  # TFDS may have more variants than are there
    raise
  if path is None:
    return _download(name, root, manual_dir)
  if places.file_format(path) != 'array_record':
    raise missing.other_format(name, path)
  return path


def _download(name: str, root: pathlib.Path, manual_dir: str) -> pathlib.Path:
  import tensorflow_datasets as tfds

  builder = missing.create(name, root)
  manual = pathlib.Path(manual_dir).expanduser() if manual_dir else None
  if manual is not None and not manual.is_dir():
    raise DataError(f'manual_dir {manual} is no directory')
  if importlib.util.find_spec('tensorflow') is None:
    logging.warning('most sets need TensorFlow to be prepared: %s', missing.INSTALL)
  _check_network(name, builder, root, manual)
  config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
  try:
    builder.download_and_prepare(file_format='array_record', download_config=config)
  except Exception as error:
    raise _explained(name, builder, error) from error
  return pathlib.Path(builder.data_path)


def _check_network(name, builder, root, manual) -> None:
  """Fails in seconds where TFDS would try for minutes, if a download is needed at all."""
  import requests

  infos = builder.url_infos or {}
  names = [missing.filename(url, info) for url, info in infos.items()]
  by_hand = manual is not None and any((manual / file).exists() for file in names)
  downloaded = any((root / 'downloads' / builder.name).glob('*.INFO'))
  if not infos or by_hand or downloaded or builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    return
  url = next(iter(infos))
  try:
    requests.head(url, timeout=WAIT)
  except requests.exceptions.RequestException as error:
    server = urllib.parse.urlsplit(url).netloc
    lines = [f'{name} cannot be downloaded: {server} is out of reach.']
    raise DataError('\n'.join(lines + missing.manual_files(builder))) from error


def _explained(name: str, builder, error: Exception) -> Exception:
  """The failure in words for the user; an unknown one stays as it is."""
  import requests
  from tensorflow_datasets.core.download import DownloadError
  from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

  files = missing.manual_files(builder)
  for cause in _causes(error):
    match cause:
      case ModuleNotFoundError():
        return _not_installed(name, cause.name or '')
      case requests.exceptions.RequestException() | DownloadError():
        return DataError('\n'.join([f'{name} cannot be downloaded: {cause}', *files]))
      case NonMatchingChecksumError():
        return DataError('\n'.join([f'{name}: a file is not the registered one. {cause}', *files]))
      case AssertionError() if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return DataError('\n'.join([f'{name} needs files downloaded by hand.', *files]))
      case OSError():
        return DataError(f'{name} could not be prepared: {cause}')
  return error


def _causes(error: BaseException | None):
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _not_installed(name: str, module: str) -> DataError:
  if module.partition('.')[0] == 'tensorflow':
    return DataError(
      f'preparing {name} needs TensorFlow (training does not): {missing.INSTALL}\n'
      'What was downloaded is kept; then give the same command again.'
    )
  return DataError(f'{name} needs the package {module} to be prepared: pip install {module}')
