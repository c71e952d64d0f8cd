"""Random pruning before training, in JAX: train what is left, measure it beside its dense twin."""

__version__ = '0.1.0'
