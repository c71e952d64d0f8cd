"""The training step of a network on paper: multiply-adds, bytes, and what bounds it where.

    python -m benchmarks roofline

prints the tables of docs/scaling.md, the last of which is in configs/imagenet.py too. Counts come
from the network's shapes (`cost.py`); peaks are the vendors' published figures, and the rest are
assumptions that the output states.
"""

import argparse
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from random_pruning_jax import chips, cost, models, ratios, tables
from random_pruning_jax.chips import Chip
from random_pruning_jax.config import files as config_files

IMAGE = (224, 224, 3)
IMAGES = 1_281_167 * 0.99  # of training; a hundredth is held out
HALF, WHOLE = 2, 4  # bytes of bfloat16 and float32
# Passes over each convolution's output, in units of its bytes. Forward: written, read for
# BatchNorm's statistics, read and written by its normalisation with ReLU. Backward: twice that.
PASSES = 4 + 8
UTILISATION = 0.4  # of either peak that a whole training step reaches in practice; an assumption
CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'imagenet.py'
ROWS = tuple(  # of the paper on ImageNet, as arguments of that config
  f'{name},erk,{density}'
  for name in ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'wrn50_2')
  for density in (1.0, 0.2)
)

CHIPS = tuple(chips.CHIPS[name] for name in ('v4', 'v5e', 'h100'))


@functools.cache
def activations(name: str) -> tuple[cost.Structure, int]:
  """The network's structure, and how many values its convolutions put out for one image."""
  model = models.create(name, 1000)
  found = []

  def record(call, args, kwargs, context):
    output = call(*args, **kwargs)
    if isinstance(context.module, nn.Conv) and context.method_name == '__call__':
      found.append(output.size)
    return output

  def init(key, images):
    with nn.intercept_methods(record):
      return model.init(key, images)

  key = jax.eval_shape(lambda: jax.random.key(0))
  jax.eval_shape(init, key, jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32))
  return cost.structure(model, IMAGE), sum(found)


def step_seconds(name: str, chip: Chip, batch: float, count: int = 1) -> dict[str, float]:
  """Lower bounds in seconds of a step of `batch` images a chip: arithmetic, memory, all-reduce."""
  structure, values = activations(name)
  flops = cost.training_flops(structure.layers, 1) * batch
  # Weights, momentum and gradients in float32, read and written, and masks of one byte.
  state = structure.parameters * (6 * WHOLE + 1)
  moved = PASSES * HALF * values * batch + state
  ring = 2 * (count - 1) / count * WHOLE * structure.parameters
  return {
    'arithmetic': flops / chip.flops,
    'memory': moved / chip.memory,
    'all-reduce': ring / chip.link,
  }


def roofline(name: str = 'wrn50_2', batch: int = 1024) -> str:
  structure, values = activations(name)
  flops = cost.training_flops(structure.layers, 1) * batch
  rows = [['chip', 'arithmetic', 'memory', 'bound by', 'FLOPs a byte', 'balance', 'kept, GB']]
  for chip in CHIPS:
    seconds = step_seconds(name, chip, batch)
    moved = seconds['memory'] * chip.memory
    rows.append(
      [
        chip.name,
        f'{seconds["arithmetic"] * 1e3:,.0f} ms',
        f'{seconds["memory"] * 1e3:,.0f} ms',
        'memory' if seconds['memory'] > seconds['arithmetic'] else 'arithmetic',
        f'{flops / moved:,.0f}',
        f'{chip.flops / chip.memory:,.0f}',
        f'{2 * HALF * values * batch / 1e9:,.0f} of {chip.capacity / 1e9:.0f}',
      ]
    )
  head = (
    f'{name}, batch {batch}: {cost.macs(structure.layers) / 1e9:.2f} G multiply-adds an image, '
    f'{flops / 1e12:,.1f} TFLOPs a step; {structure.parameters / 1e6:.1f} M parameters, '
    f'{values / 1e6:.1f} M values an image from convolutions.'
  )
  return f'{head}\n\n{tables.text(rows)}'


def growth(name: str = 'wrn50_2', each: int = 64) -> str:
  rows = [['chips', 'batch', *(chip.name for chip in CHIPS)]]
  for count in (1, 8, 32, 128, 512):
    shares = []
    for chip in CHIPS:
      seconds = step_seconds(name, chip, each, count)
      busy = max(seconds['arithmetic'], seconds['memory']) / UTILISATION
      shares.append(f'{seconds["all-reduce"] / (busy + seconds["all-reduce"]):.1%}')
    rows.append([f'{count}', f'{count * each:,}', *shares])
  return tables.text(rows)


def whole_runs() -> str:
  """Epochs and batch as the config has them; a masked network computes what a dense one does."""
  get_config = config_files.function_of(CONFIG, 'get_config')
  head = ['row', 'epochs', 'FLOPs', 'of kept weights', 'v4-32 (16 chips)', '8 x H100', 'images/s']
  rows = [head]
  for row in ROWS:
    config = get_config(row)
    structure, _ = activations(config.model.name)
    samples = config.epochs * IMAGES
    hours, speed = [], 0.0
    for chip, count in ((CHIPS[0], 16), (CHIPS[2], 8)):
      seconds = step_seconds(config.model.name, chip, config.batch_size / count, count)
      busy = max(seconds['arithmetic'], seconds['memory']) / UTILISATION + seconds['all-reduce']
      speed = config.batch_size / busy
      hours.append(f'{samples / speed / 3600:,.1f} h')
    kept = ratios.RATIOS[config.pruning.ratio](structure.shapes, config.pruning.density)
    flops = [cost.training_flops(structure.layers, samples, each) for each in (None, kept)]
    rows.append([row, f'{config.epochs}', *(f'{f:.2g}' for f in flops), *hours, f'{speed:,.0f}'])
  return tables.text(rows)


def main(arguments: list[str]) -> None:
  argparse.ArgumentParser(prog='python -m benchmarks roofline', description=__doc__).parse_args(
    arguments
  )
  print(roofline(), growth(), whole_runs(), sep='\n\n')
