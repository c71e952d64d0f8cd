"""The command line: `random-pruning COMMAND ...`; each command is a file in `commands/`."""

import argparse
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence

from random_pruning_jax import kernels
from random_pruning_jax.system import preemption

_PIPE_CLOSED = 141  # as shells say that SIGPIPE ended a process
_LOOP_CLOSED = 'Event loop is closed'  # as asyncio says it
COMMANDS = {
  'train': 'train the network of a config, and measure it',
  'evaluate': 'measure a checkpoint of one run or of several',
  'sweep': 'train every config of a sweep, on one GPU or several',
  'report': 'tables, figures and a page of finished runs',
  'compare': 'what two runs differ in: configs, numbers, masks, learning curves',
  'plan': 'what pruning does to a network, layer by layer, before it trains',
  'footprint': 'memory and FLOPs of a training step, compiled for chips that need not be here',
  'verify': 'check that a trained checkpoint is sparse as planned',
  'export': 'write a trained network to a file: small, for PyTorch, or as a program',
  'inspect': 'what an exported file holds, and what it would cost to run',
  'predict': 'classes and probabilities of images, from an exported file',
  'benchmark-input': 'measure how fast training images arrive',
  'prepare': 'prepare a data set: one that is downloaded, or a folder of images',
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; errors that a person can mend are one line, and exit status 2.

  Without `argv` it reads the process's own command line, and may change what the process prints.
  """
  own_argv = argv is None
  argv = [_hyphened(argument) for argument in (sys.argv[1:] if own_argv else argv)]
  # By themselves: argparse takes one whose value has a space in it for the name of a run or file.
  overrides = [argument for argument in argv if argument.startswith('--config.')]
  others = [argument for argument in argv if argument not in overrides]
  args, rest = _parser(argv).parse_known_args(others)
  rest = overrides + rest
  if own_argv and not args.traceback:
    sys.unraisablehook = _say_unraisable
  if own_argv and sys.stdout and sys.stdout.errors == 'strict':
    # A file's name may hold what the terminal's encoding lacks; the command goes on.
    sys.stdout.reconfigure(errors='backslashreplace')
  if rest and not getattr(args, 'takes_config', False):
    return _refuse(f'unknown argument {rest[0]}; see random-pruning {args.command} --help.')
  try:
    status = args.run(args, rest) or 0
    print(end='', flush=True)  # here, where a closed pipe is caught; stdout may be None
    return status
  except (ValueError, OSError) as error:
    if own_argv and isinstance(error, BrokenPipeError) and _nobody_reads():
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return _PIPE_CLOSED
    if args.traceback:
      raise
    return _refuse(str(error))
  except (RuntimeError, AssertionError) as error:
    why = _of_backend(error) or _of_kernels(error)
    if args.traceback or not why:
      raise
    return _refuse(why)
  except ArithmeticError as error:
    print(f'random-pruning: {error}', file=sys.stderr)
    return 1
  except preemption.Preempted as stop:
    print(f'random-pruning: {stop}; the same command goes on.', file=sys.stderr)
    return preemption.EXIT_STATUS
  except KeyboardInterrupt:
    message = 'give the same command again.'
    if args.command in ('train', 'sweep'):
      message = 'the same command goes on from the last checkpoint, if there is one.'
    elif args.command == 'evaluate':
      message = 'rows of suites that ended are kept; the same command measures all again.'
    print(f'random-pruning: interrupted; {message}', file=sys.stderr)
    return 130


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='random-pruning',
    description='Train randomly pruned networks from scratch, and measure them.',
  )
  parser.add_argument(
    '--traceback', action='store_true', help='show where in the code an error came from'
  )
  commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
  asked = next((argument for argument in argv if not argument.startswith('-')), '')
  for name, what in COMMANDS.items():
    command = commands.add_parser(name, help=what, description=what)
    if name == asked:  # others are not imported: an answer should not wait for JAX
      module = importlib.import_module(f'random_pruning_jax.commands.{name.replace("-", "_")}')
      module.add_arguments(command)
      command.set_defaults(run=module.run)
  return parser


def _hyphened(argument: str) -> str:
  """--data_dir=DIR is --data-dir=DIR; names in --config.FIELD=VALUE stay as they are."""
  name, equals, value = argument.partition('=')
  if not name.startswith('--') or name.startswith('--config'):
    return argument
  return f'{name.replace("_", "-")}{equals}{value}'


def _say_unraisable(found: 'sys.UnraisableHookArgs') -> None:
  """Prints all but what TensorStore's threads say, six lines each, after a failed read or write."""
  if not isinstance(found.exc_value, RuntimeError) or str(found.exc_value) != _LOOP_CLOSED:
    sys.__unraisablehook__(found)


def _nobody_reads() -> bool:
  """Whether stdout is a pipe whose reader has left, as `head` does when it has enough."""
  ends = select.poll()
  ends.register(sys.stdout.fileno(), 0)
  return any(event & (select.POLLERR | select.POLLHUP) for _, event in ends.poll(0))


def _of_backend(error: Exception) -> str:
  """What a person can do where JAX finds none of the devices that it was told to use, or ''."""
  raised_in = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-1]
  if os.path.basename(raised_in) != 'xla_bridge.py':
    return ''
  asked = os.environ.get('JAX_PLATFORMS', '')
  # JAX says nothing about CUDA if the system shows no GPU.
  why = str(error) or 'JAX sees none here, or has no plugin for it that loads'
  return f'no device of JAX_PLATFORMS={asked!r}: {why}'


def _of_kernels(error: Exception) -> str:
  found = kernels.LACKING in str(error)
  return f'{error}; {kernels.INSTALL}, or uninstall numba: it goes on without.' if found else ''


def _refuse(message: str) -> int:
  print(f'random-pruning: {message}', file=sys.stderr)
  return 2
