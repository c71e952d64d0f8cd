"""Small patches of the two photographs that scikit-learn bundles: foreign data for the digits."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from random_pruning_jax.data.digits import png


class NaturalPatches(tfds.core.GeneratorBasedBuilder):
  """1,040 grey 8x8 patches of a Chinese temple (label 0) and a flower (label 1).

  Each is a 16x16 square of the photograph averaged two by two, so that patches hold edges and not
  only smooth sky; squares are taken like the black fields of a chessboard and never overlap.
  """

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1)),
          'label': tfds.features.ClassLabel(names=['china', 'flower']),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_sample_images.html',
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    del dl_manager
    return {'test': self._generate_examples()}

  def _generate_examples(self):
    from sklearn.datasets import load_sample_images

    for label, photo in enumerate(load_sample_images().images):
      for number, patch in enumerate(patches(photo)):
        yield f'{label}_{number:04d}', {'image': png(patch), 'label': label}


def patches(photo: np.ndarray) -> Iterator[np.ndarray]:
  """Yields uint8 patches [8, 8] of a photograph [H, W, 3]."""
  grey = photo @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
  for row in range(grey.shape[0] // 16):
    for column in range(row % 2, grey.shape[1] // 16, 2):
      square = grey[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
      yield np.round(square.reshape(8, 2, 8, 2).mean((1, 3))).astype(np.uint8)
