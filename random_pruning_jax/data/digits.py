"""The 1,797 handwritten digits that scikit-learn bundles, as a TFDS data set."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
  """8x8 grey images of handwritten digits (Alpaydin and Kaynak, 1998), prepared without a network.

  1,257 training, 180 validation and 360 test images; the splits hold every class in proportion and
  never change. Pixels, counts 0..16 in the source, are scaled to 0..255.
  """

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1)),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html',
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    del dl_manager
    return {name: self._generate_examples(name) for name in ('train', 'validation', 'test')}

  def _generate_examples(self, split: str):
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)
    for index in split_indices(source.target)[split]:
      yield int(index), {'image': png(images[index]), 'label': int(source.target[index])}


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
  """Deals the images, class after class, in rounds of ten: two to test, one to validation."""
  order = np.random.RandomState(0).permutation(len(labels))  # this generator's stream is frozen
  order = order[np.argsort(labels[order], kind='stable')]
  place = np.arange(len(labels)) % 10
  return {
    'test': order[place % 5 == 0],
    'validation': order[place == 1],
    'train': order[(place % 5 != 0) & (place != 1)],
  }


def png(image: np.ndarray) -> bytes:
  """A grey or colour uint8 image as PNG, encoded here so that TFDS need not call TensorFlow."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='PNG')
  return buffer.getvalue()
