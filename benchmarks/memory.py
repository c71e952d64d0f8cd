"""Memory of a training step of ResNet-20 beside PyTorch's: the most that a process holds.

Each is a process of its own. `compiling` is the peak up to the end of the first step, `training`
that of the steps after it, and `beyond the imports` what the latter is more than the process held
when everything was imported and the batch was made. Code that is read from files is counted too.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from benchmarks import network_parser, random_batch
from random_pruning_jax import processor
from random_pruning_jax.commands import arguments

JAX = ('this code', 'without Numba')
TORCH = {
  'PyTorch': {},
  'PyTorch, channels_last': {'channels_last': True},
  'PyTorch, channels_last, compiled': {'channels_last': True, 'compiled': True},
}


def main(words: list[str]) -> None:
  if not pathlib.Path('/proc/self/clear_refs').exists():
    raise SystemExit('What a process held at most is read from /proc, which Linux alone has.')
  parser = network_parser('memory', __doc__, rounds=3)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument(
    '--way', choices=(*JAX, *TORCH), help=argparse.SUPPRESS
  )  # what a process is for
  options = parser.parse_args(words)
  if options.way:
    print(json.dumps(_measured(options)))
    return
  print('| | compiling, MB | training, MB | beyond the imports, MB |\n|---|---|---|---|')
  for way in (*JAX, *TORCH):
    command = [sys.executable, '-m', 'benchmarks', 'memory', *words, f'--way={way}']
    runs = [_said(command) for _ in range(options.rounds)]
    medians = map(statistics.median, zip(*runs, strict=True))
    print(f'| {way} |', ' | '.join(f'{megabytes:.0f}' for megabytes in medians), '|')


def _said(command: list[str]) -> list[float]:
  said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
  return json.loads(said.stdout.splitlines()[-1])


def _measured(options: argparse.Namespace) -> tuple[float, float, float]:
  run, before = _prepared(options)
  run()
  compiling = _megabytes('VmHWM')
  if options.way in JAX:
    processor.settle()  # as the loop around the step does
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is counted anew
  for _ in range(options.steps):
    run()
  training = _megabytes('VmHWM')
  return compiling, training, training - before


def _prepared(options):
  images, labels = random_batch(options.batch)
  if options.way not in JAX:
    # An optional extra, `bench`.
    from benchmarks.torch_peer import torch_step

    before = _megabytes('VmRSS')
    return torch_step(images, labels, options.width, **TORCH[options.way]), before
  processor.keep_memory()
  devices = options.devices if options.way == JAX[0] else os.cpu_count() or 1
  arguments.use_cpu(devices)
  from benchmarks.step import jax_step
  from random_pruning_jax import convolution

  before = _megabytes('VmRSS')
  conv = convolution.fastest() if options.way == JAX[0] else convolution.by_pieces
  return jax_step(images, labels, options.width, conv, 1.0, devices), before


def _megabytes(field: str) -> float:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
