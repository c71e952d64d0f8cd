"""`random-pruning sweep --config=FILE --workdir=DIR`: runs every config of a sweep file."""

import argparse
import os
import pathlib
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from random_pruning_jax import config as config_lib
from random_pruning_jax import kernels, runlog
from random_pruning_jax.commands import arguments
from random_pruning_jax.config import files as config_files
from random_pruning_jax.progress import say
from random_pruning_jax.system import preemption, processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.epilog = (
    'The same command goes on where an interrupted sweep stopped. Exit status: 1 where a run '
    'failed, 75 where the sweep was asked to stop (SIGTERM).'
  )
  parser.add_argument(
    '--config', required=True, metavar='FILE[:ARGUMENT]', help='a Python file with get_sweep()'
  )
  parser.add_argument_group(
    'overrides', '--config.FIELD=VALUE changes a field of every run, as --config.epochs=5'
  )
  parser.set_defaults(takes_config=True)
  parser.add_argument(
    '--workdir', default='', help='where the runs live (default: runs/ and the name of the file)'
  )
  parser.add_argument(
    '--workers',
    type=int,
    default=1,
    help='processes, each on a GPU of its own or on a share of the cores (default: 1)',
  )
  parser.add_argument(
    '--together',
    type=int,
    default=0,
    metavar='N',
    help='runs that train at once in a process (default: what the memory of a GPU or TPU has room '
    'for, and on a CPU one a device)',
  )
  parser.add_argument(
    '--shard', default='1/1', metavar='I/N', help='the I-th of N parts, from 1/N to N/N: job arrays'
  )
  parser.add_argument('--retry', action='store_true', help='also runs that failed before')
  parser.add_argument(
    '--skip-invalid',
    action='store_true',
    help='record invalid configs as failed, and run the others',
  )
  parser.add_argument('--dry-run', action='store_true', help='list the runs and what they cost')
  parser.add_argument('--worker', type=int, default=-1, help=argparse.SUPPRESS)
  arguments.add_runtime(parser)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
  if args.workers < 1:
    raise ValueError(f'--workers must be at least 1, got {args.workers}.')
  if args.together < 0:
    raise ValueError(f'--together must be at least 0, got {args.together}.')
  parent = args.workers > 1 and args.worker < 0 and not args.dry_run
  with preemption.raise_when_asked():
    configs = load_sweep(args.config, rest)
    runlog.check_local(args.workdir)
    _share_cores(args)
    if not parent:
      kernels.begin()
    arguments.start_jax(args, apart=not args.dry_run)
    if parent:
      import jax

      jax.config.update('jax_platforms', 'cpu')  # the GPUs are the workers'
    _check_alone()
    with preemption.raise_when_asked():  # again: JAX's service takes the signal even on one host
      return _sweep(args, rest, configs, parent)


def _sweep(
  args: argparse.Namespace, rest: Sequence[str], configs: Sequence[ConfigDict], parent: bool
) -> int:
  from random_pruning_jax.sweep import agenda, ending, estimate, view, work, workers

  directory = pathlib.Path(args.workdir or arguments.default_workdir(args.config))
  planned = agenda.make(configs, skip_invalid=args.skip_invalid, need_data=not args.dry_run)
  jobs = agenda.shard(planned.jobs, args.shard)
  if args.dry_run:
    print(estimate.table(jobs, planned.experiments, directory, args.workers, args.retry))
    return 0
  if args.worker >= 0:
    start = args.worker * len(jobs) // args.workers  # so that each begins with another network
    work.work([*jobs[start:], *jobs[:start]], directory, _parent_lives(), args.together)
    return 0
  agenda.remember(planned.jobs, directory)
  if args.retry:
    work.forget_failures(jobs, directory)
  status = 0
  with view.View(jobs, estimate.costs(jobs, planned.experiments), directory) as seen:
    if parent:
      status = workers.run(_command(args, rest, directory), args.workers, jobs, directory)
    else:
      work.work(jobs, directory, together=args.together)
  say(f'{seen.summary()}.')
  ending.tell(jobs, directory)
  return max(status, 1 if seen.count('failed') else 0)


def _check_alone() -> None:
  import jax

  if jax.process_count() > 1:
    raise ValueError(
      f'a sweep must be in one process, got {jax.process_count()} that found each other: '
      '--num-processes=1 keeps this one alone, and --shard=I/N gives each its part.'
    )


def load_sweep(file: str, overrides: Sequence[str]) -> list[ConfigDict]:
  """The configs of `FILE` or `FILE:ARGUMENT`, each with the overrides ('--config.epochs=5').

  Raises ValueError for what is wrong in the file or the overrides.
  """
  path, _, argument = file.partition(':')
  get_sweep = config_files.function_of(path, 'get_sweep')
  found = config_files.made_by(get_sweep, path, argument)
  with config_files.located(path):
    configs = list(found)
  for i, config in enumerate(configs):
    if not isinstance(config, ConfigDict):
      raise ValueError(
        f'get_sweep() of {path} must return a list of ConfigDicts, '
        f'got a {type(found).__name__} whose item {i} is {config!r:.60}.'
      )
  if not configs or not overrides:
    return configs
  first = config_files.override(ConfigDict(configs[0].to_dict()), overrides)  # parsed once
  names = [override.partition('=')[0].removeprefix('--config.') for override in overrides]
  fields = {name: config_lib.flat(first)[name] for name in names}
  return [config_files.changed(config, fields) for config in configs]


def _share_cores(args: argparse.Namespace) -> None:
  """CPU devices and threads of a worker: all together have no more than there are cores."""
  share = max(1, processor.cores() // args.workers)
  if args.workers > 1 and not args.cpu_devices and not args.dry_run:
    args.cpu_devices = 1 << (share.bit_length() - 1)
  if args.worker >= 0:
    os.environ.setdefault('NPROC', str(share))  # XLA's threads


def _command(args: argparse.Namespace, rest: Sequence[str], directory: pathlib.Path) -> list[str]:
  return [
    'sweep',
    f'--config={args.config}',
    f'--workdir={directory}',
    f'--workers={args.workers}',
    f'--together={args.together}',
    f'--shard={args.shard}',
    f'--cpu-devices={args.cpu_devices}',
    *(['--skip-invalid'] if args.skip_invalid else []),
    *(['--num-processes=1'] if args.num_processes == 1 else []),
    *rest,
  ]


def _parent_lives() -> Callable[[], bool]:
  parent = os.getppid()
  return lambda: os.getppid() == parent
