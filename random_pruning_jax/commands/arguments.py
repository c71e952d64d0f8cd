"""What several commands take: a config with overrides, and settings of the machine."""

import argparse
import logging
import os
import pathlib
import re
from collections.abc import Sequence


def add_config(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--config', required=True, metavar='FILE[:ARGUMENT]', help='a Python file with get_config()'
  )
  parser.add_argument_group(
    'overrides', '--config.FIELD=VALUE changes a field of the config, as --config.seed=1'
  )
  parser.set_defaults(takes_config=True)


def add_runtime(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--cpu_devices',
    type=int,
    default=0,
    help='CPU devices, where there is no accelerator (default: the largest power of two <= cores)',
  )


def load_config(file: str, rest: Sequence[str]):
  """The config of a file with its overrides. Raises ValueError in one line for what is wrong."""
  from absl import flags
  from ml_collections import config_flags

  for argument in rest:
    if not argument.startswith('--config.'):
      raise ValueError(f'unknown argument {argument}; overrides look like --config.seed=1.')
  path = file.split(':')[0]
  if not pathlib.Path(path).is_file():
    raise ValueError(f'--config must name a Python file; there is no {path}.')
  values = flags.FlagValues()
  argv = ['random-pruning', f'--config={file}', *rest]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  try:
    values(argv)
    return values.config
  except (AttributeError, KeyError, flags.Error, TypeError, IndexError) as error:
    raise ValueError(_unknown_field(file, rest, error)) from error


def _unknown_field(file: str, rest: Sequence[str], error: Exception) -> str:
  """Names the first override that the config has no field for, and the fields it could be."""
  from ml_collections import ConfigDict, config_flags

  values = __import__('absl.flags', fromlist=['flags']).FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=['', f'--config={file}'])
  values(['', f'--config={file}'])
  for argument in rest:
    node, path = values.config, re.split(r'[=\s]', argument)[0].split('.')[1:]
    for depth, name in enumerate(path):
      if not isinstance(node, ConfigDict) or name not in node:
        known = ', '.join(sorted(node)) if isinstance(node, ConfigDict) else 'none'
        where = '.'.join(['config', *path[:depth]])
        return f'unknown field {".".join(["config", *path])}; {where} has: {known}.'
      node = node[name]
  return ' '.join(str(error).split())


def default_workdir(file: str) -> str:
  """configs/cifar.py:resnet20,erk,0.1 -> runs/cifar-resnet20-erk-0.1."""
  path, _, argument = file.partition(':')
  name = '-'.join([pathlib.Path(path).stem, *filter(None, argument.split(','))])
  return str(pathlib.Path('runs') / name)


def start_jax(args: argparse.Namespace) -> None:
  """Settings that must be made before JAX finds its devices."""
  import jax

  logging.getLogger('absl').setLevel(logging.ERROR)
  if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    largest_power_of_two = 1 << (max(cores or 1, 1).bit_length() - 1)
    # Two CPU devices on two cores train about twice as fast as one; accelerators do not mind.
    jax.config.update('jax_num_cpu_devices', args.cpu_devices or largest_power_of_two)
