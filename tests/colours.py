"""A set `colours`, made of a folder: its images differ in size, and pixels say which they are."""

import numpy as np
from PIL import Image
from tiny import tiny_config

from random_pruning_jax.data import streamed

COLOURS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}
TRAIN, TEST = 12, 5  # images of each class


def jpeg(path, colour, number, rng):
  """An image of any size, lighter towards its right, so that crops differ. The strength of its
  colour encodes its number, so that any crop shows it."""
  height, width = rng.integers(20, 60, 2)
  pixels = np.ones((height, width, 3)) * np.array(colour) / 255 * (100 + 8 * number)
  pixels += np.linspace(0, 60, width)[None, :, None]
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95, subsampling='4:4:4')


def who(images):
  """(class, number) of each image, by its pixels alone."""
  means = images.mean((1, 2))
  numbers = np.round((means.max(1) - means.min(1) - 100) / 8).astype(int)
  classes = 2 - means.argmax(1)  # blue, green and red, by name
  return list(zip(classes.tolist(), numbers.tolist(), strict=True))


def all_of(number):
  return [(label, i) for label in range(3) for i in range(number)]


def streamed_config(data_dir, **changes):
  fields = {'dataset': 'colours', 'data_dir': data_dir, 'batch_size': 8, 'image_size': 16}
  fields |= {'augment__mode': 'resized', 'augment__flip': 'yes', 'data_workers': 0, 'log_every': 2}
  fields |= {'evaluation__foreign': (), 'evaluation__batch_size': 8, 'epochs': 2}
  return tiny_config(**(fields | changes))


def source(data_dir, split='train'):
  return streamed.EncodedImages('colours', split, data_dir)


def example(data_dir, mine=None, batch_size=8, seed=5, **augment):
  places_of_batch = tuple(range(batch_size)) if mine is None else mine
  augment = streamed.Augment((16, 16), 3, **augment)
  return streamed.Example(source(data_dir), augment, seed, batch_size, places_of_batch)


def write(images):
  """The folder, of splits `train`, `val` and `test`."""
  rng = np.random.default_rng(0)
  for split, number in (('train', TRAIN), ('val', TEST), ('test', TEST)):
    for name, colour in COLOURS.items():
      for i in range(number):
        jpeg(images / split / name / f'{i}.jpg', colour, i, rng)
