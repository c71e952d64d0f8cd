"""`random-pruning benchmark-input --config=FILE[:ARGUMENT]`: how fast training images arrive."""

import argparse
import itertools
import time
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = 'Nothing is trained: images are read, cropped and decoded as training would.'
  arguments.add_config(parser)
  parser.add_argument('--images', type=int, default=2000, help='of each measurement (2000)')
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  if args.images < 1:
    raise ValueError(f'--images must be at least 1, got {args.images}.')
  config = arguments.load_config(args.config, rest)
  arguments.start_jax(args)
  from random_pruning_jax import feed, tables
  from random_pruning_jax.data import streamed
  from random_pruning_jax.experiment import build

  experiment = build(config)
  config = experiment.config  # resolved: a smoke config names another data set
  source = streamed.EncodedImages(config.dataset, 'train', config.data_dir)
  example = feed.stream_example(experiment, source)
  rows = [['what', 'images/s', 'images/s of CPU time'], *_decoders(example, args.images)]
  rows.append(_stream(example, args.images, config.data_workers))
  print(tables.text(rows))
  return 0


def _decoders(example, images: int) -> list[list[str]]:
  """Each decoder alone, in this thread, over images that are in memory."""
  import dataclasses

  import numpy as np

  from random_pruning_jax.data import crops

  count = min(len(example.source), images, 512)
  encoded = [data for data, _ in example.source.read(range(count))]
  rows = []
  for decoder in crops.DECODERS:
    if not all(map(crops.installed, crops.NEEDED[decoder])):
      rows.append([f'{decoder}, which is not installed', '-', '-'])
      continue
    augment = dataclasses.replace(example.augment, decoder=decoder)
    rng = np.random.default_rng(0)
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    for data in itertools.islice(itertools.cycle(encoded), images):
      augment(data, rng)
      done += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows.append([f'{decoder}, one thread', f'{done / wall:,.0f}', f'{done / cpu:,.0f}'])
  return rows


def _stream(example, images: int, workers: int) -> list[str]:
  """The whole way, from when each worker has delivered its first batch."""
  from random_pruning_jax.data import streamed

  share = len(example.mine)
  of = streamed.processes(workers)
  steps = max(-(-images // share), 3 * of, 3)
  stream = streamed.batches(example, 0, steps + max(of, 1), workers=workers)
  for _ in range(max(of, 1)):
    next(stream)
  began = time.perf_counter()
  for _ in range(steps):
    next(stream)
  speed = steps * share / (time.perf_counter() - began)
  stream.close()  # workers take a second to end
  return [f'batches of {share}, {f"{of} processes" if of else "threads"}', f'{speed:,.0f}', '-']
