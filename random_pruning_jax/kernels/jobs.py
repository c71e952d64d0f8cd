"""Kinds of jobs by name, as machine code: made here, or in the background by another process.

A kind is, for example, ('dense', 8, 16): `functions(8, 16)` of `dense_jobs`. Compiling one takes
seconds, most of them in Python: a thread would hold up the others, a process takes another core.
"""

import atexit
import contextlib
import functools
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable

from llvmlite import binding

from random_pruning_jax.kernels import objects
from random_pruning_jax.system import lock

Kind = tuple[str | int, ...]
PATIENCE = 300  # seconds for a process, which may wait for others that make the same
_processes: dict[Kind, subprocess.Popen] = {}  # which make a kind for this process
_ending = threading.Event()


def target(kind: Kind) -> str:
  """The name by which XLA knows this kind."""
  return '_'.join(map(str, ('random_pruning_jax', *kind)))


def stored(kind: Kind) -> bool:
  """Whether there is machine code that an earlier process made."""
  return objects.stored(target(kind)) and objects.stored(_helper(kind))


def begin(*kinds: Kind) -> None:
  """Starts a process that makes the kinds that are not stored, where a process can be started.

  It leaves the code in the user's cache, and ends by itself or with this process. It has a session
  of its own, so an interrupt of this process, as in a notebook, does not end it.
  """
  lacking = [kind for kind in kinds if kind not in _processes and not stored(kind)]
  bundled = getattr(sys, 'frozen', False)  # then sys.executable is not Python
  if not lacking or bundled or not sys.executable or not objects.writable():
    return
  words = ['-'.join(map(str, kind)) for kind in lacking]
  command = [sys.executable, '-m', 'random_pruning_jax.kernels.jobs', *words]
  silent = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.DEVNULL)
  with contextlib.suppress(OSError):
    process = subprocess.Popen(command, start_new_session=True, **silent)
    atexit.register(_end, process)
    _processes.update(dict.fromkeys(lacking, process))


def begun(kind: Kind) -> bool:
  """Whether a process was started to make this kind."""
  return kind in _processes


def wait(say: Callable[[str], None]) -> None:
  """Returns when all processes that were begun have ended; says what it waits for, if it does."""
  running = {process for process in _processes.values() if process.poll() is None}
  if running:
    say('compiling kernels for this processor, once')
  for process in running:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(PATIENCE)


def finish(kind: Kind) -> int:
  """The address of the handler of its calls: waits for the process, or makes what that did not.

  Raises RuntimeError where this process ends first.
  """
  process = _processes[kind]
  try:
    process.wait(PATIENCE)
  except subprocess.TimeoutExpired:
    process.kill()
  if _ending.is_set():
    raise RuntimeError('the process ends')
  return make(kind)


def _end(process):
  _ending.set()
  process.kill()


def make(kind: Kind) -> int:
  """The address of the handler of its calls, whose code is read from disk or compiled."""

  @functools.cache
  def compiled():
    name, *numbers = kind
    return importlib.import_module(f'random_pruning_jax.kernels.{name}_jobs').functions(*numbers)

  def helper():
    from random_pruning_jax.kernels import handler

    return handler.helper(compiled())

  def whole():
    from random_pruning_jax.kernels import handler

    return handler.handler(compiled(), _helper(kind))

  # The handler knows its helper by name, since addresses differ between processes.
  binding.add_symbol(_helper(kind), objects.address(_helper(kind), helper))
  return objects.address(target(kind), whole)


def _helper(kind: Kind) -> str:
  return f'{target(kind)}_helper'


def main(words: list[str]) -> None:
  """Makes kinds like 'dense-8-16'; one process at a time, so that the next finds what is made."""
  with contextlib.ExitStack() as inside:
    with contextlib.suppress(ImportError, OSError):
      inside.enter_context(lock.alone(objects.folder()))
    for word in words:
      name, *numbers = word.split('-')
      make((name, *map(int, numbers)))


if __name__ == '__main__':
  main(sys.argv[1:])
