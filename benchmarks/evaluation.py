"""What an evaluation costs beside plain inference of the same images, and FGSM beside its passes.

Plain inference is the compiled forward pass over every batch, its logits fetched and nothing else
done. The numbers are those that `train` ends with, but for FGSM: calibration with a temperature,
and every score of logits against one foreign set of as many images as the test set.
"""

import argparse

import jax
import numpy as np

from benchmarks import at_least_one, race, start, table
from random_pruning_jax import attacks, batches, data, evaluate, masks, parallel, suites
from random_pruning_jax.commands.arguments import cpu_devices
from random_pruning_jax.config import default
from random_pruning_jax.experiment import build, initial_variables
from random_pruning_jax.suites import calibration, ood


class Made(suites.Bench):
  """A bench whose sets are random images instead of read ones."""

  def __init__(self, experiment, variables, count: int):
    super().__init__(experiment, variables, masks.ones(variables['params']))
    rng = np.random.default_rng(0)
    for name, split, size in (
      ('', 'test', count),
      ('', 'validation', count // 2),
      ('foreign', 'test', count),
    ):
      images = rng.integers(0, 256, (size, *experiment.spec.shape), np.uint8)
      self._images[name, split] = data.Images(images, rng.integers(0, 10, size))

  @property
  def sets(self) -> list[data.Images]:
    return list(self._images.values())


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks evaluation', description=__doc__)
  parser.add_argument('--width', type=at_least_one, default=16)
  parser.add_argument('--images', type=at_least_one, default=4000, help='of the test set')
  parser.add_argument('--batch', type=at_least_one, default=500)
  parser.add_argument('--devices', type=at_least_one, default=cpu_devices(apart=False))
  parser.add_argument('--rounds', type=at_least_one, default=5)
  options = parser.parse_args(arguments)
  start(options)
  config = default()
  config.model.width = options.width
  config.batch_size = 16 * options.devices
  config.evaluation.batch_size = options.batch
  config.evaluation.foreign = ('foreign',)
  experiment = build(config, parallel.devices(options.devices))
  variables = initial_variables(experiment.model, jax.random.key(0), experiment.spec.shape)
  variables = parallel.replicate(variables, experiment.on)
  bench = Made(experiment, variables, options.images)

  def infer():
    for images, _ in bench.sets:
      evaluate.outputs(bench.network, evaluate.stored(images))

  def measure():
    bench._outputs.clear()
    calibration.full(bench)
    ood.quick(bench)

  print(f'ResNet-20, width {options.width}, batch {options.batch}, {len(experiment.on)} devices')
  print(f'{options.images:,} test and foreign images each, half as many for validation\n')
  images = sum(len(labels) for _, labels in bench.sets)
  runs = {'plain inference': infer, 'clean, calibration and logit OoD numbers': measure}
  print(table(race(runs, options.rounds), 'plain inference', images), end='\n\n')
  passes = 'forward, backward, forward'
  runs = {passes: _passes(bench), 'FGSM at one epsilon': lambda: _fgsm(bench)}
  print(table(race(runs, options.rounds), passes, options.images))


def _fgsm(bench: Made) -> np.ndarray:
  images, labels = bench.images()
  return evaluate.survives(bench.network, 'fgsm', images, labels, 8 / 255)


def _passes(bench: Made):
  """The gradient of the loss for the pixels, and a second forward pass, with no attack."""
  images, labels = bench.images()
  network = bench.network

  def run(variables, images, labels):
    def loss(pixels):
      return attacks.cross_entropy(network.model.apply(variables, pixels), labels).sum()

    gradient = jax.grad(loss)(evaluate.pixels(images))
    return network.model.apply(variables, gradient)

  def passes():
    for _ in batches.map_batches(
      run, (network.variables,), (images, labels), batch_size=network.batch_size, on=network.on
    ):
      pass

  return passes
