"""Classes and probabilities of image files or of a data set's images, from an exported network."""

import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import special

from random_pruning_jax import data, files
from random_pruning_jax.data import crops
from random_pruning_jax.data.specs import unversioned
from random_pruning_jax.progress import Stages


class Prediction(NamedTuple):
  """What a network says of one image; classes by falling probability."""

  image: str  # a file, or 'test[3]' of a data set
  classes: np.ndarray  # int [K]
  probabilities: np.ndarray  # float32 [K]
  label: int | None = None  # where it is known

  def to_json(self, top: int) -> dict[str, Any]:
    """As one line of `predict --json`."""
    line = {'image': self.image, 'class': int(self.classes[0])}
    line |= {'probability': float(self.probabilities[0])}
    line['top'] = [
      {'class': int(name), 'probability': float(p)}
      for name, p in zip(self.classes[:top], self.probabilities[:top], strict=True)
    ]
    return line if self.label is None else line | {'label': self.label}


def of_files(
  network: files.Stored | files.Program,
  images: Sequence[str],
  *,
  batch_size: int = 32,
  show: bool = True,
) -> Iterator[Prediction]:
  """For image files of any size, prepared as evaluation would prepare a data set of them.

  Raises ValueError naming a file that is no image.
  """

  def read(start: int) -> np.ndarray:
    names = images[start : start + batch_size]
    return np.stack([_open(name, network.about) for name in names])

  yield from _predict(network, list(images), read, None, batch_size, show)


def of_dataset(
  network: files.Stored | files.Program,
  name: str,
  split: str = 'test',
  *,
  data_dir: str = '',
  batch_size: int = 32,
  show: bool = True,
) -> Iterator[Prediction]:
  """For a split's images in order, adapted to the size that the network takes.

  Labels are given if the network was trained on this data set.
  """
  about = network.about
  (images, labels), _ = data.load_adapted(name, split, about.shape, data_dir, about.resize)
  known = unversioned(name) == unversioned(network.about.dataset)
  names = [f'{split}[{index}]' for index in range(len(images))]
  read = lambda start: np.asarray(images[start : start + batch_size])  # noqa: E731
  yield from _predict(network, names, read, labels if known else None, batch_size, show)


def line(prediction: Prediction, top: int, as_json: bool) -> str:
  """As one line, of JSON or for a person."""
  if as_json:
    return json.dumps(prediction.to_json(top))
  said = [
    f'{int(name):>4} {p:7.2%}'
    for name, p in zip(prediction.classes[:top], prediction.probabilities[:top], strict=True)
  ]
  label = '' if prediction.label is None else f'   label {prediction.label}'
  return f'{prediction.image}  {"  ".join(said)}{label}'


def _predict(network, names, read, labels, batch_size, show) -> Iterator[Prediction]:
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  stages = Stages(show)
  advance = stages.begin('predicting', len(names))
  size = min(batch_size, len(names))
  try:
    for start in range(0, len(names), batch_size):
      images = read(start)
      # One shape for all batches: a smaller last one would be compiled again.
      padded = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)])
      rows = special.softmax(network.logits(padded)[: len(images)], axis=1)
      for row, probabilities in enumerate(rows, start):
        order = np.argsort(-probabilities, kind='stable')
        label = None if labels is None else int(labels[row])
        yield Prediction(names[row], order, probabilities[order], label)
      advance(len(images))
  finally:
    stages.close()


def _open(name: str, about: files.About) -> np.ndarray:
  """An image file as uint8 of the shape that the network takes."""
  height, width, channels = about.shape
  if channels not in crops.MODES:
    raise ValueError(f'image files have 1 or 3 channels; the network takes {channels}.')
  try:
    if about.resize:  # as evaluation decodes images that differ in size
      choose = functools.partial(crops.central_region, size=(height, width), resize=about.resize)
      return crops.pillow(pathlib.Path(name).read_bytes(), choose, (height, width), channels)
    with Image.open(name) as image:
      pixels = np.asarray(crops.in_mode(image, channels))
  except (*crops.UNREADABLE, data.DataError) as error:
    raise ValueError(f'{name} must be an image file: {error}.') from error
  return data.adapt(pixels.reshape(1, *pixels.shape[:2], channels), height, width, channels)[0][0]
