"""Sizes of files, multiply-adds and training cost of networks at several densities (ERK ratios).

Weights are made up: sizes do not depend on them.
"""

import argparse
import math

import jax
import numpy as np

from random_pruning_jax import cost, data, files, models, pruning
from random_pruning_jax.files import packed

# Model, width, data set.
NETWORKS = (
  ('resnet20', 16, 'cifar10'),
  ('resnet20', 64, 'cifar10'),
  ('vgg16', 64, 'cifar10'),
  ('resnet50', 64, 'imagenet2012'),
  ('wrn50_2', 64, 'imagenet2012'),
)

COLUMNS = (
  'network',
  'density',
  'dense file, MB',
  'seeded, MB',
  'seeded bfloat16, MB',
  'bitmap, MB',
  'bits a weight for its mask',
  'beyond values, bytes',
  'M multiply-adds, dense',
  'with kept weights',
  'of dense',
  'of a training step',
)


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks file_sizes', description=__doc__)
  parser.add_argument('--densities', default='0.05,0.1,0.2')
  parser.add_argument('--networks', default=','.join(sorted({name for name, *_ in NETWORKS})))
  options = parser.parse_args(arguments)
  print(f'\n| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
  for name, width, dataset in NETWORKS:
    for density in map(float, options.densities.split(',')):
      if name in options.networks.split(','):
        print(
          f'| {name} x {width} | {density:g} | {" | ".join(_row(name, width, dataset, density))} |'
        )


def _row(name: str, width: int, dataset: str, density: float) -> list[str]:
  stored = network(name, width, data.SPECS[dataset], dataset, density)
  structure, kept = stored.about.structure, stored.kept()
  densities = {layer.name: kept[layer.name] / layer.size for layer in structure.layers}
  sizes = [
    len(packed.write(stored, masks, dtype))
    for masks, dtype in (('seeded', 'float32'), ('seeded', 'bfloat16'), ('bitmap', 'float32'))
  ]
  values = cost.file_bytes(structure, densities)
  prunable = sum(layer.size for layer in structure.layers)
  macs, dense = cost.macs(structure.layers, densities), cost.macs(structure.layers)
  return [
    *(f'{size / 1e6:.2f}' for size in (cost.file_bytes(structure), *sizes)),
    f'{8 * (sizes[2] - sizes[0]) / prunable:.2f}',
    f'{sizes[0] - values:,}',
    f'{dense / 1e6:,.0f}',
    f'{macs / 1e6:,.0f}',
    f'{macs / dense:.3f}',
    f'{3 * macs / 1e6:,.0f}',
  ]


def network(name: str, width: int, spec: data.Spec, dataset: str, density: float) -> files.Stored:
  about = files.About(
    model=name,
    num_classes=spec.num_classes,
    width=models.create(name, 1, width=width).width,
    dtype='float32',
    shape=spec.shape,
    mean=spec.mean,
    std=spec.std,
    dataset=dataset,
  )
  params = about.blank['params']
  masks = pruning.make_masks(
    jax.random.key(0),
    None,
    params,
    None,
    ratio='erk',
    density=density,
    shapes=about.structure.shapes,
  )
  generator = np.random.default_rng(0)

  def draw(leaf) -> np.ndarray:  # so that activations neither vanish nor overflow
    inputs = math.prod(leaf.shape[:-1])
    return generator.standard_normal(leaf.shape, np.float32) / np.float32(math.sqrt(inputs))

  variables = jax.tree.map(draw, about.blank)
  variables['batch_stats'] = jax.tree.map(
    lambda statistic: 1 + np.abs(statistic), variables['batch_stats']
  )  # variances
  kept = jax.tree.map(lambda w, m: np.where(m, w, np.float32(0)), variables['params'], masks)
  words = tuple(jax.random.key_data(jax.random.key(0)).tolist())
  drawn = files.Draw(words, 'exact', pruning.BLOCK)
  return files.Stored(about, variables | {'params': kept}, masks, drawn)
