"""Memory of a training step of ResNet-20 beside PyTorch's: the most that a process holds.

Each is a process of its own; a second start is one that finds what was compiled before. `compiling`
is the peak up to the end of the first step, `training` that of the steps after it. Of `training`,
`files` are pages of libraries, which processes share and the system drops when it needs room, and
`own` is the rest. Processes started meanwhile to compile are not counted.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmarks import TORCH, at_least_one, network_parser, random_batch

JAX = ('this code', 'this code, a second start', 'without Numba')


def main(arguments: list[str]) -> None:
  if not pathlib.Path('/proc/self/clear_refs').exists():
    raise SystemExit('What a process held at most is read from /proc, which Linux alone has.')
  parser = network_parser('memory', __doc__, rounds=3)
  parser.add_argument('--steps', type=at_least_one, default=5)
  options = parser.parse_args(arguments)
  from random_pruning_jax import parallel

  parallel.check_batch(options.batch, range(options.devices))
  print('| | compiling, MB | training, MB | files, MB | own, MB |\n|---|---|---|---|---|')
  for way in (*JAX, *TORCH):
    runs = []
    for _ in range(options.rounds):
      with tempfile.TemporaryDirectory() as cache:
        if way == JAX[1]:
          _process(way, options, cache)
        runs.append(_process(way, options, cache))
    medians = map(statistics.median, zip(*runs, strict=True))
    print(f'| {way} |', ' | '.join(f'{megabytes:.0f}' for megabytes in medians), '|')


def _process(way, options, cache) -> list[float]:
  # It imports what this way needs, and not what the other ways need.
  script = 'import json, sys; from benchmarks import memory; print(json.dumps(memory.measured('
  script += '**json.loads(sys.argv[1]))))'
  settings = {name: value for name, value in vars(options).items() if name != 'rounds'}
  words = json.dumps(settings | {'way': way, 'cache': cache})
  said = subprocess.check_output(
    [sys.executable, '-c', script, words],
    stderr=subprocess.DEVNULL,
    env=os.environ | {'XDG_CACHE_HOME': cache, 'JAX_PLATFORMS': 'cpu'},
  )
  return json.loads(said.splitlines()[-1])


def measured(
  way: str, width: int, batch: int, devices: int, steps: int, cache: str
) -> tuple[float, float, float, float]:
  """MB of this process: compiling, training, and of the latter those of files and its own."""
  images, labels = random_batch(batch)
  make = _jax(way, devices, cache) if way in JAX else _torch(way)
  run, settle = make(images, labels, width)
  run()
  compiling = _megabytes('VmHWM')
  settle()
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is counted anew
  for _ in range(steps):
    run()
  training = _megabytes('VmHWM')
  files = _megabytes('RssFile')  # which only grows
  return compiling, training, files, training - files


def _jax(way, devices, cache):
  from random_pruning_jax.commands import arguments
  from random_pruning_jax.system import processor

  processor.keep_memory()
  devices = devices if way != JAX[2] else os.cpu_count() or 1
  arguments.use_cpu(devices)
  if way == JAX[1]:
    from random_pruning_jax.system import compiled

    compiled.keep(pathlib.Path(cache))
  from benchmarks.step import jax_step
  from random_pruning_jax import parallel
  from random_pruning_jax.models import convolution

  conv = convolution.fastest() if way != JAX[2] else convolution.by_pieces

  def make(images, labels, width):
    on = parallel.that_divide(len(images), parallel.devices())
    run = jax_step(images, labels, width, conv, 1.0, on)
    return run, processor.give_back  # as the loop around the step does

  return make


def _torch(way):
  # An optional extra, `bench`.
  from benchmarks.torch_peer import torch_step

  def make(images, labels, width):
    return torch_step(images, labels, width, **TORCH[way]), lambda: None

  return make


def _megabytes(field: str) -> float:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
