"""One convolution's forward pass and gradients: this code, with and without Numba, and XLA's."""

import argparse

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import at_least_one, race, table
from random_pruning_jax.models import convolution
from random_pruning_jax.system import processor

# Image size, kernel, stride, channels in and out: the layers of a ResNet-20 of width 16.
LAYERS = (
  (32, 3, 1, 16, 16),
  (16, 3, 1, 32, 32),
  (8, 3, 1, 64, 64),
  (32, 3, 2, 16, 32),
  (32, 1, 2, 16, 32),
)


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks convolution', description=__doc__)
  parser.add_argument('--batch', type=at_least_one, default=128)
  parser.add_argument('--rounds', type=at_least_one, default=7)
  options = parser.parse_args(arguments)
  processor.keep_memory()
  for size, kernel, stride, inputs, outputs in LAYERS:
    runs = _runs(options.batch, size, kernel, stride, inputs, outputs)
    print(f'\n{kernel}x{kernel}, stride {stride}, {inputs} -> {outputs} channels at {size}\n')
    print(table(race(runs, options.rounds), 'forward, XLA', options.batch))


def _runs(batch, size, kernel, stride, inputs, outputs):
  x = jax.random.normal(jax.random.key(0), (batch, size, size, inputs))
  weights = jax.random.normal(jax.random.key(1), (kernel, kernel, inputs, outputs))
  g = jnp.ones((batch, size // stride, size // stride, outputs))
  pads = ((kernel // 2, kernel // 2),) * 2

  def bound(conv):
    def convolve(x, weights):
      return conv(x, weights, (stride, stride), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    return {
      'forward': convolve,
      'input gradient': lambda x, w: jax.vjp(lambda x: convolve(x, w), x)[1](g),
      'kernel gradient': lambda x, w: jax.vjp(lambda w: convolve(x, w), w)[1](g),
    }

  ways = {'XLA': lax.conv_general_dilated, 'by_pieces': convolution.by_pieces}
  if convolution.fastest() is convolution.by_kernels:
    ways['by_kernels'] = convolution.by_kernels
  bound_ways = {way: bound(conv) for way, conv in ways.items()}
  return {
    f'{part}, {way}': _ready(jax.jit(bound_ways[way][part]), x, weights)
    for part in ('forward', 'input gradient', 'kernel gradient')
    for way in ways
  }


def _ready(function, *operands):
  return lambda: jax.block_until_ready(function(*operands))
