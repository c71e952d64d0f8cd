"""Classes and probabilities of image files or of a data set's images, from an exported network."""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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

  def read(part: slice) -> np.ndarray:
    return np.stack([_open(name, network.about) for name in images[part]])

  return _predict(network, images, read, None, batch_size, show)


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

  Labels are given if the network was trained on this data set, of images that have one.
  """
  about = network.about
  (images, labels), _ = data.load_adapted(name, split, about.shape, data_dir, about.resize)
  known = unversioned(name) == unversioned(about.dataset)
  names = [f'{split}[{index}]' for index in range(len(images))]
  return _predict(network, names, images.__getitem__, labels if known else None, batch_size, show)


def line(prediction: Prediction, top: int, as_json: bool) -> str:
  """As one line, of JSON or for a person; `top` is at least 1."""
  image, classes, probabilities, label = prediction
  likeliest = list(zip(classes[:top].tolist(), probabilities[:top].tolist(), strict=True))
  if not as_json:
    said = '  '.join(f'{name:>4} {p:7.2%}' for name, p in likeliest)
    return f'{image}  {said}' + ('' if label is None else f'   label {label}')
  found = [{'class': name, 'probability': p} for name, p in likeliest]
  known = {} if label is None else {'label': label}
  return json.dumps({'image': image, **found[0], 'top': found, **known})


def _predict(
  network: files.Stored | files.Program,
  names: Sequence[str],
  read: Callable[[slice], np.ndarray],
  labels: np.ndarray | None,
  batch_size: int,
  show: bool,
) -> Iterator[Prediction]:
  """`read` gives the images of some of the names: uint8 [B, H, W, C]."""
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
  stages = Stages(show)
  advance = stages.begin('predicting', len(names))
  size = min(batch_size, len(names))
  try:
    for start in range(0, len(names), batch_size):
      images = read(slice(start, start + batch_size))
      # One shape for all batches: a smaller last one would be compiled again.
      padded = np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), np.uint8)])
      rows = special.softmax(network.logits(padded)[: len(images)], axis=1)
      for row, probabilities in enumerate(rows, start):
        order = np.argsort(-probabilities, kind='stable')
        known = labels is not None and labels[row] >= 0  # some test images have -1, which is none
        label = int(labels[row]) if known else None
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
