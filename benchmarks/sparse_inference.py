"""Sparse ways beside the dense one, layer by layer and over a whole network, and PyTorch's."""

import argparse
import collections
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import at_least_one, race
from benchmarks.file_sizes import network
from random_pruning_jax import data, sparse_ways
from random_pruning_jax import sparse_inference as sparse

# Kernel, channels in and out, image size: 3x3 layers of ResNets, those of a wide bottleneck, and
# linear layers: its classifier, and the product of a small layer.
LAYERS = (
  (3, 32, 32, 32),
  (3, 64, 64, 16),
  (3, 128, 128, 8),
  (3, 128, 128, 16),
  (3, 256, 256, 8),
  (3, 256, 256, 14),
  (1, 512, 256, 14),
  (1, 1024, 512, 7),
  (1, 2048, 1024, 7),
  (1, 2048, 1000, 1),
  (1, 576, 64, 1),
)

MASKS = {'random': 'kept at random', 'fan_in': 'as many for each output', 'n_m': 'as many of 16'}

COLUMNS = (
  'batch',
  'kernel',
  'channels',
  'size',
  'density',
  'XLA dense',
  'PyTorch',
  'PyTorch, channels last',
  'dense, compiled',
  'columns',
  'taps',
  'compiled',
  'XLA dense / best sparse',
  'best dense / best sparse',
)

WHOLE = (
  'network',
  'batch',
  'density',
  'XLA dense',
  'PyTorch',
  'PyTorch, channels last',
  'dense, compiled',
  'chosen',
  'XLA dense / chosen',
  'best dense / chosen',
  'ways',
)


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks sparse_inference', description=__doc__
  )
  parser.add_argument('--batches', default='1,16')
  parser.add_argument('--densities', default='0.1,0.05')
  parser.add_argument('--network', default='', help='a whole network instead of layers')
  parser.add_argument('--width', type=at_least_one, default=64)
  parser.add_argument('--masks', default='random', choices=sorted(MASKS))
  parser.add_argument('--rounds', type=at_least_one, default=sparse.ROUNDS)
  options = parser.parse_args(arguments)
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  batches = [int(text) for text in options.batches.split(',')]
  densities = [float(text) for text in options.densities.split(',')]
  if options.network:
    _whole(options.network, options.width, batches, densities, options.rounds)
  else:
    _layers(batches, densities, options.masks, options.rounds)


def _layers(batches: list[int], densities: list[float], masks: str, rounds: int) -> None:
  print(f'\nMilliseconds; weights {MASKS[masks]}.\n')
  print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
  generator = np.random.default_rng(0)
  for batch in batches:
    for size, inputs, outputs, pixels in LAYERS:
      for density in densities:
        shape = (size, size, inputs, outputs)
        kernel = generator.standard_normal(shape, np.float32) * _mask(
          generator, shape, density, masks
        )
        site = sparse_ways.Site('', (batch, pixels, pixels, inputs), 1, size // 2)
        times = sparse.timed(kernel, site, rounds)
        peers = sparse.least_milliseconds(_torch(kernel, site), rounds)  # timed as ours are
        best = min(value for name, value in times.items() if 'dense' not in name)
        dense = [times['dense'], *peers.values(), times.get('dense_compiled', np.nan)]
        cells = dense + [times.get(name, np.nan) for name in ('columns', 'taps', 'compiled')]
        cells += [times['dense'] / best, np.nanmin(dense) / best]
        print(
          f'| {batch} | {size}x{size} | {inputs} -> {outputs} | {pixels} | {density:g} '
          f'| {" | ".join("" if np.isnan(cell) else f"{cell:.2f}" for cell in cells)} |',
          flush=True,
        )


def _mask(generator: np.random.Generator, shape, density: float, masks: str) -> np.ndarray:
  if masks == 'random':
    return generator.random(shape) < density
  group = 16 if masks == 'n_m' else int(np.prod(shape[:-1]))
  draws = generator.random((*shape[:2], shape[2] // 16, 16, shape[3]))
  draws = draws.reshape(-1, group, shape[3])
  ranks = draws.argsort(1).argsort(1)
  return (ranks < round(density * group)).reshape(shape)


def _whole(name: str, width: int, batches, densities, rounds: int) -> None:
  dataset = 'imagenet2012' if name.startswith(('resnet50', 'wrn')) else 'cifar10'
  shape = data.SPECS[dataset].shape
  print(f'\nMilliseconds.\n\n| {" | ".join(WHOLE)} |\n|{"---|" * len(WHOLE)}')
  for batch in batches:
    for density in densities:
      stored = network(name, width, data.SPECS[dataset], dataset, density)
      found = sparse.predictor(stored.model, stored.variables, (batch, *shape))
      images = jnp.zeros((batch, *shape))
      runs = {}
      for way in ('dense', 'dense_compiled'):
        if way in sparse_ways.available():
          ways = dict.fromkeys(found.ways, way)
          dense = sparse.predictor(stored.model, stored.variables, images.shape, ways=ways)
          runs[way] = _ready(dense.logits, images)
      runs['chosen'] = _ready(found.logits, images)
      runs |= _torch_network(name, width, images.shape)
      least = {run: min(values) for run, values in race(runs, rounds).items()}
      chosen = least.pop('chosen')
      counts = collections.Counter(found.ways.values())
      cells = [least.get(way, np.nan) for way in ('dense', *_layouts(), 'dense_compiled')]
      cells += [chosen, least['dense'] / chosen, min(least.values()) / chosen]
      print(
        f'| {name} x {width} | {batch} | {density:g} '
        f'| {" | ".join(f"{cell:.2f}" for cell in cells)} '
        f'| {", ".join(f"{number} {way}" for way, number in counts.items())} |',
        flush=True,
      )


def _ready(function, images):
  return lambda: jax.block_until_ready(function(images))


def _torch_network(name: str, width: int, shape) -> dict:
  import torch

  from benchmarks import torch_peer

  batch, height, wide, channels = shape
  runs = {}
  for label, layout in _layouts().items():
    model = torch_peer.NETWORKS[name](width).eval().to(memory_format=layout)
    images = torch.zeros(batch, channels, height, wide).contiguous(memory_format=layout)
    runs[label] = _inference(functools.partial(model, images))
  return runs


def _torch(kernel: np.ndarray, site: sparse_ways.Site) -> dict:
  import torch

  runs = {}
  for label, layout in _layouts().items():
    weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=layout)
    images = torch.randn(site.shape).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    product = functools.partial(
      torch.nn.functional.conv2d, images, weights, stride=site.stride, padding=site.pad
    )
    runs[label] = _inference(product)
  return runs


def _layouts() -> dict:
  import torch

  return {'plain': torch.contiguous_format, 'last': torch.channels_last}


def _inference(product):
  import torch

  def run():
    with torch.inference_mode():
      product()

  return run
