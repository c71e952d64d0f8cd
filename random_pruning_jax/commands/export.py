"""`random-pruning export --workdir=DIR --out=FILE`: a checkpoint as a file of its own."""

import argparse
import pathlib
from collections.abc import Sequence

from random_pruning_jax.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = 'Formats are described in docs/file-format.md; inspect and predict read them all.'
  parser.add_argument('--workdir', required=True, help='of a run')
  parser.add_argument('--out', required=True, metavar='FILE')
  parser.add_argument(
    '--format',
    default='',
    help='seeded, bitmap, safetensors or stablehlo (default: by the suffix .safetensors or '
    '.stablehlo; else seeded for random masks, bitmap for others)',
  )
  parser.add_argument(
    '--dtype', default='float32', help='of the kernels: float32, bfloat16 or float16 (float32)'
  )
  arguments.add_checkpoint(parser)
  parser.add_argument(
    '--masks', action='store_true', help='also write the masks beside the weights (safetensors)'
  )
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  del rest
  arguments.start_jax(args)
  from random_pruning_jax import files
  from random_pruning_jax.export import export

  path = export(
    args.workdir,
    args.out,
    args.format,
    dtype=args.dtype,
    checkpoint=args.checkpoint,
    with_masks=args.masks,
    data_dir=args.data_dir,
  )
  data = pathlib.Path(path).read_bytes()
  print(f'{path}: {files.format_of(data)}, {len(data):,} bytes')
  return 0
