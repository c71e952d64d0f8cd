"""A split of a data set as arrays in the host's memory."""

import pathlib

import numpy as np

from random_pruning_jax.data import bundled, crops, decode, missing, places, store
from random_pruning_jax.data.decode import Images
from random_pruning_jax.data.specs import VALIDATION, DataError, spec_of, split_rules

USES = ('train', 'validation', 'test')


def find(name: str, data_dir: str = '') -> pathlib.Path:
  """The directory of a prepared set, or a DataError that says how to get it."""
  spec = spec_of(name)
  if spec is not None and spec.module:
    return bundled.find(name, data_dir)
  root = places.data_root(data_dir)
  path = places.locate(name, root)
  if path is None:
    raise missing.missing(name, root)
  return path


def load(
  name: str,
  split: str,
  data_dir: str = '',
  *,
  size: tuple[int, int] | None = None,
  resize: int = 0,
  cache: bool = True,
) -> Images:
  """All images of a split: 'train', 'validation' or 'test' as the set's rules define them.

  Any other TFDS split expression is taken as it stands ('train[:1000]', 'train[:100%]'). Images
  that differ in size are fitted to `size` (height, width): their largest central part, or with
  `resize` the centre of the image whose shorter side has that many pixels. With `cache`, decoded
  images are kept in the user's cache directory and mapped from there the next time.
  """
  path = find(name, data_dir)
  expression = split_expression(name, split, path)

  def make() -> decode.Decoded:
    return decode.decode(name, path, expression, size, resize)

  if not cache:
    return store.collect(make())
  identity = {'source': str(path.resolve()), 'split': expression, 'size': size}
  identity |= {'resize': resize} if resize else {}  # entries made without it keep their name
  made_by = [crops.VERSION] if size else []  # else images are as they were stored
  return store.fetch(name, identity, places.fingerprint(path) + made_by, make)


def labelled(images: Images, num_classes: int, what: str) -> Images:
  """`images`, or a DataError where a label is no class: -1 stands for none in some test splits."""
  labels = np.asarray(images.labels)
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise DataError(
      f'labels of {what} must lie in [0, {num_classes}), got {labels.min()} to {labels.max()}'
    )
  return images


def check_known(name: str, data_dir: str = '') -> None:
  """Raises DataError for a name that nothing knows. A known set need not be there."""
  root = places.data_root(data_dir)
  if spec_of(name) is None and places.locate(name, root) is None:
    missing.create(name, root)


def check_splits(name: str, data_dir: str = '') -> None:
  """Raises DataError where a set is not there, or lacks training, validation or test images."""
  path = find(name, data_dir)
  for split in USES:
    whole = split_expression(name, split, path).partition('[')[0]
    places.check_files(path, whole)


def split_expression(name: str, split: str, path: pathlib.Path) -> str:
  """The TFDS expression of 'train', 'validation' or 'test'; anything else is returned as it is.

  Raises DataError where none of the set's splits holds such images.
  """
  spec = spec_of(name)
  available = places.split_sizes(path)
  rules = split_rules(available) if spec is None else spec.splits
  if split not in USES:
    return split
  whole, bracket, part = rules.get(split, split).partition('[')
  if whole in VALIDATION:
    whole = next((other for other in VALIDATION if other in available), whole)
  if not available.get(whole):
    called = '' if whole == split else f' (split {whole!r})'
    raise DataError(f'{name} has no {split} images{called}; its splits are {places.listed(path)}')
  return f'{whole}{bracket}{part}'
