"""TFDS data sets as arrays of pixels, read without TensorFlow.

`describe` gives the facts of a set (classes, normalisation, augmentation), `class_names` what its
classes are called, `load` the images of a split, `load_adapted` those of a foreign set in the size
that a network wants. `prepare.prepare` downloads. `resident`, imported by itself because it needs
JAX, makes batches on the device.
"""

from random_pruning_jax.data.adapt import adapt, load_adapted
from random_pruning_jax.data.decode import Images
from random_pruning_jax.data.describe import class_names, describe
from random_pruning_jax.data.load import check_known, check_splits, find, labelled, load
from random_pruning_jax.data.prepare import prepare
from random_pruning_jax.data.specs import SPECS, DataError, Spec

__all__ = [
  'SPECS',
  'DataError',
  'Images',
  'Spec',
  'adapt',
  'check_known',
  'check_splits',
  'class_names',
  'describe',
  'find',
  'labelled',
  'load',
  'load_adapted',
  'prepare',
]
