"""What to tell a person whose data set is not there."""

import contextlib
import difflib
import importlib.util
import pathlib
import re

from random_pruning_jax.data import places
from random_pruning_jax.data.specs import SPECS, DataError, unversioned

INSTALL = 'pip install -e ".[prepare]"'
MOST_FILES = 12  # a builder with many variants registers the files of all of them
MOST_VARIANTS = 3  # named in a message


def missing(name: str, root: pathlib.Path) -> DataError:
  """What was looked for and where, the command that makes it, and what to download by hand."""
  builder = create(name, root)
  where = pathlib.Path(builder.data_path).parent
  lines = [
    f'data set {name} was looked for in {where} and is not there; to prepare it: '
    f'random-pruning prepare {name} --data-dir={root}',
  ]
  return DataError('\n'.join([*lines, *_how_to_prepare(builder)]))


def _how_to_prepare(builder) -> list[str]:
  """What TensorFlow is needed for, where it is not installed, and the files to download."""
  lines = []
  if importlib.util.find_spec('tensorflow') is None:
    lines.append(f'Most sets need TensorFlow to be prepared (training does not): {INSTALL}')
  return lines + manual_files(builder)


def manual_files(builder) -> list[str]:
  """Lines that name the files to download by hand, with sizes, as the builder registered them."""
  infos = builder.url_infos or {}
  lines = []
  if infos:
    lines.append('To download by hand, put these in a folder and add --manual-dir=FOLDER:')
  for url, info in list(infos.items())[:MOST_FILES]:
    lines.append(f'  {filename(url, info)}  {int(info.size):,} bytes  {url}')
  if len(infos) > MOST_FILES:
    lines.append(f'  ... and {len(infos) - MOST_FILES} more; only those of this variant are needed')
  if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    lines += ['This set can only be downloaded by hand:']
    lines += [f'  {line.strip()}' for line in builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split('\n')]
  return [line for line in lines if line.strip()]


def filename(url: str, info) -> str:
  """The name under which TFDS looks for a file that was downloaded by hand."""
  return info.filename or url.rsplit('/', 1)[-1]


def create(name: str, root: pathlib.Path):
  """The TFDS builder of a set that need not be prepared; raises DataError for an unknown name."""
  import tensorflow_datasets as tfds

  check_name(name)
  try:
    return tfds.builder(name, data_dir=str(root))
  except tfds.core.DatasetNotFoundError:
    pass
  except OSError as error:  # of a directory of the set without its dataset_info.json
    raise places.unreadable(root / unversioned(name), error) from error
  except (ValueError, AssertionError) as error:
    base, _, variant = unversioned(name).partition('/')
    variants = tfds.builder_cls(base).builder_configs
    if variant and variant not in variants:
      known = ', '.join(variants) or 'none'
      raise DataError(f'data set {base} has no variant {variant!r}; it has {known}') from error
    reason = str(error).rpartition('}": ')[2]  # after TFDS's own "Failed to construct ..."
    raise DataError(f'data set {name}: {reason}') from error
  here = places.prepared(root)
  known = sorted({*SPECS, *here, *tfds.list_builders(with_community_datasets=False)})
  close = difflib.get_close_matches(name.split('/')[0].split(':')[0], known, n=3)
  hint = f'did you mean {" or ".join(close)}? ' if close else ''
  if not root.is_dir():
    hint += f'there is no directory {root} (--data-dir or config.data_dir says where data lie); '
  raise DataError(
    f'unknown data set {name!r}; {hint}'
    f'known: {", ".join(SPECS)}, every image set of TFDS, and what is prepared in {root}: '
    + (', '.join(here) or 'none')
  )


def check_name(name: str) -> None:
  """Raises DataError for no name of a set, and for one that TFDS has in several variants."""
  import tensorflow_datasets as tfds

  if not re.fullmatch(r'[a-zA-Z_]\w*(/[^:/]+)?(:\d+\.\d+\.\d+)?', name):
    raise DataError(f'a data set is named NAME, NAME/CONFIG or NAME:1.0.0, got {name!r}')
  base, _, variant = unversioned(name).partition('/')
  variants: list[str] = []
  with contextlib.suppress(tfds.core.DatasetNotFoundError):
    variants += tfds.builder_cls(base).builder_configs
  if len(variants) > 1 and not variant:
    some = ', '.join(f'{base}/{each}' for each in variants[:MOST_VARIANTS])
    more = ', ...' if len(variants) > MOST_VARIANTS else ''
    raise DataError(f'{base} comes in {len(variants)} variants, name one: {some}{more}')


def other_format(name: str, path: pathlib.Path) -> DataError:
  """The set is there in a format that cannot be read at random without TensorFlow."""
  root = path.parents[len(name.split('/'))]
  lines = [
    f'data set {name} in {path} is stored as {places.file_format(path)}, and array_record is '
    'wanted. Move it away or take another directory, then:',
    f'  random-pruning prepare {name} --data-dir={root}',
  ]
  with contextlib.suppress(DataError):  # of a set that is known by these files alone
    lines += _how_to_prepare(create(name, path / 'unprepared'))  # else TFDS reads the files
  return DataError('\n'.join(lines))
