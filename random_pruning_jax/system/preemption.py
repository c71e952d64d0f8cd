"""Being asked to stop: SIGTERM, as a scheduler sends it before it takes the machine away.

A run that is asked saves after the call of steps under way and ends by `Preempted`, whose exit
status tells a launcher that the same command goes on.
"""

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
ASKED = 'asked to stop (SIGTERM)'
# Each question to JAX's service bears a number, counted over all that a process trains. Once
# signalled, the service stops all processes at one number that is still to come. So nobody else may
# ask it with numbers of their own, as Orbax does with steps: see `checkpoint_manager`.
_questions = itertools.count(1)


class Preempted(KeyboardInterrupt):
  """The process was asked to stop; what it was doing is saved. Like Ctrl-C, no Exception."""


class Watch:
  """Notes SIGTERM between entering and leaving, instead of dying of it.

  On several hosts JAX's own service takes the signal, and `asked` is True on all of them after the
  same step, whichever of them was signalled.
  """

  def __init__(self) -> None:
    self._asked = False
    self._before: Any = None
    self._alone = _alone()
    self._own = self._alone and threading.current_thread() is threading.main_thread()

  def __enter__(self) -> 'Watch':
    if self._own:
      self._before = signal.signal(signal.SIGTERM, self._note)
      self._asked |= isinstance(self._before, _Stop) and self._before.asked
    return self

  def __exit__(self, *_: Any) -> None:
    if self._own:
      signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
      if isinstance(self._before, _Stop):  # whatever error leaves here, and whoever drops it
        self._before.asked |= self._asked

  def asked(self) -> bool:
    """Whether to stop after this call; to be asked after every one, on every host."""
    return self._asked if self._alone else _asked_together()

  def _note(self, *_: Any) -> None:
    self._asked = True


class _Stop:
  """A handler that raises `Preempted` and remembers that: the code it interrupts may turn it into
  another error, as a module being imported does, or drop it, as a destructor does."""

  asked = False

  def __call__(self, *_: Any) -> None:
    self.asked = True
    raise Preempted(ASKED)


@contextlib.contextmanager
def raise_when_asked() -> Iterator[None]:
  """SIGTERM raises `Preempted` inside, where no `Watch` waits for the end of a step.

  JAX need not have been imported. Once JAX joins several hosts, its service takes the signal.
  """
  if not _alone():
    yield
    return
  stop = _Stop()
  before = signal.signal(signal.SIGTERM, stop)
  joined = False
  try:
    yield
    joined = not _alone()
  except Exception as error:
    if stop.asked:
      raise Preempted(ASKED) from error
    raise
  finally:
    if not joined:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def check() -> None:
  """Raises `Preempted` on all of several hosts if any was asked to stop; to be called on all.

  For places where hosts may stop although no call ends. A host that is alone is stopped by
  `raise_when_asked`, and here if another error hid that.
  """
  handler = signal.getsignal(signal.SIGTERM)
  hidden = isinstance(handler, _Stop) and handler.asked
  if hidden or (not _alone() and _asked_together()):
    raise Preempted(ASKED)


def _asked_together() -> bool:
  from jax.experimental import multihost_utils

  return multihost_utils.reached_preemption_sync_point(next(_questions))


def _alone() -> bool:
  jax = sys.modules.get('jax')  # without importing or starting JAX too early
  return jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1
