"""What several commands take: a config with overrides, and settings of the machine."""

import argparse
import gc
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax.config import files as config_files

_NEW_OBJECTS = 500_000


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
    '--cpu-devices',
    type=int,
    default=0,
    help='CPU devices, where there is no accelerator (default: one, if Numba is there to share its '
    'work among the cores; else, and in sweeps, the largest power of two <= cores)',
  )
  parser.add_argument(
    '--mem-fraction',
    type=float,
    default=-1.0,
    help="of a GPU's memory to take at once; 0 takes it as it is needed (default: JAX's own, 0.75)",
  )
  parser.add_argument(
    '--deterministic',
    action='store_true',
    help='only GPU operations that give the same bits again, though some are slower',
  )
  add_hosts(parser)


def add_hosts(parser: argparse.ArgumentParser) -> None:
  hosts = parser.add_argument_group(
    'several hosts',
    'found by themselves under SLURM, on a TPU pod and in a JobSet; elsewhere named here, or by '
    'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID',
  )
  hosts.add_argument('--coordinator-address', default='', help='HOST:PORT of process 0')
  hosts.add_argument('--num-processes', type=int, default=0, help='of them; 1 alone: no others')
  hosts.add_argument('--process-id', type=int, default=-1, help='of this one, from 0')
  hosts.add_argument(
    '--distributed',
    action='store_true',
    help='ask JAX who the others are, and end where it does not know: never train alone',
  )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--checkpoint', default='', help="'best', 'latest' or a step (default: as the config says)"
  )
  parser.add_argument('--data-dir', default='', help='where the data lies, if it has moved')


def load_config(file: str, overrides: Sequence[str]) -> ConfigDict:
  """The config of `FILE` or `FILE:ARGUMENT`, with overrides like '--config.seed=1'.

  Raises ValueError in one line for a wrong field, value or name, before JAX is imported; a data set
  is looked for later.
  """
  path, _, argument = file.partition(':')
  get_config = config_files.function_of(path, 'get_config')
  config = config_files.override(config_files.made_by(get_config, path, argument), overrides)
  config_lib.resolve(config)
  return config


def default_workdir(file: str) -> str:
  """configs/cifar.py:resnet20,erk,0.1 -> runs/cifar-resnet20-erk-0.1."""
  path, _, argument = file.partition(':')
  name = '-'.join([pathlib.Path(path).stem, *filter(None, argument.split(','))])
  return str(pathlib.Path('runs') / name)


def start_jax(args: argparse.Namespace, apart: bool = False) -> None:
  """Settings of the process, before JAX finds its devices; for `apart`, see `cpu_devices`."""
  # A start makes hundreds of thousands of objects that stay; with Python's own threshold the
  # collector would take a fifteenth of the time of a start.
  gc.set_threshold(_NEW_OBJECTS)
  os.environ.update(runtime_environment(args, os.environ))
  import jax

  from random_pruning_jax.data import places
  from random_pruning_jax.system import compiled, hosts, processor

  logging.getLogger('absl').setLevel(logging.ERROR)
  if not getattr(args, 'traceback', False):
    logging.getLogger('absl').addFilter(_is_news)
  if processor.only_cpu(os.environ):
    processor.keep_memory()
  if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
    use_cpu(args.cpu_devices or cpu_devices(apart))
  if jax.config.jax_compilation_cache_dir is None:
    # What was compiled for one kind of processor may not run on another that shares the home.
    compiled.keep(places.cache_dir() / 'compiled' / processor.abilities())
  hosts.connect(args.coordinator_address, args.num_processes, args.process_id, args.distributed)


def _is_news(record: logging.LogRecord) -> bool:
  """False for what Orbax's threads log, a page each, about an error that it also raises."""
  return f'{os.sep}orbax{os.sep}' not in record.pathname


def use_cpu(devices: int) -> None:
  """Divides the cores into so many devices, if there is no accelerator."""
  import jax

  jax.config.update('jax_num_cpu_devices', devices)
  # Else a step would take its memory while the one before still holds its own.
  jax.config.update('jax_cpu_enable_async_dispatch', devices > 1)


def runtime_environment(args: argparse.Namespace, before: Mapping[str, str]) -> dict[str, str]:
  """Variables of memory and determinism, which JAX reads when it starts its devices."""
  variables = {}
  if args.mem_fraction == 0:
    variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  elif args.mem_fraction != -1:
    if not 0 < args.mem_fraction <= 1:
      raise ValueError(f'--mem-fraction must lie in [0, 1], got {args.mem_fraction}.')
    variables['XLA_CLIENT_MEM_FRACTION'] = str(args.mem_fraction)
    # Its old name: with both set JAX finds no GPU, and goes on with the CPU.
    variables['XLA_PYTHON_CLIENT_MEM_FRACTION'] = ''
  if args.deterministic:
    flags_before = before.get('XLA_FLAGS', '')
    variables['XLA_FLAGS'] = f'{flags_before} --xla_gpu_deterministic_ops=true'.strip()
  return variables


def cpu_devices(apart: bool) -> int:
  """How many devices the cores are to be.

  Networks that train `apart` have one each. A single network is fastest on one device if the
  kernels share their work among the cores, and else on one for each core. The number of cores is
  rounded down to a power of two, which divides usual batch sizes.
  """
  from random_pruning_jax import kernels
  from random_pruning_jax.system import processor

  if kernels.runs_dense() and not apart:
    return 1
  return 1 << (processor.cores().bit_length() - 1)
