"""Ratios measured side by side in one process: `python -m benchmarks NAME`."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

# Keywords of `torch_peer.torch_step` and `torch_inference` for each way of PyTorch.
TORCH = {
  'PyTorch': {},
  'PyTorch, channels_last': {'channels_last': True},
  'PyTorch, channels_last, compiled': {'channels_last': True, 'compiled': True},
}


def at_least_one(text: str) -> int:
  """What an option that counts may hold, for argparse: a whole number of 1 or more."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, got {text!r}')
  return int(text)


def network_parser(name: str, description: str, rounds: int) -> argparse.ArgumentParser:
  """The options of a benchmark that gives a ResNet-20 one batch again and again."""
  from random_pruning_jax.commands.arguments import cpu_devices

  parser = argparse.ArgumentParser(prog=f'python -m benchmarks {name}', description=description)
  parser.add_argument('--width', type=at_least_one, default=16)
  parser.add_argument('--batch', type=at_least_one, default=128)
  parser.add_argument(
    '--devices',
    type=at_least_one,
    default=cpu_devices(apart=False),
    help='CPU devices of this code',
  )
  parser.add_argument('--rounds', type=at_least_one, default=rounds)
  return parser


def start(options: argparse.Namespace) -> None:
  """Settings before JAX starts: the CPU alone, memory as the commands keep it there, and a device
  for each core.

  This code uses as many of them as it is told; its rivals in JAX use all that divide a batch.
  """
  import jax

  from random_pruning_jax.system import processor

  processor.keep_memory()
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(options.devices, os.cpu_count() or 1))


def divided(options: argparse.Namespace) -> tuple[tuple, tuple]:
  """The devices of this code, and those of its rivals in JAX: as many as divide the batch.

  Raises ValueError where those of this code do not divide it.
  """
  from random_pruning_jax import parallel

  on = parallel.devices(options.devices)
  parallel.check_batch(options.batch, on)
  return on, parallel.that_divide(options.batch, parallel.devices())


def random_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Pixels float32 [size, 32, 32, 3] in [0, 1] and labels [size] of 10 classes."""
  rng = np.random.default_rng(0)
  return rng.random((size, 32, 32, 3), np.float32), rng.integers(0, 10, size)


def race(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
  """Milliseconds of every second call, in turns, so that a busy machine is busy for all of them.

  Each run returns when its work is done. In each turn it is called once before the clock starts, to
  be timed as in a loop of its own: at first, threads of the run before may still spin for work, and
  the caches hold that run's data.
  """
  times: dict[str, list[float]] = {name: [] for name in runs}
  for run in runs.values():
    run()
  for _ in range(rounds):
    for name, run in runs.items():
      run()
      start = time.perf_counter()
      run()
      times[name].append(1e3 * (time.perf_counter() - start))
  return times


def ratio(times: list[float], reference: list[float]) -> float:
  """The median over the rounds of the times in one round."""
  return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def table(times: Mapping[str, list[float]], reference: str, images: int) -> str:
  """Markdown: least and median time, images/s at the median, and `ratio` to the reference."""
  lines = [
    f'| | least ms | median ms | images/s | time / {reference} |',
    '|---|---|---|---|---|',
  ]
  for name, values in times.items():
    median = statistics.median(values)
    lines.append(
      f'| {name} | {min(values):.1f} | {median:.1f} | {1e3 * images / median:.0f} '
      f'| {ratio(values, times[reference]):.3f} |'
    )
  return '\n'.join(lines)
