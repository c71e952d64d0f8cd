"""`random-pruning footprint --config=FILE[:ARGUMENT] [--chips=v4:2x2x4]`: what the step needs."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence

from random_pruning_jax.commands import arguments

DOES_NOT_FIT = 3  # the exit status; 1 is that of what went wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    'The step is compiled and not run: Wide ResNet-50-2 takes minutes. Exit status '
    f'{DOES_NOT_FIT} where it does not fit.'
  )
  arguments.add_config(parser)
  parser.add_argument(
    '--chips',
    default='',
    metavar='NAME:LAYOUT',
    help='v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:4x4 or h100:8, which need not be here (default: those '
    'that are)',
  )
  parser.add_argument('--format', default='table', choices=('table', 'json'))
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  if args.deterministic and args.chips.startswith('h100'):  # XLA's own error is a page
    raise ValueError(f'--deterministic needs GPUs that are here, got --chips={args.chips}.')
  config = arguments.load_config(args.config, rest)
  if args.chips:
    os.environ['JAX_PLATFORMS'] = 'cpu'  # which leaves any accelerators here alone
  arguments.start_jax(args)
  import jax

  from random_pruning_jax import chips, footprint, parallel

  if args.chips:  # only a machine with such chips can read their programs from the cache
    jax.config.update('jax_enable_compilation_cache', False)
  chip, on = chips.find(args.chips) if args.chips else (None, parallel.devices())
  if chip and chip.share < 1 and args.mem_fraction > 0:
    chip = dataclasses.replace(chip, share=args.mem_fraction)
  try:
    found = footprint.footprint(config, on, chip)
  except footprint.DoesNotFitError as error:
    told = {'fits': False, 'reason': str(error)}
    print(json.dumps(told, indent=2) if args.format == 'json' else f'does NOT fit: {error}')
    return DOES_NOT_FIT
  if args.format == 'json':
    told = dataclasses.asdict(found) | {'peak': found.peak, 'fits': found.fits}
    print(json.dumps(told, indent=2))
  else:
    print(footprint.show(found))
  return 0 if found.fits else DOES_NOT_FIT
