"""Training steps on a GPU or TPU: images/s, share of the matrix peak, and what a trace shows.

    python -m benchmarks accelerator                    # --trace=DIR --rows --no-torch
    python -m benchmarks accelerator --small --no-torch # what it does, on any machine

A row is MODEL:BATCH:DTYPE, of resnet20, resnet50 and wrn50_2. This code makes the steps of one call
of its compiled program, on uint8 images that already lie on the first device, without gathering or
augmenting. PyTorch makes as many on the same kind of images, as a good user of it would:
channels_last, autocast, cuDNN's fastest algorithms, torch.compile and its CUDA graphs. What a step
computes is counted as three times the multiply-adds of the network's dense layers. The peak is that
of a product of two large random matrices in bfloat16, measured here.

First, all rows run with this code alone. What each one's trace shows is printed, and the trace kept
as DIR/MODEL_BATCH_DTYPE.trace.json.gz, for ui.perfetto.dev. Then each of PyTorch's ways is timed in
turns with this code. All is printed as soon as it is known, so that a time limit costs PyTorch's
last ways. A failure is printed in its place, and the rest goes on.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import at_least_one, race, ratio, traced
from random_pruning_jax import cost, feed, optimizers, parallel, tables
from random_pruning_jax.config import default
from random_pruning_jax.experiment import (
  Experiment,
  build,
  initial_masks,
  initial_variables,
  keys,
)
from random_pruning_jax.step import create_state
from random_pruning_jax.training.program import Own, compiled, step_of

THIS = 'this code'
ROWS = ('resnet20:128:bfloat16', 'resnet20:1024:bfloat16', 'wrn50_2:256:bfloat16')
SMALL = ('resnet20:8:bfloat16', 'wrn50_2:2:bfloat16')
PER_EPOCH = 1000  # steps


class Row(NamedTuple):
  """A row that this code has run."""

  name: str  # MODEL:BATCH:DTYPE
  experiment: Experiment
  images: np.ndarray  # uint8 [N, H, W, 3]
  labels: np.ndarray  # int32 [N]
  run: Callable[[], None]


def main(arguments: list[str]) -> None:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks accelerator',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--rows', nargs='+', help=f'MODEL:BATCH:DTYPE, by default {" ".join(ROWS)}')
  parser.add_argument('--density', type=float, default=0.1, help='of the masks, by ERK')
  parser.add_argument('--steps', type=at_least_one, default=20, help='in one call')
  parser.add_argument('--rounds', type=at_least_one, default=5)
  parser.add_argument('--trace', metavar='DIR', help='trace a call of each row, one file a row')
  parser.add_argument('--no-torch', action='store_true', help='JAX alone')
  parser.add_argument('--small', action='store_true', help='small images and networks')
  options = parser.parse_args(arguments)

  # Else JAX takes three quarters of a GPU at once, and PyTorch has the rest.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  device = jax.devices()[0]
  peak = _peak(512 if options.small else 8192)
  print(
    f'{device.device_kind}: a product of matrices reaches {peak / 1e12:.3g} TFLOP/s', flush=True
  )
  rows = []
  for name in options.rows or (SMALL if options.small else ROWS):
    with _said(name):
      rows.append(_alone(name, peak, options))
  for row in () if options.no_torch else rows:
    with _said(f'{row.name}, PyTorch'):
      for by, make in _theirs(row, options.steps).items():
        with _said(f'{row.name}, {by}'):
          times = race({THIS: row.run, by: make()}, options.rounds)
          print(_table(row, times, peak, options.steps), flush=True)


def _alone(name: str, peak: float, options: argparse.Namespace) -> Row:
  """Prints the table of this code alone, and then what a trace shows."""
  model, batch, dtype = name.split(':')
  experiment = _experiment(model, int(batch), dtype, options)
  images, labels = _batch(experiment)
  row = Row(name, experiment, images, labels, ours(experiment, images, labels, options.steps))
  times = race({THIS: row.run}, options.rounds)
  print(_table(row, times, peak, options.steps), flush=True)
  if options.trace:
    with _said(f'{name}, trace'):
      file = pathlib.Path(options.trace) / f'{name.replace(":", "_")}.trace.json.gz'
      found = traced.trace(row.run, file)
      untraced = statistics.median(times[THIS])
      # Under a profiler XLA launches kernels one by one, also those that it else joins in graphs.
      print(
        f'\nOne call of {options.steps} steps, which takes {untraced:.3f} ms when it is not '
        f'traced:\n\n{traced.text(found)}',
        flush=True,
      )
  return row


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
  """An error inside is printed, and stops nothing: too little memory, say, for one way of many."""
  try:
    yield
  except Exception as error:
    print(f'\n{what}: {type(error).__name__}: {str(error)[:500]}', flush=True)


def ours(experiment: Experiment, images: np.ndarray, labels: np.ndarray, steps: int):
  """A function that makes `steps` steps in one call, as `train` does with resident data."""
  config, on = experiment.config, experiment.on
  variables = initial_variables(experiment.model, keys(0).init, experiment.spec.shape)
  masks = initial_masks(experiment, variables, {})
  make = optimizers.maker(config, PER_EPOCH)
  rates = optimizers.rates(config)
  create = jax.jit(lambda variables, masks: create_state(variables, masks, make(rates)))
  state = parallel.replicate(create(variables, masks), on)
  own = parallel.replicate(Own(keys(0).augment, rates), on)
  inputs = [np.broadcast_to(array, (1, steps, *array.shape)) for array in (images, labels)]
  inputs = jax.device_put(inputs, on[0])
  call = compiled(step_of(experiment, PER_EPOCH, feed.scaled), feed.STREAMED, on)

  def run():
    nonlocal state
    state, metrics = call(state, (), own, *inputs)
    jax.block_until_ready((state, metrics))

  return run


def _theirs(row: Row, steps: int) -> dict[str, Callable]:
  """PyTorch's ways by name; each makes a function like that of `ours`."""
  # An optional extra, `bench`.
  from benchmarks import torch_peer

  model = row.experiment.config.model
  ways = {'PyTorch': '', 'PyTorch, compiled': 'default', 'PyTorch, graphs': 'reduce-overhead'}
  make = functools.partial(
    torch_peer.torch_steps, model.name, model.width, row.images, row.labels, steps
  )
  platform = row.experiment.on[0].platform
  return {
    by: functools.partial(make, platform=platform, dtype=model.dtype, mode=mode)
    for by, mode in ways.items()
  }


def _experiment(name: str, batch: int, dtype: str, options: argparse.Namespace) -> Experiment:
  config = default()
  config.model.name, config.model.dtype, config.batch_size = name, dtype, batch
  small = name == 'resnet20'  # small images; else one of torchvision's
  config.model.width = (4 if options.small else 16) if small else 8 if options.small else 64
  config.dataset = 'cifar10' if small else 'imagenet2012'
  config.image_size = 32 if small or options.small else 224
  config.data_loading, config.augment.mode = 'streamed', 'none'
  config.pruning.ratio, config.pruning.density = 'erk', options.density
  return build(config, parallel.devices(1))


def _batch(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (experiment.config.batch_size, *experiment.spec.shape), np.uint8)
  return images, rng.integers(0, experiment.spec.num_classes, len(images), np.int32)


def _peak(size: int, products: int = 20) -> float:
  """FLOPs a second of one product after another of matrices [size, size] in bfloat16, at best."""

  @jax.jit
  def multiply(x, y):
    return jax.lax.fori_loop(0, products, lambda _, y: x @ y, y)

  # Random, since a chip is faster on zeros; scaled so that products keep their size.
  keys = jax.random.split(jax.random.key(0))
  x, y = (jax.random.normal(key, (size, size), jnp.bfloat16) / size**0.5 for key in keys)
  jax.block_until_ready(multiply(x, y))
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(multiply(x, y))
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 * products / min(seconds)


def _table(row: Row, times: dict[str, list[float]], peak: float, steps: int) -> str:
  batch = len(row.labels)
  at_peak = cost.training_flops(row.experiment.structure.layers, batch) / peak
  head = ['by', 'least ms a step', 'median', 'images/s', f'time / {THIS}', 'of the peak']
  each = [_columns(by, times, at_peak, steps, batch) for by in times]
  return f'\n{row.name}\n\n{tables.text([head, *each])}'


def _columns(by: str, times: dict, at_peak: float, steps: int, batch: int) -> list[str]:
  each = [milliseconds / steps for milliseconds in times[by]]
  median = statistics.median(each)
  return [
    by,
    f'{min(each):.3g}',
    f'{median:.3g}',
    f'{1e3 * batch / median:.0f}',
    f'{ratio(times[by], times[THIS]):.3f}',
    f'{1e3 * at_peak / median:.1%}',
  ]
