"""Memory of a training step of ResNet-20 beside PyTorch's: what the process holds more than before.

Each is a process of its own. `at the peak` is the most that it held while it made its steps, the
first of which, which compiles, is left out; `compiling` is the most that it held until then. Both
are counted from where everything was imported and the batch was made.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

from benchmarks import network_parser, random_batch, start

WAYS = {
  'this code': {'conv': 'fastest'},
  'without Numba': {'conv': 'by_pieces'},
  'PyTorch': {},
  'PyTorch, channels_last': {'channels_last': True},
  'PyTorch, channels_last, compiled': {'channels_last': True, 'compiled': True},
}


def main(arguments: list[str]) -> None:
  if not pathlib.Path('/proc/self/clear_refs').exists():
    raise SystemExit('What a process held at most is read from /proc, which Linux alone has.')
  parser = network_parser('memory', __doc__, rounds=3)
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--way', choices=WAYS, help=argparse.SUPPRESS)  # what a process is for
  options = parser.parse_args(arguments)
  if options.way:
    print(json.dumps(_measured(options)))
    return
  print('| | at the peak, MB | compiling, MB | peak / this code |\n|---|---|---|---|')
  first = None
  for way in WAYS:
    command = [sys.executable, '-m', 'benchmarks', 'memory', *arguments, f'--way={way}']
    runs = [_said(command) for _ in range(options.rounds)]
    peak, compiling = (sorted(run[i] for run in runs)[len(runs) // 2] for i in (0, 1))
    first = first or peak
    print(f'| {way} | {peak:.0f} | {compiling:.0f} | {peak / first:.2f} |')


def _said(command: list[str]) -> list[float]:
  said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
  return json.loads(said.stdout.splitlines()[-1])


def _measured(options: argparse.Namespace) -> tuple[float, float]:
  """MB at the peak of the steps, and until the first was made."""
  run, before = _prepared(options)
  run()
  compiling = _megabytes('VmHWM')
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is counted anew
  for _ in range(options.steps):
    run()
  return _megabytes('VmHWM') - before, compiling - before


def _prepared(options):
  images, labels = random_batch(options.batch)
  settings = WAYS[options.way]
  if 'conv' not in settings:
    # An optional extra, `bench`.
    from benchmarks.torch_peer import torch_step

    before = _megabytes('VmRSS')
    return torch_step(images, labels, options.width, **settings), before
  if settings['conv'] == 'by_pieces':
    options.devices = os.cpu_count()
  start(options)
  from benchmarks.step import jax_step
  from random_pruning_jax import convolution

  before = _megabytes('VmRSS')
  conv = convolution.by_pieces if settings['conv'] == 'by_pieces' else convolution.fastest()
  return jax_step(images, labels, options.width, conv, 1.0, options.devices), before


def _megabytes(field: str) -> float:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
