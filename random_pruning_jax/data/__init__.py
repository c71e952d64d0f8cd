"""TFDS data sets as arrays of pixels, read without TensorFlow.

`load` gives the images of a split, `describe` the facts about a set (classes, normalisation,
augmentation), `adapt` makes foreign images fit a network, `prepare` downloads; `resident` (imported
by itself, because it needs JAX) makes batches on the device.
"""

from random_pruning_jax.data.load import Images, load
from random_pruning_jax.data.specs import SPECS, DataError, Spec

__all__ = ['SPECS', 'DataError', 'Images', 'Spec', 'load']
