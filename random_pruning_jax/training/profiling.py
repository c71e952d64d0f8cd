"""A trace of some steps of a run, for TensorBoard's profile page or ui.perfetto.dev."""

import os
import pathlib
from typing import Any

import jax

FOLDER = 'profile'  # in the workdir


def span(text: str) -> tuple[int, int]:
  """First and last step of 'START:STOP'. Raises ValueError for anything else."""
  first, colon, last = text.partition(':')
  if not (colon and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
    raise ValueError(f'--profile must be START:STOP, two steps that rise from 1, got {text!r}.')
  return int(first), int(last)


class Trace:
  """Traces steps `first` to `last`, both included, into `workdir/profile`; nothing without them."""

  def __init__(self, workdir: str | os.PathLike, steps: tuple[int, int] | None):
    # Only the first process traces: JAX looks for one trace, and all share the workdir.
    self._steps = steps if jax.process_index() == 0 else None
    self._folder = pathlib.Path(workdir) / FOLDER
    self._running = False

  def __enter__(self) -> 'Trace':
    return self

  def __exit__(self, *_: Any) -> None:
    self._stop()

  def before(self, step: int) -> None:
    """To be called before the step is dispatched."""
    if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
      jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
      self._running = True

  def after(self, step: int, outputs: Any) -> None:
    """To be called with what the step returned, which is waited for after the last."""
    if self._running and step >= self._steps[1]:
      jax.block_until_ready(outputs)
      self._stop()

  def _stop(self) -> None:
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
