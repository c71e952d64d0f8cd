"""Random pruning before training, in JAX: train what is left, measure it beside its dense twin."""

__version__ = '0.1.0'


def load(file, *, trained_on=''):
  """The network in an exported file, or in a PyTorch checkpoint: see `files.load`."""
  from random_pruning_jax import files  # here, so that the package itself is imported at once

  return files.load(file, trained_on=trained_on)
