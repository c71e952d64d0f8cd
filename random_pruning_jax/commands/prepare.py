"""`random-pruning prepare NAME`: downloads a data set and prepares it as array_record files."""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('name', help='of a TFDS image set, as cifar10 or imagenet_resized/32x32')
  parser.add_argument(
    '--data_dir', default='', help='where to put it (default: $TFDS_DATA_DIR or that of TFDS)'
  )
  parser.add_argument('--manual_dir', default='', help='where files downloaded by hand lie')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  from random_pruning_jax import data

  print(data.prepare(args.name, args.data_dir, args.manual_dir))
  return 0
