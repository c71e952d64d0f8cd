"""`random-pruning predict FILE IMAGES...` or `--dataset=NAME --split=test`: classes of images."""

import argparse
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    'Each line is an image with its likeliest classes and their probabilities. Pixels are taken as '
    'they are stored, as in training: not turned as EXIF says, and without transparency.'
  )
  parser.add_argument(
    'file',
    metavar='FILE',
    help="of any format that export writes, or PyTorch's weights as safetensors",
  )
  parser.add_argument('images', nargs='*', metavar='IMAGE', help='PNG, JPEG, ... of any size')
  parser.add_argument('--dataset', default='', help='a TFDS image set in place of image files')
  parser.add_argument('--split', default='test', help='of the data set (test)')
  parser.add_argument('--data-dir', default='', help='where the data set lies')
  parser.add_argument(
    '--trained-on', default='', help='data set of a PyTorch checkpoint that does not say'
  )
  parser.add_argument('--top', type=int, default=3, help='classes of each image (3)')
  parser.add_argument('--batch-size', type=int, default=32, help='images at once (32)')
  parser.add_argument('--json', action='store_true', help='one JSON object a line')
  arguments.add_runtime(parser)
  # Images that follow an option are in `rest`, where the argparse of Python 3.11 leaves them.
  parser.set_defaults(takes_config=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  unknown = [argument for argument in rest if argument.startswith('-')]
  if unknown:
    raise ValueError(f'unknown argument {unknown[0]}; see random-pruning predict --help.')
  images = [*args.images, *rest]
  if bool(images) == bool(args.dataset):
    raise ValueError('predict must be given image files, or --dataset=NAME, and not both.')
  if args.top < 1:
    raise ValueError(f'--top must be at least 1, got {args.top}.')
  arguments.start_jax(args)
  from random_pruning_jax import files, predict
  from random_pruning_jax.progress import say

  network = files.load(args.file, trained_on=args.trained_on)
  if images:
    found = predict.of_files(network, images, batch_size=args.batch_size)
  else:
    found = predict.of_dataset(
      network, args.dataset, args.split, data_dir=args.data_dir, batch_size=args.batch_size
    )
  count = right = labelled = 0
  for prediction in found:
    print(predict.line(prediction, args.top, args.json), flush=True)
    count += 1
    labelled += prediction.label is not None
    right += prediction.label == int(prediction.classes[0])
  accuracy = f', {right / labelled:.2%} of them right' if labelled else ''
  say(f'{count:,} images{accuracy}')
  return 0
