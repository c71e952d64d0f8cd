"""Sparse ways beside the dense one, layer by layer and over a whole network, and PyTorch's."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import race
from benchmarks.file_sizes import NETWORKS, network
from random_pruning_jax import data
from random_pruning_jax import sparse_inference as sparse

# Kernel, channels in and out, image size: 3x3 layers of ResNets, then those of a wide bottleneck.
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
)

COLUMNS = (
  'batch',
  'kernel',
  'channels',
  'size',
  'density',
  'dense ms',
  'columns ms',
  'taps ms',
  'PyTorch dense ms',
  'XLA dense / best sparse',
  'best dense / best sparse',
)

WHOLE = (
  'network',
  'batch',
  'density',
  'XLA dense ms',
  'chosen ms',
  'PyTorch dense ms',
  'XLA dense / chosen',
  'sparse layers',
)


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks sparse_inference', description=__doc__
  )
  parser.add_argument('--batches', default='1,16')
  parser.add_argument('--densities', default='0.1,0.05')
  parser.add_argument('--network', default='', help='a whole network of benchmarks/file_sizes.py')
  parser.add_argument('--width', type=int, default=64)
  parser.add_argument('--rounds', type=int, default=sparse.ROUNDS)
  options = parser.parse_args(arguments)
  batches = [int(text) for text in options.batches.split(',')]
  densities = [float(text) for text in options.densities.split(',')]
  if options.network:
    _whole(options.network, options.width, batches, densities, options.rounds)
  else:
    _layers(batches, densities, options.rounds)


def _layers(batches: list[int], densities: list[float], rounds: int) -> None:
  print(f'\n| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
  generator = np.random.default_rng(0)
  for batch in batches:
    for size, inputs, outputs, pixels in LAYERS:
      for density in densities:
        kernel = generator.standard_normal((size, size, inputs, outputs), np.float32)
        kernel *= generator.random(kernel.shape) < density
        site = sparse.Site('', (batch, pixels, pixels, inputs), 1, size // 2)
        times = sparse.timed(kernel, site, rounds)
        peer = min(race({'PyTorch': _torch(kernel, site)}, rounds)['PyTorch'])
        best = min(times['columns'], times.get('taps', np.inf))
        print(
          f'| {batch} | {size}x{size} | {inputs} -> {outputs} | {pixels} | {density:g} '
          f'| {times["dense"]:.2f} | {times["columns"]:.2f} | {times.get("taps", np.nan):.2f} '
          f'| {peer:.2f} | {times["dense"] / best:.2f} | {min(times["dense"], peer) / best:.2f} |',
          flush=True,
        )


def _whole(name: str, width: int, batches, densities, rounds: int) -> None:
  (dataset,) = {found for known, wide, found in NETWORKS if (known, wide) == (name, width)}
  shape = data.SPECS[dataset].shape
  print(f'\n| {" | ".join(WHOLE)} |\n|{"---|" * len(WHOLE)}')
  for batch in batches:
    for density in densities:
      stored = network(name, width, data.SPECS[dataset], dataset, density)
      found = sparse.predictor(stored.model, stored.variables, (batch, *shape))
      plain = sparse.predictor(stored.model, stored.variables, (batch, *shape), ways={})
      images = jnp.zeros((batch, *shape))
      runs = {'dense': _ready(plain.logits, images), 'chosen': _ready(found.logits, images)}
      if name == 'resnet20':
        runs['PyTorch'] = _torch_resnet(width, batch)
      least = {run: min(values) for run, values in race(runs, rounds).items()}
      layers = sum(way != 'dense' for way in found.ways.values())
      peer = f'{least["PyTorch"]:.2f}' if 'PyTorch' in least else ''
      print(
        f'| {name} x {width} | {batch} | {density:g} | {least["dense"]:.2f} '
        f'| {least["chosen"]:.2f} | {peer} | {least["dense"] / least["chosen"]:.2f} '
        f'| {layers} of {len(found.ways)} |',
        flush=True,
      )


def _ready(function, images):
  return lambda: jax.block_until_ready(function(images))


def _torch_resnet(width: int, batch: int):
  import torch

  from benchmarks.torch_peer import resnet20

  model = resnet20(width).eval().to(memory_format=torch.channels_last)
  images = torch.zeros(batch, 3, 32, 32)

  def run():
    with torch.inference_mode():
      model(images)

  return run


def _torch(kernel: np.ndarray, site: sparse.Site):
  import torch

  weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
  weights = weights.contiguous(memory_format=torch.channels_last)
  images = torch.randn(site.shape).permute(0, 3, 1, 2)

  def run():
    with torch.inference_mode():
      torch.nn.functional.conv2d(images, weights, stride=site.stride, padding=site.pad)

  return run
