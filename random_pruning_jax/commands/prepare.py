"""`random-pruning prepare NAME`: downloads a data set and prepares it as array_record files."""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'dataset',
    nargs='?',
    default='',
    metavar='NAME',
    help='of a TFDS image set, as cifar10 or, where it comes in variants, imagenet_resized/32x32',
  )
  parser.add_argument(
    '--data-dir', default='', help='where to put it (default: $TFDS_DATA_DIR or that of TFDS)'
  )
  parser.add_argument('--manual-dir', default='', help='where files downloaded by hand lie')
  parser.add_argument(
    '--image-folder', default='', metavar='DIR', help='or images of your own, DIR/SPLIT/CLASS/*.jpg'
  )
  parser.add_argument('--name', default='', help='what to call them')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  from random_pruning_jax import data
  from random_pruning_jax.data import folder, places, specs
  from random_pruning_jax.data.load import USES
  from random_pruning_jax.progress import say

  if bool(args.dataset) == bool(args.image_folder) or bool(args.image_folder) != bool(args.name):
    raise ValueError(
      'prepare must be given the NAME of a TFDS set, or --image-folder=DIR and --name=NAME.'
    )
  if args.image_folder:
    path = folder.prepare_folder(args.image_folder, args.name, args.data_dir)
    print(path)
    rules = specs.split_rules(places.split_sizes(path))
    say(', '.join(f'{use} images: {rules.get(use, "none")}' for use in USES))
  else:
    print(data.prepare(args.dataset, args.data_dir, args.manual_dir))
  return 0
