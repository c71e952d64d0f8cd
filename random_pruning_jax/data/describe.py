"""The facts about a data set: from the table, or measured on a set that is not in it."""

import pathlib

import numpy as np

from random_pruning_jax.data import places
from random_pruning_jax.data.decode import Kind, kind_of
from random_pruning_jax.data.load import find, load, split_expression
from random_pruning_jax.data.specs import Spec, spec_of, split_rules

# For images that differ in size, as is usual on ImageNet, and how many of them are measured.
SIZE, RESIZE, MEASURED = (224, 224), 256, 1000


def describe(name: str, data_dir: str = '') -> Spec:
  """Classes, shape, normalisation, splits and augmentation of a data set.

  Sets that are not in SPECS are described by their own files, which name the classes: mean and
  standard deviation are those of their training images, which are not augmented. Where images
  differ in size, both are measured on the first thousand as evaluation would show them, 224 pixels
  of 256.
  """
  spec = spec_of(name)
  if spec is not None:
    return spec
  path = find(name, data_dir)
  split_expression(name, 'train', path)  # or says that there is none
  kind = kind_of(name, path)
  varied = None in kind.shape
  if varied:
    count = 9 * places.split_sizes(path)['train'] // 10  # no held-out tenth
    count = max(1, min(MEASURED, count))
    images, _ = load(name, f'train[:{count}]', data_dir, size=SIZE, resize=RESIZE)
  else:
    images, _ = load(name, 'train', data_dir)
  mean, std = moments(images)
  std = tuple(each or 1.0 for each in std)  # a channel that is the same everywhere
  splits = split_rules(places.split_sizes(path))
  return Spec(
    kind.num_classes,
    images.shape[1:],
    mean,
    std,
    splits,
    resize=RESIZE if varied else 0,
    class_names=_written_names(path, kind),
  )


def class_names(name: str, data_dir: str = '') -> tuple[str, ...]:
  """Names of a prepared set's classes by their labels; '0', '1', ... where its files have none.

  Raises DataError where the set is not there, or holds no such images.
  """
  path = find(name, data_dir)
  kind = kind_of(name, path)
  return _written_names(path, kind) or tuple(map(str, range(kind.num_classes)))


def _written_names(path: pathlib.Path, kind: Kind) -> tuple[str, ...]:
  names = path / f'{kind.label}.labels.txt'  # which TFDS writes where classes have names
  return tuple(names.read_text('utf-8').splitlines()) if names.is_file() else ()


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel of images uint8 [N, H, W, C], in [0, 1]."""
  # From counts of the 256 values: exact, and no float copy of the images is made.
  values = np.arange(256) / 255
  means, stds = [], []
  for channel in range(images.shape[3]):
    counts = sum(
      np.bincount(part[..., channel].ravel(), minlength=256)
      for part in np.array_split(images, 1 + len(images) // 10_000)
    )
    shares = counts / counts.sum()
    mean = float(shares @ values)
    means.append(round(mean, 4))
    stds.append(round(float(np.sqrt(shares @ (values - mean) ** 2)), 4))
  return tuple(means), tuple(stds)
