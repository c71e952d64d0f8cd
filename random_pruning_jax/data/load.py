"""A split of a data set as arrays in the host's memory."""

from typing import NamedTuple

import numpy as np

from random_pruning_jax.data import builders
from random_pruning_jax.data.specs import SPECS


class Images(NamedTuple):
  """Decoded images uint8 [N, H, W, C] and their labels int32 [N]."""

  images: np.ndarray
  labels: np.ndarray


def load(name: str, split: str, data_dir: str = '') -> Images:
  """All images of a split: 'train', 'validation' or 'test' as the set's spec defines them.

  Any other TFDS split expression is taken as it stands ('train[:1000]').
  """
  builder = builders.find(name, data_dir)
  source = builder.as_data_source(SPECS[name].splits.get(split, split) if name in SPECS else split)
  examples = source.__getitems__(list(range(len(source))))
  images = np.stack([example['image'] for example in examples])
  return Images(images, np.array([example['label'] for example in examples], np.int32))
